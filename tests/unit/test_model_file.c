/* Model files: what is written comes back, nothing else opens, every damaged bit is found, and no failure leaves a file behind. */
#include "io/model_file.h"

#include "base/error.h"
#include "profile_edits.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------------ a sample file */
enum { TENSORS = 5 };
static const struct {
    const char *name;
    plp_dtype dtype;
    int rank;
    int64_t shape[IO_RANK];
} sample[TENSORS] = { /* sorted by name; around the edges of a block */
                      { "/embedding/weight", PLP_BF16, 2, { 1030, 1021 } },
                      { "/final_norm/weight", PLP_F32, 1, { 1 } },
                      { "/layers/000/A_log", PLP_F32, 1, { IO_BLOCK / 4 } },
                      { "/layers/000/out_proj/weight", PLP_F16, 3, { 3, 700, 256 } },
                      { "/layers/001/norm/weight", PLP_F32, 1, { IO_BLOCK / 4 + 1 } }
};
static const char config_text[] = "{\"model_type\": \"mamba2\"}", tokenizer[] = "{\"model\": {\"type\": \"BPE\"}}";
static uint8_t *payload[TENSORS];
static int64_t counts[TENSORS];
static char directory[] = "/tmp/plp-model-file-XXXXXX", path[128], other[128];

static size_t bytes_of(int i) { return (size_t)counts[i] * plp_dtype_size(sample[i].dtype); }

static void make_payloads(void)
{
    srand(11);
    for (int i = 0; i < TENSORS; i++) {
        counts[i] = 1;
        for (int k = 0; k < sample[i].rank; k++) counts[i] *= sample[i].shape[k];
        payload[i] = malloc(bytes_of(i));
        for (size_t b = 0; b < bytes_of(i); b++) payload[i][b] = (uint8_t)(rand() >> 7);
    }
}

/* Calls `before(step)` ahead of every step, so that a test can stop between any two. */
static plp_status write_sample(const char *to, bool replace, void (*before)(int step))
{
    plp_status st = PLP_OK;
    io_model_writer *w = NULL;
    int step = 0;
#define STEP(call)                                                                                                                         \
    do {                                                                                                                                   \
        if (before) before(step++);                                                                                                        \
        PLP_DO(call);                                                                                                                      \
    } while (0)
    STEP(io_model_create(&w, to, replace));
    STEP(io_model_put_string(w, "family", "mamba2"));
    STEP(io_model_put_string(w, "empty", ""));
    STEP(io_model_put_int(w, "hidden", -(INT64_C(1) << 62)));
    STEP(io_model_put_ints(w, "stop", (const int64_t[]){ 0, 2, 50256 }, 3));
    STEP(io_model_put_double(w, "dt_max", INFINITY));
    STEP(io_model_put_double(w, "norm_eps", 1e-5));
    STEP(io_model_put_blob(w, "/config_text", config_text, strlen(config_text)));
    for (int n = 0; n < TENSORS; n++) {
        const int i = TENSORS - 1 - n; /* not in the order of the names */
        const size_t size = plp_dtype_size(sample[i].dtype);
        STEP(io_model_begin(w, sample[i].name, sample[i].dtype, sample[i].rank, sample[i].shape, "backbone.weight", "F32"));
        for (int64_t at = 0, take = 1; at < counts[i]; at += take, take = take * 3 + 1) { /* 1, 4, 13, ...: no piece fits a block */
            if (take > counts[i] - at) take = counts[i] - at;
            STEP(io_model_append(w, payload[i] + (size_t)at * size, take));
        }
        STEP(io_model_end(w));
    }
    STEP(io_model_put_blob(w, "/tokenizer_json", tokenizer, strlen(tokenizer)));
    STEP(io_model_finish(&w));
    if (before) before(step);
done:
    io_model_discard(&w);
    return st;
}

static size_t slurp(const char *from, uint8_t **data)
{
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    const size_t n = (size_t)ftell(f);
    rewind(f);
    *data = malloc(n + 1);
    assert_int_equal(fread(*data, 1, n, f), n);
    fclose(f);
    return n;
}

