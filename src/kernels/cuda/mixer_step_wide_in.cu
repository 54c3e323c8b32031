/* src/kernels/cuda/mixer_step_wide_in.cu -- in_proj of 9 to 64 decode rows, with what mixer_step_in.cu does to each of its bands, and the
 * RMSNorm before it.
 *
 * The norm's operand, bf16(residual * weight), is there when the mixer before has left it (kn_ready); else a small kernel makes it.  The scale
 * multiplies the float32 sums. */
#include "kernels/cuda/mixer_step_wide.cuh"

namespace {

enum { NORM_THREADS = 256, OLD = STEP_TAPS - 1 /* columns of the convolution's state */, AT_ONCE = 16 /* loads of squares in flight */ };

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
    CUtensorMap z[2], c[2];                         /* rows of in_proj: of z, and from x on; as many as a block has at most, and 8 less */
    int z_box, c_box;                               /* that many */
    const float *in_bias, *conv_weight, *conv_bias; /* (rows) or NULL, (channels, 4), (channels) or NULL */
    bf16 *conv_state;                               /* (slots, 3, channels), oldest first                */
    step_batch batch;
    step_work work;
    const float *scale, *squares; /* (m); or the latter, of the operand that the mixer before has left (kn_ready) */
    int parts;                    /* of squares: mixers of a model are alike */
    const float *dt_bias;         /* (dts) */
    float dt_min, dt_max, eps;
    int inner, channels, dts; /* rows of z; of x, B, C; of dt */
};
/* Rows of in_proj of a block: z0 .. z0 + zs of z, in the first rows of a stage, and c0 .. c0 + cs of x, B, C, dt, behind z_box of those.  Every block has
 * some of each, so that all are done with the convolution at the same time. */
struct in_piece {
    int z0, zs, c0, cs, count, start;
    __device__ __forceinline__ in_piece(const in_args &a)
    {
        const auto split = [](int rows, int *from, int *count) {
            const int units = (rows + 7) / 8, u0 = (int)((int64_t)units * blockIdx.x / gridDim.x), u1 = (int)((int64_t)units * (blockIdx.x + 1) / gridDim.x);
            *from = u0 * 8;
            *count = min(u1 * 8, rows) - *from;
        };
        split(a.inner, &z0, &zs);
        split(a.channels + a.dts, &c0, &cs);
        count = a.product.chunks;
        start = blockIdx.x % count;
    }
    __device__ __forceinline__ int chunk(int i) const { return start + i < count ? start + i : start + i - count; }
};
template <int N> struct in_shared {
    wide_barriers bars;
    uint64_t olds; /* completes when the old columns have landed */
    float scale[N];
    int src[N], dst[N]; /* src -1: no initial state, the slot is dirty */
};

__device__ __forceinline__ uint2 load_shared8(uint32_t at)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ float4 load_shared4f(uint32_t at)
{
    const uint4 v = load_shared16(at);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}
__device__ __forceinline__ uint16_t load_shared2(uint32_t at)
{
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ void store_shared2(uint32_t at, uint16_t v) { asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(v) : "memory"); }

/* Shared memory beside the ring: the channels' weights (c_box, 4), their bias (c_box), and for each old column a value for each row of the batch and
 * row from x on.  What was computed lies in the ring at the end, for all rows of a stage.  Bytes between two rows of the batch: an odd number of
 * 16 (no bank conflicts). */
static __host__ __device__ __forceinline__ int pitch_of(int rows) { return (rows / 8 | 1) * 16; }
static __host__ __device__ __forceinline__ int weight_bytes(int rows) { return rows * (STEP_TAPS + 1) * 4; }
static __host__ __device__ __forceinline__ int beside(int rows, int n) { return weight_bytes(rows) + OLD * n * pitch_of(rows); }

