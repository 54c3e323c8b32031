/* The tokenizer against the reference library's recorded answers (tools/record_tokenizer.py): readable cases, 10,000 random texts and 2,000
 * random id sequences for each of fourteen tokenizers, and the demo's held-out text.  Streamed pieces are compared with the whole. */
#include "base/error.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STRINGS = 10000, SEQUENCES = 2000, MOST_FILE = 1 << 24 };
static const uint64_t TEXT_SEED = 1ull << 32, ID_SEED = 2ull << 32;
static const char DATA[] = PLP_TEST_DATA "/tokenizer/";

#define OK(expr) assert_ok((expr), #expr)
static void assert_ok(plp_status st, const char *what)
{
    if (st != PLP_OK) fail_msg("%s: %s", what, plp_last_error());
}

static uint64_t splitmix(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint32_t digest(const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 32);
}

/* ---- what random texts are made of: tests/data/tokenizer/alphabet.txt ---- */

static struct entry {
    uint64_t weight;
    bool range;
    int32_t points[16];
    int count;
} alphabet[128];
static size_t entries;
static uint64_t total;

static int read_alphabet(void **state)
{
    char path[1024], line[256];
    (void)state;
    snprintf(path, sizeof path, "%salphabet.txt", DATA);
    FILE *f = fopen(path, "r");
    if (f == NULL) return -1;
    while (fgets(line, sizeof line, f) != NULL && entries < 128) {
        struct entry *e = &alphabet[entries];
        char *rest = line;
        if (*line == '#') continue;
        e->weight = strtoull(rest, &rest, 10);
        e->range = rest[1] == 'r';
        for (rest += 2; e->count < 16 && *rest != '\n'; e->count++) e->points[e->count] = (int32_t)strtol(rest, &rest, 16);
        total += e->weight;
        entries++;
    }
    fclose(f);
    return 0;
}

static size_t random_text(size_t index, char *out)
{
    uint64_t seed = TEXT_SEED + index;
    const uint64_t draws = 1 + splitmix(&seed) % 40;
    size_t used = 0;
    for (uint64_t i = 0; i < draws; i++) {
        uint64_t at = splitmix(&seed) % total;
        const struct entry *e = alphabet;
        for (; at >= e->weight; e++) at -= e->weight;
        if (e->range)
            used += plp_utf8_put(e->points[0] + (int32_t)(splitmix(&seed) % (uint64_t)(e->points[1] - e->points[0] + 1)), out + used);
        else
            for (int k = 0; k < e->count; k++) used += plp_utf8_put(e->points[k], out + used);
    }
    return used;
}

/* ---- one tokenizer's record ---- */

typedef struct {
    text_tokenizer *tokenizer;
    json_object *cases;
    uint32_t *digests;
} record;

static void open_record(record *r, const char *name)
{
    char path[1024], *text = NULL;
    size_t bytes = 0;
    if (strcmp(name, "demo") == 0)
        snprintf(path, sizeof path, "%s/tokenizer.json", PLP_DEMO);
    else
        snprintf(path, sizeof path, "%s%s.json", DATA, name);
    OK(plp_read_file(path, MOST_FILE, &text, &bytes));
    OK(text_tokenizer_create(&r->tokenizer, text, bytes, path));
    free(text);
    snprintf(path, sizeof path, "%s%s.cases.json", DATA, name);
    OK(plp_json_read(path, MOST_FILE, &r->cases));
    snprintf(path, sizeof path, "%s%s.digests", DATA, name);
    OK(plp_read_file(path, MOST_FILE, &text, &bytes));
    assert_int_equal(bytes, 4 * 2 * (STRINGS + SEQUENCES));
    r->digests = (uint32_t *)(void *)text;
}

static void close_record(record *r)
{
    text_tokenizer_destroy(&r->tokenizer);
    json_object_put(r->cases);
    free(r->digests);
}

static void compare_ids(const char *name, json_object *text, json_object *want, const int *got, size_t count)
{
    bool same = json_object_array_length(want) == count;
    for (size_t i = 0; same && i < count; i++) same = json_object_get_int(json_object_array_get_idx(want, i)) == got[i];
    if (same) return;
    print_error("%s: %s\n  want %s\n  got  [", name, json_object_to_json_string(text), json_object_to_json_string(want));
    for (size_t i = 0; i < count; i++) print_error("%s %d", i ? "," : "", got[i]);
    fail_msg(" ]");
}

