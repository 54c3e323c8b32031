#include "io/safetensors.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/grow.h"
#include "base/json.h"
#include "base/utf8.h"

#include <stdbool.h>
#include <stdlib.h>

typedef struct {
    char *start, *p, *end;
    const char *where;
    const char *tensor; /* being read, for messages; NULL outside */
    io_safetensors *out;
    size_t tensor_room, pair_room;
    uint64_t payload; /* bytes behind the header */
    bool metadata_seen;
} scanner;

static plp_status broken(const scanner *s, const char *what)
{
    return PLP_FAIL(PLP_ERR_DATA, "%s: byte %zu: %s%.100s%s%s; fix: fetch or write the file again", s->where, 8 + (size_t)(s->p - s->start),
                    s->tensor ? "tensor " : "", s->tensor ? s->tensor : "", s->tensor ? ": " : "", what);
}

/* ------------------------------------------------------------------------------------------------------------------- tokens */
static int peek(const scanner *s) { return s->p < s->end ? (unsigned char)*s->p : -1; }

static void skip_space(scanner *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r')) s->p++;
}

static plp_status expect(scanner *s, char wanted, const char *message)
{
    skip_space(s);
    if (peek(s) != wanted) return broken(s, message);
    s->p++;
    return PLP_OK;
}

/* Behind a backslash. */
static plp_status scan_escape(scanner *s, char **out)
{
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    char *const escape = s->p - 1;
    const int c = peek(s);
    const char *letter = c > 0 ? strchr(letters, c) : NULL;
    s->p += c >= 0;
    if (letter != NULL) {
        *(*out)++ = bytes[letter - letters];
        return PLP_OK;
    }
    int32_t code;
    const size_t length = plp_json_unicode(escape, s->end, &code);
    if (length == 0) return broken(s, "an escape that JSON does not know");
    if (plp_is_surrogate(code)) return broken(s, "half a surrogate pair");
    if (code == 0) return broken(s, "a NUL in a string");
    s->p = escape + length;
    *out += plp_utf8_put(code, *out);
    return PLP_OK;
}

/* The string is decoded onto itself, which it never outgrows, and ends in a NUL at its closing quote or before. */
static plp_status scan_string(scanner *s, const char **text)
{
    PLP_TRY(expect(s, '"', "a string is expected"));
    char *out = s->p;
    *text = out;
    for (;;) {
        const int c = peek(s);
        if (c < 0) return broken(s, "the header ends in a string");
        if (c < 0x20) return broken(s, "a control character in a string");
        if (c == '"') break;
        if (c == '\\') {
            s->p++;
            PLP_TRY(scan_escape(s, &out));
            continue;
        }
        const size_t n = plp_utf8_length(s->p, s->end);
        if (n == 0) return broken(s, "not UTF-8");
        memmove(out, s->p, n);
        out += n, s->p += n;
    }
    s->p++;
    *out = 0;
    return PLP_OK;
}

/* Digits alone: no sign, no leading zero, no fraction, no exponent; up to 2^53, beyond which JSON readers differ. */
static plp_status scan_count(scanner *s, uint64_t *value)
{
    skip_space(s);
    const char *first = s->p;
    uint64_t n = 0;
    while (peek(s) >= '0' && peek(s) <= '9') {
        n = 10 * n + (uint64_t)(*s->p++ - '0');
        if (n > (uint64_t)1 << 53) return broken(s, "a number above 2^53");
    }
    const int c = peek(s);
    if (s->p == first || (*first == '0' && s->p > first + 1) || c == '.' || c == 'e' || c == 'E')
        return broken(s, "a plain non-negative integer is expected");
    *value = n;
    return PLP_OK;
}

static plp_status scan_counts(scanner *s, uint64_t *values, int most, int *count)
{
    *count = 0;
    PLP_TRY(expect(s, '[', "an array is expected"));
    skip_space(s);
    if (peek(s) == ']') {
        s->p++;
        return PLP_OK;
    }
    for (;;) {
        if (*count == most) return broken(s, "an array with too many elements");
        PLP_TRY(scan_count(s, &values[(*count)++]));
        skip_space(s);
        if (peek(s) != ',') break;
        s->p++;
    }
    return expect(s, ']', "',' or ']' is expected");
}

typedef plp_status (*member_reader)(scanner *s, const char *key, void *arg);

