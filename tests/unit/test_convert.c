/* Conversion: the layout on disk, pieces of any size, what is refused, and what a killed conversion leaves.  That the values are those of
 * the checkpoint, band by band, is tested in test_source. */
#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint.h"
#include "io/model_file.h"
#include "model/source.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/tmp/plp-convert-XXXXXX", target[64], other[64], part[64];

static void convert_to(const char *from, const char *to, int64_t piece_bytes)
{
    const model_convert_options options = { .replace = true, .piece_bytes = piece_bytes };
    if (model_convert(from, to, &options) != PLP_OK) fail_msg("%s: %s", from, plp_last_error());
}

static size_t slurp(const char *from, char **data)
{
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    const size_t n = (size_t)ftell(f);
    rewind(f);
    *data = calloc(n + 1, 1);
    assert_int_equal(fread(*data, 1, n, f), n);
    fclose(f);
    return n;
}

static bool exists(const char *name)
{
    struct stat info;
    return lstat(name, &info) == 0;
}

static void assert_message(const char *words)
{
    if (strstr(plp_last_error(), words) == NULL) fail_msg("\"%s\" is not in \"%s\"", words, plp_last_error());
}

/* One unit at a time, some, or all: the same file, byte for byte. */
static void pieces_do_not_show(void **state)
{
    (void)state;
    static const char *const models[] = { "mamba2-g2-h6", "falcon-mamba", "mamba1-norms" };
    for (int i = 0; i < 3; i++) {
        char from[512], *want, *got;
        snprintf(from, sizeof from, PLP_TEST_DATA "/fixtures/%s", models[i]);
        convert_to(from, target, 0);
        const size_t n = slurp(target, &want);
        for (int64_t piece = 1; piece < 20000; piece = piece * 7 + 3) {
            convert_to(from, other, piece);
            assert_int_equal(slurp(other, &got), n);
            assert_memory_equal(got, want, n);
            free(got);
        }
        free(want);
    }
}

/* Element (row, column) of the checkpoint's out_proj is (column / block, row, column % block) of the dataset. */
static void columns_are_stored_in_blocks(void **state)
{
    (void)state;
    io_checkpoint *c = NULL;
    io_model_file *f = NULL;
    convert_to(PLP_TEST_DATA "/fixtures/mamba2-g2-h6", target, 0);
    assert_int_equal(io_checkpoint_open(&c, PLP_TEST_DATA "/fixtures/mamba2-g2-h6"), PLP_OK);
    assert_int_equal(io_model_open(&f, target), PLP_OK);
    int64_t head_dim = 0;
    assert_int_equal(io_model_get_int(f, "head_dim", &head_dim), PLP_OK);
    const io_tensor *from = io_checkpoint_find(c, "backbone.layers.1.mixer.out_proj.weight");
    const io_tensor *to = io_model_find(f, "/layers/001/out_proj/weight");
    assert_non_null(from);
    assert_non_null(to);
    const int64_t rows = from->shape[0], columns = from->shape[1], size = (int64_t)plp_dtype_size(from->dtype);
    assert_int_equal(to->dtype, from->dtype);
    assert_int_equal(to->rank, 3);
    assert_int_equal(to->shape[0], columns / head_dim);
    assert_int_equal(to->shape[1], rows);
    assert_int_equal(to->shape[2], head_dim);
    char *matrix = malloc((size_t)(rows * columns * size)), *blocks = malloc((size_t)(rows * columns * size));
    memset(blocks, 0x5a, (size_t)(rows * columns * size));
    assert_int_equal(io_checkpoint_read(c, from, 0, rows * columns, matrix), PLP_OK);
    assert_int_equal(io_model_read(f, to, 0, rows * columns, blocks), PLP_OK);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < columns; k++) {
            const char *want = matrix + (r * columns + k) * size;
            const char *got = blocks + ((k / head_dim * rows + r) * head_dim + k % head_dim) * size;
            assert_memory_equal(got, want, (size_t)size);
        }
    free(blocks);
    free(matrix);
    io_model_close(&f);
    io_checkpoint_close(&c);
}

/* Payloads lie in the file as ranks read them: layer after layer. */
static void layers_lie_in_order(void **state)
{
    (void)state;
    io_model_file *f = NULL;
    convert_to(PLP_DEMO, target, 0);
    assert_int_equal(io_model_open(&f, target), PLP_OK);
    uint64_t first = 0, last = io_model_find(f, "/embedding/weight")->offset;
    for (int64_t layer = 0;; layer++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "/layers/%03d/", (int)layer);
        uint64_t low = UINT64_MAX, high = 0;
        for (int64_t i = 0; i < io_model_tensors(f); i++) {
            const io_tensor *t = io_model_tensor(f, i);
            if (strncmp(t->name, prefix, strlen(prefix)) != 0) continue;
            if (t->bytes < 65536) continue; /* small payloads fill gaps */
            if (t->offset < low) low = t->offset;
            if (t->offset > high) high = t->offset;
            assert_int_equal(t->offset % 4096, 0);
        }
        if (high == 0) break;
        assert_true(low > last);
        first = low, last = high;
    }
    assert_true(first > 0);
    io_model_close(&f);
}

