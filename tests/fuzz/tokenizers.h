/* tests/fuzz/tokenizers.h -- the recorded tokenizers, for the targets that encode and decode. */
#ifndef FUZZ_TOKENIZERS_H
#define FUZZ_TOKENIZERS_H

#include "text/tokenizer.h"

#include "fuzz.h"

enum { TOKENIZERS = 9 };
typedef struct {
    const char *name;
    bool exact; /* what it encodes it decodes to the same bytes */
    text_tokenizer *tokenizer;
} fuzz_tokenizer;

void load_tokenizers(void);
/* By a number of the input. */
const fuzz_tokenizer *choose_tokenizer(int number);
/* A stream over the ids gives whole characters, and together what text_decode gives; the caller's to free. */
char *decode_both_ways(const text_tokenizer *t, const int *ids, size_t count, bool skip_special, size_t *bytes);

#endif
