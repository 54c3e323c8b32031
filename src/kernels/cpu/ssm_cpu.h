/* src/kernels/cpu/ssm_cpu.h -- what the step and the scan of the state space share. */
#ifndef KERNELS_CPU_SSM_CPU_H
#define KERNELS_CPU_SSM_CPU_H

#include "kernels/kernels.h"

#include <math.h>

enum { KN_SSD_TILE = 16 }; /* tokens: kn_backend.grain */

static inline float kn_dt(const kn_ssm_args *a, int row, int head)
{
    const float raw = ((const float *)a->dt)[row * a->ld_dt + head] + (a->dt_bias ? a->dt_bias[head] : 0);
    const float dt = raw > 20 ? raw : log1pf(expf(raw));
    return fminf(fmaxf(dt, a->dt_min), a->dt_max);
}

/* The bytes of one head's state, and where it lies. */
static inline size_t kn_head_bytes(const kn_ssm_args *a) { return (size_t)a->dim * (size_t)a->state * plp_dtype_size(a->state_dtype); }
static inline char *kn_head_state(const kn_ssm_args *a, int slot, int head)
{
    return (char *)a->h + ((size_t)slot * (size_t)a->heads + (size_t)head) * kn_head_bytes(a);
}

#endif
