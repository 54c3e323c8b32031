/* tokenizer.json files that must not be read, texts that must not hold anything up, and no file that crashes us. */
#include "base/error.h"
#include "base/json.h"
#include "text/tokenizer.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Printed, not asserted: what grows faster than it should runs into the test's limit. */
static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* A file of these members, in this order; NULL: the default. */
typedef struct {
    const char *model, *normalizer, *pre_tokenizer, *post_processor, *decoder, *added;
} file;

static const char PLAIN[] = "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"Ġ\": 7}, \"merges\": [\"a b\"]}";

static plp_status create(text_tokenizer **t, const file *f)
{
    char text[4096];
    const int n = snprintf(
        text, sizeof text,
        "{\"version\": \"1.0\", \"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, \"post_processor\": %s, "
        "\"decoder\": %s, \"model\": %s}",
        f->added ? f->added : "[]", f->normalizer ? f->normalizer : "null", f->pre_tokenizer ? f->pre_tokenizer : "null",
        f->post_processor ? f->post_processor : "null", f->decoder ? f->decoder : "null", f->model ? f->model : PLAIN);
    assert_true(n > 0 && n < (int)sizeof text);
    return text_tokenizer_create(t, text, (size_t)n, "t.json");
}

static void refused(const file *f, const char *message)
{
    text_tokenizer *t = NULL;
    const plp_status st = create(&t, f);
    if (st == PLP_OK) fail_msg("a file was read that should be refused with '%s'", message);
    assert_int_equal(st, PLP_ERR_DATA);
    assert_null(t);
    if (strstr(plp_last_error(), message) == NULL) fail_msg("refused with '%s', which does not say '%s'", plp_last_error(), message);
    if (strstr(plp_last_error(), "t.json") == NULL) fail_msg("'%s' does not say where", plp_last_error());
    if (strstr(plp_last_error(), "; fix: ") == NULL) fail_msg("'%s' does not say what to do", plp_last_error());
}

static void unknown_components_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const normalizers[] = { "BertNormalizer", "StripAccents", "Nmt", "Precompiled", "ByteLevel" };
    static const char *const splitters[] = { "BertPreTokenizer",   "Whitespace",     "WhitespaceSplit",
                                             "CharDelimiterSplit", "UnicodeScripts", "FixedLength" };
    static const char *const processors[] = { "RobertaProcessing", "BertProcessing" };
    static const char *const decoders[] = { "BPEDecoder", "WordPiece", "CTC", "NoSuchThing" };
    static const char *const models[] = { "WordPiece", "WordLevel", "Unigram" };
    char one[256], many[512];
#define EACH(names, member, key)                                                                                                           \
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {                                                                            \
        snprintf(one, sizeof one, "{\"type\": \"%s\"}", names[i]);                                                                         \
        snprintf(many, sizeof many, "{\"type\": \"Sequence\", \"" key "\": [%s]}", one);                                                   \
        refused(&(file){ .member = one }, names[i]);                                                                                       \
        refused(&(file){ .member = many }, names[i]);                                                                                      \
    }
    EACH(normalizers, normalizer, "normalizers")
    EACH(splitters, pre_tokenizer, "pretokenizers")
    EACH(processors, post_processor, "processors")
    EACH(decoders, decoder, "decoders")
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        snprintf(one, sizeof one, "{\"type\": \"%s\", \"vocab\": {}, \"merges\": []}", models[i]);
        refused(&(file){ .model = one }, models[i]);
    }
}

#define MODEL(vocab, merges, more) "{\"type\": \"BPE\", \"vocab\": " vocab ", \"merges\": " merges more "}"
#define ADDED(id, content)         "[{\"id\": " id ", \"content\": \"" content "\"}]"