static void spill(const char *to, const uint8_t *data, size_t bytes)
{
    FILE *f = fopen(to, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static bool exists(const char *name)
{
    struct stat info;
    return lstat(name, &info) == 0;
}

static bool part_exists(const char *name)
{
    char part[160];
    snprintf(part, sizeof part, "%s.part", name);
    return exists(part);
}

static void assert_message(const char *words)
{
    if (strstr(plp_last_error(), words) == NULL) fail_msg("\"%s\" is not in \"%s\"", words, plp_last_error());
}

static void assert_refused(const char *file, plp_status status, const char *words)
{
    io_model_file *f = NULL;
    const plp_status st = io_model_open(&f, file);
    if (st == PLP_OK) fail_msg("%s was accepted; expected: %s", file, words);
    assert_null(f);
    assert_message(words);
    if (st != status) fail_msg("%s instead of %s: %s", plp_status_name(st), plp_status_name(status), plp_last_error());
}

/* How files are opened; tests that open a thousand of them for the sake of what comes behind do it here in the process. */
static plp_status (*open_model)(io_model_file **, const char *) = io_model_open;

/* OK, or the first failure of opening the file and reading all of it.  *same: what came is what was written. */
static plp_status read_sample(const char *from, bool *same)
{
    plp_status st = PLP_OK;
    io_model_file *f = NULL;
    uint8_t *got = NULL;
    *same = true;
    PLP_DO(open_model(&f, from));
    *same = io_model_tensors(f) == TENSORS;
    for (int i = 0; *same && i < TENSORS; i++) {
        const io_tensor *t = io_model_tensor(f, i);
        *same = strcmp(t->name, sample[i].name) == 0 && t->bytes == bytes_of(i) && t->dtype == sample[i].dtype;
        if (!*same) break;
        got = realloc(got, bytes_of(i));
        memset(got, 0x5a, bytes_of(i));
        PLP_DO(io_model_read(f, t, 0, counts[i], got));
        *same = memcmp(got, payload[i], bytes_of(i)) == 0;
    }
done:
    free(got);
    io_model_close(&f);
    return st;
}

static bool is_model(const char *name)
{
    bool is = true;
    assert_int_equal(io_model_is_file(name, &is), PLP_OK);
    return is;
}

/* --------------------------------------------------------------------------------------------------------------- round trip */
static void what_is_written_comes_back(void **state)
{
    (void)state;
    io_model_file *f = NULL;
    assert_int_equal(io_model_open(&f, path), PLP_OK);
    assert_true(is_model(path));
    assert_int_equal(io_model_tensors(f), TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        const io_tensor *t = io_model_tensor(f, i);
        assert_string_equal(t->name, sample[i].name);
        assert_int_equal(t->dtype, sample[i].dtype);
        assert_int_equal(t->rank, sample[i].rank);
        assert_memory_equal(t->shape, sample[i].shape, sizeof *t->shape * (size_t)t->rank);
        assert_ptr_equal(io_model_find(f, t->name), t);
    }
    assert_null(io_model_find(f, "/config_text"));
    assert_null(io_model_find(f, "/embedding"));
    const char *text = NULL;
    int64_t n = 7, list[3] = { 0 };
    int count = 0;
    double d = 0;
    assert_int_equal(io_model_get_string(f, "family", &text), PLP_OK);
    assert_string_equal(text, "mamba2");
    assert_int_equal(io_model_get_string(f, "empty", &text), PLP_OK);
    assert_string_equal(text, "");
    assert_int_equal(io_model_get_int(f, "missing", &n), PLP_OK);
    assert_int_equal(n, 7);
    assert_int_equal(io_model_get_int(f, "hidden", &n), PLP_OK);
    assert_int_equal(n, -(INT64_C(1) << 62));
    assert_int_equal(io_model_get_ints(f, "stop", list, 3, &count), PLP_OK);
    assert_int_equal(count, 3);
    assert_int_equal(list[2], 50256);
    assert_int_equal(io_model_get_ints(f, "stop", list, 2, &count), PLP_ERR_DATA);
    assert_int_equal(io_model_get_int(f, "stop", &n), PLP_ERR_DATA);
    assert_int_equal(io_model_get_int(f, "family", &n), PLP_ERR_DATA);
    assert_int_equal(io_model_get_double(f, "dt_max", &d), PLP_OK);
    assert_true(isinf(d));
    assert_int_equal(io_model_get_double(f, "norm_eps", &d), PLP_OK);
    assert_true(d == 1e-5);
    const void *blob = NULL;
    size_t bytes = 0;
    assert_int_equal(io_model_get_blob(f, "/tokenizer_json", &blob, &bytes), PLP_OK);
    assert_int_equal(bytes, strlen(tokenizer));
    assert_string_equal(blob, tokenizer);
    assert_int_equal(io_model_get_blob(f, "/nothing", &blob, &bytes), PLP_OK);
    assert_null(blob);
    io_model_close(&f);
    assert_null(f);
    bool same;
    assert_int_equal(read_sample(path, &same), PLP_OK);
    assert_true(same);
}

static void any_range_can_be_read(void **state)
{
    (void)state;
    io_model_file *f = NULL;
    assert_int_equal(io_model_open(&f, path), PLP_OK);
    uint8_t *got = malloc(bytes_of(0) + 16);
    srand(5);
    for (int i = 0; i < 600; i++) {
        const int k = rand() % TENSORS;
        const size_t size = plp_dtype_size(sample[k].dtype);
        const int64_t first = rand() % (counts[k] + 1), count = rand() % (counts[k] - first + 1);
        io_model_check(f, i % 4 != 0);
        io_model_threads(f, 1 + i % 5); /* a number without a part in common with 4 */
        memset(got, 0x5a, (size_t)count * size + 16);
        assert_int_equal(io_model_read(f, io_model_tensor(f, k), first, count, got), PLP_OK);
        assert_memory_equal(got, payload[k] + (size_t)first * size, (size_t)count * size);
        for (int j = 0; j < 16; j++) assert_int_equal(got[(size_t)count * size + (size_t)j], 0x5a);
    }
    const io_tensor *t = io_model_tensor(f, 0);
    assert_int_equal(io_model_read(f, t, -1, 1, got), PLP_ERR_SHAPE);
    assert_int_equal(io_model_read(f, t, counts[0], 1, got), PLP_ERR_SHAPE);
    assert_int_equal(io_model_read(f, t, 1, INT64_MAX, got), PLP_ERR_SHAPE);
    free(got);
    io_model_close(&f);
}

/* Small pieces in order come from the block that was checked last: nothing is read twice. */
static void small_pieces_read_the_file_once(void **state)
{
    (void)state;
    io_model_file *f = NULL;
    assert_int_equal(io_model_open(&f, path), PLP_OK);
    assert_int_equal(io_model_bytes_read(f), 0);
    uint8_t got[2 * 1021];
    for (int64_t row = 0; row < sample[0].shape[0]; row++) {
        assert_int_equal(io_model_read(f, io_model_tensor(f, 0), row * 1021, 1021, got), PLP_OK);
        assert_memory_equal(got, payload[0] + row * 2042, 2042);
    }
    assert_int_equal(io_model_bytes_read(f), bytes_of(0));
    io_model_check(f, false); /* and without checks, exactly what was asked for */
    assert_int_equal(io_model_read(f, io_model_tensor(f, 0), 5, 10, got), PLP_OK);
    assert_int_equal(io_model_bytes_read(f), bytes_of(0) + 20);
    io_model_close(&f);
}

static void same_content_same_bytes(void **state)
{
    (void)state;
    uint8_t *a, *b;
    assert_int_equal(write_sample(other, true, NULL), PLP_OK);
    const size_t n = slurp(path, &a);
    assert_int_equal(slurp(other, &b), n);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
}

/* ---------------------------------------------------------------------------------------------------------- hostile content */
static hid_t edit(void)
{
    uint8_t *data;
    const size_t n = slurp(path, &data);
    spill(other, data, n);
    free(data);
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110);
    const hid_t file = H5Fopen(other, H5F_ACC_RDWR, access);
    assert_true(file >= 0);
    H5Pclose(access);
    return file;
}

/* Edits that keep the profile; the manifest must notice. */
static void put_text_attribute(hid_t object, const char *name, const char *value)
{
    const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(value) + 1);
    if (H5Aexists(object, name) > 0) H5Adelete(object, name);
    const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (H5Awrite(attribute, type, value) < 0) abort();
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
}

