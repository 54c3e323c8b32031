/* src/kernels/cuda/mixer_step_wide_out.cu -- the gate's group norm and out_proj of 9 to 64 decode rows, as in mixer_step_out.cu.
 *
 * hidden is small, so that a band of rows for every multiprocessor would read more of v than of the weights: a few blocks share a band, each
 * with a part of the columns, and of the parts' sums each adds up those of some rows of the batch, always in the same order.  A stage is one head: the
 * sums are kept in units of their norm group's scale, and rescaled where the group changes. */
#include "kernels/cuda/mixer_step_wide.cuh"

namespace {

enum {
    OUT_GROUPS = 2,
    OUT_THREADS = OUT_GROUPS * 128, /* that multiply                    */
    OUT_WARPS = OUT_THREADS / 32,
    SUM_THREADS = 128,              /* that add up squares              */
    SUMS_AT_ONCE = 16,              /* of the loads of one              */
    ROWS_AT_ONCE = 2,               /* of the batch, that a warp ends   */
    RUN = 4                         /* stages of the first norm group, if there are more: the scales come meanwhile */
};
static_assert((int)STEP_DIM == (int)WIDE_COLUMNS, "a stage is a head");
static_assert(WIDE_OUT_BAND == OUT_GROUPS * 64 && WIDE_OUT_BAND == 32 * 4, "four rows of a band a lane");

struct out_args {
    wide_args product;
    CUtensorMap w;
    const float *bias, *squares; /* (rows) or NULL, (m, heads) */
    unsigned long long *sums;    /* see out_sum */
    const unsigned *turn;
    float *out; /* (m, ld): the residual, or this rank's partial sum */
    int64_t ld;
    const float *next; /* (rows) the weight of the norm behind, which finds its operand in `ready`; or NULL */
    kn_ready ready;
    bool add, scale, fold; /* as in mixer_step_out.cu */
    int bands, parts, heads, groups;
    int span; /* the most norm groups that a part has heads of */
    float width, eps;
    short first[STEP_GROUPS + 1]; /* the norm groups' first heads */
};
struct out_shared {
    wide_barriers bars;
    unsigned char group[STEP_HEADS];
};

/* What a part leaves for the block that ends row n of the batch in this band: 8 bytes a row of w, the sum and the number of this mixer, which one
 * store writes together; so nobody fences, and nobody sets anything back. */
__device__ __forceinline__ size_t out_sum(const out_args &a, int band, int n, int part) { return (((size_t)band * WIDE_ROWS + n) * a.parts + part) * WIDE_OUT_BAND; }
__device__ __forceinline__ void leave(unsigned long long *to, float sum, unsigned turn)
{
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"((unsigned long long)turn << 32 | __float_as_uint(sum)) : "memory");
}
/* Four of these; whether they are there. */
__device__ __forceinline__ bool look(const unsigned long long *from, float4 *sum, unsigned turn)
{
    unsigned long long v[4];
#pragma unroll
    for (int i = 0; i < 4; i += 2) asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(v[i]), "=l"(v[i + 1]) : "l"(from + i) : "memory");
    *sum = make_float4(__uint_as_float((uint32_t)v[0]), __uint_as_float((uint32_t)v[1]), __uint_as_float((uint32_t)v[2]), __uint_as_float((uint32_t)v[3]));
    return v[0] >> 32 == turn && v[1] >> 32 == turn && v[2] >> 32 == turn && v[3] >> 32 == turn;
}

/* SUM_THREADS threads: rstd (groups, N) of the norm groups that this block's heads are in: `lanes` neighbours a row and group, the same order in
 * every run. */
