/* src/text/vocab.h -- tokens by their text: an open hash table over one block of characters. */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include "text/buffer.h"

#include <stdint.h>

typedef struct {
    text_buffer names; /* every token, each with a NUL behind it */
    struct text_vocab_slot {
        size_t name; /* where in `names` */
        uint32_t length;
        int id; /* -1: empty */
    } * slots;
    size_t mask; /* slots - 1, a power of two - 1 */
} text_vocab;

uint64_t text_hash(const char *bytes, size_t length);

/* Room for `tokens` of them.  PLP_ERR_MEMORY. */
plp_status text_vocab_create(text_vocab *v, size_t tokens);
void text_vocab_destroy(text_vocab *v);
/* The token must not be in it yet. */
plp_status text_vocab_add(text_vocab *v, const char *token, size_t length, int id);
/* -1 where it is not in it. */
int text_vocab_find(const text_vocab *v, const char *token, size_t length);

#endif