/* A copy of the smallest checkpoint with other bits at one element of one tensor. */
static void copy_with(const char *name, int64_t element, const void *bits)
{
    io_checkpoint *c = NULL;
    char from[512], to[64], *data;
    snprintf(from, sizeof from, "cp -r %s/fixtures/mamba2-g2-h6/. %s/copy && chmod -R u+w %s/copy", PLP_TEST_DATA, directory, directory);
    snprintf(to, sizeof to, "%s/copy", directory);
    mkdir(to, 0755);
    assert_int_equal(system(from), 0);
    assert_int_equal(io_checkpoint_open(&c, to), PLP_OK);
    const io_tensor *t = io_checkpoint_find(c, name);
    assert_non_null(t);
    snprintf(from, sizeof from, "%s/model.safetensors", to);
    const size_t size = plp_dtype_size(t->dtype), at = (size_t)t->offset + (size_t)element * size;
    const size_t n = slurp(from, &data);
    memcpy(data + at, bits, size);
    FILE *f = fopen(from, "wb");
    assert_non_null(f);
    fwrite(data, 1, n, f);
    fclose(f);
    free(data);
    io_checkpoint_close(&c);
}

static void values_that_are_not_finite(void **state)
{
    (void)state;
    char copy[64], words[160];
    io_checkpoint *c = NULL;
    const int64_t pieces[] = { 0, 1, 300 };
    assert_int_equal(io_checkpoint_open(&c, PLP_TEST_DATA "/fixtures/mamba2-g2-h6"), PLP_OK);
    const io_tensor *out = io_checkpoint_find(c, "backbone.layers.1.mixer.out_proj.weight");
    const io_tensor *embedding = io_checkpoint_find(c, "backbone.embeddings.weight");
    assert_non_null(out);
    assert_non_null(embedding);
    const int64_t columns = out->shape[1], at = 5 * columns + columns - 3, last = io_tensor_count(embedding) - 1;
    const plp_dtype dtype = out->dtype;
    snprintf(copy, sizeof copy, "%s/copy", directory);
    float bad = NAN;
    char bits[4];
    plp_convert(bits, dtype, &bad, PLP_F32, 1);
    copy_with("backbone.layers.1.mixer.out_proj.weight", at, bits);
    snprintf(words, sizeof words, "/layers/001/out_proj/weight: element %lld (row 5, column %lld)", (long long)at, (long long)columns - 3);
    for (int i = 0; i < 3; i++) {
        const model_convert_options options = { .replace = true, .check_finite = true, .piece_bytes = pieces[i] };
        unlink(target);
        assert_int_equal(model_convert(copy, target, &options), PLP_ERR_DATA);
        assert_message(words);
        assert_false(exists(target));
        assert_false(exists(part));
    }
    convert_to(copy, target, 0); /* unless it is asked for, nothing is looked at */
    bad = -INFINITY;
    plp_convert(bits, dtype, &bad, PLP_F32, 1);
    copy_with("backbone.embeddings.weight", last, bits);
    snprintf(words, sizeof words, "/embedding/weight: element %lld ", (long long)last);
    assert_int_equal(model_convert(copy, target, &(model_convert_options){ .replace = true, .check_finite = true }), PLP_ERR_DATA);
    assert_message(words);
    assert_int_equal(
        model_convert(PLP_TEST_DATA "/fixtures/mamba2-g2-h6", target, &(model_convert_options){ .replace = true, .check_finite = true }),
        PLP_OK); /* control */
    io_checkpoint_close(&c);
}

static void options_and_refusals(void **state)
{
    (void)state;
    model_source *s = NULL;
    unlink(target);
    assert_int_equal(model_convert(PLP_TEST_DATA "/fixtures/mamba2-g8", target, &(model_convert_options){ .source.full_norm = true }),
                     PLP_OK);
    assert_int_equal(model_source_open(&s, target, NULL), PLP_OK);
    assert_int_equal(model_source_config(s)->norm_groups, 1);
    model_source_close(&s);
    char *before, *after;
    const size_t n = slurp(target, &before);
    assert_int_equal(model_convert(PLP_TEST_DATA "/fixtures/mamba2-g8", target, NULL), PLP_ERR_CREATE);
    assert_message("exists");
    assert_int_equal(model_convert("/nonexistent/checkpoint", target, &(model_convert_options){ .replace = true }), PLP_ERR_INPUT);
    assert_int_equal(slurp(target, &after), n);
    assert_memory_equal(after, before, n);
    free(after);
    free(before);
    assert_false(exists(part));
    assert_int_equal(model_convert(PLP_DEMO, "/nonexistent/x.h5", NULL), PLP_ERR_CREATE);
}

