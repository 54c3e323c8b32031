#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

enum { MOST_WIDTH = 8, BLOCK = 256 };

/* out = silu(bias + sum_k weight[k] taps[k]) */
KN_INLINE void row(float *restrict out, int width, const float *const *taps, const float weight[][BLOCK], const float *bias, int n)
{
    for (int i = 0; i < n; i++) {
        float sum = bias[i];
#pragma GCC unroll 8
        for (int k = 0; k < width; k++) sum += weight[k][i] * taps[k][i];
        out[i] = kn_siluf(sum);
    }
}

/* The state behind the first `rows` rows of a slice: the last inputs, of which a short slice brings only some. */
KN_INLINE void keep(const kn_conv_args *a, float window[][BLOCK], const float *in, int rows, int slot, int first, int n)
{
    const int old = a->width - 1;
    const size_t size = plp_dtype_size(a->state_dtype), column = (size_t)a->channels * size;
    char *target = (char *)a->state + (size_t)slot * (size_t)old * column + (size_t)first * size;
    for (int k = 0; k < old; k++) {
        const int from = rows - old + k;
        kn_narrow(target + (size_t)k * column, a->state_dtype, from < 0 ? window[old + from] : in + from * a->ld_in, n);
    }
}

/* One sequence's rows for channels [first, first + n), n <= BLOCK. */
KN_CLONES static void conv(const kn_conv_args *a, const kn_batch *b, int s, int first, int n)
{
    const int width = a->width, old = width - 1, rows = b->start[s + 1] - b->start[s];
    const size_t size = plp_dtype_size(a->state_dtype), column = (size_t)a->channels * size, slot = (size_t)old * column;
    const char *source = (const char *)a->state + (size_t)b->src_slot[s] * slot + (size_t)first * size;
    const float *in = (const float *)a->in + b->start[s] * a->ld_in + first;
    float *out = (float *)a->out + b->start[s] * a->ld_out + first;

    float window[MOST_WIDTH][BLOCK], weight[MOST_WIDTH][BLOCK], bias[BLOCK];
    for (int k = 0; k < old; k++) /* what came before the slice; before the sequence came zeros, and the slot may hold anything there */
        if (b->past[s] + k >= old)
            kn_widen(window[k], source + (size_t)k * column, a->state_dtype, n);
        else
            memset(window[k], 0, sizeof window[k]);
    for (int k = 0; k < width; k++)
        for (int i = 0; i < n; i++) weight[k][i] = a->weight[(first + i) * width + k];
    for (int i = 0; i < n; i++) bias[i] = a->bias ? a->bias[first + i] : 0;

    for (int t = 0; t < rows; t++) {
        const float *taps[MOST_WIDTH];
        for (int k = 0; k < width; k++) taps[k] = t + k < old ? window[t + k] : in + (t - old + k) * a->ld_in;
        if (width == 4)
            row(out + t * a->ld_out, 4, taps, weight, bias, n); /* every model so far */
        else
            row(out + t * a->ld_out, width, taps, weight, bias, n);
    }
    const int64_t every = s < b->decodes ? 0 : a->block;
    for (int64_t at = every ? b->past[s] / every + 1 : 0, snap = every ? a->snap_start[s] : 0; every && at * every <= b->past[s] + rows;
         at++) {
        const int to = a->snap_slot[snap++];
        if (to >= 0) keep(a, window, in, (int)(at * every - b->past[s]), to, first, n);
    }
    keep(a, window, in, rows, b->dst_slot[s], first, n);
}

plp_status kn_conv_cpu(kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    const int blocks = (a->channels + BLOCK - 1) / BLOCK;
    const int threads = kn_threads(c, 4.0 * b->tokens * a->channels * a->width);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int task = 0; task < b->seqs * blocks; task++) {
        const int s = task / blocks, first = task % blocks * BLOCK;
        conv(a, b, s, first, a->channels - first < BLOCK ? a->channels - first : BLOCK);
    }
    return PLP_OK;
}
