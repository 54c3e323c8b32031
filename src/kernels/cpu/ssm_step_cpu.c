#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/ssm_cpu.h"

/* h = decay old + dtx B, and the sum of h C.  h may be old. */
KN_INLINE float advance(float *h, const float *old, float decay, float dtx, const float *B, const float *C, int n)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        const float next = decay * old[i] + dtx * B[i];
        h[i] = next;
        sum += next * C[i];
    }
    return sum;
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
