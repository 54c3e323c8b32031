/* src/text/split.h -- the pre-tokenizer: cuts a text into the words that byte-pair encoding works on.
 *
 * ByteLevel, Split, Digits, Punctuation, Metaspace, and a Sequence of them. */
#ifndef TEXT_SPLIT_H
#define TEXT_SPLIT_H

#include "text/pieces.h"

#include <json-c/json.h>

typedef struct text_splitter text_splitter;

/* component: the member "pre_tokenizer"; NULL (a JSON null) gives one that cuts nothing. */
plp_status text_splitter_create(text_splitter **s, json_object *component, const char *where);
void text_splitter_destroy(text_splitter **s);

/* Cuts the pieces, which it replaces. */
plp_status text_split(const text_splitter *s, text_pieces *pieces);

/* The prepend scheme of a Metaspace, also as files before 2024 spell it; and the character that stands for a space. */
typedef enum { TEXT_PREPEND_NEVER, TEXT_PREPEND_FIRST, TEXT_PREPEND_ALWAYS } text_prepend;
plp_status text_metaspace_read(json_object *component, const char *where, int32_t *replacement, text_prepend *prepend);

#endif
