/* Configs of every dialect: published shapes give the published numbers of parameters, traps are seen, variants are refused by name. */
#include "base/error.h"
#include "base/log.h"
#include "model/config_attributes.h"
#include "model/config_resolve.h"
#include "model/layout.h"
#include "model/source.h"

#include "listen.h"
#include "unit_files.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static plp_status resolve(const char *text, model_config *c)
{
    json_object *root = NULL;
    const plp_status parsed = plp_json_parse(text, strlen(text), "config.json", &root);
    if (parsed != PLP_OK) fail_msg("%s: %s", text, plp_last_error());
    const plp_status st = model_config_resolve(root, "config.json", c);
    json_object_put(root);
    return st;
}

static void resolves(const char *text, model_config *c)
{
    if (resolve(text, c) != PLP_OK) fail_msg("%s: %s", text, plp_last_error());
}

static void refused(const char *text, const char *needle)
{
    model_config c;
    const plp_status st = resolve(text, &c);
    if (st != PLP_ERR_DATA || strstr(plp_last_error(), needle) == NULL || strncmp(plp_last_error(), "config.json: ", 13) != 0)
        fail_msg("%s: %s \"%s\" lacks \"%s\"", text, plp_status_name(st), plp_last_error(), needle);
}

/* ------------------------------------------------------------------------------------------------------------ real configs */
static json_object *published;

static int read_published(void **state)
{
    (void)state;
    plp_log_threshold(PLP_LOG_ERROR);
    return plp_json_read(PLP_TEST_DATA "/checkpoints/configs.json", 1 << 20, &published) == PLP_OK ? 0 : -1; /* with bare Infinity */
}
static int drop_published(void **state)
{
    (void)state;
    json_object_put(published);
    return 0;
}

static void take(const char *name, model_config *c)
{
    json_object *o = NULL;
    assert_true(json_object_object_get_ex(published, name, &o));
    if (model_config_resolve(o, name, c) != PLP_OK || model_config_check(c) != PLP_OK) fail_msg("%s: %s", name, plp_last_error());
}

static int64_t parameters(const model_config *c)
{
    int64_t sum = 0;
    for (model_band b = 0; b < MODEL_BANDS; b++) {
        int64_t rows = 0, columns = 0;
        model_band_shape(c, b, &rows, &columns);
        sum += rows * columns * (model_band_of(b)->per_layer ? c->layers : 1);
    }
    return sum;
}

