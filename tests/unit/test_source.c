/* Weights by band: every band of every test checkpoint against digests recorded with the reference reader (tools/record_checkpoints.py), from
 * the directory and from the model file converted from it; then the same weights under other names, tied, broken, in other dtypes. */
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/sha256.h"
#include "io/tensor.h"
#include "model/source.h"

#include "listen.h"
#include "unit_files.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------- directories, and noise */

static void in_dir(const char *name, char path[512]) { snprintf(path, 512, "%s/%s", dir, name); }

static void put(const char *name, const char *text)
{
    char path[512];
    in_dir(name, path);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static uint32_t seed;
static uint32_t noise(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}
static int64_t below(int64_t n) { return (int64_t)(noise() % (uint32_t)n); }

static plp_status open_source(model_source **s, const char *path)
{
    const plp_status st = model_source_open(s, path, NULL);
    if (st != PLP_OK) fail_msg("%s: %s", path, plp_last_error());
    return st;
}

static void open_fails(plp_status want, const char *needle)
{
    model_source *s = (void *)&s;
    const plp_status st = model_source_open(&s, dir, NULL);
    assert_null(s);
    if (st != want || strstr(plp_last_error(), needle) == NULL)
        fail_msg("%s \"%s\" lacks \"%s\"", plp_status_name(st), plp_last_error(), needle);
    if (strlen(plp_last_error()) > 400) fail_msg("too long: %s", plp_last_error());
}

/* ---------------------------------------------------------------------------------------------------------- recorded digests */
static int64_t whole(const model_source *s, model_band band, int64_t layer, float **values)
{
    int64_t rows = 0, columns = 0;
    model_band_shape(model_source_config(s), band, &rows, &columns);
    *values = malloc((size_t)(rows * columns) * sizeof **values + 1);
    const int64_t count = model_band_of(band)->by_columns ? columns : rows;
    if (model_source_read(s, band, layer, 0, count, *values, PLP_F32) != PLP_OK) fail_msg("%s", plp_last_error());
    return rows * columns;
}

static void digest_band(const model_source *s, model_band band, int64_t layer, char hex[PLP_SHA256_HEX])
{
    float *values = NULL;
    uint8_t digest[PLP_SHA256_BYTES];
    const int64_t n = whole(s, band, layer, &values);
    plp_sha256(values, (size_t)n * sizeof *values, digest);
    plp_sha256_hex(digest, hex);
    free(values);
}

/* All bands of the model are those recorded under `name`, no more and no fewer. */
static void expect_recorded(const model_source *s, const char *name)
{
    json_object *root = NULL, *bands = NULL;
    int found = 0;
    assert_int_equal(plp_json_read(PLP_TEST_DATA "/checkpoints/bands.json", 1 << 20, &root), PLP_OK);
    assert_true(json_object_object_get_ex(root, name, &bands));
    for (model_band band = 0; band < MODEL_BANDS; band++) {
        int64_t rows = 0, columns = 0;
        const model_band_info *info = model_band_of(band);
        model_band_shape(model_source_config(s), band, &rows, &columns);
        if (rows == 0) continue;
        for (int64_t layer = 0; layer < (info->per_layer ? model_source_config(s)->layers : 1); layer++, found++) {
            char key[128], hex[PLP_SHA256_HEX];
            if (info->per_layer)
                snprintf(key, sizeof key, "%lld/%s", (long long)layer, info->name);
            else
                snprintf(key, sizeof key, "%s", info->name);
            digest_band(s, band, layer, hex);
            const char *want = json_object_get_string(json_object_object_get(bands, key));
            if (want == NULL || strcmp(hex, want) != 0) fail_msg("%s: %s: %s, recorded is %s", name, key, hex, want ? want : "nothing");
        }
    }
    assert_int_equal(found, json_object_object_length(bands));
    json_object_put(root);
}

static const char *const checkpoints[][2] = {
    { "demo", PLP_DEMO },
    { "mamba2-g1", PLP_TEST_DATA "/fixtures/mamba2-g1" },
    { "mamba2-g2-h6", PLP_TEST_DATA "/fixtures/mamba2-g2-h6" },
    { "mamba2-g8", PLP_TEST_DATA "/fixtures/mamba2-g8" },
    { "mamba2-dtlimit", PLP_TEST_DATA "/fixtures/mamba2-dtlimit" },
    { "mamba1", PLP_TEST_DATA "/fixtures/mamba1" },
    { "falcon-mamba", PLP_TEST_DATA "/fixtures/falcon-mamba" },
    { "mamba1-norms", PLP_TEST_DATA "/fixtures/mamba1-norms" },
};
enum { CHECKPOINTS = sizeof checkpoints / sizeof *checkpoints };

static void convert(const char *from, char path[512])
{
    in_dir("model.h5", path);
    if (model_convert(from, path, &(model_convert_options){ .replace = true }) != PLP_OK) fail_msg("%s", plp_last_error());
}

static void bands_are_those_recorded(void **state)
{
    (void)state;
    for (int i = 0; i < CHECKPOINTS; i++) {
        model_source *s = NULL;
        open_source(&s, checkpoints[i][1]);
        expect_recorded(s, checkpoints[i][0]);
        model_source_close(&s);
        assert_null(s);
    }
}

static void model_files_give_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < CHECKPOINTS; i++) {
        char path[512];
        model_source *a = NULL, *b = NULL;
        const char *ta = NULL, *tb = NULL;
        size_t na = 0, nb = 0;
        convert(checkpoints[i][1], path);
        open_source(&a, checkpoints[i][1]);
        open_source(&b, path);
        expect_recorded(b, checkpoints[i][0]);
        const model_config *ca = model_source_config(a), *cb = model_source_config(b);
        assert_memory_equal(&ca->hidden, &cb->hidden, offsetof(model_config, tied) - offsetof(model_config, hidden));
        assert_true(ca->mixer_norm_weights == cb->mixer_norm_weights);
        assert_true(ca->dtype == cb->dtype && ca->tied == cb->tied && ca->stops == cb->stops && ca->stop[0] == cb->stop[0]);
        assert_string_equal(model_source_config_text(a), model_source_config_text(b));
        assert_int_equal(model_source_tokenizer(a, &ta, &na), PLP_OK);
        assert_int_equal(model_source_tokenizer(b, &tb, &nb), PLP_OK);
        assert_int_equal(na, nb);
        assert_int_equal(ta == NULL, i != 0);
        assert_int_equal(tb == NULL, i != 0);
        if (ta != NULL) assert_memory_equal(ta, tb, na);
        assert_int_equal(strlen(model_source_digest(a)), 64);
        assert_int_equal(strlen(model_source_digest(b)), 64);
        model_source_close(&a);
        model_source_close(&b);
        model_source_options full = { .full_norm = true };
        assert_int_equal(model_source_open(&b, path, &full), PLP_ERR_USAGE);
    }
}