static void missing_tensor(hid_t file) { H5Ldelete(file, "/layers/000/A_log", H5P_DEFAULT); }

static void missing_first(hid_t file) { H5Ldelete(file, "/config_text", H5P_DEFAULT); }

static void missing_last(hid_t file) { H5Ldelete(file, "/tokenizer_json", H5P_DEFAULT); }

static void extra_tensor(hid_t file) { add_dataset(file, H5T_IEEE_F32LE, four(), early()); }

static void extra_last(hid_t file) { H5Dclose(H5Dcreate2(file, "/zz", H5T_IEEE_F32LE, four(), H5P_DEFAULT, early(), H5P_DEFAULT)); }

static void other_shape(hid_t file)
{
    H5Ldelete(file, "/layers/000/A_log", H5P_DEFAULT);
    const hid_t space = H5Screate_simple(2, (const hsize_t[]){ 2, IO_BLOCK / 8 }, NULL);
    H5Dclose(H5Dcreate2(file, "/layers/000/A_log", H5T_IEEE_F32LE, space, H5P_DEFAULT, early(), H5P_DEFAULT));
}

/* As much as a file may say about itself, and more than a table may be long. */
static void many_attributes(hid_t file)
{
    enum { GROUPS = 20, EACH = 110, BYTES = 32000 };
    static char value[BYTES];
    memset(value, 'x', BYTES - 1);
    for (int g = 0; g < GROUPS; g++) {
        char name[16];
        snprintf(name, sizeof name, "/g%d", g);
        const hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        for (int a = 0; a < EACH; a++) {
            snprintf(name, sizeof name, "a%d", a);
            put_text_attribute(group, name, value);
        }
        H5Gclose(group);
    }
}

static void changed_text(hid_t file) { put_text_attribute(file, "family", "mamba1"); }

static void changed_int(hid_t file) { put_attribute(file, "hidden", H5T_STD_I64LE, H5Screate(H5S_SCALAR), &(int64_t){ 64 }); }

static void changed_list(hid_t file)
{
    put_attribute(file, "stop", H5T_STD_I64LE, H5Screate_simple(1, (const hsize_t[]){ 3 }, NULL), (const int64_t[]){ 0, 3, 50256 });
}

static void changed_double(hid_t file) { put_attribute(file, "norm_eps", H5T_IEEE_F64LE, H5Screate(H5S_SCALAR), &(double){ 2e-5 }); }

static void removed_attribute(hid_t file) { H5Adelete(file, "norm_eps"); }

static void added_attribute(hid_t file) { put_text_attribute(file, "note", "x"); }

static void changed_source(hid_t file)
{
    const hid_t set = H5Dopen2(file, "/embedding/weight", H5P_DEFAULT);
    put_text_attribute(set, "source", "other.weight");
    H5Dclose(set);
}

static void changed_sum(hid_t file)
{
    const hid_t set = H5Dopen2(file, "/manifest/sums", H5P_DEFAULT);
    uint32_t sums[64];
    assert_true(H5Dread(set, H5T_STD_U32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, sums) >= 0);
    sums[1] ^= 1;
    H5Dwrite(set, H5T_STD_U32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, sums);
    H5Dclose(set);
}

static void fewer_sums(hid_t file)
{
    H5Ldelete(file, "/manifest/sums", H5P_DEFAULT);
    H5Dclose(H5Dcreate2(file, "/manifest/sums", H5T_STD_U32LE, four(), H5P_DEFAULT, early(), H5P_DEFAULT));
}

static void changed_list_of_datasets(hid_t file)
{
    const hid_t set = H5Dopen2(file, "/manifest/datasets", H5P_DEFAULT);
    char text[1024] = "";
    assert_true(H5Dread(set, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0);
    memcpy(strstr(text, "BF16"), "F16 ", 4);
    H5Dwrite(set, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, text);
    H5Dclose(set);
}

static void nul_in_the_list(hid_t file)
{
    const hid_t set = H5Dopen2(file, "/manifest/datasets", H5P_DEFAULT);
    char text[1024] = "";
    H5Dread(set, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, text);
    text[strlen(text) - 1] = 0;
    H5Dwrite(set, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, text);
    H5Dclose(set);
}

static void with_manifest(hid_t file, void (*change)(hid_t))
{
    const hid_t group = H5Gopen2(file, "/manifest", H5P_DEFAULT);
    change(group);
    H5Gclose(group);
}
static void other_digest(hid_t group) { put_text_attribute(group, "sha256", "0123"); }
static void no_digest(hid_t group) { H5Adelete(group, "sha256"); }
static void other_checksum(hid_t group) { put_text_attribute(group, "checksum", "xxh3"); }
static void other_block(hid_t group) { put_attribute(group, "block_bytes", H5T_STD_I64LE, H5Screate(H5S_SCALAR), &(int64_t){ 4096 }); }
static void changed_digest(hid_t file) { with_manifest(file, other_digest); }
static void removed_digest(hid_t file) { with_manifest(file, no_digest); }
static void unknown_checksum(hid_t file) { with_manifest(file, other_checksum); }
static void unknown_block(hid_t file) { with_manifest(file, other_block); }
static void no_manifest(hid_t file) { H5Ldelete(file, "/manifest", H5P_DEFAULT); }
static void no_sums(hid_t file) { H5Ldelete(file, "/manifest/sums", H5P_DEFAULT); }
static void other_version(hid_t file) { put_attribute(file, "format_version", H5T_STD_I64LE, H5Screate(H5S_SCALAR), &(int64_t){ 2 }); }
static void other_format(hid_t file) { put_text_attribute(file, "format", "something else"); }

static const file_edit manifest_edits[] = {
    { missing_tensor, "/layers/000/A_log is missing" },
    { missing_first, "/config_text is missing" },
    { missing_last, "/tokenizer_json is missing" },
    { extra_tensor, "/extra is not in the manifest" },
    { extra_last, "/zz is not in the manifest" },
    { other_shape, "holds /layers/000/A_log F32 2x131072, its manifest says /layers/000/A_log F32 262144" },
    { many_attributes, "its names and attributes make more than 67108864 bytes" },
    { changed_text, "attributes or checksums were changed" },
    { changed_int, "attributes or checksums were changed" },
    { changed_list, "attributes or checksums were changed" },
    { changed_double, "attributes or checksums were changed" },
    { removed_attribute, "attributes or checksums were changed" },
    { added_attribute, "attributes or checksums were changed" },
    { changed_source, "attributes or checksums were changed" },
    { changed_sum, "attributes or checksums were changed" },
    { changed_digest, "attributes or checksums were changed" },
    { fewer_sums, "4 checksums for 11 blocks" },
    { changed_list_of_datasets, "holds /embedding/weight BF16 1030x1021, its manifest says /embedding/weight F16" },
    { nul_in_the_list, "list holds a NUL" },
    { removed_digest, "no manifest: it was not finished" },
    { no_manifest, "no manifest: it was not finished" },
    { no_sums, "no /manifest/sums" },
    { unknown_checksum, "checksum xxh3" },
    { unknown_block, "checksum crc32c over other blocks" },
    { other_version, "format version 2, this program reads 1" },
    { other_format, "not a polylepis model" },
};

static void assert_edit_refused(const file_edit *e)
{
    const hid_t file = edit();
    e->change(file);
    assert_true(H5Fclose(file) >= 0);
    H5close(); /* and with it whatever ids the edit left open, so that the file is complete */
    assert_refused(other, PLP_ERR_DATA, e->words);
}

static void hostile_content_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < PROFILE_EDITS; i++) assert_edit_refused(&profile_edits[i]);
    for (size_t i = 0; i < sizeof manifest_edits / sizeof *manifest_edits; i++) assert_edit_refused(&manifest_edits[i]);
