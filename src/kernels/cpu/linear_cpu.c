#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/linear_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"

/* The definition. */
KN_CLONES static void product(const kn_linear_work *p, plp_dtype w_dtype, int first, int last)
{
    enum { STEP = 512 };
    float w[STEP];
    for (int j = first; j < last; j++)
        for (int r = 0; r < p->rows; r++) {
            double sum = p->bias ? p->bias[j] : 0;
            for (int i = 0; i < p->k; i += STEP) {
                const int m = p->k - i < STEP ? p->k - i : STEP;
                const float *x = (const float *)(p->x + (size_t)r * p->x_row) + i;
                kn_widen(w, p->w + ((size_t)j * (size_t)p->k + (size_t)i) * plp_dtype_size(w_dtype), w_dtype, m);
#pragma omp simd reduction(+ : sum)
                for (int l = 0; l < m; l++) sum += (double)x[l] * w[l];
            }
            p->y[r * p->ldy + j] = (float)sum;
        }
}

void kn_linear_plain(const kn_linear_work *p, int first, int last)
{
    product(p, p->kind == KN_F32_BF16 ? PLP_BF16 : p->kind == KN_F32_F16 ? PLP_F16 : PLP_F32, first, last);
}

/* One row of x, rounded to bf16 or f16, and kept so, with a zero behind an odd one, or as the float32 of the same value. */
KN_CLONES static void round_row(void *restrict dst, bool keep, const float *restrict x, plp_dtype dtype, int k)
{
    enum { STEP = 512 };
    uint16_t rounded[STEP];
    for (int i = 0; i < k; i += STEP) {
        const int m = k - i < STEP ? k - i : STEP;
        kn_narrow(rounded, dtype, x + i, m);
        if (keep)
            memcpy((uint16_t *)dst + i, rounded, (size_t)m * sizeof *rounded);
        else
            kn_widen((float *)dst + i, rounded, dtype, m);
    }
    if (keep && k % 2) ((uint16_t *)dst)[k] = 0;
}

plp_status kn_linear_cpu(kn_context *c, const kn_linear_args *a)
{
    if (a->x_dtype != PLP_F32 || a->y_dtype != PLP_F32)
        return PLP_FAIL(PLP_ERR_INTERNAL, "linear: activations %s and %s on the CPU; float32 only", plp_dtype_name(a->x_dtype),
                        plp_dtype_name(a->y_dtype));
    kn_linear_work p = { .rows = a->rows,
                         .n = a->n,
                         .k = a->k,
                         .x = a->x,
                         .x_row = (size_t)a->ldx * sizeof(float),
                         .w = a->w,
                         .bias = a->bias,
                         .y = a->y,
                         .ldy = a->ldy,
                         .kind = a->w_dtype == PLP_F32    ? KN_F32_F32
                                 : a->w_dtype == PLP_BF16 ? KN_F32_BF16
                                                          : KN_F32_F16 };
    const double work = 2.0 * a->rows * a->n * a->k;
    const int threads = kn_threads(c, work);
    if (a->round_x && a->w_dtype != PLP_F32) {
        const bool keep = a->packed && a->w_dtype == PLP_BF16 && c->level >= KN_AVX512_BF16;
        p.x_row = ((size_t)a->k * (keep ? sizeof(uint16_t) : sizeof(float)) + 63) / 64 * 64;
        if ((size_t)a->rows * p.x_row > c->rows_bytes)
            return PLP_FAIL(PLP_ERR_INTERNAL, "linear: %d rows of %d, scratch for %d of %d", a->rows, a->k, c->options.max_tokens,
                            c->options.max_k);
        KN_EACH(c, a->rows > 8 ? threads : 1, r, a->rows,
                round_row(c->rows + (size_t)r * p.x_row, keep, (const float *)a->x + r * a->ldx, a->w_dtype, a->k));
        p.x = c->rows;
        if (keep) p.kind = KN_BF16_BF16;
    }
    const kn_linear_function linear = a->packed ? c->linear : kn_linear_plain;
    const int parts = (a->n + KN_PANEL - 1) / KN_PANEL;
    KN_EACH(c, threads, i, threads, {
        const int first = (int)((int64_t)parts * i / threads) * KN_PANEL, last = (int)((int64_t)parts * (i + 1) / threads) * KN_PANEL;
        linear(&p, first, last < a->n ? last : a->n);
    });
    return PLP_OK;
}