/* One warp: RMSNorm's scale of every row of the batch, two of them a lane. */
template <int N> __device__ __forceinline__ void scales(const in_args &a, float *scale, int hidden)
{
    const int n = threadIdx.x % 32 * 2;
    dependency_wait();
    if (n >= N) return;
    if (a.squares == NULL) {
        scale[n] = n < a.product.m ? __ldcg(a.scale + n) : 0.f;
        scale[n + 1] = n + 1 < a.product.m ? __ldcg(a.scale + n + 1) : 0.f;
        return;
    }
    float2 sum = make_float2(0, 0);
#pragma unroll 1
    for (int i0 = 0; i0 < a.parts; i0 += AT_ONCE) {
        float2 s[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            s[i] = i0 + i < a.parts ? __ldcg((const float2 *)(a.squares + (size_t)(i0 + i) * WIDE_ROWS + n)) : make_float2(0, 0);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) sum.x += s[i].x, sum.y += s[i].y;
    }
    scale[n] = n < a.product.m ? rsqrtf(sum.x / hidden + a.eps) : 0.f;
    scale[n + 1] = n + 1 < a.product.m ? rsqrtf(sum.y / hidden + a.eps) : 0.f;
}

/* One warp: the old columns of the block's channels, and the channels' weights.  Before the wait: states of the layer. */
template <int N> __device__ __forceinline__ void fetch_old(const in_args &a, const in_piece &p, in_shared<N> &sh, uint32_t weights)
{
    const int lane = threadIdx.x % 32, channels = max(min(p.cs, a.channels - p.c0), 0), bytes = channels * 2, own = lane == 0 ? channels * STEP_TAPS * 4 : 0,
              own_bias = lane == 1 && a.conv_bias ? channels * 4 : 0, pitch = pitch_of(a.c_box);
    const uint32_t bar = kn_shared(&sh.olds), old = weights + weight_bytes(a.c_box);
    int src[(N + 31) / 32], count = 0;
#pragma unroll
    for (int i = 0; i < (N + 31) / 32; i++) {
        const int n = lane + i * 32;
        src[i] = n < a.product.m && a.batch.past[n] > 0 ? a.batch.src[n] : -1;
        count += src[i] >= 0;
        if (n < a.product.m) sh.src[n] = src[i], sh.dst[n] = a.batch.dst[n];
    }
    kn_bar_expect(bar, count * OLD * bytes + own + own_bias);
    if (own > 0) kn_bulk_load(weights, a.conv_weight + (size_t)p.c0 * STEP_TAPS, own, bar);
    if (own_bias > 0) kn_bulk_load(weights + a.c_box * STEP_TAPS * 4, a.conv_bias + p.c0, own_bias, bar);
    if (bytes == 0) return;
    for (int k = 0; k < OLD; k++)
#pragma unroll
        for (int i = 0; i < (N + 31) / 32; i++)
            if (src[i] >= 0) kn_bulk_load(old + (k * N + lane + i * 32) * pitch, a.conv_state + ((size_t)src[i] * OLD + k) * a.channels + p.c0, bytes, bar);
}

