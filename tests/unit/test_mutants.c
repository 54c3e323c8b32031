/* Mutants of model files, good ones and hostile ones: whatever they do to HDF5, the process that opens them lives and says that the data are
 * bad.  PLP_MUTANTS=240000 makes so many instead of the few of every day, and PLP_SEED another sequence of them. */
#include "io/model_file.h"

#include "base/error.h"
#include "profile_edits.h"
#include "unit_files.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

enum { SEEDS = PROFILE_EDITS + 1, MOST = 1 << 20 };
static struct {
    uint8_t *data;
    size_t bytes;
} seed[SEEDS];
static int seeds;

static void make_sample(const char *name)
{
    io_model_writer *w = NULL;
    static const float values[64] = { 1, 2, 3 };
    assert_int_equal(io_model_create(&w, name, true), PLP_OK);
    assert_int_equal(io_model_put_string(w, "family", "mamba2"), PLP_OK);
    assert_int_equal(io_model_put_double(w, "norm_eps", 1e-5), PLP_OK);
    assert_int_equal(io_model_put_ints(w, "stop", (const int64_t[]){ 0, 2 }, 2), PLP_OK);
    assert_int_equal(io_model_put_blob(w, "/config_text", "{}", 2), PLP_OK);
    for (int i = 0; i < 12; i++) {
        char path[64];
        snprintf(path, sizeof path, i == 0 ? "/embedding/weight" : "/layers/%03d/norm/weight", i);
        assert_int_equal(io_model_begin(w, path, PLP_F32, 1, (const int64_t[]){ 4 + i }, "source", "F32"), PLP_OK);
        assert_int_equal(io_model_append(w, values, 4 + i), PLP_OK);
        assert_int_equal(io_model_end(w), PLP_OK);
    }
    assert_int_equal(io_model_finish(&w), PLP_OK);
}

static void keep(const char *name)
{
    FILE *f = fopen(name, "rb");
    assert_non_null(f);
    seed[seeds].data = malloc(MOST);
    seed[seeds].bytes = fread(seed[seeds].data, 1, MOST, f);
    fclose(f);
    if (seed[seeds].bytes < MOST) seeds++; /* the largest are large because of what is the same in them a hundred thousand times */
}

static void make_seeds(void)
{
    char name[128];
    snprintf(name, sizeof name, "%s/seed.h5", dir);
    make_sample(name);
    keep(name);
    for (int i = 0; i < PROFILE_EDITS; i++) {
        make_sample(name);
        const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
        H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110);
        const hid_t file = H5Fopen(name, H5F_ACC_RDWR, access);
        assert_true(file >= 0);
        profile_edits[i].change(file);
        assert_true(H5Fclose(file) >= 0);
        H5close();
        keep(name);
    }
    assert_true(seeds >= PROFILE_EDITS - 1);
}

static size_t any(size_t n) { return ((size_t)rand() << 16 ^ (size_t)rand()) % n; }

/* Where HDF5's structures begin, most of the time. */
static size_t place(const uint8_t *data, size_t bytes)
{
    size_t at = any(bytes);
    if (rand() % 4 == 0) return at;
    for (size_t i = 0; i < bytes; i++, at = at + 1 < bytes ? at + 1 : 0)
        if (at + 4 < bytes &&
            (memcmp(data + at, "OHDR", 4) == 0 || memcmp(data + at, "OCHK", 4) == 0 || memcmp(data + at, "FRHP", 4) == 0 ||
             memcmp(data + at, "BTHD", 4) == 0 || memcmp(data + at, "BTLF", 4) == 0 || memcmp(data + at, "FHDB", 4) == 0 ||
             memcmp(data + at, "FADB", 4) == 0 || memcmp(data + at, "FAHD", 4) == 0))
            break;
    return (at + 4 + any(120)) % bytes;
}

static void mutate(uint8_t *data, size_t bytes)
{
    static const uint64_t odd[] = { 0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX, INT64_MAX, 48, 4096 };
    for (int n = 1 + rand() % 5; n > 0; n--) {
        const size_t at = place(data, bytes), width = (size_t)1 << rand() % 4;
        if (rand() % 2 == 0)
            data[at] ^= (uint8_t)(1 << rand() % 8);
        else if (at + width <= bytes)
            memcpy(data + at, &odd[any(sizeof odd / sizeof *odd)], width);
    }
}

static void spill(const char *name, const uint8_t *data, size_t bytes)
{
    FILE *f = fopen(name, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static void mutants_do_no_harm(void **state)
{
    (void)state;
    enum { OPENED, REFUSED, CRASHED, KINDS };
    const char *wish = getenv("PLP_MUTANTS"), *start = getenv("PLP_SEED");
    const int count = wish != NULL ? atoi(wish) : 400;
    int came[2][KINDS] = { { 0 } };
    uint8_t *data = malloc(MOST);
    make_seeds();
    srand(start != NULL ? (unsigned)atoi(start) : 1);
    for (int i = 0; i < count; i++) {
        const int which = (int)any((size_t)seeds), forged = i % 2;
        char name[128];
        io_model_file *f = NULL;
        memcpy(data, seed[which].data, seed[which].bytes);
        mutate(data, seed[which].bytes);
        snprintf(name, sizeof name, "%s/%s.h5", dir, forged ? "forged" : "plain");
        spill(name, data, seed[which].bytes);
        const plp_status st = io_model_open(&f, name);
        if (st != PLP_OK && st != PLP_ERR_DATA) fail_msg("mutant %d of seed %d: %s: %s", i, which, plp_status_name(st), plp_last_error());
        const bool unsafe = st != PLP_OK && strstr(plp_last_error(), "could not be parsed safely") != NULL;
        if (unsafe && getenv("PLP_SHOW")) print_message("%s\n", plp_last_error());
        came[forged][st == PLP_OK ? OPENED : unsafe ? CRASHED : REFUSED]++;
        io_model_close(&f);
    }
    for (int forged = 0; forged < 2; forged++)
        print_message("%s: %d opened, %d refused, %d ended their parser\n", forged ? "forged checksums" : "damaged", came[forged][OPENED],
                      came[forged][REFUSED], came[forged][CRASHED]);
    assert_true(came[0][REFUSED] > count / 2 - count / 20 && came[0][CRASHED] <= count / 100); /* accidents are not taken for attacks */
    assert_true(came[1][REFUSED] > count / 4);
    free(data);
    for (int i = 0; i < seeds; i++) free(seed[i].data);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(mutants_do_no_harm) };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
