/* src/kernels/gumbel.h -- counter-based Gumbel noise, one definition for the CPU's loops and the CUDA kernels.
 *
 * Philox4x32-10 (Salmon et al., SC11): key = the seed's two halves, counter = (position low, position high, token, 0), and of the four
 * words of a block only the first is used, so that any token's noise can be had alone, by any rank.  23 bits of it make u: the largest
 * number of bits for which the float (k + 1/2) 2^-23 is exact and never rounds to 1. */
#ifndef KERNELS_GUMBEL_H
#define KERNELS_GUMBEL_H

#include "kernels/shared.h"

#include <stdint.h>
#include <string.h>

/* The first word of the block.  The words are the lower halves of c0 to c3, what lies above them is left over: so a loop over tokens keeps
 * them in lanes of 64 bits, where their products are, and need not move them about. */
KN_SHARED uint32_t kn_philox(uint64_t seed, int64_t position, int token)
{
    uint64_t c0 = (uint64_t)position, c1 = (uint64_t)position >> 32, c2 = (uint32_t)token, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)(uint32_t)c0 * 0xD2511F53u, p1 = (uint64_t)(uint32_t)c2 * 0xCD9E8D57u;
        c0 = p1 >> 32 ^ c1 ^ k0;
        c1 = p1;
        c2 = p0 >> 32 ^ c3 ^ k1;
        c3 = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint32_t)c0;
}

/* log(x) of a positive normal x within 2 units in the last place: x = m 2^e with m in [sqrt(1/2), sqrt(2)], and log(m) as the series of
 * artanh((m - 1) / (m + 1)), which is exact near 1.  Plain arithmetic, so that the CPU's loops over a vocabulary vectorise. */
KN_SHARED float kn_log(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23;
    bits -= (uint32_t)e << 23;
    float m;
    memcpy(&m, &bits, sizeof m);
    const float f = m - 1, s = f / (2 + f), q = s * s;
    const float tail = s * q * (2.f / 3 + q * (2.f / 5 + q * (2.f / 7 + q * (2.f / 9))));
    return (float)e * 0x1.62e4p-1f + (2 * s + (tail + (float)e * 0x1.7f7d1cp-20f)); /* log 2 in two parts, the first short */
}

/* u in (0, 1), and the noise that it makes. */
KN_SHARED float kn_noise_u(uint64_t seed, int64_t position, int token)
{
    return ((float)(int32_t)(kn_philox(seed, position, token) >> 9) + 0.5f) * 0x1p-23f;
}
KN_SHARED float kn_noise_of(float u) { return -kn_log(-kn_log(u)); }

/* What kn_noise_of(u) does not exceed, for a tenth of its work: -log(u) is at least 1 - u, and the bits of 1 - u, read as a number, are a
 * logarithm to base 2 that is too small by at most 0.09.  What kn_log and this round is less than 2e-5. */
KN_SHARED float kn_noise_below(float u)
{
    const float rest = 1 - u;
    int32_t bits;
    memcpy(&bits, &rest, sizeof bits);
    return 127 * 0x1.62e43p-1f + 1e-4f - (float)bits * 0x1.62e43p-24f;
}

/* kn_gumbel, inline. */
KN_SHARED float kn_noise(uint64_t seed, int64_t position, int token) { return kn_noise_of(kn_noise_u(seed, position, token)); }

#endif
