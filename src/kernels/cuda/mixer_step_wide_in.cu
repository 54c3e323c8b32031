/* src/kernels/cuda/mixer_step_wide_in.cu -- in_proj of 9 to 64 decode rows, with what mixer_step_in.cu does to each of its bands, and the
 * RMSNorm before it.
 *
 * The norm is a small kernel of its own: it leaves bf16(residual * weight) and the scale, which multiplies the float32 sums. */
#include "kernels/cuda/mixer_step_wide.cuh"

namespace {

enum { LATE = 12 /* stages before the end */, NORM_THREADS = 256, PITCH = 64 + 8 /* of a warpgroup's channels in shared memory: no bank conflicts */ };

struct norm_args {
    const float *residual, *weight;
    wide_work to;
    int hidden;
    float eps;
};
__global__ void __launch_bounds__(NORM_THREADS) wide_norm_kernel(const __grid_constant__ norm_args a)
{
#if STEP_CODE
    __shared__ float shared[32];
    const int n = blockIdx.x;
    float sum = 0;
    dependents_start();
    dependency_wait();
    if (n == 0)
        for (int i = threadIdx.x; i < WIDE_TILES; i += NORM_THREADS) a.to.ended[i] = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < a.hidden / 4; i += NORM_THREADS) {
        const float4 r = __ldcg((const float4 *)(a.residual + (size_t)n * a.hidden) + i), w = __ldg((const float4 *)a.weight + i);
        sum += r.x * r.x + r.y * r.y + r.z * r.z + r.w * r.w;
        ((uint2 *)(a.to.normed + (size_t)n * a.hidden))[i] = make_uint2(kn_pack_bf16(r.x * w.x, r.y * w.y), kn_pack_bf16(r.z * w.z, r.w * w.w));
    }
    sum = kn_block_sum(sum, shared);
    if (threadIdx.x == 0) a.to.scale[n] = rsqrtf(sum / a.hidden + a.eps);
#endif
}

struct in_args {
    wide_args product;
    const float *in_bias, *conv_weight, *conv_bias; /* (rows) or NULL, (channels, 4), (channels) or NULL */
    bf16 *conv_state;                               /* (slots, 3, channels), oldest first                */
    step_batch batch;
    step_work work;
    const float *scale;   /* (m) */
    const float *dt_bias; /* (heads) */
    float dt_min, dt_max;
    int inner, channels, heads;
};
template <int N> struct in_shared {
    wide_barriers bars;
    float scale[N];
    int src[N], dst[N]; /* src -1: no initial state, the slot is dirty */
};

__device__ __forceinline__ void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
__device__ __forceinline__ void widen(uint4 v, float (&f)[8])
{
    const float2 a = unpack(v.x), b = unpack(v.y), c = unpack(v.z), d = unpack(v.w);
    f[0] = a.x, f[1] = a.y, f[2] = b.x, f[3] = b.y, f[4] = c.x, f[5] = c.y, f[6] = d.x, f[7] = d.y;
}

/* 8 channels of all rows of the batch, of which this thread has every 16th: from shared memory to where the band belongs. */
template <int N> __device__ __forceinline__ void finish(const in_args &a, const in_shared<N> &sh, uint32_t tile, int row, int n0)
{
    const int ch = row - a.inner, channels = a.channels;
    if (ch >= channels) return; /* dt: written from registers */
    if (ch < 0) {
        for (int n = n0; n < a.product.m; n += 16) *(uint4 *)(a.work.z + (size_t)n * a.inner + row) = load_shared16(tile + n * PITCH * 2);
        return;
    }
    float4 w[8];
    float bias[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        w[j] = __ldg((const float4 *)a.conv_weight + ch + j);
        bias[j] = a.conv_bias ? __ldg(a.conv_bias + ch + j) : 0.f;
    }
    uint4 old[N / 16][3]; /* all at once: sequences do not write what another one reads */
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
        const int n = n0 + i * 16, src = n < a.product.m ? sh.src[n] : -1;
#pragma unroll
        for (int k = 0; k < 3; k++)
            old[i][k] = src < 0 ? make_uint4(0, 0, 0, 0) : __ldcg((const uint4 *)(a.conv_state + ((size_t)src * 3 + k) * channels + ch));
    }
