#include "model/source.h"

#include "base/error.h"
#include "base/path.h"
#include "io/model_file.h"
#include "model/checkpoint_map.h"
#include "model/config_attributes.h"
#include "model/config_resolve.h"
#include "model/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_RANGES = 64, PASS = 64 << 20, MOST_CONFIG = 16 << 20, MOST_TOKENIZER = 256 << 20 };

struct model_source {
    model_config config;
    io_model_file *file;       /* either this ... */
    io_checkpoint *checkpoint; /* ... or this and its map */
    model_checkpoint_map map;
    char *config_text, *tokenizer; /* NUL-terminated copies */
    size_t tokenizer_bytes;
    char digest[PLP_SHA256_HEX];
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
static plp_status look_for(const char *dir, const char *name, char path[PLP_PATH], bool *there)
{
    struct stat info;
    PLP_TRY(plp_path_join(dir, name, path));
    *there = stat(path, &info) == 0;
    return PLP_OK;
}

/* params.json, if it is Codestral's; else config.json. */
static plp_status read_config(model_source *s, const char *dir, char path[PLP_PATH], json_object **root)
{
    bool there = false;
    size_t bytes = 0;
    PLP_TRY(look_for(dir, "params.json", path, &there));
    if (there) {
        PLP_TRY(plp_read_file(path, MOST_CONFIG, &s->config_text, &bytes));
        PLP_TRY(plp_json_parse(s->config_text, bytes, path, root));
        if (json_object_object_get_ex(*root, "dim", NULL)) return PLP_OK;
        json_object_put(*root);
        free(s->config_text);
        *root = NULL, s->config_text = NULL;
    }
    PLP_TRY(look_for(dir, "config.json", path, &there));
    PLP_TRY(plp_read_file(path, MOST_CONFIG, &s->config_text, &bytes));
    return plp_json_parse(s->config_text, bytes, path, root);
}

static plp_status read_tokenizer(model_source *s, const char *dir)
{
    char path[PLP_PATH];
    bool there = false;
    PLP_TRY(look_for(dir, "tokenizer.json", path, &there));
    return there ? plp_read_file(path, MOST_TOKENIZER, &s->tokenizer, &s->tokenizer_bytes) : PLP_OK;
}

/* All that decides what a text is answered with; of the weights' values a sample. */
static plp_status digest_directory(model_source *s)
{
    plp_sha256_stream sum;
    uint8_t digest[PLP_SHA256_BYTES];
    PLP_TRY(io_checkpoint_digest(s->checkpoint, digest));
    plp_sha256_init(&sum);
    plp_sha256_update(&sum, digest, sizeof digest);
    plp_sha256_update(&sum, s->config_text, strlen(s->config_text));
    plp_sha256_update(&sum, &(uint8_t){ s->config.norm_groups == 1 }, 1);
    plp_sha256_update(&sum, s->config.stop, (size_t)s->config.stops * sizeof *s->config.stop); /* other files have a say in these */
    plp_sha256_update(&sum, &s->config.bos, sizeof s->config.bos);
    plp_sha256_update(&sum, &s->config.vocab_used, sizeof s->config.vocab_used);
    if (s->tokenizer != NULL) plp_sha256_update(&sum, s->tokenizer, s->tokenizer_bytes);
    plp_sha256_final(&sum, digest);
    plp_sha256_hex(digest, s->digest);
    return PLP_OK;
}

static plp_status open_directory(model_source *s, const char *dir, const model_source_options *options)
{
    plp_status st = PLP_OK;
    char path[PLP_PATH];
    json_object *root = NULL;
    model_config *c = &s->config;
    PLP_DO(io_checkpoint_open(&s->checkpoint, dir));
    PLP_DO(read_config(s, dir, path, &root));
    PLP_DO(read_tokenizer(s, dir));
    PLP_DO(model_config_resolve(root, path, c));
    PLP_DO(model_checkpoint_map_open(&s->map, s->checkpoint, c));
    if (options != NULL && options->full_norm && c->norm_groups > 1) c->norm_groups = 1;
    PLP_DO(model_config_resolve_mixer_norms(c, root, path));
    PLP_DO(model_config_resolve_ids(c, root, path, dir, s->tokenizer, s->tokenizer_bytes));
    if ((st = model_config_check(c)) != PLP_OK) {
        st = PLP_FAIL(st, "%s: %s; fix: correct it, or fetch the checkpoint again", path, plp_last_error());
        goto done;
    }
    PLP_DO(model_checkpoint_map_check(&s->map, c));
    PLP_DO(digest_directory(s));
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
    bool file = false;
    if (access(path, directory ? X_OK : R_OK) != 0) return PLP_FAIL_ERRNO("open", path);
    if (S_ISREG(info.st_mode)) PLP_TRY(io_model_is_file(path, &file));
    if (!directory && !file)
        return PLP_FAIL(PLP_ERR_DATA, "%s: neither a model file (HDF5) nor a checkpoint directory; fix: name one of them", path);
    PLP_TRY(PLP_ALLOCATED(s = calloc(1, sizeof *s)));
    const plp_status st = directory ? open_directory(s, path, options) : open_model_file(s, path, options);
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
    free(s);
    *source = NULL;
}

const model_config *model_source_config(const model_source *s) { return &s->config; }
const char *model_source_config_text(const model_source *s) { return s->config_text ? s->config_text : ""; }
const char *model_source_digest(const model_source *s) { return s->digest; }
bool model_source_digest_is_whole(const model_source *s) { return s->file != NULL; }

plp_status model_source_tokenizer(const model_source *s, const char **text, size_t *bytes)
{
    *text = s->tokenizer;
    *bytes = s->tokenizer_bytes;
    return PLP_OK;
}

void model_source_threads(const model_source *s, int threads)
{
    if (s->file)
        io_model_threads(s->file, threads);
    else
        io_checkpoint_threads(s->checkpoint, threads);
}

uint64_t model_source_bytes_read(const model_source *s)
{
    return s->file ? io_model_bytes_read(s->file) : io_checkpoint_bytes_read(s->checkpoint);
}

/* ---------------------------------------------------------------------------------------------------------------------- read */
/* A tensor seen as (blocks, rows, block), of which columns first .. end, counted through the blocks, go to a dense matrix of rows.  A matrix
 * is one block.  Pieces come in any order, from several threads, and never meet in dst. */
typedef struct {
    char *dst;
    int64_t start; /* the element of the tensor's view that the range begins with */
    int64_t rows, block, first, end;
    plp_dtype from, to;
} cut;

static void take_cut(void *dst, int64_t at, const void *data, int64_t count)
{
    const cut *c = dst;
    const int64_t from = (int64_t)plp_dtype_size(c->from), to = (int64_t)plp_dtype_size(c->to);
    const char *p = data;
    for (at += c->start; count > 0;) { /* by runs that lie in one row of a block */
        const int64_t line = at / c->block, column = at % c->block, n = c->block - column < count ? c->block - column : count;
        const int64_t row = line % c->rows, left = line / c->rows * c->block + column;
        const int64_t begin = left > c->first ? left : c->first, end = left + n < c->end ? left + n : c->end;
        if (begin < end)
            plp_convert(c->dst + (row * (c->end - c->first) + begin - c->first) * to, c->to, p + (begin - left) * from, c->from,
                        (size_t)(end - begin));
        p += n * from, at += n, count -= n;
    }
}

/* What a request takes from its tensor, and how.  c is borrowed by the range. */
static io_range range_of(const model_source *s, const model_range *r, const io_tensor *t, int64_t row, int64_t rows, int64_t columns,
                         cut *c)
{
    io_range range = { .tensor = t, .first = (row + r->first) * columns, .count = r->count * columns, .dst = r->dst };
    *c = (cut){ .dst = r->dst, .rows = 1, .block = range.count, .end = range.count, .from = t->dtype, .to = r->dtype };
    if (model_band_of(r->band)->by_columns) {
        c->rows = rows, c->block = columns, c->first = r->first, c->end = r->first + r->count;
        range.first = row * columns, range.count = rows * columns;
        if (s->file) { /* (columns / block, rows, block): the blocks that hold the columns */
            c->block = t->shape[2];
            const int64_t begin = c->first / c->block, end = (c->end + c->block - 1) / c->block;
            c->start = range.first = begin * rows * c->block, range.count = (end - begin) * rows * c->block;
        }
    } else if (t->dtype == r->dtype)
        return range;
    range.dst = c, range.take = take_cut;
    return range;
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

static plp_status add_range(const model_source *s, const model_range *r, io_range *range, cut *c)
{
    const io_tensor *t = NULL;
    int64_t rows = 0, columns = 0, row = 0;
    model_band_shape(&s->config, r->band, &rows, &columns);
    PLP_TRY(check_request(s, r->band, r->layer, r->first, r->count, model_band_of(r->band)->by_columns ? columns : rows));
    PLP_TRY(find_band(s, r->band, r->layer, &t, &row));
    if (t->dtype != r->dtype && t->dtype != PLP_F32 && r->dtype != PLP_F32)
        return PLP_FAIL(PLP_ERR_USAGE, "%s: stored as %s, wanted as %s, and neither holds the other's values; fix: ask for %s or F32",
                        t->name, plp_dtype_name(t->dtype), plp_dtype_name(r->dtype), plp_dtype_name(t->dtype));
    *range = range_of(s, r, t, row, rows, columns, c);
    if (r->count == 0) range->count = 0;
    return PLP_OK;
}

plp_status model_source_read_ranges(const model_source *s, const model_range *list, int n)
{
    io_range ranges[MOST_RANGES];
    cut cuts[MOST_RANGES];
    for (int done = 0; done < n; done += MOST_RANGES) {
        const int some = n - done < MOST_RANGES ? n - done : MOST_RANGES;
        for (int i = 0; i < some; i++) PLP_TRY(add_range(s, list + done + i, ranges + i, cuts + i));
        PLP_TRY(s->file ? io_model_read_ranges(s->file, ranges, some) : io_checkpoint_read_ranges(s->checkpoint, ranges, some));
    }
    return PLP_OK;
}

plp_status model_source_read(const model_source *s, model_band band, int64_t layer, int64_t first, int64_t count, void *dst,
                             plp_dtype dtype)
{
    return model_source_read_ranges(s, &(model_range){ band, layer, first, count, dst, dtype }, 1);
}

plp_status model_source_pass(model_source *s, int part, int parts, uint64_t *bytes)
{
    plp_status st = PLP_OK;
    char *piece = NULL;
    const int64_t tensors = s->file ? io_model_tensors(s->file) : io_checkpoint_tensors(s->checkpoint);
    *bytes = 0;
    if (s->file) io_model_check(s->file, false);
    PLP_DO(PLP_ALLOCATED(piece = malloc(PASS)));
    for (int64_t i = 0; i < tensors; i++) {
        const io_tensor *t = s->file ? io_model_tensor(s->file, i) : io_checkpoint_tensor(s->checkpoint, i);
        const int64_t n = io_tensor_count(t), size = (int64_t)plp_dtype_size(t->dtype), end = n * (part + 1) / parts;
        for (int64_t at = n * part / parts; at < end;) {
            const int64_t most = PASS / size, count = end - at < most ? end - at : most;
            PLP_DO(s->file ? io_model_read(s->file, t, at, count, piece) : io_checkpoint_read(s->checkpoint, t, at, count, piece));
            at += count, *bytes += (uint64_t)(count * size);
        }
    }
done:
    if (s->file) io_model_check(s->file, true);
    free(piece);
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
