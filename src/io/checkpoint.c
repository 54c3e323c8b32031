#include "io/checkpoint.h"

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/path.h"
#include "base/sha256.h"
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_FILES = 1000, MOST_ALIASES = 4096, MOST_INDEX = 256 << 20, MOST_READ = 1 << 30, SAMPLE = 4096 };

typedef struct {
    char name[IO_NAME];
    int fd;
    uint64_t bytes;
} weights_file;

typedef struct {
    char dropped[IO_NAME], kept[IO_NAME];
} alias; /* a name first, like io_tensor: by_name serves both */

struct io_checkpoint {
    char *dir;
    weights_file *file;
    int files;
    io_tensor *tensor;
    int64_t tensors;
    alias *alias;
    int64_t aliases;
    plp_sha256_stream headers;
    _Atomic uint64_t bytes_read;
    io_gather *gather;
};

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

static const io_tensor *find_tensor(const io_checkpoint *c, const char *name)
{
    return c->tensors ? bsearch(name, c->tensor, (size_t)c->tensors, sizeof *c->tensor, by_name) : NULL;
}

static plp_status find_file(const io_checkpoint *c, const char *name, bool *there)
{
    char path[PLP_PATH];
    struct stat info;
    PLP_TRY(plp_path_join(c->dir, name, path));
    *there = stat(path, &info) == 0;
    return PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------------- files */
static plp_status read_at(const weights_file *f, const char *dir, void *dst, size_t bytes, uint64_t offset)
{
    char *p = dst;
    while (bytes > 0) {
        const ssize_t got = pread(f->fd, p, bytes < MOST_READ ? bytes : MOST_READ, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return PLP_FAIL(PLP_ERR_IO, "%s/%s: byte %llu: %s; fix: check the disk, or fetch the file again", dir, f->name,
                            (unsigned long long)offset, strerror(errno));
        if (got == 0)
            return PLP_FAIL(PLP_ERR_IO, "%s/%s: ends at byte %llu, had %llu when it was opened; fix: leave it alone while it is read", dir,
                            f->name, (unsigned long long)offset, (unsigned long long)f->bytes);
        p += got, bytes -= (size_t)got, offset += (uint64_t)got;
    }
    return PLP_OK;
}

/* Tensors and aliases of a file's header join those of the checkpoint. */
static plp_status take_header(io_checkpoint *c, int file, const io_safetensors *header)
{
    void *more = NULL;
    if (header->tensors == 0) return PLP_OK;
    PLP_TRY(PLP_ALLOCATED(more = realloc(c->tensor, (size_t)(c->tensors + header->tensors) * sizeof *c->tensor)));
    c->tensor = more;
    memcpy(c->tensor + c->tensors, header->tensor, (size_t)header->tensors * sizeof *c->tensor);
    for (int64_t i = 0; i < header->tensors; i++) c->tensor[c->tensors + i].file = file;
    c->tensors += header->tensors;
    for (int64_t i = 0; i < header->pairs; i++) {
        const io_safetensors_pair *p = &header->metadata[i];
        if (strlen(p->key) >= IO_NAME || strlen(p->value) >= IO_NAME) continue;
        if (bsearch(p->value, header->tensor, (size_t)header->tensors, sizeof *header->tensor, by_name) == NULL) continue;
        if (c->aliases == MOST_ALIASES)
            return PLP_FAIL(PLP_ERR_DATA, "%s/%s: __metadata__ drops more than %d names; fix: save it with fewer tensors that share memory",
                            c->dir, c->file[file].name, MOST_ALIASES);
        PLP_TRY(PLP_ALLOCATED(more = realloc(c->alias, (size_t)(c->aliases + 1) * sizeof *c->alias)));
        c->alias = more;
        memcpy(c->alias[c->aliases].dropped, p->key, strlen(p->key) + 1);
        memcpy(c->alias[c->aliases++].kept, p->value, strlen(p->value) + 1);
    }
    return PLP_OK;
}

static plp_status open_file(const char *path, weights_file *f)
{
    struct stat info;
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block us */
    if (f->fd < 0) return PLP_FAIL_ERRNO("open", path);
    if (fstat(f->fd, &info) != 0) return PLP_FAIL_ERRNO("read", path);
    if (!S_ISREG(info.st_mode)) return PLP_FAIL(PLP_ERR_DATA, "%s: not a regular file; fix: fetch it again", path);
    f->bytes = (uint64_t)info.st_size;
    return PLP_OK;
}

static plp_status add_file(io_checkpoint *c, const char *name)
{
    plp_status st = PLP_OK;
    char path[PLP_PATH];
    uint8_t length[8];
    uint64_t n = 0;
    char *text = NULL;
    void *more = NULL;
    io_safetensors header = { 0 };
    PLP_TRY(plp_path_join(c->dir, name, path));
    PLP_TRY(PLP_ALLOCATED(more = realloc(c->file, (size_t)(c->files + 1) * sizeof *c->file)));
    c->file = more;
    weights_file *f = &c->file[c->files++];
    *f = (weights_file){ .fd = -1 };
    snprintf(f->name, sizeof f->name, "%s", name);
    PLP_DO(open_file(path, f));
    if (f->bytes < sizeof length) {
        st = PLP_FAIL(PLP_ERR_DATA, "%s: %llu bytes, a safetensors file has 8 at least; fix: fetch it again", path,
                      (unsigned long long)f->bytes);
        goto done;
    }
    PLP_DO(read_at(f, c->dir, length, sizeof length, 0));
    for (int i = 0; i < 8; i++) n |= (uint64_t)length[i] << 8 * i;
    if (n == 0 || n > IO_SAFETENSORS_HEADER || n > f->bytes - sizeof length) {
        st = PLP_FAIL(PLP_ERR_DATA, "%s: byte 0: a header of %llu bytes in a file of %llu, at most %d are read; fix: fetch it again", path,
                      (unsigned long long)n, (unsigned long long)f->bytes, IO_SAFETENSORS_HEADER);
        goto done;
    }
    PLP_DO(PLP_ALLOCATED(text = malloc((size_t)n)));
    PLP_DO(read_at(f, c->dir, text, (size_t)n, sizeof length));
    plp_sha256_update(&c->headers, name, strlen(name) + 1);
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(f->bytes >> 8 * i);
    plp_sha256_update(&c->headers, length, sizeof length);
    plp_sha256_update(&c->headers, text, (size_t)n); /* now: parsing decodes it in place */
    PLP_DO(io_safetensors_parse(&header, text, (size_t)n, f->bytes, path));
    PLP_DO(take_header(c, c->files - 1, &header));
done:
    io_safetensors_free(&header);
    free(text);
    return st;
}

/* ------------------------------------------------------------------------------------------------------------------- index */
/* A shard is a plain name inside the directory: an index is data, and must not make us open anything else. */
static plp_status check_shard(const char *where, json_object *value, const char **name)
{
    if (!json_object_is_type(value, json_type_string))
        return PLP_FAIL(PLP_ERR_DATA, "%s: weight_map: a file name is not a string; fix: fetch it again", where);
    const char *s = json_object_get_string(value);
    const size_t n = (size_t)json_object_get_string_len(value);
    if (n == 0 || n >= IO_NAME || strlen(s) != n || strchr(s, '/') || strcmp(s, ".") == 0 || strcmp(s, "..") == 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: weight_map: \"%.100s\" is no plain file name; fix: shards lie beside their index", where, s);
    *name = s;
    return PLP_OK;
}

static int file_index(const io_checkpoint *c, const char *name)
{
    for (int i = c->files - 1; i >= 0; i--) /* neighbours in the map mostly share their file */
        if (strcmp(c->file[i].name, name) == 0) return i;
    return -1;
}

static plp_status open_shards(io_checkpoint *c, json_object *map, const char *where)
{
    json_object_object_foreach(map, tensor, value)
    {
        const char *name = NULL;
        (void)tensor;
        PLP_TRY(check_shard(where, value, &name));
        if (file_index(c, name) >= 0) continue;
        if (c->files == MOST_FILES) return PLP_FAIL(PLP_ERR_DATA, "%s: more than %d files; fix: save it in fewer", where, MOST_FILES);
        PLP_TRY(add_file(c, name));
    }
    return PLP_OK;
}

/* Every mapped tensor lies in its shard; what the shards hold besides is warned of. */
static plp_status check_map(const io_checkpoint *c, json_object *map, const char *where)
{
    int64_t extra = 0;
    const char *first = NULL;
    json_object_object_foreach(map, name, value)
    {
        const io_tensor *t = io_checkpoint_find(c, name);
        const char *shard = json_object_get_string(value);
        if (t == NULL || strcmp(c->file[t->file].name, shard) != 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s is not in %.100s; fix: fetch index and shards again", where, name, shard);
    }
    for (int64_t i = 0; i < c->tensors; i++)
        if (!json_object_object_get_ex(map, c->tensor[i].name, NULL) && extra++ == 0) first = c->tensor[i].name;
    if (extra > 0) plp_warn_alike("%s: %lld tensors of its shards are not listed, the first is %.100s", where, (long long)extra, first);
    return PLP_OK;
}

static plp_status merge(io_checkpoint *c)
{
    if (c->files > 1 && c->tensors > 1) qsort(c->tensor, (size_t)c->tensors, sizeof *c->tensor, by_name);
    for (int64_t i = 1; i < c->tensors; i++) {
        const io_tensor *a = &c->tensor[i - 1], *b = &c->tensor[i];
        if (strcmp(a->name, b->name) == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %.100s lies in %.60s and in %.60s; fix: fetch the shards again", c->dir, a->name,
                            c->file[a->file].name, c->file[b->file].name);
    }
    if (c->aliases > 1) qsort(c->alias, (size_t)c->aliases, sizeof *c->alias, by_name);
    return PLP_OK;
}

static plp_status take_index(io_checkpoint *c, json_object *root, const char *path)
{
    json_object *map = NULL;
    if (!json_object_is_type(root, json_type_object) || !json_object_object_get_ex(root, "weight_map", &map) ||
        !json_object_is_type(map, json_type_object) || json_object_object_length(map) == 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: weight_map is missing, empty or no object; fix: fetch the file again", path);
    PLP_TRY(open_shards(c, map, path));
    PLP_TRY(merge(c));
    return check_map(c, map, path);
}

static plp_status open_index(io_checkpoint *c, const char *name)
{
    char path[PLP_PATH];
    json_object *root = NULL;
    PLP_TRY(plp_path_join(c->dir, name, path));
    PLP_TRY(plp_json_read(path, MOST_INDEX, &root));
    const plp_status st = take_index(c, root, path);
    json_object_put(root);
    return st;
}

static plp_status no_weights(const io_checkpoint *c)
{
    static const char *const pickles[] = { "pytorch_model.bin", "pytorch_model.bin.index.json" };
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        bool there = false;
        PLP_TRY(find_file(c, pickles[i], &there));
        if (there)
            return PLP_FAIL(PLP_ERR_INPUT, "%s: %s is a pickle, which is a program and is not run; fix: save the model as safetensors",
                            c->dir, pickles[i]);
    }
    return PLP_FAIL(PLP_ERR_INPUT,
                    "%s: no weights; fix: a model.safetensors, with model.safetensors.index.json if in parts, or a "
                    "consolidated.safetensors belongs there",
                    c->dir);
}

/* -------------------------------------------------------------------------------------------------------------------- open */
static plp_status open_files(io_checkpoint *c)
{
    static const char *const whole[] = { "model.safetensors", "consolidated.safetensors" };
    bool there = false;
    PLP_TRY(find_file(c, "model.safetensors.index.json", &there));
    if (there) return open_index(c, "model.safetensors.index.json");
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        PLP_TRY(find_file(c, whole[i], &there));
        if (!there) continue;
        PLP_TRY(add_file(c, whole[i]));
        return merge(c);
    }
    return no_weights(c);
}

plp_status io_checkpoint_open(io_checkpoint **out, const char *dir)
{
    plp_status st = PLP_OK;
    struct stat info;
    io_checkpoint *c = NULL;
    *out = NULL;
    if (stat(dir, &info) != 0) return PLP_FAIL_ERRNO("open", dir);
    if (!S_ISDIR(info.st_mode)) return PLP_FAIL(PLP_ERR_INPUT, "%s: not a directory; fix: name the directory of the checkpoint", dir);
    PLP_TRY(PLP_ALLOCATED(c = calloc(1, sizeof *c)));
    PLP_DO(io_gather_create(&c->gather));
    plp_sha256_init(&c->headers);
    PLP_DO(PLP_ALLOCATED(c->dir = strdup(dir)));
    for (size_t n = strlen(c->dir); n > 1 && c->dir[n - 1] == '/'; n--) c->dir[n - 1] = 0;
    PLP_DO(open_files(c));
done:
    if (st != PLP_OK) io_checkpoint_close(&c);
    *out = c;
    return st;
}

void io_checkpoint_close(io_checkpoint **checkpoint)
{
    io_checkpoint *c = *checkpoint;
    if (c == NULL) return;
    for (int i = 0; i < c->files; i++)
        if (c->file[i].fd >= 0) close(c->file[i].fd);
    free(c->file);
    free(c->tensor);
    free(c->alias);
    free(c->dir);
    io_gather_destroy(&c->gather);
    free(c);
    *checkpoint = NULL;
}

const char *io_checkpoint_dir(const io_checkpoint *c) { return c->dir; }
int64_t io_checkpoint_tensors(const io_checkpoint *c) { return c->tensors; }
const io_tensor *io_checkpoint_tensor(const io_checkpoint *c, int64_t i) { return &c->tensor[i]; }
void io_checkpoint_threads(const io_checkpoint *c, int threads) { io_gather_threads(c->gather, threads); }
uint64_t io_checkpoint_bytes_read(const io_checkpoint *c) { return atomic_load(&c->bytes_read); }

const io_tensor *io_checkpoint_find(const io_checkpoint *c, const char *name)
{
    const io_tensor *t = find_tensor(c, name);
    if (t != NULL || c->aliases == 0) return t;
    const alias *a = bsearch(name, c->alias, (size_t)c->aliases, sizeof *c->alias, by_name);
    return a != NULL ? find_tensor(c, a->kept) : NULL;
}

/* A small tensor whole, of others a block at the start, in the middle and at the end.  The places depend on the tensor's size alone: the same
 * files have the same digest everywhere. */
static plp_status sample(const io_checkpoint *c, const io_tensor *t, plp_sha256_stream *s)
{
    uint8_t data[2 * SAMPLE];
    const bool whole = t->bytes <= sizeof data;
    const uint64_t blocks = whole ? 1 : t->bytes / SAMPLE, at[] = { 0, blocks / 2 * SAMPLE, (blocks - 1) * SAMPLE };
    const size_t size = whole ? (size_t)t->bytes : SAMPLE;
    for (int i = 0; i < (whole ? 1 : 3); i++) {
        PLP_TRY(read_at(&c->file[t->file], c->dir, data, size, t->offset + at[i]));
        plp_sha256_update(s, data, size);
    }
    return PLP_OK;
}

plp_status io_checkpoint_digest(const io_checkpoint *c, uint8_t digest[PLP_SHA256_BYTES])
{
    plp_sha256_stream s = c->headers;
    for (int64_t i = 0; i < c->tensors; i++) PLP_TRY(sample(c, &c->tensor[i], &s));
    plp_sha256_final(&s, digest);
    return PLP_OK;
}

/* See io_fetch. */
static plp_status fetch(const void *checkpoint, const io_tensor *t, uint64_t from, uint64_t count, uint8_t *direct, io_scratch *scratch,
                        const uint8_t **data)
{
    const io_checkpoint *c = checkpoint;
    uint8_t *place = direct != NULL ? direct : scratch->data;
    *data = place;
    return read_at(&c->file[t->file], c->dir, place, (size_t)count, t->offset + from);
}

plp_status io_checkpoint_read_ranges(const io_checkpoint *c, const io_range *list, int n)
{
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        const io_range *r = list + i;
        const int64_t all = io_tensor_count(r->tensor);
        if (r->first < 0 || r->count < 0 || r->first > all - r->count)
            return PLP_FAIL(PLP_ERR_SHAPE, "%s: elements %lld + %lld of %lld", r->tensor->name, (long long)r->first, (long long)r->count,
                            (long long)all);
        bytes += (uint64_t)r->count * plp_dtype_size(r->tensor->dtype);
    }
    PLP_TRY(io_gather_read(c->gather, list, n, fetch, c));
    atomic_fetch_add(&((io_checkpoint *)c)->bytes_read, bytes); /* a counter, not a change of the checkpoint */
    return PLP_OK;
}

plp_status io_checkpoint_read(const io_checkpoint *c, const io_tensor *t, int64_t first, int64_t count, void *dst)
{
    return io_checkpoint_read_ranges(c, &(io_range){ .tensor = t, .first = first, .count = count, .dst = dst }, 1);
}
