/* The table: what one process found in a file, for another one that believes none of it. */
#include "io/model_file_internal.h"

#include "base/checked.h"
#include "base/error.h"
#include "io/confine.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t magic[8] = { 'p', 'l', 'p', 't', 'a', 'b', 'l', '1' };

/* ------------------------------------------------------------------------------------------------------------------------- making */
typedef struct {
    uint8_t *data;
    size_t used, room;
    bool full; /* no memory, or more than is allowed */
} buffer;

static void put(buffer *b, const void *data, size_t bytes)
{
    if (b->full || bytes > IO_MOST_TABLE - b->used) {
        b->full = true;
        return;
    }
    if (b->used + bytes > b->room) {
        const size_t room = 2 * (b->used + bytes);
        uint8_t *larger = realloc(b->data, room);
        if (larger == NULL) {
            b->full = true;
            return;
        }
        b->data = larger, b->room = room;
    }
    memcpy(b->data + b->used, data, bytes);
    b->used += bytes;
}

static void put_number(buffer *b, uint64_t value) { put(b, &value, sizeof value); }

static void put_text(buffer *b, const char *text)
{
    put_number(b, strlen(text));
    put(b, text, strlen(text));
}

static void put_entry(buffer *b, const io_entry *e)
{
    const io_tensor *t = &e->tensor;
    put_text(b, t->name);
    put_number(b, e->element);
    put_number(b, (uint64_t)t->rank);
    for (int i = 0; i < t->rank; i++) put_number(b, (uint64_t)t->shape[i]);
    put_number(b, t->offset);
    put_number(b, t->bytes);
}

static void put_attribute(buffer *b, const io_attribute *a)
{
    put_text(b, a->object);
    put_text(b, a->name);
    put_number(b, a->kind);
    put_number(b, a->list);
    put_number(b, (uint64_t)a->count);
    if (a->kind == IO_STRING) put(b, a->value.text, (size_t)a->count);
    if (a->kind == IO_INTS) put(b, a->value.ints, (size_t)a->count * sizeof *a->value.ints);
    if (a->kind == IO_DOUBLE) put(b, &a->value.real, sizeof a->value.real);
}

