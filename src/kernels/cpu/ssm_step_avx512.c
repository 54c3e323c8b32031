#include "kernels/cpu/ssm_step_cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BF16__)

#    include <immintrin.h>

enum { LANES = KN_SSM_LANES, ROWS = KN_SSM_ROWS };

/* Of every 2 LANES numbers of v the even ones, then the odd ones: as a shift and a mask split the words of two bf16. */
KN_INLINE void split(float *to, const float *v, int n)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (int i = 0; i < n; i += 2 * LANES) {
        const __m512 low = _mm512_loadu_ps(v + i), high = _mm512_loadu_ps(v + i + LANES);
        _mm512_storeu_ps(to + i, _mm512_permutex2var_ps(low, even, high));
        _mm512_storeu_ps(to + i + LANES, _mm512_permutex2var_ps(low, odd, high));
    }
}

/* As advance_bf16 of ssm_step_cpu.c. */
KN_INLINE void head(const kn_ssm_head *p, int state)
{
    static const uint16_t order[2 * LANES] = { 0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                               8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31 };
    const int64_t row = (int64_t)state * (int64_t)sizeof(uint16_t);
    const __m512i woven = _mm512_loadu_si512(order), upper = _mm512_set1_epi32((int)0xffff0000);
    const __m512 decay = _mm512_set1_ps(p->decay);
    const float dt = p->dt, D = p->D, *x = p->x;
    float *y = p->y, B[KN_SSM_MOST], C[KN_SSM_MOST];
    const char *old = p->old;
    char *h = p->h;
    split(B, p->B, state), split(C, p->C, state);
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
                const __m512i words = _mm512_loadu_si512(from);
                const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
                const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(words, upper));
                const __m512 v0 = _mm512_fmadd_ps(decay, even, _mm512_mul_ps(dtx[r], b0));
                const __m512 v1 = _mm512_fmadd_ps(decay, odd, _mm512_mul_ps(dtx[r], b1));
                s[r] = (kn_ssm_lanes)_mm512_fmadd_ps(v0, c0, (__m512)s[r]);
                s[r] = (kn_ssm_lanes)_mm512_fmadd_ps(v1, c1, (__m512)s[r]);
                _mm512_storeu_si512(h + r * row + n * (int64_t)sizeof(uint16_t),
                                    _mm512_permutexvar_epi16(woven, (__m512i)_mm512_cvtne2ps_pbh(v1, v0)));
            }
        }
        kn_ssm_sums(s, sum);
        for (int r = 0; r < ROWS; r++) y[at + r] = sum[r] + D * x[at + r];
    }
}

void kn_ssm_head_avx512(const kn_ssm_head *p)
{
    if (p->state == 64) /* the loop over it unrolled */
        head(p, 64);
    else
        head(p, p->state);
}

#endif