/* From shared memory to where the rows belong: all threads that multiply, a few values of a row each at a time. */
template <int N, int THREADS>
__device__ __forceinline__ void finish(const in_args &a, const in_shared<N> &sh, const in_piece &p, uint32_t now, uint32_t weights)
{
    const int channels = a.channels, m = a.product.m, pitch = pitch_of(a.product.box), old_pitch = pitch_of(a.c_box);
    /* Fours of channels and eights of z in a row of the batch; rows of dt, the first of them. */
    const int fours = max(min(p.cs, channels - p.c0), 0) / 4, eights = p.zs / 8, heads = p.cs - fours * 4, h0 = p.c0 + fours * 4 - channels;
    const uint32_t old = weights + weight_bytes(a.c_box);
    if (fours > 0 && (int)threadIdx.x < THREADS / fours * fours) { /* neighbours have neighbouring channels; each keeps its own */
        const int j0 = threadIdx.x % fours * 4, ch = p.c0 + j0, rows = THREADS / fours;
        float4 w[4], bias = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int j = 0; j < 4; j++) w[j] = load_shared4f(weights + (j0 + j) * STEP_TAPS * 4);
        if (a.conv_bias) bias = load_shared4f(weights + (a.c_box * STEP_TAPS + j0) * 4);
#pragma unroll 1
        for (int n = threadIdx.x / fours; n < m; n += rows) {
            const bool known = sh.src[n] >= 0;
            uint2 raw[OLD + 1];
#pragma unroll
            for (int k = 0; k < OLD; k++) raw[k] = known ? load_shared8(old + (k * N + n) * old_pitch + j0 * 2) : make_uint2(0, 0);
            raw[OLD] = load_shared8(now + n * pitch + (a.z_box + j0) * 2);
            float o[4] = { bias.x, bias.y, bias.z, bias.w };
#pragma unroll
            for (int k = 0; k <= OLD; k++) {
                const float2 lo = unpack(raw[k].x), hi = unpack(raw[k].y);
                const float x[4] = { lo.x, lo.y, hi.x, hi.y };
#pragma unroll
                for (int j = 0; j < 4; j++) o[j] += (k == 0 ? w[j].x : k == 1 ? w[j].y : k == 2 ? w[j].z : w[j].w) * x[j];
            }
#pragma unroll
            for (int j = 0; j < 4; j++) o[j] = kn_silu(o[j]);
            bf16 *to = a.conv_state + (size_t)sh.dst[n] * OLD * channels + ch;
            *(uint2 *)(a.work.xbc + (size_t)n * channels + ch) = make_uint2(kn_pack_bf16(o[0], o[1]), kn_pack_bf16(o[2], o[3]));
#pragma unroll
            for (int k = 0; k < OLD; k++) *(uint2 *)(to + k * channels) = raw[k + 1];
        }
    }
    if (heads > 0) { /* dt, which stays float32: its halves lie where two old columns of channels would */
#pragma unroll 1
        for (int i = threadIdx.x; i < heads * m; i += THREADS) {
            const int n = i / heads, h = i % heads;
            const uint32_t at = old + n * old_pitch + (fours * 4 + h) * 2;
            const float value = __uint_as_float((uint32_t)load_shared2(at + N * old_pitch) << 16 | load_shared2(at));
            a.work.dt[(size_t)n * a.dts + h0 + h] = fminf(fmaxf(kn_softplus(value + __ldg(a.dt_bias + h0 + h)), a.dt_min), a.dt_max);
        }
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < eights * m; i += THREADS) {
        const int n = i / eights, j = i % eights * 8;
        *(uint4 *)(a.work.z + (size_t)n * a.inner + p.z0 + j) = load_shared16(now + n * pitch + j * 2);
    }
}

