/* src/kernels/cuda/ssd_hopper.cu -- kn->ssd as one kernel for sm_90a: head dimension 64, state size 64 or 128, bf16 activations.
 *
 * A block walks the 64-token chunks of a segment for one or two heads of a group.  One consumer warpgroup a head keeps the state S (64, N)
 * in registers, float32, for the whole segment.  A producer warpgroup loads tiles with the copy engine (one thread) and computes dt, the
 * decays and their running sum (up to three warps).  All products have M = head dimension, so that the state and X^T are register operands:
 *
 *     CB[i,j]  = C B^T                            P[i,j] = CB 2^(a_i - a_j) dt_j, causal, D on the diagonal    (to shared memory, bf16)
 *     Y^T[p,i] = (S C^T) 2^a_i + X^T P^T          S = 2^aQ S + X'^T B,  X' = x dt_j 2^(aQ - a_j)
 *
 * a_i: running sum of dt A log2(e) within the chunk; dt_j is folded into the exponent, b_j = a_j - log2 dt_j.  A chunk's order: issue
 * X P, the next chunk's C B^T and the state's product | write y | next P under the state's product | issue S C^T, scale S and x under it.
 *
 * Chunks end at absolute multiples of 64 tokens of the sequence.  The first chunk of a slice may begin inside one: rows before the slice
 * (and behind it) get dt = 0 and zeroed x and B.  So slices that end on multiples of 64 give, to the bit, what the whole gives, as long as
 * a slice is one segment.  With few heads that leaves most of the GPU idle: then slices are cut into segments.  Pass 1 (the same kernel
 * without y) computes end state and decay of each piece from a zero start; pass 2 folds the pieces before its segment into its start.  A
 * deterministic context never cuts.
 *
 * kn->ssd_conv hands over x before its convolution (CONV): a further warpgroup convolves it in place, between the copy engine and the
 * consumers, in the arithmetic of conv.cu, so that x is neither written to memory nor read once more.
 *
 * A product may be in flight across straight-line code and uniform branches, but not across the loop's back edge nor be issued inside a
 * condition: the compiler then waits at once (its notes C7514, C7517 say so). */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/ssd.cuh"

#include <algorithm>
#include <cmath>

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#    pragma nv_diag_suppress 177 /* the kernel's body is left out, and what it alone uses is unused */
#endif