static void configs_of_the_fixtures(void **state)
{
    (void)state;
    model_source *s = NULL;
    open_source(&s, checkpoints[0][1]);
    const model_config *c = model_source_config(s);
    assert_true(c->kind == MODEL_MAMBA2 && c->hidden == 256 && c->layers == 8 && c->heads == 16 && c->head_dim == 32 && c->state == 64);
    assert_true(c->vocab == 2048 && c->vocab_used == 2048 && c->tied && c->dtype == PLP_BF16 && c->chunk == 64);
    assert_true(c->stops == 1 && c->stop[0] == 0 && !c->proj_bias && c->conv_bias);
    model_source_close(&s);
    open_source(&s, checkpoints[2][1]);
    c = model_source_config(s);
    assert_true(c->proj_bias && c->conv_bias && c->heads == 6 && c->groups == 2 && c->norm_groups == 2 && !c->tied);
    model_source_close(&s);
    open_source(&s, checkpoints[4][1]);
    c = model_source_config(s);
    assert_true(!c->conv_bias && c->dt_min == 0.02 && c->dt_max == 0.1);
    model_source_close(&s);
    open_source(&s, checkpoints[6][1]);
    c = model_source_config(s);
    assert_true(c->kind == MODEL_MAMBA1 && c->mixer_norm_eps == 1e-6 && c->dt_rank == 4 && c->dtype == PLP_BF16 && c->inner == 128);
    assert_false(c->mixer_norm_weights);
    model_source_close(&s);
    open_source(&s, checkpoints[7][1]);
    c = model_source_config(s);
    assert_true(c->kind == MODEL_MAMBA1 && c->mixer_norm_weights && c->mixer_norm_eps == 1e-2 && c->norm_eps == 1e-5);
    model_source_close(&s);
    model_source_options full = { .full_norm = true };
    assert_int_equal(model_source_open(&s, checkpoints[3][1], &full), PLP_OK);
    assert_int_equal(model_source_config(s)->norm_groups, 1);
    model_source *grouped = NULL;
    open_source(&grouped, checkpoints[3][1]);
    assert_int_equal(model_source_config(grouped)->norm_groups, 8);
    assert_string_not_equal(model_source_digest(s), model_source_digest(grouped));
    model_source_close(&s);
    model_source_close(&grouped);
}

/* A process that has no file descriptor left has no damaged model. */
static void out_of_descriptors(void **state)
{
    (void)state;
    char path[512];
    struct rlimit limit;
    plp_status st[2];
    convert(checkpoints[0][1], path);
    const int next = open("/dev/null", O_RDONLY);
    assert_true(next >= 0 && close(next) == 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int i = 0; i < 2; i++) {
        model_source *s = NULL;
        const char *name = i == 0 ? path : checkpoints[0][1];
        const struct rlimit none = { .rlim_cur = (rlim_t)next, .rlim_max = limit.rlim_max };
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        st[i] = model_source_open(&s, name, NULL);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        assert_int_equal(st[i], PLP_ERR_IO);
        assert_null(s);
        assert_non_null(strstr(plp_last_error(), name));
        assert_non_null(strstr(plp_last_error(), "Too many open files; fix: raise ulimit -n"));
    }
}

/* ------------------------------------------------------------------------------------------------------------------ ranges */
/* A random range of a band, in float32 and in the stored type, is what the whole band holds there; nothing is written behind it. */
static void check_range(const model_source *s, model_band band, int64_t layer, bool from_file)
{
    const model_config *c = model_source_config(s);
    const model_band_info *info = model_band_of(band);
    const plp_dtype stored = info->matrix ? c->dtype : PLP_F32;
    int64_t rows = 0, columns = 0;
    float *all = NULL;
    model_band_shape(c, band, &rows, &columns);
    whole(s, band, layer, &all);
    const int64_t have = info->by_columns ? columns : rows, first = below(have + 1), count = below(have - first + 1);
    const int64_t r0 = info->by_columns ? 0 : first, nr = info->by_columns ? rows : count, c0 = info->by_columns ? first : 0;
    const int64_t nc = info->by_columns ? count : columns, n = nr * nc;
    for (int pass = 0; pass < 2; pass++) {
        const plp_dtype dtype = pass ? stored : PLP_F32;
        const size_t size = plp_dtype_size(dtype), guard = 16;
        unsigned char *got = malloc((size_t)n * size + guard);
        float *values = malloc((size_t)n * sizeof *values + 1);
        memset(got, 0xa5, (size_t)n * size + guard);
        const uint64_t before = model_source_bytes_read(s);
        if (model_source_read(s, band, layer, first, count, got, dtype) != PLP_OK) fail_msg("%s", plp_last_error());
        if (!from_file) assert_int_equal(model_source_bytes_read(s) - before, model_source_cost(s, band, first, count));
        for (size_t i = 0; i < guard; i++) assert_int_equal(got[(size_t)n * size + i], 0xa5);
        plp_convert(values, PLP_F32, got, dtype, (size_t)n);
        for (int64_t r = 0; r < nr; r++)
            if (memcmp(values + r * nc, all + (r0 + r) * columns + c0, (size_t)nc * sizeof *values) != 0)
                fail_msg("%s: row %lld of [%lld, +%lld)", info->name, (long long)r, (long long)first, (long long)count);
        free(values);
        free(got);
    }
    free(all);
}

static void ranges_are_parts_of_the_whole(void **state)
{
    (void)state;
    seed = 7;
    for (int i = 0; i < 2 * CHECKPOINTS; i++) {
        model_source *s = NULL;
        char path[512];
        const bool from_file = i % 2;
        if (from_file) convert(checkpoints[i / 2][1], path);
        open_source(&s, from_file ? path : checkpoints[i / 2][1]);
        model_source_threads(s, 1 + i / 2 % 3);
        for (model_band band = 0; band < MODEL_BANDS; band++) {
            int64_t rows = 0, columns = 0;
            model_band_shape(model_source_config(s), band, &rows, &columns);
            for (int round = 0; rows > 0 && round < 4; round++) check_range(s, band, below(model_source_config(s)->layers), from_file);
        }
        model_source_close(&s);
    }
}

