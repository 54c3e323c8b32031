/* Safetensors files and checkpoint directories, good ones and one broken in every rule: each error names its rule and its place. */
#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"

#include "unit_files.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------------ header alone */
/* A header over `payload` bytes; `needle` must occur in the message, NULL: it must parse. */
static void header_bytes(const char *text, size_t bytes, uint64_t payload, const char *needle)
{
    io_safetensors s;
    char *copy = malloc(bytes ? bytes : 1); /* of exactly its size: a sanitizer sees one byte too many */
    memcpy(copy, text, bytes);
    const plp_status st = io_safetensors_parse(&s, copy, bytes, 8 + bytes + payload, "x.safetensors");
    if (needle == NULL && st != PLP_OK) fail_msg("refused: %.60s: %s", text, plp_last_error());
    if (needle != NULL && st != PLP_ERR_DATA) fail_msg("accepted: %.200s", text);
    if (needle != NULL && (strstr(plp_last_error(), needle) == NULL || strstr(plp_last_error(), "x.safetensors") == NULL))
        fail_msg("\"%s\" lacks \"%s\"", plp_last_error(), needle);
    if (needle != NULL && strlen(plp_last_error()) > 400) fail_msg("too long: %s", plp_last_error());
    io_safetensors_free(&s);
    free(copy);
}
static void header(const char *text, uint64_t payload, const char *needle) { header_bytes(text, strlen(text), payload, needle); }

/* One tensor whose three fields are given as they stand in the file. */
static void tensor(const char *dtype, const char *shape, const char *offsets, uint64_t payload, const char *needle)
{
    char text[512];
    snprintf(text, sizeof text, "{\"t\":{\"dtype\":%s,\"shape\":%s,\"data_offsets\":%s}}", dtype, shape, offsets);
    header(text, payload, needle);
}

static void good_headers(void **state)
{
    (void)state;
    header("{}", 0, NULL);
    header("{\"__metadata__\":{}}", 0, NULL);
    header("{\"__metadata__\":{\"format\":\"pt\",\"a\":\"\\u001b[31m\"}}", 0, NULL);
    header(" \t\r\n{ } \t\r\n", 0, NULL); /* white space around, as the reference reader takes it */
    tensor("\"F32\"", "[2,3]", "[0,24]", 24, NULL);
    tensor("\"F16\"", " [ 2 , 3 ] ", " [ 0 , 12 ] ", 12, NULL);
    tensor("\"BF16\"", "[]", "[0,2]", 2, NULL);
    tensor("\"F32\"", "[0,7]", "[0,0]", 0, NULL);
    tensor("\"\\u0046\\u00332\"", "[1]", "[0,4]", 4, NULL);
    header("{\"b\":{\"data_offsets\":[2,4],\"shape\":[1],\"dtype\":\"F16\"},\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[2,2]},"
           "\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}",
           4, NULL);
}

static void names_are_decoded(void **state)
{
    (void)state;
    char text[] =
        "{\"\\u00e9\\n\\\"\\/\\ud83d\\ude00\xc3\xa9\xe2\x82\xac\\u20AC\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]}}";
    io_safetensors s;
    assert_int_equal(io_safetensors_parse(&s, text, sizeof text - 1, 8 + sizeof text - 1 + 6, "x"), PLP_OK);
    assert_int_equal(s.tensors, 1);
    assert_string_equal(s.tensor->name, "\xc3\xa9\n\"/\xf0\x9f\x98\x80\xc3\xa9\xe2\x82\xac\xe2\x82\xac");
    assert_int_equal(s.tensor->dtype, PLP_BF16);
    assert_int_equal(s.tensor->rank, 1);
    assert_int_equal(s.tensor->shape[0], 3);
    assert_int_equal(s.tensor->offset, 8 + sizeof text - 1);
    assert_int_equal(s.tensor->bytes, 6);
    io_safetensors_free(&s);
}

