#include "kernels/cpu/linear_cpu.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#    include <immintrin.h>

#    define INLINE static inline __attribute__((always_inline))
#    define X_ROWS 2
#    define LANES  8
typedef __m256 vec;

INLINE vec load_x(kn_product kind, const char *p)
{
    (void)kind;
    return _mm256_loadu_ps((const float *)p);
}
INLINE vec load_w(kn_product kind, const char *p)
{
    if (kind == KN_F32_F32) return _mm256_loadu_ps((const float *)p);
    const __m128i half = _mm_loadu_si128((const __m128i *)p);
    return kind == KN_F32_F16 ? _mm256_cvtph_ps(half) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
INLINE vec multiply_add(kn_product kind, vec sum, vec x, vec w)
{
    (void)kind;
    return _mm256_fmadd_ps(x, w, sum);
}
INLINE __m128 sum_of_four(const vec s[4])
{
    const vec a = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3])); /* both halves: four sums of half a vector */
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

#    include "kernels/cpu/linear_tile.h"

void kn_linear_avx2(const kn_linear_work *p, int first, int last)
{
    switch (p->kind) {
    case KN_F32_BF16: product(p, KN_F32_BF16, first, last); break;
    case KN_F32_F16: product(p, KN_F32_F16, first, last); break;
    default: product(p, KN_F32_F32, first, last);
    }
}

#endif