/* What loading is held against reads every byte once, shared out to any number of parts, and leaves the check on. */
static void a_pass_reads_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        model_source *s = NULL;
        char path[512];
        uint64_t all = 0, sum = 0, part;
        if (i) convert(checkpoints[0][1], path);
        open_source(&s, i ? path : checkpoints[0][1]);
        model_source_threads(s, 1 + i);
        const uint64_t before = model_source_bytes_read(s);
        assert_int_equal(model_source_pass(s, 0, 1, &all), PLP_OK);
        assert_true(all > 0);
        assert_int_equal(model_source_bytes_read(s) - before, all);
        for (int k = 0; k < 3; k++, sum += part) assert_int_equal(model_source_pass(s, k, 3, &part), PLP_OK);
        assert_int_equal(sum, all);
        model_source_close(&s);
    }
}

static void requests_outside_are_refused(void **state)
{
    (void)state;
    model_source *s = NULL;
    float value[4];
    open_source(&s, checkpoints[6][1]); /* falcon-mamba: BF16, 2 layers, vocab 256 */
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 256, 0, value, PLP_F32), PLP_OK);
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 256, 1, value, PLP_F32), PLP_ERR_SHAPE);
    assert_non_null(strstr(plp_last_error(), "rows 256 + 1 of 256"));
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, -1, 1, value, PLP_F32), PLP_ERR_SHAPE);
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 1, INT64_MAX, value, PLP_F32), PLP_ERR_SHAPE);
    assert_int_equal(model_source_read(s, MODEL_NORM, 2, 0, 1, value, PLP_F32), PLP_ERR_SHAPE);
    assert_int_equal(model_source_read(s, MODEL_NORM, -1, 0, 1, value, PLP_F32), PLP_ERR_SHAPE);
    assert_int_equal(model_source_read(s, MODEL_IN_B, 0, 0, 1, value, PLP_F32), PLP_ERR_SHAPE);
    assert_int_equal(model_source_read(s, MODEL_IN_X, 0, 0, 1, value, PLP_F16), PLP_ERR_USAGE);
    assert_non_null(strstr(plp_last_error(), "stored as BF16, wanted as F16"));
    model_source_close(&s);
}

/* --------------------------------------------------------------------------------------------- checkpoints made for one trap each */
typedef struct {
    char name[IO_NAME];
    plp_dtype dtype;
    int rank;
    int64_t shape[IO_RANK];
    void *data;
} item;
typedef struct {
    item item[128];
    int count;
} bag;

static int64_t elements(const item *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

static void bag_free(bag *b)
{
    for (int i = 0; i < b->count; i++) free(b->item[i].data);
    b->count = 0;
}

static item *bag_find(bag *b, const char *name)
{
    for (int i = 0; i < b->count; i++)
        if (strcmp(b->item[i].name, name) == 0) return &b->item[i];
    fail_msg("no %s", name);
    return NULL;
}

static item *bag_add(bag *b, const char *name, int rank, int64_t rows, int64_t columns)
{
    item *t = &b->item[b->count++];
    *t = (item){ .dtype = PLP_F32, .rank = rank, .shape = { rows, rank == 3 ? 1 : columns, columns } };
    snprintf(t->name, sizeof t->name, "%s", name);
    float *values = malloc((size_t)elements(t) * sizeof *values);
    for (int64_t i = 0; i < elements(t); i++) values[i] = (float)below(2001) / 1000 - 1;
    t->data = values;
    return t;
}

static void bag_drop(bag *b, const char *name)
{
    item *t = bag_find(b, name);
    free(t->data);
    *t = b->item[--b->count];
}

static void retype(item *t, plp_dtype dtype)
{
    void *data = malloc((size_t)elements(t) * plp_dtype_size(dtype) + 1);
    plp_convert(data, dtype, t->data, t->dtype, (size_t)elements(t));
    free(t->data);
    t->data = data;
    t->dtype = dtype;
}

static void bag_save(const bag *b, const char *name, const char *metadata)
{
    char path[512], *text = malloc(65536);
    uint64_t end = 0, n = 0;
    n += (uint64_t)sprintf(text, "{\"__metadata__\":{%s}", metadata);
    for (int i = 0; i < b->count; i++) {
        const item *t = &b->item[i];
        const uint64_t bytes = (uint64_t)elements(t) * plp_dtype_size(t->dtype);
        n += (uint64_t)sprintf(text + n, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, plp_dtype_name(t->dtype));
        for (int d = 0; d < t->rank; d++) n += (uint64_t)sprintf(text + n, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        n += (uint64_t)sprintf(text + n, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)end, (unsigned long long)(end + bytes));
        end += bytes;
    }
    text[n++] = '}';
    in_dir(name, path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < 8; i++) fputc((int)(n >> 8 * i & 255), f);
    fwrite(text, 1, n, f);
    for (int i = 0; i < b->count; i++) fwrite(b->item[i].data, plp_dtype_size(b->item[i].dtype), (size_t)elements(&b->item[i]), f);
    assert_int_equal(fclose(f), 0);
    free(text);
}

/* A Mamba-2 of 2 layers with heads of 64, 2 groups, state 128: the sizes that a params.json cannot say are the defaults. */
static void bag_make(bag *b, const char *prefix, int64_t hidden)
{
    const int64_t inner = 2 * hidden, heads = inner / 64;
    const struct {
        const char *name;
        int rank;
        int64_t rows, columns;
    } parts[] = { { "norm.weight", 1, hidden, 1 },
                  { "mixer.in_proj.weight", 2, 2 * inner + 512 + heads, hidden },
                  { "mixer.conv1d.weight", 3, inner + 512, 4 },
                  { "mixer.conv1d.bias", 1, inner + 512, 1 },
                  { "mixer.dt_bias", 1, heads, 1 },
                  { "mixer.A_log", 1, heads, 1 },
                  { "mixer.D", 1, heads, 1 },
                  { "mixer.norm.weight", 1, inner, 1 },
                  { "mixer.out_proj.weight", 2, hidden, inner } };
    char name[IO_NAME];
    seed = 99;
    b->count = 0;
    snprintf(name, sizeof name, "%sbackbone.embedding.weight", prefix);
    bag_add(b, name, 2, 48, hidden);
    snprintf(name, sizeof name, "%sbackbone.norm_f.weight", prefix);
    bag_add(b, name, 1, hidden, 1);
    snprintf(name, sizeof name, "%slm_head.weight", prefix);
    bag_add(b, name, 2, 48, hidden);
    for (int layer = 0; layer < 2; layer++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "%sbackbone.layers.%d.%s", prefix, layer, parts[i].name);
            bag_add(b, name, parts[i].rank, parts[i].rows, parts[i].columns);
        }
}
static void bag_original(bag *b, const char *prefix) { bag_make(b, prefix, 64); }

static const char params_json[] =
    "{\"dim\":64,\"n_layers\":2,\"vocab_size\":48,\"n_groups\":2,\"rms_norm\":true,\"residual_in_fp32\":true,"
    "\"fused_add_norm\":true,\"pad_vocab_size_multiple\":1,\"tie_embeddings\":false,\"model_type\":\"mamba\"}";
