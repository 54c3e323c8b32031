/* The command line: every kind of value, and what is refused, by name and with its range. */
#include "base/error.h"
#include "base/options.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static struct {
    bool json;
    int64_t tokens;
    double top_p;
    const char *prompt, *out;
    plp_texts stop;
    plp_ints ids;
    int device;
} got;

static const plp_option options[] = {
    { "--json", NULL, NULL, PLP_OPTION_FLAG, &got.json, 0, 0, "one object" },
    { "--max-tokens", "-n", "N", PLP_OPTION_INT, &got.tokens, 1, 1000, "tokens" },
    { "--top-p", NULL, "P", PLP_OPTION_REAL, &got.top_p, 0, 1, "mass" },
    { "--prompt", NULL, "TEXT", PLP_OPTION_TEXT, &got.prompt, 0, 0, "prompt" },
    { "--stop", NULL, "TEXT", PLP_OPTION_TEXTS, &got.stop, 1, 0, "stop strings" },
    { "--ids", NULL, "1,2", PLP_OPTION_INTS, &got.ids, 0, 99, "ids" },
    { "--device", NULL, "auto|cpu|cuda", PLP_OPTION_CHOICE, &got.device, 0, 0, "where" },
    { "--out", NULL, "OUT.h5", PLP_OPTION_TEXT, &got.out, 1, 0, "a file" },
};
static const plp_option_table table = { "Options", options, sizeof options / sizeof *options };

static const char *words[2];
static int count;

enum { MOST_ARGS = 16 };
static plp_status parse(const char *a, ...)
{
    char *argv[MOST_ARGS];
    int argc = 0;
    va_list args;
    va_start(args, a);
    for (const char *p = a; p != NULL && argc < MOST_ARGS; p = va_arg(args, const char *)) argv[argc++] = (char *)(uintptr_t)p;
    va_end(args);
    free(got.ids.item);
    memset(&got, 0, sizeof got);
    return plp_options_parse(&table, 1, argc, argv, words, 2, &count);
}

static void refused(plp_status st, const char *part)
{
    assert_int_equal(st, PLP_ERR_USAGE);
    if (strstr(plp_last_error(), part) == NULL) fail_msg("\"%s\" does not say \"%s\"", plp_last_error(), part);
}

static void every_kind_is_read(void **state)
{
    (void)state;
    assert_int_equal(parse("in", "--json", "-n", "12", "--top-p=0.5", "--prompt", "--json", "--stop", "a", "--stop=b=c", "--ids", "1,22,3",
                           "--device", "cuda", NULL),
                     PLP_OK);
    assert_true(got.json);
    assert_int_equal(got.tokens, 12);
    assert_true(got.top_p == 0.5);
    assert_string_equal(got.prompt, "--json"); /* a value may look like an option */
    assert_int_equal(got.stop.count, 2);
    assert_string_equal(got.stop.item[1], "b=c");
    assert_int_equal(got.ids.count, 3);
    assert_int_equal(got.ids.item[1], 22);
    assert_int_equal(got.device, 2);
    assert_int_equal(count, 1);
    assert_string_equal(words[0], "in");
    assert_int_equal(parse("--", "--json", "-", NULL), PLP_OK);
    assert_false(got.json);
    assert_int_equal(count, 2);
    assert_int_equal(parse("--prompt=", NULL), PLP_OK);
    assert_string_equal(got.prompt, "");
}

