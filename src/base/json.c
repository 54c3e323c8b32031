#include "base/json.h"

#include "base/error.h"
#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_DEPTH = 64 };

plp_status plp_read_file(const char *path, size_t most, char **text, size_t *bytes)
{
    plp_status st = PLP_OK;
    struct stat info;
    char *data = NULL;
    size_t used = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    if (fd < 0) return PLP_FAIL_ERRNO("open", path);
    if (fstat(fd, &info) != 0) {
        st = PLP_FAIL_ERRNO("read", path);
        goto done;
    }
    if (!S_ISREG(info.st_mode)) {
        st = PLP_FAIL(PLP_ERR_DATA, "%s: not a regular file; fix: give a file, no directory and no pipe", path);
        goto done;
    }
    if ((uint64_t)info.st_size > most) {
        st = PLP_FAIL(PLP_ERR_DATA, "%s: %lld bytes, at most %zu are read; fix: give a smaller file", path, (long long)info.st_size, most);
        goto done;
    }
    PLP_DO(PLP_ALLOCATED(data = malloc((size_t)info.st_size + 1)));
    while (used < (size_t)info.st_size) {
        const ssize_t got = read(fd, data + used, (size_t)info.st_size - used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            st = PLP_FAIL_ERRNO("read", path);
            goto done;
        }
        if (got == 0) break; /* it shrank under us: what is there is what counts */
        used += (size_t)got;
    }
    data[used] = 0;
    *text = data, *bytes = used;
    data = NULL;
done:
    free(data);
    close(fd);
    return st;
}

/* *end: of the value, or where the error is. */
static json_object *parse(json_tokener *tokener, int flags, const char *text, size_t bytes, enum json_tokener_error *error, size_t *end)
{
    json_tokener_reset(tokener);
    json_tokener_set_flags(tokener, flags | JSON_TOKENER_VALIDATE_UTF8);
    json_object *value = json_tokener_parse_ex(tokener, text, (int)bytes);
    *error = json_tokener_get_error(tokener);
    *end = json_tokener_get_parse_end(tokener);
    if (*error == json_tokener_continue && memchr(text, 0, bytes) == NULL) { /* a bare number ends only at a NUL */
        value = json_tokener_parse_ex(tokener, "", 1);
        *error = json_tokener_get_error(tokener);
        *end = bytes;
    }
    return value;
}

/* The four hexadecimal digits at p; -1: there are no four. */
static int32_t hex4(const char *p, const char *end)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++, p++) {
        const char *const hex = "0123456789abcdefABCDEF", *digit = p < end && *p != 0 ? strchr(hex, *p) : NULL;
        if (digit == NULL) return -1;
        const int d = (int)(digit - hex);
        value = value << 4 | (d < 16 ? d : d - 6);
    }
    return value;
}

static int32_t escaped(const char *p, const char *end) /* -1: no \uXXXX */
{
    return end - p < 6 || p[0] != '\\' || p[1] != 'u' ? -1 : hex4(p + 2, end);
}

size_t plp_json_unicode(const char *p, const char *end, int32_t *c)
{
    *c = escaped(p, end);
    if (*c < 0) return 0;
    if (*c < 0xd800 || *c > 0xdbff) return 6;
    const int32_t low = escaped(p + 6, end);
    if (low < 0xdc00 || low > 0xdfff) return 6;
    *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
    return 12;
}

/* json-c up to 0.16 takes the character of a pair for half a pair when its low 16 bits look like one (U+1D800 to U+1DFFF, U+2D800 ...), and
 * makes U+FFFD of it.  So pairs become the character itself, in *joined; NULL: there are none. */
static plp_status join_pairs(const char *text, size_t bytes, char **joined, size_t *length)
{
    size_t used = 0, done = 0;
    *joined = NULL;
    for (size_t at = 0; at < bytes; at++) {
        if (text[at] != '\\') continue;
        int32_t c;
        if (plp_json_unicode(text + at, text + bytes, &c) != 12) {
            at++; /* what is escaped, itself perhaps a backslash */
            continue;
        }
        if (*joined == NULL) PLP_TRY(PLP_ALLOCATED(*joined = malloc(bytes)));
        memcpy(*joined + used, text + done, at - done);
        used += at - done;
        used += plp_utf8_put(c, *joined + used);
        at += 11, done = at + 1;
    }
    if (*joined == NULL) return PLP_OK;
    memcpy(*joined + used, text + done, bytes - done);
    *length = used + bytes - done;
    return PLP_OK;
}

static plp_status parse_text(const char *text, size_t bytes, const char *where, json_object **root)
{
    plp_status st = PLP_OK;
    json_tokener *tokener = NULL;
    enum json_tokener_error error;
    size_t end;
    *root = NULL;
    if (bytes > INT32_MAX)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %zu bytes of JSON, at most %d are read; fix: give less", where, bytes, INT32_MAX);
    PLP_TRY(PLP_ALLOCATED(tokener = json_tokener_new_ex(MOST_DEPTH)));
    json_object *value = parse(tokener, JSON_TOKENER_STRICT, text, bytes, &error, &end);
    /* From 0.17 on the strict mode refuses integers that are too large for json-c, which otherwise clamps them: what is right but for these
     * is read, and whoever wants the number says what its range is. */
    if (error == json_tokener_error_parse_number && plp_json_check(text, bytes, where) == PLP_OK)
        value = parse(tokener, 0, text, bytes, &error, &end);
    if (error != json_tokener_success) {
        st = PLP_FAIL(PLP_ERR_DATA, "%s: byte %zu: %s; fix: give one whole JSON value", where, end, json_tokener_error_desc(error));
        goto done;
    }
    while (end < bytes && strchr(" \t\r\n", text[end]) && text[end]) end++;
    if (end < bytes) st = PLP_FAIL(PLP_ERR_DATA, "%s: byte %zu: text behind the end of the JSON value; fix: leave it out", where, end);
done:
    json_tokener_free(tokener);
    if (st != PLP_OK)
        json_object_put(value);
    else
        *root = value;
    return st;
}

