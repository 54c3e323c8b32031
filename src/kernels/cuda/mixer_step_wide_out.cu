/* src/kernels/cuda/mixer_step_wide_out.cu -- the gate's group norm and out_proj of 9 to 64 decode rows, as in mixer_step_out.cu; without a norm also
 * Mamba-1's out_proj and x_proj.
 *
 * hidden is small, so that a band of rows for every multiprocessor would read more of v than of the weights: the blocks of a cluster share a band,
 * each with a part of the columns, and each adds up the parts' sums of some rows of the batch out of their shared memory, always in the same order.
 * Where the ranks' devices are neighbours, those sums go to the others' inboxes as soon as they are there, and what came from theirs is added.
 * (Through L2, with a word for every sum, that takes 3 us longer.)  A stage is one head: the sums are kept in units of their norm group's scale, and
 * rescaled where the group changes. */
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/mixer_step_wide.cuh"

namespace {

enum {
    OUT_GROUPS = 3,                 /* of 128 threads that multiply; one where bands have no more rows */
    SUM_THREADS = 128,              /* that add up squares              */
    SUMS_AT_ONCE = 16,              /* of the loads of one              */
    PIECES = 2,                     /* of 128 rows of a band            */
    SUM_PITCH = WIDE_OUT_BAND + 4,  /* floats between rows of the batch */
    X_COUNTS = 3,                   /* see split_of                     */
    X_PROJ_SHARED = 140 * 1024,     /* bytes: with more, fewer blocks of the scan are there in time; with less, x_proj is slower */
    RUN = 4                         /* stages of the first norm group, if there are more: the scales come meanwhile */
};
static constexpr int all_threads(int groups) { return groups * 128 + SUM_THREADS + 32; }
static_assert((int)STEP_DIM == (int)WIDE_COLUMNS, "a stage is a head");
static_assert(WIDE_OUT_BAND == OUT_GROUPS * 64 && WIDE_OUT_BAND <= PIECES * 32 * 4, "a lane ends four rows of each piece");

struct out_args {
    wide_args product;
    CUtensorMap w;
    const float *bias, *squares; /* (rows) or NULL, (m, heads) */
    float *out;                  /* (m, ld): the residual, or this rank's partial sum */
    int64_t ld;
    const float *next;           /* (rows): the weight of the norm behind, which finds its operand in `ready`; or NULL */
    kn_ready ready;
    bool add, scale, fold; /* as in mixer_step_out.cu */
    kn_exchange x;         /* EXCHANGE; a message is (m, rows) sums, then (m) sums of squares */
    int bands, parts, heads, groups;
    int span; /* the most norm groups that a part has heads of */
    float width, eps;
    short first[STEP_GROUPS + 1]; /* the norm groups' first heads */
};
struct out_shared {
    wide_barriers bars;
    unsigned char group[STEP_HEADS];
    unsigned exchange;       /* its number */
    float squares[WIDE_ROWS]; /* of an exchange with fold */
};

/* SUM_THREADS threads: rstd (groups, N) of the norm groups that this block's heads are in: `lanes` neighbours a row and group, the same order in
 * every run. */
template <int N, bool EXCHANGE>
__device__ __forceinline__ void statistics(const out_args &a, out_shared &sh, const wide_piece &p, float *rstd, bool sums, int thread)
{
    const int g0 = sh.group[p.first], count = sh.group[p.first + p.count - 1] - g0 + 1, m = a.product.m;
    int lanes = 32;
    while (lanes > 1 && N * count * lanes > SUM_THREADS) lanes /= 2; /* not by m: rows must not depend on each other */
    const int lane = thread % lanes, pairs = m * count, turns = (pairs * lanes + SUM_THREADS - 1) / SUM_THREADS;
#pragma unroll 1
    for (int turn = 0; turn < turns; turn++) {
        const int pair = (turn * SUM_THREADS + thread) / lanes, n = pair % m, g = g0 + pair / m;
        const bool has = pair < pairs;
        const int end = has && (a.scale || a.fold) ? a.first[g + 1] : 0; /* without a norm there are no squares */
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
        if (EXCHANGE && a.fold) {
            sh.squares[n] = t; /* seen behind SCALES */
            if (sums) exchange_turn(a.x).send((int64_t)m * a.product.rows + n, __float_as_uint(t));
        } else if (sums) {
            a.out[n * a.ld + a.product.rows] = t;
        }
    }
    for (int i = thread; i < (N - m) * count; i += SUM_THREADS) rstd[i / (N - m) * N + m + i % (N - m)] = 1;
}

/* Warps that multiply, behind them those that add up squares; the last one fetches. */
template <int N, int GROUPS, bool EXCHANGE> __global__ void __launch_bounds__(all_threads(GROUPS)) wide_out_kernel(const __grid_constant__ out_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    constexpr int OUT_THREADS = GROUPS * 128, OUT_WARPS = OUT_THREADS / 32;
    extern __shared__ unsigned char smem[];
    __shared__ out_shared sh;
    enum { TABLE = 1, SCALES = 2, ENDED = 3 }; /* barriers: sh.group, rstd, the ring */
    unsigned char *ring = wide_ring(smem);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, m = a.product.m;
    const int band = blockIdx.x / a.parts, part = blockIdx.x % a.parts; /* a cluster has a band's parts */
    wide_piece p(a.product, band, a.bands, part, a.parts);
    for (int i = 0; i < a.groups; i++) { /* the first norm group must not end at once */
        const int head = p.first + p.start, end = min((int)a.first[i + 1], p.first + p.count);
        if (head < a.first[i] || head >= end) continue;
        if (end - head < RUN) p.start = (p.start + end - head) % p.count;
        break;
    }
    wide_start(&sh.bars, a.product.slots, GROUPS * 4);
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
        if (EXCHANGE && threadIdx.x == OUT_THREADS) sh.exchange = exchange_turn::next(a.x);
        statistics<N, EXCHANGE>(a, sh, p, rstd, a.fold && blockIdx.x == 0, threadIdx.x - OUT_THREADS);
        __syncwarp();
        kn_named_arrive(SCALES, OUT_THREADS + SUM_THREADS);
        return;
    }
    /* This block ends the rows n0 .. n1 of the batch: a warp a row, a lane four rows of every 128 of w. */
    const int n0 = m * part / a.parts + warp, n1 = m * (part + 1) / a.parts;
    bool mine[PIECES];
    float4 old[PIECES], next[PIECES], bias[PIECES];
    const auto fetch_old = [&](int n) {
#pragma unroll
        for (int u = 0; u < PIECES; u++) old[u] = mine[u] && a.add && n < n1 ? __ldcg((const float4 *)(a.out + n * a.ld + p.row0 + u * 128) + lane) : make_float4(0, 0, 0, 0);
    };
#pragma unroll
    for (int u = 0; u < PIECES; u++) {
        const int at = p.row0 + u * 128;
        mine[u] = u * 128 + lane * 4 < p.rows;
        next[u] = mine[u] && a.next ? __ldg((const float4 *)(a.next + at) + lane) : make_float4(0, 0, 0, 0);
        bias[u] = mine[u] && a.bias ? __ldg((const float4 *)(a.bias + at) + lane) : make_float4(0, 0, 0, 0);
    }
    fetch_old(n0);

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
        if (!scaled) {
            kn_named_sync(SCALES, OUT_THREADS + SUM_THREADS);
            if (EXCHANGE && threadIdx.x == 0) exchange_turn(a.x, sh.exchange).leave();
        }
        scaled = true;
        const int following = end < p.count ? sh.group[p.chunk(end)] : -1;
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float2 s = *(const float2 *)(rstd + (group - g0) * N + j * 8 + 2 * q);
            if (following >= 0) {
                const float2 t = *(const float2 *)(rstd + (following - g0) * N + j * 8 + 2 * q);
                s.x = __fdividef(s.x, t.x), s.y = __fdividef(s.y, t.y);
            }
            sum[4 * j] *= s.x, sum[4 * j + 1] *= s.y, sum[4 * j + 2] *= s.x, sum[4 * j + 3] *= s.y;
        }
        group = following;
    }
    kn_named_sync(ENDED, OUT_THREADS);
    const uint32_t tile = kn_shared(ring);
    const int m0 = warp * 16 + g;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            kn_shared_store(tile + ((j * 8 + 2 * q + c % 2) * SUM_PITCH + m0 + c / 2 * 8) * 4, __float_as_uint(sum[4 * j + c]));
    kn_cluster_sync();
    /* Of a row of the batch, this rank's sums. */
    const auto sum_parts = [&](int n, float4 (&t)[PIECES]) {
        float4 from[PIECES][WIDE_PARTS];
#pragma unroll
        for (int u = 0; u < PIECES; u++)
#pragma unroll
            for (int s = 0; s < WIDE_PARTS; s++)
                from[u][s] = mine[u] && s < a.parts ? kn_cluster_load(kn_cluster_at(tile + (n * SUM_PITCH + u * 128 + lane * 4) * 4, s)) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int u = 0; u < PIECES; u++) {
            t[u] = from[u][0];
#pragma unroll
            for (int s = 1; s < WIDE_PARTS; s++) t[u].x += from[u][s].x, t[u].y += from[u][s].y, t[u].z += from[u][s].z, t[u].w += from[u][s].w;
        }
    };
    const exchange_turn turn(a.x, EXCHANGE ? sh.exchange : 0);
    /* A lane's sums are two pairs, in a message's row the first pairs of all lanes, then the second ones: lanes write, and send, whole lines.  Bands may
     * differ from device to device. */
    const auto word_of = [&](int n, int u, int pair) { return (int64_t)n * a.product.rows + pair * (a.product.rows / 2) + (p.row0 + u * 128) / 2 + lane * 2; };
    if (EXCHANGE) {
#pragma unroll 1
        for (int n = n0; n < n1; n += OUT_WARPS) {
            float4 t[PIECES];
            sum_parts(n, t);
#pragma unroll
            for (int u = 0; u < PIECES; u++) {
                if (!mine[u]) continue;
                turn.send(word_of(n, u, 0), make_uint2(__float_as_uint(t[u].x), __float_as_uint(t[u].y)));
                turn.send(word_of(n, u, 1), make_uint2(__float_as_uint(t[u].z), __float_as_uint(t[u].w)));
            }
        }
    }