static plp_status scan_object(scanner *s, member_reader member, void *arg)
{
    PLP_TRY(expect(s, '{', "an object is expected"));
    skip_space(s);
    if (peek(s) == '}') {
        s->p++;
        return PLP_OK;
    }
    for (;;) {
        const char *key = NULL;
        PLP_TRY(scan_string(s, &key));
        PLP_TRY(expect(s, ':', "':' is expected"));
        PLP_TRY(member(s, key, arg));
        skip_space(s);
        if (peek(s) != ',') break;
        s->p++;
    }
    return expect(s, '}', "',' or '}' is expected");
}

/* ------------------------------------------------------------------------------------------------------------------ entries */
typedef struct {
    bool dtype, shape, offsets; /* seen */
    uint64_t dims[IO_RANK], range[2];
    io_tensor *t;
} entry;

static plp_status read_dtype(scanner *s, plp_dtype *dtype)
{
    static const char *const others[] = { "BOOL",    "F4",      "F6_E2M3",     "F6_E3M2",     "U8",  "I8",  "F8_E5M2",
                                          "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "I32",
                                          "U32",     "C64",     "F64",         "I64",         "U64" };
    const char *name = NULL;
    PLP_TRY(scan_string(s, &name));
    for (plp_dtype d = PLP_F32; d <= PLP_F16; d++)
        if (strcmp(name, plp_dtype_name(d)) == 0) {
            *dtype = d;
            return PLP_OK;
        }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i]) == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s: dtype %s; fix: convert it to F32, F16 or BF16", s->where, s->tensor, name);
    return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s: dtype %.40s is unknown; fix: F32, F16 or BF16", s->where, s->tensor, name);
}

static plp_status read_field(scanner *s, const char *key, void *arg)
{
    entry *e = arg;
    int count = 0;
    bool *seen = strcmp(key, "dtype") == 0          ? &e->dtype
                 : strcmp(key, "shape") == 0        ? &e->shape
                 : strcmp(key, "data_offsets") == 0 ? &e->offsets
                                                    : NULL;
    if (seen == NULL)
        return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s: field %.40s is unknown; fix: write the file again", s->where, s->tensor, key);
    if (*seen) return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s: two fields %s; fix: write the file again", s->where, s->tensor, key);
    *seen = true;
    if (seen == &e->dtype) return read_dtype(s, &e->t->dtype);
    if (seen == &e->shape) return scan_counts(s, e->dims, IO_RANK, &e->t->rank);
    PLP_TRY(scan_counts(s, e->range, 2, &count));
    return count == 2 ? PLP_OK : broken(s, "data_offsets needs two numbers");
}

/* Size of the tensor by its shape, against its range; every product is checked, for the numbers are the file's. */
static plp_status check_extent(const scanner *s, const entry *e)
{
    const uint64_t begin = e->range[0], end = e->range[1];
    uint64_t bytes = plp_dtype_size(e->t->dtype);
    if (begin > end || end > s->payload)
        return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s: bytes %llu to %llu of %llu; fix: fetch the file again", s->where, s->tensor,
                        (unsigned long long)begin, (unsigned long long)end, (unsigned long long)s->payload);
    for (int i = 0; i < e->t->rank; i++)
        if (!plp_multiply(bytes, e->dims[i], &bytes))
            return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s: its shape overflows 64 bits; fix: fetch the file again", s->where, s->tensor);
    if (bytes != end - begin)
        return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s: its shape takes %llu bytes, data_offsets span %llu; fix: fetch the file again",
                        s->where, s->tensor, (unsigned long long)bytes, (unsigned long long)(end - begin));
    return PLP_OK;
}

static plp_status read_tensor(scanner *s, const char *name)
{
    io_safetensors *out = s->out;
    s->tensor = name;
    if (strlen(name) >= IO_NAME) return broken(s, "a name of more than 255 bytes");
    if (out->tensors == IO_SAFETENSORS_TENSORS) return broken(s, "more than 2^20 tensors");
    void *more = plp_grow(out->tensor, &s->tensor_room, (size_t)out->tensors + 1, sizeof *out->tensor);
    PLP_TRY(PLP_ALLOCATED(more));
    out->tensor = more;
    io_tensor *t = &out->tensor[out->tensors++];
    entry e = { .t = t };
    memset(t, 0, sizeof *t);
    memcpy(t->name, name, strlen(name) + 1);
    PLP_TRY(scan_object(s, read_field, &e));
    if (!e.dtype || !e.shape || !e.offsets)
        return broken(s, !e.dtype ? "field dtype is missing" : !e.shape ? "field shape is missing" : "field data_offsets is missing");
    PLP_TRY(check_extent(s, &e));
    for (int i = 0; i < t->rank; i++) t->shape[i] = (int64_t)e.dims[i];
    t->offset = e.range[0];
    t->bytes = e.range[1] - e.range[0];
    s->tensor = NULL;
    return PLP_OK;
}

