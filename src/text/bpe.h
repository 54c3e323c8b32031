/* src/text/bpe.h -- byte-pair encoding of one word (arXiv:1508.07909), as tokenizer.json's model "BPE" has it.
 *
 * A word starts as its characters; then, of all neighbours that the table of merges holds, those of the lowest rank become one token, the
 * leftmost first, until none is left.  A heap of candidates makes that n log n, so that a word of megabytes does not stand still. */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include "text/buffer.h"
#include "text/vocab.h"

#include <json-c/json.h>

typedef struct text_bpe text_bpe;

/* model: the member "model", borrowed for the call; merges as "a b" or ["a", "b"].  PLP_ERR_DATA for another type than BPE, a dropout, an
 * affix, an id negative or past TEXT_MOST_IDS, or a merge of what is not in the vocabulary. */
plp_status text_bpe_create(text_bpe **bpe, json_object *model, const char *where);
void text_bpe_destroy(text_bpe **bpe);

const text_vocab *text_bpe_vocab(const text_bpe *bpe);
/* Appends the ids of a word, UTF-8.  Not const: words that were seen are remembered, in a bounded table. */
plp_status text_bpe_encode(text_bpe *bpe, const char *word, size_t length, text_ids *ids);

#endif