namespace {

constexpr int Q = 64;    /* tokens of a chunk                */
constexpr int P = 64;    /* head dimension: M of every wgmma */
constexpr int PIECES = 640; /* piece-heads the work space holds */
constexpr float LOG2E = 1.4426950408889634f;

struct kernel_args {
    kn_ssm_args a;
    const int *src_slot, *dst_slot;
    const kn_ssd_segment *segments;
    const kn_ssd_unit *units;
    const int *snap_slot;
    float *state, *decay; /* (pieces, heads, P, N) end state of a piece started from zero; (pieces, heads) log2 of its decay */
    /* CONV: x is the first heads * P channels of this convolution, whose weights, bias and states count here */
    kn_conv_args conv;
    const int *start;    /* of the batch */
    const int64_t *past;
};

struct chunk_decays { /* one chunk and head, written by a producer warp */
    float a[Q];       /* running sum of dt A log2(e)                */
    float b[Q];       /* a_j - log2 dt_j                            */
    float w[Q];       /* dt_j 2^(aQ - a_j)                          */
    float e[Q];       /* 2^a_i                                      */
    float cf[3][Q];   /* 2^(a_m - b_j), m = 16 (row + 1) - 1, j <= m: column factors of the 16-row blocks below the diagonal */
    float aQ, pad[3];
};

constexpr int WIDTH = 4, BEFORE = 4, HALO = 1024; /* of the convolution; rows fetched above a tile of x, the last three count; their room */

/* Shared memory of a block: stages of {x, B, C} tiles and of the rows above x, two buffers of P a head, the decays of each stage, the
 * barriers. */
template <int N, int NH, bool STATE_ONLY, bool CONV> struct layout {
    static constexpr int NT = N / 64; /* tiles of a row of B or C */
    static constexpr int X = 0, B = NH * KN_TILE, C = B + NT * KN_TILE, ABOVE = C + (STATE_ONLY ? 0 : NT * KN_TILE);
    static constexpr int STAGE = ABOVE + (CONV ? NH * HALO : 0);
    static constexpr int P_BYTES = STATE_ONLY ? 0 : 2 * NH * KN_TILE;
    static constexpr int DECAYS = NH * (int)sizeof(chunk_decays), BUDGET = 225 * 1024;
    static constexpr int FIT = (BUDGET - P_BYTES) / (STAGE + DECAYS), STAGES = FIT > 4 ? 4 : FIT;
    /* Warps that share the decays.  Waiting for a parity is sound only while the waiter is less than two phases behind, that is while
     * consecutive chunks of one warp are at most STAGES apart: no more warps than stages. */
    static constexpr int DECAY_WARPS = STAGES < 3 ? STAGES : 3;
    static constexpr int BYTES = 1024 + STAGES * (STAGE + DECAYS) + P_BYTES + 256;
    /* Warpgroups that convolve: two where the consumers are soon done with a chunk and leave registers for them. */
    static constexpr int CONVOLVERS = !CONV ? 0 : STATE_ONLY && NH == 2 ? 2 : 1, STRIPS = 4 * CONVOLVERS / NH; /* warps of a head */
    static constexpr int THREADS = (NH + 1 + CONVOLVERS) * 128;
    /* Registers of a thread, moved between the warpgroups once they run: at most 65536 a block.  0: as launched. */
    static constexpr int CONSUMER = CONVOLVERS == 2 ? 152 : CONV && NH == 2 ? 208 : CONV || NH == 2 ? 232 : 0;
    static constexpr int CONVOLVER = NH == 2 ? 64 : 104, PRODUCER = CONSUMER == 0 ? 0 : CONSUMER == 208 ? 32 : 40;
    /* With few stages, x is waited for where it is needed, late in a chunk's order: the convolution then has two chunks' time. */
    static constexpr bool APART = CONV && STAGES < 4;
};
/* The barriers of a stage: all has arrived (but x where it is waited for apart); the consumers are done with it; the raw x has arrived; x
 * is convolved. */
struct barriers {
    uint32_t full, empty, raw, ready; /* of stage 0; the others follow 8 bytes apart */
};

/* ln(1 + e^x), linear above 20; a short series where 1 + e^x would round e^x away */
__device__ __forceinline__ float softplus(float x)
{
    const float e = kn_exp2(fminf(x, 20.f) * LOG2E);
    const float s = e < 0.03f ? e * (1.f - e * (0.5f - e * (1.f / 3 - e * 0.25f))) : 0.69314718f * __log2f(1.f + e);
    return x <= 20.f ? s : x; /* NaN stays one, and becomes dt_min */
}

/* P of rows 16 W .. 16 W + 15, one copy a warp so that all is straight-line code.  Below the diagonal blocks 2^(a_i - b_j) =
 * 2^(a_i - a_m) 2^(a_m - b_j), m = 16 W - 1: both are at most 1 (times dt), so nothing overflows, and the second comes from the producer.
 * Tiles above the diagonal stay zero from the start. */
template <int W> __device__ __forceinline__ void p_block(const float (&cb)[32], const chunk_decays *v, float D, uint32_t to, int lane)
{
    const int g = lane >> 2, t4 = lane & 3;
    const float ai0 = v->a[16 * W + g], ai1 = v->a[16 * W + g + 8];
    uint32_t pf[4 * W + 4];
    if (W > 0) {
        const float am = v->a[16 * (W > 0 ? W : 1) - 1], r0 = kn_exp2(ai0 - am), r1 = kn_exp2(ai1 - am);
#pragma unroll
        for (int n = 0; n < 2 * W; n++) {
            const float2 f = *(const float2 *)&v->cf[W > 0 ? W - 1 : 0][8 * n + 2 * t4];
            pf[2 * n] = kn_pack_bf16(cb[4 * n] * r0 * f.x, cb[4 * n + 1] * r0 * f.y);
            pf[2 * n + 1] = kn_pack_bf16(cb[4 * n + 2] * r1 * f.x, cb[4 * n + 3] * r1 * f.y);
        }
    }
    {
        const float *q = &cb[8 * W];
        const float2 b0 = *(const float2 *)&v->b[16 * W + 2 * t4], b1 = *(const float2 *)&v->b[16 * W + 8 + 2 * t4];
        const int j = 2 * t4; /* within the 8x8 blocks on the diagonal */
        float p0 = q[0] * kn_exp2(ai0 - b0.x), p1 = q[1] * kn_exp2(ai0 - b0.y);
        float p2 = q[2] * kn_exp2(ai1 - b0.x), p3 = q[3] * kn_exp2(ai1 - b0.y);
        float p6 = q[6] * kn_exp2(ai1 - b1.x), p7 = q[7] * kn_exp2(ai1 - b1.y);
        p0 = j < g ? p0 : j == g ? p0 + D : 0.f;
        p1 = j + 1 < g ? p1 : j + 1 == g ? p1 + D : 0.f;
        p6 = j < g ? p6 : j == g ? p6 + D : 0.f;
        p7 = j + 1 < g ? p7 : j + 1 == g ? p7 + D : 0.f;
        pf[4 * W] = kn_pack_bf16(p0, p1);
        pf[4 * W + 1] = kn_pack_bf16(p2, p3);
        pf[4 * W + 2] = 0;
        pf[4 * W + 3] = kn_pack_bf16(p6, p7);
    }
    const int r = 16 * W + (lane & 15); /* matrices: rows 0-7 | 8-15 of tile n, then of tile n + 1 */
#pragma unroll
    for (int n = 0; n < 2 * W + 2; n += 2)
        kn_stmatrix(to + kn_swizzled(r, n + (lane >> 4)), pf[2 * n], pf[2 * n + 1], pf[2 * n + 2], pf[2 * n + 3]);
}

/* A warpgroup's share of a state (64, N) in memory: S[4 i + {0, 1}] is row 16 w + g, columns 8 i + 2 t4 + {0, 1}; {2, 3} 8 rows below. */
template <int N, class T, class F> __device__ __forceinline__ void each_pair(T *p, F f)
{
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
        f(4 * i, (kn_pack<T, 2> *)(p + 8 * i));
        f(4 * i + 2, (kn_pack<T, 2> *)(p + 8 * N + 8 * i));
    }
}
template <int N, class T> __device__ __forceinline__ void read_state(float (&S)[N / 2], const T *p)
{
    each_pair<N>((T *)p, [&](int i, const kn_pack<T, 2> *v) {
        const kn_pack<T, 2> pair = *v;
        S[i] = kn_float(pair.v[0]);
        S[i + 1] = kn_float(pair.v[1]);
    });
}
template <int N, class T> __device__ __forceinline__ void write_state(const float (&S)[N / 2], T *p)
{
    each_pair<N>(p, [&](int i, kn_pack<T, 2> *v) { *v = { kn_as<T>(S[i]), kn_as<T>(S[i + 1]) }; });
}
template <int N> __device__ __forceinline__ void read_slot(float (&S)[N / 2], const kn_ssm_args &a, int64_t at)
{
    if (a.state_dtype == PLP_BF16) read_state<N>(S, (const __nv_bfloat16 *)a.h + at);
    else if (a.state_dtype == PLP_F16) read_state<N>(S, (const __half *)a.h + at);
    else read_state<N>(S, (const float *)a.h + at);
}
template <int N> __device__ __forceinline__ void write_slot(const float (&S)[N / 2], const kn_ssm_args &a, int64_t at)
{
    if (a.state_dtype == PLP_BF16) write_state<N>(S, (__nv_bfloat16 *)a.h + at);
    else if (a.state_dtype == PLP_F16) write_state<N>(S, (__half *)a.h + at);
    else write_state<N>(S, (float *)a.h + at);
}

/* The producer's copying thread: chunk after chunk into the ring of stages. */
template <int N, int NH, bool STATE_ONLY, bool CONV>
__device__ __forceinline__ void copy_tiles(const CUtensorMap *mx, const CUtensorMap *mb, const CUtensorMap *mc, const CUtensorMap *above,
                                           const kn_ssd_segment &seg, const kn_ssd_unit &unit, uint32_t base, const barriers &bar)
{
    using L = layout<N, NH, STATE_ONLY, CONV>;
    const int chunks = (seg.rows + Q - 1) / Q, tiles = (CONV ? 0 : unit.heads) + L::NT * (STATE_ONLY ? 1 : 2);
    for (int c = 0; c < chunks; c++) {
        const int s = c % L::STAGES, row = seg.row0 + (STATE_ONLY ? chunks - 1 - c : c) * Q;
        const uint32_t full = bar.full + 8 * s, x_full = CONV ? bar.raw + 8 * s : full, stage = base + s * L::STAGE;
        if (c >= L::STAGES) kn_bar_wait(bar.empty + 8 * s, ((c / L::STAGES) - 1) & 1);
        kn_bar_expect(full, tiles * KN_TILE);
        if (CONV) kn_bar_expect(x_full, unit.heads * (KN_TILE + BEFORE * 128));
        for (int j = 0; j < L::NT; j++) kn_tile_load(stage + L::B + j * KN_TILE, mb, unit.group * N + j * 64, row, full);
        if (!STATE_ONLY)
            for (int j = 0; j < L::NT; j++) kn_tile_load(stage + L::C + j * KN_TILE, mc, unit.group * N + j * 64, row, full);
        for (int h = 0; h < unit.heads; h++) {
            kn_tile_load(stage + L::X + h * KN_TILE, mx, (unit.head0 + h) * P, row, x_full);
            if (CONV) kn_tile_load(stage + L::ABOVE + h * HALO, above, (unit.head0 + h) * P, row - BEFORE, x_full);
        }
    }
}