/* Numbers of parameters as published. */
static void published_sizes(void **state)
{
    static const struct {
        const char *name;
        int64_t parameters, vocab, vocab_used;
    } models[] = {
        { "state-spaces/mamba2-130m", 128989632, 50288, 50277 },
        { "state-spaces/mamba2-370m", 368346624, 50288, 50277 },
        { "state-spaces/mamba2-780m", 780161280, 50288, 50277 },
        { "state-spaces/mamba2-1.3b", 1343757312, 50288, 50277 },
        { "state-spaces/mamba2-2.7b", 2702599680, 50288, 50277 },
        { "mamba2-130m-hf", 128989632, 50288, 50288 },
        { "mamba2-370m-hf", 368346624, 50288, 50288 },
        { "mamba2-780m-hf", 780161280, 50288, 50288 },
        { "mamba2-1.3b-hf", 1343757312, 50288, 50288 },
        { "mamba2-2.7b-hf", 2702599680, 50288, 50288 },
        { "mistralai/Mamba-Codestral-7B-v0.1", 7285403648, 32768, 32768 },
        { "codestral-mamba params.json", 7285403648, 32768, 32768 },
        { "state-spaces/mamba-130m", 129135360, 50280, 50277 },
        { "state-spaces/mamba-370m", 371516416, 50280, 50277 },
        { "state-spaces/mamba-790m", 793204224, 50280, 50277 },
        { "state-spaces/mamba-1.4b", 1372178432, 50280, 50277 },
        { "state-spaces/mamba-2.8b", 2768345600, 50280, 50277 },
        { "state-spaces/mamba-130m-hf", 129135360, 50280, 50280 },
        { "state-spaces/mamba-370m-hf", 371516416, 50280, 50280 },
        { "state-spaces/mamba-790m-hf", 793204224, 50280, 50280 },
        { "state-spaces/mamba-1.4b-hf", 1372178432, 50280, 50280 },
        { "state-spaces/mamba-2.8b-hf", 2768345600, 50280, 50280 },
        { "tiiuae/falcon-mamba-7b", 7272665088, 65024, 65024 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        model_config c;
        take(models[i].name, &c);
        print_message("%s\n", models[i].name);
        assert_int_equal(parameters(&c), models[i].parameters);
        assert_int_equal(c.vocab, models[i].vocab);
        assert_int_equal(c.vocab_used, models[i].vocab_used);
        assert_true(c.dt_min == 0 && isinf(c.dt_max) && c.norm_eps == 1e-5 && c.conv == 4);
    }
}

static void fields_of_published_configs(void **state)
{
    (void)state;
    model_config c;
    take("mamba2-130m-hf", &c);
    assert_string_equal(c.family, "mamba2");
    assert_int_equal(c.kind, MODEL_MAMBA2);
    assert_int_equal(c.dt_rank, 0); /* the left-over 256 means nothing */
    assert_int_equal(c.chunk, 256);
    assert_true(c.tied && c.conv_bias && !c.proj_bias);
    take("state-spaces/mamba2-2.7b", &c);
    assert_int_equal(c.heads, 80);
    assert_int_equal(c.groups, 1);
    assert_int_equal(c.state, 128);
    assert_true(c.stops == 1 && c.stop[0] == 0);
    take("codestral-mamba params.json", &c);
    assert_string_equal(c.family, "mamba2");
    assert_int_equal(c.heads, 128);
    assert_int_equal(c.groups, 8);
    assert_int_equal(c.norm_groups, 8);
    assert_true(!c.tied && c.bos == 1 && c.stops == 1 && c.stop[0] == 2);
    take("tiiuae/falcon-mamba-7b", &c); /* expand 16, intermediate_size 8192 */
    assert_string_equal(c.family, "falcon_mamba");
    assert_int_equal(c.kind, MODEL_MAMBA1);
    assert_int_equal(c.inner, 8192);
    assert_int_equal(c.dt_rank, 256);
    assert_true(c.mixer_norm_eps == 1e-6 && c.norm_groups == 0 && c.heads == 8192 && c.head_dim == 1);
    take("state-spaces/mamba-130m", &c); /* no `layer`: Mamba-1 */
    assert_int_equal(c.kind, MODEL_MAMBA1);
    assert_int_equal(c.dt_rank, 48);
    assert_int_equal(c.state, 16);
    assert_true(c.mixer_norm_eps == 0);
}

static void hybrids_are_named(void **state)
{
    static const char *const names[][2] = { { "ibm-ai-platform/Bamba-9B", "bamba" },
                                            { "nvidia/Nemotron-H-8B-Base-8K", "nemotron_h" },
                                            { "ibm-granite/granite-4.0-h-small", "granitemoehybrid" } };
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        model_config c;
        char needle[64];
        snprintf(needle, sizeof needle, "model_type %s is a hybrid", names[i][1]);
        assert_int_equal(model_config_resolve(json_object_object_get(published, names[i][0]), "config.json", &c), PLP_ERR_DATA);
        assert_non_null(strstr(plp_last_error(), needle));
    }
    refused("{\"model_type\":\"falcon_h1\"}", "falcon_h1 is a hybrid");
    refused("{\"model_type\":\"falcon_mamba\",\"hidden_size\":8,\"num_hidden_layers\":1,\"mixer_rms_eps\":0}",
            "mixer_rms_eps: 0 is outside"); /* it would stand for no norm */
    refused("{\"model_type\":\"zamba2\"}", "zamba2 is a hybrid");
    refused("{\"model_type\":\"jamba\"}", "jamba is a hybrid");
    refused("{\"model_type\":\"llama\"}", "model_type llama; fix: one of");
}

