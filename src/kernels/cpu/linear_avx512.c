#include "kernels/cpu/linear_cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BF16__)

#    include <immintrin.h>
#    include <string.h>

#    define INLINE    static inline __attribute__((always_inline))
#    define NOINLINE  __attribute__((noinline))
#    define LANES     16
#    define MOST_ROWS 8
typedef __m512 vec;

/* Float32 weights come from memory as four streams faster than as eight. */
INLINE int panels_of(kn_product kind, int rows) { return rows <= 2 ? (kind == KN_F32_F32 ? 4 : 8) : rows <= 4 ? 6 : rows <= 6 ? 4 : 3; }

INLINE vec load_words(const char *p, int n)
{
    return n >= LANES ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps((__mmask16)((1 << n) - 1), p);
}
INLINE void store_words(float *p, int n, vec v)
{
    if (n >= LANES)
        _mm512_storeu_ps(p, v);
    else
        _mm512_mask_storeu_ps(p, (__mmask16)((1 << n) - 1), v);
}
INLINE __m256i half_words(const char *p, int n)
{
    return n >= LANES ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16((__mmask16)((1 << n) - 1), p);
}
INLINE vec load_halves(const char *p, int n) { return _mm512_castsi512_ps(_mm512_cvtepu16_epi32(half_words(p, n))); }
INLINE vec load_f16(const char *p, int n) { return _mm512_cvtph_ps(half_words(p, n)); }
INLINE vec broadcast(const char *p)
{
    float word;
    memcpy(&word, p, sizeof word);
    return _mm512_set1_ps(word);
}
INLINE vec part_of(vec pairs, int half)
{
    const __m512i w = _mm512_castps_si512(pairs);
    return _mm512_castsi512_ps(half ? _mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(w, 16));
}
INLINE vec multiply_add(kn_product kind, vec sum, vec x, vec w)
{
    return kind == KN_BF16_BF16 ? _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w) : _mm512_fmadd_ps(x, w, sum);
}

#    include "kernels/cpu/linear_panel.h"

/* Functions of their own: a compiler takes minutes over all of them in one. */
static NOINLINE void product_bf16_bf16(const kn_linear_work *p, int first, int last) { product(p, KN_BF16_BF16, first, last); }
static NOINLINE void product_f32_bf16(const kn_linear_work *p, int first, int last) { product(p, KN_F32_BF16, first, last); }
static NOINLINE void product_f32_f16(const kn_linear_work *p, int first, int last) { product(p, KN_F32_F16, first, last); }
static NOINLINE void product_f32_f32(const kn_linear_work *p, int first, int last) { product(p, KN_F32_F32, first, last); }

void kn_linear_avx512(const kn_linear_work *p, int first, int last)
{
    switch (p->kind) {
    case KN_F32_F32: product_f32_f32(p, first, last); break;
    case KN_F32_BF16: product_f32_bf16(p, first, last); break;
    case KN_F32_F16: product_f32_f16(p, first, last); break;
    case KN_BF16_BF16: product_bf16_bf16(p, first, last); break;
    }
}

#endif