#pragma unroll 1
    for (int n = n0; n < n1; n += OUT_WARPS) {
        float4 sums[PIECES];
        float square = 0;
        sum_parts(n, sums);
        if (EXCHANGE) {
            const float scale = a.fold ? rsqrtf(exchange_sum(turn, (int64_t)m * a.product.rows + n, sh.squares[n]) / a.width + a.eps) : 1.f;
#pragma unroll
            for (int u = 0; u < PIECES; u++) {
                if (!mine[u]) continue;
                float lo[2], hi[2];
                exchange_sum(turn, word_of(n, u, 0), exchange_line<float>(make_uint2(__float_as_uint(sums[u].x), __float_as_uint(sums[u].y))), lo);
                exchange_sum(turn, word_of(n, u, 1), exchange_line<float>(make_uint2(__float_as_uint(sums[u].z), __float_as_uint(sums[u].w))), hi);
                sums[u] = make_float4(scale * lo[0], scale * lo[1], scale * hi[0], scale * hi[1]);
            }
        }
#pragma unroll
        for (int u = 0; u < PIECES; u++) {
            if (!mine[u]) continue;
            const float4 t = sums[u];
            float4 v = old[u];
            v.x += t.x + bias[u].x, v.y += t.y + bias[u].y, v.z += t.z + bias[u].z, v.w += t.w + bias[u].w;
            *((float4 *)(a.out + n * a.ld + p.row0 + u * 128) + lane) = v;
            if (a.next)
                *((uint2 *)((bf16 *)a.ready.x + (size_t)n * a.product.rows + p.row0 + u * 128) + lane) =
                    make_uint2(kn_pack_bf16(v.x * next[u].x, v.y * next[u].y), kn_pack_bf16(v.z * next[u].z, v.w * next[u].w));
            square += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        }
        square = kn_warp_sum(square);
        if (a.next && lane == 0) a.ready.squares[band * WIDE_ROWS + n] = square;
        fetch_old(n + OUT_WARPS);
    }
    kn_cluster_sync(); /* nobody leaves whose sums are read */
