/* The parser's process: what it may do, what becomes of it when it does something else, and that its answer is not believed. */
#include "io/confine.h"
#include "io/model_file_internal.h"

#include "base/error.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static plp_status wish(const char *what, double seconds, size_t *bytes)
{
    uint8_t *table;
    char name[] = "/tmp/plp-output-XXXXXX";
    const int model = open("/etc/passwd", O_RDONLY), output = mkstemp(name); /* of the program: whoever writes there has got out */
    assert_true(model >= 0 && output >= 0);
    unlink(name);
    const plp_status st = io_parser_run(PLP_PLANTED, what, model, seconds, &table, bytes);
    close(model);
    close(output);
    free(table);
    return st;
}

static void assert_words(const char *what, const char *words)
{
    if (strstr(plp_last_error(), words) == NULL) fail_msg("%s: \"%s\" is not in \"%s\"", what, words, plp_last_error());
}

static void assert_ends(const char *what, const char *words)
{
    size_t bytes = 1;
    const plp_status st = wish(what, 250, &bytes);
    if (st != PLP_ERR_DATA) fail_msg("%s: %s", what, plp_status_name(st));
    assert_words(what, words);
    assert_words(what, "could not be parsed safely");
    assert_int_equal(bytes, 0);
}

#define DONE    "ended with status 42"
#define REFUSED "ended with status 43"
#define KILLED  "tried what it must not"

/* What the kernel refuses to each layer alone.  The first column is the control: without any, it happens. */
static void each_layer_suffices(void **state)
{
    (void)state;
    static const struct {
        const char *action, *none, *files, *calls, *limits;
    } rows[] = {
        { "read", DONE, REFUSED, KILLED, REFUSED },   { "create", DONE, REFUSED, KILLED, REFUSED },
        { "socket", DONE, NULL, KILLED, REFUSED },    { "exec", "ended with status 1", REFUSED, KILLED, NULL },
        { "fork", DONE, NULL, KILLED, NULL },         { "kill", DONE, NULL, KILLED, NULL },
        { "map", DONE, NULL, KILLED, NULL },          { "unmask", DONE, NULL, KILLED, NULL },
        { "model", REFUSED, NULL, KILLED, NULL }, /* it was opened for reading */
        { "inherited", DONE, NULL, KILLED, REFUSED },
#ifndef PLP_SANITIZED
        { "memory", DONE, NULL, NULL, REFUSED },
#endif
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *const layers[] = { "none", "files", "calls", "limits" }, *const words[] = { rows[i].none, rows[i].files, rows[i].calls,
                                                                                                rows[i].limits };
        char what[40];
        for (int k = 0; k < 4; k++) {
            snprintf(what, sizeof what, "%s-%s", layers[k], rows[i].action);
            if (words[k] != NULL) assert_ends(what, words[k]);
        }
        snprintf(what, sizeof what, "all-%s", rows[i].action);
        assert_ends(what, rows[i].calls != NULL ? KILLED : REFUSED);
    }
}

static void a_parser_that_breaks_is_bad_data(void **state)
{
    (void)state;
    size_t bytes;
#ifdef PLP_SANITIZED
    assert_ends("all-crash", ""); /* its report is a call that is not allowed, or an exit */
#else
    assert_ends("all-crash", "crashed (signal 11");
    assert_ends("all-abort", "crashed (signal 6");
    assert_ends("all-tablecrash", "crashed (signal 11"); /* an answer does not help one that dies behind it */
#endif
    assert_ends("all-flood", "said too much");
    assert_int_equal(wish("none-nothing", 0.5, &bytes), PLP_ERR_DATA);
    assert_words("nothing", "nothing for 0 s");
    assert_ends("all-spin", "needed more than 10 s");
    assert_int_equal(io_parser_run("/nonexistent/parser", "x", 0, 1, &(uint8_t *){ NULL }, &bytes), PLP_ERR_IO);
    assert_words("missing", "No such file");
}

