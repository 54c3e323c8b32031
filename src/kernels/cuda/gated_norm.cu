/* src/kernels/cuda/gated_norm.cu -- kn->gated_norm: one block a row and norm group; v stays in registers between sum and scaling. */
#include "kernels/cuda/common.cuh"

namespace
{

constexpr int KEEP = 4; /* packs of v that a thread keeps in registers */

/* v = y silu(z), of packs that were loaded */
template <class T, int V> __device__ __forceinline__ void gate(const kn_pack<T, V> &y, const kn_pack<T, V> &z, float (&v)[V])
{
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = kn_float(y.v[j]) * kn_silu(kn_float(z.v[j]));
}

/* Channels from .. to of one row, by packs of V.  Where out is y, a thread alone touches its packs, and writes them last. */
template <class T, int V>
__device__ __forceinline__ void norm_group(const kn_gated_norm_args &a, int64_t t, int g, int from, int to, float *shared)
{
    typedef kn_pack<T, V> pack;
    const T *y = (const T *)a.y + t * a.ld_y, *z = (const T *)a.z + t * a.ld_z;
    T *out = (T *)a.out + t * a.ld_out;
    const int step = blockDim.x * V, first = from + threadIdx.x * V;
    pack ys[KEEP], zs[KEEP];
    float keep[KEEP][V], sum = 0.f;
#pragma unroll
    for (int k = 0; k < KEEP; k++) { /* all loads before the first use */
        const bool inside = first + k * step < to;
        ys[k] = inside ? *(const pack *)(y + first + k * step) : pack();
        zs[k] = inside ? *(const pack *)(z + first + k * step) : pack();
    }
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
        gate(ys[k], zs[k], keep[k]);
#pragma unroll
        for (int j = 0; j < V; j++) sum += keep[k][j] * keep[k][j];
    }
    if (a.mode != KN_NORM_NONE && a.mode != KN_NORM_APPLY)
        for (int i = first + KEEP * step; i < to; i += step) {
            float v[V];
            gate(*(const pack *)(y + i), *(const pack *)(z + i), v);
#pragma unroll
            for (int j = 0; j < V; j++) sum += v[j] * v[j];
        }
    float scale = 1.f;
    if (a.mode == KN_NORM_APPLY)
        sum = a.sums[t * a.ld_sums + g];
    else if (a.mode != KN_NORM_NONE)
        sum = kn_block_sum(sum, shared);
    if (a.mode == KN_NORM_LOCAL || a.mode == KN_NORM_APPLY) scale = rsqrtf(sum / (float)a.width + (float)a.eps);
    if ((a.mode == KN_NORM_SUMS || a.mode == KN_NORM_FOLD) && threadIdx.x == 0) a.sums[t * a.ld_sums + g] = sum;
    if (a.mode == KN_NORM_SUMS) return;
    const auto finish = [&](int i, float(&v)[V]) {
        if (a.mode != KN_NORM_NONE)
#pragma unroll
            for (int j = 0; j < V; j++) v[j] *= scale * a.weight[i + j];
        kn_store<V>(out + i, v);
    };
#pragma unroll
    for (int k = 0; k < KEEP; k++)
        if (first + k * step < to) finish(first + k * step, keep[k]);
    for (int i = first + KEEP * step; i < to; i += step) {
        float v[V];
        gate(*(const pack *)(y + i), *(const pack *)(z + i), v);
        finish(i, v);
    }
}

/* FOLD has one group and NONE none: both take the whole row.  Group bounds need not be multiples of a pack. */
template <class T, int V> __global__ void gated_norm_kernel(kn_gated_norm_args a)
{
    __shared__ float shared[32];
    kn_early_begin();
    const bool whole = a.mode == KN_NORM_FOLD || a.mode == KN_NORM_NONE;
    const int g = blockIdx.y, from = whole ? 0 : a.first[g], to = whole ? a.channels : a.first[g + 1];
    if ((from | to) % V == 0)
        norm_group<T, V>(a, blockIdx.x, g, from, to, shared);
    else
        norm_group<T, 1>(a, blockIdx.x, g, from, to, shared);
}

} // namespace

plp_status kn_gated_norm_cuda(kn_context *c, const kn_gated_norm_args *a)
{
    const bool whole = a->mode == KN_NORM_FOLD || a->mode == KN_NORM_NONE;
    const int groups = whole ? 1 : a->groups;
    if (a->tokens == 0 || groups == 0) return PLP_OK;
    const plp_dtype act = c->options.act;
    const bool wide = kn_aligned(a->y, a->ld_y, act, 16) && kn_aligned(a->z, a->ld_z, act, 16) &&
                      (a->mode == KN_NORM_SUMS || kn_aligned(a->out, a->ld_out, act, 16));
    const int64_t width = whole || a->width > a->channels ? a->channels : (int64_t)a->width; /* a part of a group is narrower */
    const int64_t pack = wide ? 16 / (int64_t)plp_dtype_size(act) : 1, wanted = kn_ceil(kn_ceil(width, pack * KEEP), 32) * 32;
    const dim3 grid(a->tokens, groups);
    const int threads = wanted > 512 ? 512 : wanted < 32 ? 32 : (int)wanted;
    kn_by_type(act, [&](auto t) {
        using T = decltype(t);
        if (wide)
            kn_early_launch(c, gated_norm_kernel<T, 16 / sizeof(T)>, grid, threads, *a);
        else
            kn_early_launch(c, gated_norm_kernel<T, 1>, grid, threads, *a);
    });
    return KN_LAUNCHED();
}