/* One of the producer's warps that take turns at the decays of (chunk, head). */
template <int N, int NH, bool STATE_ONLY, bool CONV>
__device__ __forceinline__ void compute_decays(const kn_ssm_args &a, const kn_ssd_segment &seg, const kn_ssd_unit &unit,
                                               chunk_decays *decays, const barriers &bar, int turn, int lane)
{
    using L = layout<N, NH, STATE_ONLY, CONV>;
    const int chunks = (seg.rows + Q - 1) / Q, units = chunks * unit.heads;
    const __nv_bfloat16 *raw = (const __nv_bfloat16 *)a.dt + seg.row0 * a.ld_dt + unit.head0;
    float now[2], next[2]; /* raw dt of this warp's next two units: their latency is longer than a unit's work */
    const auto exists = [&](int t) { return t >= seg.lead && t < seg.rows; };
    const auto first_row = [&](int u) { return (STATE_ONLY ? chunks - 1 - u / unit.heads : u / unit.heads) * Q + 2 * lane; };
    const auto load = [&](int u, float(&r)[2]) {
        const int t = first_row(u), h = u % unit.heads;
        r[0] = u < units && exists(t) ? kn_float(raw[t * a.ld_dt + h]) : 0.f;
        r[1] = u < units && exists(t + 1) ? kn_float(raw[(t + 1) * a.ld_dt + h]) : 0.f;
    };
    load(turn, now);
    load(turn + L::DECAY_WARPS, next);
    for (int u = turn; u < units; u += L::DECAY_WARPS) {
        const int c = u / unit.heads, h = u % unit.heads, s = c % L::STAGES, head = unit.head0 + h, t = first_row(u);
        const float bias = a.dt_bias != NULL ? a.dt_bias[head] : 0.f, A = a.A[head] * LOG2E;
        float d0 = softplus(now[0] + bias), d1 = softplus(now[1] + bias);
        now[0] = next[0];
        now[1] = next[1];
        load(u + 2 * L::DECAY_WARPS, next);
        d0 = exists(t) ? fminf(fmaxf(d0, a.dt_min), a.dt_max) : 0.f; /* outside the slice: decay 1, contribution 0 */
        d1 = exists(t + 1) ? fminf(fmaxf(d1, a.dt_min), a.dt_max) : 0.f;
        const float v0 = d0 * A, v1 = d1 * A;
        float sum = v0 + v1;
#pragma unroll
        for (int o = 1; o < 32; o <<= 1) {
            const float below = __shfl_up_sync(~0u, sum, o);
            if (lane >= o) sum += below;
        }
        const float aQ = __shfl_sync(~0u, sum, 31), a0 = sum - v1, a1 = sum;
        if (c >= L::STAGES) kn_bar_wait(bar.empty + 8 * s, ((c / L::STAGES) - 1) & 1);
        chunk_decays *v = decays + s * NH + h;
        if (!STATE_ONLY) {
            const float b0 = a0 - __log2f(d0), b1 = a1 - __log2f(d1); /* dt = 0 gives +inf, and 2^(a - inf) = 0 */
            *(float2 *)&v->a[2 * lane] = make_float2(a0, a1);
            *(float2 *)&v->b[2 * lane] = make_float2(b0, b1);
            *(float2 *)&v->e[2 * lane] = make_float2(kn_exp2(a0), kn_exp2(a1));
#pragma unroll
            for (int m = 0; m < 3; m++) {
                const float am = __shfl_sync(~0u, a1, 8 * m + 7);
                if (lane < 8 * m + 8) *(float2 *)&v->cf[m][2 * lane] = make_float2(kn_exp2(am - b0), kn_exp2(am - b1));
            }
        }
        *(float2 *)&v->w[2 * lane] = make_float2(kn_exp2(aQ - a0) * d0, kn_exp2(aQ - a1) * d1);
        if (lane == 0) v->aQ = aQ;
        __syncwarp();
        kn_warp_arrive(bar.full + 8 * s);
    }
}

/* The convolving warps: raw x of chunk after chunk, in place.  A lane has two channels of a head, a warp a strip of rows.  Order and
 * roundings are conv.cu's: what comes out is what kn->conv gives, to the bit. */
