#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"

/* The definition: y[r][j] = bias[j] + sum_i x[r][i] w[j][i] for rows j of w in [first, last). */
KN_CLONES static void product(const kn_linear_args *a, const float *x, int64_t ldx, int first, int last)
{
    enum { STEP = 512 };
    float w[STEP];
    for (int j = first; j < last; j++)
        for (int r = 0; r < a->rows; r++) {
            double sum = a->bias ? a->bias[j] : 0;
            for (int i = 0; i < a->k; i += STEP) {
                const int m = a->k - i < STEP ? a->k - i : STEP;
                const float *xi = x + r * ldx + i;
                kn_widen(w, (const char *)a->w + ((size_t)j * (size_t)a->k + (size_t)i) * plp_dtype_size(a->w_dtype), a->w_dtype, m);
#pragma omp simd reduction(+ : sum)
                for (int l = 0; l < m; l++) sum += (double)xi[l] * w[l];
            }
            ((float *)a->y)[r * a->ldy + j] = (float)sum;
        }
}

plp_status kn_linear_cpu(kn_context *c, const kn_linear_args *a)
{
    if (a->x_dtype != PLP_F32 || a->y_dtype != PLP_F32)
        return PLP_FAIL(PLP_ERR_INTERNAL, "linear: activations %s and %s on the CPU; float32 only", plp_dtype_name(a->x_dtype),
                        plp_dtype_name(a->y_dtype));
    const float *x = a->x;
    int64_t ldx = a->ldx;
    if (a->round_x && a->w_dtype != PLP_F32) {
        if ((size_t)a->rows * (size_t)a->k * sizeof *x > c->rows_bytes)
            return PLP_FAIL(PLP_ERR_INTERNAL, "linear: %d rows of %d, scratch for %d of %d", a->rows, a->k, c->options.max_tokens,
                            c->options.max_k);
        float *rounded = (float *)c->rows;
        for (int r = 0; r < a->rows; r++)
            for (int i = 0; i < a->k; i++) {
                const float v = x[r * ldx + i];
                rounded[(size_t)r * (size_t)a->k + (size_t)i] = a->w_dtype == PLP_BF16 ? plp_bf16_to_f32(plp_f32_to_bf16(v))
                                                                                       : plp_f16_to_f32(plp_f32_to_f16(v));
            }
        x = rounded;
        ldx = a->k;
    }
    const int threads = kn_threads(c, 2.0 * a->rows * a->n * a->k);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int j = 0; j < a->n; j++) product(a, x, ldx, j, j + 1);
    return PLP_OK;
}