#pragma unroll
    for (int i = 0; i < N / 16; i++) {
        const int n = n0 + i * 16;
        if (n >= a.product.m) break;
        const uint4 now = load_shared16(tile + n * PITCH * 2);
        float x[4][8], o[8];
#pragma unroll
        for (int k = 0; k < 3; k++) widen(old[i][k], x[k]);
        widen(now, x[3]);
#pragma unroll
        for (int j = 0; j < 8; j++) o[j] = kn_silu(bias[j] + w[j].x * x[0][j] + w[j].y * x[1][j] + w[j].z * x[2][j] + w[j].w * x[3][j]);
        bf16 *to = a.conv_state + (size_t)sh.dst[n] * 3 * channels + ch;
        *(uint4 *)to = old[i][1];
        *(uint4 *)(to + channels) = old[i][2];
        *(uint4 *)(to + 2 * channels) = now;
        *(uint4 *)(a.work.xbc + (size_t)n * channels + ch) =
            make_uint4(kn_pack_bf16(o[0], o[1]), kn_pack_bf16(o[2], o[3]), kn_pack_bf16(o[4], o[5]), kn_pack_bf16(o[6], o[7]));
    }
}

template <int N, int GROUPS> __global__ void __launch_bounds__(GROUPS * 128 + 32) wide_in_kernel(const __grid_constant__ in_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ unsigned char smem[];
    __shared__ in_shared<N> sh;
    unsigned char *ring = wide_ring(smem);
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const wide_piece p(a.product, blockIdx.x, gridDim.x, 0, 1);
    wide_start(&sh.bars, a.product.slots, GROUPS * 4);
    dependents_start();
    if (group == GROUPS) {
        if (lane == 0) wide_fetch<N>(a.product, p, ring, &sh.bars);
        return;
    }
    for (int n = threadIdx.x; n < a.product.m; n += GROUPS * 128) {
        sh.src[n] = a.batch.past[n] > 0 ? a.batch.src[n] : -1;
        sh.dst[n] = a.batch.dst[n];
    }
    wide_sync(GROUPS * 128);
    const int row = p.row0 + group * 64 + threadIdx.x % 8 * 8, n0 = threadIdx.x % 128 / 8, ch = row - a.inner; /* what this thread finishes */
    const bool mine = row < p.row0 + p.rows;
    const int m0 = group * 64 + warp * 16 + g, r0 = p.row0 + m0; /* this thread's accumulators: rows r0 and r0 + 8 */
    const float bias0 = a.in_bias && m0 < p.rows ? __ldg(a.in_bias + r0) : 0.f, bias1 = a.in_bias && m0 + 8 < p.rows ? __ldg(a.in_bias + r0 + 8) : 0.f;
    dependency_wait();
    for (int n = threadIdx.x; n < N; n += GROUPS * 128) sh.scale[n] = n < a.product.m ? __ldcg(a.scale + n) : 0.f;

    float acc[N / 2];
    wide_place at;
    const int late = p.count > LATE ? p.count - LATE : 1;
    wide_multiply<N>(a.product, ring, &sh.bars, at, late, false, acc);
    if (mine && ch >= 0 && ch < a.channels) { /* what the end reads, on its way to L2: any earlier, and the weights would push it out again */
        for (int n = n0; n < a.product.m; n += 16)
            for (int k = 0; k < 3 && sh.src[n] >= 0; k++) prefetch(a.conv_state + ((size_t)sh.src[n] * 3 + k) * a.channels + ch);
        if (n0 == 0) prefetch(a.conv_weight + (size_t)ch * STEP_TAPS);
        if (n0 == 1 && a.conv_bias) prefetch(a.conv_bias + ch);
    }
    wide_multiply<N>(a.product, ring, &sh.bars, at, p.count, true, acc);
    wide_sync(GROUPS * 128); /* nobody needs the ring any more */

    const uint32_t tile = kn_shared(ring) + group * N * PITCH * 2;
    const uint32_t to = tile + ((lane / 16 * 8 + lane % 8) * PITCH + warp * 16 + lane / 8 % 2 * 8) * 2;
    const int h0 = r0 - a.inner - a.channels;
    const auto time_step = [&](int n, int h, float value) { /* dt stays float32 */
        if (n < a.product.m && h < a.heads)
            a.work.dt[(size_t)n * a.heads + h] = fminf(fmaxf(kn_softplus(value + __ldg(a.dt_bias + h)), a.dt_min), a.dt_max);
    };
#pragma unroll
    for (int j = 0; j < N / 8; j += 2) {
        uint32_t pack[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int n = (j + i) * 8 + 2 * q;
            const float2 s = *(const float2 *)&sh.scale[n];
            const float *d = acc + (j + i) * 4, v0 = d[0] * s.x + bias0, v1 = d[1] * s.y + bias0, v2 = d[2] * s.x + bias1, v3 = d[3] * s.y + bias1;
            if (h0 >= 0 && m0 < p.rows) time_step(n, h0, v0), time_step(n + 1, h0, v1);
            if (h0 + 8 >= 0 && m0 + 8 < p.rows) time_step(n, h0 + 8, v2), time_step(n + 1, h0 + 8, v3);
            pack[2 * i] = kn_pack_bf16(v0, v1);
            pack[2 * i + 1] = kn_pack_bf16(v2, v3);
        }
        kn_stmatrix_t(to + j * 8 * PITCH * 2, pack[0], pack[1], pack[2], pack[3]);
    }
    kn_warpgroup_sync(2 + group);
    if (mine) finish<N>(a, sh, tile + threadIdx.x % 8 * 16, row, n0);
#endif
}