template <int N, int NH, bool STATE_ONLY>
__device__ __forceinline__ void convolve(const kernel_args &k, const kn_ssd_segment &seg, const kn_ssd_unit &unit, uint32_t base,
                                         const barriers &bar, int warp, int lane)
{
    using L = layout<N, NH, STATE_ONLY, true>;
    constexpr int STRIPS = L::STRIPS, ROWS = Q / STRIPS;
    constexpr int AHEAD = NH == 1 ? 4 : 8; /* rows in flight: with time to spare, fewer, which is less code beside the consumers' */
    const int h = warp / STRIPS, r0 = warp % STRIPS * ROWS, channel = (unit.head0 + h) * P + 2 * lane, chunks = (seg.rows + Q - 1) / Q;
    if (h >= unit.heads) return;
    const kn_conv_args &a = k.conv;
    float weight[2][WIDTH], bias[2] = { 0.f, 0.f };
#pragma unroll
    for (int j = 0; j < 2; j++) {
        kn_load<WIDTH>(a.weight + (int64_t)(channel + j) * WIDTH, weight[j]);
        if (a.bias != NULL) bias[j] = a.bias[channel + j];
    }
    const int start = k.start[seg.seq] - seg.row0; /* of the slice, from the segment's first row */
    const int64_t past = k.past[seg.seq];
    const int column = kn_swizzled(0, lane >> 2) + (lane & 3) * 4; /* where this lane's channels are, in row 0 */
    float win[WIDTH - 1][2]; /* the inputs before a row, oldest first */
    const auto slide = [&](const float(&now)[2]) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
#pragma unroll
            for (int i = 0; i + 1 < WIDTH - 1; i++) win[i][j] = win[i + 1][j];
            win[WIDTH - 2][j] = now[j];
        }
    };
    const auto advance = [&](const float(&now)[2]) {
        float out[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float sum = bias[j];
#pragma unroll
            for (int i = 0; i < WIDTH - 1; i++) sum += weight[j][i] * win[i][j];
            out[j] = kn_silu(sum + weight[j][WIDTH - 1] * now[j]);
        }
        slide(now);
        return kn_pack_bf16(out[0], out[1]);
    };

    for (int c = 0; c < chunks; c++) {
        const int s = c % L::STAGES, number = STATE_ONLY ? chunks - 1 - c : c, first = start - number * Q, to = seg.rows - number * Q;
        const uint32_t tile = base + s * L::STAGE + L::X + h * KN_TILE, above = base + s * L::STAGE + L::ABOVE + h * HALO;
        const auto at = [&](int r) { /* this lane's channels in row r of the tile, or above it */
            const int n = r < 0 ? BEFORE + r : r;
            return (((r < 0 ? above : tile) + column) ^ kn_swizzled(0, n & 7)) + n * 128;
        };
        kn_bar_wait(bar.raw + 8 * s, (c / L::STAGES) & 1);
        if (__builtin_expect(first <= r0 - (WIDTH - 1) && to >= r0 + ROWS, 1)) {
#pragma unroll
            for (int i = 0; i < WIDTH - 1; i++) {
                const uint32_t in = kn_shared_load(at(r0 - (WIDTH - 1) + i));
                win[i][0] = kn_bf16_lo(in), win[i][1] = kn_bf16_hi(in);
            }
            kn_named_sync(1 + NH + h, STRIPS * 32); /* the rows above a strip were read before they are overwritten */
#pragma unroll 1
            for (int r = r0; r < r0 + ROWS; r += AHEAD) {
                const uint32_t row = (tile + r * 128 + column) ^ kn_swizzled(0, AHEAD == 8 ? 0 : r & 7);
                uint32_t in[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; i++) in[i] = kn_shared_load((row ^ kn_swizzled(0, i)) + i * 128);
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    const float now[2] = { kn_bf16_lo(in[i]), kn_bf16_hi(in[i]) };
                    kn_shared_store((row ^ kn_swizzled(0, i)) + i * 128, advance(now));
                }
            }
        } else { /* the slice begins or ends here: rows of others must not enter a sum, not even times zero (they may be NaN) */
#pragma unroll 1
            for (int r = r0 - (WIDTH - 1); r < r0 + ROWS; r++) {
                float now[2] = { 0.f, 0.f };
                if (r >= first) {
                    const uint32_t in = kn_shared_load(at(r));
                    now[0] = kn_bf16_lo(in), now[1] = kn_bf16_hi(in);
                } else if (first - r < WIDTH && first - r <= past) { /* the state's last entry is the row before the slice */
                    const int64_t entry = ((int64_t)k.src_slot[seg.seq] * (WIDTH - 1) + WIDTH - 1 - (first - r)) * a.channels + channel;
                    now[0] = kn_load_any(a.state, a.state_dtype, entry);
                    now[1] = kn_load_any(a.state, a.state_dtype, entry + 1);
                }
                if (r == r0) kn_named_sync(1 + NH + h, STRIPS * 32);
                if (r < r0) {
                    slide(now);
                    continue;
                }
                const uint32_t out = advance(now);
                kn_shared_store(at(r), r >= first && r < to ? out : 0);
            }
        }
        kn_fence_async(); /* the copy engine overwrites the stage later */
        __syncwarp();
        kn_warp_arrive((L::APART ? bar.ready : bar.full) + 8 * s);
    }
}

