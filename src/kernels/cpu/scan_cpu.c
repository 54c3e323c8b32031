#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"

enum { BLOCK = 64 }; /* channels whose states stay in the cache while a thread walks down the rows */

size_t kn_scan_scratch(int state) { return (size_t)BLOCK * (size_t)state * sizeof(float); }

/* One row of channels first .. first + n, n <= BLOCK; h (n, state). */
KN_INLINE void token(const kn_scan_args *a, int64_t row, int first, int n, int state, float *restrict h)
{
    const float *x = (const float *)a->x + row * a->ld_x + first, *z = (const float *)a->z + row * a->ld_z + first;
    const float *raw = (const float *)a->dt + row * a->ld_dt + first;
    const float *B = (const float *)a->B + row * a->ld_bc, *C = (const float *)a->C + row * a->ld_bc;
    const float *A = a->A + (int64_t)first * state;
    float *y = (float *)a->y + row * a->ld_y + first, dt[BLOCK];
    for (int i = 0; i < n; i++) dt[i] = kn_softplusf(raw[i] + (a->dt_bias ? a->dt_bias[first + i] : 0));
    for (int i = 0; i < n; i++, A += state, h += state) {
        const float step = dt[i], in = dt[i] * x[i];
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < state; j++) {
            h[j] = kn_expf(step * A[j]) * h[j] + in * B[j];
            sum += h[j] * C[j];
        }
        y[i] = sum;
    }
    for (int i = 0; i < n; i++) y[i] = (y[i] + (a->D ? a->D[first + i] * x[i] : 0)) * kn_siluf(z[i]);
}

/* The published models have 16 states: a loop of known length costs half as much. */
KN_CLONES static void token_16(const kn_scan_args *a, int64_t row, int first, int n, float *restrict h) { token(a, row, first, n, 16, h); }
KN_CLONES static void token_any(const kn_scan_args *a, int64_t row, int first, int n, float *restrict h)
{
    token(a, row, first, n, a->state, h);
}

/* Where the states of channels from `first` on lie in a slot. */
static char *states(const kn_scan_args *a, int slot, int first)
{
    return (char *)a->h + ((size_t)slot * (size_t)a->channels + (size_t)first) * (size_t)a->state * plp_dtype_size(a->state_dtype);
}

/* One sequence's rows; h is scratch. */
static void walk(const kn_scan_args *a, const kn_batch *b, int s, int first, int n, float *h)
{
    const int block = s < b->decodes ? 0 : a->block, elements = n * a->state;
    int64_t past = b->past[s];
    int snap = block ? a->snap_start[s] : 0;
    if (past > 0)
        kn_widen(h, states(a, b->src_slot[s], first), a->state_dtype, elements);
    else
        memset(h, 0, kn_scan_scratch(a->state));
    for (int row = b->start[s]; row < b->start[s + 1]; row++) {
        if (a->state == 16)
            token_16(a, row, first, n, h);
        else
            token_any(a, row, first, n, h);
        if (++past, block && past % block == 0) {
            const int slot = a->snap_slot[snap++];
            if (slot >= 0) kn_narrow(states(a, slot, first), a->state_dtype, h, elements);
        }
    }
    kn_narrow(states(a, b->dst_slot[s], first), a->state_dtype, h, elements);
}

/* Sequences first .. end of the batch. */
static plp_status scan(kn_context *c, const kn_scan_args *a, const kn_batch *b, int first, int end)
{
    const int blocks = (a->channels + BLOCK - 1) / BLOCK, tasks = (end - first) * blocks;
    PLP_TRY(kn_scratch_holds(c, "scan", kn_scan_scratch(a->state)));
    const int threads = tasks ? kn_threads(c, 16.0 * (b->start[end] - b->start[first]) * a->channels * a->state) : 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int task = 0; task < tasks; task++) {
        const int from = task % blocks * BLOCK;
        walk(a, b, first + task / blocks, from, a->channels - from < BLOCK ? a->channels - from : BLOCK, (float *)kn_scratch(c));
    }
    return PLP_OK;
}

plp_status kn_scan_cpu(kn_context *c, const kn_scan_args *a, const kn_batch *b) { return scan(c, a, b, b->decodes, b->seqs); }
plp_status kn_scan_step_cpu(kn_context *c, const kn_scan_args *a, const kn_batch *b) { return scan(c, a, b, 0, b->decodes); }