#endif
}

/* Blocks for a band: the split for which a block reads the least, where x, which all blocks read from L2, counts more often (as measured).  False if no
 * split has a band small enough. */
struct out_split {
    int bands, parts, box;
};
bool split_of(const kn_context *c, const kn_mixer_step_args *a, out_split *s)
{
    const int n = wide_columns(a->rows);
    double best = 0;
    for (int parts = 1; parts <= WIDE_PARTS && parts <= a->heads; parts++) {
        const int most = c->clusters[parts] < KN_READY_PARTS ? c->clusters[parts] : (int)KN_READY_PARTS, units = a->hidden / 8;
        const int bands = most < units ? most : units, box = bands > 0 ? wide_box(a->hidden, bands) : 0;
        if (bands == 0 || box > WIDE_OUT_BAND) continue;
        const double columns = (double)kn_ceil(a->heads, parts) * STEP_DIM, bytes = (box + X_COUNTS * n) * columns * 2;
        if (best > 0 && bytes >= best) continue;
        best = bytes;
        *s = { bands, parts, box };
    }
    return best > 0;
}

bool is_x_proj(const kn_mixer_step_args *a) { return a->residual == NULL; } /* its sums are nobody's output yet */

template <int N, int GROUPS> plp_status launch(kn_context *c, const kn_mixer_step_args *a, const out_split &s, out_args &o, int available)
{
    const int scales = o.span * N * (int)sizeof(float), threads = all_threads(GROUPS);
    const int beside = (int)sizeof(out_shared) + scales;
    /* x_proj leaves room for blocks of the scan, which ask for their states meanwhile. */
    o.product.slots = is_x_proj(a) ? wide_slots(s.box, N, GROUPS, beside, X_PROJ_SHARED, WIDE_SLOTS) : wide_slots(s.box, N, GROUPS, beside, available);
    const dim3 grid(s.bands * s.parts);
    const size_t bytes = wide_bytes(s.box, N, GROUPS, o.product.slots) + scales;
    if (a->exchange != NULL) return step_launch<wide_out_kernel<N, GROUPS, true>>(c, grid, bytes, o, threads, s.parts);
    return step_launch<wide_out_kernel<N, GROUPS, false>>(c, grid, bytes, o, threads, s.parts);
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

bool mixer_step_wide_out_knows(const kn_context *c, const kn_mixer_step_args *a)
{
    out_split s;
    if (a->exchange != NULL && (a->all_groups > 0 || (int64_t)a->rows * (a->hidden + a->fold) > a->exchange->words)) return false;
    return a->hidden % 8 == 0 && split_of(c, a, &s) && (a->delta == NULL || (step_aligned(a->delta) && a->ld_delta % 4 == 0)) &&
           (a->out_bias == NULL || step_aligned(a->out_bias)) && (a->next_norm == NULL || step_aligned(a->next_norm));
}

int mixer_step_wide_out_bands(const kn_context *c, const kn_mixer_step_args *a)
{
    out_split s;
    return split_of(c, a, &s) ? s.bands : 0;
}

/* How many clusters there is room for: multiprocessors come in groups that parts do not divide, other ones on each card. */
plp_status mixer_step_wide_create(kn_context *c)
{
    if (!c->hopper) return PLP_OK;
    int most;
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->options.device)));
    PLP_TRY((step_prepare<wide_out_kernel<WIDE_ROWS, OUT_GROUPS, true>>(c)));
    c->clusters[1] = c->sms;
    for (int parts = 2; parts <= WIDE_PARTS; parts++) {
        cudaLaunchAttribute cluster = {};
        cluster.id = cudaLaunchAttributeClusterDimension;
        cluster.val.clusterDim = { (unsigned)parts, 1, 1 };
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(c->sms / parts * parts);
        config.blockDim = dim3(all_threads(OUT_GROUPS));
        config.dynamicSmemBytes = most - 8192; /* the static part is no more */
        config.attrs = &cluster;
        config.numAttrs = 1;
        if (cudaOccupancyMaxActiveClusters(&c->clusters[parts], (wide_out_kernel<WIDE_ROWS, OUT_GROUPS, true>), &config) == cudaSuccess) continue;
        cudaGetLastError(); /* a part of a device may have none */
        c->clusters[parts] = 0;
    }
    return PLP_OK;
}

