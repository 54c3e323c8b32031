/* src/kernels/cpu/linear_cpu.h -- the matrix product's inner loops, one file a level of the processor.
 *
 * A product is y[r][j] = bias[j] + sum_i x[r][i] w[j][i] for all rows r of x and rows j of w in [first, last).  Sums are float32; their
 * order is a function of k alone, so a row of y does not depend on the rows beside it, nor on how w is dealt to threads. */
#ifndef KERNELS_CPU_LINEAR_CPU_H
#define KERNELS_CPU_LINEAR_CPU_H

#include "kernels/kernels.h"

typedef enum {
    KN_F32_F32,  /* x float32, w float32               */
    KN_F32_BF16, /* x float32, w bf16, widened on load */
    KN_F32_F16,  /* x float32, w f16, widened on load  */
    KN_BF16_BF16 /* both bf16: pairs of products       */
} kn_product;

typedef struct {
    int rows, n, k;
    kn_product kind;
    const char *x, *w;
    size_t x_row, w_row; /* bytes from row to row */
    const float *bias;
    float *y;
    int64_t ldy;
} kn_linear_work;

typedef void (*kn_linear_function)(const kn_linear_work *p, int first, int last);
void kn_linear_avx512(const kn_linear_work *p, int first, int last); /* AVX-512 F, BW, VL, DQ; KN_BF16_BF16 needs BF16 as well */
void kn_linear_avx2(const kn_linear_work *p, int first, int last);   /* AVX2, FMA, F16C; not KN_BF16_BF16 */
void kn_linear_plain(const kn_linear_work *p, int first, int last);  /* any; not KN_BF16_BF16 */

#endif