static void malformed_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        file f;
        const char *message;
    } rows[] = {
        { { .model = "[]" }, "model" },
        { { .model = "null" }, "model" },
        { { .model = "{\"type\": \"BPE\", \"merges\": []}" }, "vocab" },
        { { .model = "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}}" }, "merges" },
        { { .model = MODEL("{}", "[]", "") }, "no tokens" },
        { { .model = MODEL("[]", "[]", "") }, "vocab" },
        { { .model = MODEL("{\"a\": -1}", "[]", "") }, "-1" },
        { { .model = MODEL("{\"a\": 2147483648}", "[]", "") }, "2147483648" },
        { { .model = MODEL("{\"a\": 1e300}", "[]", "") }, "outside" },
        { { .model = MODEL("{\"a\": 1.5}", "[]", "") }, "1.5" },
        { { .model = MODEL("{\"a\": \"0\"}", "[]", "") }, "integer" },
        { { .model = MODEL("{\"a\": null}", "[]", "") }, "no id" },
        { { .model = MODEL("{\"a\": 3, \"b\": 3}", "[]", "") }, "id 3" },
        { { .model = MODEL("{\"\": 0}", "[]", "") }, "empty" },
        { { .model = MODEL("{\"a\\\\\\u0000b\": 0}", "[]", "") }, "NUL" },
        { { .normalizer = "{\"type\": \"Prepend\", \"prepend\": \"\xc0\xb7\"}" }, "invalid UTF-8" },
        { { .model = MODEL("{\"\\ud800\": 0, \"\\ud801\": 1}", "[]", "") }, "half a surrogate pair" },
        { { .model = MODEL("{\"\\uDFFF\": 0}", "[]", "") }, "half a surrogate pair" },
        { { .model = MODEL("{\"\\ud83d\\u0041\": 0}", "[]", "") }, "half a surrogate pair" },
        { { .added = ADDED("9", "\\\\\\ud800") }, "half a surrogate pair" },
        { { .model = MODEL("{\"a\": 0}", "[\"a\"]", "") }, "number 0" },
        { { .model = MODEL("{\"a\": 0}", "[\"a a a\"]", "") }, "number 0" },
        { { .model = MODEL("{\"a\": 0, \"aa\": 1}", "[\"a a\", [\"a\"]]", "") }, "number 1" },
        { { .model = MODEL("{\"a\": 0}", "[[\"a\", 1]]", "") }, "number 0" },
        { { .model = MODEL("{\"a\": 0}", "[7]", "") }, "number 0" },
        { { .model = MODEL("{\"a\": 0}", "[[\"\", \"\"]]", "") }, "number 0 is of two empty" },
        { { .model = MODEL("{\"a\": 0}", "[[\"a\", \"zzzzzzzzzzzzzzzzzzzzzzzz\"]]", "") }, "the second" },
        { { .model = MODEL("{\"a\": 0}", "[[\"\", \"a\"]]", "") }, "the first" },
        { { .model = MODEL("{\"a\": 0}", "[\"a a\"]", "") }, "what they become" },
        { { .model = MODEL("{\"a\": 0}", "[]", ", \"dropout\": 0.1") }, "dropout" },
        { { .model = MODEL("{\"a\": 0}", "[]", ", \"continuing_subword_prefix\": \"##\"") }, "##" },
        { { .model = MODEL("{\"a\": 0}", "[]", ", \"end_of_word_suffix\": \"</w>\"") }, "</w>" },
        { { .model = MODEL("{\"a\": 0}", "[]", ", \"fuse_unk\": 1") }, "fuse_unk" },
        { { .added = "{}" }, "added_tokens" },
        { { .added = "[3]" }, "content" },
        { { .added = ADDED("-1", "x") }, "-1" },
        { { .added = ADDED("99999999999", "x") }, "99999999999" },
        { { .added = ADDED("9", "") }, "id 9" },
        { { .added = ADDED("9", "a") }, "has id 9, but 0" },
        { { .added = ADDED("0", "x") }, "id 0 of 'x' is that of 'a'" },
        { { .added = "[{\"id\": 9, \"content\": \"x\"}, {\"id\": 9, \"content\": \"y\"}]" }, "id 9" },
        { { .added = "[{\"id\": 9, \"content\": \"x\", \"special\": \"yes\"}]" }, "special" },
        { { .normalizer = "{}" }, "normalizer" },
        { { .normalizer = "{\"type\": 3}" }, "normalizer" },
        { { .normalizer = "{\"type\": \"Sequence\"}" }, "normalizers" },
        { { .normalizer = "{\"type\": \"Prepend\"}" }, "prepend" },
        { { .normalizer = "{\"type\": \"Strip\", \"strip_left\": true}" }, "strip_right" },
        { { .normalizer = "{\"type\": \"Replace\", \"content\": \"x\"}" }, "pattern" },
        { { .normalizer = "{\"type\": \"Replace\", \"pattern\": {\"Glob\": \"x\"}, \"content\": \"x\"}" }, "String" },
        { { .normalizer = "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"x\"}" }, "0 bytes" },
        { { .pre_tokenizer = "[]" }, "pre_tokenizer" },
        { { .pre_tokenizer = "{\"type\": \"ByteLevel\"}" }, "add_prefix_space" },
        { { .pre_tokenizer = "{\"type\": \"Digits\", \"individual_digits\": 1}" }, "individual_digits" },
        { { .pre_tokenizer = "{\"type\": \"Punctuation\", \"behavior\": \"Isolate\"}" }, "Isolate" },
        { { .pre_tokenizer = "{\"type\": \"Split\", \"pattern\": {\"String\": \"x\"}, \"behavior\": \"Removed\"}" }, "invert" },
        { { .pre_tokenizer = "{\"type\": \"Metaspace\", \"replacement\": \"ab\"}" }, "one character" },
        { { .pre_tokenizer = "{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"last\"}" }, "last" },
        { { .pre_tokenizer =
                "{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"first\", \"add_prefix_space\": false}" },
          "add_prefix_space" },
        { { .post_processor = "{\"type\": \"TemplateProcessing\"}" }, "single" },
        { { .post_processor = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}], "
                              "\"special_tokens\": {}}" },
          "<s>" },
        { { .post_processor = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"s\"}}], "
                              "\"special_tokens\": {\"s\": {\"ids\": [-1]}}}" },
          "-1" },
        { { .post_processor = "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"s\"}}], "
                              "\"special_tokens\": {\"s\": {\"ids\": [5]}}}" },
          "id 5 is no token's" },
        { { .post_processor = "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"B\"}}]}" }, "sequence B" },
        { { .post_processor = "{\"type\": \"TemplateProcessing\", \"single\": [\"$A\"]}" }, "Sequence" },
        { { .decoder = "{\"type\": \"Strip\", \"content\": \"\", \"start\": 1, \"stop\": 0}" }, "one character" },
        { { .decoder = "{\"type\": \"Strip\", \"content\": \" \", \"start\": -1, \"stop\": 0}" }, "-1" },
        { { .decoder = "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}" }, "expression" },
    };
    text_tokenizer *t = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) refused(&rows[i].f, rows[i].message);
    /* A part that is not known; a key that a component does not know is passed over. */
    refused(&(file){ .added = "[], \"post_normalizer\": null" }, "t.json: key: post_normalizer is not supported; fix: ");
    refused(&(file){ .model = "{}, \"zz\": 1" }, "key: zz is not supported");
    assert_int_equal(create(&t, &(file){ .normalizer = "{\"type\": \"Lowercase\", \"zz\": 1}" }), PLP_OK);
    text_tokenizer_destroy(&t);
    /* A whole pair is a character, and what stands behind an escaped backslash is no escape. */
    assert_int_equal(create(&t, &(file){ .model = MODEL("{\"\\ud83d\\ude00\": 0, \"\\\\ud800\": 1}", "[]", "") }), PLP_OK);
    assert_string_equal(text_tokenizer_token(t, 0), "\xf0\x9f\x98\x80");
    assert_string_equal(text_tokenizer_token(t, 1), "\\ud800");
    text_tokenizer_destroy(&t);
    static const char *const texts[] = {
        "", "[]", "null", "3", "{", "{\"version\": \"2.0\"}", "{\"version\": 1}", "{\"version\": \"1.0\"}", "{} {}"
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(text_tokenizer_create(&t, texts[i], strlen(texts[i]), "t.json"), PLP_ERR_DATA);
        assert_non_null(strstr(plp_last_error(), "; fix: "));
    }
}

