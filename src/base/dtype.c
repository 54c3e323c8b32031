#include "base/dtype.h"

#include "base/error.h"

#include <strings.h>

static const char *const names[] = { "F32", "BF16", "F16" };

const char *plp_dtype_name(plp_dtype dtype) { return names[dtype]; }

plp_status plp_dtype_parse(const char *name, plp_dtype *dtype)
{
    for (int i = 0; i < 3; i++)
        if (strcasecmp(name, names[i]) == 0) {
            *dtype = (plp_dtype)i;
            return PLP_OK;
        }
    return PLP_FAIL(PLP_ERR_USAGE, "dtype %s; fix: one of f32, bf16, f16", name);
}

float plp_f16_to_f32(uint16_t v)
{
    const uint32_t sign = (uint32_t)(v & 0x8000u) << 16, exponent = v >> 10 & 31, fraction = v & 1023u;
    uint32_t bits;
    float f;
    if (exponent == 0) { /* zero or subnormal: fraction times 2^-24 */
        f = (float)fraction * 0x1p-24f;
        memcpy(&bits, &f, sizeof bits);
        bits |= sign;
    } else
        bits = sign | (exponent == 31 ? 0xffu : exponent + 112) << 23 | fraction << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t plp_f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return sign | 0x7e00;
    if (bits >= 0x477ff000u) return sign | 0x7c00; /* 65520 and above round to infinity */
    if (bits < 0x38800000u) {                      /* below 2^-14: adding 0.5 aligns the fraction and rounds it */
        float a;
        memcpy(&a, &bits, sizeof a);
        a += 0.5f;
        memcpy(&bits, &a, sizeof bits);
        return sign | (uint16_t)(bits - 0x3f000000u);
    }
    return sign | (uint16_t)((bits + 0xfffu + (bits >> 13 & 1) - (112u << 23)) >> 13);
}

static float load(const void *src, plp_dtype type, size_t i)
{
    switch (type) {
    case PLP_BF16: return plp_bf16_to_f32(((const uint16_t *)src)[i]);
    case PLP_F16: return plp_f16_to_f32(((const uint16_t *)src)[i]);
    default: return ((const float *)src)[i];
    }
}

void plp_convert(void *dst, plp_dtype to, const void *src, plp_dtype from, size_t n)
{
    if (to == from) {
        memmove(dst, src, n * plp_dtype_size(to));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const float f = load(src, from, i);
        if (to == PLP_F32)
            ((float *)dst)[i] = f;
        else
            ((uint16_t *)dst)[i] = to == PLP_BF16 ? plp_f32_to_bf16(f) : plp_f32_to_f16(f);
    }
}