/* --------------------------------------------------------------------------------------------------------------- one by one */
#define HF "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"head_dim\":16"
#define MS "{\"d_model\":64,\"n_layer\":2,\"vocab_size\":250"

static void limits_in_all_spellings(void **state)
{
    static const char *const infinite[] = { "Infinity", "\"Infinity\"", "{\"__float__\":\"Infinity\"}", "\"inf\"" };
    (void)state;
    model_config c;
    char text[256];
    for (size_t i = 0; i < sizeof infinite / sizeof *infinite; i++) {
        snprintf(text, sizeof text, HF ",\"time_step_limit\":[0.5,%s]}", infinite[i]);
        resolves(text, &c);
        assert_true(c.dt_min == 0.5 && isinf(c.dt_max) && c.dt_max > 0);
    }
    resolves(HF ",\"time_step_limit\":[0.02,0.1]}", &c);
    assert_true(c.dt_min == 0.02 && c.dt_max == 0.1);
    resolves(HF ",\"time_step_limit\":null}", &c);
    assert_true(c.dt_min == 0 && isinf(c.dt_max));
    resolves(MS ",\"ssm_cfg\":{\"layer\":\"Mamba2\",\"dt_limit\":[1,2]}}", &c);
    assert_true(c.dt_min == 1 && c.dt_max == 2);
    refused(HF ",\"time_step_limit\":[0.1]}", "time_step_limit");
    refused(HF ",\"time_step_limit\":[0,\"much\"]}", "time_step_limit");
    refused(HF ",\"time_step_limit\":3}", "time_step_limit");
}

static void defaults_and_missing_keys(void **state)
{
    (void)state;
    model_config c;
    resolves(HF "}", &c);
    assert_int_equal(c.vocab, 0); /* the tensor tells */
    assert_int_equal(c.inner, 128);
    assert_int_equal(c.heads, 8);
    assert_int_equal(c.groups, 8);
    assert_int_equal(c.chunk, 256);
    resolves("{\"model_type\":\"mamba\",\"hidden_size\":49,\"num_hidden_layers\":2,\"expand\":1.5,\"time_step_rank\":\"auto\"}", &c);
    assert_int_equal(c.inner, 73);
    assert_int_equal(c.dt_rank, 4);
    assert_true(c.tied);
    resolves(MS ",\"ssm_cfg\":{\"layer\":\"Mamba2\",\"rmsnorm\":false,\"d_ssm\":128,\"ngroups\":2},\"tie_embeddings\":false}", &c);
    assert_int_equal(c.norm_groups, 0);
    assert_int_equal(c.groups, 2);
    assert_int_equal(c.vocab, 256);
    assert_false(c.tied);
    refused("{}", "no config of a Mamba model");
    refused("[]", "no JSON object");
    refused("{\"d_model\":64}", "no config of a Mamba model");
    refused("{\"model_type\":\"mamba2\",\"num_hidden_layers\":2}", "hidden_size is missing");
    refused("{\"model_type\":\"mamba2\",\"hidden_size\":64}", "num_hidden_layers is missing");
    refused("{\"d_model\":64,\"n_layer\":2}", "vocab_size is missing");
    refused("{\"dim\":64,\"n_layers\":2}", "vocab_size is missing");
    refused(HF ",\"n_groups\":0}", "n_groups");
    refused(HF ",\"chunk_size\":-1}", "chunk_size");
    refused(HF ",\"head_dim\":1.5}", "head_dim");
    refused(HF ",\"state_size\":\"16\"}", "state_size");
    refused(HF ",\"conv_kernel\":99999999999}", "conv_kernel");
    refused(HF ",\"layer_norm_epsilon\":NaN}", "layer_norm_epsilon");
}

