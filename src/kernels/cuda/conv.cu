/* src/kernels/cuda/conv.cu -- kn->conv: depthwise causal convolution and SiLU over a ragged batch.
 *
 * A thread owns V neighbouring channels and walks down a few rows, with the last width - 1 inputs in registers.  Decode rows keep their
 * state in the same thread; the states of prefill slices are written by a second launch, when every block has read the old ones. */
#include "kernels/cuda/common.cuh"

namespace {

constexpr int THREADS = 128, RUN = 16; /* rows of a prefill block */

/* The inputs before row `t` of sequence s, oldest first: rows of the slice, before those the state, before that zeros.
 * W is the window, of which the last width - 1 entries are used. */
template <class T, int V, int W>
__device__ __forceinline__ void window(const kn_conv_args &a, const kn_batch &b, int s, int64_t t, int ch, float (&win)[W - 1][V])
{
    const int64_t row0 = b.start[s], past = b.past[s];
    const int keep = a.width - 1;
    const int64_t slot = past > 0 ? b.src_slot[s] : 0;
#pragma unroll
    for (int k = 0; k < W - 1; k++) {
        const int back = W - 1 - k; /* this entry is row t - back */
        if (back > keep) continue;
        if (t - back >= row0) kn_load<V>((const T *)a.in + (t - back) * a.ld_in + ch, win[k]);
        else {
            const int64_t column = keep - (row0 - (t - back)); /* of the state, whose last entry is row0 - 1 */
            const bool known = row0 - (t - back) <= past;
            const int64_t at = (slot * keep + column) * a.channels + ch;
#pragma unroll
            for (int j = 0; j < V; j++) win[k][j] = known ? kn_load_any(a.state, a.state_dtype, at + j) : 0.f;
        }
    }
}

template <class T, int V, int W> __global__ void __launch_bounds__(THREADS) conv_kernel(kn_conv_args a, kn_batch b)
{
    const int ch = (blockIdx.y * THREADS + threadIdx.x) * V, skip = W - a.width;
    if (ch >= a.channels) return;
    const bool decode = (int)blockIdx.x < b.decodes;
    const int64_t first = decode ? blockIdx.x : b.decodes + (int64_t)(blockIdx.x - b.decodes) * RUN;
    const int64_t last = decode ? first + 1 : first + RUN < b.tokens ? first + RUN : b.tokens;

    float weight[W][V], bias[V], win[W - 1][V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        bias[j] = a.bias != NULL ? a.bias[ch + j] : 0.f;
#pragma unroll
        for (int k = 0; k < W; k++) weight[k][j] = k >= skip ? a.weight[(int64_t)(ch + j) * a.width + k - skip] : 0.f;
    }
    int s = decode ? (int)first : kn_sequence_of(b.start, b.decodes, b.seqs, (int)first);
    int64_t end = b.start[s + 1];
    window<T, V, W>(a, b, s, first, ch, win);
    for (int64_t t = first; t < last; t++) {
        if (t >= end) {
            do end = b.start[++s + 1];
            while (t >= end);
            window<T, V, W>(a, b, s, t, ch, win);
        }
        float now[V], out[V];
        kn_load<V>((const T *)a.in + t * a.ld_in + ch, now);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float sum = bias[j];
#pragma unroll
            for (int k = 0; k < W - 1; k++)
                if (k >= skip) sum += weight[k][j] * win[k][j];
            out[j] = kn_silu(sum + weight[W - 1][j] * now[j]);
        }
        kn_store<V>((T *)a.out + t * a.ld_out + ch, out);
#pragma unroll
        for (int k = 0; k < W - 1; k++)
#pragma unroll
            for (int j = 0; j < V; j++) win[k][j] = k + 1 < W - 1 ? win[k + 1 < W - 1 ? k + 1 : k][j] : now[j];
    }
    if (!decode) return;
    const int64_t slot = b.dst_slot[s];
#pragma unroll
    for (int k = 0; k < W - 1; k++)
        if (k >= skip)
#pragma unroll
            for (int j = 0; j < V; j++) kn_store_any(a.state, a.state_dtype, (slot * (a.width - 1) + k - skip) * a.channels + ch + j, win[k][j]);
}

/* The new states of prefill slices: one thread reads all of its channel's columns, then writes them. */
template <class T, int W> __global__ void __launch_bounds__(THREADS) conv_state_kernel(kn_conv_args a, kn_batch b)
{
    const int ch = blockIdx.y * THREADS + threadIdx.x, s = b.decodes + blockIdx.x, keep = a.width - 1;
    if (ch >= a.channels || b.start[s + 1] == b.start[s]) return;
    float win[W - 1][1];
    window<T, 1, W>(a, b, s, b.start[s + 1], ch, win);
    const int64_t slot = b.dst_slot[s];
#pragma unroll
    for (int k = 0; k < W - 1; k++)
        if (k >= W - a.width) kn_store_any(a.state, a.state_dtype, (slot * keep + k - (W - a.width)) * a.channels + ch, win[k][0]);
}

template <class T, int V, int W> void launch(kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    const int runs = (int)kn_ceil(b->tokens - b->decodes, RUN), prefills = b->seqs - b->decodes;
    const int columns = (int)kn_ceil(kn_ceil(a->channels, V), THREADS);
    conv_kernel<T, V, W><<<dim3(b->decodes + runs, columns), THREADS, 0, c->stream>>>(*a, *b);
    if (runs > 0) conv_state_kernel<T, W><<<dim3(prefills, (int)kn_ceil(a->channels, THREADS)), THREADS, 0, c->stream>>>(*a, *b);
}

} // namespace

plp_status kn_conv_cuda(kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    if (b->tokens == 0 || a->channels == 0) return PLP_OK;
    if (a->width < 2 || a->width > 8) return PLP_FAIL(PLP_ERR_SHAPE, "conv width %d of 2..8; fix: use another model", a->width);
    const plp_dtype act = c->options.act;
    const bool wide = a->channels % (16 / (int)plp_dtype_size(act)) == 0 && kn_aligned(a->in, a->ld_in, act, 16) && kn_aligned(a->out, a->ld_out, act, 16);
    kn_by_type(act, [&](auto t) {
        using T = decltype(t);
        constexpr int V = 16 / sizeof(T);
        if (wide && a->width <= 4) launch<T, V, 4>(c, a, b);
        else if (wide) launch<T, V, 8>(c, a, b);
        else launch<T, 1, 8>(c, a, b);
    });
    return KN_LAUNCHED();
}