#define ORIGINAL(more)                                                                                                                     \
    "{\"d_model\":64,\"n_layer\":2,\"vocab_size\":45,\"pad_vocab_size_multiple\":16,\"ssm_cfg\":{\"layer\":\"Mamba2\",\"ngroups\":2" more
#define HUGGING_FACE(more) "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"vocab_size\":48,\"n_groups\":2" more "}"

/* Rows first .. of a band are the tensor's elements from `at` on. */
static void expect_values(const model_source *s, model_band band, int64_t layer, const item *t, int64_t at)
{
    float *values = NULL;
    const int64_t n = whole(s, band, layer, &values);
    assert_true(at + n <= elements(t));
    assert_memory_equal(values, (const float *)t->data + at, (size_t)n * sizeof *values);
    free(values);
}

static void original_and_codestral_names(void **state)
{
    static const char *const prefixes[] = { "", "model." };
    (void)state;
    for (int i = 0; i < 2; i++) {
        bag b;
        model_source *s = NULL;
        char name[IO_NAME];
        bag_original(&b, prefixes[i]);
        bag_save(&b, "consolidated.safetensors", "");
        put("config.json", ORIGINAL("},\"tie_embeddings\":false}"));
        if (i == 1) put("params.json", params_json);
        open_source(&s, dir);
        const model_config *c = model_source_config(s);
        assert_true(c->vocab == 48 && c->vocab_used == (i ? 48 : 45) && c->groups == 2 && !c->tied && c->stop[0] == (i ? 2 : 0));
        snprintf(name, sizeof name, "%sbackbone.layers.1.mixer.in_proj.weight", prefixes[i]);
        expect_values(s, MODEL_IN_Z, 1, bag_find(&b, name), 0);
        expect_values(s, MODEL_IN_X, 1, bag_find(&b, name), 128 * 64);
        expect_values(s, MODEL_IN_B, 1, bag_find(&b, name), 256 * 64);
        expect_values(s, MODEL_IN_C, 1, bag_find(&b, name), 512 * 64);
        expect_values(s, MODEL_IN_DT, 1, bag_find(&b, name), 768 * 64);
        snprintf(name, sizeof name, "%slm_head.weight", prefixes[i]);
        expect_values(s, MODEL_HEAD, 0, bag_find(&b, name), 0);
        snprintf(name, sizeof name, "%sbackbone.embedding.weight", prefixes[i]);
        expect_values(s, MODEL_EMBED, 0, bag_find(&b, name), 0);
        model_source_close(&s);
        bag_free(&b);
    }
}

static void dtypes_of_checkpoints(void **state)
{
    (void)state;
    bag b;
    model_source *s = NULL;
    float wide[64];
    uint16_t half[64];
    bag_original(&b, "");
    put("config.json", HUGGING_FACE(""));
    for (int i = 0; i < b.count; i++) retype(&b.item[i], PLP_F16);
    bag_save(&b, "model.safetensors", "");
    open_source(&s, dir);
    assert_int_equal(model_source_config(s)->dtype, PLP_F16);
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 1, 1, wide, PLP_F32), PLP_OK);
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 1, 1, half, PLP_F16), PLP_OK);
    for (int i = 0; i < 64; i++) assert_true(plp_f16_to_f32(half[i]) == wide[i]);
    assert_memory_equal(half, (uint16_t *)bag_find(&b, "backbone.embedding.weight")->data + 64, sizeof half);
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 1, 1, half, PLP_BF16), PLP_ERR_USAGE);
    model_source_close(&s);
    bag_add(&b, "mtp.layers.0.q_proj.weight", 2, 4, 4); /* left-overs, and what no layer has, have no say */
    bag_add(&b, "backbone.layers.2.mixer.out_proj.weight", 2, 4, 4);
    bag_add(&b, "backbone.layers.0.mixer.x_proj.weight", 2, 4, 4);
    bag_save(&b, "model.safetensors", "");
    open_source(&s, dir);
    assert_int_equal(model_source_config(s)->dtype, PLP_F16);
    model_source_close(&s);
    retype(bag_find(&b, "backbone.layers.1.mixer.out_proj.weight"), PLP_BF16); /* a mixture: float32 holds both */
    bag_save(&b, "model.safetensors", "");
    open_source(&s, dir);
    assert_int_equal(model_source_config(s)->dtype, PLP_F32);
    model_source_close(&s);
    for (int i = 0; i < b.count; i++) retype(&b.item[i], PLP_F32);
    bag_save(&b, "model.safetensors", "");
    open_source(&s, dir);
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 1, 1, wide, PLP_F32), PLP_OK);
    assert_int_equal(model_source_read(s, MODEL_EMBED, 0, 1, 1, half, PLP_BF16), PLP_OK); /* asked for: rounded */
    for (int i = 0; i < 64; i++) assert_int_equal(half[i], plp_f32_to_bf16(wide[i]));
    model_source_close(&s);
    bag_free(&b);
}

/* Matrices of several megabytes are read in pieces: cut by columns, and converted. */
static void matrices_of_many_pieces(void **state)
{
    enum { HIDDEN = 448, INNER = 2 * HIDDEN, FIRST = 70, COUNT = 33 };
    (void)state;
    bag b;
    char file[512];
    bag_make(&b, "", HIDDEN);
    bag_save(&b, "model.safetensors", "");
    put("config.json", "{\"model_type\":\"mamba2\",\"hidden_size\":448,\"num_hidden_layers\":2,\"n_groups\":2}");
    const float *out = bag_find(&b, "backbone.layers.1.mixer.out_proj.weight")->data;
    const float *in = bag_find(&b, "backbone.layers.1.mixer.in_proj.weight")->data;
    float *columns = malloc(sizeof(float) * HIDDEN * COUNT);
    uint16_t *rows = malloc(sizeof(uint16_t) * INNER * HIDDEN);
    convert(dir, file);
    for (int i = 0; i < 2; i++) {
        model_source *s = NULL;
        open_source(&s, i ? file : dir);
        model_source_threads(s, 2);
        assert_int_equal(model_source_read(s, MODEL_OUT_PROJ, 1, FIRST, COUNT, columns, PLP_F32), PLP_OK);
        for (int r = 0; r < HIDDEN; r++) assert_memory_equal(columns + r * COUNT, out + r * INNER + FIRST, COUNT * sizeof(float));
        assert_int_equal(model_source_read(s, MODEL_IN_X, 1, 0, INNER, rows, PLP_BF16), PLP_OK);
        for (int k = 0; k < INNER * HIDDEN; k++) assert_int_equal(rows[k], plp_f32_to_bf16(in[INNER * HIDDEN + k]));
        model_source_close(&s);
    }
    free(columns);
    free(rows);
    bag_free(&b);
}

