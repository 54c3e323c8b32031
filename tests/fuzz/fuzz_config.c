/* config.json, 0xff, tokenizer.json: what of a model's sizes is accepted can be shared out and planned with no number overflowing. */
#include "model/config_resolve.h"
#include "model/plan.h"

#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

static plp_status resolve(model_config *c, json_object *root, const char *tokenizer, size_t bytes)
{
    PLP_TRY(model_config_resolve(root, "config.json", c));
    if (c->vocab == 0) c->vocab = 256; /* what the tensors would say */
    c->mixer_norm_weights = c->kind == MODEL_MAMBA1 && c->conv_bias;
    PLP_TRY(model_config_resolve_mixer_norms(c, root, "config.json"));
    PLP_TRY(model_config_resolve_ids(c, root, "config.json", "no/such/directory", bytes > 0 ? tokenizer : NULL, bytes));
    return model_config_check(c);
}

static void plan(const model_config *c)
{
    for (int size = 1; size <= 5; size += 2) {
        int64_t channels = 0, vocab = 0;
        for (int rank = 0; rank < size; rank++) {
            model_plan p;
            if (!fuzz_answer(model_plan_make(&p, c, rank, size))) return;
            channels += p.channels.count, vocab += p.vocab.count;
            CHECK(p.in_rows > 0 && p.conv_channels > 0, "rank %d of %d", rank, size);
            CHECK(model_plan_weights(&p, c, PLP_BF16) > 0 && model_plan_ssm_state(&p, c, PLP_F32) > 0, "rank %d of %d", rank, size);
            model_plan_conv_state(&p, c, PLP_F32);
        }
        CHECK(channels == c->inner && vocab == c->vocab, "%d ranks", size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    size_t length, tokenizer_bytes;
    fuzz_input in = { data, data + bytes };
    char *text = fuzz_part(&in, 0xff, &length), *tokenizer = fuzz_part(&in, 0xff, &tokenizer_bytes);
    json_object *root = NULL;
    model_config c;
    if (fuzz_answer(plp_json_parse(text, length, "config.json", &root)) && fuzz_answer(resolve(&c, root, tokenizer, tokenizer_bytes)))
        plan(&c);
    json_object_put(root);
    free(text);
    free(tokenizer);
    return 0;
}
