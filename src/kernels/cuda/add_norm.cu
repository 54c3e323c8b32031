/* src/kernels/cuda/add_norm.cu -- kn->add_norm: one block a row; the row stays in registers between the sum and the scaling. */
#include "kernels/cuda/common.cuh"

namespace
{

constexpr int KEEP = 4; /* packs of 4 floats a thread keeps: rows up to 16 * threads are read once */

/* One pack of row t of the residual after the addition of row `from` of delta, which is also written back. */
template <class D, int V>
__device__ __forceinline__ void add(const kn_add_norm_args &a, int64_t t, int64_t from, int i, float scale, float (&r)[V])
{
    float *row = a.residual + t * a.hidden + i;
    kn_load<V>(row, r);
    if (a.delta == NULL) return;
    float d[V];
    kn_load<V>((const D *)a.delta + from * a.ld_delta + i, d);
#pragma unroll
    for (int j = 0; j < V; j++) r[j] += scale * d[j];
    if (a.bias != NULL)
#pragma unroll
        for (int j = 0; j < V; j++) r[j] += a.bias[i + j];
    kn_store<V>(row, r);
}

/* Block b: row map[b] of the residual, row b of out. */
template <class D, class O, int V> __global__ void add_norm_kernel(kn_add_norm_args a)
{
    __shared__ float shared[32];
    kn_early_begin();
    const int64_t t = a.map != NULL ? a.map[blockIdx.x] : blockIdx.x, from = a.picked ? blockIdx.x : t;
    const int step = blockDim.x * V, first = threadIdx.x * V;
    const float scale = a.sumsq != NULL ? rsqrtf(a.sumsq[from * a.ld_sumsq] / (float)a.sumsq_width + (float)a.sumsq_eps) : 1.f;
    float keep[KEEP][V], sum = 0.f;
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
        const int i = first + k * step;
        if (i >= a.hidden) continue;
        add<D, V>(a, t, from, i, scale, keep[k]);
#pragma unroll
        for (int j = 0; j < V; j++) sum += keep[k][j] * keep[k][j];
    }
    for (int i = first + KEEP * step; i < a.hidden; i += step) {
        float r[V];
        add<D, V>(a, t, from, i, scale, r);
#pragma unroll
        for (int j = 0; j < V; j++) sum += r[j] * r[j];
    }
    if (a.out == NULL) return;
    const float rstd = rsqrtf(kn_block_sum(sum, shared) / (float)a.hidden + (float)a.eps);
    O *out = (O *)a.out + (int64_t)blockIdx.x * a.hidden;
    const auto finish = [&](int i, float(&r)[V]) {
        float w[V];
        kn_load<V>(a.weight + i, w);
#pragma unroll
        for (int j = 0; j < V; j++) r[j] *= rstd * w[j];
        kn_store<V>(out + i, r);
    };
#pragma unroll
    for (int k = 0; k < KEEP; k++)
        if (first + k * step < a.hidden) finish(first + k * step, keep[k]);
    for (int i = first + KEEP * step; i < a.hidden; i += step) {
        float r[V];
        kn_load<V>(a.residual + t * a.hidden + i, r); /* this thread wrote it */
        finish(i, r);
    }
}

plp_status launch(kn_context *c, const kn_add_norm_args *a, int rows)
{
    if (a->delta != NULL && a->exchange != NULL) return kn_sum_norm_cuda(c, a);
    if (a->delta != NULL && (a->parts > 1 || a->copies > 0)) return kn_share_norm_cuda(c, a);
    const bool wide = a->hidden % 4 == 0 && kn_aligned(a->residual, a->hidden, PLP_F32, 16) && (uintptr_t)a->weight % 16 == 0 &&
                      (a->delta == NULL || kn_aligned(a->delta, a->ld_delta, a->delta_dtype, 4 * plp_dtype_size(a->delta_dtype))) &&
                      (a->out == NULL || kn_aligned(a->out, a->hidden, c->options.act, 4 * plp_dtype_size(c->options.act)));
    const int64_t packs = kn_ceil(a->hidden, wide ? 4 : 1), wanted = kn_ceil(kn_ceil(packs, KEEP), 32) * 32;
    const int threads = wanted > 1024 ? 1024 : (int)wanted;
    kn_by_type(a->delta != NULL ? a->delta_dtype : PLP_F32, [&](auto d) {
        kn_by_type(c->options.act, [&](auto o) {
            if (wide)
                kn_early_launch(c, add_norm_kernel<decltype(d), decltype(o), 4>, rows, threads, *a);
            else
                kn_early_launch(c, add_norm_kernel<decltype(d), decltype(o), 1>, rows, threads, *a);
        });
    });
    return KN_LAUNCHED();
}

} // namespace

plp_status kn_add_norm_cuda(kn_context *c, const kn_add_norm_args *a)
{
    if (a->picked) return a->outs > 0 ? launch(c, a, a->outs) : PLP_OK;
    if (a->map == NULL || a->out == NULL) {
        kn_add_norm_args all = *a;
        all.map = NULL;
        return a->tokens > 0 ? launch(c, &all, a->tokens) : PLP_OK;
    }
    kn_add_norm_args sum = *a, norm = *a; /* the rows of out are others than those that are added to: two passes */
    sum.out = NULL;
    sum.map = NULL;
    norm.delta = NULL;
    norm.sumsq = NULL;
    if (a->tokens > 0 && a->delta != NULL) PLP_TRY(launch(c, &sum, a->tokens));
    return a->outs > 0 ? launch(c, &norm, a->outs) : PLP_OK;
}