static void expressions_that_mean_something_else_to_pcre2_are_refused(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        { "\\\\h", "\\h" },
        { "\\\\v", "\\v" },
        { "\\\\R", "\\R" },
        { "\\\\bx", "\\b" },
        { "(a)\\\\1", "\\1" },
        { "[[:alpha:]]", "class" },
        { "[a-z&&[^b]]", "class" },
        { "[^[b]]", "class" },
        { "[]a]", "empty class" },
        { "[\\\\W]", "\\W" },
        { "(?<n>a)", "(?<" },
        { "(?m:a)", "(?m" },
        { "a(?i)b", "(?i" },
        { "(*UCP)a", "(*U" },
        { "(?#c)", "(?#" },
        { "a{,3}", "quantifier" },
        { "a{2}+", "behind" },
        { "a{2}?", "behind" },
        { "{a}", "quantifier" },
        { "a\\\\", "nothing" },
        { "\\\\pL", "\\p" },
        { "\\\\x41", "\\x" },
        { "\\\\p{NoSuch}", "PCRE2" },
        { "\\\\p{Graph}", "PCRE2" },
        { "[\\\\P{Alnum}]", "\\P{Alnum}' at byte 1: not supported inside a class" },
        { "[\\\\p{^Punct}]", "\\p{^Punct}" },
        { "\\\\u12", "\\u" },
        { "a)", "PCRE2" },
        { "", "0 bytes" },
        { "[b-a]", "PCRE2" },
        { "(?<=a+)b", "PCRE2" },
        { "((a{900}){900}){900}", "PCRE2" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char splitter[512];
        snprintf(splitter, sizeof splitter,
                 "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\", \"invert\": false}", rows[i][0]);
        refused(&(file){ .pre_tokenizer = splitter }, rows[i][1]);
    }
}