#ifndef PLP_SANITIZED
    struct rusage children, self; /* whatever the sizes that they state */
    assert_int_equal(getrusage(RUSAGE_CHILDREN, &children), 0);
    assert_int_equal(getrusage(RUSAGE_SELF, &self), 0);
    assert_in_range(children.ru_maxrss, 1 << 10, 200 << 10); /* KiB */
    assert_in_range(self.ru_maxrss, 1 << 10, 200 << 10);
#endif
}

/* Control: an edit that changes nothing is accepted, so the refusals above are not refusals of every edited file. */
static void untouched_copy_is_accepted(void **state)
{
    (void)state;
    bool same;
    H5Fclose(edit());
    H5close();
    assert_int_equal(read_sample(other, &same), PLP_OK);
    assert_true(same);
}

static void foreign_files_are_refused(void **state)
{
    (void)state;
    spill(other, (const uint8_t *)"", 0);
    assert_refused(other, PLP_ERR_DATA, "not an HDF5 file");
    assert_false(is_model(other));
    spill(other, (const uint8_t *)"GGUF and so on, long enough to be read as a header", 50);
    assert_refused(other, PLP_ERR_DATA, "not an HDF5 file");
    assert_refused(directory, PLP_ERR_DATA, "not a regular file");
    assert_refused("/dev/null", PLP_ERR_DATA, "not a regular file");
    unlink(other);
    assert_refused(other, PLP_ERR_INPUT, "check the path");
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_refused(other, PLP_ERR_DATA, "not a regular file");
    assert_false(is_model(other));
    unlink(other);
    H5Fclose(H5Fcreate(other, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)); /* the old format */
    assert_refused(other, PLP_ERR_DATA, "superblock version 0");
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110);
    H5Fclose(H5Fcreate(other, H5F_ACC_TRUNC, H5P_DEFAULT, access));
    assert_refused(other, PLP_ERR_DATA, "not a polylepis model");
    H5Pset_shared_mesg_nindexes(creation, 1); /* shared messages have been a way to overflow the library's heap */
    H5Pset_shared_mesg_index(creation, 0, H5O_SHMESG_ATTR_FLAG, 40);
    H5Fclose(H5Fcreate(other, H5F_ACC_TRUNC, creation, access));
    assert_refused(other, PLP_ERR_DATA, "unusual sizes, flags or extensions");
    H5Pclose(creation);
    H5Pclose(access);
}

static void hdf5_environment_is_refused(void **state)
{
    (void)state;
    static const char *const names[] = { "HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER" };
    for (int i = 0; i < 3; i++) {
        setenv(names[i], "/tmp", 1);
        assert_refused(path, PLP_ERR_USAGE, names[i]);
        assert_int_equal(write_sample(other, true, NULL), PLP_ERR_USAGE);
        unsetenv(names[i]);
    }
}

/* ------------------------------------------------------------------------------------------------------------------ damage */
static void truncation_is_refused(void **state)
{
    (void)state;
    io_model_file *f = NULL;
    uint8_t *data;
    const size_t n = slurp(path, &data);
    size_t ends[64 + 3 * TENSORS], cuts = 0;
    for (size_t i = 0; i < 64; i++) ends[cuts++] = n * i / 64;
    assert_int_equal(io_model_open(&f, path), PLP_OK);
    for (int i = 0; i < TENSORS; i++)
        for (int d = -1; d <= 1; d++) ends[cuts++] = (size_t)(io_model_tensor(f, i)->offset + io_model_tensor(f, i)->bytes) + (size_t)d;
    io_model_close(&f);
    for (size_t i = 0; i < cuts; i++) {
        spill(other, data, ends[i]);
        assert_refused(other, PLP_ERR_DATA, ends[i] < 48 ? "not an HDF5 file" : "truncated");
    }
    spill(other, data, n - 1);
    assert_refused(other, PLP_ERR_DATA, "truncated");
    data[n] = 'x';
    spill(other, data, n + 1);
    assert_refused(other, PLP_ERR_DATA, "something was appended");
    free(data);
}

