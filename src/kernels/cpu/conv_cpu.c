#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"

enum { MOST_WIDTH = 8, BLOCK = 256, LINE = 64 };

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

/* Weights of channels [first, first + n), n <= BLOCK, transposed: once for as many sequences as a thread has. */
typedef struct {
    float weight[MOST_WIDTH][BLOCK], bias[BLOCK];
} filter;

KN_INLINE void load(filter *f, const kn_conv_args *a, int first, int n)
{
    const float *weight = a->weight + first * a->width;
    if (a->width == 4)
        for (int i = 0; i < n; i++)
            for (int k = 0; k < 4; k++) f->weight[k][i] = weight[i * 4 + k];
    else
        for (int k = 0; k < a->width; k++)
            for (int i = 0; i < n; i++) f->weight[k][i] = weight[i * a->width + k];
    for (int i = 0; i < n; i++) f->bias[i] = a->bias ? a->bias[first + i] : 0;
}

/* Where the state of these channels begins in a slot; its rows are a->channels apart. */
KN_INLINE char *state_of(const kn_conv_args *a, int slot, int first)
{
    return (char *)a->state + ((int64_t)slot * (a->width - 1) * a->channels + first) * (int64_t)plp_dtype_size(a->state_dtype);
}

/* What came before a slice, as float32; before the sequence came zeros, and the slot may hold anything there. */
KN_INLINE void load_window(float window[][BLOCK], const kn_conv_args *a, const kn_batch *b, int s, int first, int n)
{
    const int old = a->width - 1;
    const char *source = state_of(a, b->src_slot[s], first);
    for (int k = 0; k < old; k++)
        if (b->past[s] + k >= old)
            kn_widen(window[k], source + (int64_t)k * a->channels * (int64_t)plp_dtype_size(a->state_dtype), a->state_dtype, n);
        else
            memset(window[k], 0, BLOCK * sizeof window[k][0]);
}

/* One row of a sequence whose state is float32, and the state behind it, in one pass; a row of zeros stands for what was before it. */
KN_INLINE void step(const kn_conv_args *a, const kn_batch *b, const filter *f, int s, int first, int n)
{
    static const float zeros[BLOCK];
    enum { WIDTH = 4, OLD = WIDTH - 1 };
    const float *source = (const float *)state_of(a, b->src_slot[s], first), *in = (const float *)a->in + b->start[s] * a->ld_in + first;
    const float *t0 = b->past[s] + 0 >= OLD ? source : zeros, *t1 = b->past[s] + 1 >= OLD ? source + a->channels : zeros,
                *t2 = b->past[s] + 2 >= OLD ? source + 2 * a->channels : zeros;
    float *target = (float *)state_of(a, b->dst_slot[s], first), *out = (float *)a->out + b->start[s] * a->ld_out + first;
    float *k0 = target, *k1 = target + a->channels, *k2 = target + 2 * a->channels;
#pragma omp simd
    for (int i = 0; i < n; i++) { /* target may be source: what is read is read before */
        const float v0 = t0[i], v1 = t1[i], v2 = t2[i], v3 = in[i];
        float sum = f->bias[i];
        sum += f->weight[0][i] * v0;
        sum += f->weight[1][i] * v1;
        sum += f->weight[2][i] * v2;
        sum += f->weight[3][i] * v3;
        out[i] = kn_siluf(sum);
        k0[i] = v1;
        k1[i] = v2;
        k2[i] = v3;
    }
}

/* One sequence's rows. */
KN_INLINE void slice(const kn_conv_args *a, const kn_batch *b, const filter *f, int s, int first, int n)
{
    const int width = a->width, old = width - 1, rows = b->start[s + 1] - b->start[s];
    const float *in = (const float *)a->in + b->start[s] * a->ld_in + first;
    float *out = (float *)a->out + b->start[s] * a->ld_out + first;

    float window[MOST_WIDTH][BLOCK];
    load_window(window, a, b, s, first, n);
    for (int t = 0; t < rows; t++) {
        const float *taps[MOST_WIDTH];
        for (int k = 0; k < width; k++) taps[k] = t + k < old ? window[t + k] : in + (t - old + k) * a->ld_in;
        if (width == 4)
            row(out + t * a->ld_out, 4, taps, f->weight, f->bias, n); /* every model so far */
        else
            row(out + t * a->ld_out, width, taps, f->weight, f->bias, n);
    }
    const int64_t every = s < b->decodes ? 0 : a->block;
    for (int64_t at = every ? b->past[s] / every + 1 : 0, snap = every ? a->snap_start[s] : 0; every && at * every <= b->past[s] + rows;
         at++) {
        const int to = a->snap_slot[snap++];
        if (to >= 0) keep(a, window, in, (int)(at * every - b->past[s]), to, first, n);
    }
    keep(a, window, in, rows, b->dst_slot[s], first, n);
}

/* A window is short pieces far apart: the processor sees no stream in them. */
KN_INLINE void fetch(const kn_conv_args *a, int slot, int first, int n)
{
    const char *row = state_of(a, slot, first);
    const int64_t size = (int64_t)plp_dtype_size(a->state_dtype);
    for (int k = 0; k < a->width - 1; k++, row += a->channels * size)
        for (int64_t at = 0; at < n * size; at += LINE) __builtin_prefetch(row + at);
}

/* Sequences [from, to) for channels [first, first + n). */
KN_CLONES static void conv(const kn_conv_args *a, const kn_batch *b, int from, int to, int first, int n)
{
    filter f;
    load(&f, a, first, n);
    for (int s = from; s < to; s++) {
        if (s + 1 < to) fetch(a, b->src_slot[s + 1], first, n);
        if (s < b->decodes && a->width == 4 && a->state_dtype == PLP_F32)
            step(a, b, &f, s, first, n);
        else
            slice(a, b, &f, s, first, n);
    }
}

plp_status kn_conv_cpu(kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    const int blocks = (a->channels + BLOCK - 1) / BLOCK;
    if (a->width > MOST_WIDTH) return PLP_FAIL(PLP_ERR_SHAPE, "conv width %d of %d at most; fix: use another model", a->width, MOST_WIDTH);
    const int threads = kn_threads(c, 4.0 * b->tokens * a->channels * a->width);
    const int part = (b->decodes + threads - 1) / threads, parts = part ? (b->decodes + part - 1) / part : 0; /* of decode rows */
    KN_EACH(c, threads, task, (parts + b->seqs - b->decodes) * blocks, {
        const int i = task / blocks, first = task % blocks * BLOCK, n = a->channels - first < BLOCK ? a->channels - first : BLOCK;
        const int from = i < parts ? i * part : b->decodes + i - parts, end = from + part < b->decodes ? from + part : b->decodes;
        conv(a, b, from, i < parts ? end : from + 1, first, n);
    });
    return PLP_OK;
}