static plp_status read_pair(scanner *s, const char *key, void *arg)
{
    io_safetensors *out = arg;
    const char *value = NULL;
    PLP_TRY(scan_string(s, &value));
    void *more = plp_grow(out->metadata, &s->pair_room, (size_t)out->pairs + 1, sizeof *out->metadata);
    PLP_TRY(PLP_ALLOCATED(more));
    out->metadata = more;
    out->metadata[out->pairs++] = (io_safetensors_pair){ key, value };
    return PLP_OK;
}

static plp_status read_member(scanner *s, const char *key, void *arg)
{
    if (strcmp(key, "__metadata__") != 0) return read_tensor(s, key);
    if (s->metadata_seen) return broken(s, "__metadata__ for the second time");
    s->metadata_seen = true;
    return scan_object(s, read_pair, arg);
}

/* ------------------------------------------------------------------------------------------------------------- whole header */
static int by_offset(const void *a, const void *b)
{
    const io_tensor *x = *(const io_tensor *const *)a, *y = *(const io_tensor *const *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors first */
}

static int by_name(const void *a, const void *b) { return strcmp(((const io_tensor *)a)->name, ((const io_tensor *)b)->name); }

static int by_key(const void *a, const void *b)
{
    return strcmp(((const io_safetensors_pair *)a)->key, ((const io_safetensors_pair *)b)->key);
}

/* The payload belongs to the tensors byte for byte: nothing hides between or behind them. */
static plp_status check_cover(const scanner *s)
{
    const io_safetensors *out = s->out;
    const io_tensor **order = NULL;
    uint64_t reached = 0;
    plp_status st = PLP_OK;
    if (out->tensors > 0) PLP_DO(PLP_ALLOCATED(order = malloc((size_t)out->tensors * sizeof *order)));
    for (int64_t i = 0; i < out->tensors; i++) order[i] = &out->tensor[i];
    if (out->tensors > 1) qsort(order, (size_t)out->tensors, sizeof *order, by_offset);
    for (int64_t i = 0; i < out->tensors; i++) {
        const io_tensor *t = order[i];
        if (t->offset != reached) {
            st = PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s begins at payload byte %llu, %s at %llu; fix: fetch or write the file again",
                          s->where, t->name, (unsigned long long)t->offset, i ? "the tensors before it end" : "the payload",
                          (unsigned long long)reached);
            goto done;
        }
        reached += t->bytes;
    }
    if (reached != s->payload)
        st = PLP_FAIL(PLP_ERR_DATA, "%s: the tensors end at payload byte %llu, the file at %llu; fix: fetch the file again", s->where,
                      (unsigned long long)reached, (unsigned long long)s->payload);
done:
    free(order);
    return st;
}

plp_status io_safetensors_parse(io_safetensors *out, char *header, size_t bytes, uint64_t file_bytes, const char *where)
{
    scanner s = { .start = header, .p = header, .end = header + bytes, .where = where, .out = out, .payload = file_bytes - 8 - bytes };
    memset(out, 0, sizeof *out);
    if (bytes > IO_SAFETENSORS_HEADER || file_bytes < 8 || bytes > file_bytes - 8)
        return PLP_FAIL(PLP_ERR_DATA, "%s: a header of %zu bytes in a file of %llu; fix: fetch it again", where, bytes,
                        (unsigned long long)file_bytes);
    PLP_TRY(scan_object(&s, read_member, out));
    skip_space(&s);
    if (s.p < s.end) return broken(&s, "text behind the header's object");
    PLP_TRY(check_cover(&s));
    if (out->tensors > 1) qsort(out->tensor, (size_t)out->tensors, sizeof *out->tensor, by_name);
    for (int64_t i = 1; i < out->tensors; i++)
        if (by_name(&out->tensor[i - 1], &out->tensor[i]) == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: two tensors %.100s; fix: write the file again", where, out->tensor[i].name);
    if (out->pairs > 1) qsort(out->metadata, (size_t)out->pairs, sizeof *out->metadata, by_key);
    for (int64_t i = 1; i < out->pairs; i++)
        if (by_key(&out->metadata[i - 1], &out->metadata[i]) == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: two keys %.100s in __metadata__; fix: write the file again", where, out->metadata[i].key);
    for (int64_t i = 0; i < out->tensors; i++) out->tensor[i].offset += 8 + bytes;
    return PLP_OK;
}

void io_safetensors_free(io_safetensors *s)
{
    free(s->tensor);
    free(s->metadata);
    memset(s, 0, sizeof *s);
}