static void text_that_is_not_utf8(void **state)
{
    (void)state;
    header("{\"\xff\":1}", 0, "byte 10: not UTF-8");
    header("{\"a\xc0\x80\":1}", 0, "byte 11: not UTF-8"); /* overlong */
    header("{\"\xe0\x80\x80\":1}", 0, "not UTF-8");       /* overlong */
    header("{\"\xed\xa0\x80\":1}", 0, "not UTF-8");       /* surrogate */
    header("{\"\xf4\x90\x80\x80\":1}", 0, "not UTF-8");   /* beyond U+10FFFF */
    header("{\"\xf5\x80\x80\x80\":1}", 0, "not UTF-8");
    header("{\"\xe2\x82\":1}", 0, "not UTF-8");                   /* cut */
    header("{\"\xe2", 0, "not UTF-8");                            /* cut by the end */
    header("\xef\xbb\xbf{}", 0, "byte 8: an object is expected"); /* byte order mark */
    header_bytes("{}\0\0", 4, 0, "byte 10: text behind");
    header_bytes("{\"a\0b\":{}}", 10, 0, "byte 11: a control character");
    header("{\"\\u0000\":1}", 0, "NUL");
    header("{\"\\ud800\":1}", 0, "surrogate");
    header("{\"\\ud800\\u0041\":1}", 0, "surrogate");
    header("{\"\\udc00\":1}", 0, "surrogate");
}

