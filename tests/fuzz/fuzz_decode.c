/* Ids, two bytes each, of any value around the vocabulary's, by a tokenizer that the first byte chooses: the text is UTF-8 and the same
 * whether it is streamed or not. */
#include "tokenizers.h"

enum { MOST = 512 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    load_tokenizers();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_input in = { data, data + bytes };
    const int first = fuzz_byte(&in);
    const fuzz_tokenizer *t = choose_tokenizer(first);
    const size_t count = (size_t)(in.end - in.at) / 2 < MOST ? (size_t)(in.end - in.at) / 2 : MOST;
    int *ids = malloc((count + 1) * sizeof *ids); /* of nearly their number */
    size_t length;
    CHECK(ids != NULL, "no memory");
    for (size_t i = 0; i < count; i++) {
        ids[i] = fuzz_byte(&in);
        ids[i] |= fuzz_byte(&in) << 8;
        if (ids[i] >= 0xff00) ids[i] = (int)((unsigned)ids[i] << 16); /* negative, and far beyond */
    }
    free(decode_both_ways(t->tokenizer, ids, count, first & 128, &length));
    free(ids);
    return 0;
}