static void open_and_listen(model_source **s, char heard[1024])
{
    listen_begin();
    const plp_status st = model_source_open(s, dir, NULL);
    listen_end(heard);
    if (st != PLP_OK) fail_msg("%s", plp_last_error());
}

static void expect_tied(bool tied, const char *warning)
{
    model_source *s = NULL;
    char heard[1024];
    open_and_listen(&s, heard);
    assert_int_equal(model_source_config(s)->tied, tied);
    if (warning == NULL ? *heard != 0 : strstr(heard, warning) == NULL) fail_msg("heard \"%s\"", heard);
    model_source_close(&s);
}

static void tied_heads(void **state)
{
    (void)state;
    bag b;
    bag_original(&b, "");
    const item *embedding = bag_find(&b, "backbone.embedding.weight"), *head = bag_find(&b, "lm_head.weight");
    put("config.json", HUGGING_FACE(",\"tie_word_embeddings\":true"));
    bag_save(&b, "model.safetensors", "");
    expect_tied(false, "lm_head.weight differs");
    memcpy(head->data, embedding->data, 48 * 64 * sizeof(float));
    bag_save(&b, "model.safetensors", "");
    expect_tied(true, NULL);
    put("config.json", HUGGING_FACE(",\"tie_word_embeddings\":false"));
    expect_tied(false, NULL);
    bag_drop(&b, "lm_head.weight");
    bag_save(&b, "model.safetensors", "");
    open_fails(PLP_ERR_DATA, "tensor lm_head.weight is missing, and the config says that the embedding is not the head; fix: ");
    put("config.json", ORIGINAL("},\"tie_embeddings\":false}"));
    open_fails(PLP_ERR_DATA, "tensor lm_head.weight is missing");
    put("config.json", ORIGINAL("}}"));
    expect_tied(true, NULL);
    put("config.json", HUGGING_FACE("")); /* says nothing, and means false */
    expect_tied(true, "no lm_head.weight, and the config does not say");
    put("config.json", HUGGING_FACE(",\"tie_word_embeddings\":null"));
    expect_tied(true, "no lm_head.weight, and the config does not say");
    put("config.json", HUGGING_FACE(",\"tie_word_embeddings\":false"));
    bag_save(&b, "model.safetensors", "\"lm_head.weight\":\"backbone.embedding.weight\""); /* dropped as a duplicate */
    expect_tied(true, NULL);
    put("config.json", HUGGING_FACE(",\"tie_word_embeddings\":true"));
    snprintf(bag_find(&b, "backbone.embedding.weight")->name, IO_NAME, "lm_head.weight"); /* the head's name alone was kept */
    bag_save(&b, "model.safetensors", "");
    expect_tied(true, NULL);
    put("config.json", HUGGING_FACE(",\"tie_word_embeddings\":false"));
    open_fails(PLP_ERR_DATA, "tensor backbone.embeddings.weight is missing");
    bag_free(&b);
}

/* Tools that save a part of a model put a prefix before all names, or some: the head is found wherever it is, and no other is made of it. */
static void heads_and_embeddings_by_every_name(void **state)
{
    static const char *const heads[] = { "lm_head.weight", "model.lm_head.weight" };
    static const char *const embeddings[] = { "backbone.embedding.weight", "backbone.embeddings.weight", "model.backbone.embedding.weight",
                                              "model.backbone.embeddings.weight" };
    (void)state;
    bag b;
    model_source *s = NULL;
    char heard[1024];
    put("config.json", HUGGING_FACE(",\"tie_word_embeddings\":false"));
    for (int i = 0; i < 16; i++) { /* backbone, head and embedding, each with the prefix and without */
        char name[IO_NAME];
        const char *prefix = i & 8 ? "model." : "";
        bag_original(&b, prefix);
        snprintf(name, sizeof name, "%slm_head.weight", prefix);
        item *head = bag_find(&b, name);
        snprintf(name, sizeof name, "%sbackbone.embedding.weight", prefix);
        item *embedding = bag_find(&b, name);
        snprintf(head->name, IO_NAME, "%s", heads[i & 1]);
        snprintf(embedding->name, IO_NAME, "%s", embeddings[i >> 1 & 3]);
        bag_save(&b, "model.safetensors", "");
        open_and_listen(&s, heard);
        assert_string_equal(heard, "");
        assert_false(model_source_config(s)->tied);
        expect_values(s, MODEL_HEAD, 0, head, 0);
        expect_values(s, MODEL_EMBED, 0, embedding, 0);
        model_source_close(&s);
        bag_free(&b);
    }
    bag_original(&b, "");
    item *twice[2];
    twice[0] = bag_add(&b, "model.lm_head.weight", 2, 48, 64);
    twice[1] = bag_add(&b, "model.backbone.embeddings.weight", 2, 48, 64);
    memcpy(twice[0]->data, bag_find(&b, "lm_head.weight")->data, 48 * 64 * sizeof(float));
    memcpy(twice[1]->data, bag_find(&b, "backbone.embedding.weight")->data, 48 * 64 * sizeof(float));
    bag_save(&b, "model.safetensors", "");
    open_and_listen(&s, heard);
    assert_string_equal(heard, "");
    expect_values(s, MODEL_HEAD, 0, twice[0], 0);
    model_source_close(&s);
    for (int i = 0; i < 2; i++) {
        float *value = twice[i]->data, was = *value;
        *value = was + 1;
        bag_save(&b, "model.safetensors", "");
        open_fails(PLP_ERR_DATA, i ? "tensors backbone.embedding.weight and model.backbone.embeddings.weight stand for the same, and differ"
                                   : "tensors lm_head.weight and model.lm_head.weight stand for the same, and differ");
        *value = was;
    }
    snprintf(twice[0]->name, IO_NAME, "x.lm_head.weight"); /* nobody's */
    snprintf(twice[1]->name, IO_NAME, "x.backbone.embeddings.weight");
    bag_save(&b, "model.safetensors", "");
    open_and_listen(&s, heard);
    assert_non_null(strstr(heard, "2 unknown tensors are not used: x.backbone.embeddings.weight, x.lm_head.weight"));
    model_source_close(&s);
    bag_free(&b);
}