/* ---- time ---- */

static char *run_of(const char *unit, size_t bytes)
{
    char *text = malloc(bytes);
    assert_non_null(text);
    for (size_t i = 0; i < bytes; i++) text[i] = unit[i % strlen(unit)];
    return text;
}

static plp_status encode_run(const file *f, const char *unit, size_t bytes, size_t *count)
{
    text_tokenizer *t = NULL;
    int *ids = NULL;
    char *text = run_of(unit, bytes);
    assert_int_equal(create(&t, f), PLP_OK);
    const plp_status st = text_encode(t, text, bytes, true, &ids, count);
    text_tokenizer_destroy(&t);
    free(text);
    free(ids);
    return st;
}

static void no_expression_holds_up_a_run(void **state)
{
    (void)state;
    static const char *const rows[] = { "(a+)+$",        "(a|a)*b",    "(?:a|aa)+b",
                                        "a*a*a*a*b",     "a*b|a",      "(?:a|a)(?:a|a)(?:a|a)(?:a|a)(?:a|a)(?:a|a)b|a",
                                        "(?=a*b)a|a",    "(?:a*)*b|a", "(a?){60}b|a",
                                        "\\\\w+\\\\d|a", "x*",         "(?i:A+)",
                                        "(?<=aaa)a|a" };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char splitter[512];
        size_t count = 0;
        snprintf(splitter, sizeof splitter,
                 "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\", \"invert\": false}", rows[i]);
        const double start = cpu_seconds();
        const plp_status st = encode_run(&(file){ .pre_tokenizer = splitter }, "a", 1 << 20, &count);
        const double took = cpu_seconds() - start;
        if (st == PLP_OK)
            assert_int_equal(count, 1 << 20);
        else
            assert_non_null(strstr(plp_last_error(), "expression")), assert_non_null(strstr(plp_last_error(), "; fix: "));
        print_message("  %-50s %5.2f s  %s\n", rows[i], took, st == PLP_OK ? "ok" : plp_last_error());
    }
}

static void encode_file(const char *path, const char *unit, size_t bytes)
{
    char *json = NULL, *text = run_of(unit, bytes);
    size_t length = 0, count = 0;
    text_tokenizer *t = NULL;
    int *ids = NULL;
    assert_int_equal(plp_read_file(path, 1 << 24, &json, &length), PLP_OK);
    assert_int_equal(text_tokenizer_create(&t, json, length, path), PLP_OK);
    const double start = cpu_seconds();
    assert_int_equal(text_encode(t, text, bytes, true, &ids, &count), PLP_OK);
    const double took = cpu_seconds() - start;
    print_message("  %5.2f s for %zu bytes, %zu ids; %s\n", took, bytes, count, strrchr(path, '/'));
    text_tokenizer_destroy(&t);
    free(json);
    free(text);
    free(ids);
}