plp_status io_table_make(plp_status fared, int confined, const io_contents *c, uint8_t **table, size_t *bytes)
{
    buffer b = { 0 };
    *table = NULL, *bytes = 0;
    put(&b, magic, sizeof magic);
    put_number(&b, (uint64_t)confined);
    put_number(&b, fared);
    if (fared != PLP_OK)
        put_text(&b, plp_last_error());
    else {
        put_number(&b, (uint64_t)c->entry_count);
        for (int64_t i = 0; i < c->entry_count; i++) put_entry(&b, &c->entries[i]);
        put_number(&b, (uint64_t)c->attribute_count);
        for (int64_t i = 0; i < c->attribute_count; i++) put_attribute(&b, &c->attributes[i]);
    }
    if (b.full) {
        free(b.data);
        return PLP_FAIL(PLP_ERR_DATA, "its names and attributes make more than %d bytes; " IO_RECONVERT, (int)IO_MOST_TABLE);
    }
    *table = b.data, *bytes = b.used;
    return PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------------------ reading */
typedef struct {
    const uint8_t *at;
    size_t left;
    bool bad; /* something was cut off or out of its range; from then on everything is 0 */
} cursor;

/* The next bytes, borrowed; NULL: there are fewer. */
static const void *take(cursor *c, uint64_t bytes)
{
    if (c->bad || bytes > c->left) {
        c->bad = true;
        return NULL;
    }
    const void *taken = c->at;
    c->at += bytes, c->left -= (size_t)bytes;
    return taken;
}

static uint64_t take_number(cursor *c, uint64_t most)
{
    uint64_t value = 0;
    const void *from = take(c, sizeof value);
    if (from != NULL) memcpy(&value, from, sizeof value);
    if (value > most) c->bad = true;
    return c->bad ? 0 : value;
}

/* A text shorter than `room`; "" when there is none. */
static void take_text(cursor *c, char *text, size_t room)
{
    const uint64_t length = take_number(c, room - 1);
    const char *from = take(c, length);
    if (from != NULL && memchr(from, 0, length) != NULL) c->bad = true;
    if (!c->bad) memcpy(text, from, length);
    text[c->bad ? 0 : length] = 0;
}

static plp_status take_entry(cursor *c, io_contents *to)
{
    io_entry e = { .first_sum = 0 };
    io_tensor *t = &e.tensor;
    take_text(c, t->name, sizeof t->name);
    e.element = (io_element)take_number(c, IO_ELEMENTS - 1);
    if (e.element <= IO_F16) t->dtype = (plp_dtype)e.element;
    t->rank = (int)take_number(c, IO_RANK);
    for (int i = 0; i < t->rank; i++) t->shape[i] = (int64_t)take_number(c, UINT64_MAX);
    t->offset = take_number(c, UINT64_MAX);
    t->bytes = take_number(c, UINT64_MAX);
    return c->bad ? PLP_OK : io_contents_add_entry(to, &e);
}

static plp_status take_attribute(cursor *c, io_contents *to)
{
    char object[IO_NAME], name[IO_NAME];
    int64_t ints[IO_ATTRIBUTE_BYTES / sizeof(int64_t)];
    const void *value = NULL;
    take_text(c, object, sizeof object);
    take_text(c, name, sizeof name);
    const io_kind kind = (io_kind)take_number(c, IO_DOUBLE);
    const bool list = take_number(c, kind == IO_INTS) == 1;
    const uint64_t count = take_number(c, kind == IO_STRING         ? IO_ATTRIBUTE_BYTES
                                          : kind == IO_INTS && list ? sizeof ints / sizeof *ints
                                                                    : 1);
    if (kind != IO_STRING && count == 0) c->bad = true;
    value = take(c, kind == IO_STRING ? count : 8 * count);
    if (c->bad) return PLP_OK;
    if (kind == IO_INTS) value = memcpy(ints, value, 8 * (size_t)count); /* it was not aligned */
    return io_contents_add_attribute(to, object, name, kind, list, value, (int64_t)count);
}

/* What the parser may say of itself: its word for a lack of memory is that the file wanted too much. */
static plp_status take_failure(cursor *c, plp_status fared, const char *path)
{
    char message[1024];
    take_text(c, message, sizeof message);
    if (c->bad || c->left > 0) return PLP_OK;
    if (fared == PLP_ERR_MEMORY)
        return PLP_FAIL(PLP_ERR_DATA, "%s: could not be parsed safely: it needs more memory than %d MiB; " IO_RECONVERT, path,
                        2 * (IO_PARSER_BYTES >> 20));
    return PLP_FAIL(fared == PLP_ERR_IO || fared == PLP_ERR_INTERNAL ? fared : PLP_ERR_DATA, "%s", message);
}

plp_status io_table_read(const uint8_t *table, size_t bytes, const char *path, int *confined, io_contents *contents)
{
    cursor c = { table, bytes, false };
    const void *begin = take(&c, sizeof magic);
    if (begin == NULL || memcmp(begin, magic, sizeof magic) != 0)
        return PLP_FAIL(PLP_ERR_INTERNAL,
                        "%s: the parser's answer is not one that this program reads; fix: install the program and its "
                        "libexec/polylepis/polylepis-parser together",
                        path);
    *confined = (int)take_number(&c, IO_CONFINED);
    const plp_status fared = (plp_status)take_number(&c, PLP_ERR_PARTIAL);
    if (fared != PLP_OK) PLP_TRY(take_failure(&c, fared, path));
    const int64_t entries = (int64_t)take_number(&c, IO_MOST_OBJECTS);
    for (int64_t i = 0; i < entries && !c.bad; i++) PLP_TRY(take_entry(&c, contents));
    const int64_t attributes = (int64_t)take_number(&c, IO_ALL_ATTRIBUTES);
    for (int64_t i = 0; i < attributes && !c.bad; i++) PLP_TRY(take_attribute(&c, contents));
    if (c.bad || c.left > 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: could not be parsed safely: the parser's answer is broken; " IO_RECONVERT, path);
    return PLP_OK;
}

/* ----------------------------------------------------------------------------------------------------------------------- checking */
static plp_status check_shape(const io_entry *e, const char *path, uint64_t file_bytes)
{
    const io_tensor *t = &e->tensor;
    uint64_t bytes = io_element_size(e->element);
    if (*t->name == 0 || !io_name_is_path(t->name))
        return PLP_FAIL(PLP_ERR_DATA, "%s: a dataset's name has characters outside [A-Za-z0-9._-]; " IO_RECONVERT, path);
    if (t->rank < 1) return PLP_FAIL(PLP_ERR_DATA, "%s: %s: rank %d, allowed are 1 to %d; " IO_RECONVERT, path, t->name, t->rank, IO_RANK);
    for (int i = 0; i < t->rank; i++)
        if (t->shape[i] < 1 || !plp_multiply(bytes, (uint64_t)t->shape[i], &bytes) || bytes > file_bytes)
            return PLP_FAIL(PLP_ERR_DATA, "%s: %s: dimension %d is %" PRIu64 ": no payload in a file of %" PRIu64 " bytes; " IO_RECONVERT,
                            path, t->name, i, (uint64_t)t->shape[i], file_bytes);
    if (t->bytes != bytes || t->offset < IO_SUPERBLOCK || !plp_within(t->offset, bytes, file_bytes))
        return PLP_FAIL(PLP_ERR_DATA,
                        "%s: %s: bytes %" PRIu64 " + %" PRIu64 " (shape: %" PRIu64 ") of a file of %" PRIu64 "; " IO_RECONVERT, path,
                        t->name, t->offset, t->bytes, bytes, file_bytes);
    return PLP_OK;
}

static plp_status check_attribute(const io_attribute *a, const char *path)
{
    const bool root = strcmp(a->object, "/") == 0;
    if (!io_name_is_part(a->name) || (!root && (*a->object == 0 || !io_name_is_path(a->object))))
        return PLP_FAIL(PLP_ERR_DATA, "%s: an attribute's name has characters outside [A-Za-z0-9._-]; " IO_RECONVERT, path);
    if (a->kind == IO_STRING && strlen(a->value.text) != (size_t)a->count)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s: attribute %s holds a NUL; " IO_RECONVERT, path, a->object, a->name);
    if (a->kind == IO_DOUBLE && isnan(a->value.real))
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s: attribute %s is NaN; " IO_RECONVERT, path, a->object, a->name);
    return PLP_OK;
}

static int by_offset(const void *x, const void *y)
{
    const io_entry *a = x, *b = y;
    return a->tensor.offset < b->tensor.offset ? -1 : a->tensor.offset > b->tensor.offset;
}

static plp_status check_overlaps(const io_contents *c, const char *path)
{
    if (c->entry_count > 0) qsort(c->entries, (size_t)c->entry_count, sizeof *c->entries, by_offset);
    for (int64_t i = 1; i < c->entry_count; i++) {
        const io_tensor *a = &c->entries[i - 1].tensor, *b = &c->entries[i].tensor;
        if (a->offset + a->bytes > b->offset)
            return PLP_FAIL(PLP_ERR_DATA, "%s: %s and %s overlap at byte %" PRIu64 "; " IO_RECONVERT, path, a->name, b->name, b->offset);
    }
    return PLP_OK;
}

plp_status io_contents_check(io_contents *c, const char *path, uint64_t file_bytes)
{
    for (int64_t i = 0; i < c->entry_count; i++) PLP_TRY(check_shape(&c->entries[i], path, file_bytes));
    for (int64_t i = 0; i < c->attribute_count; i++) PLP_TRY(check_attribute(&c->attributes[i], path));
    PLP_TRY(check_overlaps(c, path));
    PLP_TRY(io_contents_sort(c));
    for (int64_t i = 1; i < c->entry_count; i++)
        if (strcmp(c->entries[i - 1].tensor.name, c->entries[i].tensor.name) == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: %s is there twice; " IO_RECONVERT, path, c->entries[i].tensor.name);
    for (int64_t i = 1; i < c->attribute_count; i++) {
        const io_attribute *a = &c->attributes[i - 1], *b = &c->attributes[i];
        if (strcmp(a->object, b->object) == 0 && strcmp(a->name, b->name) == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: %s: attribute %s is there twice; " IO_RECONVERT, path, b->object, b->name);
    }
    return PLP_OK;
}
