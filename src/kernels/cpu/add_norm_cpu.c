#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

/* r += scale delta (+ bias); delta: the sum of so many parts */
KN_CLONES static void add(float *restrict r, const void *restrict delta, plp_dtype dtype, int parts, int64_t ld, float scale,
                          const float *restrict bias, int n)
{
    enum { STEP = 256 };
    float d[STEP], more[STEP];
    for (int i = 0; i < n; i += STEP) {
        const int m = n - i < STEP ? n - i : STEP;
        kn_widen(d, (const char *)delta + (size_t)i * plp_dtype_size(dtype), dtype, m);
        for (int p = 1; p < parts; p++) {
            kn_widen(more, (const char *)delta + (size_t)(p * ld + i) * plp_dtype_size(dtype), dtype, m);
            for (int j = 0; j < m; j++) d[j] += more[j];
        }
        if (bias)
            for (int j = 0; j < m; j++) r[i + j] += scale * d[j] + bias[i + j];
        else
            for (int j = 0; j < m; j++) r[i + j] += scale * d[j];
    }
}

/* out = r rsqrt(mean(r^2) + eps) weight */
KN_CLONES static void norm(float *restrict out, const float *restrict r, const float *restrict weight, double eps, int n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += (double)r[i] * r[i];
    const float scale = (float)(1 / sqrt(sum / n + eps));
    for (int i = 0; i < n; i++) out[i] = r[i] * scale * weight[i];
}

static double scale_of(const kn_add_norm_args *a, int t)
{
    double sum = 0;
    if (a->sumsq == NULL) return 1;
    for (int p = 0; p < (a->parts > 1 ? a->parts : 1); p++) sum += (double)a->sumsq[p * a->ld_sumsq_parts + t * a->ld_sumsq];
    return 1 / sqrt(sum / a->sumsq_width + a->sumsq_eps);
}

plp_status kn_add_norm_cpu(kn_context *c, const kn_add_norm_args *a)
{
    const size_t hidden = (size_t)a->hidden;
    const int adds = a->picked ? a->outs : a->tokens, threads = kn_threads(c, 4.0 * adds * a->hidden);
    if (a->delta) {
        KN_EACH(c, threads, t, adds,
                add(a->residual + (size_t)(a->picked ? a->map[t] : t) * hidden,
                    (const char *)a->delta + (size_t)(t * a->ld_delta) * plp_dtype_size(a->delta_dtype), a->delta_dtype, a->parts,
                    a->ld_parts, (float)scale_of(a, t), a->bias, a->hidden));
    }
    if (a->out) {
        KN_EACH(c, threads, i, a->outs,
                norm((float *)a->out + (size_t)i * hidden, a->residual + (size_t)(a->map ? a->map[i] : i) * hidden, a->weight, a->eps,
                     a->hidden));
        for (int i = 0; i < a->copies; i++) {
            memcpy(a->copy[i], a->out, (size_t)a->outs * hidden * sizeof(float));
            if (a->residual_copy[i]) memcpy(a->residual_copy[i], a->residual, (size_t)a->tokens * hidden * sizeof(float));
        }
    }
    return PLP_OK;
}
