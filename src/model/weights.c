#include "model/weights.h"

#include "base/error.h"
#include "base/log.h"

#include <math.h>
#include <stdlib.h>

static const model_band in_proj[] = { MODEL_IN_Z, MODEL_IN_X, MODEL_IN_B, MODEL_IN_C, MODEL_IN_DT };
static const model_band in_bias[] = { MODEL_IN_Z_BIAS, MODEL_IN_X_BIAS, MODEL_IN_B_BIAS, MODEL_IN_C_BIAS, MODEL_IN_DT_BIAS };
static const model_band conv[] = { MODEL_CONV_X, MODEL_CONV_B, MODEL_CONV_C };
static const model_band conv_bias[] = { MODEL_CONV_X_BIAS, MODEL_CONV_B_BIAS, MODEL_CONV_C_BIAS };
#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

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
#define TAKE(dtype, list)     take(a, p, c, dtype, list, COUNT(list))
#define TAKE_ONE(dtype, band) take(a, p, c, dtype, &(const model_band){ band }, 1)

void model_weights_lay_out(model_weights *w, plp_arena *a, const model_plan *p, const model_config *c)
{
    w->embed = TAKE_ONE(w->dtype, MODEL_EMBED);
    w->final_norm = TAKE_ONE(PLP_F32, MODEL_FINAL_NORM);
    w->head = c->tied ? (char *)w->embed + (size_t)(p->vocab.first * c->hidden) * plp_dtype_size(w->dtype) : TAKE_ONE(w->dtype, MODEL_HEAD);
    for (int64_t i = 0; i < c->layers; i++) {
        layer_mamba2_weights *l = w->layers + i;
        l->norm = TAKE_ONE(PLP_F32, MODEL_NORM);
        l->in_proj = TAKE(w->dtype, in_proj);
        l->in_bias = TAKE(PLP_F32, in_bias);
        l->conv = TAKE(PLP_F32, conv);
        l->conv_bias = TAKE(PLP_F32, conv_bias);
        l->A = TAKE_ONE(PLP_F32, MODEL_A_LOG);
        l->dt_bias = TAKE_ONE(PLP_F32, MODEL_DT_BIAS);
        l->D = TAKE_ONE(PLP_F32, MODEL_D);
        l->gate_norm = TAKE_ONE(PLP_F32, MODEL_GATE_NORM);
        l->out_proj = TAKE_ONE(w->dtype, MODEL_OUT_PROJ);
        l->out_bias = TAKE_ONE(PLP_F32, MODEL_OUT_BIAS);
    }
}

enum { PIECE = 16 << 20 }; /* bytes read at a time from bands that are cut by rows */

typedef struct {
    const model_plan *p;
    const model_config *c;
    const kn_backend *kn;
    kn_context *context;
    model_band_reader read;
    void *arg;
    char *stage;
    uint64_t done, total;
} loader;

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
        PLP_TRY(l->read(l->arg, band, layer, own.first + at, n, l->stage, dtype));
        if (dtype == PLP_F32) finish_piece(band, (float *)l->stage, n * across);
        PLP_TRY(l->kn->to_device(l->context, *to, l->stage, bytes));
        PLP_TRY(l->kn->sync(l->context)); /* the staging memory is read from again */
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
#define LOAD(dtype, to, list)     PLP_DO(load_bands(&l, layer, dtype, to, list, COUNT(list)))
#define LOAD_ONE(dtype, to, band) PLP_DO(load_bands(&l, layer, dtype, to, &(const model_band){ band }, 1))

plp_status model_weights_load(const model_weights *w, const model_plan *p, const model_config *c, const kn_backend *kn, kn_context *context,
                              model_band_reader read, void *arg)
{
    plp_status st = PLP_OK;
    int64_t layer = 0;
    loader l = { .p = p, .c = c, .kn = kn, .context = context, .read = read, .arg = arg, .total = model_plan_weights(p, c, w->dtype) };
    const size_t columns_piece = (size_t)(c->hidden * p->channels.count) * plp_dtype_size(w->dtype); /* out_proj comes whole */
    const size_t row = (size_t)(c->hidden > c->inner ? c->hidden : c->inner) * 4;
    PLP_TRY(PLP_ALLOCATED(l.stage = malloc((columns_piece > PIECE ? columns_piece : PIECE) + row)));
    LOAD_ONE(w->dtype, w->embed, MODEL_EMBED);
    for (; layer < c->layers; layer++) {
        const layer_mamba2_weights *to = w->layers + layer;
        LOAD_ONE(PLP_F32, to->norm, MODEL_NORM);
        LOAD(w->dtype, to->in_proj, in_proj);
        LOAD(PLP_F32, to->in_bias, in_bias);
        LOAD(PLP_F32, to->conv, conv);
        LOAD(PLP_F32, to->conv_bias, conv_bias);
        LOAD_ONE(PLP_F32, to->dt_bias, MODEL_DT_BIAS);
        LOAD_ONE(PLP_F32, to->A, MODEL_A_LOG);
        LOAD_ONE(PLP_F32, to->D, MODEL_D);
        LOAD_ONE(PLP_F32, to->gate_norm, MODEL_GATE_NORM);
        LOAD_ONE(w->dtype, to->out_proj, MODEL_OUT_PROJ);
        LOAD_ONE(PLP_F32, to->out_bias, MODEL_OUT_BIAS);
    }
    LOAD_ONE(PLP_F32, w->final_norm, MODEL_FINAL_NORM);
    if (!c->tied) LOAD_ONE(w->dtype, w->head, MODEL_HEAD);
    plp_log_progress(true, "loaded %.1f MB", (double)l.done * 1e-6);
done:
    free(l.stage);
    return st;
}

plp_status model_read_source(void *source, model_band band, int64_t layer, int64_t first, int64_t count, void *dst, plp_dtype dtype)
{
    return model_source_read(source, band, layer, first, count, dst, dtype);
}
