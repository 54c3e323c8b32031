/* A safetensors header: two bytes of payload length, then its text.  What is accepted is JSON to another reader as well, and its tensors
 * tile the payload. */
#include "base/json.h"
#include "io/safetensors.h"

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

static void check(const io_safetensors *s, size_t header, uint64_t payload)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < s->tensors; i++) {
        const io_tensor *t = &s->tensor[i];
        CHECK(i == 0 || strcmp(t[-1].name, t->name) < 0, "%s behind %s", t->name, t[-1].name);
        CHECK(t->rank >= 0 && t->rank <= IO_RANK && t->offset >= 8 + header && t->offset + t->bytes <= 8 + header + payload, "%s", t->name);
        CHECK((uint64_t)io_tensor_count(t) * plp_dtype_size(t->dtype) == t->bytes, "%s", t->name);
        sum += t->bytes;
        for (int64_t k = 0; k < i && s->tensors < 64; k++) /* they do not overlap */
            CHECK(t->bytes == 0 || s->tensor[k].bytes == 0 || t->offset >= s->tensor[k].offset + s->tensor[k].bytes ||
                      s->tensor[k].offset >= t->offset + t->bytes,
                  "%s and %s", t->name, s->tensor[k].name);
    }
    CHECK(sum == payload, "%llu bytes of %llu", (unsigned long long)sum, (unsigned long long)payload);
    for (int64_t i = 0; i < s->pairs; i++) {
        CHECK(strlen(s->metadata[i].key) + strlen(s->metadata[i].value) < header, "a pair beyond the header");
        CHECK(i == 0 || strcmp(s->metadata[i - 1].key, s->metadata[i].key) < 0, "keys out of order");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    io_safetensors s;
    fuzz_input in = { data, data + bytes };
    const uint64_t payload = (uint64_t)fuzz_byte(&in) | (uint64_t)fuzz_byte(&in) << 8;
    size_t header = (size_t)(in.end - in.at);
    char *text = malloc(header > 0 ? header : 1), *kept = malloc(header > 0 ? header : 1);
    CHECK(text != NULL && kept != NULL, "no memory");
    if (header > 0) memcpy(text, in.at, header), memcpy(kept, in.at, header);
    if (fuzz_answer(io_safetensors_parse(&s, text, header, 8 + header + payload, "x"))) {
        CHECK(plp_json_check(kept, header, "x") == PLP_OK, "no JSON: %s", plp_last_error());
        check(&s, header, payload);
    }
    io_safetensors_free(&s);
    free(text);
    free(kept);
    return 0;
}
