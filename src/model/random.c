#include "model/weights.h"

#include <math.h>

/* splitmix64's finaliser: every element from its own index, so that any slice can be made alone. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

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

static void fill_range(const model_random *random, const model_range *r)
{
    const model_band band = r->band;
    const int64_t layer = r->layer, first = r->first, count = r->count;
    const plp_dtype dtype = r->dtype;
    void *dst = r->dst;
    int64_t rows, columns;
    model_band_shape(random->config, band, &rows, &columns);
    const bool by_columns = model_band_of(band)->by_columns;
    const int64_t lines = by_columns ? rows : count, width = by_columns ? count : columns;
    const uint64_t key = mix(random->seed ^ mix((uint64_t)(band * 4096 + layer)));
    float middle, half;
    range_of(random->config, band, &middle, &half);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < lines; i++) {
        const int64_t start = by_columns ? i * columns + first : (first + i) * columns;
        for (int64_t j = 0; j < width; j++) {
            const uint64_t bits = mix(key + (uint64_t)(start + j));
            const float v = middle + half * ((float)(int32_t)(bits >> 32) * 0x1p-31f);
            if (dtype == PLP_F32)
                ((float *)dst)[i * width + j] = v;
            else
                ((uint16_t *)dst)[i * width + j] = dtype == PLP_BF16 ? plp_f32_to_bf16(v) : plp_f32_to_f16(v);
        }
    }
}

plp_status model_read_random(void *random, const model_range *list, int count)
{
    for (int i = 0; i < count; i++) fill_range(random, list + i);
    return PLP_OK;
}
