/* src/kernels/cuda/share_norm.cu -- kn->add_norm of many rows that the ranks share out: sums of the parts that all devices have written to this
 * one's memory, and the normed rows written to theirs.  A block a row, which stays in registers between the sum and the scaling. */
#include "kernels/cuda/common.cuh"

namespace
{

constexpr int KEEP = 4, V = 4, MOST = 1024; /* packs of V values of a row that a thread has; threads */

template <class D, class O> __global__ void __launch_bounds__(MOST) share_norm_kernel(const __grid_constant__ kn_add_norm_args a)
{
    __shared__ float shared[32];
    kn_early_begin();
    const int64_t t = blockIdx.x;
    const int step = blockDim.x * V, first = threadIdx.x * V;
    const D *delta = (const D *)a.delta + t * a.ld_delta;
    float *row = a.residual + t * a.hidden, keep[KEEP][V], add[KEEP][V] = {}, squares = 0.f, sum = 0.f;
#pragma unroll
    for (int k = 0; k < KEEP; k++)
        if (first + k * step < a.hidden) kn_load<V>(row + first + k * step, keep[k]);
#pragma unroll 2
    for (int p = 0; p == 0 || p < a.parts; p++) { /* every pack's loads before the first sum: the parts take one way to memory each */
        float part[KEEP][V] = {};
#pragma unroll
        for (int k = 0; k < KEEP; k++)
            if (first + k * step < a.hidden) kn_load<V>(delta + p * a.ld_parts + first + k * step, part[k]);
#pragma unroll
        for (int k = 0; k < KEEP; k++)
#pragma unroll
            for (int j = 0; j < V; j++) add[k][j] += part[k][j];
        if (a.sumsq != NULL) squares += a.sumsq[p * a.ld_sumsq_parts + t * a.ld_sumsq];
    }
    const float scale = a.sumsq != NULL ? rsqrtf(squares / (float)a.sumsq_width + (float)a.sumsq_eps) : 1.f;
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
        const int i = first + k * step;
        if (i >= a.hidden) continue;
#pragma unroll
        for (int j = 0; j < V; j++) {
            keep[k][j] += scale * add[k][j];
            if (a.bias != NULL) keep[k][j] += a.bias[i + j];
            sum += keep[k][j] * keep[k][j];
        }
        kn_store<V>(row + i, keep[k]);
        for (int c = 0; c < a.copies; c++)
            if (a.residual_copy[c] != NULL) kn_store<V>((float *)a.residual_copy[c] + t * a.hidden + i, keep[k]);
    }
    if (a.out == NULL) return;
    const float rstd = rsqrtf(kn_block_sum(sum, shared) / (float)a.hidden + (float)a.eps);
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
        const int i = first + k * step;
        if (i >= a.hidden) continue;
        float w[V];
        kn_load<V>(a.weight + i, w);
#pragma unroll
        for (int j = 0; j < V; j++) keep[k][j] *= rstd * w[j];
        kn_store<V>((O *)a.out + t * a.hidden + i, keep[k]);
        for (int c = 0; c < a.copies; c++) kn_store<V>((O *)a.copy[c] + t * a.hidden + i, keep[k]);
    }
}

} // namespace

bool kn_shares_cuda(const kn_add_norm_args *a)
{
    const size_t bytes = V * plp_dtype_size(a->delta_dtype);
    return a->hidden % V == 0 && a->hidden <= KEEP * V * MOST && kn_aligned(a->residual, a->hidden, PLP_F32, 16) &&
           kn_aligned(a->delta, a->ld_delta, a->delta_dtype, bytes) && kn_aligned(a->delta, a->ld_parts, a->delta_dtype, bytes);
}

plp_status kn_share_norm_cuda(kn_context *c, const kn_add_norm_args *a)
{
    const int threads = (int)kn_ceil(kn_ceil(a->hidden, V * KEEP), 32) * 32;
    if (a->exchange != NULL || a->map != NULL || !kn_shares_cuda(a)) return PLP_FAIL(PLP_ERR_INTERNAL, "add_norm of %d parts of %d columns", a->parts, a->hidden);
    kn_by_type(a->delta_dtype, [&](auto d) {
        kn_by_type(c->options.act, [&](auto o) { kn_early_launch(c, share_norm_kernel<decltype(d), decltype(o)>, a->tokens, threads, *a); });
    });
    return KN_LAUNCHED();
}