int in_rows(const kn_mixer_step_args *a) { return step_inner(a) + step_channels(a) + a->heads; }
template <int N, int GROUPS> plp_status launch(kn_context *c, in_args *in, int available)
{
    in->product.slots = wide_slots(in->product.box, N, GROUPS, (int)sizeof(in_shared<N>), available);
    return step_launch<wide_in_kernel<N, GROUPS>>(c, dim3(c->sms), wide_bytes(in->product.box, N, GROUPS, in->product.slots), *in, GROUPS * 128 + 32);
}

} // namespace

bool mixer_step_wide_in_knows(const kn_mixer_step_args *a, int sms)
{
    return a->width == STEP_TAPS && a->conv_dtype == PLP_BF16 && a->hidden % WIDE_COLUMNS == 0 && step_channels(a) % 8 == 0 && step_aligned(a->in_proj) &&
           step_aligned(a->norm_weight) && step_aligned(a->residual) && step_aligned(a->conv_weight) && step_aligned(a->conv_state) &&
           wide_box(in_rows(a), sms) <= WIDE_BAND;
}

plp_status mixer_step_wide_norm(kn_context *c, const kn_mixer_step_args *a, const wide_work *w)
{
    const norm_args n = { a->residual, a->norm_weight, *w, a->hidden, (float)a->norm_eps };
    return step_launch<wide_norm_kernel>(c, dim3(a->rows), 0, n, NORM_THREADS);
}

plp_status mixer_step_wide_in(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w, const wide_work *x)
{
    plp_status st = PLP_OK;
    const int rows = in_rows(a), box = wide_box(rows, c->sms);
    in_args in = { { {}, {}, rows, a->rows, box, a->hidden / WIDE_COLUMNS, 0 }, a->in_bias, a->conv_weight, a->conv_bias, (bf16 *)a->conv_state, *b, *w,
                   x->scale, a->dt_bias, a->dt_min, a->dt_max, step_inner(a), step_channels(a), a->heads };
    int available;
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->options.device)));
    wide_by_rows(a->rows, [&](auto n) {
        constexpr int N = decltype(n)::value;
        st = kn_tensor_map(&in.product.w, a->in_proj, rows, a->hidden, a->hidden, box);
        if (st == PLP_OK) st = kn_tensor_map(&in.product.x, x->normed, a->rows, a->hidden, a->hidden, N);
        if (st != PLP_OK) return;
        switch ((box + 63) / 64) {
        case 1: st = launch<N, 1>(c, &in, available); break;
        case 2: st = launch<N, 2>(c, &in, available); break;
        case 3: st = launch<N, 3>(c, &in, available); break;
        default: st = launch<N, WIDE_BAND / 64>(c, &in, available); break;
        }
    });
    return st;
}