/* The pieces of a stream: whole characters each, and together what text_decode gives. */
static void compare_stream(const char *name, const text_tokenizer *t, const int *ids, size_t count, bool skip, const char *want,
                           size_t bytes)
{
    text_stream *s = NULL;
    size_t at = 0, length = 0;
    OK(text_stream_create(&s, t, skip));
    for (size_t i = 0; i <= count; i++) {
        const char *piece = NULL;
        int32_t c = 0;
        if (i < count)
            OK(text_stream_push(s, ids[i], &piece, &length));
        else
            OK(text_stream_finish(s, &piece, &length));
        assert_int_equal(piece[length], 0);
        for (size_t k = 0; k < length; assert_true(c >= 0)) k += text_utf8_next(piece + k, length - k, &c);
        if (at + length > bytes || memcmp(want + at, piece, length) != 0)
            fail_msg("%s: piece %zu, '%s', is not what all of it is", name, i, piece);
        at += length;
    }
    assert_int_equal(at, bytes);
    text_stream_destroy(&s);
}

static void compare_text(const char *name, json_object *text, const text_tokenizer *t, json_object *ids, bool skip, json_object *want)
{
    int list[8192];
    const size_t count = json_object_array_length(ids);
    char *got = NULL;
    size_t bytes = 0;
    assert_true(count <= 8192);
    for (size_t i = 0; i < count; i++) list[i] = json_object_get_int(json_object_array_get_idx(ids, i));
    OK(text_decode(t, list, count, skip, &got, &bytes));
    compare_stream(name, t, list, count, skip, got, bytes);
    if (want != NULL && (bytes != (size_t)json_object_get_string_len(want) || memcmp(got, json_object_get_string(want), bytes) != 0))
        fail_msg("%s: %s: decoded to '%s', not '%s'", name, json_object_to_json_string(text), got, json_object_get_string(want));
    free(got);
}

static void check_cases(const char *name, const record *r)
{
    json_object *list = json_object_object_get(r->cases, "cases");
    assert_true(json_object_array_length(list) > 60);
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *c = json_object_array_get_idx(list, i), *text = json_object_object_get(c, "text");
        for (int special = 0; special < 2; special++) {
            int *ids = NULL;
            size_t count = 0;
            OK(text_encode(r->tokenizer, json_object_get_string(text), (size_t)json_object_get_string_len(text), special, &ids, &count));
            compare_ids(name, text, json_object_object_get(c, special ? "ids" : "plain"), ids, count);
            free(ids);
        }
        compare_text(name, text, r->tokenizer, json_object_object_get(c, "ids"), false, json_object_object_get(c, "decoded"));
        compare_text(name, text, r->tokenizer, json_object_object_get(c, "ids"), true, json_object_object_get(c, "skipped"));
    }
}

static void check_random_texts(const char *name, const record *r)
{
    char text[4096];
    for (size_t i = 0; i < STRINGS; i++) {
        const size_t bytes = random_text(i, text);
        int *ids = NULL;
        char *decoded = NULL;
        size_t count = 0, length = 0;
        OK(text_encode(r->tokenizer, text, bytes, true, &ids, &count));
        if (digest(ids, count * sizeof *ids) != r->digests[2 * i]) {
            json_object *shown = json_object_new_string_len(text, (int)bytes);
            fail_msg("%s: random text %zu, %s: other ids than recorded", name, i, json_object_to_json_string(shown));
        }
        OK(text_decode(r->tokenizer, ids, count, false, &decoded, &length));
        if (r->digests[2 * i + 1] != 0 && digest(decoded, length) != r->digests[2 * i + 1])
            fail_msg("%s: random text %zu: decoded to '%s', not as recorded", name, i, decoded);
        compare_stream(name, r->tokenizer, ids, count, false, decoded, length);
        free(ids);
        free(decoded);
    }
}