static void every_flipped_bit_of_a_payload_is_found(void **state)
{
    (void)state;
    io_model_file *f = NULL;
    uint8_t *data, *got = malloc(bytes_of(0));
    const size_t size = slurp(path, &data);
    spill(other, data, size);
    free(data);
    const int fd = open(other, O_RDWR);
    srand(3);
    for (int i = 0; i < 1000; i++) {
        const int k = rand() % TENSORS;
        assert_int_equal(io_model_open_trusted(&f, other), PLP_OK);
        io_model_threads(f, 1 + i / 2 % 3);
        const io_tensor *t = io_model_tensor(f, k);
        const int64_t at = (int64_t)(((uint64_t)rand() << 20 ^ (uint64_t)rand()) % t->bytes),
                      element = at / (int64_t)plp_dtype_size(t->dtype);
        char words[IO_NAME + 64];
        uint8_t byte = payload[k][at] ^ (uint8_t)(1 << rand() % 8);
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)(t->offset + (uint64_t)at)), 1);
        /* by whole tensors and by the one element that is hit */
        const plp_status st = i % 2 ? io_model_read(f, t, 0, counts[k], got) : io_model_read(f, t, element, 1, got);
        assert_int_equal(st, PLP_ERR_DATA);
        snprintf(words, sizeof words, "%s: block %lld of ", t->name, (long long)(at / IO_BLOCK));
        assert_message(words);
        assert_int_equal(pwrite(fd, &payload[k][at], 1, (off_t)(t->offset + (uint64_t)at)), 1);
        assert_int_equal(io_model_read(f, t, element, 1, got), PLP_OK);
        io_model_close(&f);
    }
    close(fd);
    free(got);
}

/* Anywhere, metadata included: an error, or a bit that means nothing.  Never another answer, never a crash. */
static void a_flipped_bit_anywhere_changes_no_answer(void **state)
{
    (void)state;
    uint8_t *data;
    const size_t n = slurp(path, &data);
    io_model_file *f = NULL;
    assert_int_equal(io_model_open(&f, path), PLP_OK);
    uint64_t first = n, last = 0; /* metadata lies before, between and behind the payloads */
    for (int i = 0; i < TENSORS; i++) {
        const io_tensor *t = io_model_tensor(f, i);
        if (t->offset < first) first = t->offset;
        if (t->offset + t->bytes > last) last = t->offset + t->bytes;
    }
    io_model_close(&f);
    spill(other, data, n);
    const int fd = open(other, O_RDWR);
    int refused = 0;
    open_model = io_model_open_trusted;
    srand(9);
    for (int i = 0; i < 600; i++) {
        const size_t where = (size_t)rand() % (first + n - last), at = where < first ? where : where - first + last;
        const uint8_t byte = data[at] ^ (uint8_t)(1 << rand() % 8);
        bool same = false;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        const plp_status st = read_sample(other, &same);
        if (st == PLP_OK)
            assert_true(same);
        else
            refused++;
        assert_int_equal(pwrite(fd, &data[at], 1, (off_t)at), 1);
    }
    open_model = io_model_open;
    assert_true(refused > 100);
    close(fd);
    free(data);
}

static void a_file_that_shrinks_is_an_error(void **state)
{
    (void)state;
    uint8_t *data, *got = malloc(bytes_of(0));
    const size_t n = slurp(path, &data);
    spill(other, data, n);
    io_model_file *f = NULL;
    assert_int_equal(io_model_open(&f, other), PLP_OK);
    assert_int_equal(truncate(other, (off_t)(io_model_tensor(f, 0)->offset + 1000)), 0);
    for (int threads = 1; threads < 4; threads++) {
        io_model_threads(f, threads);
        assert_int_equal(io_model_read(f, io_model_tensor(f, 0), 0, counts[0], got), PLP_ERR_IO);
        assert_message("shrank");
    }
    io_model_close(&f);
    free(got);
    free(data);
}

/* Replaced, it is still the file that was opened; rewritten in place, its blocks are not what the manifest says. */
static void a_file_that_changes_is_never_mixed(void **state)
{
    (void)state;
    uint8_t *data, *got = malloc(bytes_of(0));
    char third[160];
    const size_t n = slurp(path, &data);
    io_model_file *f = NULL;
    spill(other, data, n);
    assert_int_equal(io_model_open(&f, other), PLP_OK);
    const uint64_t offset = io_model_tensor(f, 0)->offset;
    memset(data + offset, 0, bytes_of(0));
    snprintf(third, sizeof third, "%s.new", other);
    spill(third, data, n);
    assert_int_equal(rename(third, other), 0);
    assert_int_equal(io_model_read(f, io_model_tensor(f, 0), 0, counts[0], got), PLP_OK);
    assert_memory_equal(got, payload[0], bytes_of(0));
    io_model_close(&f);
    memcpy(data + offset, payload[0], bytes_of(0));
    spill(other, data, n);
    assert_int_equal(io_model_open(&f, other), PLP_OK);
    const int fd = open(other, O_WRONLY);
    memset(data + offset + IO_BLOCK, 0, 100);
    assert_int_equal(pwrite(fd, data, n, 0), n);
    close(fd);
    assert_int_equal(io_model_read(f, io_model_tensor(f, 0), 0, counts[0], got), PLP_ERR_DATA);
    assert_message("/embedding/weight: block 1 of ");
    io_model_close(&f);
    free(got);
    free(data);
}

/* ----------------------------------------------------------------------------------------------------------- forged metadata */
static uint32_t rotate(uint32_t x, int k) { return x << k | x >> (32 - k); }

/* HDF5's metadata checksum: Bob Jenkins' lookup3, hashlittle with seed 0. */
static uint32_t lookup3(const uint8_t *p, size_t n)
{
    uint32_t s[3] = { 0xdeadbeef + (uint32_t)n, 0xdeadbeef + (uint32_t)n, 0xdeadbeef + (uint32_t)n };
    static const int mix[6] = { 4, 6, 8, 16, 19, 4 }, last[7] = { 14, 11, 25, 16, 4, 14, 24 };
    if (n == 0) return s[2];
    for (;; p += 12, n -= 12) {
        uint8_t word[12] = { 0 };
        memcpy(word, p, n < 12 ? n : 12);
        for (int i = 0; i < 12; i++) s[i / 4] += (uint32_t)word[i] << 8 * (i % 4);
        if (n <= 12) break;
        for (int i = 0; i < 6; i++) { /* a -= c, a ^= c <<< k, c += b, and so on in turn */
            uint32_t *a = &s[i % 3], *b = &s[(i + 1) % 3], *c = &s[(i + 2) % 3];
            *a -= *c, *a ^= rotate(*c, mix[i]), *c += *b;
        }
    }
    for (int i = 0; i < 7; i++) {
        uint32_t *c = &s[(i + 2) % 3], *b = &s[(i + 1) % 3];
        *c ^= *b, *c -= rotate(*b, last[i]);
    }
    return s[2];
}