/* Opens, and every block of it has its checksum. */
static bool is_complete(const char *name)
{
    io_model_file *f = NULL;
    bool good = io_model_open(&f, name) == PLP_OK;
    for (int64_t i = 0; good && i < io_model_tensors(f); i++) {
        const io_tensor *t = io_model_tensor(f, i);
        char *data = malloc(t->bytes);
        good = io_model_read(f, t, 0, io_tensor_count(t), data) == PLP_OK;
        free(data);
    }
    io_model_close(&f);
    return good;
}

/* A conversion that is killed leaves no file of the name, and does not stop the next one. */
static void killed_conversions(void **state)
{
    (void)state;
    int killed = 0;
    srand(17);
    for (int i = 0; i < 25; i++) {
        unlink(target);
        fflush(NULL);
        const pid_t pid = fork();
        if (pid == 0) {
            model_convert(PLP_DEMO, target, &(model_convert_options){ .piece_bytes = 1 << 16 });
            _exit(0);
        }
        usleep((useconds_t)(rand() % 60000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        killed += WIFSIGNALED(status);
        if (exists(target)) assert_true(is_complete(target)); /* it was done */
        io_model_file *f = NULL;
        if (exists(part) && io_model_open(&f, part) == PLP_OK) { /* it was done but for the name */
            io_model_close(&f);
            assert_true(is_complete(part));
        }
    }
    assert_true(killed > 0);
    unlink(target);
    assert_int_equal(model_convert(PLP_DEMO, target, NULL), PLP_OK);
    assert_false(exists(part));
}

static void disk_full(void **state)
{
    (void)state;
    for (rlim_t most = 1000; most < 2000000; most = most * 2 + 7) {
        unlink(target);
        fflush(NULL);
        const pid_t pid = fork();
        if (pid == 0) {
            const struct rlimit limit = { most, most };
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &limit);
            _exit(model_convert(PLP_DEMO, target, NULL) == PLP_ERR_IO && strstr(plp_last_error(), "free space") ? 0 : 1);
        }
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        assert_false(exists(target));
        assert_false(exists(part));
    }
}

/* The model that the program in docs/file-format.md writes is a whole one. */
static void the_documents_model_opens(void **state)
{
    (void)state;
    char command[2048];
    snprintf(command, sizeof command,
             "for p in python3 /usr/bin/python3; do $p -c 'import h5py, numpy' 2>/dev/null && "
             "exec $p %s/../cli/file_format.py write %s %s/../../docs/file-format.md; done; exit 77",
             PLP_TEST_DATA, other, PLP_TEST_DATA);
    const int status = system(command);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) skip(); /* no h5py */
    assert_int_equal(WEXITSTATUS(status), 0);
    model_source *s = NULL;
    if (model_source_open(&s, other, NULL) != PLP_OK) fail_msg("%s", plp_last_error());
    float conv[4] = { NAN, NAN, NAN, NAN };
    assert_int_equal(model_source_config(s)->layers, 2);
    assert_true(isinf(model_source_config(s)->dt_max));
    assert_string_equal(model_source_config_text(s), "{\"model_type\": \"mamba2\"}");
    assert_int_equal(model_source_read(s, MODEL_CONV_B, 1, 3, 1, conv, PLP_F32), PLP_OK);
    for (int i = 0; i < 4; i++) assert_true(fabsf(conv[i]) < 1.f);
    model_source_close(&s);
    convert_to(other, target, 0); /* a model file may be converted too: it is packed anew */
}

static int set_up(void **state)
{
    (void)state;
    plp_log_threshold(PLP_LOG_ERROR);
    if (mkdtemp(directory) == NULL) return -1;
    snprintf(target, sizeof target, "%s/model.h5", directory);
    snprintf(part, sizeof part, "%s/model.h5.part", directory);
    snprintf(other, sizeof other, "%s/other.h5", directory);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_show),
        cmocka_unit_test(columns_are_stored_in_blocks),
        cmocka_unit_test(layers_lie_in_order),
        cmocka_unit_test(values_that_are_not_finite),
        cmocka_unit_test(options_and_refusals),
        cmocka_unit_test(killed_conversions),
        cmocka_unit_test(disk_full),
        cmocka_unit_test(the_documents_model_opens),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