static void check_random_ids(const char *name, const record *r)
{
    const uint32_t *want = r->digests + 2 * STRINGS;
    for (size_t i = 0; i < SEQUENCES; i++) {
        uint64_t seed = ID_SEED + i;
        int ids[32];
        const size_t count = 1 + splitmix(&seed) % 30;
        for (size_t k = 0; k < count; k++) ids[k] = (int)(splitmix(&seed) % ((uint64_t)text_tokenizer_vocab(r->tokenizer) + 3));
        for (int skip = 0; skip < 2; skip++) {
            char *text = NULL;
            size_t bytes = 0;
            OK(text_decode(r->tokenizer, ids, count, skip, &text, &bytes));
            if (want[2 * i + (size_t)skip] != 0 && digest(text, bytes) != want[2 * i + (size_t)skip])
                fail_msg("%s: random ids %zu: decoded to '%s', not as recorded", name, i, text);
            compare_stream(name, r->tokenizer, ids, count, skip, text, bytes);
            free(text);
        }
    }
}

static void check_heldout(const char *name, const record *r)
{
    char *text = NULL;
    int *ids = NULL;
    size_t bytes = 0, count = 0;
    OK(plp_read_file(PLP_TEST_DATA "/demo/heldout.txt", MOST_FILE, &text, &bytes));
    OK(text_encode(r->tokenizer, text, bytes, true, &ids, &count));
    if ((int64_t)count != json_object_get_int64(json_object_object_get(r->cases, "heldout_count")) ||
        digest(ids, count * sizeof *ids) != json_object_get_int64(json_object_object_get(r->cases, "heldout_digest")))
        fail_msg("%s: other ids for the held-out text than recorded (%zu of them)", name, count);
    free(text);
    free(ids);
}

static void agrees_with_the_reference(void **state)
{
    const char *name = *state;
    record r = { 0 };
    open_record(&r, name);
    assert_int_equal(text_tokenizer_vocab(r.tokenizer), json_object_get_int(json_object_object_get(r.cases, "vocab")));
    check_cases(name, &r);
    check_random_texts(name, &r);
    check_random_ids(name, &r);
    check_heldout(name, &r);
    close_record(&r);
}

/* ---- the demo's own cases, and what is ours ---- */

static void agrees_on_the_demos_cases(void **state)
{
    record r = { 0 };
    json_object *cases = NULL;
    (void)state;
    open_record(&r, "demo");
    OK(plp_json_read(PLP_TEST_DATA "/demo/tokenizer-cases.json", MOST_FILE, &cases));
    assert_int_equal(json_object_object_length(cases), 7);
    json_object_object_foreach(cases, text, want)
    {
        int *ids = NULL;
        size_t count = 0;
        json_object *shown = json_object_new_string(text);
        OK(text_encode(r.tokenizer, text, strlen(text), true, &ids, &count));
        compare_ids("demo", shown, want, ids, count);
        json_object_put(shown);
        free(ids);
    }
    json_object_put(cases);
    close_record(&r);
}

static void byte_level_text_round_trips(void **state)
{
    record r = { 0 };
    uint64_t seed = 3ull << 32;
    (void)state;
    open_record(&r, "demo");
    for (int i = 0; i < 100000; i++) { /* any bytes at all; what is not UTF-8 comes back as U+FFFD, as from_utf8_lossy has it */
        char bytes[40], *text = NULL;
        int *ids = NULL;
        size_t count = 0, length = 0, used = 0;
        const size_t n = splitmix(&seed) % sizeof bytes;
        text_buffer want = { 0 };
        for (size_t k = 0; k < n; k++) {
            static const unsigned char likely[] = { 0x00, 0x41, 0x80, 0xbf, 0xc2, 0xe0, 0xa0, 0xed, 0xe2, 0xf0, 0x90, 0xf4, 0x8f, 0xff };
            const uint64_t draw = splitmix(&seed);
            bytes[k] = (char)(draw & 1 ? likely[(draw >> 8) % sizeof likely] : draw >> 8);
        }
        OK(text_utf8_repair(bytes, n, true, &want, &used));
        OK(text_encode(r.tokenizer, bytes, n, true, &ids, &count));
        OK(text_decode(r.tokenizer, ids, count, false, &text, &length));
        assert_int_equal(length, want.used);
        assert_true(length == 0 || memcmp(text, want.data, length) == 0);
        free(ids);
        free(text);
        free(want.data);
    }
    close_record(&r);
}

