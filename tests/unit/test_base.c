/* dtypes, messages and JSON: the small things everything else leans on. */
#include "base/dtype.h"
#include "base/error.h"
#include "base/json.h"
#include "base/json_out.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <math.h>

static void every_f16_round_trips(void **state)
{
    (void)state;
    for (int v = 0; v < 65536; v++) {
        const float f = plp_f16_to_f32((uint16_t)v);
        if (isnan(f))
            assert_true(isnan(plp_f16_to_f32(plp_f32_to_f16(f))));
        else
            assert_int_equal(plp_f32_to_f16(f), v);
    }
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(plp_f32_to_bf16(1.00390625f), 0x3f80); /* half-way, even below */
    assert_int_equal(plp_f32_to_bf16(1.01171875f), 0x3f82); /* half-way, even above */
    assert_int_equal(plp_f32_to_f16(65519.f), 0x7bff);
    assert_int_equal(plp_f32_to_f16(65520.f), 0x7c00);
    assert_int_equal(plp_f32_to_f16(0x1p-25f), 0); /* half of the smallest: even is zero */
    assert_int_equal(plp_f32_to_f16(0x1.8p-25f), 1);
    assert_true(isnan(plp_bf16_to_f32(plp_f32_to_bf16(NAN))));
}

static void messages_are_one_line(void **state)
{
    (void)state;
    assert_int_equal(PLP_FAIL(PLP_ERR_DATA, "tensor %s", "a\nb\033[31m"), PLP_ERR_DATA);
    assert_string_equal(plp_last_error(), "tensor a?b?[31m");
    assert_int_equal(PLP_FAIL(PLP_ERR_DATA, "field %.4s; \xc2\x9b%s", "abc\xc3\xa9", "31m \xff\xe2\x82\xac"), PLP_ERR_DATA);
    assert_string_equal(plp_last_error(), "field abc?; ??31m ?\xe2\x82\xac"); /* cut off, a control character, no UTF-8, a euro sign */
    assert_int_equal(plp_status_exit(PLP_ERR_DATA), 65);
    assert_int_equal(plp_status_exit((plp_status)999), 70);
}

/* json-c 0.16 makes U+FFFD of the second and the third. */
static void json_escapes_of_pairs_are_characters(void **state)
{
    (void)state;
    static const struct {
        const char *text, *value;
    } rows[] = { { "\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80" },
                 { "\"x\\uD876\\udc01y\"", "x\xf0\xad\xa0\x81y" },
                 { "\"\\ud836\\udc00\\ud837\\udf1e\"", "\xf0\x9d\xa0\x80\xf0\x9d\xbc\x9e" },
                 { "\"\\\\ud876\\\\udc01\"", "\\ud876\\udc01" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_object *o = NULL;
        assert_int_equal(plp_json_parse(rows[i].text, strlen(rows[i].text), "text", &o), PLP_OK);
        assert_string_equal(json_object_get_string(o), rows[i].value);
        json_object_put(o);
    }
}

/* None is wrapped, cut or called by a number that was not given. */
static void integers_are_refused_as_written(void)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        { "2147483648", "n: 2147483648 is outside 1 to 2147483647" },
        { "4294967297", "n: 4294967297 is outside" },
        { "9223372036854775808", "n: 9223372036854775808 is outside" },
        { "18446744073709551621", "n: 18446744073709551615 or more is outside" }, /* all that json-c keeps of it */
        { "-9223372036854775809", "n: -9223372036854775808 or less is outside" },
        { "1e30", "n: 1e30 is outside" },
        { "-1e400", "n: -1e400 is outside" },
        { "1.5", "n: 1.5 is not an integer" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[64];
        json_object *o = NULL;
        int64_t n = 7;
        snprintf(text, sizeof text, "{\"n\": %s}", rows[i].text);
        assert_int_equal(plp_json_parse(text, strlen(text), "text", &o), PLP_OK);
        assert_int_equal(plp_json_int(o, "n", "text", 1, INT32_MAX, &n), PLP_ERR_DATA);
        if (strstr(plp_last_error(), rows[i].says) == NULL) fail_msg("\"%s\" does not say \"%s\"", plp_last_error(), rows[i].says);
        assert_int_equal(n, 7);
        json_object_put(o);
    }
}