/* Mamba-2's intermediate_size is what the heads make, or nobody's, or the other way round expand is; the other kinds' is what it says. */
static void inner_widths(void **state)
{
#define IGNORED(width) "config.json: intermediate_size " width " is not used: expand * hidden_size is 128, and so is num_heads * head_dim"
    static const struct {
        const char *text;
        int64_t inner, heads;
        const char *warning; /* NULL: none */
    } rows[] = {
        { HF ",\"num_heads\":8,\"intermediate_size\":128}", 128, 8, NULL },
        { HF ",\"num_heads\":8,\"intermediate_size\":null}", 128, 8, NULL },
        { HF ",\"num_heads\":8,\"intermediate_size\":64}", 128, 8, IGNORED("64") },
        { HF ",\"num_heads\":8,\"intermediate_size\":7}", 128, 8, IGNORED("7") },
        { HF ",\"num_heads\":4,\"intermediate_size\":64}", 64, 4, NULL }, /* here expand is wrong */
        { HF ",\"num_heads\":4,\"expand\":16,\"intermediate_size\":64}", 64, 4, NULL },
        { HF ",\"num_heads\":4,\"intermediate_size\":96}", 96, 4, NULL }, /* neither fits: refused below */
        { HF ",\"intermediate_size\":64}", 64, 4, NULL },
        { "{\"model_type\":\"mamba\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_heads\":8,\"head_dim\":16,\"intermediate_size\":96}",
          96, 96, NULL },
        { "{\"model_type\":\"falcon_mamba\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_heads\":8,\"head_dim\":16,\"intermediate_"
          "size\":96}",
          96, 96, NULL },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        model_config c;
        char heard[1024];
        listen_begin();
        const plp_status st = resolve(rows[i].text, &c);
        listen_end(heard);
        if (st != PLP_OK) fail_msg("%s: %s", rows[i].text, plp_last_error());
        if (c.inner != rows[i].inner || c.heads != rows[i].heads)
            fail_msg("%s: inner %lld, heads %lld", rows[i].text, (long long)c.inner, (long long)c.heads);
        if (rows[i].warning == NULL ? *heard != 0 : strstr(heard, rows[i].warning) == NULL)
            fail_msg("%s: heard \"%s\"", rows[i].text, heard);
    }
    model_config c;
    resolves(HF ",\"num_heads\":4,\"intermediate_size\":96}", &c);
    c.vocab = c.vocab_used = 8, c.dtype = PLP_F32;
    assert_int_equal(model_config_check(&c), PLP_ERR_DATA);
    assert_non_null(strstr(plp_last_error(), "heads 4 * head_dim 16 is 64, inner is 96"));
    refused(HF ",\"num_heads\":8,\"intermediate_size\":0}", "intermediate_size");
}

static void variants_are_refused(void **state)
{
    (void)state;
    refused(HF ",\"hidden_act\":\"gelu\"}", "hidden_act gelu");
    refused(MS ",\"rms_norm\":false}", "LayerNorm");
    refused(MS ",\"d_intermediate\":128}", "d_intermediate");
    refused(MS ",\"attn_layer_idx\":[1]}", "attn_layer_idx");
    refused(MS ",\"ssm_cfg\":{\"layer\":\"Mamba3\"}}", "Mamba3");
    refused(MS ",\"ssm_cfg\":{\"layer\":\"Mamba2\",\"D_has_hdim\":true}}", "D_has_hdim");
    refused(MS ",\"ssm_cfg\":{\"layer\":\"Mamba2\",\"norm_before_gate\":true}}", "norm_before_gate");
    refused(MS ",\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_ssm\":64}}", "d_ssm");
    refused(MS ",\"ssm_cfg\":[]}", "ssm_cfg");
    model_config c;
    resolves(HF ",\"norm_before_gate\":true,\"time_step_rank\":\"x\"}", &c); /* Hugging Face's class reads neither */
}

