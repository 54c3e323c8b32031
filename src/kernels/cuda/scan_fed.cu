/* src/kernels/cuda/scan_fed.cu -- kn->scan for 16-bit values and 8, 16 or 32 states, where rows can be read in pairs.
 *
 * An exponential for every state and token is what this takes at least, and whatever else is issued must fit beside it.  So warps have roles.
 * Those that feed fetch dt, x, z, B and C a stage ahead, make dt and dt x of them, once for all states of a channel, and a stage later
 * finish y: the sum over the states, D x, the gate.  Those that scan do nothing but h = e^(A dt) h + B dt x and C h: a warp has four states of
 * 32 (or twice four of 16) channels, so that B and C are one read of shared memory for all of its threads, and no sum crosses lanes.  Stages
 * lie in two buffers, each with a barrier for "full" and one for "empty".  A whole stage is straight-line code: there are two warps that scan
 * to a scheduler at most, and what they wait for must be asked for long before. */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/scan.cuh"

#include <climits>

namespace {

constexpr int NP = 4; /* states of a thread that scans */

/* N states, CH channels a block. */
template <int N, int CH> struct shape {
    static constexpr int STAGE = N > 16 ? 16 : 32; /* tokens */
    static constexpr int SCAN = CH * N / NP, FEED = 4 * CH, THREADS = SCAN + FEED;
    /* A thread that feeds has two channels of every STEP-th token, OWN times, and two values of B, and of C, of every BC_STEP-th. */
    static constexpr int PAIRS = CH / 2, STEP = FEED / PAIRS, OWN = STAGE / STEP, BC_STEP = FEED / (N / 2), BC_OWN = STAGE / BC_STEP;
    static constexpr int RESIDENT = 512 / THREADS; /* blocks that a multiprocessor should hold */
    struct stage {
        float2 dt[STAGE][CH]; /* dt, dt x */
        float B[STAGE][N], C[STAGE][N];
        float y[N / NP][STAGE][CH]; /* C h of four states each */
        uint2 raw[STAGE][PAIRS];    /* x and z of two channels, for whoever wrote them */
    };
};

/* Who has a stage: it is FULL when those that feed have told so, EMPTY when those that scan have.  Named barriers, two of each, at which one
 * side arrives and the other waits.  compute-sanitizer's racecheck does not follow an arrival there: in a build for it they are mbarriers. */
enum { FULL = 1, EMPTY = 3, SUMS = 5 };
template <class S> struct gates {
#ifdef KN_RACECHECK
    uint32_t bars;
    __device__ __forceinline__ gates()
    {
        __shared__ uint64_t memory[SUMS];
        bars = kn_shared(memory);
        if (threadIdx.x == 0)
            for (int i = FULL; i < SUMS; i++) kn_bar_init(bars + 8 * i, i < EMPTY ? S::FEED : S::SCAN);
        __syncthreads();
    }
    __device__ __forceinline__ void tell(int what, int stage) const { kn_bar_arrive(bars + 8 * (what + stage % 2)); }
    __device__ __forceinline__ void wait(int what, int stage) const { kn_bar_wait(bars + 8 * (what + stage % 2), stage / 2 % 2); }
#else
    __device__ __forceinline__ void tell(int what, int stage) const
    {
        asm volatile("bar.arrive %0, %1;" ::"r"(what + stage % 2), "n"(S::THREADS) : "memory");
    }
    __device__ __forceinline__ void wait(int what, int stage) const
    {
        asm volatile("bar.sync %0, %1;" ::"r"(what + stage % 2), "n"(S::THREADS) : "memory");
    }
#endif
};

template <class T> __device__ __forceinline__ float2 floats_of(uint32_t pair);
template <> __device__ __forceinline__ float2 floats_of<__nv_bfloat16>(uint32_t pair) /* one instruction each */
{
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <> __device__ __forceinline__ float2 floats_of<__half>(uint32_t pair) { return __half22float2(*(const __half2 *)&pair); }

/* What a thread has of a stage of one of the arrays: OWN pairs of values, in rows STEP apart.  Bytes from the stage's first row are 32 bits and
 * stay, so that an access costs one addition. */
template <class T, int OWN, int STEP> struct strip {
    char *at; /* the stage */
    uint32_t ld, offset[OWN];
    __device__ __forceinline__ strip(const void *p, int64_t first, int64_t ld, int row, int column)
        : at((char *)p + first * ld * sizeof(T)), ld((uint32_t)(ld * sizeof(T)))
    {
        find(row, column, INT_MAX);
    }
    __device__ __forceinline__ void find(int row, int column, int rows) /* in a stage of fewer rows the last one stands for those behind it */
    {
#pragma unroll
        for (int k = 0; k < OWN; k++) offset[k] = min(row + k * STEP, rows - 1) * ld + column * (int)sizeof(T);
    }
    __device__ __forceinline__ uint32_t *pair(int k) const { return (uint32_t *)(at + offset[k]); }
    __device__ __forceinline__ void advance(int rows) { at += (int64_t)ld * rows; }
};

/* The stages of a piece for a thread that feeds, i-th of FEED. */
template <class T, int N, int CH, int PASS>
__device__ __forceinline__ void feed(const kn_scan_args &a, const scan_pieces &cut, const scan_place &p,
                                     const gates<shape<N, CH>> &gates, typename shape<N, CH>::stage *stages, int i)
{
    using S = shape<N, CH>;
    const int pair = i % S::PAIRS, row = i / S::PAIRS, bc_row = i / (N / 2), n = i % (N / 2) * 2;
    const bool valid = (int)blockIdx.x * CH + 2 * pair < a.channels; /* rows are whole pairs */
    const int c = valid ? blockIdx.x * CH + 2 * pair : a.channels - 2;
    const float2 bias = a.dt_bias != NULL ? make_float2(a.dt_bias[c], a.dt_bias[c + 1]) : make_float2(0.f, 0.f);
    const float2 skip = PASS == 2 && a.D != NULL ? make_float2(a.D[c], a.D[c + 1]) : make_float2(0.f, 0.f);
    const int tokens = p.last - p.first, count = (tokens + S::STAGE - 1) / S::STAGE, whole = tokens / S::STAGE; /* stages; those that are full */
    const int64_t first = p.row0 + p.first;
    strip<T, S::OWN, S::STEP> dts(a.dt, first, a.ld_dt, row, c), xs(a.x, first, a.ld_x, row, c), zs(a.z, first, a.ld_z, row, c),
        ys(a.y, first, a.ld_y, row, c);
    strip<T, S::BC_OWN, S::BC_STEP> Bs(a.B, first, a.ld_bc, bc_row, n), Cs(a.C, first, a.ld_bc, bc_row, n);
    uint32_t dt[S::OWN], x[S::OWN], z[S::OWN], B[S::BC_OWN], C[S::BC_OWN];
    float2 total = make_float2(0.f, 0.f);
    const auto fetch = [&](int stage) {
        if (stage >= whole) {
            const int left = tokens - stage * S::STAGE;
            dts.find(row, c, left), xs.find(row, c, left), zs.find(row, c, left);
            Bs.find(bc_row, n, left), Cs.find(bc_row, n, left);
        }
#pragma unroll
        for (int k = 0; k < S::OWN; k++) {
            dt[k] = *dts.pair(k);
            x[k] = *xs.pair(k);
            if (PASS == 2) z[k] = *zs.pair(k);
        }
#pragma unroll
        for (int k = 0; k < S::BC_OWN; k++) {
            B[k] = *Bs.pair(k);
            if (PASS == 2) C[k] = *Cs.pair(k);
        }
        dts.advance(S::STAGE), xs.advance(S::STAGE), zs.advance(S::STAGE), Bs.advance(S::STAGE), Cs.advance(S::STAGE);
    };
    const auto prepare = [&](int stage) {
        typename S::stage &to = stages[stage % 2];
#pragma unroll
        for (int k = 0; k < S::BC_OWN; k++) {
            const int t = bc_row + k * S::BC_STEP;
            *(float2 *)&to.B[t][n] = floats_of<T>(B[k]);
            if (PASS == 2) *(float2 *)&to.C[t][n] = floats_of<T>(C[k]);
        }
#pragma unroll
        for (int k = 0; k < S::OWN; k++) {
            const int t = row + k * S::STEP;
            const float2 raw = floats_of<T>(dt[k]), v = floats_of<T>(x[k]);
            float d0 = scan_softplus(raw.x + bias.x), d1 = scan_softplus(raw.y + bias.y);
            if (stage >= whole && t >= tokens - stage * S::STAGE) d0 = d1 = 0.f; /* the decay is 1, and nothing is added */
            *(float4 *)&to.dt[t][2 * pair] = make_float4(d0, d0 * v.x, d1, d1 * v.y);
            if (PASS == 2) to.raw[t][pair] = make_uint2(x[k], z[k]);
            if (PASS == 1) total.x += d0, total.y += d1;
        }
    };
    const auto finish = [&](int stage) {
        const typename S::stage &from = stages[stage % 2];
        kn_pack<T, 2> out[S::OWN]; /* stored behind all sums: a store that may not be is a branch, which nothing is moved across */
#pragma unroll
        for (int k = 0; k < S::OWN; k++) {
            const int t = row + k * S::STEP;
            float2 part[N / NP];
#pragma unroll
            for (int g = 0; g < N / NP; g++) part[g] = *(const float2 *)&from.y[g][t][2 * pair];
#pragma unroll
            for (int n = N / NP / 2; n > 0; n /= 2)
#pragma unroll
                for (int g = 0; g < n; g++) part[g].x += part[g + n].x, part[g].y += part[g + n].y;
            const uint2 raw = from.raw[t][pair];
            const float2 v = floats_of<T>(raw.x), gate = floats_of<T>(raw.y);
            out[k].v[0] = kn_as<T>(__fmaf_rn(skip.x, v.x, part[0].x) * kn_silu(gate.x));
            out[k].v[1] = kn_as<T>(__fmaf_rn(skip.y, v.y, part[0].y) * kn_silu(gate.y));
        }
        const int left = stage < whole ? S::STAGE : tokens - stage * S::STAGE;
#pragma unroll
        for (int k = 0; k < S::OWN; k++)
            if (valid && row + k * S::STEP < left) *(kn_pack<T, 2> *)ys.pair(k) = out[k];
        ys.advance(S::STAGE);
    };
    fetch(0);
    for (int stage = 0; stage < count + (PASS == 2 ? 2 : 0); stage++) {
        if (stage >= 2) {
            gates.wait(EMPTY, stage - 2);
            if (PASS == 2) finish(stage - 2);
        }
        if (stage >= count) continue;
        prepare(stage);
        gates.tell(FULL, stage);
        if (stage + 1 < count) fetch(stage + 1);
    }
    if (PASS == 2) return;
    __shared__ float2 sums[S::STEP][S::PAIRS]; /* of dt, by several threads */
    sums[row][pair] = total;
    asm volatile("bar.sync %0, %1;" ::"r"((int)SUMS), "n"(S::FEED) : "memory");
    if (row > 0 || !valid) return;
    float *to = scan_piece_at(cut, a, p.piece) + (int64_t)a.state * a.channels + c;
    for (int k = 1; k < S::STEP; k++) total.x += sums[k][pair].x, total.y += sums[k][pair].y;
    to[0] = total.x, to[1] = total.y;
}

/* grid: (channels / CH, pieces of the longest slice, prefill sequences) */
template <class T, int N, int CH, int PASS>
__global__ void __launch_bounds__(shape<N, CH>::THREADS, shape<N, CH>::RESIDENT)
    fed_kernel(kn_scan_args a, kn_batch b, scan_pieces cut, const int *snap_start, const int *snap_slot)
{
    using S = shape<N, CH>;
    extern __shared__ __align__(16) char shared[];
    typename S::stage *stages = (typename S::stage *)shared;
    scan_place p;
    if (!scan_find<PASS>(b, cut, p)) return;
    const gates<S> gates;
    if (threadIdx.x >= S::SCAN) return feed<T, N, CH, PASS>(a, cut, p, gates, stages, threadIdx.x - S::SCAN);

    const int channel = threadIdx.x % CH, group = threadIdx.x / CH;
    const bool valid = blockIdx.x * CH + channel < a.channels;
    const int c = valid ? blockIdx.x * CH + channel : a.channels - 1;
    const auto number = [&](int j) { return group * NP + j; };
    float A[NP], h[NP];
    scan_begin<PASS>(a, b, cut, p, c, valid, number, A, h);
    scan_snaps snaps = PASS == 2 ? scan_snaps_of(a, p, snap_start) : scan_snaps{ -1, 0 };
    const auto keep = [&]() {
        const int slot = snap_slot[snaps.snap++];
        snaps.until = a.block;
        if (slot >= 0) scan_keep(a, slot, c, valid, number, h);
    };
    for (int stage = 0, t0 = p.first; t0 < p.last; stage++, t0 += S::STAGE) {
        typename S::stage &at = stages[stage % 2];
        const auto token = [&](int t) { /* products and sums are spelt out: they must round alike wherever this is unrolled */
            const float2 dt = at.dt[t][channel];
            float B[NP], C[NP], y = 0.f;
            kn_load<NP>(&at.B[t][group * NP], B);
            if (PASS == 2) kn_load<NP>(&at.C[t][group * NP], C);
#pragma unroll
            for (int j = 0; j < NP; j++) {
                h[j] = __fmaf_rn(kn_exp2(__fmul_rn(dt.x, A[j])), h[j], __fmul_rn(dt.y, B[j]));
                if (PASS == 2) y = j == 0 ? __fmul_rn(h[j], C[j]) : __fmaf_rn(h[j], C[j], y);
            }
            return y;
        };
        gates.wait(FULL, stage);
        if (snaps.until < 0 || snaps.until > S::STAGE || (snaps.until == S::STAGE && t0 + S::STAGE <= p.last)) { /* behind the last token dt is 0 */
            float y[S::STAGE]; /* stored behind the last read: nothing then keeps reads from being moved ahead */
#pragma unroll
            for (int t = 0; t < S::STAGE; t++) y[t] = token(t);
#pragma unroll
            for (int t = 0; t < S::STAGE && PASS == 2; t++) at.y[group][t][channel] = y[t];
            if (snaps.until > 0 && (snaps.until -= S::STAGE) == 0) keep();
        } else {
            for (int t = 0; t < S::STAGE && t0 + t < p.last; t++) {
                at.y[group][t][channel] = token(t);
                if (--snaps.until == 0) keep();
            }
        }
        if (PASS == 2 || t0 + 2 * S::STAGE < p.last) gates.tell(EMPTY, stage); /* where somebody waits for it */
    }
    if (PASS == 1) scan_leave(a, scan_piece_at(cut, a, p.piece), c, valid, number, h);
    else if (p.last == p.rows) scan_keep(a, b.dst_slot[p.s], c, valid, number, h);
}

template <class T, int N, int CH, int PASS>
plp_status launch(kn_context *c, dim3 grid, const kn_scan_args *a, const kn_batch *b, scan_pieces cut, const int *snap_start, const int *snap_slot)
{
    using S = shape<N, CH>;
    const int bytes = 2 * (int)sizeof(typename S::stage);
    PLP_TRY(KN_CUDA(cudaFuncSetAttribute(fed_kernel<T, N, CH, PASS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)));
    fed_kernel<T, N, CH, PASS><<<grid, S::THREADS, bytes, c->stream>>>(*a, *b, cut, snap_start, snap_slot);
    return KN_LAUNCHED();
}

template <class T, int N>
plp_status run(kn_context *c, const kn_scan_args *a, const kn_batch *b, scan_pieces cut, const int *snap_start, const int *snap_slot)
{
    const int seqs = b->seqs - b->decodes;
    const unsigned blocks = (unsigned)kn_ceil(a->channels, 32), halves = (unsigned)kn_ceil(a->channels, 16);
    const int count = scan_cut(c, a, b, (int)(c->sms * shape<N, 32>::RESIDENT / blocks), &cut.length);
    if (count > 1) {
        PLP_TRY((launch<T, N, 32, 1>(c, dim3(blocks, count - 1, seqs), a, b, cut, snap_start, snap_slot)));
        return launch<T, N, 32, 2>(c, dim3(blocks, count, seqs), a, b, cut, snap_start, snap_slot);
    }
    /* Every multiprocessor takes as long as it has channels: smaller blocks where that spreads them better. */
    const int64_t load = kn_ceil((int64_t)blocks * seqs, c->sms) * 2, spread = kn_ceil((int64_t)halves * seqs, c->sms);
    if (spread < load) return launch<T, N, 16, 2>(c, dim3(halves, 1, seqs), a, b, cut, snap_start, snap_slot);
    return launch<T, N, 32, 2>(c, dim3(blocks, 1, seqs), a, b, cut, snap_start, snap_slot);
}

} // namespace

bool scan_fed_takes(const kn_context *c, const kn_scan_args *a)
{
    const plp_dtype act = c->options.act;
    const auto pairs = [&](const void *p, int64_t ld) { return kn_aligned(p, ld, act, 4) && ld < 1 << 24; }; /* a stage's bytes: 32 bits */
    return act != PLP_F32 && (a->state == 8 || a->state == 16 || a->state == 32) && a->channels % 2 == 0 && pairs(a->dt, a->ld_dt) &&
           pairs(a->x, a->ld_x) && pairs(a->z, a->ld_z) && pairs(a->y, a->ld_y) && pairs(a->B, a->ld_bc) && pairs(a->C, a->ld_bc);
}

plp_status scan_fed_run(kn_context *c, const kn_scan_args *a, const kn_batch *b, scan_pieces cut, const int *snap_start, const int *snap_slot)
{
    const bool bf16 = c->options.act == PLP_BF16;
    if (a->state == 8) return (bf16 ? run<__nv_bfloat16, 8> : run<__half, 8>)(c, a, b, cut, snap_start, snap_slot);
    if (a->state == 16) return (bf16 ? run<__nv_bfloat16, 16> : run<__half, 16>)(c, a, b, cut, snap_start, snap_slot);
    return (bf16 ? run<__nv_bfloat16, 32> : run<__half, 32>)(c, a, b, cut, snap_start, snap_slot);
}
