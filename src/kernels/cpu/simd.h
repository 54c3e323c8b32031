/* src/kernels/cpu/simd.h -- what lets plain loops run at the width of the processor at hand.
 *
 * A function marked KN_CLONES is compiled for several levels of the architecture, and the loader picks one: such functions are loops over
 * arrays, with `#pragma omp simd` where the order of a sum may change.  What they call inline is marked KN_INLINE and made of arithmetic
 * that vectorises; the library's expf would not, and its vector twin differs between the body and the tail of a loop. */
#ifndef KERNELS_CPU_SIMD_H
#define KERNELS_CPU_SIMD_H

#include "base/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#    define KN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#    define KN_CLONES
#endif
#define KN_INLINE static inline __attribute__((always_inline))

KN_INLINE float kn_float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
KN_INLINE uint32_t kn_bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* exp(x) within 2 units in the last place; 0 below -87.3, inf above 88.37; NaN stays NaN.  x = n log 2 + r, |r| <= log(2) / 2, and exp(r)
 * by its Taylor series: the first term left out is below 2^-28. */
KN_INLINE float kn_expf(float x)
{
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, kept in the low bits */
    const float shifted = x * 0x1.715476p0f + magic, n = shifted - magic;
    const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f; /* log 2 in two parts; n times the first is exact */
    float p = 1.f / 5040;
    p = p * r + 1.f / 720;
    p = p * r + 1.f / 120;
    p = p * r + 1.f / 24;
    p = p * r + 1.f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    const float power = kn_float_of((kn_bits_of(shifted) << 23) + 0x3f800000u); /* 2^n; nonsense only where the next lines replace it */
    const float y = x < -87.3f ? 0.f : p * power;
    return x > 88.37f ? INFINITY : y;
}
KN_INLINE float kn_siluf(float x) { return x / (1 + kn_expf(-x)); }
/* log(1 + exp(x)) = max(x, 0) + log(1 + u), u = exp(-|x|), and log(1 + u) = 2 atanh(s), s = u / (2 + u) <= 1/3, by its series: the first
 * term left out is below 2^-27 of the sum.  Linear above 20 to the last bit. */
KN_INLINE float kn_softplusf(float x)
{
    const float u = kn_expf(x > 0 ? -x : x), s = u / (2 + u), q = s * s;
    float p = 1.f / 15;
    p = p * q + 1.f / 13;
    p = p * q + 1.f / 11;
    p = p * q + 1.f / 9;
    p = p * q + 1.f / 7;
    p = p * q + 1.f / 5;
    p = p * q + 1.f / 3;
    p = p * q + 1;
    return (x > 0 ? x : 0) + 2 * s * p;
}

/* n elements of a stored type as float32, and back. */
KN_INLINE void kn_widen(float *restrict dst, const void *restrict src, plp_dtype from, int n)
{
    const uint16_t *s = src;
    if (from == PLP_BF16)
        for (int i = 0; i < n; i++) dst[i] = plp_bf16_to_f32(s[i]);
    else
        plp_convert(dst, PLP_F32, src, from, (size_t)n);
}
KN_INLINE void kn_narrow(void *restrict dst, plp_dtype to, const float *restrict src, int n)
{
    uint16_t *d = dst;
    if (to == PLP_BF16)
        for (int i = 0; i < n; i++) d[i] = plp_f32_to_bf16(src[i]);
    else
        plp_convert(dst, to, src, PLP_F32, (size_t)n);
}

#endif
