#include "kernels/cpu/linear_cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BF16__)

#    include <immintrin.h>

#    define INLINE static inline __attribute__((always_inline))
#    define X_ROWS 6
#    define LANES  16
typedef __m512 vec;

INLINE vec load_x(kn_product kind, const char *p)
{
    (void)kind;
    return _mm512_loadu_ps(p);
}
INLINE vec load_w(kn_product kind, const char *p)
{
    if (kind == KN_F32_BF16)
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
    if (kind == KN_F32_F16) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_loadu_ps(p);
}
INLINE vec multiply_add(kn_product kind, vec sum, vec x, vec w)
{
    return kind == KN_BF16_BF16 ? _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w) : _mm512_fmadd_ps(x, w, sum);
}
INLINE __m128 sum_of_four(const vec s[4])
{
    /* Halves of two vectors side by side, then quarters of four: every 128 bits belong to one sum. */
    const vec a = _mm512_add_ps(_mm512_shuffle_f32x4(s[0], s[1], 0x44), _mm512_shuffle_f32x4(s[0], s[1], 0xee));
    const vec b = _mm512_add_ps(_mm512_shuffle_f32x4(s[2], s[3], 0x44), _mm512_shuffle_f32x4(s[2], s[3], 0xee));
    vec c = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    c = _mm512_add_ps(c, _mm512_permute_ps(c, 0x4e));
    c = _mm512_add_ps(c, _mm512_permute_ps(c, 0xb1));
    return _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, c));
}

#    include "kernels/cpu/linear_tile.h"

void kn_linear_avx512(const kn_linear_work *p, int first, int last)
{
    switch (p->kind) {
    case KN_F32_F32: product(p, KN_F32_F32, first, last); break;
    case KN_F32_BF16: product(p, KN_F32_BF16, first, last); break;
    case KN_F32_F16: product(p, KN_F32_F16, first, last); break;
    case KN_BF16_BF16: product(p, KN_BF16_BF16, first, last); break;
    }
}

#endif