/* One head's warpgroup. */
template <int N, int NH, bool STATE_ONLY, bool CONV>
__device__ __forceinline__ void consume(const kernel_args &k, const kn_ssd_segment &seg, const kn_ssd_unit &unit, uint8_t *base,
                                        uint8_t *p_buffers, const chunk_decays *decays, const barriers &bar, int hh, int w, int lane)
{
    using L = layout<N, NH, STATE_ONLY, CONV>;
    const kn_ssm_args &a = k.a;
    const int t4 = lane & 3, wt = threadIdx.x & 127, head = unit.head0 + hh, chunks = (seg.rows + Q - 1) / Q;
    const float D = STATE_ONLY || a.D == NULL ? 0.f : a.D[head];
    const int64_t share = (int64_t)(16 * w + (lane >> 2)) * N + 2 * t4; /* where this thread's part of a state begins */
    const auto slot_at = [&](int64_t slot) { return (slot * a.heads + head) * (P * N) + share; };
    const auto piece_at = [&](int64_t piece) { return k.state + (piece * a.heads + head) * (P * N) + share; };

    float S[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) S[i] = 0.f;
    if (STATE_ONLY) {
        if (seg.init >= 0) { /* pass 2 must not read the slot itself: its last segment may have written it */
            read_slot<N>(S, a, slot_at(k.src_slot[seg.seq]));
            write_state<N>(S, piece_at(seg.init));
#pragma unroll
            for (int i = 0; i < N / 2; i++) S[i] = 0.f;
        }
    } else {
        if (seg.init == KN_SSD_SLOT) read_slot<N>(S, a, slot_at(k.src_slot[seg.seq]));
        else if (seg.init >= 0) read_state<N>(S, (const float *)piece_at(seg.init));
        for (int j = seg.piece0; j < seg.piece0 + seg.pieces; j++) { /* the start of a segment: a scan over the pieces before it */
            const float decay = kn_exp2(k.decay[(int64_t)j * a.heads + head]);
            each_pair<N>(piece_at(j), [&](int i, const kn_pack<float, 2> *v) {
                const kn_pack<float, 2> pair = *v;
                S[i] = fmaf(S[i], decay, pair.v[0]);
                S[i + 1] = fmaf(S[i + 1], decay, pair.v[1]);
            });
        }
    }

    const int x_row = (lane & 7) + ((lane >> 4) << 3), x_unit = 2 * w + ((lane >> 3) & 1); /* addresses of ldmatrix and stmatrix.trans */
    uint32_t xf[Q / 16][4], xw[Q / 16][4]; /* X^T and X'^T, 16 tokens at a time */
    const auto load_x = [&](uint32_t xs) {
#pragma unroll
        for (int kk = 0; kk < Q / 16; kk++) kn_ldmatrix_t(xf[kk], xs + kn_swizzled(16 * kk + x_row, x_unit));
    };
    const auto scale_x = [&](const chunk_decays *v, float f) { /* rounded once */
#pragma unroll
        for (int kk = 0; kk < Q / 16; kk++) {
            float2 w0 = *(const float2 *)&v->w[16 * kk + 2 * t4], w1 = *(const float2 *)&v->w[16 * kk + 8 + 2 * t4];
            if (STATE_ONLY) {
                w0.x *= f;
                w0.y *= f;
                w1.x *= f;
                w1.y *= f;
            }
            xw[kk][0] = kn_pack_bf16(kn_bf16_lo(xf[kk][0]) * w0.x, kn_bf16_hi(xf[kk][0]) * w0.y);
            xw[kk][1] = kn_pack_bf16(kn_bf16_lo(xf[kk][1]) * w0.x, kn_bf16_hi(xf[kk][1]) * w0.y);
            xw[kk][2] = kn_pack_bf16(kn_bf16_lo(xf[kk][2]) * w1.x, kn_bf16_hi(xf[kk][2]) * w1.y);
            xw[kk][3] = kn_pack_bf16(kn_bf16_lo(xf[kk][3]) * w1.x, kn_bf16_hi(xf[kk][3]) * w1.y);
        }
    };
    const auto issue_state = [&](uint32_t bs) { /* S += X'^T B */
        const uint32_t low = kn_mn_major(bs);
        kn_touch(S);
        kn_wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < Q / 16; kk++) kn_wgmma_rs<1>(S, xw[kk], kn_descriptor(low, kk * 16 * 128), 1);
        kn_wgmma_commit();
    };
    /* Waits for the data of the c-th chunk, which is chunk `number` of the segment.  Rows of other slices must not enter a sum, not even
     * times zero (they may be NaN); both heads write the same zeros to B.  A convolved x has its own. */
    const auto wait_chunk = [&](int c, int number) {
        const int s = c % L::STAGES, from = number == 0 ? seg.lead : 0, to = min(Q, seg.rows - number * Q);
        uint8_t *stage = base + s * L::STAGE;
        kn_bar_wait(bar.full + 8 * s, (c / L::STAGES) & 1);
        if (from > 0 || to < Q) {
            for (int i = wt; i < Q * 8; i += 128) {
                const int row = i / 8, o = kn_swizzled(row, i % 8);
                if (row >= from && row < to) continue;
                if (!CONV) *(uint4 *)(stage + L::X + hh * KN_TILE + o) = make_uint4(0, 0, 0, 0);
                for (int j = 0; j < L::NT; j++) *(uint4 *)(stage + L::B + j * KN_TILE + o) = make_uint4(0, 0, 0, 0);
            }
            kn_fence_async();
            kn_warpgroup_sync(1 + hh);
        }
    };
    const auto wait_x = [&](int c) {
        if (L::APART) kn_bar_wait(bar.ready + 8 * (c % L::STAGES), (c / L::STAGES) & 1);
    };

    if (STATE_ONLY) {
        /* Chunks from last to first, so that S is a plain accumulator: nothing is rescaled, a product is queued behind the running one. */
        float run = 0.f; /* log2 of the decay of everything after this chunk */
#pragma unroll 2
        for (int c = 0; c < chunks; c++) {
            const int s = c % L::STAGES;
            const uint32_t stage = kn_shared(base) + s * L::STAGE;
            wait_chunk(c, chunks - 1 - c);
            wait_x(c);
            load_x(stage + L::X + hh * KN_TILE);
            scale_x(decays + s * NH + hh, kn_exp2(run));
            run += decays[s * NH + hh].aQ;
            issue_state(stage + L::B);
            kn_wgmma_wait<1>();
            if (c > 0) kn_warp_arrive(bar.empty + 8 * ((c - 1) % L::STAGES));
            __syncwarp();
        }
        kn_wgmma_wait<0>();
        kn_touch(S);
        if (wt == 0) k.decay[(int64_t)seg.piece0 * a.heads + head] = run;
        write_state<N>(S, piece_at(seg.piece0));
        return;
    }

    float cb[32], yt[32];
    const uint32_t ps = kn_shared(p_buffers) + hh * KN_TILE;
    const auto issue_cb = [&](int c) { /* CB = C B^T */
        const uint32_t stage = kn_shared(base) + (c % L::STAGES) * L::STAGE, lc = kn_k_major(stage + L::C), lb = kn_k_major(stage + L::B);
        kn_touch(cb);
        kn_wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < N / 16; kk++) {
            const int o = (kk / 4) * KN_TILE + (kk % 4) * 32;
            kn_wgmma_ss(cb, kn_descriptor(lc, o), kn_descriptor(lb, o), kk > 0);
        }
        kn_wgmma_commit();
    };
    const auto compute_p = [&](int c) { /* CB to P in shared memory, buffer c & 1 */
        const chunk_decays *v = decays + (c % L::STAGES) * NH + hh;
        const uint32_t to = ps + (c & 1) * NH * KN_TILE;
        switch (w) {
        case 0: p_block<0>(cb, v, D, to, lane); break;
        case 1: p_block<1>(cb, v, D, to, lane); break;
        case 2: p_block<2>(cb, v, D, to, lane); break;
        default: p_block<3>(cb, v, D, to, lane); break;
        }
        __syncwarp();
        kn_fence_async();
    };
    const auto off_diagonal = [&](int c) { /* Y^T = (S C^T) 2^a_i; under it S = 2^aQ S and X' */
        const int s = c % L::STAGES;
        wait_x(c); /* here, where no product is in flight */
        const uint32_t stage = kn_shared(base) + s * L::STAGE, lc = kn_k_major(stage + L::C);
        const chunk_decays *v = decays + s * NH + hh;
        uint32_t sb[N / 4];
#pragma unroll
        for (int i = 0; i < N / 4; i++) sb[i] = kn_pack_bf16(S[2 * i], S[2 * i + 1]);
        kn_touch(yt);
        kn_wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < N / 16; kk++) kn_wgmma_rs<0>(yt, sb + 4 * kk, kn_descriptor(lc, (kk / 4) * KN_TILE + (kk % 4) * 32), kk > 0);
        kn_wgmma_commit();
        load_x(stage + L::X + hh * KN_TILE);
        const float decay = kn_exp2(v->aQ);
