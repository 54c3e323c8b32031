/* src/text/normalize.h -- the normalizer of a tokenizer: what happens to a text before it is cut.
 *
 * NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace, and a Sequence of them. */
#ifndef TEXT_NORMALIZE_H
#define TEXT_NORMALIZE_H

#include "text/buffer.h"

#include <json-c/json.h>
#include <stdbool.h>

typedef struct text_normalizer text_normalizer;

/* component: the member "normalizer"; NULL (a JSON null) gives one that does nothing. */
plp_status text_normalizer_create(text_normalizer **n, json_object *component, const char *where);
void text_normalizer_destroy(text_normalizer **n);

/* Replaces what *out held by the normal form of a text, valid UTF-8.  *first: in, whether the text begins where the input does; out,
 * whether the first character of the result still comes from there.  May be NULL. */
plp_status text_normalize(const text_normalizer *n, const char *text, size_t bytes, bool *first, text_buffer *out);

#endif
