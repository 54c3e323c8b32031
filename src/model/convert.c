/* A checkpoint directory becomes a model file: band after band, in the order in which a rank reads them back. */
#include "model/source.h"

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "io/model_file.h"
#include "model/config_attributes.h"
#include "model/layout.h"
#include "model/values.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 64 << 20 }; /* an out_proj at once, up to the models of 7 billion: a checkpoint is read whole for any of its columns */

typedef struct {
    const char *path;
    const model_source *source;
    const model_config *config;
    io_model_writer *writer;
    bool check_finite;
    bool (*stop)(void);
    char *piece, *blocks; /* as the source gives it; with its columns in blocks */
    size_t room;          /* bytes of each */
    int64_t piece_bytes;
    uint64_t done, total; /* bytes of weights */
} conversion;

/* A band, counted in units: rows, or blocks of columns where it is cut by columns. */
typedef struct {
    int64_t layer;
    model_band band;
    const model_band_info *info;
    plp_dtype dtype;
    int64_t rows, columns, block; /* columns of a block; 1 where there are none */
    int64_t units, unit_count;    /* how many; elements of each                  */
    int64_t most;                 /* units that make a piece                     */
    char name[IO_NAME];
} task;

static task describe(const model_config *c, model_band band, int64_t layer, int64_t piece_bytes)
{
    task t = { .layer = layer, .band = band, .info = model_band_of(band) };
    t.dtype = t.info->matrix ? c->dtype : PLP_F32;
    model_band_shape(c, band, &t.rows, &t.columns);
    t.block = t.info->by_columns ? model_layout_block(c) : 1;
    t.units = t.info->by_columns ? t.columns / t.block : t.rows;
    t.unit_count = t.info->by_columns ? t.rows * t.block : t.columns;
    const int64_t fit = piece_bytes / ((t.unit_count > 0 ? t.unit_count : 1) * (int64_t)plp_dtype_size(t.dtype));
    t.most = fit > 0 ? fit : 1;
    model_layout_path(band, layer, t.name);
    return t;
}

/* (rows, count * block) -> (count, rows, block) */
static const char *cut_columns(const conversion *c, const task *t, int64_t count)
{
    const size_t run = (size_t)t->block * plp_dtype_size(t->dtype);
    char *to = c->blocks;
    for (int64_t b = 0; b < count; b++)
        for (int64_t r = 0; r < t->rows; r++, to += run) memcpy(to, c->piece + (size_t)(r * count + b) * run, run);
    return c->blocks;
}

static plp_status convert_band(conversion *c, const task *t)
{
    int64_t shape[IO_RANK];
    const int rank = model_layout_shape(c->config, t->band, shape);
    PLP_TRY(io_model_begin(c->writer, t->name, t->dtype, rank, shape, NULL, NULL));
    for (int64_t first = 0; first < t->units; first += t->most) {
        const int64_t count = t->units - first < t->most ? t->units - first : t->most;
        PLP_TRY(PLP_FAULT_AT("convert"));
        if (c->stop != NULL && c->stop())
            return PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal; %s was not written; fix: start again, it begins anew", c->path);
        PLP_TRY(model_source_read(c->source, t->band, t->layer, first * t->block, count * t->block, c->piece, t->dtype));
        if (c->check_finite)
            PLP_TRY(model_check_values(c->config, t->band, t->layer, first * t->block, count * t->block, c->piece, t->dtype, 1));
        PLP_TRY(io_model_append(c->writer, t->info->by_columns ? cut_columns(c, t, count) : c->piece, count * t->unit_count));
        c->done += (uint64_t)(count * t->unit_count) * plp_dtype_size(t->dtype);
        plp_log_progress(false, "converting to %s: %.2f of %.2f GB", c->path, 1e-9 * (double)c->done, 1e-9 * (double)c->total);
    }
    return io_model_end(c->writer);
}

/* Calls `visit` for every band of the model in the order of the file: embedding, layer after layer, final norm, head. */
static plp_status each_band(conversion *c, plp_status (*visit)(conversion *, const task *))
{
    for (int part = 0; part < 3; part++) /* before, in and behind the layers */
        for (int64_t layer = 0; layer < (part == 1 ? c->config->layers : 1); layer++)
            for (int band = 0; band < MODEL_BANDS; band++) {
                const task t = describe(c->config, (model_band)band, layer, c->piece_bytes);
                const int its_part = t.info->per_layer ? 1 : band < MODEL_NORM ? 0 : 2;
                if (its_part == part && t.rows > 0) PLP_TRY(visit(c, &t));
            }
    return PLP_OK;
}

static plp_status make_room(conversion *c, const task *t)
{
    const int64_t units = t->units < t->most ? t->units : t->most;
    const size_t bytes = (size_t)(units * t->unit_count) * plp_dtype_size(t->dtype);
    c->total += (uint64_t)(t->units * t->unit_count) * plp_dtype_size(t->dtype);
    if (bytes <= c->room) return PLP_OK;
    char *piece = realloc(c->piece, bytes);
    PLP_TRY(PLP_ALLOCATED(piece));
    c->piece = piece;
    char *blocks = realloc(c->blocks, bytes);
    PLP_TRY(PLP_ALLOCATED(blocks));
    c->blocks = blocks;
    c->room = bytes;
    return PLP_OK;
}

/* The config as fields and as it came, and the tokenizer. */
static plp_status convert_texts(const conversion *c)
{
    const char *text = model_source_config_text(c->source);
    size_t bytes = 0;
    PLP_TRY(model_config_write(c->writer, c->config));
    PLP_TRY(io_model_put_string(c->writer, "source_digest", model_source_digest(c->source)));
    PLP_TRY(io_model_put_blob(c->writer, "/config_text", text, strlen(text)));
    PLP_TRY(model_source_tokenizer(c->source, &text, &bytes));
    return text == NULL ? PLP_OK : io_model_put_blob(c->writer, "/tokenizer_json", text, bytes);
}

plp_status model_convert(const char *from, const char *path, const model_convert_options *options)
{
    const model_convert_options none = { .replace = false };
    const model_convert_options *o = options != NULL ? options : &none;
    plp_status st = PLP_OK;
    model_source *source = NULL;
    conversion c = { .path = path, .check_finite = o->check_finite, .stop = o->stop };
    c.piece_bytes = o->piece_bytes > 0 ? o->piece_bytes : PIECE;
    PLP_DO(model_source_open(&source, from, &o->source));
    c.source = source, c.config = model_source_config(source);
    PLP_DO(each_band(&c, make_room));
    PLP_DO(io_model_create(&c.writer, path, o->replace));
    PLP_DO(convert_texts(&c));
    PLP_DO(each_band(&c, convert_band));
    PLP_DO(io_model_finish(&c.writer));
    plp_log_progress(true, "converted to %s: %.2f GB", path, 1e-9 * (double)c.total);
done:
    io_model_discard(&c.writer);
    free(c.blocks);
    free(c.piece);
    model_source_close(&source);
    return st;
}
