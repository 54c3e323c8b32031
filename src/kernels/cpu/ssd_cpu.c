#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/ssm_cpu.h"

#include "base/error.h"

size_t kn_ssd_scratch(int dim, int state) { return (size_t)dim * (size_t)state * sizeof(float); }

/* h = exp(dt A) h + dt x (outer) B;  y = h C + D x */
KN_CLONES static void step(const kn_ssm_args *a, int row, int head, float *restrict h)
{
    const float dt = kn_dt(a, row, head), decay = expf(dt * a->A[head]), D = a->D ? a->D[head] : 0;
    const float *x = (const float *)a->x + row * a->ld_x + head * a->dim;
    const float *B = (const float *)a->B + row * a->ld_bc + a->group[head] * a->state;
    const float *C = (const float *)a->C + row * a->ld_bc + a->group[head] * a->state;
    float *y = (float *)a->y + row * a->ld_y + head * a->dim;
    for (int p = 0; p < a->dim; p++, h += a->state) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int n = 0; n < a->state; n++) {
            h[n] = decay * h[n] + dt * x[p] * B[n];
            sum += h[n] * C[n];
        }
        y[p] = sum + D * x[p];
    }
}

plp_status kn_ssd_cpu(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    const int elements = a->dim * a->state;
    PLP_TRY(kn_scratch_holds(c, "ssd", kn_ssd_scratch(a->dim, a->state)));
    const int tasks = (b->seqs - b->decodes) * a->heads;
    const int threads = tasks ? kn_threads(c, 6.0 * b->tokens * a->heads * elements) : 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int task = 0; task < tasks; task++) {
        const int s = b->decodes + task / a->heads, head = task % a->heads;
        float *h = (float *)kn_scratch(c);
        if (b->past[s] > 0)
            kn_widen(h, kn_head_state(a, b->src_slot[s], head), a->state_dtype, elements);
        else
            memset(h, 0, kn_ssd_scratch(a->dim, a->state));
        int64_t past = b->past[s];
        int snap = a->block > 0 ? a->snap_start[s] : 0;
        for (int row = b->start[s]; row < b->start[s + 1]; row++) {
            step(a, row, head, h);
            if (++past, a->block > 0 && past % a->block == 0) {
                const int slot = a->snap_slot[snap++];
                if (slot >= 0) kn_narrow(kn_head_state(a, slot, head), a->state_dtype, h, elements);
            }
        }
        kn_narrow(kn_head_state(a, b->dst_slot[s], head), a->state_dtype, h, elements);
    }
    return PLP_OK;
}
