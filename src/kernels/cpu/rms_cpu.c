#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

KN_CLONES static void segment(float *restrict out, const float *restrict in, const float *restrict weight, double eps, int n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += (double)in[i] * in[i];
    const float scale = eps > 0 ? (float)(1 / sqrt(sum / n + eps)) : 1;
    for (int i = 0; i < n; i++) out[i] = in[i] * scale * (weight ? weight[i] : 1);
}

plp_status kn_rms_cpu(kn_context *c, const kn_rms_args *a)
{
    int columns = 0;
    for (int k = 0; k < a->segments; k++) columns += a->width[k];
    const int threads = kn_threads(c, 4.0 * a->tokens * columns);
    KN_EACH(c, threads, t, a->tokens, {
        for (int k = 0, at = 0; k < a->segments; at += a->width[k++])
            segment((float *)a->out + t * a->ld_out + at, a->in + t * a->ld_in + at, a->eps > 0 && a->weight ? a->weight + at : NULL,
                    a->eps, a->width[k]);
    });
    return PLP_OK;
}
