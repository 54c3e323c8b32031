#include "kernels/cpu/ssm_step_cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BF16__)

#    include <immintrin.h>

enum { LANES = KN_SSM_LANES, ROWS = KN_SSM_ROWS };

KN_INLINE __m512 widened(const char *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

/* As advance_bf16 of ssm_step_cpu.c. */
KN_INLINE void head(const kn_ssm_head *p, int state)
{
    const int64_t row = (int64_t)state * (int64_t)sizeof(uint16_t);
    const __m512 decay = _mm512_set1_ps(p->decay);
    const float dt = p->dt, D = p->D, *x = p->x, *B = p->B, *C = p->C;
    float *y = p->y;
    const char *old = p->old;
    char *h = p->h;
    for (int at = 0, dim = p->dim; at < dim; at += ROWS, old += ROWS * row, h += ROWS * row) {
        kn_ssm_lanes s[ROWS] = { { 0 } };
        __m512 dtx[ROWS];
        float sum[ROWS];
        for (int r = 0; r < ROWS; r++) dtx[r] = _mm512_set1_ps(dt * x[at + r]);
#    pragma GCC unroll 2
        for (int n = 0; n < state; n += 2 * LANES) {
            const __m512 b0 = _mm512_loadu_ps(B + n), b1 = _mm512_loadu_ps(B + n + LANES);
            const __m512 c0 = _mm512_loadu_ps(C + n), c1 = _mm512_loadu_ps(C + n + LANES);
#    pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                const char *from = old + r * row + n * (int64_t)sizeof(uint16_t);
                _mm_prefetch(from + KN_SSM_AHEAD, _MM_HINT_T0);
                const __m512 v0 = _mm512_fmadd_ps(decay, widened(from), _mm512_mul_ps(dtx[r], b0));
                const __m512 v1 = _mm512_fmadd_ps(decay, widened(from + LANES * sizeof(uint16_t)), _mm512_mul_ps(dtx[r], b1));
                s[r] = (kn_ssm_lanes)_mm512_fmadd_ps(v0, c0, (__m512)s[r]);
                s[r] = (kn_ssm_lanes)_mm512_fmadd_ps(v1, c1, (__m512)s[r]);
                _mm512_storeu_si512(h + r * row + n * (int64_t)sizeof(uint16_t), (__m512i)_mm512_cvtne2ps_pbh(v1, v0));
            }
        }
        kn_ssm_sums(s, sum);
        for (int r = 0; r < ROWS; r++) y[at + r] = sum[r] + D * x[at + r];
    }
}

void kn_ssm_head_avx512(const kn_ssm_head *p)
{
    if (p->state == 64) /* the loop over it unrolled, B and C in registers */
        head(p, 64);
    else
        head(p, p->state);
}

#endif