template <int N> __device__ __forceinline__ void statistics(const out_args &a, const out_shared &sh, const wide_piece &p, float *rstd, bool sums)
{
    const int g0 = sh.group[p.first], count = sh.group[p.first + p.count - 1] - g0 + 1, m = a.product.m, thread = threadIdx.x - OUT_THREADS;
    int lanes = 32;
    while (lanes > 1 && N * count * lanes > SUM_THREADS) lanes /= 2; /* not by m: rows must not depend on each other */
    const int lane = thread % lanes, pairs = m * count, turns = (pairs * lanes + SUM_THREADS - 1) / SUM_THREADS;
#pragma unroll 1
    for (int turn = 0; turn < turns; turn++) {
        const int pair = (turn * SUM_THREADS + thread) / lanes, n = pair % m, g = g0 + pair / m;
        const bool has = pair < pairs;
        const int end = has ? a.first[g + 1] : 0;
        const float *from = a.squares + (size_t)n * a.heads;
        float t = 0;
#pragma unroll 1
        for (int h0 = has ? a.first[g] + lane : 0; h0 < end; h0 += SUMS_AT_ONCE * lanes) {
            float s[SUMS_AT_ONCE];
#pragma unroll
            for (int i = 0; i < SUMS_AT_ONCE; i++) s[i] = h0 + i * lanes < end ? __ldcg(from + h0 + i * lanes) : 0.f;
#pragma unroll
            for (int i = 0; i < SUMS_AT_ONCE; i++) t += s[i];
        }
        for (int o = lanes / 2; o > 0; o /= 2) t += __shfl_xor_sync(~0u, t, o);
        if (!has || lane > 0) continue;
        rstd[(g - g0) * N + n] = a.scale ? rsqrtf(t / a.width + a.eps) : 1.f;
        if (sums) a.out[n * a.ld + a.product.rows] = t;
    }
    for (int i = thread; i < (N - m) * count; i += SUM_THREADS) rstd[i / (N - m) * N + m + i % (N - m)] = 1;
}

/* Of warps that multiply and, behind them, those that add up squares; the last one fetches. */
template <int N> __global__ void __launch_bounds__(OUT_THREADS + SUM_THREADS + 32) wide_out_kernel(const __grid_constant__ out_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ unsigned char smem[];
    __shared__ out_shared sh;
    enum { TABLE = 1, SCALES = 2 }; /* barriers: sh.group, rstd */
    unsigned char *ring = wide_ring(smem);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, m = a.product.m;
    const int band = blockIdx.x % a.bands, part = blockIdx.x / a.bands;
    wide_piece p(a.product, band, a.bands, part, a.parts);
    for (int i = 0; i < a.groups; i++) { /* the first norm group must not end at once */
        const int head = p.first + p.start, end = min((int)a.first[i + 1], p.first + p.count);
        if (head < a.first[i] || head >= end) continue;
        if (end - head < RUN) p.start = (p.start + end - head) % p.count;
        break;
    }
    wide_start(&sh.bars, a.product.slots, OUT_GROUPS * 4);
    dependents_start();
    if (threadIdx.x >= OUT_THREADS + SUM_THREADS) {
        if (lane == 0)
            wide_fetch<N>(a.product, p, ring, &sh.bars, a.product.box, [&](uint32_t to, int column, uint32_t bar) { kn_tile_load(to, &a.w, column, p.row0, bar); });
        return;
    }
    for (int h = threadIdx.x; h < a.heads; h += OUT_THREADS + SUM_THREADS) {
        int group = 0;
        while (group + 1 < a.groups && a.first[group + 1] <= h) group++;
        sh.group[h] = (unsigned char)group;
    }
    kn_named_sync(TABLE, OUT_THREADS + SUM_THREADS);
    dependency_wait();
    float *rstd = (float *)(ring + a.product.slots * wide_stage(a.product.box, N));
    if (threadIdx.x >= OUT_THREADS) {
        statistics<N>(a, sh, p, rstd, a.fold && blockIdx.x == 0);
        __syncwarp();
        kn_named_arrive(SCALES, OUT_THREADS + SUM_THREADS);
        return;
    }
    /* This block ends the rows n0 .. n1 of the batch: a warp a row, a lane four rows of w. */
    const unsigned turn = __ldcg(a.turn);
    const int n0 = m * part / a.parts + warp, n1 = m * (part + 1) / a.parts, r = lane * 4;
    const bool mine = r < p.rows;
    float4 old[ROWS_AT_ONCE], next = make_float4(0, 0, 0, 0), bias = next;
    const auto fetch_old = [&](int n) {
#pragma unroll
        for (int u = 0; u < ROWS_AT_ONCE; u++)
            old[u] = mine && a.add && n + u * OUT_WARPS < n1 ? __ldcg((const float4 *)(a.out + (n + u * OUT_WARPS) * a.ld + p.row0 + r)) : make_float4(0, 0, 0, 0);
    };
    fetch_old(n0);
    if (mine && a.next) next = __ldg((const float4 *)(a.next + p.row0 + r));
    if (mine && a.bias) bias = __ldg((const float4 *)(a.bias + p.row0 + r));

    float sum[N / 2];
    wide_place at;
    const int g0 = sh.group[p.first];
    int group = sh.group[p.chunk(0)];
    bool scaled = false;
#pragma unroll 1
    while (at.stage < p.count) {
        int end = at.stage + 1;
        while (end < p.count && sh.group[p.chunk(end)] == group) end++;
        wide_multiply<N>(a.product, ring, &sh.bars, at, end, at.stage > 0, sum);
        if (!scaled) kn_named_sync(SCALES, OUT_THREADS + SUM_THREADS);
        scaled = true;
        const int next = end < p.count ? sh.group[p.chunk(end)] : -1;
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float2 s = *(const float2 *)(rstd + (group - g0) * N + j * 8 + 2 * q);
            if (next >= 0) {
                const float2 t = *(const float2 *)(rstd + (next - g0) * N + j * 8 + 2 * q);
                s.x = __fdividef(s.x, t.x), s.y = __fdividef(s.y, t.y);
            }
            sum[4 * j] *= s.x, sum[4 * j + 1] *= s.y, sum[4 * j + 2] *= s.x, sum[4 * j + 3] *= s.y;
        }
        group = next;
    }
    const int m0 = warp * 16 + g;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int n = j * 8 + 2 * q + c % 2, row = m0 + c / 2 * 8;
            if (n < m && row < p.rows) leave(a.sums + out_sum(a, band, n, part) + row, sum[4 * j + c], turn);
        }
