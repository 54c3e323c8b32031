/* src/kernels/cpu/linear_cpu.h -- the matrix product's inner loops, one file a level of the processor.
 *
 * A product is y[r][j] = bias[j] + sum_i x[r][i] w[j][i] for all rows r of x and rows j of w in [first, last).  Sums are float32; their
 * order is a function of k alone, so a row of y does not depend on the rows beside it, nor on how w is dealt to threads.
 *
 * Levels above plain read w packed (kn->pack): panels of KN_PANEL rows of w, the last of those that are left, in the place of the same
 * rows.  A panel runs along k: of float32 and f16 one element of every row, then the next of every row; of bf16 two elements of every row,
 * the bytes of a pair product, and behind those the last element of every row where k is odd. */
#ifndef KERNELS_CPU_LINEAR_CPU_H
#define KERNELS_CPU_LINEAR_CPU_H

#include "kernels/kernels.h"

#include <stddef.h>

enum { KN_PANEL = 16 };

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
    size_t x_row; /* bytes from row to row; KN_BF16_BF16: a row of odd k has a zero behind it */
    const float *bias;
    float *y;
    int64_t ldy;
} kn_linear_work;

/* first is a multiple of KN_PANEL, and so is last, unless it is n. */
typedef void (*kn_linear_function)(const kn_linear_work *p, int first, int last);
void kn_linear_avx512(const kn_linear_work *p, int first, int last); /* AVX-512 F, BW, VL, DQ; KN_BF16_BF16 needs BF16 as well */
void kn_linear_avx2(const kn_linear_work *p, int first, int last);   /* AVX2, FMA, F16C; not KN_BF16_BF16 */
void kn_linear_plain(const kn_linear_work *p, int first, int last);  /* any; not KN_BF16_BF16; w row-major */

/* out = row `row` of a packed (n, k), as float32. */
void kn_unpack_row(float *out, const void *w, int64_t n, int k, plp_dtype dtype, int64_t row);

#endif