static void long_words_take_no_longer_than_their_length(void **state)
{
    (void)state;
    static const char *const files[] = { PLP_DEMO "/tokenizer.json", PLP_TEST_DATA "/tokenizer/neox.json",
                                         PLP_TEST_DATA "/tokenizer/llama3.json", PLP_TEST_DATA "/tokenizer/tekken.json",
                                         PLP_TEST_DATA "/tokenizer/sentencepiece.json" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        encode_file(files[i], "a", 1 << 20);
        encode_file(files[i], " ", 1 << 20);
        encode_file(files[i], "the", 1 << 20);
    }
    encode_file(files[0], "in", 10 << 20);
    encode_file(files[1], "e\xcc\x81\xcc\xa3\xcc\x81\xcc\xa3", 1 << 20); /* marks out of their canonical order */
    encode_file(files[1], "\xcc\x81\xcc\xa3\xcc\x81\xcc\xa3", 1 << 20);  /* and nothing else: one run of them  */
    static const file doubling = { .model = MODEL("{\"a\": 0, \"aa\": 1, \"aaaa\": 2, \"aaaaaaaa\": 3}",
                                                  "[\"a a\", \"aa aa\", \"aaaa aaaa\"]", "") };
    size_t count = 0;
    const double start = cpu_seconds();
    assert_int_equal(encode_run(&doubling, "a", 10 << 20, &count), PLP_OK);
    assert_int_equal(count, 10 << 17);
    print_message("  %5.2f s for a word of 10 MiB\n", cpu_seconds() - start);
}

/* ---- answers of the reference (tokenizers 0.23.3) that no recorded file asks for ---- */

static void encodes(const file *f, const char *text, size_t count, const int *want)
{
    text_tokenizer *t = NULL;
    int *ids = NULL;
    size_t got = 0;
    assert_int_equal(create(&t, f), PLP_OK);
    assert_int_equal(text_encode(t, text, strlen(text), true, &ids, &got), PLP_OK);
    assert_int_equal(got, count);
    for (size_t i = 0; i < count; i++) assert_int_equal(ids[i], want[i]);
    free(ids);
    text_tokenizer_destroy(&t);
}

static void byte_tokens(void **state)
{
    (void)state;
    static const file f = { .model = MODEL("{\"<0x4a>\": 0, \"<0x+B>\": 1, \"<0x-B>\": 2, \"<0x+>\": 3, \"<0xg1>\": 4, \"<0x++>\": 5}",
                                           "[]", ""),
                            .decoder = "{\"type\": \"ByteFallback\"}" };
    text_tokenizer *t = NULL;
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(create(&t, &f), PLP_OK);
    assert_int_equal(text_decode(t, (const int[]){ 0, 1, 2, 3, 4, 5 }, 6, true, &text, &bytes), PLP_OK);
    assert_string_equal(text, "J\v<0x-B><0x+><0xg1><0x++>");
    free(text);
    text_tokenizer_destroy(&t);
}

/* What one token's rstrip has taken is not there for the next one's lstrip, nor for the token itself when it is spaces. */
static void spaces_are_stripped_once(void **state)
{
    (void)state;
    static const file both = { .added = "[{\"id\": 9, \"content\": \"\\t\", \"lstrip\": true, \"rstrip\": true, \"normalized\": false}]" };
    static const file right = { .added = "[{\"id\": 9, \"content\": \"<r>\", \"rstrip\": true, \"normalized\": false}, "
                                         "{\"id\": 10, \"content\": \"\\n\\n\", \"lstrip\": true, \"normalized\": false}]" };
    encodes(&both, "a\t\t\tb", 3, (const int[]){ 0, 9, 1 });
    encodes(&right, "a<r>\n\nb", 3, (const int[]){ 0, 9, 1 });
    encodes(&right, "a<r>b\n\n", 4, (const int[]){ 0, 9, 1, 10 });
}

