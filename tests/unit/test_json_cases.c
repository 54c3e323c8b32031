/* The cases of json_cases.h with every reader of JSON here: the strict one, the lenient one, lines of batch jobs, and safetensors headers. */
#include "base/error.h"
#include "base/json.h"
#include "cli/batch_answer.h"
#include "io/safetensors.h"

#include "json_cases.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENIENT = 20 };

/* Of exactly its length, so that a sanitizer sees one byte too many. */
static char *copy_of(const json_case *c)
{
    char *copy = malloc(c->bytes > 0 ? c->bytes : 1);
    assert_non_null(copy);
    if (c->bytes > 0) memcpy(copy, c->text, c->bytes);
    return copy;
}

static plp_status check(const json_case *c)
{
    char *text = copy_of(c);
    const plp_status st = plp_json_check(text, c->bytes, "x");
    free(text);
    return st;
}

static plp_status parse(const json_case *c)
{
    char *text = copy_of(c);
    json_object *root = NULL;
    const plp_status st = plp_json_parse(text, c->bytes, "x", &root);
    assert_true(st == PLP_OK || root == NULL);
    json_object_put(root);
    free(text);
    return st;
}

static void the_strict_reader(void **state)
{
    (void)state;
    for (int i = 0; i < JSON_GOOD; i++)
        if (check(&json_good[i]) != PLP_OK) fail_msg("good %d: %s: %s", i, json_good[i].text, plp_last_error());
    for (int i = 0; i < JSON_BAD; i++)
        if (check(&json_bad[i]) != PLP_ERR_DATA) fail_msg("bad %d: %s", i, json_bad[i].text);
    for (int i = 0; i < JSON_OPEN; i++) check(&json_open[i]);
}

/* For configs and tokenizers, which others wrote: it may take more, but never less, and what it takes has an end. */
static void the_lenient_reader(void **state)
{
    (void)state;
    int taken = 0;
    for (int i = 0; i < JSON_GOOD; i++)
        if (parse(&json_good[i]) != PLP_OK) fail_msg("good %d: %s: %s", i, json_good[i].text, plp_last_error());
    for (int i = 0; i < JSON_BAD; i++)
        if (parse(&json_bad[i]) == PLP_OK) {
            print_message("  taken: %s\n", json_bad[i].text);
            taken++;
        }
    assert_in_range(taken, 0, LENIENT);
    for (int i = 0; i < JSON_OPEN; i++) parse(&json_open[i]);
}

/* The record of a bad line is a line of JSON itself, whatever was in the line. */
static void check_record(const batch_request *r, plp_status st, const char *text)
{
    json_object *record = batch_error_json(r, st, plp_last_error());
    const char *json = json_object_to_json_string_ext(record, JSON_C_TO_STRING_PLAIN);
    if (plp_json_check(json, strlen(json), "record") != PLP_OK || strchr(json, '\n') != NULL)
        fail_msg("%s: %s: %s", text, plp_last_error(), json);
    json_object_put(record);
}

/* As a line, and as the value of a field of one: a syntax error names the byte. */
static void read_line(const json_case *c, bool good, bool inside)
{
    static const char before[] = "{\"prompt\":\"a\",\"user\":", after[] = "}";
    const batch_defaults defaults = { .request = plp_request_defaults(), .n = 1 };
    const size_t head = inside ? sizeof before - 1 : 0, tail = inside ? sizeof after - 1 : 0, bytes = head + c->bytes + tail;
    char *line = malloc(bytes + 1);
    batch_request r;
    assert_non_null(line);
    memcpy(line, before, head);
    memcpy(line + head, c->text, c->bytes);
    memcpy(line + head + c->bytes, after, tail);
    line[bytes] = 0;
    const plp_status st = batch_request_read(&r, line, bytes, 7, &defaults);
    assert_int_equal(st, PLP_ERR_DATA); /* not one of them is a request */
    assert_non_null(strstr(plp_last_error(), "line 7"));
    const bool syntax = strstr(plp_last_error(), "line 7, byte ") != NULL || strstr(plp_last_error(), "line 7: empty") != NULL;
    if (syntax == good) fail_msg("%s: %s", line, plp_last_error());
    check_record(&r, st, line);
    batch_request_free(&r);
    free(line);
}

