/* src/text/added.h -- added tokens: found in the text before anything else is done to it, in two passes.
 *
 * First those that are matched against the raw text, then, in what is left and normalised, those with "normalized": true.  A match is the
 * leftmost, and of those the longest. */
#ifndef TEXT_ADDED_H
#define TEXT_ADDED_H

#include "text/normalize.h"
#include "text/pieces.h"
#include "text/vocab.h"

#include <json-c/json.h>
#include <stdbool.h>

typedef struct {
    int id;
    bool single_word, lstrip, rstrip, normalized, special;
    char *content; /* as tokenizer.json spells it; NUL-terminated */
    size_t length;
    char *form; /* what is looked for, and what it decodes to: the content, normalised where `normalized` says so */
    size_t form_length;
} text_added_token;

typedef struct text_added text_added;

/* list: the member "added_tokens"; NULL, none.  PLP_ERR_DATA where an id is also another token's, or the vocabulary has the token under
 * another id. */
plp_status text_added_create(text_added **a, json_object *list, const text_vocab *vocab, const text_normalizer *n, const char *where);
void text_added_destroy(text_added **a);

size_t text_added_count(const text_added *a);
const text_added_token *text_added_token_at(const text_added *a, size_t index);

/* A text, valid UTF-8, as pieces: added tokens, and normalised text between them.  Replaces what *out held. */
plp_status text_added_cut(const text_added *a, const text_normalizer *n, const char *text, size_t bytes, text_pieces *out);

#endif