#pragma unroll
        for (int i = 0; i < N / 2; i++) S[i] *= decay;
        scale_x(v, 1.f);
        kn_wgmma_wait<0>();
        kn_touch(yt);
#pragma unroll
        for (int n = 0; n < 8; n++) { /* column i = 8 n + 2 t4 (+ 1) */
            const float2 e = *(const float2 *)&v->e[8 * n + 2 * t4];
            yt[4 * n] *= e.x;
            yt[4 * n + 1] *= e.y;
            yt[4 * n + 2] *= e.x;
            yt[4 * n + 3] *= e.y;
        }
    };

    const int y_row = ((lane >> 1) & 8) + (((lane >> 1) & 3) << 1) + ((lane >> 3) & 1);
    __nv_bfloat16 *y = (__nv_bfloat16 *)a.y + seg.row0 * a.ld_y + head * P + 16 * w + 8 * (lane & 1);
    const int block_chunks = a.block / Q;
    for (int i = wt; i < KN_TILE / 16; i += 128) /* P above the diagonal */
        *(uint4 *)(p_buffers + hh * KN_TILE + 16 * i) = *(uint4 *)(p_buffers + (NH + hh) * KN_TILE + 16 * i) = make_uint4(0, 0, 0, 0);
    kn_fence_async();
    kn_warpgroup_sync(1 + hh);
    wait_chunk(0, 0);
    issue_cb(0);
    kn_wgmma_wait<0>();
    kn_touch(cb);
    compute_p(0);
    off_diagonal(0);
    for (int c = 0;; c++) {
        const int s = c % L::STAGES, from = c == 0 ? seg.lead : 0, to = seg.rows - c * Q, next = c + 1 < chunks ? c + 1 : c;
        const uint32_t stage = kn_shared(base) + s * L::STAGE, xs = stage + L::X + hh * KN_TILE;
        const uint32_t lp = kn_k_major(ps + (c & 1) * NH * KN_TILE);
        if (next > c) wait_chunk(next, next);
        kn_warpgroup_sync(1 + hh); /* P is complete, and every warp is done with the products that read the other buffer */
        kn_touch(yt);
        kn_wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < Q / 16; kk++) kn_wgmma_rs<0>(yt, xf[kk], kn_descriptor(lp, kk * 32), 1);
        kn_wgmma_commit();
        issue_cb(next);             /* for the next chunk (repeated for nothing after the last) */
        issue_state(stage + L::B);  /* both run while y is written */
        kn_wgmma_wait<2>();
        kn_touch(yt);
        /* Y^T to bf16, to an [i][p] tile in place of x (this warp alone reads and writes its 16 columns), to memory */
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            const float *q = &yt[4 * n];
            kn_stmatrix_t(xs + kn_swizzled(8 * n + x_row, x_unit), kn_pack_bf16(q[0], q[1]), kn_pack_bf16(q[2], q[3]),
                          kn_pack_bf16(q[4], q[5]), kn_pack_bf16(q[6], q[7]));
        }
        kn_wgmma_wait<1>();
        kn_touch(cb);
        compute_p(next); /* under the state's product; its fence also covers y in the x tile */
#pragma unroll
        for (int m = 0; m < 4; m++) { /* 32-byte pieces of rows, in an order without bank conflicts */
            const int i = 16 * m + y_row;
            const uint8_t *piece = base + s * L::STAGE + L::X + hh * KN_TILE + kn_swizzled(i, 2 * w + (lane & 1));
            if (i >= from && i < to) *(uint4 *)(y + (c * Q + i) * a.ld_y) = *(const uint4 *)piece;
        }
        __syncwarp();
        kn_wgmma_wait<0>();
        kn_touch(S);
        kn_warp_arrive(bar.empty + 8 * s);
        if (block_chunks > 0 && to >= Q) {
            const int done = seg.chunk0 + c + 1; /* chunks of the sequence */
            const int slot = done % block_chunks == 0 ? k.snap_slot[seg.snap + done / block_chunks] : -1;
            if (slot >= 0) write_slot<N>(S, a, slot_at(slot));
        }
        if (c + 1 >= chunks) break;
        off_diagonal(c + 1);
    }
    if (seg.last) write_slot<N>(S, a, slot_at(k.dst_slot[seg.seq]));
}

template <int REGISTERS, bool MORE> __device__ __forceinline__ void set_registers()
{
    if (REGISTERS == 0) return;
    if (MORE) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS > 0 ? REGISTERS : 24));
    else asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS > 0 ? REGISTERS : 24));
}

template <int N, int NH, bool STATE_ONLY, bool CONV>
__global__ void __launch_bounds__(layout<N, NH, STATE_ONLY, CONV>::THREADS, 1)
ssd_kernel(const __grid_constant__ CUtensorMap mx, const __grid_constant__ CUtensorMap mb, const __grid_constant__ CUtensorMap mc,
           const __grid_constant__ CUtensorMap above, const __grid_constant__ kernel_args k)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using L = layout<N, NH, STATE_ONLY, CONV>;
    extern __shared__ uint8_t raw[];
    /* rounded up as an offset: through a cast, the compiler would forget that this is shared memory */
    uint8_t *base = raw + (-kn_shared(raw) & 1023), *p_buffers = base + L::STAGES * L::STAGE;
    chunk_decays *decays = (chunk_decays *)(p_buffers + L::P_BYTES); /* (stages, NH) */
    const uint32_t bars = kn_shared(decays + L::STAGES * NH), ring = 8 * L::STAGES;
    const barriers bar = { bars, bars + ring, bars + 2 * ring, bars + 3 * ring };
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31;
    const kn_ssd_segment seg = k.segments[blockIdx.y];
    const kn_ssd_unit unit = k.units[blockIdx.x];

    if (threadIdx.x == 0) {
        for (int s = 0; s < L::STAGES; s++) {
            const int convolving = unit.heads * L::STRIPS; /* warps */
            kn_bar_init(bar.full + 8 * s, 1 + (unit.heads + (L::APART ? 0 : convolving)) * KN_WARP); /* the copies, a decay warp a head */
            kn_bar_init(bar.empty + 8 * s, unit.heads * 4 * KN_WARP); /* the warps of the active consumer warpgroups */
            if (CONV) kn_bar_init(bar.raw + 8 * s, 1);
            if (L::APART) kn_bar_init(bar.ready + 8 * s, convolving * KN_WARP);
        }
        kn_bar_init_done();
    }
    __syncthreads();
    if (CONV && warp >= NH * 4 + 4) {
        set_registers<L::CONVOLVER, false>();
        convolve<N, NH, STATE_ONLY>(k, seg, unit, kn_shared(base), bar, warp - NH * 4 - 4, lane);
    } else if (warp >= NH * 4) {
        set_registers<L::PRODUCER, false>();
        const int role = warp - NH * 4;
        if (role == 0 && lane == 0) copy_tiles<N, NH, STATE_ONLY, CONV>(&mx, &mb, &mc, &above, seg, unit, kn_shared(base), bar);
        if (role > 0 && role <= L::DECAY_WARPS) compute_decays<N, NH, STATE_ONLY, CONV>(k.a, seg, unit, decays, bar, role - 1, lane);
    } else {
        set_registers<L::CONSUMER, true>();
        const int hh = warp >> 2;
        if (hh < unit.heads) consume<N, NH, STATE_ONLY, CONV>(k, seg, unit, base, p_buffers, decays, bar, hh, warp & 3, lane);
    }
