/* Lines: ends, marks and limits, whatever the pieces in which they are read; strict JSON, by the byte. */
#include "base/error.h"
#include "base/json.h"
#include "io/jsonl.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int file_of(const char *text, size_t bytes)
{
    char name[] = "/tmp/plp_jsonl_XXXXXX";
    const int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    assert_int_equal(write(fd, text, bytes), bytes);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void lines_end_as_they_may(void **state)
{
    (void)state;
    static const char text[] = "\xef\xbb\xbf{\"a\":1}\r\n\n{\"b\":\"\xc3\xa4\r\"}\nlast";
    static const struct {
        const char *text;
        int64_t offset;
        bool ended;
    } want[] = { { "{\"a\":1}", 3, true }, { "", 12, true }, { "{\"b\":\"\xc3\xa4\r\"}", 13, true }, { "last", 25, false } };
    const int fd = file_of(text, sizeof text - 1);
    io_lines *l;
    io_line line;
    bool more;
    char digest[65], whole[65];
    int64_t count;
    assert_int_equal(io_lines_create(&l, fd, 1000, "a file"), PLP_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
        assert_true(more);
        assert_string_equal(line.text, want[i].text);
        assert_int_equal(line.bytes, strlen(want[i].text));
        assert_int_equal(line.number, i + 1);
        assert_int_equal(line.offset, want[i].offset);
        assert_int_equal(line.ended, want[i].ended);
        assert_int_equal(line.next, i < 3 ? want[i + 1].offset : (int64_t)sizeof text - 1);
    }
    assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
    assert_false(more);
    io_lines_digest(l, digest);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(io_lines_measure(fd, "a file", whole, &count), PLP_OK);
    assert_string_equal(digest, whole);
    assert_int_equal(count, 4);
    io_lines_destroy(&l);
    close(fd);
}

/* Lengths around the limit and around the pieces in which a file is read. */
static void the_limit_is_a_limit(void **state)
{
    (void)state;
    static const size_t lengths[] = { 0, 1, 999, 1000, 1001, 2000, 262142, 262143, 262144, 262145, 600000, 3 };
    enum { LENGTHS = sizeof lengths / sizeof *lengths };
    for (size_t most = 1000; most <= 300000; most += 299000) {
        size_t total = 0, at = 0;
        for (int i = 0; i < LENGTHS; i++) total += lengths[i] + 1;
        char *text = malloc(total);
        assert_non_null(text);
        for (int i = 0; i < LENGTHS; i++) {
            memset(text + at, 'a' + i, lengths[i]);
            at += lengths[i];
            text[at++] = '\n';
        }
        const int fd = file_of(text, total);
        io_lines *l;
        io_line line;
        bool more;
        assert_int_equal(io_lines_create(&l, fd, most, "a file"), PLP_OK);
        for (int i = 0; i < LENGTHS; i++) {
            assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
            assert_true(more);
            assert_int_equal(line.bytes, lengths[i]);
            assert_int_equal(line.text != NULL, lengths[i] <= most);
            for (size_t k = 0; line.text != NULL && k < line.bytes; k++) assert_int_equal(line.text[k], 'a' + i);
        }
        assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
        assert_false(more);
        io_lines_destroy(&l);
        close(fd);
        free(text);
    }
}

static int64_t peak_kilobytes(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_maxrss;
}

/* A line of 64 MiB, of which a megabyte is looked at, and ten million lines: neither is ever in memory. */
static void memory_is_that_of_the_limit(void **state)
{
    (void)state;
    enum { LIMIT = 1 << 20, LINES = 10000000 };
    char name[] = "/tmp/plp_jsonl_XXXXXX";
    const int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    assert_int_equal(ftruncate(fd, (off_t)1 << 26), 0); /* zeros that take no room on the disk */
    io_lines *l;
    io_line line;
    bool more;
    const int64_t before = peak_kilobytes();
    assert_int_equal(io_lines_create(&l, fd, LIMIT, "a file"), PLP_OK);
    assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
    assert_true(more && line.text == NULL && line.bytes == (size_t)1 << 26);
    assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
    assert_false(more);
    io_lines_destroy(&l);
    assert_int_equal(ftruncate(fd, 0), 0);
    char block[4096];
    for (size_t i = 0; i < sizeof block; i++) block[i] = "[]\n\n"[i % 4]; /* two lines every four bytes */
    for (int i = 0; i < LINES / 2048 + 1; i++)
        assert_int_equal(pwrite(fd, block, sizeof block, (off_t)i * (off_t)sizeof block), sizeof block);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    assert_int_equal(io_lines_create(&l, fd, LIMIT, "a file"), PLP_OK);
    int64_t lines = -1;
    do {
        lines++;
        assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
    } while (more);
    assert_int_equal(lines, (LINES / 2048 + 1) * 2048);
    io_lines_destroy(&l);
    close(fd);
#ifndef PLP_SANITIZED /* which keeps what was freed */
    assert_true(peak_kilobytes() - before < 2 * LIMIT / 1024 + 2048);
#else
    (void)before;
#endif
}

/* What RFC 8259 says, where parsers are found to differ. */
static void json_is_strict(void **state)
{
    (void)state;
    static const char *const good[] = { "{}",
                                        " [1, -0, 0.5, 1e3, 1E+3, 2.5e-7] ",
                                        "\"\"",
                                        "null",
                                        "true",
                                        "{\"a\":{\"a\":1},\"b\":[{\"a\":1},{\"a\":2}]}",
                                        "\"\\u00e4\\ud83d\\ude00\\\"\\/\\b\"",
                                        "\"\xf0\x9f\x98\x80 \xed\x9f\xbf \xee\x80\x80\"",
                                        "[[],{}]\t\r\n" };
    static const struct {
        const char *text, *part;
    } bad[] = { { "", "byte 1" },
                { "[1,]", "byte 4" },
                { "{\"a\":1,}", "byte 8" },
                { "{\"a\" 1}", "byte 6: a colon" },
                { "{a:1}", "byte 2: a string" },
                { "[01]", "byte 3" },
                { "[-01]", "byte 4" },
                { "[1.]", "byte 4" },
                { "[.5]", "byte 2" },
                { "[+1]", "byte 2" },
                { "[1e]", "byte 4" },
                { "[0x1]", "byte 3" },
                { "[NaN]", "byte 2" },
                { "[-Infinity]", "byte 3" },
                { "[True]", "byte 2" },
                { "[1]x", "byte 4: text behind" },
                { "[1 2]", "byte 4" },
                { "'a'", "byte 1" },
                { "/**/1", "byte 1" },
                { "\"a\tb\"", "byte 3: a control" },
                { "\"a", "byte 3: the string does not end" },
                { "\"\\x41\"", "byte 3: unknown escape" },
                { "\"\\u12g4\"", "unknown escape" },
                { "\"\\ud800\"", "half a surrogate" },
                { "\"\\udc00\"", "half a surrogate" },
                { "\"\\ud800\\u0041\"", "half a surrogate" },
                { "\"\xc0\x80\"", "byte 2: invalid UTF-8" },
                { "\"\xe0\x9f\xbf\"", "byte 2: invalid UTF-8" },
                { "\"\xed\xa0\x80\"", "byte 2: invalid UTF-8" },
                { "\"\xf4\x90\x80\x80\"", "byte 2: invalid UTF-8" },
                { "\"ab\xff\"", "byte 4: invalid UTF-8" },
                { "\"ab\xc3", "byte 4: invalid UTF-8" },
                { "{\"a\":1,\"b\":2,\"a\":3}", "field \"a\" comes twice" },
                { "\xef\xbb\xbf{}", "byte 1" } };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (plp_json_check(good[i], strlen(good[i]), "x") != PLP_OK) fail_msg("%s: %s", good[i], plp_last_error());
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (plp_json_check(bad[i].text, strlen(bad[i].text), "x") != PLP_ERR_DATA) fail_msg("%s is accepted", bad[i].text);
        if (strstr(plp_last_error(), bad[i].part) == NULL) fail_msg("%s: %s, want %s", bad[i].text, plp_last_error(), bad[i].part);
    }
    assert_int_equal(plp_json_check("\"a\0b\"", 5, "x"), PLP_ERR_DATA);
    assert_non_null(strstr(plp_last_error(), "byte 3: a NUL"));
    char deep[200];
    memset(deep, '[', 100), memset(deep + 100, ']', 100);
    assert_int_equal(plp_json_check(deep, 200, "x"), PLP_ERR_DATA);
    assert_int_equal(plp_json_check(deep + 40, 120, "x"), PLP_OK);
}

