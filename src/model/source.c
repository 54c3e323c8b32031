#include "model/source.h"

#include "base/error.h"
#include "io/model_file.h"
#include "model/checkpoint_map.h"
#include "model/config_attributes.h"
#include "model/config_resolve.h"
#include "model/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { PIECE = 1 << 20, MOST_THREADS = 16, MOST_PATH = 4096, MOST_CONFIG = 16 << 20, MOST_TOKENIZER = 256 << 20 };

/* What changes while a source is read. */
typedef struct {
    int threads;
    char *piece; /* what is converted or cut on its way */
    size_t bytes;
} reading;

struct model_source {
    model_config config;
    io_model_file *file;       /* either this ... */
    io_checkpoint *checkpoint; /* ... or this and its map */
    model_checkpoint_map map;
    char *config_text, *tokenizer; /* NUL-terminated copies */
    size_t tokenizer_bytes;
    char digest[PLP_SHA256_HEX];
    reading *reading;
};

/* ---------------------------------------------------------------------------------------------------- open: model file */
static plp_status copy_blob(const io_model_file *f, const char *name, char **text, size_t *bytes)
{
    const void *data = NULL;
    PLP_TRY(io_model_get_blob(f, name, &data, bytes));
    if (data == NULL) return PLP_OK;
    PLP_TRY(PLP_ALLOCATED(*text = malloc(*bytes + 1)));
    memcpy(*text, data, *bytes);
    (*text)[*bytes] = 0;
    return PLP_OK;
}

static plp_status open_model_file(model_source *s, const char *path, const model_source_options *options)
{
    size_t bytes = 0;
    if (options != NULL && options->full_norm)
        return PLP_FAIL(PLP_ERR_USAGE, "%s: the kind of gated norm is fixed in a model file; fix: choose it when converting", path);
    PLP_TRY(options != NULL && options->trust ? io_model_open_trusted(&s->file, path) : io_model_open(&s->file, path));
    PLP_TRY(model_config_read(s->file, &s->config));
    PLP_TRY(model_layout_check(s->file, &s->config));
    PLP_TRY(copy_blob(s->file, "/config_text", &s->config_text, &bytes));
    PLP_TRY(copy_blob(s->file, "/tokenizer_json", &s->tokenizer, &s->tokenizer_bytes));
    snprintf(s->digest, sizeof s->digest, "%s", io_model_digest(s->file));
    return PLP_OK;
}

/* ---------------------------------------------------------------------------------------------------- open: directory */
static plp_status join(const char *dir, const char *name, char path[MOST_PATH], bool *there)
{
    struct stat info;
    if (snprintf(path, MOST_PATH, "%s/%s", dir, name) >= MOST_PATH)
        return PLP_FAIL(PLP_ERR_USAGE, "%.200s...: a path of more than %d bytes", dir, MOST_PATH - 1);
    *there = stat(path, &info) == 0;
    return PLP_OK;
}

/* params.json, if it is Codestral's; else config.json. */
static plp_status read_config(model_source *s, const char *dir, char path[MOST_PATH], json_object **root)
{
    bool there = false;
    size_t bytes = 0;
    PLP_TRY(join(dir, "params.json", path, &there));
    if (there) {
        PLP_TRY(plp_read_file(path, MOST_CONFIG, &s->config_text, &bytes));
        PLP_TRY(plp_json_parse(s->config_text, bytes, path, root));
        if (json_object_object_get_ex(*root, "dim", NULL)) return PLP_OK;
        json_object_put(*root);
        free(s->config_text);
        *root = NULL, s->config_text = NULL;
    }
    PLP_TRY(join(dir, "config.json", path, &there));
    PLP_TRY(plp_read_file(path, MOST_CONFIG, &s->config_text, &bytes));
    return plp_json_parse(s->config_text, bytes, path, root);
}

static plp_status read_tokenizer(model_source *s, const char *dir)
{
    char path[MOST_PATH];
    bool there = false;
    PLP_TRY(join(dir, "tokenizer.json", path, &there));
    return there ? plp_read_file(path, MOST_TOKENIZER, &s->tokenizer, &s->tokenizer_bytes) : PLP_OK;
}