static void text_that_is_not_json(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "}",
        "[]",
        "[{}]",
        "null",
        "1",
        "\"a\"",
        "{}{}",
        "{},",
        "{}x",
        "{} {}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\",}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":{}",
        "{\"a\":{},}",
        "{\"a\":{}}}",
        "{\"a\" {}}",
        "{\"a\"::{}}",
        "{\"a\":[]}",
        "{\"a\":null}",
        "{\"a\":1}",
        "{\"\\x\":1}",
        "{\"\\u12\":1}",
        "{\"\\u12G4\":1}",
        "{\"\\",
        "{\"\\u",
        "{\"\\ud83d\\",
        "{\"\t\":1}",
        "{\"a",
        "/**/{}",
        "{/**/}",
        "{#\n}",
        "{\"a\":{\"dtype\":\"F32\"",
        "{\"__metadata__\":[]}",
        "{\"__metadata__\":null}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":{\"a\":null}}",
        "{\"__metadata__\":{\"a\":{}}}",
        "{\"__metadata__\":{\"a\":\"b\",}}",
        "{\"__metadata__\":{\"a\":\"b\"},}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) header(texts[i], 0, "byte ");
    /* Every proper beginning of a good header is refused, and a million brackets are no deeper than one. */
    const char good[] = "{\"__metadata__\":{\"a\":\"\\u00e9\"},\"t\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}";
    header(good, 24, NULL);
    for (size_t n = 0; n < sizeof good - 1; n++) header_bytes(good, n, 24, "");
    char *deep = malloc(1000001);
    for (int i = 0; i < 1000000; i++) deep[i] = '[';
    deep[1000000] = 0;
    header(deep, 0, "byte 8");
    for (int i = 0; i < 1000000; i++) deep[i] = i % 5 == 0 ? '{' : "?\"a\":"[i % 5];
    header(deep, 0, "field a is unknown");
    free(deep);
}

static void duplicate_keys(void **state)
{
    (void)state;
    const char *empty = "{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}";
    char text[512];
    snprintf(text, sizeof text, "{\"t\":%s,\"u\":%s,\"t\":%s}", empty, empty, empty);
    header(text, 0, "two tensors t");
    snprintf(text, sizeof text, "{\"t\":%s,\"\\u0074\":%s}", empty, empty);
    header(text, 0, "two tensors t");
    header("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "second time");
    header("{\"__metadata__\":{},\"\\u005f_metadata__\":{}}", 0, "second time");
    header("{\"__metadata__\":{\"a\":\"b\",\"\\u0061\":\"c\"}}", 0, "two keys a");
    header("{\"t\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "two fields dtype");
}

static void fields(void **state)
{
    (void)state;
    header("{\"t\":{}}", 0, "field dtype is missing");
    header("{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", 0, "field shape is missing");
    header("{\"t\":{\"dtype\":\"F32\",\"shape\":[0]}}", 0, "field data_offsets is missing");
    header("{\"t\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0],\"stride\":1}}", 0, "field stride is unknown");
    tensor("\"F33\"", "[0]", "[0,0]", 0, "dtype F33 is unknown");
    tensor("\"f32\"", "[0]", "[0,0]", 0, "dtype f32 is unknown");
    tensor("32", "[0]", "[0,0]", 0, "a string is expected");
    tensor("\"F32\"", "0", "[0,0]", 0, "an array is expected");
    tensor("\"F32\"", "[[0]]", "[0,0]", 0, "integer is expected");
    tensor("\"F32\"", "[0]", "[0]", 0, "two numbers");
    tensor("\"F32\"", "[0]", "[0,0,0]", 0, "too many");
    tensor("\"F32\"", "[1,1,1,1,1]", "[0,4]", 4, "too many");
    static const char *const numbers[] = {
        "-1", "-0", "1.0", "1e3", "1E0", "01", "00", "+1", "\"1\"", "true", "0x1", "1.", ".1", "NaN", ""
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char list[64];
        snprintf(list, sizeof list, "[%s,1]", numbers[i]);
        tensor("\"F32\"", list, "[0,4]", 4, "tensor t");
        tensor("\"F32\"", "[1]", list, 4, "tensor t");
    }
    tensor("\"F32\"", "[9007199254740993,0]", "[0,0]", 0, "above 2^53");
    tensor("\"F32\"", "[0,18446744073709551616]", "[0,0]", 0, "above 2^53");
    static const char *const others[] = { "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "C64", "F64", "I64", "U16" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char quoted[32], named[64];
        snprintf(quoted, sizeof quoted, "\"%s\"", others[i]);
        snprintf(named, sizeof named, "tensor t: dtype %s; fix: convert", others[i]);
        tensor(quoted, "[0]", "[0,0]", 0, named);
    }
}

#define PAIR                                                                                                                               \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[%d,%d]}}"

static void ranges(void **state)
{
    (void)state;
    tensor("\"F32\"", "[1]", "[4,0]", 4, "bytes 4 to 0 of 4");
    tensor("\"F32\"", "[2]", "[0,8]", 4, "bytes 0 to 8 of 4");
    tensor("\"F32\"", "[2]", "[0,4]", 4, "shape takes 8 bytes, data_offsets span 4");
    tensor("\"F32\"", "[1]", "[4,8]", 8, "begins at payload byte 4, the payload at 0");
    tensor("\"F32\"", "[1]", "[0,4]", 6, "the tensors end at payload byte 4, the file at 6");
    header("{}", 1, "the tensors end at payload byte 0, the file at 1");
    tensor("\"F32\"", "[4503599627370496,4503599627370496]", "[0,4]", 4, "overflows");
    tensor("\"F16\"", "[4294967296,4294967296,0]", "[0,0]", 0, "overflows");
    char text[256];
    for (int begin = 0; begin <= 16; begin += 4) {
        snprintf(text, sizeof text, PAIR, begin, begin + 8);
        header(text, (uint64_t)begin + 8, begin == 8 ? NULL : "tensor ");
    }
    snprintf(text, sizeof text, PAIR, 12, 20);
    header(text, 20, "tensor b begins at payload byte 12, the tensors before it end at 8");
}

static void a_long_value(void **state)
{
    (void)state;
    const size_t n = 50000000;
    char *text = malloc(n + 64);
    size_t used = (size_t)sprintf(text, "{\"__metadata__\":{\"note\":\"");
    memset(text + used, 'a', n);
    used += n;
    used += (size_t)sprintf(text + used, "\\u001b\"}}");
    header_bytes(text, used, 0, NULL);
    header_bytes(text, used - 3, 0, "the header ends in a string");
    free(text);
}

/* Entries that all claim the same bytes, and entries that are in order: both are answered in time that grows with n
 * alone: with n squared the test would run into its limit. */
static void a_million_entries(void **state)
{
    (void)state;
    const int n = 1000000;
    char *text = malloc((size_t)n * 96);
    for (int legal = 0; legal < 2; legal++) {
        size_t used = 0;
        text[used++] = '{';
        for (int i = 0; i < n; i++) {
            const int name = (int)((int64_t)i * 7919 % n); /* names out of order */
            used += (size_t)sprintf(text + used, "%s\"%07d\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i ? "," : "",
                                    name, legal ? 2 * i : 0, legal ? 2 * i + 2 : 2);
        }
        text[used++] = '}';
        io_safetensors s;
        const plp_status st = io_safetensors_parse(&s, text, used, 8 + used + (legal ? 2 * (uint64_t)n : 2), "x");
        assert_int_equal(st, legal ? PLP_OK : PLP_ERR_DATA);
        if (legal) assert_string_equal(s.tensor[n - 1].name, "0999999");
        io_safetensors_free(&s);
    }
    free(text);
}

/* ------------------------------------------------------------------------------------------------------------- directories */

static FILE *create(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    return f;
}

static void put(const char *name, const void *data, size_t bytes)
{
    FILE *f = create(name);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }

/* A whole file: length, header, payload of bytes 0, 1, 2, ... */
static void put_file(const char *name, uint64_t length, const char *text, int payload)
{
    FILE *f = create(name);
    for (int i = 0; i < 8; i++) fputc((int)(length >> 8 * i & 255), f);
    fputs(text, f);
    for (int i = 0; i < payload; i++) fputc(i, f);
    assert_int_equal(fclose(f), 0);
}

static void put_tensors(const char *name, const char *text, int payload) { put_file(name, strlen(text), text, payload); }

static void open_fails(plp_status want, const char *needle)
{
    io_checkpoint *c = (void *)&c;
    const plp_status st = io_checkpoint_open(&c, dir);
    assert_null(c);
    if (st != want || strstr(plp_last_error(), needle) == NULL)
        fail_msg("%s: \"%s\" lacks \"%s\"", plp_status_name(st), plp_last_error(), needle);
}

static void lengths(void **state)
{
    (void)state;
    put("model.safetensors", "1234567", 7);
    open_fails(PLP_ERR_DATA, "7 bytes");
    put("model.safetensors", "", 0);
    open_fails(PLP_ERR_DATA, "0 bytes");
    const uint64_t bad[] = { 0, 3, 100000001, (uint64_t)1 << 32, UINT64_MAX, UINT64_MAX - 7 };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_file("model.safetensors", bad[i], "{}", 0);
        open_fails(PLP_ERR_DATA, "model.safetensors: byte 0: a header of");
    }
    put_file("model.safetensors", 1, "{}", 0);
    open_fails(PLP_ERR_DATA, "byte 9");
    const char *one = "{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    for (int payload = 0; payload < 12; payload++) {
        if (payload == 8) continue;
        put_tensors("model.safetensors", one, payload);
        open_fails(PLP_ERR_DATA, "model.safetensors: ");
    }
}

static void reading(void **state)
{
    (void)state;
    /* an odd header length: the payload lies unaligned */
    put_tensors("model.safetensors",
                "{\"__metadata__\":{\"dropped\":\"h\",\"format\":\"pt\"},\"h\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                "\"f\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[12,16]} }",
                16);
    io_checkpoint *c = NULL;
    assert_int_equal(io_checkpoint_open(&c, dir), PLP_OK);
    assert_int_equal(io_checkpoint_tensors(c), 2);
    assert_string_equal(io_checkpoint_tensor(c, 0)->name, "f");
    assert_null(io_checkpoint_find(c, "g"));
    const io_tensor *h = io_checkpoint_find(c, "h");
    assert_ptr_equal(io_checkpoint_find(c, "dropped"), h);
    assert_null(io_checkpoint_find(c, "format"));
    uint16_t got[6];
    memset(got, 0xee, sizeof got);
    assert_int_equal(io_checkpoint_read(c, h, 1, 4, got), PLP_OK);
    for (int i = 0; i < 4; i++) assert_int_equal(got[i], (2 * i + 3) << 8 | (2 * i + 2));
    assert_int_equal(got[4], 0xeeee);
    assert_int_equal(io_checkpoint_bytes_read(c), 8);
    assert_int_equal(io_checkpoint_read(c, h, 6, 0, got), PLP_OK);
    assert_int_equal(io_checkpoint_read(c, h, 3, 4, got), PLP_ERR_SHAPE);
    assert_int_equal(io_checkpoint_read(c, h, -1, 2, got), PLP_ERR_SHAPE);
    assert_int_equal(io_checkpoint_read(c, h, INT64_MAX, 2, got), PLP_ERR_SHAPE);
    assert_int_equal(io_checkpoint_read(c, h, 2, INT64_MAX, got), PLP_ERR_SHAPE);
    /* the file shrinks under the reader: an error, no signal and no old bytes */
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(truncate(path, (off_t)h->offset + 4), 0);
    assert_int_equal(io_checkpoint_read(c, h, 0, 6, got), PLP_ERR_IO);
    assert_non_null(strstr(plp_last_error(), "model.safetensors: ends at byte"));
    io_checkpoint_close(&c);
    assert_null(c);
}

#define T(name, begin, end) "\"" name "\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[" #begin "," #end "]}"

static void put_index(const char *map)
{
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":12345},\"weight_map\":{%s}}", map);
    put_text("model.safetensors.index.json", text);
}