static bool ready(io_lines *l)
{
    bool there = false;
    assert_int_equal(io_lines_ready(l, 0, &there), PLP_OK);
    return there;
}

static void a_stream_says_when_a_line_is_there(void **state)
{
    (void)state;
    int ends[2];
    io_lines *l;
    io_line line;
    bool more;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(io_lines_create(&l, ends[0], 1000, "a pipe"), PLP_OK);
    assert_false(ready(l));
    assert_int_equal(write(ends[1], "a", 1), 1);
    assert_false(ready(l));
    assert_int_equal(write(ends[1], "\nbc", 3), 3); /* two bytes are less than a mark */
    assert_true(ready(l));
    assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
    assert_true(more);
    assert_string_equal(line.text, "a");
    assert_false(ready(l));
    close(ends[1]);
    assert_true(ready(l));
    assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
    assert_true(more && !line.ended);
    assert_string_equal(line.text, "bc");
    assert_true(ready(l));
    assert_int_equal(io_lines_next(l, &line, &more), PLP_OK);
    assert_false(more);
    io_lines_destroy(&l);
    close(ends[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_says_when_a_line_is_there),
        cmocka_unit_test(lines_end_as_they_may),
        cmocka_unit_test(the_limit_is_a_limit),
        cmocka_unit_test(memory_is_that_of_the_limit),
        cmocka_unit_test(json_is_strict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