plp_status plp_json_parse(const char *text, size_t bytes, const char *where, json_object **root)
{
    char *joined = NULL;
    size_t length = 0;
    *root = NULL;
    PLP_TRY(join_pairs(text, bytes, &joined, &length));
    const plp_status st = joined != NULL ? parse_text(joined, length, where, root) : parse_text(text, bytes, where, root);
    free(joined);
    return st;
}

plp_status plp_json_read(const char *path, size_t most, json_object **root)
{
    char *text = NULL;
    size_t bytes = 0;
    PLP_TRY(plp_read_file(path, most, &text, &bytes));
    const plp_status st = plp_json_parse(text, bytes, path, root);
    free(text);
    return st;
}

json_object *plp_json_member(json_object *object, const char *key)
{
    json_object *value = NULL;
    return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &value) ? value : NULL;
}

static plp_status wrong_type(json_object *value, const char *key, const char *where, const char *wanted)
{
    return PLP_FAIL(PLP_ERR_DATA, "%s: %.60s: %.60s is not %s; fix: give one", where, key,
                    json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN), wanted);
}

plp_status plp_json_int(json_object *object, const char *key, const char *where, int64_t least, int64_t most, int64_t *value)
{
    json_object *v = plp_json_member(object, key);
    if (v == NULL) return PLP_OK;
    if (json_object_is_type(v, json_type_double) && json_object_get_double(v) != trunc(json_object_get_double(v)))
        return wrong_type(v, key, where, "an integer");
    if (!json_object_is_type(v, json_type_int) && !json_object_is_type(v, json_type_double)) return wrong_type(v, key, where, "an integer");
    const double magnitude = json_object_get_double(v); /* json-c clamps integers it cannot hold; the double keeps their size */
    const int64_t n = json_object_get_int64(v);
    if (!(magnitude >= -0x1p63 && magnitude <= 0x1p63) || n < least || n > most) {
        const char *text = json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN);
        const bool clamped = strcmp(text, "18446744073709551615") == 0 || strcmp(text, "-9223372036854775808") == 0;
        return PLP_FAIL(PLP_ERR_DATA, "%s: %.60s: %.60s%s is outside %lld to %lld; fix: stay within", where, key, text,
                        !clamped       ? ""
                        : *text == '-' ? " or less"
                                       : " or more",
                        (long long)least, (long long)most);
    }
    *value = n;
    return PLP_OK;
}

plp_status plp_json_double(json_object *object, const char *key, const char *where, double least, double most, double *value)
{
    json_object *v = plp_json_member(object, key);
    if (v == NULL) return PLP_OK;
    if (!json_object_is_type(v, json_type_int) && !json_object_is_type(v, json_type_double)) return wrong_type(v, key, where, "a number");
    const double d = json_object_get_double(v);
    if (!(d >= least && d <= most))
        return PLP_FAIL(PLP_ERR_DATA, "%s: %.60s: %g is outside %g to %g; fix: stay within", where, key, d, least, most);
    *value = d;
    return PLP_OK;
}

plp_status plp_json_bool(json_object *object, const char *key, const char *where, bool *value)
{
    json_object *v = plp_json_member(object, key);
    if (v == NULL) return PLP_OK;
    if (!json_object_is_type(v, json_type_boolean)) return wrong_type(v, key, where, "true or false");
    *value = json_object_get_boolean(v);
    return PLP_OK;
}

plp_status plp_json_string(json_object *object, const char *key, const char *where, const char **value)
{
    json_object *v = plp_json_member(object, key);
    if (v == NULL) return PLP_OK;
    if (!json_object_is_type(v, json_type_string)) return wrong_type(v, key, where, "a string");
    if (strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
        return wrong_type(v, key, where, "a string without NUL");
    *value = json_object_get_string(v);
    return PLP_OK;
}

plp_status plp_json_ids(json_object *object, const char *key, const char *where, int **ids, size_t *count)
{
    json_object *list = plp_json_member(object, key);
    if (list == NULL) return PLP_OK;
    if (!json_object_is_type(list, json_type_array)) return wrong_type(list, key, where, "a list of token ids");
    const size_t n = json_object_array_length(list);
    PLP_TRY(PLP_ALLOCATED(*ids = malloc((n + 1) * sizeof **ids)));
    for (*count = 0; *count < n; ++*count) {
        json_object *v = json_object_array_get_idx(list, *count);
        const int64_t id = json_object_get_int64(v);
        if (!json_object_is_type(v, json_type_int) || id < 0 || id > INT32_MAX)
            return PLP_FAIL(PLP_ERR_DATA, "%s: %.60s[%zu] is no token id; fix: give integers from 0 on", where, key, *count);
        (*ids)[*count] = (int)id;
    }
    return PLP_OK;
}

plp_status plp_json_any_number(json_object *value, const char *key, const char *where, double *number)
{
    json_object *inner = plp_json_member(value, "__float__");
    if (inner != NULL) value = inner;
    if (json_object_is_type(value, json_type_int) || json_object_is_type(value, json_type_double)) {
        *number = json_object_get_double(value);
        return PLP_OK;
    }
    if (json_object_is_type(value, json_type_string)) {
        const char *text = json_object_get_string(value);
        const bool negative = *text == '-';
        if (strcasecmp(text + negative, "Infinity") == 0 || strcasecmp(text + negative, "inf") == 0) {
            *number = negative ? -INFINITY : INFINITY;
            return PLP_OK;
        }
    }
    return wrong_type(value, key, where, "a number");
}