static void broken_tensors_are_named(void **state)
{
    (void)state;
    bag b, whole_bag;
    put("config.json", HUGGING_FACE(""));
    bag_original(&whole_bag, "");
    for (int i = 0; i < whole_bag.count; i++) {
        char name[IO_NAME];
        memcpy(name, whole_bag.item[i].name, sizeof name);
        const bool head = strcmp(name, "lm_head.weight") == 0, embedding = strcmp(name, "backbone.embedding.weight") == 0;
        const bool conv_bias = strcmp(name, "backbone.layers.0.mixer.conv1d.bias") == 0; /* without layer 0's the model has none */
        bag_original(&b, "");
        bag_drop(&b, name);
        bag_save(&b, "model.safetensors", "");
        if (!head && !conv_bias) open_fails(PLP_ERR_DATA, embedding ? "backbone.embeddings.weight is missing" : name);
        bag_free(&b);
        bag_original(&b, "");
        item *t = bag_find(&b, name); /* transposed, or one row fewer */
        if (t->rank == 2)
            t->shape[0] = whole_bag.item[i].shape[1], t->shape[1] = whole_bag.item[i].shape[0];
        else
            t->shape[0]--;
        bag_save(&b, "model.safetensors", "");
        open_fails(PLP_ERR_SHAPE, name);
        bag_free(&b);
    }
    bag_original(&b, "");
    for (int i = 0; i < 2; i++) { /* a list of missing names ends somewhere */
        char name[IO_NAME];
        static const char *const parts[] = { "D", "A_log", "dt_bias", "in_proj.weight" };
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "backbone.layers.%d.mixer.%s", i, parts[k]);
            bag_drop(&b, name);
        }
    }
    bag_save(&b, "model.safetensors", "");
    open_fails(PLP_ERR_DATA, "8 tensors are missing");
    open_fails(PLP_ERR_DATA, "and 3 more");
    bag_free(&b);
    bag_free(&whole_bag);
}

static void config_and_tensors_disagree(void **state)
{
    (void)state;
    bag b;
    model_source *s = NULL;
    bag_original(&b, "");
    bag_save(&b, "model.safetensors", "");
    put("config.json", "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"vocab_size\":49,\"n_groups\":2}");
    open_fails(PLP_ERR_SHAPE, "has 48 rows, vocab_size is 49");
    put("config.json", "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"n_groups\":1}");
    open_fails(PLP_ERR_SHAPE, "in_proj.weight is [770, 64], the config makes it [2 inner + 2 groups state + heads, hidden] = [514, 64]");
    put("config.json", "{\"model_type\":\"mamba2\",\"hidden_size\":32,\"num_hidden_layers\":2,\"n_groups\":1}");
    open_fails(PLP_ERR_SHAPE, "backbone.embedding.weight is [48, 64]");
    put("config.json", HUGGING_FACE(",\"num_heads\":3"));
    open_fails(PLP_ERR_DATA, "config.json: config: heads 3 * head_dim 64 is 192, inner is 128; fix: ");
    put("config.json", HUGGING_FACE(",\"eos_token_id\":48"));
    open_fails(PLP_ERR_DATA, "config.json: eos_token_id 48, the vocabulary has 48 rows; fix: ");
    put("config.json", "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"vocab_size\":40,\"n_groups\":2}");
    open_source(&s, dir); /* padding rows, which the config does not count */
    assert_true(model_source_config(s)->vocab == 48 && model_source_config(s)->vocab_used == 40);
    model_source_close(&s);
    put("config.json", ORIGINAL(",\"rmsnorm\":false}}")); /* no gated norm: its weight is not asked for */
    for (int i = 0; i < 2; i++) bag_drop(&b, i ? "backbone.layers.1.mixer.norm.weight" : "backbone.layers.0.mixer.norm.weight");
    bag_save(&b, "model.safetensors", "");
    open_source(&s, dir);
    assert_int_equal(model_source_config(s)->norm_groups, 0);
    model_source_close(&s);
    bag_free(&b);
}

/* Biases are those of the tensors, and a config that says otherwise is heard of once. */
static void biases_by_config_and_tensors(void **state)
{
    static const struct {
        const char *config;
        bool conv, proj; /* whether the tensors are there */
        const char *warning[2];
    } rows[] = {
#define BIASES(of)    "by its config the model has biases of " of ", but there are no such tensors; it runs without"
#define NO_BIASES(of) "by its config the model has no biases of " of ", but the tensors are there; they are used"
        { HUGGING_FACE(""), true, false, { NULL, NULL } },
        { HUGGING_FACE(",\"use_conv_bias\":false"), false, false, { NULL, NULL } },
        { HUGGING_FACE(",\"use_conv_bias\":false"), true, false, { NO_BIASES("conv1d"), NULL } },
        { HUGGING_FACE(""), false, false, { BIASES("conv1d"), NULL } },
        { HUGGING_FACE(",\"use_bias\":true"), true, true, { NULL, NULL } },
        { HUGGING_FACE(",\"use_bias\":false"), true, true, { NO_BIASES("in_proj and out_proj"), NULL } },
        { HUGGING_FACE(",\"use_bias\":true"), true, false, { BIASES("in_proj and out_proj"), NULL } },
        { HUGGING_FACE(",\"use_bias\":false,\"use_conv_bias\":false"),
          true,
          true,
          { NO_BIASES("in_proj and out_proj"), NO_BIASES("conv1d") } },
        { ORIGINAL(",\"conv_bias\":false},\"tie_embeddings\":false}"), true, false, { NO_BIASES("conv1d"), NULL } },
    };
    (void)state;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        bag b;
        model_source *s = NULL;
        char name[IO_NAME], heard[1024];
        int lines = 0;
        bag_original(&b, "");
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "backbone.layers.%d.mixer.conv1d.bias", i);
            if (!rows[r].conv) bag_drop(&b, name);
            snprintf(name, sizeof name, "backbone.layers.%d.mixer.in_proj.bias", i);
            if (rows[r].proj) bag_add(&b, name, 1, 770, 1);
            snprintf(name, sizeof name, "backbone.layers.%d.mixer.out_proj.bias", i);
            if (rows[r].proj) bag_add(&b, name, 1, 64, 1);
        }
        put("config.json", rows[r].config);
        bag_save(&b, "model.safetensors", "");
        open_and_listen(&s, heard);
        assert_true(model_source_config(s)->conv_bias == rows[r].conv && model_source_config(s)->proj_bias == rows[r].proj);
        for (const char *p = heard; (p = strchr(p, '\n')) != NULL; p++) lines++;
        for (int i = 0; i < 2; i++) {
            if (rows[r].warning[i] == NULL) continue;
            if (strstr(heard, rows[r].warning[i]) == NULL) fail_msg("row %zu: heard \"%s\"", r, heard);
            lines--;
        }
        if (lines != 0) fail_msg("row %zu: heard \"%s\"", r, heard);
        model_source_close(&s);
        bag_free(&b);
    }
}

