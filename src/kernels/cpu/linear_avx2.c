#include "kernels/cpu/linear_cpu.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#    include <immintrin.h>
#    include <string.h>

#    define INLINE    static inline __attribute__((always_inline))
#    define NOINLINE  __attribute__((noinline))
#    define LANES     8
#    define MOST_ROWS 6
typedef __m256 vec;

INLINE int panels_of(kn_product kind, int rows)
{
    (void)kind;
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

INLINE __m256i first_of(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
INLINE vec load_words(const char *p, int n)
{
    return n >= LANES ? _mm256_loadu_ps((const float *)p) : _mm256_maskload_ps((const float *)p, first_of(n));
}
INLINE void store_words(float *p, int n, vec v)
{
    if (n >= LANES)
        _mm256_storeu_ps(p, v);
    else
        _mm256_maskstore_ps(p, first_of(n), v);
}
INLINE __m128i half_words(const char *p, int n)
{
    __m128i some = _mm_setzero_si128();
    if (n >= LANES) return _mm_loadu_si128((const __m128i *)p);
    if (n > 0) memcpy(&some, p, (size_t)n * sizeof(uint16_t));
    return some;
}
INLINE vec load_halves(const char *p, int n) { return _mm256_castsi256_ps(_mm256_cvtepu16_epi32(half_words(p, n))); }
INLINE vec load_f16(const char *p, int n) { return _mm256_cvtph_ps(half_words(p, n)); }
INLINE vec broadcast(const char *p)
{
    float word;
    memcpy(&word, p, sizeof word);
    return _mm256_set1_ps(word);
}
INLINE vec part_of(vec pairs, int half)
{
    const __m256i w = _mm256_castps_si256(pairs);
    return _mm256_castsi256_ps(half ? _mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(w, 16));
}
INLINE vec multiply_add(kn_product kind, vec sum, vec x, vec w)
{
    (void)kind;
    return _mm256_fmadd_ps(x, w, sum);
}

#    include "kernels/cpu/linear_panel.h"

/* Functions of their own: a compiler takes minutes over all of them in one. */
static NOINLINE void product_f32_bf16(const kn_linear_work *p, int first, int last) { product(p, KN_F32_BF16, first, last); }
static NOINLINE void product_f32_f16(const kn_linear_work *p, int first, int last) { product(p, KN_F32_F16, first, last); }
static NOINLINE void product_f32_f32(const kn_linear_work *p, int first, int last) { product(p, KN_F32_F32, first, last); }

void kn_linear_avx2(const kn_linear_work *p, int first, int last)
{
    switch (p->kind) {
    case KN_F32_BF16: product_f32_bf16(p, first, last); break;
    case KN_F32_F16: product_f32_f16(p, first, last); break;
    default: product_f32_f32(p, first, last);
    }
}

#endif
