#include "kernels/uniform.h"
#include "model/weights.h"

#include <math.h>

/* Middle and half-width of the uniform distribution of a band: such that activations stay near 1 through all layers, and the steps and
 * decays are those that the published initialisation gives (dt 0.001 to 0.1, A 1 to 16). */
static void range_of(const model_config *c, model_band band, float *middle, float *half)
{
    const float unit = sqrtf(3.f); /* half-width of a uniform distribution of variance 1 */
    *middle = 0;
    switch (band) {
    case MODEL_NORM:
    case MODEL_GATE_NORM:
    case MODEL_FINAL_NORM: *middle = 1, *half = 0.1f; break;
    case MODEL_DT_NORM:
    case MODEL_B_NORM:
    case MODEL_C_NORM: *middle = 1, *half = 0.5f; break; /* a test sees them left out, also in 16 bits */
    case MODEL_EMBED: *half = unit; break;
    case MODEL_HEAD: *half = unit / sqrtf((float)c->hidden); break;
    case MODEL_OUT_PROJ: *half = unit / sqrtf((float)(c->inner * 2 * c->layers)); break;
    case MODEL_X_PROJ: *half = unit / sqrtf((float)c->inner); break;
    case MODEL_DT_PROJ: *half = unit / sqrtf((float)c->dt_rank); break;
    case MODEL_CONV_X:
    case MODEL_CONV_B:
    case MODEL_CONV_C: *half = unit / sqrtf((float)c->conv); break;
    case MODEL_DT_BIAS: *middle = -4.6f, *half = 2.3f; break;
    case MODEL_A_LOG: *middle = 1.4f, *half = 1.4f; break;
    case MODEL_D: *middle = 1, *half = 0.5f; break;
    case MODEL_IN_Z:
    case MODEL_IN_X:
    case MODEL_IN_B:
    case MODEL_IN_C:
    case MODEL_IN_DT: *half = unit / sqrtf((float)c->hidden); break;
    default: *half = 0.1f; /* the other biases */
    }
}

/* The range as a slice of its band.  A matrix is one that a checkpoint could hold, in whatever type it is wanted: so models of other
 * types have the same weights. */
static kn_uniform_args slice_of(const model_random *random, const model_range *r)
{
    int64_t rows, columns;
    model_band_shape(random->config, r->band, &rows, &columns);
    const model_band_info *band = model_band_of(r->band);
    const bool by_columns = band->by_columns;
    kn_uniform_args a = { .rows = by_columns ? rows : r->count,
                          .columns = by_columns ? r->count : columns,
                          .first = by_columns ? r->first : r->first * columns,
                          .stride = columns,
                          .key = kn_mix(random->seed ^ kn_mix((uint64_t)((int64_t)r->band * 4096 + r->layer))),
                          .stored = band->matrix ? random->config->dtype : PLP_F32,
                          .dtype = r->dtype,
                          .out = r->dst };
    range_of(random->config, r->band, &a.middle, &a.half);
    return a;
}

plp_status model_make_random(void *random, const kn_backend *kn, kn_context *context, const model_range *range)
{
    const kn_uniform_args a = slice_of(random, range);
    return kn->uniform(context, &a);
}

plp_status model_read_random(void *random, const model_range *list, int count)
{
    for (int n = 0; n < count; n++) {
        const kn_uniform_args a = slice_of(random, list + n);
        for (int64_t i = 0; i < a.rows; i++)
            for (int64_t j = 0; j < a.columns; j++)
                ((float *)a.out)[i * a.columns + j] = kn_uniform_at(a.key, (uint64_t)(a.first + i * a.stride + j), a.middle, a.half);
    }
    return PLP_OK;
}
