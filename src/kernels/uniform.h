/* src/kernels/uniform.h -- counter-based uniform numbers, one definition for the host and the CUDA kernel: any slice of a random matrix can
 * be made alone, by any rank.  splitmix64's finaliser (Steele et al., OOPSLA14) of key + index; its upper half is the number. */
#ifndef KERNELS_UNIFORM_H
#define KERNELS_UNIFORM_H

#include "kernels/shared.h"

#include <stdint.h>

KN_SHARED uint64_t kn_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* middle + half * u, u uniform in [-1, 1) */
KN_SHARED float kn_uniform_at(uint64_t key, uint64_t index, float middle, float half)
{
    const float u = (float)(int32_t)(kn_mix(key + index) >> 32) * 0x1p-31f;
#ifdef __CUDA_ARCH__
    return __fadd_rn(middle, __fmul_rn(half, u)); /* the same bits as on the host, whose compiler may not fuse either (baseline x86-64) */
#else
    return middle + half * u;
#endif
}

#endif