static int open_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Our own signals and descriptors: nothing of them gets through, none is left behind. */
static void nothing_is_left_behind(void **state)
{
    (void)state;
    size_t bytes;
    sigset_t all, mask;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &mask);
    signal(SIGXCPU, SIG_IGN);
    for (int i = 0; i < 3; i++) wish("all-garbage", 10, &bytes);
    const int before = open_descriptors();
    assert_ends("all-read", KILLED);
    assert_int_equal(wish("all-garbage", 10, &bytes), PLP_OK);
    assert_int_equal(open_descriptors(), before);
    signal(SIGCHLD, SIG_IGN); /* a program that does not want to hear of its children: there is no status, but there is an end */
    assert_int_equal(wish("all-garbage", 10, &bytes), PLP_OK);
    assert_int_equal(bytes, 3);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGXCPU, SIG_DFL);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

/* ------------------------------------------------------------------------------------------------------------------------- tables */
enum { FILE_BYTES = 10000 };

static io_contents sample(void)
{
    io_contents c = { 0 };
    const io_entry a = { .element = IO_BF16,
                         .tensor = { .name = "/a/b", .rank = 2, .shape = { 3, 5 }, .offset = 100, .bytes = 30, .dtype = PLP_BF16 } };
    const io_entry b = { .element = IO_U8, .tensor = { .name = "/z", .rank = 1, .shape = { 7 }, .offset = FILE_BYTES - 7, .bytes = 7 } };
    assert_int_equal(io_contents_add_entry(&c, &b), PLP_OK);
    assert_int_equal(io_contents_add_entry(&c, &a), PLP_OK);
    assert_int_equal(io_contents_add_attribute(&c, "/", "text", IO_STRING, false, "words", 5), PLP_OK);
    assert_int_equal(io_contents_add_attribute(&c, "/a", "empty", IO_STRING, false, "", 0), PLP_OK);
    assert_int_equal(io_contents_add_attribute(&c, "/", "list", IO_INTS, true, (const int64_t[]){ 1, -2 }, 2), PLP_OK);
    assert_int_equal(io_contents_add_attribute(&c, "/", "one", IO_INTS, false, (const int64_t[]){ INT64_MIN }, 1), PLP_OK);
    assert_int_equal(io_contents_add_attribute(&c, "/z", "real", IO_DOUBLE, false, &(double){ INFINITY }, 1), PLP_OK);
    return c;
}

/* Through a table and the checks. */
static plp_status pass(const io_contents *c, io_contents *back)
{
    uint8_t *table;
    size_t bytes;
    int confined = 0;
    *back = (io_contents){ 0 };
    assert_int_equal(io_table_make(PLP_OK, IO_CONFINED_FILES, c, &table, &bytes), PLP_OK);
    plp_status st = io_table_read(table, bytes, "F", &confined, back);
    if (st == PLP_OK) assert_int_equal(confined, IO_CONFINED_FILES);
    if (st == PLP_OK) st = io_contents_check(back, "F", FILE_BYTES);
    free(table);
    return st;
}

static void a_table_comes_back(void **state)
{
    (void)state;
    io_contents c = sample(), back;
    assert_int_equal(pass(&c, &back), PLP_OK);
    assert_int_equal(back.entry_count, 2);
    const io_tensor *t = &back.entries[0].tensor; /* sorted */
    assert_string_equal(t->name, "/a/b");
    assert_int_equal(t->dtype, PLP_BF16);
    assert_int_equal(t->shape[1], 5);
    assert_int_equal(t->offset, 100);
    assert_int_equal(back.attribute_count, 5);
    assert_string_equal(back.attributes[0].name, "list");
    assert_int_equal(back.attributes[0].value.ints[1], -2);
    assert_true(back.attributes[0].list);
    assert_int_equal(back.attributes[1].value.ints[0], INT64_MIN);
    assert_string_equal(back.attributes[2].value.text, "words");
    assert_true(isinf(back.attributes[4].value.real));
    io_contents_free(&back);
    io_contents_free(&c);
}

