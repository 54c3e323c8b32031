/* src/kernels/cpu/ssm_cpu.h -- what the step and the scan of the state space share. */
#ifndef KERNELS_CPU_SSM_CPU_H
#define KERNELS_CPU_SSM_CPU_H

#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

enum { KN_SSD_TILE = 16 }; /* tokens: kn_backend.grain */

/* In two steps: what is loaded, and what loops over 16 tokens or heads do with it, at the width of the processor. */
static inline float kn_dt_raw(const kn_ssm_args *a, int row, int head)
{
    return ((const float *)a->dt)[row * a->ld_dt + head] + (a->dt_bias ? a->dt_bias[head] : 0);
}
KN_INLINE float kn_dt(const kn_ssm_args *a, float raw)
{
    const float dt = kn_softplusf(raw), least = dt > a->dt_min ? dt : a->dt_min; /* NaN becomes that, too */
    return least < a->dt_max ? least : a->dt_max;
}

/* The bytes of one head's state, and where it lies. */
static inline size_t kn_head_bytes(const kn_ssm_args *a) { return (size_t)a->dim * (size_t)a->state * plp_dtype_size(a->state_dtype); }
static inline char *kn_head_state(const kn_ssm_args *a, int slot, int head)
{
    return (char *)a->h + ((size_t)slot * (size_t)a->heads + (size_t)head) * kn_head_bytes(a);
}

#endif
