/* src/kernels/cuda/conv_step.cu -- kn->conv for batches of decode rows alone, width 4.
 *
 * A thread owns 4 neighbouring channels of ROWS rows: their weights are as many bytes as a row's inputs, old and new state, so that they are
 * fetched once for all, and everything is under way before the first is used.  The same arithmetic as in conv.cu. */
#include "kernels/cuda/conv_step.cuh"

namespace
{

constexpr int THREADS = 128, ROWS = 4, V = 4, WIDTH = 4, KEEP = WIDTH - 1;

struct step_args {
    kn_conv_args conv;
    const int *src_slot, *dst_slot;
    const int64_t *past;
    int rows;
};

template <class T, class S> __global__ void __launch_bounds__(THREADS) conv_step_kernel(step_args a)
{
    typedef kn_pack<S, V> column;
    const kn_conv_args &c = a.conv;
    const int ch = (blockIdx.x * THREADS + threadIdx.x) * V, row0 = blockIdx.y * ROWS;
    kn_early_begin();
    if (ch >= c.channels) return;
    kn_pack<T, V> now[ROWS];
    column old[ROWS][KEEP];
    int64_t dst[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int t = row0 + r < a.rows ? row0 + r : a.rows - 1; /* the last row again: its threads write nothing */
        const int64_t past = a.past[t], src = a.src_slot[t];
        dst[r] = a.dst_slot[t];
        now[r] = *(const kn_pack<T, V> *)((const T *)c.in + t * c.ld_in + ch);
#pragma unroll
        for (int k = 0; k < KEEP; k++) /* column k is KEEP - k rows back */
            old[r][k] = KEEP - k <= past ? *(const column *)((const S *)c.state + (src * KEEP + k) * c.channels + ch) : column();
    }
    float weight[V][WIDTH], bias[V] = {};
#pragma unroll
    for (int j = 0; j < V; j++) kn_load<WIDTH>(c.weight + (int64_t)(ch + j) * WIDTH, weight[j]);
    if (c.bias != NULL) kn_load<V>(c.bias + ch, bias);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (row0 + r >= a.rows) return;
        float out[V], in[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            in[j] = kn_float(now[r].v[j]);
            float sum = bias[j];
#pragma unroll
            for (int k = 0; k < KEEP; k++) sum += weight[j][k] * kn_float(old[r][k].v[j]);
            out[j] = kn_silu(sum + weight[j][KEEP] * in[j]);
        }
        kn_store<V>((T *)c.out + (row0 + r) * c.ld_out + ch, out);
        S *to = (S *)c.state + dst[r] * KEEP * c.channels + ch;
#pragma unroll
        for (int k = 0; k + 1 < KEEP; k++) *(column *)(to + (int64_t)k * c.channels) = old[r][k + 1];
        kn_store<V>(to + (int64_t)(KEEP - 1) * c.channels, in);
    }
}

} // namespace

bool kn_conv_step_takes(const kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    const plp_dtype act = c->options.act;
    return b->tokens == b->decodes && b->tokens <= 65535 && a->width == WIDTH && a->channels % V == 0 &&
           kn_aligned(a->in, a->ld_in, act, V * plp_dtype_size(act)) && kn_aligned(a->out, a->ld_out, act, V * plp_dtype_size(act)) &&
           kn_aligned(a->state, a->channels, a->state_dtype, V * plp_dtype_size(a->state_dtype)) && (uintptr_t)a->weight % 16 == 0 &&
           (uintptr_t)a->bias % 16 == 0;
}

plp_status kn_conv_step_run(kn_context *c, const kn_conv_args *a, const kn_batch *b)
{
    const step_args s = { *a, b->src_slot, b->dst_slot, b->past, b->tokens };
    const dim3 grid((unsigned)kn_ceil(a->channels, THREADS * V), (unsigned)kn_ceil(b->tokens, ROWS));
    kn_by_type(c->options.act, [&](auto t) {
        kn_by_type(a->state_dtype, [&](auto state) { kn_early_launch(c, conv_step_kernel<decltype(t), decltype(state)>, grid, THREADS, s); });
    });
    return KN_LAUNCHED();
}