static void lines_of_a_job(void **state)
{
    (void)state;
    for (int inside = 0; inside < 2; inside++) {
        for (int i = 0; i < JSON_GOOD; i++) read_line(&json_good[i], true, inside);
        for (int i = 0; i < JSON_BAD; i++)
            if (!inside || strchr("}]", json_bad[i].text[json_bad[i].bytes > 0 ? json_bad[i].bytes - 1 : 0]) == NULL)
                read_line(&json_bad[i], false, inside);
    }
    for (int i = 0; i < JSON_OPEN; i++) {
        const batch_defaults defaults = { .request = plp_request_defaults(), .n = 1 };
        batch_request r;
        const plp_status st = batch_request_read(&r, json_open[i].text, json_open[i].bytes, 7, &defaults);
        assert_int_equal(st, PLP_ERR_DATA);
        check_record(&r, st, json_open[i].text);
        batch_request_free(&r);
    }
}

/* A name that is cut in a message is cut between its characters. */
static void long_names_are_cut_in_one_piece(void **state)
{
    (void)state;
    const batch_defaults defaults = { .request = plp_request_defaults(), .n = 1 };
    for (int n = 50; n < 64; n++) {
        char line[200];
        batch_request r;
        snprintf(line, sizeof line, "{\"prompt\":\"a\",\"%0*d\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\":1}", n, 0);
        const plp_status st = batch_request_read(&r, line, strlen(line), 7, &defaults);
        assert_int_equal(st, PLP_ERR_DATA);
        assert_non_null(strstr(plp_last_error(), "unknown field"));
        check_record(&r, st, line);
        batch_request_free(&r);
    }
}

/* json-c ends a name at its NUL: such a field would pass for the one it begins like. */
static void a_name_holds_no_nul(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "{\"prompt\":\"a\",\"max_tokens\":2,\"max_tokens\\u0000x\":5}",
        "{\"prompt\":\"a\",\"max_tokens\\u0000\":5}",
        "{\"prompt\":\"a\",\"logit_bias\":{\"5\\u00006\":1}}",
    };
    static const char behind_a_backslash[] = "{\"a\\\\u0000\":\"\\u0000\"}";
    const batch_defaults defaults = { .request = plp_request_defaults(), .n = 1 };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        batch_request r;
        const plp_status st = batch_request_read(&r, lines[i], strlen(lines[i]), 7, &defaults);
        if (st != PLP_ERR_DATA) fail_msg("read: %s", lines[i]);
        assert_non_null(strstr(plp_last_error(), "a NUL in a field's name"));
        check_record(&r, st, lines[i]);
        batch_request_free(&r);
    }
    assert_int_equal(plp_json_check(behind_a_backslash, sizeof behind_a_backslash - 1, "x"), PLP_OK);
}

static void safetensors_headers(void **state)
{
    (void)state;
    for (int list = 0; list < 3; list++) {
        const json_case *cases = list == 0 ? json_good : list == 1 ? json_bad : json_open;
        const int count = list == 0 ? JSON_GOOD : list == 1 ? JSON_BAD : JSON_OPEN;
        for (int i = 0; i < count; i++) {
            io_safetensors s;
            char *text = copy_of(&cases[i]);
            const plp_status st = io_safetensors_parse(&s, text, cases[i].bytes, 8 + cases[i].bytes, "x.safetensors");
            const bool empty = list == 0 && strcmp(cases[i].text, "{}") == 0;
            if (st != (empty ? PLP_OK : PLP_ERR_DATA)) fail_msg("%s: %s", cases[i].text, plp_status_name(st));
            io_safetensors_free(&s);
            free(text);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_strict_reader),   cmocka_unit_test(the_lenient_reader),
        cmocka_unit_test(lines_of_a_job),      cmocka_unit_test(long_names_are_cut_in_one_piece),
        cmocka_unit_test(a_name_holds_no_nul), cmocka_unit_test(safetensors_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