#endif
}

/* ------------------------------------------------------------------------------------------------------------------------- the cut
 * Microseconds that a block takes for a chunk (index: heads of a block - 1) in pass 2 and pass 1, and for everything else, as measured on
 * an H100.  They steer the choice of the cut alone. */
const double CHUNK_US[2] = { 1.25, 2.05 }, CHUNK1_US[2] = { 0.7, 1.2 }, FIXED_US = 6;

struct cut {
    int tokens, pieces, heads; /* of a segment; of a segment in pass 1; of a block */
};

int units_of(const kn_ssm_args *a, int heads, kn_ssd_unit *out)
{
    int n = 0;
    for (int h = 0; h < a->heads; n++) {
        const bool pair = heads == 2 && h + 1 < a->heads && a->host_group[h + 1] == a->host_group[h];
        if (out != NULL) out[n] = { h, pair ? 2 : 1, a->host_group[h] };
        h += pair ? 2 : 1;
    }
    return n;
}

/* Segments of both passes of one slice; *pieces counts the pieces of the work space. */
void cut_slice(const kn_ssm_args *a, const kn_batch *b, int s, const cut &by, kn_ssd_segment *first, int *n1, kn_ssd_segment *second,
               int *n2, int *pieces)
{
    const int64_t past = b->host_past[s];
    const int lead = (int)(past % Q), rows = lead + b->host_start[s + 1] - b->host_start[s], row0 = b->host_start[s] - lead;
    if (rows == lead) return;
    const int count = std::max(1, (rows + by.tokens - 1) / by.tokens), length = by.tokens / by.pieces, chunk0 = (int)(past / Q);
    kn_ssd_segment seg = {};
    seg.seq = s;
    seg.snap = a->block > 0 ? a->snap_start[s] - (int)(past / a->block) - 1 : 0;
    seg.init = past == 0 ? KN_SSD_ZERO : count == 1 ? KN_SSD_SLOT : (*pieces)++;
    const int init = seg.init, piece0 = *pieces;
    for (int g = 0; g < count; g++) {
        seg.row0 = row0 + g * by.tokens;
        seg.rows = std::min(by.tokens, rows - g * by.tokens);
        seg.lead = g == 0 ? lead : 0;
        seg.chunk0 = chunk0 + g * (by.tokens / Q);
        seg.piece0 = piece0;
        seg.pieces = g * by.pieces;
        seg.last = g == count - 1;
        second[(*n2)++] = seg;
    }
    for (int j = 0; j < (count - 1) * by.pieces; j++) {
        seg.row0 = row0 + j * length;
        seg.rows = length;
        seg.lead = j == 0 ? lead : 0;
        seg.init = j == 0 ? init : KN_SSD_ZERO;
        seg.piece0 = (*pieces)++;
        first[(*n1)++] = seg;
    }
}

bool longer(const kn_ssd_segment &a, const kn_ssd_segment &b) { return a.rows != b.rows ? a.rows > b.rows : a.row0 < b.row0; }

/* About how long a pass takes: between perfect packing and waves of equals, longest first. */
double pass_us(const kn_ssd_segment *seg, int n, int units, int sms, double chunk_us)
{
    double waves = 0, total = 0, longest = 0;
    for (int64_t i = 0; i < n; i++) {
        const double us = (seg[i].rows + Q - 1) / Q * chunk_us + FIXED_US;
        const int64_t begun = (i * units + sms - 1) / sms, after = ((i + 1) * units + sms - 1) / sms; /* waves that this one begins */
        waves += us * (double)(after - begun);
        total += us * units;
        longest = std::max(longest, us);
    }
    return n > 1 ? (waves + std::max(longest, total / sms)) / 2 : waves;
}

/* Cuts everything; false if the work space has too few pieces. */
bool build(kn_context *c, const kn_ssm_args *a, const kn_batch *b, const cut &by, kn_ssd_segment *segments, kn_ssd_segment *spare)
{
    kn_ssd_cuda *s = c->ssd;
    int n1 = 0, n2 = 0, pieces = 0;
    for (int i = b->decodes; i < b->seqs; i++) {
        cut_slice(a, b, i, by, segments, &n1, spare, &n2, &pieces);
        if (pieces * a->heads > PIECES) return false;
    }
    std::sort(segments, segments + n1, longer);
    std::sort(spare, spare + n2, longer);
    std::copy(spare, spare + n2, segments + n1);
    s->first_pass = n1;
    s->second_pass = n2;
    s->unit_heads = by.heads;
    return true;
}

cut best_cut(kn_context *c, const kn_ssm_args *a, const kn_batch *b, kn_ssd_segment *segments, kn_ssd_segment *spare)
{
    int64_t longest = 1, rows = 0;
    for (int s = b->decodes; s < b->seqs; s++) {
        const int64_t n = b->host_past[s] % Q + b->host_start[s + 1] - b->host_start[s];
        longest = std::max(longest, n);
        rows += n;
    }
    const int whole = (int)kn_ceil(longest, Q) * Q;
    cut best = { whole, 1, 1 };
    if (c->options.deterministic) return best;
    /* where the slices alone fill the GPU a few times over, cutting gains nothing and its search costs more than it finds */
    const int most = rows / longest * a->heads >= 4 * c->sms ? 1 : 32;
    double best_us = INFINITY;
    for (int heads = 1; heads <= 2; heads++)
        for (int n = 1; n <= most && (n == 1 || whole / n >= 4 * Q); n++)
            for (int pieces = 1; pieces <= (n == 1 ? 1 : 4); pieces++) {
                const cut by = { (int)kn_ceil(whole / n, Q) * Q, pieces, heads };
                if (by.tokens / Q % pieces || !build(c, a, b, by, segments, spare)) continue;
                const kn_ssd_cuda *s = c->ssd;
                const int units = units_of(a, heads, NULL);
                const double us = pass_us(segments + s->first_pass, s->second_pass, units, c->sms, CHUNK_US[heads - 1]) +
                                  pass_us(segments, s->first_pass, units, c->sms, CHUNK1_US[heads - 1]);
                if (us >= best_us) continue;
                best_us = us;
                best = by;
            }
    return best;
}