static void shards(void **state)
{
    (void)state;
    io_checkpoint *c = NULL;
    put_tensors("model.safetensors", "{" T("single", 0, 2) "}", 2);
    put_tensors("one.safetensors", "{" T("b", 0, 2) "," T("c", 2, 4) "}", 4);
    put_tensors("pytorch_model-00002-of-00002.safetensors", "{" T("a", 0, 2) "}", 2);
    put_index("\"b\":\"one.safetensors\",\"a\":\"pytorch_model-00002-of-00002.safetensors\"");
    assert_int_equal(io_checkpoint_open(&c, dir), PLP_OK); /* the index wins, a wrong total_size is nothing, c is extra */
    assert_int_equal(io_checkpoint_tensors(c), 3);         /* and so model.safetensors stays closed */
    const io_tensor *a = io_checkpoint_find(c, "a");
    uint16_t value = 0;
    assert_int_equal(io_checkpoint_read(c, a, 0, 1, &value), PLP_OK);
    assert_int_equal(value, 0x0100);
    char path[128]; /* a is where the index says */
    snprintf(path, sizeof path, "%s/pytorch_model-00002-of-00002.safetensors", dir);
    assert_int_equal(truncate(path, (off_t)a->offset), 0);
    assert_int_equal(io_checkpoint_read(c, a, 0, 1, &value), PLP_ERR_IO);
    assert_int_equal(io_checkpoint_read(c, io_checkpoint_find(c, "b"), 0, 1, &value), PLP_OK);
    io_checkpoint_close(&c);
    put_tensors("pytorch_model-00002-of-00002.safetensors", "{" T("a", 0, 2) "}", 2);

    put_text("model.safetensors.index.json", "{\"weight_map\":{\"b\":\"one.safetensors\"}}"); /* no metadata */
    assert_int_equal(io_checkpoint_open(&c, dir), PLP_OK);
    io_checkpoint_close(&c);

    char target[128], link[128]; /* as the hub's cache is made of: a link is no matter of the index */
    snprintf(target, sizeof target, "%s/elsewhere", dir), snprintf(link, sizeof link, "%s/link.safetensors", dir);
    assert_int_equal(mkdir(target, 0700), 0);
    put_tensors("elsewhere/blob", "{" T("b", 0, 2) "}", 2);
    assert_int_equal(symlink("elsewhere/blob", link), 0);
    put_index("\"b\":\"link.safetensors\"");
    assert_int_equal(io_checkpoint_open(&c, dir), PLP_OK);
    io_checkpoint_close(&c);

    put_index("\"b\":\"missing.safetensors\"");
    open_fails(PLP_ERR_INPUT, "missing.safetensors");
    static const char *const names[] = { "../x", "/etc/passwd", "a/b", "..", ".", "", "one.safetensors\\u0000" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char map[128];
        snprintf(map, sizeof map, "\"b\":\"%s\"", names[i]);
        put_index(map);
        open_fails(PLP_ERR_DATA, "is no plain file name");
    }
    put_index("\"b\":3");
    open_fails(PLP_ERR_DATA, "not a string");
    put_index("");
    open_fails(PLP_ERR_DATA, "weight_map is missing");
    put_text("model.safetensors.index.json", "[]");
    open_fails(PLP_ERR_DATA, "weight_map is missing");
    put_text("model.safetensors.index.json", "{\"weight_map\":");
    open_fails(PLP_ERR_DATA, "index.json");
    put_index("\"b\":\"one.safetensors\",\"nowhere\":\"one.safetensors\"");
    open_fails(PLP_ERR_DATA, "tensor nowhere is not in one.safetensors");
    put_index("\"b\":\"one.safetensors\",\"a\":\"one.safetensors\",\"x\":\"pytorch_model-00002-of-00002.safetensors\"");
    open_fails(PLP_ERR_DATA, "tensor a is not in one.safetensors");
    put_tensors("two.safetensors", "{" T("b", 0, 2) "," T("d", 2, 4) "}", 4);
    put_index("\"b\":\"one.safetensors\",\"d\":\"two.safetensors\"");
    open_fails(PLP_ERR_DATA, "tensor b lies in one.safetensors and in two.safetensors");
}

