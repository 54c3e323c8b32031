/* src/kernels/cuda/conv.cu -- kn->conv: depthwise causal convolution and SiLU over a ragged batch.
 *
 * A thread owns V neighbouring channels and walks down a few rows, with the last width - 1 inputs in registers.  Decode rows keep their
 * state in the same thread; the states of prefill slices are written by a second launch, when every block has read the old ones.
 * kn->ssd_conv takes the two apart: channels of x are then convolved in between (ssd_hopper.cu, in the same arithmetic). */
#include "kernels/cuda/conv_step.cuh"

namespace
{

constexpr int THREADS = 128, RUN = 32; /* rows of a prefill block */

/* The inputs before row `t` of sequence s, oldest first: rows of the slice, before those the state, before that zeros.
 * W is the window, of which the last width - 1 entries are used. */
template <class T, class S, int V, int W>
__device__ __forceinline__ void window(const kn_conv_args &a, const kn_batch &b, int s, int64_t t, int ch, float (&win)[W - 1][V])
{
    const int64_t row0 = b.start[s], past = b.past[s];
    const int keep = a.width - 1;
    const int64_t slot = past > 0 ? b.src_slot[s] : 0;
#pragma unroll
    for (int k = 0; k < W - 1; k++) {
        const int back = W - 1 - k; /* this entry is row t - back */
#pragma unroll
        for (int j = 0; j < V; j++) win[k][j] = 0.f;
        if (back > keep) continue;
        if (t - back >= row0)
            kn_load<V>((const T *)a.in + (t - back) * a.ld_in + ch, win[k]);
        else if (row0 - (t - back) <= past) /* the state's last entry is row0 - 1 */
            kn_load<V>((const S *)a.state + (slot * keep + keep - (row0 - (t - back))) * a.channels + ch, win[k]);
    }
}
template <class S, int V, int W>
__device__ __forceinline__ void keep_window(const kn_conv_args &a, int64_t slot, int ch, const float (&win)[W - 1][V])
{
#pragma unroll
    for (int k = 0; k < W - 1; k++)
        if (k >= W - a.width) kn_store<V>((S *)a.state + (slot * (a.width - 1) + k - (W - a.width)) * a.channels + ch, win[k]);
}

/* EXACT: the width is W; otherwise it is at most W.  AHEAD: rows whose loads are in flight together.  Prefill rows: from channel `from`
 * on. */
template <class T, class S, int V, int W, bool EXACT, int AHEAD>
__global__ void __launch_bounds__(THREADS) conv_kernel(kn_conv_args a, kn_batch b, int from)
{
    const int all = (a.channels + THREADS * V - 1) / (THREADS * V), skip = EXACT ? 0 : W - a.width;
    const bool decode = blockIdx.x < b.decodes * all;
    const int columns = decode ? all : (a.channels - from + THREADS * V - 1) / (THREADS * V);
    const int block = decode ? blockIdx.x : blockIdx.x - b.decodes * all; /* neighbours share rows, so pages */
    const int run = decode ? block / columns : b.decodes + block / columns;
    const int ch = (decode ? 0 : from) + (block % columns * THREADS + threadIdx.x) * V;
    if (ch >= a.channels) return;
    const int64_t first = decode ? run : b.decodes + (int64_t)(run - b.decodes) * RUN;
    const int64_t last = decode ? first + 1 : first + RUN < b.tokens ? first + RUN : b.tokens;

    float weight[V][W], bias[V], win[W - 1][V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        bias[j] = a.bias != NULL ? a.bias[ch + j] : 0.f;
        if (EXACT)
            kn_load<W>(a.weight + (int64_t)(ch + j) * W, weight[j]);
        else
#pragma unroll
            for (int k = 0; k < W; k++) weight[j][k] = k >= skip ? a.weight[(int64_t)(ch + j) * a.width + k - skip] : 0.f;
    }
    const auto advance = [&](const kn_pack<T, V> &in, int64_t t) {
        float out[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float now = kn_float(in.v[j]);
            float sum = bias[j];
#pragma unroll
            for (int k = 0; k < W - 1; k++)
                if (k >= skip) sum += weight[j][k] * win[k][j];
            out[j] = kn_silu(sum + weight[j][W - 1] * now);
#pragma unroll
            for (int k = 0; k + 1 < W - 1; k++) win[k][j] = win[k + 1][j];
            win[W - 2][j] = now;
        }
        kn_store<V>((T *)a.out + t * a.ld_out + ch, out);
    };
    const auto row = [&](int64_t t) { return *(const kn_pack<T, V> *)((const T *)a.in + t * a.ld_in + ch); };

    int s = decode ? (int)first : kn_sequence_of(b.start, b.decodes, b.seqs, (int)first);
    for (int64_t t = first; t < last; s++) { /* what each sequence has of these rows */
        const int64_t end = b.start[s + 1] < last ? b.start[s + 1] : last;
        if (t < end) window<T, S, V, W>(a, b, s, t, ch, win);
        for (; t + AHEAD <= end; t += AHEAD) {
            kn_pack<T, V> ahead[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) ahead[i] = row(t + i);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) advance(ahead[i], t + i);
        }
        for (; t < end; t++) advance(row(t), t);
    }
    if (decode) keep_window<S, V, W>(a, b.dst_slot[(int)first], ch, win);
}

