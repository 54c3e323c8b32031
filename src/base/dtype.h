/* src/base/dtype.h -- the element types of weights, activations and states, and their conversions.
 *
 * 16-bit values travel as uint16_t.  Narrowing rounds to nearest, ties to even; NaN stays NaN, and what is too large becomes infinite. */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include "polylepis/status.h"

#include <stdint.h>
#include <stddef.h>
#include <string.h>

typedef enum { PLP_F32, PLP_BF16, PLP_F16 } plp_dtype;

const char *plp_dtype_name(plp_dtype dtype); /* "F32", "BF16", "F16" */
/* Any case.  PLP_ERR_USAGE for another name. */
plp_status plp_dtype_parse(const char *name, plp_dtype *dtype);
static inline size_t plp_dtype_size(plp_dtype dtype) { return dtype == PLP_F32 ? 4 : 2; }

static inline float plp_bf16_to_f32(uint16_t v)
{
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint16_t plp_f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); /* a quiet NaN, whatever its low bits were */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
float plp_f16_to_f32(uint16_t v);
uint16_t plp_f32_to_f16(float f);

/* n elements from one type to another; dst and src must not overlap unless the types are equal and so are the pointers. */
void plp_convert(void *dst, plp_dtype to, const void *src, plp_dtype from, size_t n);

#endif
