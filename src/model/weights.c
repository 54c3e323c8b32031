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
    { PLACE(mixer_norm), 3, { MODEL_DT_NORM, MODEL_B_NORM, MODEL_C_NORM } },
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

/* Elements behind the bands of in_proj and its bias: layer_in_rows. */
static int64_t padding(const model_plan *p, model_band first, int64_t elements)
{
    const bool in = first == MODEL_IN_Z || first == MODEL_IN_Z_BIAS;
    return in && p->in_rows > 0 ? (layer_in_rows(p->in_rows) - p->in_rows) * (elements / p->in_rows) : 0;
}

static int64_t all_elements(const model_plan *p, const model_config *c, const model_band *bands, int count)
{
    int64_t n = 0;
    for (int i = 0; i < count; i++) n += own_elements(p, c, bands[i]);
    return n;
}

static void *take(plp_arena *a, const model_plan *p, const model_config *c, plp_dtype dtype, const model_band *bands, int count)
{
    const int64_t n = all_elements(p, c, bands, count);
    return plp_arena_take(a, n + padding(p, bands[0], n), plp_dtype_size(dtype));
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

/* Bytes of a stage, or of the largest band that is cut by columns: those come whole.  Ranges of a batch.  Of copies' beginnings. */
enum { PIECE = 64 << 20, STAGES = 2, BATCH = 64, ALIGN = 256 };

/* A matrix that is complete behind so many ranges of the batch. */
typedef struct {
    void *w;
    int64_t n, k;
    int behind;
} whole_matrix;

/* Bands, or pieces of them, are collected until a stage is full, and then read together: one stage is filled while copies from the other are
 * under way.  Where the backend's memory is the host's there are no stages, and bands are read into their place. */
typedef struct {
    const model_plan *p;
    const model_config *c;
    const kn_backend *kn;
    kn_context *context;
    const model_band_reader *reader;
    plp_dtype dtype; /* of the matrices in memory */
    int check;       /* threads that look at numbers; 0: none */
    char *stage[STAGES];
    size_t room, used; /* of each stage; of the one that is filled */
    int filled, count;
    model_range range[BATCH];
    char *to[BATCH];
    size_t bytes[BATCH];
    whole_matrix matrix[BATCH]; /* to be packed, in the order of `behind` */
    int matrices;
    bool packed; /* the last one was */
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

/* A = -exp(A_log), once, in float32. */
static void finish_piece(const model_range *r, size_t bytes)
{
    float *data = r->dst;
    if (r->band == MODEL_A_LOG)
        for (size_t i = 0; i < bytes / sizeof *data; i++) data[i] = -expf(data[i]);
}

/* Packs the matrices from *at on that are complete behind so many ranges; *at becomes the next one. */
static plp_status pack(loader *l, int ranges, int *at)
{
    for (; *at < l->matrices && l->matrix[*at].behind <= ranges; ++*at) {
        const whole_matrix *m = &l->matrix[*at];
        PLP_TRY(l->kn->pack(l->context, m->w, m->n, (int)m->k, l->dtype, &l->packed));
    }
    return PLP_OK;
}

/* Reads what was collected and queues its copies.  A matrix is packed while the look at its numbers has it in the cache. */
static plp_status flush(loader *l)
{
    int packed = 0;
    PLP_TRY(l->reader->read(l->reader->arg, l->range, l->count));
    PLP_TRY(pack(l, 0, &packed));
    for (int i = 0; i < l->count; i++) {
        const model_range *r = &l->range[i];
        if (l->check) PLP_TRY(model_check_values(l->c, r->band, r->layer, r->first, r->count, r->dst, r->dtype, l->check));
        finish_piece(r, l->bytes[i]);
        if (l->range[i].dst != l->to[i]) PLP_TRY(l->kn->to_device(l->context, l->to[i], l->range[i].dst, l->bytes[i]));
        PLP_TRY(pack(l, i + 1, &packed));
    }
    PLP_TRY(l->kn->mark(l->context, l->filled));
    l->filled = (l->filled + 1) % STAGES;
    PLP_TRY(l->kn->wait(l->context, l->filled)); /* its copies, all of them queued before these */
    l->count = 0, l->used = 0, l->matrices = 0;
    plp_log_progress(false, "loading %.1f of %.1f MB", (double)l->done * 1e-6, (double)l->total * 1e-6);
    return PLP_OK;
}

static plp_status make(loader *l, const model_range *range, char *to)
{
    model_range r = *range;
    r.dst = to;
    return l->reader->make(l->reader->arg, l->kn, l->context, &r);
}

static plp_status collect(loader *l, const model_range *range, char *to, size_t bytes)
{
    const size_t aligned = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (l->count == BATCH || aligned > l->room - l->used) PLP_TRY(flush(l));
    l->range[l->count] = *range;
    l->range[l->count].dst = l->stage[0] != NULL ? l->stage[l->filled] + l->used : to;
    l->to[l->count] = to, l->bytes[l->count] = bytes;
    l->count++, l->used += aligned;
    return PLP_OK;
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
        const model_range range = { band, layer, own.first + at, n, NULL, dtype };
        PLP_TRY(l->reader->make != NULL && model_band_of(band)->matrix ? make(l, &range, *to) : collect(l, &range, *to, bytes));
        *to += bytes;
        l->done += bytes;
    }
    return PLP_OK;
}

static plp_status note_matrix(loader *l, void *w, int64_t n, int64_t k)
{
    if (l->kn->pack == NULL || n == 0) return PLP_OK;
    if (l->matrices == BATCH) PLP_TRY(flush(l));
    l->matrix[l->matrices++] = (whole_matrix){ w, n, k, l->count };
    return PLP_OK;
}

/* The matrix of bands that lie one behind the other. */
static plp_status note_bands(loader *l, void *w, const model_band *bands, int count)
{
    int64_t n = 0, k = 0;
    for (int i = 0; i < count; i++) {
        int64_t rows, columns;
        model_band_shape(l->c, bands[i], &rows, &columns);
        const int64_t own = model_plan_band(l->p, l->c, bands[i]).count;
        const bool by_columns = model_band_of(bands[i])->by_columns;
        n += by_columns ? rows : own;
        if (rows > 0) k = by_columns ? own : columns;
    }
    return note_matrix(l, w, n, k);
}

static plp_status load_bands(loader *l, int64_t layer, plp_dtype dtype, const void *to, const model_band *bands, int count)
{
    char *at = (char *)to;
    for (int i = 0; i < count; i++) PLP_TRY(load_band(l, bands[i], layer, dtype, &at));
    return model_band_of(bands[0])->matrix && bands[0] != MODEL_EMBED ? note_bands(l, (void *)to, bands, count) : PLP_OK;
}
#define LOAD_ONE(dtype, to, band) PLP_DO(load_bands(&l, 0, dtype, to, &(const model_band){ band }, 1))

/* Zero: what a product makes of it is nobody's, but must not be garbage that a checker of memory stops at. */
static plp_status clear_padding(const loader *l, plp_dtype dtype, const void *to, const entry *e)
{
    const int64_t n = all_elements(l->p, l->c, e->bands, e->count);
    const size_t size = plp_dtype_size(dtype), bytes = (size_t)padding(l->p, e->bands[0], n) * size;
    return bytes > 0 ? l->kn->fill(l->context, (char *)to + (size_t)n * size, 0, bytes) : PLP_OK;
}

/* A stage holds a piece, a row that is wider than one, or this rank's columns of a band that is cut by columns; and never more than all. */
static size_t stage_bytes(const model_plan *p, const model_config *c, plp_dtype dtype, uint64_t total)
{
    int64_t most = (c->hidden > c->inner ? c->hidden : c->inner) * 4;
    if (most < PIECE) most = PIECE;
    for (int band = 0; band < MODEL_BANDS; band++) {
        const int64_t bytes = own_elements(p, c, (model_band)band) * (int64_t)plp_dtype_size(dtype);
        if (model_band_of((model_band)band)->by_columns && bytes > most) most = bytes;
    }
    const uint64_t all = total + (uint64_t)(c->layers * MODEL_BANDS + MODEL_BANDS) * ALIGN;
    return (uint64_t)most < all ? (size_t)(most + ALIGN) : (size_t)all;
}

plp_status model_weights_load(model_weights *w, const model_plan *p, const model_config *c, const kn_backend *kn, kn_context *context,
                              const model_band_reader *reader, int check)
{
    plp_status st = PLP_OK;
    loader l = { .p = p,
                 .c = c,
                 .kn = kn,
                 .context = context,
                 .reader = reader,
                 .dtype = w->dtype,
                 .check = check,
                 .total = model_plan_weights(p, c, w->dtype) };
    const double begin = plp_seconds();
    PLP_DO(open_stages(&l, stage_bytes(p, c, w->dtype, l.total)));
    LOAD_ONE(w->dtype, w->embed, MODEL_EMBED);
    if (c->tied) PLP_DO(note_matrix(&l, w->head, p->vocab.count, c->hidden));
    for (int64_t layer = 0; layer < c->layers; layer++)
        for (const entry *e = table; e < table + ENTRIES; e++) {
            const void *to;
            memcpy(&to, (const char *)(w->layers + layer) + e->place, sizeof to);
            PLP_DO(load_bands(&l, layer, dtype_of(w, e->bands[0]), to, e->bands, e->count));
            PLP_DO(clear_padding(&l, dtype_of(w, e->bands[0]), to, e));
        }
    LOAD_ONE(PLP_F32, w->final_norm, MODEL_FINAL_NORM);
    if (!c->tied) LOAD_ONE(w->dtype, w->head, MODEL_HEAD);
    PLP_DO(flush(&l));
    w->packed = l.packed;
    PLP_DO(kn->sync(context));
    const double seconds = plp_seconds() - begin;
    plp_log_progress(true, "loaded %.1f MB in %.2f s, %.2f GB/s", (double)l.done * 1e-6, seconds, (double)l.done * 1e-9 / seconds);
done:
    if (st != PLP_OK) kn->sync(context); /* copies may be under way from a stage that is given back */
    close_stages(&l);
    return st;
}

plp_status model_read_source(void *source, const model_range *list, int count) { return model_source_read_ranges(source, list, count); }
