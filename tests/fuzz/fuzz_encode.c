/* A text, by a tokenizer that its first byte chooses: ids of the vocabulary; decoded they are the text again, with U+FFFD for what is not
 * UTF-8, where the tokenizer changes nothing. */
#include "text/utf8.h"

#include "tokenizers.h"

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
    int *ids;
    size_t length = (size_t)(in.end - in.at), count, decoded, used = 0;
    char *text = malloc(length > 0 ? length : 1); /* of exactly its length */
    CHECK(text != NULL, "no memory");
    if (length > 0) memcpy(text, in.at, length);
    CHECK(text_encode(t->tokenizer, text, length, first & 128, &ids, &count) == PLP_OK, "%s: %s", t->name, plp_last_error());
    for (size_t i = 0; i < count; i++) CHECK(text_tokenizer_token(t->tokenizer, ids[i]) != NULL, "%s: id %d", t->name, ids[i]);
    char *back = decode_both_ways(t->tokenizer, ids, count, false, &decoded);
    if (t->exact && !(first & 128)) {
        text_buffer want = { 0 };
        CHECK(text_utf8_repair(text, length, true, &want, &used) == PLP_OK, "%s", plp_last_error());
        CHECK(decoded == want.used && (decoded == 0 || memcmp(back, want.data, decoded) == 0), "%s: '%.*s' came back as '%s'", t->name,
              (int)want.used, want.data, back);
        free(want.data);
    }
    free(back);
    free(ids);
    free(text);
    return 0;
}