/* The new states of prefill slices: one thread reads all of its channels' columns, then writes them. */
template <class T, class S, int V, int W> __global__ void __launch_bounds__(THREADS) conv_state_kernel(kn_conv_args a, kn_batch b)
{
    const int ch = (blockIdx.y * THREADS + threadIdx.x) * V, s = b.decodes + blockIdx.x;
    if (ch >= a.channels || b.start[s + 1] == b.start[s]) return;
    float win[W - 1][V];
    window<T, S, V, W>(a, b, s, b.start[s + 1], ch, win);
    keep_window<S, V, W>(a, b.dst_slot[s], ch, win);
}

/* States inside slices: they are few, so that they travel as arguments of the launch. */
constexpr int SNAPS = 256;
struct snaps {
    int count, seq[SNAPS], row[SNAPS], slot[SNAPS];
};
template <class T, class S, int V, int W> __global__ void __launch_bounds__(THREADS) conv_snap_kernel(kn_conv_args a, kn_batch b, snaps list)
{
    const int ch = (blockIdx.y * THREADS + threadIdx.x) * V, i = blockIdx.x;
    if (ch >= a.channels) return;
    float win[W - 1][V];
    window<T, S, V, W>(a, b, list.seq[i], list.row[i], ch, win);
    keep_window<S, V, W>(a, list.slot[i], ch, win);
}

template <class T, class S, int V, int W> void launch_snaps(kn_context *c, const kn_conv_args *a, const kn_batch *b, int columns)
{
    snaps list = {};
    for (int s = b->decodes; a->block > 0 && s < b->seqs; s++) {
        const int64_t past = b->host_past[s], end = past + b->host_start[s + 1] - b->host_start[s];
        const int *slot = a->snap_slot + a->snap_start[s];
        for (int64_t at = past / a->block + 1; at * a->block <= end; at++, slot++) {
            if (*slot < 0) continue;
            list.seq[list.count] = s, list.slot[list.count] = *slot;
            list.row[list.count++] = b->host_start[s] + (int)(at * a->block - past);
            if (list.count < SNAPS) continue;
            conv_snap_kernel<T, S, V, W><<<dim3(list.count, columns), THREADS, 0, c->stream>>>(*a, *b, list);
            list.count = 0;
        }
    }
    if (list.count > 0) conv_snap_kernel<T, S, V, W><<<dim3(list.count, columns), THREADS, 0, c->stream>>>(*a, *b, list);
}

/* What one call's kernels are made for. */
template <class T_, class S_, int V_, int W_, bool EXACT_> struct form {
    using T = T_;
    using S = S_;
    static constexpr int V = V_, W = W_;
    static constexpr bool EXACT = EXACT_;
};
template <class F> void rows(F, kn_context *c, const kn_conv_args *a, const kn_batch *b, int from)
{
    const int runs = (int)kn_ceil(b->tokens - b->decodes, RUN), unit = THREADS * F::V;
    const int blocks = b->decodes * (int)kn_ceil(a->channels, unit) + runs * (int)kn_ceil(a->channels - from, unit);
    if (blocks == 0) return;
    conv_kernel<typename F::T, typename F::S, F::V, F::W, F::EXACT, F::EXACT ? 8 : 1><<<blocks, THREADS, 0, c->stream>>>(*a, *b, from);
}
template <class F> void states(F, kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    const int columns = (int)kn_ceil(a->channels, THREADS * F::V);
    launch_snaps<typename F::T, typename F::S, F::V, F::W>(c, a, b, columns); /* before the old states are gone */
    if (b->tokens == b->decodes) return;
    const dim3 grid(b->seqs - b->decodes, columns);
    conv_state_kernel<typename F::T, typename F::S, F::V, F::W><<<grid, THREADS, 0, c->stream>>>(*a, *b);
}

/* Calls f with the form for these arguments. */
template <class F> void by_form(const kn_context *c, const kn_conv_args *a, F f)
{
    const plp_dtype act = c->options.act;
    kn_by_type(act, [&](auto t) {
        kn_by_type(a->state_dtype, [&](auto s) {
            using T = decltype(t);
            using S = decltype(s);
            constexpr int V = 4; /* more would leave too few registers for rows in flight */
            const bool wide = a->width == 4 && a->channels % V == 0 && kn_aligned(a->in, a->ld_in, act, V * sizeof(T)) &&
                              kn_aligned(a->out, a->ld_out, act, V * sizeof(T)) &&
                              kn_aligned(a->state, a->channels, a->state_dtype, V * sizeof(S)) && (uintptr_t)a->weight % 16 == 0;
            if (wide)
                f(form<T, S, V, 4, true>());
            else
                f(form<T, S, 1, 8, false>());
        });
    });
}

} // namespace

plp_status kn_conv_rows_cuda(kn_context *c, const kn_conv_args *a, const kn_batch *b, int from)
{
    by_form(c, a, [&](auto f) { rows(f, c, a, b, from); });
    return KN_LAUNCHED();
}

plp_status kn_conv_states_cuda(kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    by_form(c, a, [&](auto f) { states(f, c, a, b); });
    return KN_LAUNCHED();
}

plp_status kn_conv_cuda(kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    if (b->tokens == 0 || a->channels == 0) return PLP_OK;
    if (a->width < 2 || a->width > 8) return PLP_FAIL(PLP_ERR_SHAPE, "conv width %d of 2..8; fix: use another model", a->width);
    if (kn_conv_step_takes(c, a, b)) return kn_conv_step_run(c, a, b);
    PLP_TRY(kn_conv_rows_cuda(c, a, b, 0));
    return kn_conv_states_cuda(c, a, b);
}
