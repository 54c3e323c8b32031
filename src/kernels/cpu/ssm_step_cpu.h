/* src/kernels/cpu/ssm_step_cpu.h -- one head in a step of the state space, for the forms of it that a level of the processor brings. */
#ifndef KERNELS_CPU_SSM_STEP_CPU_H
#define KERNELS_CPU_SSM_STEP_CPU_H

#include "kernels/cpu/simd.h"

enum {
    KN_SSM_LANES = 16,
    KN_SSM_ROWS = 4,    /* channels that go together                                                       */
    KN_SSM_MOST = 256,  /* numbers of a state that a form need know                                        */
    KN_SSM_AHEAD = 4096 /* bytes by which a state is fetched ahead: the processor sees no stream in four rows */
};
typedef float kn_ssm_lanes __attribute__((vector_size(KN_SSM_LANES * sizeof(float))));

typedef struct {
    int dim, state;
    float dt, decay, D;
    const float *x, *B, *C; /* (dim), (state), (state)            */
    const char *old;        /* (dim, state); may be h             */
    char *h;
    float *y; /* (dim) */
} kn_ssm_head;

/* A bf16 state, dim a multiple of KN_SSM_ROWS, state of 2 KN_SSM_LANES and at most KN_SSM_MOST.  Needs AVX-512 BF16, which rounds
 * subnormal numbers to 0. */
void kn_ssm_head_avx512(const kn_ssm_head *p);

/* Of each of four vectors the sum, by halves: as the compiler would end a sum, it is as many dependent additions as there are lanes. */
KN_INLINE void kn_ssm_sums(const kn_ssm_lanes s[KN_SSM_ROWS], float *sum)
{
    const kn_ssm_lanes a = __builtin_shufflevector(s[0], s[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                           __builtin_shufflevector(s[0], s[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const kn_ssm_lanes b = __builtin_shufflevector(s[2], s[3], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                           __builtin_shufflevector(s[2], s[3], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    kn_ssm_lanes c = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                     __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    c += __builtin_shufflevector(c, c, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    c += __builtin_shufflevector(c, c, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    for (int r = 0; r < KN_SSM_ROWS; r++) sum[r] = c[r * KN_SSM_LANES / KN_SSM_ROWS];
}

#endif