/* GROUPS warpgroups multiply; of two more warps, one fetches stages, and one all else that the others would wait for. */
template <int N, int GROUPS> __global__ void __launch_bounds__(GROUPS * 128 + 64) wide_in_kernel(const __grid_constant__ in_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ unsigned char smem[];
    __shared__ in_shared<N> sh;
    constexpr int THREADS = GROUPS * 128;
    unsigned char *ring = wide_ring(smem);
    const uint32_t weights = kn_shared(ring) + a.product.slots * wide_stage(a.product.box, N);
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const in_piece p(a);
    if (threadIdx.x == 0) kn_bar_init(kn_shared(&sh.olds), 32);
    wide_start(&sh.bars, a.product.slots, GROUPS * 4);
    dependents_start();
    if (threadIdx.x >= THREADS + 32) {
        fetch_old<N>(a, p, sh, weights);
        scales<N>(a, sh.scale, a.product.chunks * WIDE_COLUMNS); /* it waits for the kernels before */
        __syncwarp();
        kn_named_arrive(1, THREADS + 32);
        return;
    }
    if (threadIdx.x >= THREADS) {
        const int c_rows = (p.cs + 7) / 8 * 8;
        const CUtensorMap *z = a.z + (p.zs < a.z_box), *c = a.c + (c_rows < a.c_box);
        if (lane == 0)
            wide_fetch<N>(a.product, p, ring, &sh.bars, p.zs + c_rows, [&](uint32_t to, int column, uint32_t bar) {
                if (c_rows > 0) kn_tile_load(to + a.z_box * WIDE_COLUMNS * 2, c, column, a.inner + p.c0, bar);
                if (p.zs > 0) kn_tile_load(to, z, column, p.z0, bar);
            });
        return;
    }

    /* These threads never wait for the kernels before themselves: what they read and write comes behind x, or barrier 1. */
    float acc[N / 2];
    wide_place at;
    wide_multiply<N>(a.product, ring, &sh.bars, at, p.count, false, acc);
    kn_named_sync(1, THREADS + 32); /* nobody needs the ring any more, and scales and slots are there */

    const uint32_t now = kn_shared(ring), old = weights + weight_bytes(a.c_box);
    const int pitch = pitch_of(a.product.box), m0 = group * 64 + warp * 16;
    /* This thread's sums: two rows of a stage, 8 apart, each of z or from x on. */
    const auto row_of = [&](int r) { return r < a.z_box ? r < p.zs ? p.z0 + r : -1 : r - a.z_box < p.cs ? a.inner + p.c0 + r - a.z_box : -1; };
    const int r0 = row_of(m0 + g), r1 = row_of(m0 + 8 + g);
    if (m0 < a.product.box) {
        const float bias0 = a.in_bias && r0 >= 0 ? __ldg(a.in_bias + r0) : 0.f, bias1 = a.in_bias && r1 >= 0 ? __ldg(a.in_bias + r1) : 0.f;
        const bool both = m0 + 8 < a.product.box;
        const uint32_t to = now + (lane / 16 * 8 + lane % 8) * pitch + (m0 + (both ? lane / 8 % 2 * 8 : 0)) * 2;
#pragma unroll
        for (int j = 0; j < N / 8; j += 2) {
            uint32_t pack[4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float2 s = *(const float2 *)&sh.scale[(j + i) * 8 + 2 * q];
                float *d = acc + (j + i) * 4;
                d[0] = d[0] * s.x + bias0, d[1] = d[1] * s.y + bias0, d[2] = d[2] * s.x + bias1, d[3] = d[3] * s.y + bias1;
                pack[2 * i] = kn_pack_bf16(d[0], d[1]);
                pack[2 * i + 1] = both ? kn_pack_bf16(d[2], d[3]) : pack[2 * i];
            }
            kn_stmatrix_t(to + j * 8 * pitch, pack[0], pack[1], pack[2], pack[3]);
        }
        const bool dt0 = r0 >= a.inner + a.channels, dt1 = r1 >= a.inner + a.channels;
        if (dt0 || dt1) {
            const int old_pitch = pitch_of(a.c_box);
            const auto keep = [&](uint32_t at, float value) {
                store_shared2(at, (uint16_t)__float_as_uint(value));
                store_shared2(at + N * old_pitch, (uint16_t)(__float_as_uint(value) >> 16));
            };
#pragma unroll
            for (int j = 0; j < N / 8; j++) {
                const uint32_t here = old + (j * 8 + 2 * q) * old_pitch + (m0 + g - a.z_box) * 2;
                if (dt0) keep(here, acc[4 * j]), keep(here + old_pitch, acc[4 * j + 1]);
                if (dt1) keep(here + 16, acc[4 * j + 2]), keep(here + old_pitch + 16, acc[4 * j + 3]);
            }
        }
    }
    kn_named_sync(2, THREADS);
    kn_bar_wait(kn_shared(&sh.olds), 0);
    finish<N, THREADS>(a, sh, p, now, weights);
#endif
}

