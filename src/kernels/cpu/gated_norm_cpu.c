#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

/* v = y silu(z); the sum of its squares is returned.  v may be y, or NULL. */
KN_CLONES static double gate(float *v, const float *y, const float *restrict z, int n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        const float value = y[i] * kn_siluf(z[i]);
        if (v) v[i] = value;
        sum += (double)value * value;
    }
    return sum;
}

KN_CLONES static void scale(float *restrict v, const float *restrict weight, float s, int n)
{
    for (int i = 0; i < n; i++) v[i] *= s * weight[i];
}

static void row(const kn_gated_norm_args *a, int64_t t)
{
    const float *y = (const float *)a->y + t * a->ld_y, *z = (const float *)a->z + t * a->ld_z;
    float *out = a->mode == KN_NORM_SUMS ? NULL : (float *)a->out + t * a->ld_out;
    if (a->mode == KN_NORM_NONE) {
        gate(out, y, z, a->channels);
        return;
    }
    for (int g = 0; g < a->groups; g++) {
        const int first = a->first[g], n = a->first[g + 1] - first;
        const double here = gate(out ? out + first : NULL, y + first, z + first, n);
        if (a->mode == KN_NORM_SUMS || a->mode == KN_NORM_FOLD) a->sums[t * a->ld_sums + g] = (float)here;
        if (a->mode == KN_NORM_SUMS) continue;
        const double sum = a->mode == KN_NORM_APPLY ? a->sums[t * a->ld_sums + g] : here;
        const double rstd = a->mode == KN_NORM_FOLD ? 1 : 1 / sqrt(sum / a->width + a->eps);
        scale(out + first, a->weight + first, (float)rstd, n);
    }
}

plp_status kn_gated_norm_cpu(kn_context *c, const kn_gated_norm_args *a)
{
    const int threads = kn_threads(c, 16.0 * a->tokens * a->channels);
    KN_EACH(c, threads, t, a->tokens, row(a, t));
    return PLP_OK;
}
