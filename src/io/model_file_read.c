#include "io/model_file_internal.h"

#include "base/crc32c.h"
#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    uint8_t *data; /* NULL until it is asked for */
} blob;

/* What changes while a file is read. */
typedef struct {
    _Atomic uint64_t bytes_read;
    io_gather *gather; /* the block in a scratch is counted through the file, and has passed its check */
} reading;

struct io_model_file {
    char *path;
    int fd;
    uint64_t bytes; /* when it was opened */
    bool check;
    io_contents contents; /* without the manifest's own datasets */
    int64_t *tensors;     /* which entries are tensors */
    int64_t tensor_count;
    blob *blobs; /* (entries) */
    reading *reading;
    char digest[PLP_SHA256_HEX];
};

plp_status io_model_is_file(const char *path, bool *is)
{
    static const uint8_t signature[8] = { 0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n' };
    plp_status st = PLP_OK;
    uint8_t b[sizeof signature];
    size_t used = 0;
    struct stat info;
    *is = false;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return PLP_FAIL_ERRNO("open", path);
    if (fstat(fd, &info) != 0) PLP_DO(PLP_FAIL_ERRNO("read", path));
    while (S_ISREG(info.st_mode) && used < sizeof b) {
        const ssize_t got = pread(fd, b + used, sizeof b - used, (off_t)used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) PLP_DO(PLP_FAIL_ERRNO("read", path));
        if (got == 0) break;
        used += (size_t)got;
    }
    *is = used == sizeof b && memcmp(b, signature, sizeof b) == 0;
done:
    close(fd);
    return st;
}

/* ------------------------------------------------------------------------------------------------------------------ payloads */
static plp_status read_all(const io_model_file *f, const char *name, void *dst, uint64_t bytes, uint64_t at)
{
    for (uint8_t *p = dst; bytes > 0;) {
        const ssize_t got = pread(f->fd, p, bytes < 1 << 30 ? bytes : 1 << 30, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return PLP_FAIL_ERRNO("read", f->path);
        if (got == 0)
            return PLP_FAIL(PLP_ERR_IO, "%s: ends at byte %" PRIu64 " in %s: it shrank while it was read; fix: copy it again", f->path, at,
                            name);
        p += got, bytes -= (uint64_t)got, at += (uint64_t)got;
        f->reading->bytes_read += (uint64_t)got;
    }
    return PLP_OK;
}

static const io_entry *find(const io_model_file *f, const char *name);

/* See io_fetch.  Every byte that is handed out has passed its block's checksum.  A whole block is read in place; a part of one is found in
 * the block, which is kept, so that small pieces in order read the file once. */
static plp_status fetch(const void *file, const io_tensor *t, uint64_t from, uint64_t count, uint8_t *direct, io_scratch *scratch,
                        const uint8_t **data)
{
    const io_model_file *f = file;
    const io_entry *e = find(f, t->name);
    const uint64_t block = from / IO_BLOCK, start = block * IO_BLOCK, left = t->bytes - start, length = left < IO_BLOCK ? left : IO_BLOCK;
    const int64_t sum = e->first_sum + (int64_t)block;
    const bool in_place = direct != NULL && (count == length || !f->check);
    uint8_t *place = in_place ? direct : scratch->data;
    *data = in_place ? direct : f->check ? place + (from - start) : place;
    if (!in_place && f->check && scratch->block == sum) return PLP_OK;
    if (!in_place) scratch->block = -1;
    if (!f->check) return read_all(f, t->name, place, count, t->offset + from);
    PLP_TRY(read_all(f, t->name, place, length, t->offset + start));
    const uint32_t got = plp_crc32c(0, place, length);
    if (got != f->contents.sums[sum])
        return PLP_FAIL(PLP_ERR_DATA,
                        "%s: %s: block %" PRIu64
                        " of %lld is damaged: checksum %08x, manifest %08x; fix: copy the file again or convert the checkpoint again",
                        f->path, t->name, block, (long long)io_blocks(t->bytes), got, f->contents.sums[sum]);
    if (!in_place) scratch->block = sum;
    return PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------------ manifest */
static const io_attribute *find_attribute(const io_contents *c, const char *object, const char *name)
{
    for (int64_t i = 0; i < c->attribute_count; i++)
        if (strcmp(c->attributes[i].object, object) == 0 && strcmp(c->attributes[i].name, name) == 0) return &c->attributes[i];
    return NULL;
}

static bool is_text(const io_attribute *a, const char *value)
{
    return a != NULL && a->kind == IO_STRING && strcmp(a->value.text, value) == 0;
}

static bool is_int(const io_attribute *a, int64_t value)
{
    return a != NULL && a->kind == IO_INTS && a->count == 1 && a->value.ints[0] == value;
}

static plp_status check_constants(const io_model_file *f)
{
    const io_contents *c = &f->contents;
    const io_attribute *version = find_attribute(c, "/", "format_version"), *sum = find_attribute(c, "/manifest", "checksum");
    if (!is_text(find_attribute(c, "/", "format"), IO_FORMAT_NAME))
        return PLP_FAIL(PLP_ERR_DATA, "%s: an HDF5 file, but not a polylepis model; fix: give a file that `polylepis convert` wrote",
                        f->path);
    if (!is_int(version, IO_MODEL_FORMAT))
        return PLP_FAIL(PLP_ERR_DATA, "%s: format version %lld, this program reads %d; " IO_RECONVERT, f->path,
                        version != NULL && version->kind == IO_INTS ? (long long)version->value.ints[0] : -1LL, IO_MODEL_FORMAT);
    if (find_attribute(c, "/manifest", "sha256") == NULL)
        return PLP_FAIL(PLP_ERR_DATA, "%s: no manifest: it was not finished; " IO_RECONVERT, f->path);
    if (!is_text(sum, IO_CHECKSUM) || !is_int(find_attribute(c, "/manifest", "block_bytes"), IO_BLOCK))
        return PLP_FAIL(PLP_ERR_DATA,
                        "%s: manifest: checksum %.40s over other blocks than this program knows (%s, %d bytes); " IO_RECONVERT, f->path,
                        sum != NULL && sum->kind == IO_STRING ? sum->value.text : "?", IO_CHECKSUM, IO_BLOCK);
    return PLP_OK;
}

/* A dataset of the manifest leaves the table of datasets. */
static plp_status take_part(io_model_file *f, const char *name, io_element element, io_tensor *part)
{
    io_contents *c = &f->contents;
    int64_t i = 0;
    while (i < c->entry_count && strcmp(c->entries[i].tensor.name, name) != 0) i++;
    if (i == c->entry_count || c->entries[i].element != element || c->entries[i].tensor.rank != 1)
        return PLP_FAIL(PLP_ERR_DATA, "%s: no %s, or not a list of %s: the file was not finished; " IO_RECONVERT, f->path, name,
                        io_element_name(element));
    *part = c->entries[i].tensor;
    c->entries[i] = c->entries[--c->entry_count];
    return PLP_OK;
}

/* All of it, with a NUL behind; *data is the caller's. */
static plp_status read_part(const io_model_file *f, const io_tensor *part, void **data)
{
    uint8_t *p = malloc(part->bytes + 1);
    PLP_TRY(PLP_ALLOCATED(p));
    *data = p;
    p[part->bytes] = 0;
    return read_all(f, part->name, p, part->bytes, part->offset);
}

/* The first line in which two sorted lists differ, as a failure. */
static plp_status fail_difference(const io_model_file *f, const char *listed, const char *found)
{
    const char *line = listed, *other = found;
    for (size_t i = 0; listed[i] == found[i]; i++)
        if (listed[i] == '\n') line = listed + i + 1, other = found + i + 1;
    const int n = (int)strcspn(line, "\n"), m = (int)strcspn(other, "\n"), name = (int)strcspn(line, " \n"),
              other_name = (int)strcspn(other, " \n");
    const bool same_name = n > 0 && name == other_name && memcmp(line, other, (size_t)name) == 0;
    if (same_name)
        return PLP_FAIL(PLP_ERR_DATA, "%s: the file holds %.*s, its manifest says %.*s; " IO_RECONVERT, f->path, m, other, n, line);
    if (m == 0 || (n > 0 && strncmp(line, other, (size_t)(name < other_name ? name : other_name) + 1) < 0))
        return PLP_FAIL(PLP_ERR_DATA, "%s: %.*s is missing: the manifest lists it; " IO_RECONVERT, f->path, name, line);
    return PLP_FAIL(PLP_ERR_DATA, "%s: %.*s is not in the manifest; " IO_RECONVERT, f->path, other_name, other);
}

/* The list of datasets in the manifest against those that the file holds. */
static plp_status check_list(const io_model_file *f, const io_tensor *part, const char *found, size_t found_bytes)
{
    plp_status st = PLP_OK;
    void *listed = NULL;
    if (part->bytes > 2 * found_bytes + (1 << 20)) /* a difference anyway: do not read without bound */
        return PLP_FAIL(PLP_ERR_DATA, "%s: the manifest's list has %" PRIu64 " bytes, expected are %zu; " IO_RECONVERT, f->path,
                        part->bytes, found_bytes);
    PLP_DO(read_part(f, part, &listed));
    if (strlen(listed) != part->bytes)
        st = PLP_FAIL(PLP_ERR_DATA, "%s: the manifest's list holds a NUL; " IO_RECONVERT, f->path);
    else if (strcmp(listed, found) != 0)
        st = fail_difference(f, listed, found);
done:
    free(listed);
    return st;
}

/* Checksums follow the sorted list, a run for each dataset. */
static plp_status assign_sums(io_model_file *f, const io_tensor *part)
{
    io_contents *c = &f->contents;
    void *sums = NULL;
    int64_t blocks = 0;
    for (int64_t i = 0; i < c->entry_count; i++) {
        io_entry *e = &c->entries[i];
        e->first_sum = blocks;
        blocks += io_blocks(e->tensor.bytes);
    }
    if (part->shape[0] != blocks)
        return PLP_FAIL(PLP_ERR_DATA, "%s: the manifest has %lld checksums for %lld blocks; " IO_RECONVERT, f->path,
                        (long long)part->shape[0], (long long)blocks);
    const plp_status st = read_part(f, part, &sums);
    c->sums = sums, c->sum_count = blocks; /* freed with the contents */
    return st;
}

static plp_status check_manifest(io_model_file *f)
{
    plp_status st = PLP_OK;
    io_contents *c = &f->contents;
    io_tensor list, sums;
    char *text = NULL;
    size_t bytes;
    PLP_DO(check_constants(f));
    PLP_DO(take_part(f, "/manifest/datasets", IO_U8, &list));
    PLP_DO(take_part(f, "/manifest/sums", IO_U32, &sums));
    PLP_DO(io_contents_sort(c));
    PLP_DO(io_manifest_text(c, &text, &bytes));
    PLP_DO(check_list(f, &list, text, bytes));
    PLP_DO(assign_sums(f, &sums));
    io_manifest_digest(c, text, bytes, f->digest);
    const io_attribute *stated = find_attribute(c, "/manifest", "sha256");
    if (!is_text(stated, f->digest))
        st = PLP_FAIL(PLP_ERR_DATA, "%s: attributes or checksums were changed: sha256 %s, the manifest says %.64s; " IO_RECONVERT, f->path,
                      f->digest, stated->kind == IO_STRING ? stated->value.text : "no text");
done:
    free(text);
    return st;
}

/* ------------------------------------------------------------------------------------------------------------------ opening */
static plp_status open_regular(io_model_file *f)
{
    struct stat info;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    if (f->fd < 0 || fstat(f->fd, &info) != 0) return PLP_FAIL_ERRNO("open", f->path);
    if (!S_ISREG(info.st_mode)) return PLP_FAIL(PLP_ERR_DATA, "%s: not a regular file; fix: give a file", f->path);
    f->bytes = (uint64_t)info.st_size;
    return PLP_OK;
}

static plp_status parse_here(io_model_file *f)
{
    unsigned plugins;
    plp_warn_alike("%s is parsed in this process, unconfined, as --trust-model says", f->path);
    PLP_TRY(io_hdf5_enter(&plugins));
    const plp_status st = io_profile_read(f->path, f->fd, f->bytes, &f->contents);
    io_hdf5_leave(plugins);
    return st;
}

static plp_status list_tensors(io_model_file *f)
{
    const io_contents *c = &f->contents;
    PLP_TRY(PLP_ALLOCATED(f->tensors = calloc((size_t)c->entry_count + 1, sizeof *f->tensors)));
    PLP_TRY(PLP_ALLOCATED(f->blobs = calloc((size_t)c->entry_count + 1, sizeof *f->blobs)));
    for (int64_t i = 0; i < c->entry_count; i++)
        if (c->entries[i].element <= IO_F16) f->tensors[f->tensor_count++] = i;
    return PLP_OK;
}

static plp_status open_file(io_model_file **out, const char *path, bool trusted)
{
    plp_status st = PLP_OK;
    *out = NULL;
    PLP_TRY(io_hdf5_environment());
    io_model_file *f = calloc(1, sizeof *f);
    PLP_DO(PLP_ALLOCATED(f));
    f->fd = -1, f->check = true;
    PLP_DO(PLP_ALLOCATED(f->reading = calloc(1, sizeof *f->reading)));
    PLP_DO(io_gather_create(&f->reading->gather));
    PLP_DO(PLP_ALLOCATED(f->path = strdup(path)));
    PLP_DO(open_regular(f));
    PLP_DO(trusted ? parse_here(f) : io_parser_read(f->path, f->fd, &f->contents));
    PLP_DO(io_contents_check(&f->contents, f->path, f->bytes));
    PLP_DO(check_manifest(f));
    PLP_DO(list_tensors(f));
    f->reading->bytes_read = 0; /* the manifest was no payload */
done:
    if (st != PLP_OK) io_model_close(&f);
    *out = f;
    return st;
}

plp_status io_model_open(io_model_file **f, const char *path) { return open_file(f, path, false); }

plp_status io_model_open_trusted(io_model_file **f, const char *path) { return open_file(f, path, true); }

void io_model_close(io_model_file **out)
{
    io_model_file *f = *out;
    if (f == NULL) return;
    if (f->fd >= 0) close(f->fd);
    for (int64_t i = 0; f->blobs != NULL && i < f->contents.entry_count; i++) free(f->blobs[i].data);
    free(f->blobs);
    free(f->tensors);
    io_contents_free(&f->contents);
    if (f->reading != NULL) io_gather_destroy(&f->reading->gather);
    free(f->reading);
    free(f->path);
    free(f);
    *out = NULL;
}

/* ------------------------------------------------------------------------------------------------------------------ attributes */
static plp_status get(const io_model_file *f, const char *name, io_kind kind, const char *what, const io_attribute **attribute)
{
    const io_attribute *a = find_attribute(&f->contents, "/", name);
    *attribute = a;
    if (a == NULL || a->kind == kind) return PLP_OK;
    return PLP_FAIL(PLP_ERR_DATA, "%s: attribute %s is not %s; " IO_RECONVERT, f->path, name, what);
}

plp_status io_model_get_string(const io_model_file *f, const char *name, const char **value)
{
    const io_attribute *a;
    PLP_TRY(get(f, name, IO_STRING, "a string", &a));
    if (a != NULL) *value = a->value.text;
    return PLP_OK;
}

plp_status io_model_get_int(const io_model_file *f, const char *name, int64_t *value)
{
    const io_attribute *a;
    PLP_TRY(get(f, name, IO_INTS, "an integer", &a));
    if (a != NULL && a->list) return PLP_FAIL(PLP_ERR_DATA, "%s: attribute %s is a list, not an integer; " IO_RECONVERT, f->path, name);
    if (a != NULL) *value = a->value.ints[0];
    return PLP_OK;
}

plp_status io_model_get_ints(const io_model_file *f, const char *name, int64_t *values, int most, int *count)
{
    const io_attribute *a;
    PLP_TRY(get(f, name, IO_INTS, "a list of integers", &a));
    if (a == NULL) return PLP_OK;
    if (a->count > most)
        return PLP_FAIL(PLP_ERR_DATA, "%s: attribute %s: %lld integers, at most %d; " IO_RECONVERT, f->path, name, (long long)a->count,
                        most);
    memcpy(values, a->value.ints, (size_t)a->count * sizeof *values);
    *count = (int)a->count;
    return PLP_OK;
}

plp_status io_model_get_double(const io_model_file *f, const char *name, double *value)
{
    const io_attribute *a;
    PLP_TRY(get(f, name, IO_DOUBLE, "a float64", &a));
    if (a != NULL) *value = a->value.real;
    return PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------------ datasets */
static int by_name(const void *key, const void *element) { return strcmp(key, ((const io_entry *)element)->tensor.name); }

static const io_entry *find(const io_model_file *f, const char *name)
{
    const io_contents *c = &f->contents;
    return c->entry_count == 0 ? NULL : bsearch(name, c->entries, (size_t)c->entry_count, sizeof *c->entries, by_name);
}

int64_t io_model_tensors(const io_model_file *f) { return f->tensor_count; }

const io_tensor *io_model_tensor(const io_model_file *f, int64_t i) { return &f->contents.entries[f->tensors[i]].tensor; }

const io_tensor *io_model_find(const io_model_file *f, const char *name)
{
    const io_entry *e = find(f, name);
    return e != NULL && e->element <= IO_F16 ? &e->tensor : NULL;
}

plp_status io_model_read_ranges(const io_model_file *f, const io_range *list, int n)
{
    for (int i = 0; i < n; i++) {
        const io_range *r = list + i;
        const io_entry *e = find(f, r->tensor->name);
        if (e == NULL) return PLP_FAIL(PLP_ERR_SHAPE, "%s: no tensor %s", f->path, r->tensor->name);
        const int64_t all = io_tensor_count(&e->tensor);
        if (r->first < 0 || r->count < 0 || r->first > all || r->count > all - r->first)
            return PLP_FAIL(PLP_ERR_SHAPE, "%s: %s: elements %lld + %lld of %lld", f->path, r->tensor->name, (long long)r->first,
                            (long long)r->count, (long long)all);
    }
    return io_gather_read(f->reading->gather, list, n, fetch, f);
}

plp_status io_model_read(const io_model_file *f, const io_tensor *t, int64_t first, int64_t count, void *dst)
{
    return io_model_read_ranges(f, &(io_range){ .tensor = t, .first = first, .count = count, .dst = dst }, 1);
}

/* All of a dataset of bytes. */
static plp_status read_bytes(const io_model_file *f, const io_entry *e, uint8_t *dst)
{
    io_scratch none = { .block = -1 }; /* whole blocks go in place */
    for (uint64_t at = 0; at < e->tensor.bytes; at += IO_BLOCK) {
        const uint64_t left = e->tensor.bytes - at;
        const uint8_t *data;
        PLP_TRY(fetch(f, &e->tensor, at, left < IO_BLOCK ? left : IO_BLOCK, dst + at, &none, &data));
    }
    return PLP_OK;
}

plp_status io_model_get_blob(const io_model_file *f, const char *name, const void **data, size_t *bytes)
{
    const io_entry *e = find(f, name);
    *data = NULL, *bytes = 0;
    if (e == NULL || e->element != IO_U8) return PLP_OK;
    blob *b = &f->blobs[e - f->contents.entries];
    if (b->data == NULL) {
        uint8_t *p = malloc(e->tensor.bytes + 1);
        PLP_TRY(PLP_ALLOCATED(p));
        p[e->tensor.bytes] = 0; /* a text can be used as a string */
        const plp_status st = read_bytes(f, e, p);
        if (st != PLP_OK) {
            free(p);
            return st;
        }
        b->data = p;
    }
    *data = b->data, *bytes = e->tensor.bytes;
    return PLP_OK;
}

void io_model_check(io_model_file *f, bool on) { f->check = on; }

void io_model_threads(const io_model_file *f, int threads) { io_gather_threads(f->reading->gather, threads); }

uint64_t io_model_bytes_read(const io_model_file *f) { return f->reading->bytes_read; }

const char *io_model_digest(const io_model_file *f) { return f->digest; }