static void name_that_climbs(io_contents *c) { strcpy(c->entries[0].tensor.name, "/../z"); }
static void name_with_escape(io_contents *c) { strcpy(c->entries[0].tensor.name, "/\033[1m"); }
static void no_name(io_contents *c) { c->entries[0].tensor.name[0] = 0; }
static void relative_name(io_contents *c) { strcpy(c->entries[0].tensor.name, "z"); }
static void twice(io_contents *c) { strcpy(c->entries[0].tensor.name, "/a/b"); }
static void no_rank(io_contents *c) { c->entries[0].tensor.rank = 0; }
static void foreign_element(io_contents *c) { c->entries[0].element = IO_ELEMENTS; }
static void negative_dimension(io_contents *c) { c->entries[0].tensor.shape[0] = -1; }
static void no_elements(io_contents *c) { c->entries[0].tensor.shape[0] = 0; }
static void product_that_wraps(io_contents *c) /* to exactly the bytes that are stated */
{
    c->entries[1].element = IO_F32, c->entries[1].tensor.rank = 1;
    c->entries[1].tensor.shape[0] = (INT64_C(1) << 62) + 7, c->entries[1].tensor.bytes = 28;
}
static void other_bytes(io_contents *c) { c->entries[0].tensor.bytes = 8; }
static void behind_the_end(io_contents *c) { c->entries[0].tensor.offset++; }
static void offset_that_wraps(io_contents *c) { c->entries[0].tensor.offset = UINT64_MAX - 3; }
static void in_the_superblock(io_contents *c) { c->entries[0].tensor.offset = 40; }
static void overlapping(io_contents *c) { c->entries[0].tensor.offset = 129; }
static void attribute_twice(io_contents *c) { strcpy(c->attributes[2].name, "text"); }
static void attribute_that_climbs(io_contents *c) { strcpy(c->attributes[2].name, ".."); }
static void attribute_of_nothing(io_contents *c) { c->attributes[1].object[0] = 0; }
static void nul_in_text(io_contents *c) { c->attributes[0].value.text[2] = 0; }
static void not_a_number(io_contents *c) { c->attributes[4].value.real = NAN; }
static void empty_list(io_contents *c) { c->attributes[2].count = 0; }
static void two_in_one(io_contents *c) { c->attributes[2].list = false; }

/* Each of these comes from a parser that was taken over: the real one does not say such things. */
static void no_lie_passes(void **state)
{
    (void)state;
    static const struct {
        void (*lie)(io_contents *c);
        const char *words;
    } lies[] = { { name_that_climbs, "outside [A-Za-z0-9._-]" },
                 { name_with_escape, "outside [A-Za-z0-9._-]" },
                 { no_name, "outside [A-Za-z0-9._-]" },
                 { relative_name, "outside [A-Za-z0-9._-]" },
                 { twice, "/a/b is there twice" },
                 { no_rank, "rank 0" },
                 { foreign_element, "answer is broken" },
                 { negative_dimension, "dimension 0 is 18446744073709551615" },
                 { no_elements, "dimension 0 is 0" },
                 { product_that_wraps, "dimension 0 is 4611686018427387911" },
                 { other_bytes, "+ 8 (shape: 7)" },
                 { behind_the_end, "of a file of 10000" },
                 { offset_that_wraps, "of a file of 10000" },
                 { in_the_superblock, "of a file of 10000" },
                 { overlapping, "overlap at byte 129" },
                 { attribute_twice, "attribute text is there twice" },
                 { attribute_that_climbs, "an attribute's name" },
                 { attribute_of_nothing, "an attribute's name" },
                 { nul_in_text, "attribute text holds a NUL" },
                 { not_a_number, "attribute real is NaN" },
                 { empty_list, "answer is broken" },
                 { two_in_one, "answer is broken" } };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        io_contents c = sample(), back;
        lies[i].lie(&c);
        const plp_status st = pass(&c, &back);
        if (st != PLP_ERR_DATA) fail_msg("lie %zu: %s instead of \"%s\"", i, plp_status_name(st), lies[i].words);
        assert_words("a lie", lies[i].words);
        io_contents_free(&back);
        io_contents_free(&c);
    }
}

