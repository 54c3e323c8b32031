#include "io/model_file_internal.h"

#include "base/error.h"
#include "base/grow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

plp_status io_contents_add_entry(io_contents *c, const io_entry *entry)
{
    io_entry *grown = plp_grow(c->entries, &c->entry_room, (size_t)c->entry_count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    c->entries = grown;
    c->entries[c->entry_count++] = *entry;
    return PLP_OK;
}

plp_status io_contents_add_sum(io_contents *c, uint32_t sum)
{
    uint32_t *grown = plp_grow(c->sums, &c->sum_room, (size_t)c->sum_count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    c->sums = grown;
    c->sums[c->sum_count++] = sum;
    return PLP_OK;
}

static void free_attribute(io_attribute *a)
{
    free(a->object);
    free(a->name);
    if (a->kind == IO_STRING) free(a->value.text);
    if (a->kind == IO_INTS) free(a->value.ints);
}

plp_status io_contents_add_attribute(io_contents *c, const char *object, const char *name, io_kind kind, bool list, const void *data,
                                     int64_t count)
{
    plp_status st = PLP_OK;
    io_attribute a = { .object = strdup(object), .name = strdup(name), .kind = kind, .list = list, .count = count };
    PLP_DO(PLP_ALLOCATED(a.object));
    PLP_DO(PLP_ALLOCATED(a.name));
    if (kind == IO_STRING) {
        PLP_DO(PLP_ALLOCATED(a.value.text = calloc((size_t)count + 1, 1)));
        memcpy(a.value.text, data, (size_t)count);
    } else if (kind == IO_INTS) {
        PLP_DO(PLP_ALLOCATED(a.value.ints = calloc((size_t)count + 1, sizeof *a.value.ints)));
        memcpy(a.value.ints, data, (size_t)count * sizeof *a.value.ints);
    } else
        memcpy(&a.value.real, data, sizeof a.value.real);
    io_attribute *grown = plp_grow(c->attributes, &c->attribute_room, (size_t)c->attribute_count + 1, sizeof *grown);
    PLP_DO(PLP_ALLOCATED(grown));
    c->attributes = grown;
    c->attributes[c->attribute_count++] = a;
done:
    if (st != PLP_OK) free_attribute(&a);
    return st;
}

static int by_path(const void *x, const void *y)
{
    const io_entry *a = x, *b = y;
    return strcmp(a->tensor.name, b->tensor.name);
}

static int by_object_and_name(const void *x, const void *y)
{
    const io_attribute *a = x, *b = y;
    const int order = strcmp(a->object, b->object);
    return order != 0 ? order : strcmp(a->name, b->name);
}

plp_status io_contents_sort(io_contents *c)
{
    if (c->entry_count > 0) qsort(c->entries, (size_t)c->entry_count, sizeof *c->entries, by_path);
    if (c->attribute_count > 0) qsort(c->attributes, (size_t)c->attribute_count, sizeof *c->attributes, by_object_and_name);
    if (c->sum_count == 0) return PLP_OK;
    uint32_t *sums = malloc((size_t)c->sum_count * sizeof *sums);
    PLP_TRY(PLP_ALLOCATED(sums));
    int64_t used = 0;
    for (int64_t i = 0; i < c->entry_count; i++) {
        io_entry *e = &c->entries[i];
        const int64_t blocks = io_blocks(e->tensor.bytes);
        memcpy(sums + used, c->sums + e->first_sum, (size_t)blocks * sizeof *sums);
        e->first_sum = used;
        used += blocks;
    }
    free(c->sums);
    c->sums = sums, c->sum_room = (size_t)c->sum_count;
    return PLP_OK;
}

void io_contents_free(io_contents *c)
{
    for (int64_t i = 0; i < c->attribute_count; i++) free_attribute(&c->attributes[i]);
    free(c->attributes);
    free(c->entries);
    free(c->sums);
    *c = (io_contents){ 0 };
}

plp_status io_manifest_text(const io_contents *c, char **text, size_t *bytes)
{
    enum { LINE = IO_NAME + 8 + IO_RANK * 21 }; /* name, type, and as many digits as an int64_t has */
    char *t = malloc((size_t)c->entry_count * LINE + 1);
    PLP_TRY(PLP_ALLOCATED(t));
    size_t used = 0;
    for (int64_t i = 0; i < c->entry_count; i++) {
        const io_tensor *d = &c->entries[i].tensor;
        used += (size_t)sprintf(t + used, "%s %s ", d->name, io_element_name(c->entries[i].element));
        for (int k = 0; k < d->rank; k++) used += (size_t)sprintf(t + used, k == 0 ? "%lld" : "x%lld", (long long)d->shape[k]);
        t[used++] = '\n';
    }
    t[used] = 0;
    *text = t, *bytes = used;
    return PLP_OK;
}

static void digest_attribute(plp_sha256_stream *s, const io_attribute *a)
{
    static const char *const kinds[] = { [IO_STRING] = "string", [IO_INTS] = "int", [IO_DOUBLE] = "double" };
    char head[2 * IO_NAME + 64];
    const int used = snprintf(head, sizeof head, "attribute %s %s %s %lld\n", a->object, a->name, kinds[a->kind], (long long)a->count);
    plp_sha256_update(s, head, (size_t)used);
    if (a->kind == IO_STRING) plp_sha256_update(s, a->value.text, (size_t)a->count);
    if (a->kind == IO_INTS) plp_sha256_update(s, a->value.ints, (size_t)a->count * sizeof *a->value.ints);
    if (a->kind == IO_DOUBLE) plp_sha256_update(s, &a->value.real, sizeof a->value.real);
}

void io_manifest_digest(const io_contents *c, const char *text, size_t bytes, char hex[PLP_SHA256_HEX])
{
    plp_sha256_stream s;
    uint8_t digest[PLP_SHA256_BYTES];
    plp_sha256_init(&s);
    for (int64_t i = 0; i < c->attribute_count; i++)
        if (strcmp(c->attributes[i].object, "/manifest") != 0) digest_attribute(&s, &c->attributes[i]);
    plp_sha256_update(&s, text, bytes);
    plp_sha256_update(&s, c->sums, (size_t)c->sum_count * sizeof *c->sums);
    plp_sha256_final(&s, digest);
    plp_sha256_hex(digest, hex);
}