/* All that decides what the model computes, short of the weights' values. */
static void digest_directory(model_source *s)
{
    plp_sha256_stream sum;
    uint8_t digest[PLP_SHA256_BYTES];
    io_checkpoint_digest(s->checkpoint, digest);
    plp_sha256_init(&sum);
    plp_sha256_update(&sum, digest, sizeof digest);
    plp_sha256_update(&sum, s->config_text, strlen(s->config_text));
    plp_sha256_update(&sum, &(uint8_t){ s->config.norm_groups == 1 }, 1);
    plp_sha256_final(&sum, digest);
    plp_sha256_hex(digest, s->digest);
}

static plp_status open_directory(model_source *s, const char *dir, const model_source_options *options)
{
    plp_status st = PLP_OK;
    char path[MOST_PATH];
    json_object *root = NULL;
    model_config *c = &s->config;
    PLP_DO(io_checkpoint_open(&s->checkpoint, dir));
    PLP_DO(read_config(s, dir, path, &root));
    PLP_DO(read_tokenizer(s, dir));
    PLP_DO(model_config_resolve(root, path, c));
    PLP_DO(model_checkpoint_map_open(&s->map, s->checkpoint, c));
    if (options != NULL && options->full_norm && c->norm_groups > 1) c->norm_groups = 1;
    PLP_DO(model_config_resolve_ids(c, root, path, dir, s->tokenizer, s->tokenizer_bytes));
    if ((st = model_config_check(c)) != PLP_OK) {
        st = PLP_FAIL(st, "%s: %s", path, plp_last_error());
        goto done;
    }
    PLP_DO(model_checkpoint_map_check(&s->map, c));
    digest_directory(s);
done:
    json_object_put(root);
    return st;
}

plp_status model_source_open(model_source **out, const char *path, const model_source_options *options)
{
    struct stat info;
    model_source *s = NULL;
    *out = NULL;
    if (stat(path, &info) != 0) return PLP_FAIL_ERRNO("open", path);
    const bool directory = S_ISDIR(info.st_mode);
    if (!directory && !(S_ISREG(info.st_mode) && io_model_is_file(path)))
        return PLP_FAIL(PLP_ERR_DATA, "%s: neither a model file (HDF5) nor a checkpoint directory; fix: name one of them", path);
    PLP_TRY(PLP_ALLOCATED(s = calloc(1, sizeof *s)));
    plp_status st = PLP_ALLOCATED(s->reading = calloc(1, sizeof *s->reading));
    if (st == PLP_OK) st = directory ? open_directory(s, path, options) : open_model_file(s, path, options);
    if (st == PLP_OK) model_source_threads(s, 1);
    if (st != PLP_OK) model_source_close(&s);
    *out = s;
    return st;
}

void model_source_close(model_source **source)
{
    model_source *s = *source;
    if (s == NULL) return;
    io_model_close(&s->file);
    io_checkpoint_close(&s->checkpoint);
    free(s->config_text);
    free(s->tokenizer);
    if (s->reading != NULL) free(s->reading->piece);
    free(s->reading);
    free(s);
    *source = NULL;
}

const model_config *model_source_config(const model_source *s) { return &s->config; }
const char *model_source_config_text(const model_source *s) { return s->config_text ? s->config_text : ""; }
const char *model_source_digest(const model_source *s) { return s->digest; }

plp_status model_source_tokenizer(const model_source *s, const char **text, size_t *bytes)
{
    *text = s->tokenizer;
    *bytes = s->tokenizer_bytes;
    return PLP_OK;
}

void model_source_threads(const model_source *s, int threads)
{
    s->reading->threads = threads < MOST_THREADS ? threads : MOST_THREADS; /* more of them wait for memory */
    if (s->file)
        io_model_threads(s->file, s->reading->threads);
    else
        io_checkpoint_threads(s->checkpoint, s->reading->threads);
}

uint64_t model_source_bytes_read(const model_source *s)
{
    return s->file ? io_model_bytes_read(s->file) : io_checkpoint_bytes_read(s->checkpoint);
}