plp_status mixer_step_wide_out(kn_context *c, const kn_mixer_step_args *a, const step_work *w)
{
    plp_status st = PLP_OK;
    out_split s;
    int available;
    split_of(c, a, &s);
    const int inner = step_inner(a);
    const bool norm = a->gate_weight != NULL, add = a->delta == NULL;
    out_args o = { { {}, a->hidden, a->rows, s.box, a->heads, 0 }, {}, a->out_bias, w->squares, add ? a->residual : a->delta,
                   add ? a->hidden : a->ld_delta, add ? a->next_norm : NULL, a->ready, add, norm && !a->fold, a->fold,
                   a->exchange != NULL ? *a->exchange : kn_exchange{}, s.bands, s.parts, a->heads,
                   norm ? a->gate_groups : 1, 1, (float)a->gate_width, (float)a->gate_eps, {} };
    o.first[1] = (short)a->heads;
    for (int g = 0; norm && g <= a->gate_groups; g++) o.first[g] = (short)(a->gate_first[g] / STEP_DIM);
    o.span = span_of(o);
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->options.device)));
    /* Small blocks leave room for those of the kernel behind; of many rows, more warps are sooner done with the sums, but x_proj has few for each. */
    const bool one = s.box <= 64 && (a->rows <= 16 || is_x_proj(a));
    wide_by_rows(a->rows, [&](auto n) {
        constexpr int N = decltype(n)::value;
        st = kn_tensor_map(&o.w, a->out_proj, a->hidden, inner, inner, s.box);
        if (st == PLP_OK) st = kn_tensor_map(&o.product.x, w->v, a->rows, inner, inner, N);
        if (st == PLP_OK) st = one ? launch<N, 1>(c, a, s, o, available) : launch<N, OUT_GROUPS>(c, a, s, o, available);
    });
    return st;
}