static void unknown_tensors_are_warned_of(void **state)
{
    (void)state;
    bag b;
    model_source *s = NULL;
    char heard[1024];
    bag_original(&b, "");
    put("config.json", HUGGING_FACE(",\"auto_map\":{\"AutoModel\":\"x.py\"}"));
    bag_add(&b, "backbone.layers.0.rotary_emb.inv_freq", 1, 2, 1);
    bag_add(&b, "mtp.layers.0.x", 1, 2, 1);
    bag_save(&b, "model.safetensors", "");
    open_and_listen(&s, heard);
    assert_non_null(strstr(heard, "auto_map is ignored"));
    assert_null(strstr(heard, "unknown"));
    model_source_close(&s);
    bag_add(&b, "a\\nforged\\u001b[2J line", 1, 2, 1); /* names are data: the log stays one line */
    bag_add(&b, "backbone.layers.0.norm2.weight", 1, 2, 1);
    bag_add(&b, "backbone.layers.2.norm.weight", 1, 64, 1); /* beyond the last layer */
    bag_save(&b, "model.safetensors", "");
    open_and_listen(&s, heard);
    assert_non_null(
        strstr(heard, "3 unknown tensors are not used: a?forged?[2J line, backbone.layers.0.norm2.weight, backbone.layers.2.norm.weight"));
    model_source_close(&s);
    bag_free(&b);
}

static void digest_of_directory(char digest[PLP_SHA256_HEX])
{
    model_source *s = NULL;
    assert_int_equal(model_source_open(&s, dir, NULL), PLP_OK);
    snprintf(digest, PLP_SHA256_HEX, "%s", model_source_digest(s));
    model_source_close(&s);
}

/* The weights alone are not the model: who goes on with another tokenizer, or other ends, is to be told. */
static void another_tokenizer_is_another_model(void **state)
{
    (void)state;
    static const char *const tokenizers[] = { "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1}}}",
                                              "{\"model\": {\"vocab\": {\"b\": 0, \"a\": 1}}}" };
    char digest[4][PLP_SHA256_HEX], again[PLP_SHA256_HEX];
    bag b;
    bag_original(&b, "");
    bag_save(&b, "model.safetensors", "");
    put("config.json", HUGGING_FACE(""));
    digest_of_directory(digest[0]);
    for (int i = 0; i < 2; i++) {
        put("tokenizer.json", tokenizers[i]);
        digest_of_directory(digest[1 + i]);
    }
    digest_of_directory(again);
    assert_string_equal(digest[2], again);
    put("generation_config.json", "{\"eos_token_id\": 1}");
    digest_of_directory(digest[3]);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < i; k++) assert_string_not_equal(digest[i], digest[k]);
    put("tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 1000000}}}");
    open_fails(PLP_ERR_DATA, "fix: use the tokenizer of this model");
    bag_free(&b);
}

/* As is a fine-tune: the same shapes and files, and each tensor counts. */
static void other_values_are_another_model(void **state)
{
    (void)state;
    char digest[PLP_SHA256_HEX], other[PLP_SHA256_HEX];
    bag b;
    bag_original(&b, "");
    put("config.json", HUGGING_FACE(""));
    bag_save(&b, "model.safetensors", "");
    digest_of_directory(digest);
    for (int i = 0; i < b.count; i++) {
        float *middle = (float *)b.item[i].data + elements(&b.item[i]) / 2, was = *middle;
        *middle += 0.5f;
        bag_save(&b, "model.safetensors", "");
        digest_of_directory(other);
        assert_string_not_equal(digest, other);
        *middle = was;
    }
    bag_save(&b, "model.safetensors", "");
    digest_of_directory(other);
    assert_string_equal(digest, other);
    bag_free(&b);
}

/* A Mamba-1 of 2 layers, inner 32, state 16, dt_rank 3, in which dt, B and C are normed with weights. */
static void bag_mamba1(bag *b)
{
    static const struct {
        const char *name;
        int rank;
        int64_t rows, columns;
    } parts[] = { { "norm.weight", 1, 16, 1 },
                  { "mixer.in_proj.weight", 2, 64, 16 },
                  { "mixer.conv1d.weight", 3, 32, 4 },
                  { "mixer.conv1d.bias", 1, 32, 1 },
                  { "mixer.x_proj.weight", 2, 35, 32 },
                  { "mixer.dt_proj.weight", 2, 32, 3 },
                  { "mixer.dt_proj.bias", 1, 32, 1 },
                  { "mixer.A_log", 2, 32, 16 },
                  { "mixer.D", 1, 32, 1 },
                  { "mixer.out_proj.weight", 2, 16, 32 },
                  { "mixer.dt_layernorm.weight", 1, 3, 1 },
                  { "mixer.b_layernorm.weight", 1, 16, 1 },
                  { "mixer.c_layernorm.weight", 1, 16, 1 } };
    char name[IO_NAME];
    seed = 5;
    b->count = 0;
    bag_add(b, "backbone.embeddings.weight", 2, 48, 16);
    bag_add(b, "backbone.norm_f.weight", 1, 16, 1);
    for (int layer = 0; layer < 2; layer++)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "backbone.layers.%d.%s", layer, parts[i].name);
            bag_add(b, name, parts[i].rank, parts[i].rows, parts[i].columns);
        }
}
static const struct {
    const char *name;
    model_band band;
} mixer_norms[] = { { "dt_layernorm", MODEL_DT_NORM }, { "b_layernorm", MODEL_B_NORM }, { "c_layernorm", MODEL_C_NORM } };
enum { MIXER_NORMS = 6 }; /* three in each layer */
static model_band name_mixer_norm(int i, char name[IO_NAME])
{
    snprintf(name, IO_NAME, "backbone.layers.%d.mixer.%s.weight", i / 3, mixer_norms[i % 3].name);
    return mixer_norms[i % 3].band;
}

#define MAMBA1(type, more) "{\"model_type\":\"" type "\",\"hidden_size\":16,\"num_hidden_layers\":2,\"time_step_rank\":3" more "}"