static void invalid_utf8_is_replaced_by_maximal_subparts(void **state)
{
    static const struct {
        const char *bytes, *want;
    } rows[] = {
        /* what Rust's from_utf8_lossy gives */
        { "a\xff"
          "b",
          "a\xef\xbf\xbd"
          "b" },
        { "\xe6\x97", "\xef\xbf\xbd" },
        { "\xe6\x97z", "\xef\xbf\xbdz" },
        { "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xe0\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xf0\x90\x80\xf1\x80", "\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        text_buffer out = { 0 };
        size_t used = 0;
        OK(text_utf8_repair(rows[i].bytes, strlen(rows[i].bytes), true, &out, &used));
        OK(text_buffer_put(&out, "", 1));
        assert_string_equal(out.data, rows[i].want);
        free(out.data);
    }
}

static void streams_do_not_wait(void **state)
{
    static const char *const names[] = { "demo", "llama3", "sentencepiece", "metaspace" };
    static const char text[] = "In the beginning God created the heaven and the earth.";
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        record r = { 0 };
        text_stream *s = NULL;
        const char *piece = NULL;
        int *ids = NULL;
        size_t count = 0, bytes = 0, silent = 0;
        open_record(&r, names[i]);
        OK(text_encode(r.tokenizer, text, sizeof text - 1, false, &ids, &count));
        OK(text_stream_create(&s, r.tokenizer, true));
        for (size_t k = 0; k < count; k++) {
            OK(text_stream_push(s, ids[k], &piece, &bytes));
            silent += bytes == 0;
        }
        assert_true(silent <= 1); /* the space that stands before the first word only */
        OK(text_stream_finish(s, &piece, &bytes));
        assert_int_equal(bytes, 0);
        text_stream_destroy(&s);
        free(ids);
        close_record(&r);
    }
}

static int find(const text_tokenizer *t, const char *token)
{
    int id = text_tokenizer_vocab(t) - 1;
    while (id >= 0 && (text_tokenizer_token(t, id) == NULL || strcmp(text_tokenizer_token(t, id), token) != 0)) id--;
    return id;
}

static void tokens_have_names(void **state)
{
    record r = { 0 };
    char *text = NULL;
    size_t bytes = 0;
    (void)state;
    open_record(&r, "llama3"); /* has a gap before its last ids */
    const int bos = find(r.tokenizer, "<s>"), the = find(r.tokenizer, "Ġthe"), ids[] = { bos, the, 1 << 30 };
    assert_true(bos > 0 && the > 0);
    OK(text_decode(r.tokenizer, ids, 3, true, &text, &bytes)); /* one is special, one is none's */
    assert_string_equal(text, " the");
    free(text);
    OK(text_decode(r.tokenizer, ids, 3, false, &text, &bytes));
    assert_string_equal(text, "<s> the");
    free(text);
    assert_null(text_tokenizer_token(r.tokenizer, 599));
    assert_null(text_tokenizer_token(r.tokenizer, -1));
    assert_null(text_tokenizer_token(r.tokenizer, text_tokenizer_vocab(r.tokenizer)));
    close_record(&r);
}

#define AGREES(name)                                                                                                                       \
    {                                                                                                                                      \
        "agrees_with_the_reference: " name, agrees_with_the_reference, NULL, NULL, name                                                    \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_on_the_demos_cases),
        AGREES("demo"),
        AGREES("neox"),
        AGREES("falcon"),
        AGREES("llama3"),
        AGREES("tekken"),
        AGREES("sentencepiece"),
        AGREES("metaspace"),
        AGREES("splits"),
        AGREES("partial"),
        AGREES("cuts_gpt2"),
        AGREES("cuts_llama3"),
        AGREES("cuts_tekken"),
        AGREES("cuts_deepseek"),
        AGREES("cuts_classes"),
        cmocka_unit_test(byte_level_text_round_trips),
        cmocka_unit_test(invalid_utf8_is_replaced_by_maximal_subparts),
        cmocka_unit_test(streams_do_not_wait),
        cmocka_unit_test(tokens_have_names),
    };
    return cmocka_run_group_tests(tests, read_alphabet, NULL);
}