#pragma unroll 1
    for (int n = n0; n < n1; n += OUT_WARPS * ROWS_AT_ONCE) {
        float4 from[ROWS_AT_ONCE][WIDE_PARTS];
        bool there;
        do {
            there = true;
#pragma unroll
            for (int u = 0; u < ROWS_AT_ONCE; u++)
#pragma unroll
                for (int s = 0; s < WIDE_PARTS; s++)
                    if (mine && n + u * OUT_WARPS < n1 && s < a.parts)
                        there &= look(a.sums + out_sum(a, band, n + u * OUT_WARPS, s) + r, &from[u][s], turn);
                    else
                        from[u][s] = make_float4(0, 0, 0, 0);
        } while (!there);
        __syncwarp();
#pragma unroll
        for (int u = 0; u < ROWS_AT_ONCE; u++) {
            const int row = n + u * OUT_WARPS;
            if (row >= n1) break;
            float4 t = from[u][0], v = old[u];
#pragma unroll
            for (int s = 1; s < WIDE_PARTS; s++) t.x += from[u][s].x, t.y += from[u][s].y, t.z += from[u][s].z, t.w += from[u][s].w;
            v.x += t.x + bias.x, v.y += t.y + bias.y, v.z += t.z + bias.z, v.w += t.w + bias.w;
            if (mine) *(float4 *)(a.out + row * a.ld + p.row0 + r) = v;
            if (a.next == NULL) continue;
            float square = v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; /* of lanes without a row: 0 */
            if (mine)
                *(uint2 *)((bf16 *)a.ready.x + (size_t)row * a.product.rows + p.row0 + r) =
                    make_uint2(kn_pack_bf16(v.x * next.x, v.y * next.y), kn_pack_bf16(v.z * next.z, v.w * next.w));
            square = kn_warp_sum(square);
            if (lane == 0) a.ready.squares[band * WIDE_ROWS + row] = square;
        }
        fetch_old(n + OUT_WARPS * ROWS_AT_ONCE);
    }
#endif
}