/* What terminals obey is escaped, and reads as it was; so does what only looks like it. */
static void json_text_has_no_controls(void **state)
{
    (void)state;
    static const char text[] = "\0\x1b[1m\x7f\xc2\x80\xc2\x9b"
                               "31m\xc2\x9f\xc2\xa0\xe2\x82\x9b\xf0\x9f\x98\x80";
    static const char want[] = "{\"\\u007f\":\"\\u0000\\u001b[1m\\u007f\\u0080\\u009b31m\\u009f\xc2\xa0\xe2\x82\x9b\xf0\x9f\x98\x80\"}";
    json_object *o = json_object_new_object(), *back = NULL;
    json_object_object_add(o, "\x7f", json_object_new_string_len(text, sizeof text - 1));
    char *json = plp_json_text(o, JSON_C_TO_STRING_PLAIN);
    assert_string_equal(json, want);
    assert_int_equal(plp_json_parse(json, strlen(json), "text", &back), PLP_OK);
    assert_true(json_object_equal(o, back));
    assert_null(plp_json_text(NULL, JSON_C_TO_STRING_PLAIN));
    json_object_put(o), json_object_put(back);
    free(json);
}

static void json_numbers_have_ranges(void **state)
{
    (void)state;
    json_object *o = NULL;
    const char text[] = "{\"a\": 3, \"b\": 1e2, \"c\": 1.5, \"e\": [0.0, Infinity], \"f\": \"x\"} \n";
    assert_int_equal(plp_json_parse(text, sizeof text - 1, "text", &o), PLP_OK);
    int64_t n = 7;
    json_object *with_text = NULL;
    char long_text[1024];
    snprintf(long_text, sizeof long_text, "{\"a\": \"%0900d\"}", 0);
    assert_int_equal(plp_json_parse(long_text, strlen(long_text), "text", &with_text), PLP_OK);
    assert_int_equal(plp_json_int(with_text, "a", "text", 0, 10, &n), PLP_ERR_DATA);
    assert_true(strlen(plp_last_error()) < 120 && strstr(plp_last_error(), "is not an integer") != NULL);
    json_object_put(with_text);
    assert_int_equal(plp_json_int(o, "missing", "text", 0, 10, &n), PLP_OK);
    assert_int_equal(n, 7);
    assert_int_equal(plp_json_int(o, "a", "text", 0, 10, &n), PLP_OK);
    assert_int_equal(n, 3);
    assert_int_equal(plp_json_int(o, "b", "text", 0, 100, &n), PLP_OK);
    assert_int_equal(n, 100);
    assert_int_equal(plp_json_int(o, "a", "text", 4, 10, &n), PLP_ERR_DATA);
    assert_int_equal(plp_json_int(o, "c", "text", 0, 10, &n), PLP_ERR_DATA);
    assert_int_equal(plp_json_int(o, "f", "text", 0, 10, &n), PLP_ERR_DATA);
    json_object *e = json_object_object_get(o, "e");
    double d = 0;
    assert_int_equal(plp_json_any_number(json_object_array_get_idx(e, 1), "e", "text", &d), PLP_OK);
    assert_true(isinf(d));
    json_object_put(o);
    const char huge[] = "{\"d\": 99999999999999999999}"; /* json-c 0.17 refuses it when parsing, 0.16 clamps it */
    plp_status st = plp_json_parse(huge, sizeof huge - 1, "text", &o);
    if (st == PLP_OK) st = plp_json_int(o, "d", "text", 0, INT64_MAX, &n);
    assert_int_equal(st, PLP_ERR_DATA);
    json_object_put(o);
    integers_are_refused_as_written();
    assert_int_equal(plp_json_parse("3", 1, "text", &o), PLP_OK);
    assert_int_equal(json_object_get_int(o), 3);
    json_object_put(o);
    assert_int_equal(plp_json_parse("3 4", 3, "text", &o), PLP_ERR_DATA);
    assert_int_equal(plp_json_parse("{} x", 4, "text", &o), PLP_ERR_DATA);
    assert_int_equal(plp_json_parse("{\"a\":", 5, "text", &o), PLP_ERR_DATA);
    assert_int_equal(plp_json_parse("", 0, "text", &o), PLP_ERR_DATA);
    assert_null(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_f16_round_trips),     cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(messages_are_one_line),     cmocka_unit_test(json_escapes_of_pairs_are_characters),
        cmocka_unit_test(json_text_has_no_controls), cmocka_unit_test(json_numbers_have_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
