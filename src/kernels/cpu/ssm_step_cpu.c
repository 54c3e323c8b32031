#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/ssm_cpu.h"

enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

/* Left to itself, the compiler ends a sum in as many dependent additions as there are lanes: a third of the step's time. */
KN_INLINE float sum_of(const lanes *partial)
{
    lanes v = *partial;
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return v[0] + v[1];
}

/* h = decay old + dtx B, and the sum of h C.  h may be old. */
KN_INLINE float advance(float *h, const float *old, float decay, float dtx, const float *B, const float *C, int n)
{
    lanes sum = { 0 };
    float rest = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes was, b, c;
        memcpy(&was, old + i, sizeof was);
        memcpy(&b, B + i, sizeof b);
        memcpy(&c, C + i, sizeof c);
        const lanes next = decay * was + dtx * b;
        memcpy(h + i, &next, sizeof next);
        sum += next * c;
    }
    for (; i < n; i++) {
        h[i] = decay * old[i] + dtx * B[i];
        rest += h[i] * C[i];
    }
    return sum_of(&sum) + rest;
}

/* One token of one sequence for one head; reads `source` unless it is NULL (no initial state), writes `target`. */
KN_CLONES static void step(const kn_ssm_args *a, int row, int head, const char *source, char *target)
{
    enum { STEP = 256 };
    const int dim = a->dim, state = a->state;
    const size_t size = plp_dtype_size(a->state_dtype);
    const float dt = kn_dt(a, row, head), decay = expf(dt * a->A[head]), D = a->D ? a->D[head] : 0;
    const float *x = (const float *)a->x + row * a->ld_x + head * dim;
    const float *B = (const float *)a->B + row * a->ld_bc + a->group[head] * state;
    const float *C = (const float *)a->C + row * a->ld_bc + a->group[head] * state;
    float *y = (float *)a->y + row * a->ld_y + head * dim, h[STEP] = { 0 };
    for (int p = 0; p < dim; p++) {
        float sum = 0;
        for (int n = 0; n < state; n += STEP) {
            const int m = state - n < STEP ? state - n : STEP;
            const size_t at = ((size_t)p * (size_t)state + (size_t)n) * size;
            if (a->state_dtype == PLP_F32)
                sum += advance((float *)(target + at), source ? (const float *)(source + at) : h, decay, dt * x[p], B + n, C + n, m);
            else {
                if (source)
                    kn_widen(h, source + at, a->state_dtype, m);
                else
                    memset(h, 0, sizeof h);
                sum += advance(h, h, decay, dt * x[p], B + n, C + n, m);
                kn_narrow(target + at, a->state_dtype, h, m);
            }
        }
        y[p] = sum + D * x[p];
    }
}

plp_status kn_ssm_step_cpu(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    const int tasks = b->decodes * a->heads, threads = kn_threads(c, 4.0 * tasks * a->dim * a->state);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int task = 0; task < tasks; task++) {
        const int s = task / a->heads, head = task % a->heads;
        step(a, b->start[s], head, b->past[s] > 0 ? kn_head_state(a, b->src_slot[s], head) : NULL, kn_head_state(a, b->dst_slot[s], head));
    }
    return PLP_OK;
}