static void mistakes_are_named(void **state)
{
    (void)state;
    refused(parse("--max-token", "3", NULL), "did you mean --max-tokens?");
    refused(parse("--tokens-max", "3", NULL), "unknown option --tokens-max");
    refused(parse("--divice=cpu", NULL), "did you mean --device?");
    const char *const bad[] = { "0", "1001", "2x", "", " 5", "+5", "1.5", "99999999999999999999", "-1" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refused(parse("--max-tokens", bad[i], NULL), "from 1 to 1000");
    refused(parse("--top-p", "nan", NULL), "from 0 to 1");
    refused(parse("--top-p", "1.01", NULL), "from 0 to 1");
    refused(parse("--top-p", "0,5", NULL), "from 0 to 1");
    refused(parse("--ids", "1,,2", NULL), "--ids 1,,2: number 2; command line; fix: give integers from 0 to 99");
    refused(parse("--ids", "1,2,", NULL), "--ids 1,2,: number 3;");
    refused(parse("--ids", ",1", NULL), "--ids ,1: number 1;");
    refused(parse("--ids", "1, 2", NULL), "--ids 1, 2: number 2;");
    refused(parse("--ids", "1,100", NULL), "--ids 1,100: number 2; command line; fix: give integers from 0 to 99");
    refused(parse("--device", "gpu", NULL), "auto|cpu|cuda");
    refused(parse("--device", "cp", NULL), "auto|cpu|cuda");
    refused(parse("--prompt", NULL), "value is missing");
    refused(parse("--json=1", NULL), "takes no value");
    refused(parse("--stop", "", NULL), "empty value");
    const char *const cut[] = { "\xff", "a\xc3", "\xc3(", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82" };
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) refused(parse("--stop", cut[i], NULL), ": invalid UTF-8; command line; fix:");
    assert_int_equal(parse("--stop", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x8e\x89", "--prompt", "\xff", NULL), PLP_OK); /* prompts are repaired */
    refused(parse("a", "b", "c", NULL), "unexpected argument c");
    char *huge = malloc(1 << 20);
    memset(huge, '-', (1 << 20) - 1);
    huge[(1 << 20) - 1] = 0;
    refused(parse(huge, NULL), "unknown option ----");
    assert_true(strlen(plp_last_error()) < 400);
    free(huge);
}

/* Where --help stands among these, as a value or not. */
static void values_name_no_option(void **state)
{
    (void)state;
    static const struct {
        const char *argv[6];
        bool named;
    } rows[] = {
        { { "--help" }, true },
        { { "-h" }, true },
        { { "in", "--json", "-h" }, true },
        { { "--prompt", "--help" }, false },
        { { "--stop", "-h", "-n", "2" }, false },
        { { "--prompt", "--help", "--help" }, true },
        { { "--prompt=--help" }, false },
        { { "--prompt=x", "--help" }, true },
        { { "--unknown", "--help" }, true },
        { { "--prompt", "--", "--help" }, true }, /* the prompt is "--" */
        { { "--", "--help" }, false },
        { { "--help=1" }, false },
        { { "--prompt" }, false },
        { { "", "-", NULL }, false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *argv[6];
        int argc = 0;
        for (; rows[i].argv[argc] != NULL; argc++) argv[argc] = (char *)(uintptr_t)rows[i].argv[argc];
        if (plp_options_name(&table, 1, argc, argv, "--help", "-h") != rows[i].named) fail_msg("row %zu", i);
    }
}

/* Equal values are equal texts, others are others, whatever their length. */
static void values_are_texts(void **state)
{
    (void)state;
    static const struct {
        const char *option, *value, *text;
    } rows[] = {
        { "-n", "012", "12" },      { "--top-p", "0.10", "0.1" },         { "--top-p", "1e-1", "0.1" },
        { "--prompt", "", "\"\"" }, { "--prompt", "a\"b", "\"a\\\"b\"" }, { "--stop", "a", "\"a\"" },
        { "--ids", "1,02", "1,2" }, { "--device", "cuda", "cuda" },       { "--out", "x.h5", "a path" },
    };
    char text[64], other[64], value[256] = "";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int o = 0; o < table.count; o++) {
            const bool named = strcmp(options[o].name, rows[i].option) == 0;
            if (!named && (options[o].letter == NULL || strcmp(options[o].letter, rows[i].option) != 0)) continue;
            assert_int_equal(parse(rows[i].option, rows[i].value, NULL), PLP_OK);
            plp_option_text(&options[o], text, sizeof text);
            assert_string_equal(text, rows[i].text);
        }
    assert_int_equal(parse("a", NULL), PLP_OK);
    plp_option_text(&options[3], text, sizeof text);
    assert_string_equal(text, ""); /* --prompt, not given */
    for (int last = 'a'; last <= 'b'; last++) {
        memset(value, 'x', sizeof value - 2);
        value[sizeof value - 2] = (char)last;
        assert_int_equal(parse("--prompt", value, NULL), PLP_OK);
        plp_option_text(&options[3], last == 'a' ? text : other, sizeof text);
    }
    assert_int_equal(strlen(text), sizeof text - 1);
    assert_string_not_equal(text, other);
    assert_memory_equal(text, other, 40);
    assert_int_equal(parse("--stop", "a", "--stop", "b", NULL), PLP_OK);
    plp_option_text(&options[4], text, sizeof text);
    assert_int_equal(parse("--stop", "a\" \"b", NULL), PLP_OK);
    plp_option_text(&options[4], other, sizeof other);
    assert_string_not_equal(text, other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_read),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(values_name_no_option),
        cmocka_unit_test(values_are_texts),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(got.ids.item);
    return failed;
}