/* ---------------------------------------------------------------------------------------------------------------------- read */
/* Columns `skip` .. skip + count of `rows` rows, each `width` elements long, that begin at element `at` of a tensor. */
typedef struct {
    const io_tensor *tensor;
    int64_t at, rows, width, skip, count;
} cut;

static plp_status read_tensor(const model_source *s, const io_tensor *t, int64_t first, int64_t count, void *dst)
{
    return s->file ? io_model_read(s->file, t, first, count, dst) : io_checkpoint_read(s->checkpoint, t, first, count, dst);
}

/* Memory for a piece, kept until the source is closed: fresh memory costs more than what is done in it. */
static plp_status take_piece(const model_source *s, size_t bytes, char **piece)
{
    reading *r = s->reading;
    if (r->bytes < bytes) {
        free(r->piece);
        r->bytes = 0;
        PLP_TRY(PLP_ALLOCATED(r->piece = malloc(bytes)));
        r->bytes = bytes;
    }
    *piece = r->piece;
    return PLP_OK;
}

/* Bytes of a piece.  One thread's stays in its cache; threads that meet behind each piece should not do so often. */
static int64_t room_of(const model_source *s) { return (int64_t)PIECE * (s->reading->threads > 1 ? 4 * s->reading->threads : 1); }

/* How many things of that size make a piece, of `most`. */
static int64_t fit(const model_source *s, int64_t bytes, int64_t most)
{
    const int64_t n = room_of(s) / bytes;
    return n < 1 ? 1 : n < most ? n : most;
}

/* Dense rows.  Whole rows are read and cut here: a read per row would be thousands of small ones. */
static plp_status read_cut(const model_source *s, const cut *c, char *dst, plp_dtype dtype)
{
    const plp_dtype stored = c->tensor->dtype;
    const int64_t from = (int64_t)plp_dtype_size(stored), to = (int64_t)plp_dtype_size(dtype);
    if (stored == dtype && c->count == c->width) return read_tensor(s, c->tensor, c->at, c->rows * c->width, dst);
    char *piece;
    const int64_t step = fit(s, c->width * from, c->rows);
    PLP_TRY(take_piece(s, (size_t)(step * c->width * from), &piece));
    for (int64_t row = 0; row < c->rows; row += step) {
        const int64_t n = c->rows - row < step ? c->rows - row : step;
        PLP_TRY(read_tensor(s, c->tensor, c->at + row * c->width, n * c->width, piece));
#pragma omp parallel for schedule(static) num_threads(s->reading->threads) if (n > 1)
        for (int64_t i = 0; i < n; i++)
            plp_convert(dst + (row + i) * c->count * to, dtype, piece + (i * c->width + c->skip) * from, stored, (size_t)c->count);
    }
    return PLP_OK;
}

/* Columns first .. first + count of a model file's band: (columns / block, rows, block). */
static plp_status read_blocks(const model_source *s, const io_tensor *t, int64_t first, int64_t count, char *dst, plp_dtype dtype)
{
    const int64_t rows = t->shape[1], block = t->shape[2], size = (int64_t)plp_dtype_size(dtype),
                  stored = (int64_t)plp_dtype_size(t->dtype);
    const int64_t end = first + count, last = (end - 1) / block, step = fit(s, rows * block * stored, last - first / block + 1);
    char *piece;
    PLP_TRY(take_piece(s, (size_t)(step * rows * block * stored), &piece));
    for (int64_t b = first / block; b <= last; b += step) {
        const int64_t n = last - b + 1 < step ? last - b + 1 : step;
        PLP_TRY(read_tensor(s, t, b * rows * block, n * rows * block, piece));
#pragma omp parallel for schedule(static) num_threads(s->reading->threads) if (rows > 1)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < n; i++) {
                const int64_t begins = (b + i) * block, from = first > begins ? first : begins,
                              to = end < begins + block ? end : begins + block;
                plp_convert(dst + (row * count + from - first) * size, dtype, piece + ((i * rows + row) * block + from - begins) * stored,
                            t->dtype, (size_t)(to - from));
            }
    }
    return PLP_OK;
}