/* Cut anywhere, longer by a byte, or with any byte changed: refused, or a table as good as any.  Never more memory than it has bytes for. */
static void damaged_tables(void **state)
{
    (void)state;
    io_contents c = sample();
    uint8_t *table, *copy;
    size_t bytes;
    int confined, refused = 0;
    assert_int_equal(io_table_make(PLP_OK, IO_CONFINED, &c, &table, &bytes), PLP_OK);
    for (size_t n = 0; n < bytes; n++) {
        io_contents back = { 0 };
        copy = malloc(n + 1); /* exactly as long, for the sanitizer */
        memcpy(copy, table, n);
        assert_int_not_equal(io_table_read(copy, n, "F", &confined, &back), PLP_OK);
        io_contents_free(&back);
        free(copy);
    }
    copy = malloc(bytes + 1);
    memcpy(copy, table, bytes);
    copy[bytes] = 0;
    io_contents back = { 0 };
    assert_int_equal(io_table_read(copy, bytes + 1, "F", &confined, &back), PLP_ERR_DATA);
    io_contents_free(&back);
    for (size_t i = 0; i < bytes; i++)
        for (int change = 1; change < 256; change += 84) {
            back = (io_contents){ 0 };
            copy[i] ^= (uint8_t)change;
            if (io_table_read(copy, bytes, "F", &confined, &back) != PLP_OK || io_contents_check(&back, "F", FILE_BYTES) != PLP_OK)
                refused++;
            io_contents_free(&back);
            copy[i] ^= (uint8_t)change;
        }
    assert_true(refused > (int)bytes);
    free(copy);
    free(table);
    io_contents_free(&c);
}

/* The parser's own words: its codes are ours or bad data, its text is one line. */
static void failures_come_through(void **state)
{
    (void)state;
    uint8_t *table;
    size_t bytes;
    int confined;
    io_contents none = { 0 };
    static const struct {
        plp_status said, heard;
    } rows[] = { { PLP_ERR_DATA, PLP_ERR_DATA },  { PLP_ERR_IO, PLP_ERR_IO },        { PLP_ERR_INTERNAL, PLP_ERR_INTERNAL },
                 { PLP_ERR_PERM, PLP_ERR_DATA },  { PLP_ERR_PARTIAL, PLP_ERR_DATA }, { PLP_ERR_STOPPED, PLP_ERR_DATA },
                 { PLP_ERR_MEMORY, PLP_ERR_DATA } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        (void)PLP_FAIL(PLP_ERR_DATA, "%s", "F: no good: 100%s%n");
        assert_int_equal(io_table_make(rows[i].said, IO_CONFINED, NULL, &table, &bytes), PLP_OK);
        assert_int_equal(io_table_read(table, bytes, "F", &confined, &none), rows[i].heard);
        assert_words("a failure",
                     rows[i].said == PLP_ERR_MEMORY ? "F: could not be parsed safely: it needs more memory than 2048 MiB" : "100%s%n");
        free(table);
    }
    assert_int_equal(io_table_read((const uint8_t *)"\1\2\3", 3, "F", &confined, &none), PLP_ERR_INTERNAL);
    assert_words("garbage", "install the program and its");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_layer_suffices),    cmocka_unit_test(a_parser_that_breaks_is_bad_data),
        cmocka_unit_test(nothing_is_left_behind), cmocka_unit_test(a_table_comes_back),
        cmocka_unit_test(no_lie_passes),          cmocka_unit_test(damaged_tables),
        cmocka_unit_test(failures_come_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
