/* src/kernels/gumbel.h -- counter-based Gumbel noise, one definition for the CPU's loops and the CUDA kernels.
 *
 * Philox4x32-10 (Salmon et al., SC11): key = the seed's two halves, counter = (position low, position high, token, 0), and of the four
 * words of a block only the first is used, so that any token's noise can be had alone, by any rank.  23 bits of it make u: the largest
 * number of bits for which the float (k + 1/2) 2^-23 is exact and never rounds to 1. */
#ifndef KERNELS_GUMBEL_H
#define KERNELS_GUMBEL_H

#include <stdint.h>

#ifdef __CUDACC__
#    define KN_SHARED static __host__ __device__ __forceinline__
#else
#    define KN_SHARED static inline __attribute__((always_inline))
#endif

/* The first word of the block. */
KN_SHARED uint32_t kn_philox(uint64_t seed, int64_t position, int token)
{
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)((uint64_t)position >> 32), c2 = (uint32_t)token, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

/* u in (0, 1); the noise is -log(-log(u)). */
KN_SHARED float kn_uniform(uint64_t seed, int64_t position, int token)
{
    return ((float)(kn_philox(seed, position, token) >> 9) + 0.5f) * 0x1p-23f;
}

#endif
