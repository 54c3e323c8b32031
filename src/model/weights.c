#include "model/weights.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "model/values.h"
#include "tp/stamp.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* A layer's weights: which bands lie one behind the other where.  A model that has none of an entry's bands gets NULL there. */
typedef struct {
    size_t place; /* of the pointer in layer_weights */
    int count;
    model_band bands[5]; /* all matrices, or none of them */
} entry;
static const entry table[] = {
#define PLACE(name) offsetof(layer_weights, name)
    { PLACE(norm), 1, { MODEL_NORM } },
    { PLACE(in_proj), 5, { MODEL_IN_Z, MODEL_IN_X, MODEL_IN_B, MODEL_IN_C, MODEL_IN_DT } },
    { PLACE(in_bias), 5, { MODEL_IN_Z_BIAS, MODEL_IN_X_BIAS, MODEL_IN_B_BIAS, MODEL_IN_C_BIAS, MODEL_IN_DT_BIAS } },
    { PLACE(conv), 3, { MODEL_CONV_X, MODEL_CONV_B, MODEL_CONV_C } },
    { PLACE(conv_bias), 3, { MODEL_CONV_X_BIAS, MODEL_CONV_B_BIAS, MODEL_CONV_C_BIAS } },
    { PLACE(x_proj), 1, { MODEL_X_PROJ } },
    { PLACE(dt_proj), 1, { MODEL_DT_PROJ } },
    { PLACE(dt_bias), 1, { MODEL_DT_BIAS } },
    { PLACE(A), 1, { MODEL_A_LOG } },
    { PLACE(D), 1, { MODEL_D } },
    { PLACE(gate_norm), 1, { MODEL_GATE_NORM } },
    { PLACE(out_proj), 1, { MODEL_OUT_PROJ } },
    { PLACE(out_bias), 1, { MODEL_OUT_BIAS } },
#undef PLACE
};
enum { ENTRIES = sizeof table / sizeof *table };

static plp_dtype dtype_of(const model_weights *w, model_band band) { return model_band_of(band)->matrix ? w->dtype : PLP_F32; }

/* Elements of this rank's part of a band. */
static int64_t own_elements(const model_plan *p, const model_config *c, model_band band)
{
    int64_t rows, columns;
    model_band_shape(c, band, &rows, &columns);
    return model_plan_band(p, c, band).count * (model_band_of(band)->by_columns ? rows : columns);
}

static void *take(plp_arena *a, const model_plan *p, const model_config *c, plp_dtype dtype, const model_band *bands, int count)
{
    int64_t n = 0;
    for (int i = 0; i < count; i++) n += own_elements(p, c, bands[i]);
    return plp_arena_take(a, n, plp_dtype_size(dtype));
}
#define TAKE_ONE(dtype, band) take(a, p, c, dtype, &(const model_band){ band }, 1)

void model_weights_lay_out(model_weights *w, plp_arena *a, const model_plan *p, const model_config *c)
{
    w->embed = TAKE_ONE(w->dtype, MODEL_EMBED);
    w->final_norm = TAKE_ONE(PLP_F32, MODEL_FINAL_NORM);
    w->head = c->tied ? (char *)w->embed + (size_t)(p->vocab.first * c->hidden) * plp_dtype_size(w->dtype) : TAKE_ONE(w->dtype, MODEL_HEAD);
    for (int64_t i = 0; i < c->layers; i++)
        for (const entry *e = table; e < table + ENTRIES; e++) {
            const void *at = take(a, p, c, dtype_of(w, e->bands[0]), e->bands, e->count);
            memcpy((char *)(w->layers + i) + e->place, &at, sizeof at);
        }
}

enum { PIECE = 16 << 20, STAGES = 2, ALIGN = 256 }; /* bytes read at a time from bands that are cut by rows; of copies' beginnings */

typedef struct {
    const model_plan *p;
    const model_config *c;
    const kn_backend *kn;
    kn_context *context;
    model_band_reader read;
    void *arg;
    int check;           /* threads */
    char *stage[STAGES]; /* one is filled while copies from the other are under way; none where bands are read into their place */
    size_t room, used;   /* of each stage; of the one that is filled */
    int filled;
    uint64_t done, total;
} loader;

static plp_status open_stages(loader *l, size_t bytes)
{
    l->room = bytes;
    if (l->kn == kn_cpu()) return PLP_OK;
    for (int i = 0; i < STAGES; i++) PLP_TRY(l->kn->alloc_host(l->context, (void **)&l->stage[i], bytes));
    return PLP_OK;
}

static void close_stages(loader *l)
{
    for (int i = 0; i < STAGES; i++)
        if (l->stage[i] != NULL) l->kn->release_host(l->context, (void **)&l->stage[i]);
}

/* Memory to read a piece into that belongs at `to`. */
static plp_status take_place(loader *l, char *to, size_t bytes, char **place)
{
    *place = to;
    if (l->stage[0] == NULL) return PLP_OK;
    if (bytes > l->room - l->used) {
        PLP_TRY(l->kn->mark(l->context, l->filled));
        l->filled = (l->filled + 1) % STAGES, l->used = 0;
        PLP_TRY(l->kn->wait(l->context, l->filled)); /* its copies, all queued before the other stage's */
    }
    *place = l->stage[l->filled] + l->used;
    l->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (l->used > l->room) l->used = l->room;
    return PLP_OK;
}