/* Moves the dataset at `from` to the offset `to`, with the object header's checksum made right again. */
static void forge_offset(uint64_t from, uint64_t to)
{
    uint8_t *data;
    const size_t n = slurp(path, &data);
    for (size_t at = 0; at + 16 < n; at++) {
        if (memcmp(data + at, &from, 8) != 0) continue;
        size_t start = at;
        while (start > 0 && memcmp(data + start, "OHDR", 4) != 0) start--;
        for (size_t end = at + 8; end < at + 4096 && end + 4 < n; end++) {
            const uint32_t sum = lookup3(data + start, end - start);
            if (memcmp(data + end, &sum, 4) != 0) continue;
            memcpy(data + at, &to, 8);
            const uint32_t forged = lookup3(data + start, end - start);
            memcpy(data + end, &forged, 4);
            spill(other, data, n);
            free(data);
            return;
        }
    }
    fail_msg("no header with offset %llu was found", (unsigned long long)from);
}

static void forged_offsets_are_refused(void **state)
{
    (void)state;
    io_model_file *f = NULL;
    struct stat info;
    assert_int_equal(io_model_open(&f, path), PLP_OK);
    const uint64_t a = io_model_tensor(f, 2)->offset, b = io_model_tensor(f, 4)->offset, bytes = io_model_tensor(f, 2)->bytes;
    const uint64_t end = b + io_model_tensor(f, 4)->bytes;
    stat(path, &info);
    io_model_close(&f);
    forge_offset(a, a); /* control: nothing was forged */
    bool same;
    assert_int_equal(read_sample(other, &same), PLP_OK);
    forge_offset(a, b);
    assert_refused(other, PLP_ERR_DATA, "overlap at byte");
    forge_offset(a, end - 1);
    assert_refused(other, PLP_ERR_DATA, "overlap at byte");
    forge_offset(a, (uint64_t)info.st_size - bytes + 1);
    assert_refused(other, PLP_ERR_DATA, "/layers/000/A_log");
    forge_offset(a, UINT64_MAX - 4);
    assert_refused(other, PLP_ERR_DATA, "/layers/000/A_log");
    forge_offset(a, 0);
    assert_refused(other, PLP_ERR_DATA, "/layers/000/A_log");
}

/* ------------------------------------------------------------------------------------------------------------ failing writers */
/* Runs `body` in a child; its status as waitpid gives it. */
static int in_child(void (*body)(void))
{
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL); /* cmocka's handlers would go on with the tests, in the child */
        alarm(60);
        body();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int die_at, steps;
static void die_there(int step)
{
    if (step == die_at) kill(getpid(), SIGKILL);
}
static void count_steps(int step) { steps = step; }
static void write_and_die(void) { write_sample(other, false, die_there); }

static void a_killed_writer_leaves_no_file(void **state)
{
    (void)state;
    unlink(other);
    assert_int_equal(write_sample(other, false, count_steps), PLP_OK);
    assert_true(steps > 50);
    for (die_at = 0; die_at <= steps; die_at++) {
        unlink(other);
        assert_int_equal(in_child(write_and_die), SIGKILL);
        bool same = false;
        if (die_at < steps)
            assert_false(exists(other)); /* at the last step the file is complete */
        else
            assert_int_equal(read_sample(other, &same), PLP_OK);
        if (die_at > 0 && die_at < steps) {
            char part[160];
            snprintf(part, sizeof part, "%s.part", other);
            assert_true(exists(part));
            io_model_file *f = NULL;
            assert_int_not_equal(io_model_open(&f, part), PLP_OK);
        }
    }
    unlink(other);
    die_at = steps / 2;
    assert_int_equal(in_child(write_and_die), SIGKILL);
    assert_true(part_exists(other));
    bool same; /* and the next run takes its place */
    assert_int_equal(write_sample(other, false, NULL), PLP_OK);
    assert_false(part_exists(other));
    assert_int_equal(read_sample(other, &same), PLP_OK);
    assert_true(same);
}

/* Wherever the kill lands, between or inside system calls: no file under the final name, or a complete one. */
static void a_writer_killed_at_any_time_leaves_all_or_nothing(void **state)
{
    (void)state;
    int killed = 0;
    srand(21);
    for (int i = 0; i < 40; i++) {
        unlink(other);
        const pid_t pid = fork();
        if (pid == 0) {
            write_sample(other, false, NULL);
            _exit(0);
        }
        usleep((useconds_t)(rand() % 30000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        killed += WIFSIGNALED(status);
        bool same = true;
        if (exists(other)) assert_int_equal(read_sample(other, &same), PLP_OK);
        assert_true(same);
    }
    assert_true(killed > 0);
    unlink(other);
    assert_int_equal(write_sample(other, false, NULL), PLP_OK);
}

static rlim_t most_bytes;
static void write_with_a_limit(void)
{
    const struct rlimit limit = { most_bytes, most_bytes };
    signal(SIGXFSZ, SIG_IGN); /* so that write fails with EFBIG */
    setrlimit(RLIMIT_FSIZE, &limit);
    const plp_status st = write_sample(other, false, NULL);
    H5close(); /* what the library could not write must not come back at exit */
    _exit(st);
}

static void a_full_disk_leaves_nothing(void **state)
{
    (void)state;
    struct stat info;
    stat(path, &info);
    for (int i = 0; i <= 24; i++) {
        unlink(other);
        most_bytes = i == 24 ? (rlim_t)info.st_size - 1 : (rlim_t)(info.st_size * i / 24);
        const int status = in_child(write_with_a_limit);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), PLP_ERR_IO);
        assert_false(exists(other));
        assert_false(part_exists(other));
    }
    most_bytes = (rlim_t)info.st_size + (2 << 20); /* control: what suffices, suffices */
    const int status = in_child(write_with_a_limit);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(exists(other));
}