/* ---------------------------------------------------------------------------------------------------------------------- launching */
/* The map of matrix `which` (0 x, 1 B, 2 C, 3 the rows above tiles of x), made again only when it is another one: the layers of a step use
 * the same buffers. */
plp_status map_matrix(kn_context *c, int which, const void *p, int rows, int columns, int64_t ld)
{
    auto &seen = c->ssd->mapped[which];
    if (seen.p == p && seen.rows == rows && seen.columns == columns && seen.ld == ld) return PLP_OK;
    PLP_TRY(kn_tensor_map(&c->ssd->map[which], p, rows, columns, ld, which == 3 ? BEFORE : Q));
    seen = { p, rows, columns, ld };
    return PLP_OK;
}

template <int N, int NH, bool STATE_ONLY, bool CONV> void launch(kn_context *c, const kernel_args &k, int segments)
{
    using L = layout<N, NH, STATE_ONLY, CONV>;
    const CUtensorMap *map = c->ssd->map;
    const dim3 grid(c->ssd->unit_count, segments);
    if (segments == 0) return;
    ssd_kernel<N, NH, STATE_ONLY, CONV><<<grid, L::THREADS, L::BYTES, c->stream>>>(map[0], map[1], map[2], map[3], k);
}
template <int N, int NH, bool CONV> void launch_passes(kn_context *c, kernel_args k)
{
    launch<N, NH, true, CONV>(c, k, c->ssd->first_pass);
    k.segments += c->ssd->first_pass;
    launch<N, NH, false, CONV>(c, k, c->ssd->second_pass);
}
template <int N, bool CONV> void launch_units(kn_context *c, const kernel_args &k)
{
    if (c->ssd->unit_heads == 2) launch_passes<N, 2, CONV>(c, k);
    else launch_passes<N, 1, CONV>(c, k);
}
template <int N, int NH, bool STATE_ONLY, bool CONV> plp_status allow_memory()
{
    const int bytes = layout<N, NH, STATE_ONLY, CONV>::BYTES;
    return KN_CUDA(cudaFuncSetAttribute(ssd_kernel<N, NH, STATE_ONLY, CONV>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}
template <int N, bool CONV> plp_status allow_memory_all()
{
    PLP_TRY((allow_memory<N, 1, true, CONV>()));
    PLP_TRY((allow_memory<N, 1, false, CONV>()));
    PLP_TRY((allow_memory<N, 2, true, CONV>()));
    return allow_memory<N, 2, false, CONV>();
}

} // namespace

bool kn_ssd_hopper_takes(const kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    int64_t chunks = 0; /* before a slice: chunks are numbered in an int */
    for (int s = b->decodes; s < b->seqs; s++) chunks = std::max(chunks, b->host_past[s] / Q);
    if (c->options.deterministic && a->chunk % Q != 0) return false; /* slices may end inside chunks of ours */
    return c->ssd->hopper && c->options.act == PLP_BF16 && a->dim == P && (a->state == 64 || a->state == 128) && a->block % Q == 0 &&
           chunks < INT32_MAX / 2 && b->seqs - b->decodes < 65535 - PIECES && kn_aligned(a->x, a->ld_x, PLP_BF16, 16) &&
           kn_aligned(a->B, a->ld_bc, PLP_BF16, 16) && kn_aligned(a->C, a->ld_bc, PLP_BF16, 16) &&
           kn_aligned(a->y, a->ld_y, PLP_BF16, 16) && (uintptr_t)a->h % 16 == 0;
}

plp_status kn_ssd_hopper_create(kn_context *c)
{
    kn_ssd_cuda *s = c->ssd;
    s->hopper = c->hopper && c->options.act == PLP_BF16 && c->options.max_dim >= P && c->options.max_state >= 64;
    if (!s->hopper) return PLP_OK;
    PLP_TRY((allow_memory_all<64, false>()));
    PLP_TRY((allow_memory_all<64, true>()));
    PLP_TRY((allow_memory_all<128, false>()));
    PLP_TRY((allow_memory_all<128, true>()));
    return KN_CUDA(cudaMalloc((void **)&s->work, (size_t)PIECES * (P * 128 + 1) * sizeof(float)));
}

void kn_ssd_hopper_plan(kn_context *c, const kn_ssm_args *a, const kn_batch *b, kn_ssd_segment *segments, kn_ssd_unit *units)
{
    kn_ssd_segment *spare = segments + c->options.max_tokens + 1; /* the second half of the room */
    const cut by = best_cut(c, a, b, segments, spare);
    build(c, a, b, by, segments, spare);
    c->ssd->unit_count = units_of(a, by.heads, units);
}

plp_status kn_ssd_hopper_run(kn_context *c, const kn_ssm_args *a, const kn_conv_args *conv, const kn_batch *b)
{
    const kn_ssd_cuda *s = c->ssd;
    const void *x = conv != NULL ? conv->in : a->x;
    const int64_t ld_x = conv != NULL ? conv->ld_in : a->ld_x;
    PLP_TRY(map_matrix(c, 0, x, b->tokens, a->heads * P, ld_x));
    PLP_TRY(map_matrix(c, 1, a->B, b->tokens, a->groups * a->state, a->ld_bc));
    PLP_TRY(map_matrix(c, 2, a->C, b->tokens, a->groups * a->state, a->ld_bc));
    if (conv != NULL) PLP_TRY(map_matrix(c, 3, x, b->tokens, a->heads * P, ld_x));
    kernel_args k = { *a,           b->src_slot, b->dst_slot, s->segments, s->units,
                      s->snap_slot, s->work,     s->work + (size_t)PIECES * P * 128 };
    k.start = b->start, k.past = b->past;
    if (conv != NULL) k.conv = *conv;
    if (a->state == 128) {
        if (conv != NULL) launch_units<128, true>(c, k);
        else launch_units<128, false>(c, k);
    } else {
        if (conv != NULL) launch_units<64, true>(c, k);
        else launch_units<64, false>(c, k);
    }
    return KN_LAUNCHED();
}
