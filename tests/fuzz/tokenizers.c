#include "tokenizers.h"

#include "base/json.h"
#include "text/utf8.h"

static fuzz_tokenizer all[TOKENIZERS] = {
    { "demo", true, NULL },           { "falcon", true, NULL },     { "tekken", true, NULL },
    { "cuts_deepseek", true, NULL },  { "llama3", false, NULL },    { "neox", false, NULL },
    { "sentencepiece", false, NULL }, { "metaspace", false, NULL }, { "splits", false, NULL },
};

void load_tokenizers(void)
{
    fuzz_silence();
    for (int i = 0; i < TOKENIZERS; i++) {
        char path[1024], *json;
        size_t bytes;
        snprintf(path, sizeof path, i == 0 ? PLP_DEMO "/tokenizer.json" : PLP_TEST_DATA "/tokenizer/%s.json", all[i].name);
        CHECK(plp_read_file(path, 1 << 24, &json, &bytes) == PLP_OK, "%s", plp_last_error());
        CHECK(text_tokenizer_create(&all[i].tokenizer, json, bytes, path) == PLP_OK, "%s", plp_last_error());
        free(json);
    }
}

const fuzz_tokenizer *choose_tokenizer(int number) { return &all[number % TOKENIZERS]; }

char *decode_both_ways(const text_tokenizer *t, const int *ids, size_t count, bool skip_special, size_t *bytes)
{
    text_stream *s;
    char *whole;
    size_t at = 0, length;
    CHECK(text_decode(t, ids, count, skip_special, &whole, bytes) == PLP_OK, "%s", plp_last_error());
    CHECK(text_stream_create(&s, t, skip_special) == PLP_OK, "%s", plp_last_error());
    for (size_t i = 0; i <= count; i++) {
        const char *piece;
        int32_t c = 0;
        CHECK((i < count ? text_stream_push(s, ids[i], &piece, &length) : text_stream_finish(s, &piece, &length)) == PLP_OK, "%s",
              plp_last_error());
        CHECK(piece[length] == 0 && length <= *bytes - at && (length == 0 || memcmp(whole + at, piece, length) == 0), "piece %zu of %zu", i,
              count);
        for (size_t k = 0; k < length;) {
            k += text_utf8_next(piece + k, length - k, &c);
            CHECK(c >= 0, "piece %zu of %zu is not UTF-8", i, count);
        }
        at += length;
    }
    CHECK(at == *bytes && whole[*bytes] == 0, "%zu bytes streamed, %zu at once", at, *bytes);
    text_stream_destroy(&s);
    return whole;
}
