/* src/kernels/cuda/ssm_sweep.cuh -- one token of the state space for many decode rows, as one sweep through the states' memory.
 *
 * Memory that is read and written at once gives what it has only where the two stay close together: on an H100, in-place updates in the order in which
 * the bytes lie there, with no more of them on their way than hide the latency (32 to 48 KB a multiprocessor), go at 3.03 TB/s; with all that
 * fits on its way at 2.95; by blocks that drift apart at 2.8.  So one block a multiprocessor takes heads from a counter, in order, and keeps a bounded
 * number of bytes on their way; and with a head come the values that its update needs, so that nobody waits for anything else. */
#ifndef KERNELS_CUDA_SSM_SWEEP_CUH
#define KERNELS_CUDA_SSM_SWEEP_CUH

#include "kernels/cuda/common.cuh"

struct ssm_sweep_args {
    int rows, heads;
    void *state;                /* (slots, heads, 64, N)                                             */
    const int *src, *dst;       /* (rows)                                                            */
    const int64_t *past;        /* (rows)                                                            */
    const int *group;           /* (heads)                                                           */
    const void *x, *B, *C, *dt; /* as in kn_ssm_args; with a gate dt is float32 and ready for use    */
    int64_t ld_x, ld_bc, ld_dt;
    const float *A, *D, *dt_bias; /* (heads); D, dt_bias NULL: none */
    float dt_min, dt_max;
    void *y; /* (rows, heads, 64), rows ld_y apart; with a gate v = y silu(z), times weight */
    int64_t ld_y;
    const void *z;       /* (rows, heads, 64) bf16; NULL: no gate */
    const float *weight; /* (heads, 64) or NULL                   */
    float *squares;      /* (rows, heads): sums of v^2            */
};

struct ssm_sweep_counters {
    unsigned next, left; /* heads that were taken; groups that are done.  0 between launches */
};
/* Whether there is a sweep for these sizes and types, and whether it is worth its start. */
bool ssm_sweep_knows(const kn_context *c, const ssm_sweep_args *a, int dim, int state, plp_dtype act, plp_dtype state_dtype);
plp_status ssm_sweep(kn_context *c, const ssm_sweep_args *a, int state, plp_dtype act, plp_dtype state_dtype);

#endif
