/* A thread walks down the rows with the states of BLOCK channels in its scratch, transposed: channels are the vectors, so that the sum over
 * the state needs no sum across a vector, and any number of states goes at full width.  Channels beyond the last are computed on zeros. */
#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"

enum { BLOCK = 64 };

typedef struct {
    int first, channels; /* of the block */
    float *A, *h;        /* (state, BLOCK)              */
    float *stored;       /* (BLOCK, state), as in slots */
} block;

size_t kn_scan_scratch(int state) { return 3 * BLOCK * (size_t)state * sizeof(float); }

static block block_of(const kn_context *c, const kn_scan_args *a, int first)
{
    float *at = (float *)kn_scratch(c);
    const int size = BLOCK * a->state, left = a->channels - first;
    return (block){ .first = first, .channels = left < BLOCK ? left : BLOCK, .A = at, .h = at + size, .stored = at + 2 * size };
}

static void into_columns(float *restrict to, const float *restrict rows, int channels, int state)
{
    memset(to, 0, BLOCK * (size_t)state * sizeof *to);
    for (int i = 0; i < channels; i++)
        for (int j = 0; j < state; j++) to[j * BLOCK + i] = rows[i * state + j];
}

/* Where a block's states lie in a slot. */
static char *slot_of(const kn_scan_args *a, const block *k, int slot)
{
    return (char *)a->h + ((size_t)slot * (size_t)a->channels + (size_t)k->first) * (size_t)a->state * plp_dtype_size(a->state_dtype);
}

static void load(const kn_scan_args *a, const block *k, int slot)
{
    kn_widen(k->stored, slot_of(a, k, slot), a->state_dtype, k->channels * a->state);
    into_columns(k->h, k->stored, k->channels, a->state);
}

static void store(const kn_scan_args *a, const block *k, int slot)
{
    for (int i = 0; i < k->channels; i++)
        for (int j = 0; j < a->state; j++) k->stored[i * a->state + j] = k->h[j * BLOCK + i];
    kn_narrow(slot_of(a, k, slot), a->state_dtype, k->stored, k->channels * a->state);
}

KN_CLONES static void token(const kn_scan_args *a, const block *k, int64_t row)
{
    const int first = k->first, n = k->channels;
    const float *B = (const float *)a->B + row * a->ld_bc, *C = (const float *)a->C + row * a->ld_bc;
    const float *restrict A = k->A;
    float *restrict h = k->h, *out = (float *)a->y + row * a->ld_y + first;
    float dt[BLOCK] = { 0 }, x[BLOCK] = { 0 }, z[BLOCK] = { 0 }, y[BLOCK] = { 0 };
    memcpy(dt, (const float *)a->dt + row * a->ld_dt + first, (size_t)n * sizeof *dt);
    memcpy(x, (const float *)a->x + row * a->ld_x + first, (size_t)n * sizeof *x);
    memcpy(z, (const float *)a->z + row * a->ld_z + first, (size_t)n * sizeof *z);
    if (a->dt_bias)
        for (int i = 0; i < n; i++) dt[i] += a->dt_bias[first + i];
    if (a->D)
        for (int i = 0; i < n; i++) y[i] = a->D[first + i] * x[i];
    for (int i = 0; i < BLOCK; i++) {
        dt[i] = kn_softplusf(dt[i]);
        x[i] *= dt[i];
    }
    for (int j = 0; j < a->state; j++, A += BLOCK, h += BLOCK)
        for (int i = 0; i < BLOCK; i++) {
            h[i] = kn_expf(dt[i] * A[i]) * h[i] + x[i] * B[j];
            y[i] += h[i] * C[j];
        }
    for (int i = 0; i < BLOCK; i++) y[i] *= kn_siluf(z[i]);
    memcpy(out, y, (size_t)n * sizeof *y);
}

/* One sequence's rows. */
static void walk(const kn_scan_args *a, const kn_batch *b, int s, const block *k)
{
    const int every = s < b->decodes ? 0 : a->block;
    int64_t past = b->past[s];
    int snap = every ? a->snap_start[s] : 0;
    into_columns(k->A, a->A + (int64_t)k->first * a->state, k->channels, a->state);
    if (past > 0)
        load(a, k, b->src_slot[s]);
    else
        memset(k->h, 0, BLOCK * (size_t)a->state * sizeof *k->h);
    for (int row = b->start[s]; row < b->start[s + 1]; row++) {
        token(a, k, row);
        if (++past, every && past % every == 0) {
            const int slot = a->snap_slot[snap++];
            if (slot >= 0) store(a, k, slot);
        }
    }
    store(a, k, b->dst_slot[s]);
}

/* Sequences first .. end of the batch. */
static plp_status scan(kn_context *c, const kn_scan_args *a, const kn_batch *b, int first, int end)
{
    const int blocks = (a->channels + BLOCK - 1) / BLOCK, tasks = (end - first) * blocks;
    PLP_TRY(kn_scratch_holds(c, "scan", kn_scan_scratch(a->state)));
    const int threads = tasks ? kn_threads(c, 16.0 * (b->start[end] - b->start[first]) * a->channels * a->state) : 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int task = 0; task < tasks; task++) {
        const block k = block_of(c, a, task % blocks * BLOCK);
        walk(a, b, first + task / blocks, &k);
    }
    return PLP_OK;
}

plp_status kn_scan_cpu(kn_context *c, const kn_scan_args *a, const kn_batch *b) { return scan(c, a, b, b->decodes, b->seqs); }
plp_status kn_scan_step_cpu(kn_context *c, const kn_scan_args *a, const kn_batch *b) { return scan(c, a, b, 0, b->decodes); }