/* U+3001 and U+30FC are of no script, though PCRE2's \\p{Han} and \\p{Katakana} hold them; U+4E00 is Han. */
static void scripts_are_scripts(void **state)
{
    (void)state;
#define DROPS(expression)                                                                                                                  \
    {                                                                                                                                      \
        .normalizer = "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"" expression "\"}, \"content\": \"\"}",                          \
        .model = MODEL("{\"\xe4\xb8\x80\": 0, \"\xe3\x80\x81\": 1, \"\xe3\x83\xbc\": 2, \"a\": 3}", "[]", "")                              \
    }
    static const char text[] = "\xe4\xb8\x80\xe3\x80\x81\xe3\x83\xbc"
                               "a";
    encodes(&(file)DROPS("\\\\p{Han}"), text, 3, (const int[]){ 1, 2, 3 });
    encodes(&(file)DROPS("[\\\\p{Katakana}\\\\p{Hiragana}]"), text, 4, (const int[]){ 0, 1, 2, 3 });
    encodes(&(file)DROPS("\\\\P{Han}"), text, 1, (const int[]){ 0 });
    encodes(&(file)DROPS("\\\\p{^Han}"), text, 1, (const int[]){ 0 });
    encodes(&(file)DROPS("\\\\p{L}"), text, 1, (const int[]){ 1 });
}

/* Onigmo's names for sets, which are not those of POSIX: '$' is no Punct, and a combining acute no Alnum. */
static void posix_properties_are_onigurumas(void **state)
{
    (void)state;
#define KEEPS(expression)                                                                                                                  \
    {                                                                                                                                      \
        .normalizer = "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"" expression "\"}, \"content\": \"\"}",                          \
        .model = MODEL("{\"a\": 0, \"\xd9\xa3\": 1, \"\xcc\x81\": 2, \"$\": 3, \"!\": 4}", "[]", "")                                       \
    }
    static const char text[] = "a\xd9\xa3\xcc\x81$!";
    encodes(&(file)KEEPS("\\\\p{Alnum}"), text, 3, (const int[]){ 2, 3, 4 });
    encodes(&(file)KEEPS("[\\\\p{alnum}$]+"), text, 2, (const int[]){ 2, 4 });
    encodes(&(file)KEEPS("[^\\\\p{Alnum}]"), text, 2, (const int[]){ 0, 1 });
    encodes(&(file)KEEPS("\\\\P{Alnum}+"), text, 2, (const int[]){ 0, 1 });
    encodes(&(file)KEEPS("\\\\P{^Alnum}"), text, 3, (const int[]){ 2, 3, 4 });
    encodes(&(file)KEEPS("\\\\p{Punct}"), text, 4, (const int[]){ 0, 1, 2, 3 });
    encodes(&(file)KEEPS("\\\\p{^Punct}"), text, 1, (const int[]){ 4 });
    encodes(&(file)KEEPS("\\\\p{Digit}"), text, 4, (const int[]){ 0, 2, 3, 4 });
}