static void rules_between_fields(void **state)
{
    (void)state;
    model_config good;
    take("mamba2-130m-hf", &good);
#define BREAK(assignment, needle)                                                                                                          \
    do {                                                                                                                                   \
        model_config c = good;                                                                                                             \
        assignment;                                                                                                                        \
        assert_int_equal(model_config_check(&c), PLP_ERR_DATA);                                                                            \
        if (strstr(plp_last_error(), needle) == NULL) fail_msg("\"%s\" lacks \"%s\"", plp_last_error(), needle);                           \
    } while (0)
    BREAK(c.hidden = 0, "hidden 0");
    BREAK(c.layers = 1 << 20, "layers 1048576");
    BREAK(c.inner = 1500, "heads 24 * head_dim 64 is 1536, inner is 1500");
    BREAK(c.groups = 5, "heads 24 and groups 5");
    BREAK(c.chunk = 0, "chunk 0");
    BREAK(c.conv = 9, "conv 9 is outside 2 to 8"); /* what kernels have room for */
    BREAK(c.conv = 1, "conv 1 is outside 2 to 8"); /* no window, no state to keep */
    BREAK(c.vocab = INT64_MAX, "vocab");
    BREAK(c.vocab_used = c.vocab + 1, "vocab_used 50289 and vocab 50288");
    BREAK(c.norm_eps = NAN, "norm_eps");
    BREAK(c.norm_eps = 0, "norm_eps");
    BREAK(c.mixer_norm_eps = NAN, "mixer_norm_eps");
    BREAK((c.mixer_norm_weights = true, c.mixer_norm_eps = 1e-6), "mixer_norm_weights 1: only Mamba-1");
    BREAK(c.dt_min = NAN, "limits of dt");
    BREAK((c.dt_min = 2, c.dt_max = 1), "limits of dt, 2 and 1");
    BREAK(c.dt_min = c.dt_max = INFINITY, "limits of dt");
    BREAK(c.norm_groups = 2, "norm_groups 2 and groups 1");
    BREAK(c.stops = 9, "9 stop ids");
    BREAK((c.stops = 1, c.stop[0] = 50288), "stop token id 50288");
    BREAK(c.bos = -2, "bos token id -2");
    BREAK(c.kind = (model_kind)7, "kind 7");
    BREAK(c.dtype = (plp_dtype)9, "dtype 9");
    take("state-spaces/mamba-130m", &good);
    BREAK(c.dt_rank = 0, "dt_rank 0");
    BREAK(c.mixer_norm_weights = true, "mixer_norm_eps 0: norms");
    BREAK((c.groups = 2, c.norm_groups = 0), "groups 2");
}

/* ----------------------------------------------------------------------------------------------------------------- ids, files */