static void nobody_writes(void)
{
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(99); /* root may write anywhere */
    const plp_status st = write_sample(other, false, NULL);
    _exit(strstr(plp_last_error(), "cannot create") ? (int)st : 98);
}

static void outputs_that_cannot_be_created(void **state)
{
    (void)state;
    char part[160], link_target[160], elsewhere[160];
    snprintf(part, sizeof part, "%s.part", other);
    snprintf(link_target, sizeof link_target, "%s/victim", directory);
    snprintf(elsewhere, sizeof elsewhere, "%s/missing/x.h5", directory);
    bool same;

    assert_int_equal(write_sample(other, true, NULL), PLP_OK);
    assert_int_equal(write_sample(other, false, NULL), PLP_ERR_CREATE);
    assert_message("exists");
    assert_int_equal(read_sample(other, &same), PLP_OK); /* untouched */
    assert_int_equal(write_sample(elsewhere, false, NULL), PLP_ERR_CREATE);
    assert_message("/missing");
    snprintf(elsewhere, sizeof elsewhere, "%s/", directory);
    assert_int_equal(write_sample(elsewhere, true, NULL), PLP_ERR_CREATE);
    assert_int_equal(write_sample(directory, true, NULL), PLP_ERR_CREATE);
    assert_message("not a regular file");

    /* a link planted where the part goes, or at the target: what it names stays as it is */
    unlink(other);
    spill(link_target, (const uint8_t *)"victim", 6);
    assert_int_equal(symlink(link_target, part), 0);
    assert_int_equal(write_sample(other, false, NULL), PLP_ERR_CREATE);
    unlink(part);
    assert_int_equal(symlink(link_target, other), 0);
    assert_int_equal(write_sample(other, false, NULL), PLP_ERR_CREATE);
    assert_int_equal(write_sample(other, true, NULL), PLP_ERR_CREATE);
    unlink(other);
    struct stat info;
    assert_int_equal(stat(link_target, &info), 0);
    assert_int_equal(info.st_size, 6);
    assert_int_equal(mkfifo(part, 0600), 0);
    assert_int_equal(write_sample(other, false, NULL), PLP_ERR_CREATE);
    unlink(part);

    /* two writers of one file */
    io_model_writer *w = NULL;
    assert_int_equal(io_model_create(&w, other, false), PLP_OK);
    assert_int_equal(stat(part, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600); /* nobody else reads it before it is complete */
    assert_int_equal(write_sample(other, false, NULL), PLP_ERR_CREATE);
    assert_message("being written by another process");
    assert_true(exists(part));
    io_model_discard(&w);
    assert_false(exists(part));

    chmod(directory, 0555);
    const int status = in_child(nobody_writes);
    chmod(directory, 0755);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), PLP_ERR_PERM);
}

/* A target that appears while we write is not replaced. */
static void plant(int step)
{
    if (step == 3) spill(other, (const uint8_t *)"mine", 4);
}

static void a_target_that_appears_is_kept(void **state)
{
    (void)state;
    struct stat info;
    unlink(other);
    assert_int_equal(write_sample(other, false, plant), PLP_ERR_CREATE);
    assert_int_equal(stat(other, &info), 0);
    assert_int_equal(info.st_size, 4);
    assert_false(part_exists(other));
    assert_int_equal(write_sample(other, true, plant), PLP_OK);
    bool same;
    assert_int_equal(read_sample(other, &same), PLP_OK);
    const mode_t mask = umask(027);
    assert_int_equal(write_sample(other, true, NULL), PLP_OK);
    umask(mask);
    assert_int_equal(stat(other, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
}

/* The directory is held: what takes its name while we write gets nothing. */
static char inner[200], moved[200], trap[200];
static void swap_directory(int step)
{
    if (step != 5) return;
    if (rename(inner, moved) != 0 || symlink(trap, inner) != 0) abort();
}

static void a_directory_that_is_swapped_leads_nowhere(void **state)
{
    (void)state;
    char target[300], kept[300];
    bool same;
    snprintf(inner, sizeof inner, "%s/inner", directory);
    snprintf(moved, sizeof moved, "%s/moved", directory);
    snprintf(trap, sizeof trap, "%s/trap", directory);
    assert_int_equal(mkdir(inner, 0700) | mkdir(trap, 0700), 0);
    snprintf(target, sizeof target, "%s/x.h5", inner);
    assert_int_equal(write_sample(target, false, swap_directory), PLP_OK);
    assert_int_equal(rmdir(trap), 0); /* it is empty */
    snprintf(kept, sizeof kept, "%s/x.h5", moved);
    assert_int_equal(read_sample(kept, &same), PLP_OK);
    assert_true(same);
}

static void writer_checks_its_caller(void **state)
{
    (void)state;
    io_model_writer *w = NULL;
    const int64_t shape[] = { 2, 2 }, none[] = { 0 }, much[] = { INT64_MAX, 16 };
    const float data[8] = { 0 };
    unlink(other);
    assert_int_equal(io_model_create(&w, other, false), PLP_OK);
    assert_int_equal(io_model_append(w, data, 1), PLP_ERR_INTERNAL);
    assert_int_equal(io_model_end(w), PLP_ERR_INTERNAL);
    assert_int_equal(io_model_begin(w, "a", PLP_F32, 2, shape, NULL, NULL), PLP_ERR_DATA);
    assert_int_equal(io_model_begin(w, "/a/../b", PLP_F32, 2, shape, NULL, NULL), PLP_ERR_DATA);
    assert_int_equal(io_model_begin(w, "/a b", PLP_F32, 2, shape, NULL, NULL), PLP_ERR_DATA);
    assert_int_equal(io_model_begin(w, "/a", PLP_F32, 5, shape, NULL, NULL), PLP_ERR_SHAPE);
    assert_int_equal(io_model_begin(w, "/a", PLP_F32, 1, none, NULL, NULL), PLP_ERR_SHAPE);
    assert_int_equal(io_model_begin(w, "/a", PLP_F32, 2, much, NULL, NULL), PLP_ERR_SHAPE);
    assert_int_equal(io_model_put_double(w, "nan", NAN), PLP_ERR_DATA);
    assert_int_equal(io_model_begin(w, "/a", PLP_F32, 2, shape, NULL, NULL), PLP_OK);
    assert_int_equal(io_model_begin(w, "/b", PLP_F32, 2, shape, NULL, NULL), PLP_ERR_INTERNAL);
    assert_int_equal(io_model_append(w, data, 5), PLP_ERR_SHAPE);
    assert_int_equal(io_model_append(w, data, 3), PLP_OK);
    assert_int_equal(io_model_end(w), PLP_ERR_SHAPE);
    assert_message("12 of 16 bytes");
    assert_int_equal(io_model_finish(&w), PLP_ERR_INTERNAL);
    io_model_discard(&w);
    assert_null(w);
    assert_false(exists(other));
    assert_false(part_exists(other));
}

/* --------------------------------------------------------------------------------------------------------------- other tools */
/* The exit status of tests/cli/file_format.py; 77: no Python here has h5py. */
static int python(const char *mode, const char *file)
{
    char command[2048];
    snprintf(command, sizeof command,
             "for p in python3 /usr/bin/python3; do $p -c 'import h5py, numpy' 2>/dev/null && "
             "exec $p %s/../cli/file_format.py %s %s %s/../../docs/file-format.md; done; exit 77",
             PLP_TEST_DATA, mode, file, PLP_TEST_DATA);
    const int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* docs/file-format.md holds a whole program that writes a model file; the script runs it as it stands there. */
static void a_file_by_the_document_opens(void **state)
{
    (void)state;
    unlink(other);
    const int rc = python("write", other);
    if (rc == 77) skip(); /* no h5py */
    assert_int_equal(rc, 0);
    io_model_file *f = NULL;
    if (io_model_open(&f, other) != PLP_OK) fail_msg("%s", plp_last_error());
    const char *format = NULL;
    int64_t hidden = 0;
    float eps[64];
    assert_int_equal(io_model_get_string(f, "format", &format), PLP_OK);
    assert_string_equal(format, "polylepis model");
    assert_int_equal(io_model_get_int(f, "hidden", &hidden), PLP_OK);
    const io_tensor *embedding = io_model_find(f, "/embedding/weight"), *norm = io_model_find(f, "/layers/000/norm/weight");
    assert_non_null(embedding);
    assert_non_null(norm);
    assert_int_equal(embedding->dtype, PLP_BF16);
    assert_int_equal(embedding->shape[1], hidden);
    assert_int_equal(norm->dtype, PLP_F32);
    assert_true(hidden <= 64);
    assert_int_equal(io_model_read(f, norm, 0, hidden, eps), PLP_OK);
    for (int64_t i = 0; i < hidden; i++) assert_true(eps[i] == 1.f);
    uint8_t byte = 0; /* its checksums are real ones */
    const int fd = open(other, O_RDWR);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)norm->offset + 3), 1);
    close(fd);
    assert_int_equal(io_model_read(f, norm, 0, hidden, eps), PLP_ERR_DATA);
    io_model_close(&f);
}