/* The tensors tell that there are weights, in every dialect; the config may tell the eps, under the name of either family. */
static void weights_of_mixer_norms(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        double eps, without; /* when there are weights; when there are none, 0: no norm */
    } rows[] = { { MAMBA1("mamba", ""), 1e-6, 0 },
                 { MAMBA1("mamba", ",\"rms_norm_eps\":0.125"), 0.125, 0 },
                 { MAMBA1("mamba", ",\"mixer_rms_eps\":0.25"), 0.25, 0 },
                 { MAMBA1("mamba", ",\"rms_norm_eps\":0.125,\"mixer_rms_eps\":0.25"), 0.25, 0 },
                 { MAMBA1("falcon_mamba", ""), 1e-6, 1e-6 },
                 { MAMBA1("falcon_mamba", ",\"mixer_rms_eps\":0.5"), 0.5, 0.5 },
                 { "{\"d_model\":16,\"n_layer\":2,\"vocab_size\":48,\"ssm_cfg\":{\"dt_rank\":3}}", 1e-6, 0 },
                 { "{\"d_model\":16,\"n_layer\":2,\"vocab_size\":48,\"ssm_cfg\":{\"dt_rank\":3},\"rms_norm_eps\":0.125}", 0.125, 0 } };
    char name[IO_NAME], path[512];
    bag with, without;
    bag_mamba1(&with);
    bag_mamba1(&without);
    for (int i = 0; i < MIXER_NORMS; i++) {
        name_mixer_norm(i, name);
        bag_drop(&without, name);
        if (i == 4) retype(bag_find(&with, name), PLP_BF16); /* as matrices may be beside them: these stay what they are */
    }
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        model_source *s = NULL;
        put("config.json", rows[r].config);
        bag_save(&without, "model.safetensors", "");
        open_source(&s, dir);
        assert_false(model_source_config(s)->mixer_norm_weights);
        assert_true(model_source_config(s)->mixer_norm_eps == rows[r].without);
        model_source_close(&s);
        bag_save(&with, "model.safetensors", "");
        convert(dir, path);
        for (int file = 0; file < 2; file++) {
            open_source(&s, file ? path : dir);
            const model_config *c = model_source_config(s);
            assert_true(c->mixer_norm_weights && c->mixer_norm_eps == rows[r].eps && c->dtype == PLP_F32);
            for (int i = 0; i < MIXER_NORMS; i++) {
                const model_band band = name_mixer_norm(i, name);
                item want = *bag_find(&with, name);
                float values[16];
                plp_convert(values, PLP_F32, want.data, want.dtype, (size_t)elements(&want));
                want.data = values;
                expect_values(s, band, i / 3, &want, 0);
            }
            model_source_close(&s);
        }
    }
    for (int i = 0; i < MIXER_NORMS; i++) { /* each counts in the digest */
        char before[PLP_SHA256_HEX], after[PLP_SHA256_HEX];
        if (i == 4) continue; /* not float32 */
        digest_of_directory(before);
        name_mixer_norm(i, name);
        *(float *)bag_find(&with, name)->data += 0.5f;
        bag_save(&with, "model.safetensors", "");
        digest_of_directory(after);
        assert_string_not_equal(before, after);
    }
    put("config.json", MAMBA1("mamba", ",\"mixer_rms_eps\":0"));
    open_fails(PLP_ERR_DATA, "mixer_norm_eps 0: norms of dt, B and C that have weights need one above 0");
    put("config.json", MAMBA1("mamba", ",\"rms_norm_eps\":\"x\""));
    open_fails(PLP_ERR_DATA, "rms_norm_eps");
    bag_free(&with);
    bag_free(&without);
}

/* One that is missing, or alone, or of another shape is named: nothing is computed without a norm that the model was trained with. */
static void mixer_norms_are_whole(void **state)
{
    (void)state;
    bag b;
    char name[IO_NAME], other[IO_NAME];
    put("config.json", MAMBA1("mamba", ""));
    for (int i = 0; i < MIXER_NORMS; i++) {
        name_mixer_norm(i, name);
        bag_mamba1(&b);
        bag_drop(&b, name);
        bag_save(&b, "model.safetensors", "");
        open_fails(PLP_ERR_DATA, "1 tensors are missing: ");
        open_fails(PLP_ERR_DATA, name);
        open_fails(PLP_ERR_DATA, "norms of dt, B and C: all three in every layer, or none in any");
        bag_free(&b);
        bag_mamba1(&b);
        for (int k = 0; k < MIXER_NORMS; k++) {
            name_mixer_norm(k, other);
            if (k != i) bag_drop(&b, other);
        }
        bag_save(&b, "model.safetensors", "");
        open_fails(PLP_ERR_DATA, "5 tensors are missing: ");
        bag_free(&b);
        for (int how = 0; how < 3; how++) {
            bag_mamba1(&b);
            item *t = bag_find(&b, name);
            const int64_t n = t->shape[0];
            if (how == 0) /* shorter, a column, a row */
                t->shape[0] = n - 1;
            else
                t->rank = 2, t->shape[0] = how == 1 ? n : 1, t->shape[1] = how == 1 ? 1 : n;
            bag_save(&b, "model.safetensors", "");
            open_fails(PLP_ERR_SHAPE, name);
            open_fails(PLP_ERR_SHAPE, i % 3 == 0 ? "the config makes it [dt_rank] = [3]" : "the config makes it [state] = [16]");
            bag_free(&b);
        }
    }
}

static void what_is_no_model(void **state)
{
    (void)state;
    model_source *s = NULL;
    char path[512];
    in_dir("nothing", path);
    assert_int_equal(model_source_open(&s, path, NULL), PLP_ERR_INPUT);
    put("text", "hello");
    in_dir("text", path);
    assert_int_equal(model_source_open(&s, path, NULL), PLP_ERR_DATA);
    assert_non_null(strstr(plp_last_error(), "neither a model file"));
    assert_int_equal(model_source_open(&s, "/dev/null", NULL), PLP_ERR_DATA);
    open_fails(PLP_ERR_INPUT, "no weights");
    bag b;
    bag_original(&b, "");
    bag_save(&b, "model.safetensors", "");
    open_fails(PLP_ERR_INPUT, "config.json");
    put("config.json", "{");
    open_fails(PLP_ERR_DATA, "config.json");
    put("config.json", HUGGING_FACE(""));
    put("tokenizer.json", "{");
    open_fails(PLP_ERR_DATA, "tokenizer.json");
    bag_free(&b);
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIR(bands_are_those_recorded),
        IN_DIR(model_files_give_the_same),
        IN_DIR(configs_of_the_fixtures),
        IN_DIR(out_of_descriptors),
        IN_DIR(ranges_are_parts_of_the_whole),
        IN_DIR(a_pass_reads_all),
        IN_DIR(requests_outside_are_refused),
        IN_DIR(original_and_codestral_names),
        IN_DIR(dtypes_of_checkpoints),
        IN_DIR(matrices_of_many_pieces),
        IN_DIR(tied_heads),
        IN_DIR(heads_and_embeddings_by_every_name),
        IN_DIR(broken_tensors_are_named),
        IN_DIR(config_and_tensors_disagree),
        IN_DIR(biases_by_config_and_tensors),
        IN_DIR(unknown_tensors_are_warned_of),
        IN_DIR(another_tokenizer_is_another_model),
        IN_DIR(other_values_are_another_model),
        IN_DIR(weights_of_mixer_norms),
        IN_DIR(mixer_norms_are_whole),
        IN_DIR(what_is_no_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