static void kinds_of_nothing(void **state)
{
    (void)state;
    char path[128];
    io_checkpoint *c = NULL;
    open_fails(PLP_ERR_INPUT, "no weights");
    put("pytorch_model.bin", "PK", 2);
    open_fails(PLP_ERR_INPUT, "pickle");
    snprintf(path, sizeof path, "%s/consolidated.safetensors", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    open_fails(PLP_ERR_DATA, "not a regular file"); /* and does not wait for a writer */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    open_fails(PLP_ERR_DATA, "not a regular file");
    assert_int_equal(rmdir(path), 0);
    put_tensors("consolidated.safetensors", "{}", 0);
    assert_int_equal(io_checkpoint_open(&c, dir), PLP_OK);
    assert_null(io_checkpoint_find(c, "t"));
    io_checkpoint_close(&c);
    snprintf(path, sizeof path, "%s/nothing", dir);
    assert_int_equal(io_checkpoint_open(&c, path), PLP_ERR_INPUT);
    snprintf(path, sizeof path, "%s/consolidated.safetensors", dir);
    assert_int_equal(io_checkpoint_open(&c, path), PLP_ERR_INPUT);
}

/* Where the index could not be looked for, the first of its shards would be taken for all. */
static void paths_that_are_too_long(void **state)
{
    (void)state;
    io_checkpoint *c = NULL;
    char deep[4073];
    put_tensors("model.safetensors", "{" T("t", 0, 2) "}", 2);
    size_t n = (size_t)snprintf(deep, sizeof deep, "%s", dir);
    for (; n + 2 < sizeof deep; n += 2) memcpy(deep + n, "/.", 3);
    assert_int_equal(io_checkpoint_open(&c, deep), PLP_ERR_USAGE);
    assert_non_null(strstr(plp_last_error(), "a path of more than 4095 bytes"));
}

static void digest_of(const char *path, uint8_t digest[PLP_SHA256_BYTES])
{
    io_checkpoint *c = NULL;
    assert_int_equal(io_checkpoint_open(&c, path), PLP_OK);
    assert_int_equal(io_checkpoint_digest(c, digest), PLP_OK);
    io_checkpoint_close(&c);
}

static void digests(void **state)
{
    (void)state;
    uint8_t a[PLP_SHA256_BYTES], b[PLP_SHA256_BYTES];
    put_tensors("model.safetensors", "{" T("t", 0, 2) "}", 2);
    digest_of(dir, a);
    digest_of(dir, b);
    assert_memory_equal(a, b, sizeof a);
    put_tensors("model.safetensors", "{" T("u", 0, 2) "}", 2);
    digest_of(dir, b);
    assert_memory_not_equal(a, b, sizeof a);
}

/* Values: each byte of a tensor of up to 8 KiB, of a longer one three blocks, the last of which ends with the last whole one. */
static void digests_of_values(void **state)
{
    (void)state;
    enum { SMALL = 8192, LARGE = 5 * 4096 + 6 };
    static const struct {
        int at; /* byte of the payload */
        bool counts;
    } rows[] = { { 0, true },
                 { SMALL - 1, true },
                 { SMALL, true },
                 { SMALL + 4095, true },
                 { SMALL + 4096, false },
                 { SMALL + 2 * 4096, true },
                 { SMALL + 3 * 4096 - 1, true },
                 { SMALL + 3 * 4096, false },
                 { SMALL + 4 * 4096, true },
                 { SMALL + 5 * 4096 - 1, true },
                 { SMALL + 5 * 4096, false } };
    static const char text[] = "{\"s\":{\"dtype\":\"F16\",\"shape\":[4096],\"data_offsets\":[0,8192]},"
                               "\"t\":{\"dtype\":\"F16\",\"shape\":[10243],\"data_offsets\":[8192,28678]}}";
    char path[128];
    uint8_t a[PLP_SHA256_BYTES], b[PLP_SHA256_BYTES];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    put_tensors("model.safetensors", text, SMALL + LARGE);
    digest_of(dir, a);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        put_tensors("model.safetensors", text, SMALL + LARGE);
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        assert_int_equal(fseek(f, (long)(8 + sizeof text - 1) + rows[i].at, SEEK_SET), 0);
        fputc(~rows[i].at & 255, f);
        assert_int_equal(fclose(f), 0);
        digest_of(dir, b);
        if ((memcmp(a, b, sizeof a) != 0) != rows[i].counts)
            fail_msg("byte %d %s", rows[i].at, rows[i].counts ? "does not count" : "counts");
    }
    io_checkpoint *c = NULL;
    assert_int_equal(io_checkpoint_open(&c, dir), PLP_OK);
    assert_int_equal(truncate(path, 300), 0);
    assert_int_equal(io_checkpoint_digest(c, a), PLP_ERR_IO);
    assert_non_null(strstr(plp_last_error(), "model.safetensors: ends at byte 300"));
    io_checkpoint_close(&c);
}

#define IN_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, drop_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_headers),
        cmocka_unit_test(names_are_decoded),
        cmocka_unit_test(text_that_is_not_utf8),
        cmocka_unit_test(text_that_is_not_json),
        cmocka_unit_test(duplicate_keys),
        cmocka_unit_test(fields),
        cmocka_unit_test(ranges),
        cmocka_unit_test(a_long_value),
        cmocka_unit_test(a_million_entries),
        IN_DIR(lengths),
        IN_DIR(reading),
        IN_DIR(shards),
        IN_DIR(kinds_of_nothing),
        IN_DIR(paths_that_are_too_long),
        IN_DIR(digests),
        IN_DIR(digests_of_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