static plp_status find_band(const model_source *s, model_band band, int64_t layer, const io_tensor **t, int64_t *first_row)
{
    char path[IO_NAME];
    *first_row = 0;
    if (s->checkpoint) return model_checkpoint_map_find(&s->map, &s->config, band, layer, t, first_row);
    model_layout_path(band, layer, path);
    *t = io_model_find(s->file, path);
    return *t != NULL ? PLP_OK : PLP_FAIL(PLP_ERR_DATA, "tensor %s is missing; fix: convert the checkpoint again", path);
}

static plp_status check_request(const model_source *s, model_band band, int64_t layer, int64_t first, int64_t count, int64_t have)
{
    const model_band_info *info = model_band_of(band);
    if (have == 0) return PLP_FAIL(PLP_ERR_SHAPE, "%s: this model has none", info->name);
    if (info->per_layer && (layer < 0 || layer >= s->config.layers))
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: layer %lld of %lld", info->name, (long long)layer, (long long)s->config.layers);
    if (first < 0 || count < 0 || first > have - count)
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: %s %lld + %lld of %lld", info->name, info->by_columns ? "columns" : "rows", (long long)first,
                        (long long)count, (long long)have);
    return PLP_OK;
}

plp_status model_source_read(const model_source *s, model_band band, int64_t layer, int64_t first, int64_t count, void *dst,
                             plp_dtype dtype)
{
    const bool by_columns = model_band_of(band)->by_columns;
    const io_tensor *t = NULL;
    int64_t rows = 0, columns = 0, row = 0;
    model_band_shape(&s->config, band, &rows, &columns);
    PLP_TRY(check_request(s, band, layer, first, count, by_columns ? columns : rows));
    PLP_TRY(find_band(s, band, layer, &t, &row));
    if (t->dtype != dtype && t->dtype != PLP_F32 && dtype != PLP_F32)
        return PLP_FAIL(PLP_ERR_USAGE, "%s: stored as %s, wanted as %s, and neither holds the other's values; fix: ask for %s or F32",
                        t->name, plp_dtype_name(t->dtype), plp_dtype_name(dtype), plp_dtype_name(t->dtype));
    if (count == 0) return PLP_OK;
    if (by_columns && s->file) return read_blocks(s, t, first, count, dst, dtype);
    const cut c = by_columns ? (cut){ t, row * columns, rows, columns, first, count }
                             : (cut){ t, (row + first) * columns, count, columns, 0, columns };
    return read_cut(s, &c, dst, dtype);
}

plp_status model_source_pass(model_source *s, int part, int parts, uint64_t *bytes)
{
    plp_status st = PLP_OK;
    char *piece;
    const int64_t tensors = s->file ? io_model_tensors(s->file) : io_checkpoint_tensors(s->checkpoint);
    const int64_t room = room_of(s);
    *bytes = 0;
    PLP_TRY(take_piece(s, (size_t)room, &piece));
    if (s->file) io_model_check(s->file, false);
    for (int64_t i = 0; i < tensors; i++) {
        const io_tensor *t = s->file ? io_model_tensor(s->file, i) : io_checkpoint_tensor(s->checkpoint, i);
        const int64_t n = io_tensor_count(t), size = (int64_t)plp_dtype_size(t->dtype), end = n * (part + 1) / parts;
        for (int64_t at = n * part / parts; at < end;) {
            const int64_t most = room / size, count = end - at < most ? end - at : most;
            PLP_DO(read_tensor(s, t, at, count, piece));
            at += count, *bytes += (uint64_t)(count * size);
        }
    }
done:
    if (s->file) io_model_check(s->file, true);
    return st;
}

uint64_t model_source_cost(const model_source *s, model_band band, int64_t first, int64_t count)
{
    const io_tensor *t = NULL;
    int64_t rows = 0, columns = 0, row = 0, elements = 0;
    model_band_shape(&s->config, band, &rows, &columns);
    if (rows == 0 || count <= 0 || find_band(s, band, 0, &t, &row) != PLP_OK) return 0;
    if (!model_band_of(band)->by_columns)
        elements = count * columns;
    else if (s->file)
        elements = ((first + count - 1) / t->shape[2] - first / t->shape[2] + 1) * rows * t->shape[2];
    else
        elements = rows * columns;
    return (uint64_t)elements * plp_dtype_size(t->dtype);
}