int rest(const kn_mixer_step_args *a) { return step_channels(a) + step_dts(a); } /* rows of in_proj from x on */
template <int N, int GROUPS> plp_status launch(kn_context *c, in_args *in, int available)
{
    wide_args *p = &in->product;
    p->slots = wide_slots(p->box, N, GROUPS, (int)sizeof(in_shared<N>) + beside(in->c_box, N), available);
    return step_launch<wide_in_kernel<N, GROUPS>>(c, dim3(c->sms), wide_bytes(p->box, N, GROUPS, p->slots) + beside(in->c_box, N), *in, GROUPS * 128 + 64);
}
/* Maps of a block's rows of w, `rows` in all, box at most or 8 less. */
plp_status maps(CUtensorMap map[2], const bf16 *w, int rows, int hidden, int box)
{
    PLP_TRY(kn_tensor_map(map, w, rows, hidden, hidden, box));
    return box > 8 ? kn_tensor_map(map + 1, w, rows, hidden, hidden, box - 8) : PLP_OK;
}

} // namespace

/* With an exchange, what one rank knows all must: by what the largest of them may have, a group for each head. */
static bool all_know(const kn_mixer_step_args *a, int sms)
{
    const int inner = a->most_heads * STEP_DIM;
    return wide_box(inner, sms) + wide_box(inner + 2 * a->most_heads * a->state + a->most_heads, sms) <= WIDE_BAND;
}

bool mixer_step_wide_in_knows(const kn_mixer_step_args *a, int sms)
{
    if (a->exchange != NULL && !all_know(a, sms)) return false;
    return a->width == STEP_TAPS && a->conv_dtype == PLP_BF16 && a->hidden % WIDE_COLUMNS == 0 && step_channels(a) % 8 == 0 && step_aligned(a->in_proj) &&
           step_aligned(a->norm_weight) && step_aligned(a->residual) && step_aligned(a->conv_weight) && step_aligned(a->conv_state) &&
           (a->conv_bias == NULL || step_aligned(a->conv_bias)) && wide_box(step_inner(a), sms) + wide_box(rest(a), sms) <= WIDE_BAND;
}

plp_status mixer_step_wide_norm(kn_context *c, const kn_mixer_step_args *a, const wide_work *w)
{
    const norm_args n = { a->residual, a->norm_weight, *w, a->hidden, (float)a->norm_eps };
    return step_launch<wide_norm_kernel>(c, dim3(a->rows), 0, n, NORM_THREADS);
}

plp_status mixer_step_wide_in(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w, const wide_work *x)
{
    plp_status st = PLP_OK;
    const int inner = step_inner(a), z_box = wide_box(inner, c->sms), c_box = wide_box(rest(a), c->sms);
    in_args in = { { {}, inner + rest(a), a->rows, z_box + c_box, a->hidden / WIDE_COLUMNS, 0 }, {}, {}, z_box, c_box, a->in_bias, a->conv_weight,
                   a->conv_bias, (bf16 *)a->conv_state, *b, *w, x->scale, a->is_ready ? a->ready.squares : NULL,
                   a->is_ready ? mixer_step_wide_out_bands(c, a) : 0, a->dt_bias, a->dt_min, a->dt_max, (float)a->norm_eps, inner,
                   step_channels(a), step_dts(a) };
    int available;
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->options.device)));
    PLP_TRY(maps(in.z, (const bf16 *)a->in_proj, inner, a->hidden, z_box));
    PLP_TRY(maps(in.c, (const bf16 *)a->in_proj, inner + rest(a), a->hidden, c_box));
    wide_by_rows(a->rows, [&](auto n) {
        constexpr int N = decltype(n)::value;
        st = kn_tensor_map(&in.product.x, a->is_ready ? a->ready.x : x->normed, a->rows, a->hidden, a->hidden, N);
        if (st != PLP_OK) return;
        switch ((in.product.box + 63) / 64) {
        case 1: st = launch<N, 1>(c, &in, available); break;
        case 2: st = launch<N, 2>(c, &in, available); break;
        case 3: st = launch<N, 3>(c, &in, available); break;
        default: st = launch<N, WIDE_BAND / 64>(c, &in, available); break;
        }
    });
    return st;
}