/* Blocks for a band: the split for which a block reads the least, w and x and the parts together.  False if no split has a band small enough. */
struct out_split {
    int bands, parts, box;
};
bool split_of(const kn_mixer_step_args *a, int sms, out_split *s)
{
    const int n = wide_columns(a->rows);
    double best = 0;
    for (int parts = 1; parts <= WIDE_PARTS && parts <= a->heads; parts++) {
        const int most = sms / parts < KN_READY_PARTS ? sms / parts : (int)KN_READY_PARTS, units = a->hidden / 8;
        const int bands = most < units ? most : units, box = bands > 0 ? wide_box(a->hidden, bands) : 0;
        if (bands == 0 || box > WIDE_OUT_BAND) continue;
        const double columns = (double)kn_ceil(a->heads, parts) * STEP_DIM, bytes = (box + n) * columns * 2 + (parts > 1 ? box * n * 8.0 : 0);
        if (best > 0 && bytes >= best) continue;
        best = bytes;
        *s = { bands, parts, box };
    }
    return best > 0;
}
/* The most norm groups that a part has heads of. */
int span_of(const out_args &o)
{
    int most = 1;
    for (int part = 0; part < o.parts; part++) {
        const int from = o.heads * part / o.parts, to = o.heads * (part + 1) / o.parts;
        int count = 0;
        for (int g = 0; g < o.groups; g++) count += o.first[g] < to && o.first[g + 1] > from;
        most = count > most ? count : most;
    }
    return most;
}

} // namespace

bool mixer_step_wide_out_knows(const kn_mixer_step_args *a, int sms)
{
    out_split s;
    return a->hidden % 8 == 0 && split_of(a, sms, &s) && (a->delta == NULL || (step_aligned(a->delta) && a->ld_delta % 4 == 0)) &&
           (a->out_bias == NULL || step_aligned(a->out_bias)) && (a->next_norm == NULL || step_aligned(a->next_norm));
}

int mixer_step_wide_out_bands(const kn_mixer_step_args *a, int sms)
{
    out_split s;
    return split_of(a, sms, &s) ? s.bands : 0;
}

plp_status mixer_step_wide_create(kn_context *c)
{
    const size_t sums = (size_t)c->sms * WIDE_ROWS * WIDE_OUT_BAND * sizeof *c->wide_sums;
    if (!c->hopper) return PLP_OK;
    PLP_TRY(KN_CUDA(cudaMalloc((void **)&c->wide_sums, sums + sizeof *c->wide_turn)));
    c->wide_turn = (unsigned *)((char *)c->wide_sums + sums);
    return KN_CUDA(cudaMemsetAsync(c->wide_sums, 0, sums + sizeof *c->wide_turn, c->stream));
}

plp_status mixer_step_wide_out(kn_context *c, const kn_mixer_step_args *a, const step_work *w)
{
    plp_status st = PLP_OK;
    out_split s;
    int available;
    split_of(a, c->sms, &s);
    const int inner = step_inner(a);
    const bool norm = a->gate_weight != NULL, add = a->delta == NULL;
    out_args o = { { {}, a->hidden, a->rows, s.box, a->heads, 0 }, {}, a->out_bias, w->squares, c->wide_sums, c->wide_turn,
                   add ? a->residual : a->delta, add ? a->hidden : a->ld_delta, add ? a->next_norm : NULL, a->ready, add, norm && !a->fold, a->fold, s.bands, s.parts, a->heads, norm ? a->gate_groups : 1, 1,
                   (float)a->gate_width, (float)a->gate_eps, {} };
    o.first[1] = (short)a->heads;
    for (int g = 0; norm && g <= a->gate_groups; g++) o.first[g] = (short)(a->gate_first[g] / STEP_DIM);
    o.span = span_of(o);
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->options.device)));
    wide_by_rows(a->rows, [&](auto n) {
        constexpr int N = decltype(n)::value;
        st = kn_tensor_map(&o.w, a->out_proj, a->hidden, inner, inner, s.box);
        if (st == PLP_OK) st = kn_tensor_map(&o.product.x, w->v, a->rows, inner, inner, N);
        if (st != PLP_OK) return;
        const int scales = o.span * N * (int)sizeof(float);
        o.product.slots = wide_slots(s.box, N, OUT_GROUPS, (int)sizeof(out_shared) + scales, available);
        st = step_launch<wide_out_kernel<N>>(c, dim3(s.bands * s.parts), wide_bytes(s.box, N, OUT_GROUPS, o.product.slots) + scales, o, OUT_THREADS + SUM_THREADS + 32);
    });
    return st;
}