/* h5py and h5dump see true values in our 16-bit types; the script checks them against its own arithmetic, and the manifest by the document. */
static void other_tools_read_ours(void **state)
{
    (void)state;
    io_model_writer *w = NULL;
    enum { N = 65536 };
    static uint16_t all[N];
    for (int i = 0; i < N; i++) all[i] = (uint16_t)i;
    const int64_t shape[] = { 256, 256 };
    unlink(other);
    assert_int_equal(io_model_create(&w, other, false), PLP_OK);
    assert_int_equal(io_model_put_string(w, "family", "m\xc3\xa4mba"), PLP_OK);
    assert_int_equal(io_model_put_ints(w, "stop", (const int64_t[]){ 1, 2 }, 2), PLP_OK);
    assert_int_equal(io_model_put_double(w, "dt_max", INFINITY), PLP_OK);
    assert_int_equal(io_model_begin(w, "/half/weight", PLP_F16, 2, shape, "a", "F16"), PLP_OK);
    assert_int_equal(io_model_append(w, all, N), PLP_OK);
    assert_int_equal(io_model_end(w), PLP_OK);
    assert_int_equal(io_model_begin(w, "/brain/weight", PLP_BF16, 2, shape, "b", "BF16"), PLP_OK);
    assert_int_equal(io_model_append(w, all, N), PLP_OK);
    assert_int_equal(io_model_end(w), PLP_OK);
    assert_int_equal(io_model_put_blob(w, "/config_text", config_text, strlen(config_text)), PLP_OK);
    assert_int_equal(io_model_finish(&w), PLP_OK);
    const int rc = python("read", other);
    if (rc == 77) skip();
    assert_int_equal(rc, 0);
}

static int set_up(void **state)
{
    (void)state;
    if (mkdtemp(directory) == NULL) return -1;
    snprintf(path, sizeof path, "%s/sample.h5", directory);
    snprintf(other, sizeof other, "%s/other.h5", directory);
    make_payloads();
    return write_sample(path, false, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < TENSORS; i++) free(payload[i]);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_comes_back),
        cmocka_unit_test(any_range_can_be_read),
        cmocka_unit_test(small_pieces_read_the_file_once),
        cmocka_unit_test(same_content_same_bytes),
        cmocka_unit_test(hostile_content_is_refused),
        cmocka_unit_test(untouched_copy_is_accepted),
        cmocka_unit_test(foreign_files_are_refused),
        cmocka_unit_test(hdf5_environment_is_refused),
        cmocka_unit_test(truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_of_a_payload_is_found),
        cmocka_unit_test(a_flipped_bit_anywhere_changes_no_answer),
        cmocka_unit_test(a_file_that_shrinks_is_an_error),
        cmocka_unit_test(a_file_that_changes_is_never_mixed),
        cmocka_unit_test(forged_offsets_are_refused),
        cmocka_unit_test(a_killed_writer_leaves_no_file),
        cmocka_unit_test(a_writer_killed_at_any_time_leaves_all_or_nothing),
        cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(outputs_that_cannot_be_created),
        cmocka_unit_test(a_target_that_appears_is_kept),
        cmocka_unit_test(a_directory_that_is_swapped_leads_nowhere),
        cmocka_unit_test(writer_checks_its_caller),
        cmocka_unit_test(a_file_by_the_document_opens),
        cmocka_unit_test(other_tools_read_ours),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