/* NULL: no such file. */
static void put(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
    if (text == NULL) return;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static plp_status ids(const char *config, const char *generation, const char *tokens, const char *tokenizer, model_config *c)
{
    json_object *root = NULL;
    put("generation_config.json", generation);
    put("tokenizer_config.json", tokens);
    assert_int_equal(plp_json_parse(config, strlen(config), "config.json", &root), PLP_OK);
    assert_int_equal(model_config_resolve(root, "config.json", c), PLP_OK);
    c->vocab = 300;
    const plp_status st = model_config_resolve_ids(c, root, "config.json", dir, tokenizer, tokenizer ? strlen(tokenizer) : 0);
    json_object_put(root);
    return st;
}

static void ids_come_from_the_first_that_tells(void **state)
{
    static const char tokenizer[] = "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\"},{\"id\":2,\"content\":\"</s>\"}],"
                                    "\"model\":{\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"z\":270}}}";
    (void)state;
    model_config c;
    assert_int_equal(ids(HF ",\"eos_token_id\":5,\"bos_token_id\":4,\"pad_token_id\":null}", NULL, NULL, NULL, &c), PLP_OK);
    assert_true(c.stops == 1 && c.stop[0] == 5 && c.bos == 4 && c.pad == -1 && c.vocab_used == 300);
    assert_int_equal(ids(HF ",\"eos_token_id\":5}", "{\"eos_token_id\":[7,8]}", "{\"eos_token\":\"</s>\"}", tokenizer, &c), PLP_OK);
    assert_true(c.stops == 2 && c.stop[0] == 7 && c.stop[1] == 8 && c.vocab_used == 271);
    assert_int_equal(ids(HF ",\"eos_token_id\":5}", "{\"eos_token_id\":5,\"_from_model_config\":true}",
                         "{\"eos_token\":{\"content\":\"</s>\"}}", tokenizer, &c),
                     PLP_OK);
    assert_true(c.stops == 1 && c.stop[0] == 2);
    /* What transformers writes when somebody has changed model.generation_config: the mark stays, the ids are not config.json's. */
    assert_int_equal(ids(HF ",\"eos_token_id\":5}", "{\"eos_token_id\":[7,9],\"_from_model_config\":true}",
                         "{\"eos_token\":{\"content\":\"</s>\"}}", tokenizer, &c),
                     PLP_OK);
    assert_true(c.stops == 2 && c.stop[0] == 7 && c.stop[1] == 9);
    assert_int_equal(ids(HF "}", "{\"eos_token_id\":9,\"_from_model_config\":true}", NULL, NULL, &c), PLP_OK);
    assert_true(c.stops == 1 && c.stop[0] == 9);
    assert_int_equal(ids(HF "}", NULL, "{\"eos_token\":\"</s>\",\"added_tokens_decoder\":{\"2\":{\"content\":\"</s>\"}}}", NULL, &c),
                     PLP_OK);
    assert_true(c.stops == 1 && c.stop[0] == 2);
    assert_int_equal(ids(HF "}", NULL, NULL, "{\"model\":{\"vocab\":{\"a\":9223372036854775807}}}", &c), PLP_ERR_DATA);
    assert_int_equal(ids(HF "}", NULL, NULL, "{\"added_tokens\":[{\"id\":9223372036854775807}]}", &c), PLP_ERR_DATA);
    assert_int_equal(ids(HF "}", NULL, NULL, tokenizer, &c), PLP_OK);
    assert_true(c.stops == 1 && c.stop[0] == 2); /* what such a token is usually called */
    assert_int_equal(ids(HF ",\"bos_token_id\":271,\"pad_token_id\":270}", NULL, NULL, tokenizer, &c), PLP_OK);
    assert_true(c.vocab_used == 271 && c.bos == -1 && c.pad == 270); /* no request may begin with 271 */
    assert_int_equal(ids(HF "}", NULL, NULL, NULL, &c), PLP_OK);
    assert_int_equal(c.stops, 0);
    /* Codestral's trap: 0 everywhere, which is <unk> */
    assert_int_equal(ids(HF ",\"eos_token_id\":0,\"bos_token_id\":0}", NULL, NULL, tokenizer, &c), PLP_OK);
    assert_true(c.stops == 1 && c.stop[0] == 2);
    assert_int_equal(
        ids(HF ",\"eos_token_id\":0,\"bos_token_id\":0}", NULL, "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}", tokenizer, &c), PLP_OK);
    assert_true(c.stops == 1 && c.stop[0] == 2 && c.bos == 1);
    /* padding rows are never emitted */
    assert_int_equal(ids(MS "}", NULL, NULL, NULL, &c), PLP_OK);
    assert_true(c.vocab_used == 250 && c.stops == 1 && c.stop[0] == 0);
    assert_int_equal(ids(MS "}", NULL, NULL, "{\"model\":{\"vocab\":{\"a\":248}}}", &c), PLP_OK);
    assert_int_equal(c.vocab_used, 249);
    assert_int_equal(ids(MS "}", NULL, NULL, "{\"model\":{\"vocab\":{\"a\":300}}}", &c), PLP_ERR_DATA);
    assert_non_null(strstr(plp_last_error(), "ids up to 300, the embedding has 300 rows"));
    assert_int_equal(ids(HF ",\"eos_token_id\":\"2\"}", NULL, NULL, NULL, &c), PLP_ERR_DATA);
    assert_int_equal(ids(HF ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", NULL, NULL, NULL, &c), PLP_ERR_DATA);
    assert_int_equal(ids(HF "}", "{\"eos_token_id\":", NULL, NULL, &c), PLP_ERR_DATA);
    /* Which file, and where it is. */
    static const struct {
        const char *generation, *tokens, *tokenizer, *file, *message;
    } bad[] = {
        { "{\"eos_token_id\":[1,99999]}", NULL, NULL, "generation_config.json", "eos_token_id 99999, the vocabulary has 300 rows; fix: " },
        { "{\"eos_token_id\":-1}", NULL, NULL, "generation_config.json", "eos_token_id -1, the vocabulary has 300 rows; fix: " },
        { NULL, "{\"eos_token\":\"e\",\"added_tokens_decoder\":{\"300\":{\"content\":\"e\"}}}", NULL, "tokenizer_config.json",
          "eos_token_id 300, the vocabulary has 300 rows; fix: " },
        { "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", NULL, NULL, "generation_config.json",
          "eos_token_id: 9 ids, at most 8 are kept; fix: " },
        { "{\"_from_model_config\":1}", NULL, NULL, "generation_config.json", "_from_model_config: 1 is not true or false; fix: " },
        { NULL, "", NULL, "tokenizer_config.json", "byte 0: unexpected end of data; fix: " },
        { NULL, NULL, "x", "tokenizer.json", "byte 0: unexpected character; fix: " },
        { NULL, NULL, "{\"model\":{\"vocab\":{\"a\":300}}}", "tokenizer.json", "ids up to 300, the embedding has 300 rows; fix: " },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char want[512];
        assert_int_equal(ids(HF ",\"eos_token_id\":5}", bad[i].generation, bad[i].tokens, bad[i].tokenizer, &c), PLP_ERR_DATA);
        snprintf(want, sizeof want, "%s/%s: %s", dir, bad[i].file, bad[i].message);
        if (strstr(plp_last_error(), want) == NULL) fail_msg("\"%s\" lacks \"%s\"", plp_last_error(), want);
    }
}

static void attributes_give_the_config_back(void **state)
{
    static const char *const names[] = { "mistralai/Mamba-Codestral-7B-v0.1", "tiiuae/falcon-mamba-7b", "state-spaces/mamba-130m" };
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        io_model_writer *w = NULL;
        io_model_file *f = NULL;
        const float value = 1;
        model_config c, back;
        take(names[i], &c);
        c.dtype = PLP_BF16, c.stops = 3, c.stop[0] = 2, c.stop[1] = 11, c.stop[2] = 7, c.dt_min = 0.1 + 0.2;
        if (i == 1) c.stops = 0;
        if (i == 2) c.mixer_norm_weights = true, c.mixer_norm_eps = 3e-5;
        snprintf(path, sizeof path, "%s/%zu.h5", dir, i);
        assert_int_equal(io_model_create(&w, path, false), PLP_OK);
        assert_int_equal(model_config_write(w, &c), PLP_OK);
        assert_int_equal(io_model_begin(w, "/x", PLP_F32, 1, &(int64_t){ 1 }, NULL, NULL), PLP_OK);
        assert_int_equal(io_model_append(w, &value, 1), PLP_OK);
        assert_int_equal(io_model_end(w), PLP_OK);
        assert_int_equal(io_model_finish(&w), PLP_OK);
        assert_int_equal(io_model_open(&f, path), PLP_OK);
        memset(&back, 0xee, sizeof back);
        if (model_config_read(f, &back) != PLP_OK) fail_msg("%s", plp_last_error());
        int64_t weights = -1; /* not in a file of a model without: its digest is that of files from before there were any */
        assert_int_equal(io_model_get_int(f, "mixer_norm_weights", &weights), PLP_OK);
        assert_int_equal(weights, i == 2 ? 1 : -1);
        io_model_close(&f);
        assert_string_equal(back.family, c.family);
        for (int s = 0; s < c.stops; s++) assert_int_equal(back.stop[s], c.stop[s]);
        /* the rest field by field, for padding bytes may differ */
        assert_true(back.kind == c.kind && back.dtype == c.dtype && back.stops == c.stops && back.tied == c.tied);
        assert_true(back.proj_bias == c.proj_bias && back.conv_bias == c.conv_bias && back.bos == c.bos && back.pad == c.pad);
        assert_memory_equal(&back.hidden, &c.hidden, offsetof(model_config, norm_eps) - offsetof(model_config, hidden));
        assert_true(back.norm_eps == c.norm_eps && back.dt_min == c.dt_min && back.dt_max == c.dt_max);
        assert_true(back.mixer_norm_eps == c.mixer_norm_eps && back.norm_groups == c.norm_groups);
        assert_true(back.mixer_norm_weights == c.mixer_norm_weights);
    }
}

static void places_in_a_model_file(void **state)
{
    (void)state;
    model_config c;
    char path[IO_NAME];
    int64_t shape[IO_RANK];
    take("mistralai/Mamba-Codestral-7B-v0.1", &c);
    model_layout_path(MODEL_IN_Z, 3, path);
    assert_string_equal(path, "/layers/003/in_proj/z/weight");
    model_layout_path(MODEL_EMBED, 3, path);
    assert_string_equal(path, "/embedding/weight");
    assert_int_equal(model_layout_shape(&c, MODEL_OUT_PROJ, shape), 3);
    assert_true(shape[0] == 128 && shape[1] == 4096 && shape[2] == 64);
    assert_int_equal(model_layout_shape(&c, MODEL_CONV_B, shape), 2);
    assert_true(shape[0] == 1024 && shape[1] == 4);
    assert_int_equal(model_layout_shape(&c, MODEL_A_LOG, shape), 1);
    assert_int_equal(model_layout_shape(&c, MODEL_X_PROJ, shape), 0);
    take("tiiuae/falcon-mamba-7b", &c);
    assert_int_equal(model_layout_shape(&c, MODEL_X_PROJ, shape), 3);
    assert_true(shape[0] == 128 && shape[1] == 288 && shape[2] == 64);
    assert_int_equal(model_layout_shape(&c, MODEL_A_LOG, shape), 2);
    c.inner = 96; /* the largest power of two up to 64 that divides it */
    assert_int_equal(model_layout_block(&c), 32);
    c.inner = 9;
    assert_int_equal(model_layout_block(&c), 1);
}

/* A file is not there only where it can be looked for. */
static void paths_that_are_too_long(void **state)
{
    (void)state;
    char deep[4081];
    model_config c;
    json_object *root = NULL;
    put("generation_config.json", "{\"eos_token_id\":7}");
    size_t n = (size_t)snprintf(deep, sizeof deep, "%s", dir);
    for (; n + 2 < sizeof deep; n += 2) memcpy(deep + n, "/.", 3);
    assert_int_equal(plp_json_parse(HF "}", strlen(HF "}"), "config.json", &root), PLP_OK);
    assert_int_equal(model_config_resolve(root, "config.json", &c), PLP_OK);
    c.vocab = 300;
    assert_int_equal(model_config_resolve_ids(&c, root, "config.json", deep, NULL, 0), PLP_ERR_USAGE);
    assert_non_null(strstr(plp_last_error(), "a path of more than 4095 bytes"));
    json_object_put(root);
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_sizes),          cmocka_unit_test(fields_of_published_configs), cmocka_unit_test(hybrids_are_named),
        cmocka_unit_test(limits_in_all_spellings),  cmocka_unit_test(defaults_and_missing_keys),   cmocka_unit_test(inner_widths),
        cmocka_unit_test(variants_are_refused),     cmocka_unit_test(rules_between_fields),        cmocka_unit_test(places_in_a_model_file),
        IN_DIR(ids_come_from_the_first_that_tells), IN_DIR(attributes_give_the_config_back),       IN_DIR(paths_that_are_too_long),
    };
    return cmocka_run_group_tests(tests, read_published, drop_published);
}
