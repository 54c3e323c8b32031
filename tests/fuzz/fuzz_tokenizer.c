/* tokenizer.json: one that is read encodes a text into its own ids, which decode to a text. */
#include "tokenizers.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char text[] = " a<s>ab  B\xc3\xa9\xff 12!";
    fuzz_input in = { data, data + bytes };
    size_t length, count, decoded;
    char *json = fuzz_part(&in, 0xff, &length);
    text_tokenizer *t;
    int *ids;
    if (fuzz_answer(text_tokenizer_create(&t, json, length, "t.json"))) {
        CHECK(text_tokenizer_vocab(t) > 0, "no vocabulary");
        if (fuzz_answer(text_encode(t, text, sizeof text - 1, true, &ids, &count))) {
            for (size_t i = 0; i < count; i++)
                CHECK(ids[i] >= 0 && ids[i] < text_tokenizer_vocab(t) && text_tokenizer_token(t, ids[i]) != NULL, "id %d", ids[i]);
            free(decode_both_ways(t, ids, count, true, &decoded));
        }
        free(ids);
    }
    text_tokenizer_destroy(&t);
    free(json);
    return 0;
}