/* A = -exp(A_log), once, in float32. */
static void finish_piece(model_band band, float *data, int64_t n)
{
    if (band == MODEL_A_LOG)
        for (int64_t i = 0; i < n; i++) data[i] = -expf(data[i]);
}

static plp_status load_band(loader *l, model_band band, int64_t layer, plp_dtype dtype, char **to)
{
    int64_t rows, columns;
    model_band_shape(l->c, band, &rows, &columns);
    const bool by_columns = model_band_of(band)->by_columns;
    const tp_slice own = model_plan_band(l->p, l->c, band);
    const int64_t across = by_columns ? rows : columns;
    if (own.count == 0) return PLP_OK; /* this model has no such band, or this rank no part of it */
    int64_t most = by_columns ? own.count : PIECE / (across * (int64_t)plp_dtype_size(dtype));
    if (most < 1) most = 1;
    for (int64_t at = 0; at < own.count; at += most) {
        const int64_t n = own.count - at < most ? own.count - at : most;
        const size_t bytes = (size_t)(n * across) * plp_dtype_size(dtype);
        tp_stamp(TP_LOAD, (int64_t)l->done);
        PLP_TRY(PLP_FAULT_AT("load"));
        char *place;
        PLP_TRY(take_place(l, *to, bytes, &place));
        PLP_TRY(l->read(l->arg, band, layer, own.first + at, n, place, dtype));
        if (l->check) PLP_TRY(model_check_values(l->c, band, layer, own.first + at, n, place, dtype, l->check));
        if (dtype == PLP_F32) finish_piece(band, (float *)place, n * across);
        if (place != *to) PLP_TRY(l->kn->to_device(l->context, *to, place, bytes));
        *to += bytes;
        l->done += bytes;
        plp_log_progress(false, "loading %.1f of %.1f MB", (double)l->done * 1e-6, (double)l->total * 1e-6);
    }
    return PLP_OK;
}

static plp_status load_bands(loader *l, int64_t layer, plp_dtype dtype, const void *to, const model_band *bands, int count)
{
    char *at = (char *)to;
    for (int i = 0; i < count; i++) PLP_TRY(load_band(l, bands[i], layer, dtype, &at));
    return PLP_OK;
}
#define LOAD_ONE(dtype, to, band) PLP_DO(load_bands(&l, 0, dtype, to, &(const model_band){ band }, 1))

/* A piece, a row that is wider than one, or this rank's columns of a band that is cut by columns: those come whole. */
static size_t stage_bytes(const model_plan *p, const model_config *c, plp_dtype dtype)
{
    const int64_t row = (c->hidden > c->inner ? c->hidden : c->inner) * 4;
    int64_t most = PIECE + row;
    for (int band = 0; band < MODEL_BANDS; band++) {
        const int64_t bytes = own_elements(p, c, (model_band)band) * (int64_t)plp_dtype_size(dtype);
        if (model_band_of((model_band)band)->by_columns && bytes > most) most = bytes;
    }
    return (size_t)most;
}

plp_status model_weights_load(const model_weights *w, const model_plan *p, const model_config *c, const kn_backend *kn, kn_context *context,
                              model_band_reader read, void *arg, int check)
{
    plp_status st = PLP_OK;
    loader l = {
        .p = p, .c = c, .kn = kn, .context = context, .read = read, .arg = arg, .check = check, .total = model_plan_weights(p, c, w->dtype)
    };
    const double begin = plp_seconds();
    PLP_DO(open_stages(&l, stage_bytes(p, c, w->dtype)));
    LOAD_ONE(w->dtype, w->embed, MODEL_EMBED);
    for (int64_t layer = 0; layer < c->layers; layer++)
        for (const entry *e = table; e < table + ENTRIES; e++) {
            const void *to;
            memcpy(&to, (const char *)(w->layers + layer) + e->place, sizeof to);
            PLP_DO(load_bands(&l, layer, dtype_of(w, e->bands[0]), to, e->bands, e->count));
        }
    LOAD_ONE(PLP_F32, w->final_norm, MODEL_FINAL_NORM);
    if (!c->tied) LOAD_ONE(w->dtype, w->head, MODEL_HEAD);
    PLP_DO(kn->sync(context));
    const double seconds = plp_seconds() - begin;
    plp_log_progress(true, "loaded %.1f MB in %.2f s, %.2f GB/s", (double)l.done * 1e-6, seconds, (double)l.done * 1e-9 / seconds);
done:
    if (st != PLP_OK) kn->sync(context); /* copies may be under way from a stage that is given back */
    close_stages(&l);
    return st;
}

plp_status model_read_source(void *source, model_band band, int64_t layer, int64_t first, int64_t count, void *dst, plp_dtype dtype)
{
    return model_source_read(source, band, layer, first, count, dst, dtype);
}