/* ^ behind a newline that is the last byte of the window which a match is first looked for in. */
static void lines_begin_behind_every_newline(void **state)
{
    (void)state;
    static const file f = { .normalizer = "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\n^b\"}, \"content\": \"\"}" };
    static const file last = { .normalizer = "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a\\\\n^\"}, \"content\": \"\"}" };
    static const file atomic = { .normalizer = "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(?>a+?)b\"}, \"content\": \"\"}" };
    int want[512] = { 0 };
    for (int before = 1; before < 300; before++) {
        char text[512] = "";
        memset(text, 'a', (size_t)before);
        strcpy(text + before,
               "\nbaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        encodes(&f, text, strlen(text) - 2, want);
    }
    encodes(&last, "aa\n", 2, want); /* but not at the end of the text; the model has no newline */
    encodes(&atomic, "aab", 1, want);
}

/* ---- any file at all ---- */

enum { ROUNDS = 10000 };

static void no_file_crashes(void **state)
{
    (void)state;
    static const char whole[] =
        "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 9, \"content\": \"<s>\", \"special\": true, \"normalized\": false, \"rstrip\": "
        "true}, "
        "{\"id\": 10, \"content\": \"Bb\", \"single_word\": true, \"lstrip\": true}], \"normalizer\": {\"type\": \"Sequence\", "
        "\"normalizers\": "
        "[{\"type\": \"NFKC\"}, {\"type\": \"Lowercase\"}, {\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}, {\"type\": "
        "\"Prepend\", \"prepend\": \"_\"}, {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[ \\\\s]{2,}\"}, \"content\": \" \"}]}, "
        "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
        "\"(?i:a+|\\\\p{N}{1,3})\"}, "
        "\"behavior\": \"MergedWithNext\", \"invert\": true}, {\"type\": \"Digits\", \"individual_digits\": true}, {\"type\": "
        "\"Punctuation\", "
        "\"behavior\": \"Contiguous\"}, {\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"first\", \"split\": "
        "false}]}, "
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"s\", \"type_id\": 0}}, "
        "{\"Sequence\": "
        "{\"id\": \"A\", \"type_id\": 0}}], \"special_tokens\": {\"s\": {\"id\": \"s\", \"ids\": [9], \"tokens\": [\"<s>\"]}}}, "
        "\"decoder\": {\"type\": "
        "\"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": \"_\"}, \"content\": \" \"}, {\"type\": "
        "\"ByteFallback\"}, "
        "{\"type\": \"ByteLevel\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 1}]}, "
        "\"model\": {\"type\": "
        "\"BPE\", \"unk_token\": \"?\", \"fuse_unk\": true, \"byte_fallback\": true, \"ignore_merges\": true, \"vocab\": {\"?\": 0, \"a\": "
        "1, \"b\": 2, "
        "\"ab\": 3, \"_\": 4, \"_ab\": 5, \"<0xC3>\": 6, \"<0xA9>\": 7, \"1\": 8}, \"merges\": [[\"a\", \"b\"], \"_ ab\"]}}";
    static const char text[] = "  <s> aab Bb \xc3\xa9 12ab!? ab\xff\xef\xac\x81";
    static const char likely[] = "\"{}[]:,0123456789-.eaAbB_ \\\\ufntrue(*+?)|<>x\x80\xff";
    uint64_t seed = 12345;
    size_t read = 0, encoded = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char json[sizeof whole + 64];
        size_t bytes = sizeof whole - 1;
        text_tokenizer *t = NULL;
        memcpy(json, whole, bytes);
        for (int change = 0; change < 1 + round % 3 && round > 0; change++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const size_t at = (size_t)(seed >> 33) % bytes, length = (seed >> 20) % 12;
            if (seed >> 62 == 0 && at + length < bytes) { /* a piece is missing */
                memmove(json + at, json + at + length, bytes - at - length);
                bytes -= length;
            } else if (seed >> 62 == 1 && at + length < bytes && bytes + length < sizeof json) { /* or twice there */
                memmove(json + at + length, json + at, bytes - at);
                bytes += length;
            } else
                json[at] = likely[(seed >> 24) % (sizeof likely - 1)];
        }
        const plp_status st = text_tokenizer_create(&t, json, bytes, "t.json");
        if (round == 0) assert_int_equal(st, PLP_OK);
        if (st != PLP_OK) {
            assert_null(t);
            assert_true(*plp_last_error() != 0);
            continue;
        }
        int *ids = NULL;
        char *back = NULL;
        size_t count = 0, length = 0;
        read++;
        if (text_encode(t, text, sizeof text - 1, true, &ids, &count) == PLP_OK) {
            encoded++;
            for (size_t i = 0; i < count; i++) assert_true(ids[i] >= 0 && ids[i] < text_tokenizer_vocab(t));
            assert_int_equal(text_decode(t, ids, count, round & 1, &back, &length), PLP_OK);
        }
        free(ids);
        free(back);
        text_tokenizer_destroy(&t);
    }
    print_message("  %zu of %d changed files were read, %zu of them encoded\n", read, (int)ROUNDS, encoded);
    assert_true(read > 500 && encoded > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_components_are_refused_by_name),
        cmocka_unit_test(malformed_files_are_refused),
        cmocka_unit_test(expressions_that_mean_something_else_to_pcre2_are_refused),
        cmocka_unit_test(no_expression_holds_up_a_run),
        cmocka_unit_test(long_words_take_no_longer_than_their_length),
        cmocka_unit_test(spaces_are_stripped_once),
        cmocka_unit_test(byte_tokens),
        cmocka_unit_test(scripts_are_scripts),
        cmocka_unit_test(posix_properties_are_onigurumas),
        cmocka_unit_test(lines_begin_behind_every_newline),
        cmocka_unit_test(no_file_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
