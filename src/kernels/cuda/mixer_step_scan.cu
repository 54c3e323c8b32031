/* src/kernels/cuda/mixer_step_scan.cu -- the second kernel of a Mamba-1 mixer's decode step, from x_proj's sums to the gated y:
 *
 *     [r | B | C] = RMSNorm of each part of x_proj's sums          dt = softplus(dt_proj r + bias)
 *     h = exp(dt A) h + dt x B;   y = h C + D x;   v = y silu(z)
 *
 * A block has 64 channels, a warp 8 of them, and a channel's states lie in 4 lanes: where an mma leaves the product of dt_proj's 8 rows, so
 * nothing moves but dt from the lane that has its row of the batch.  Before the wait, dt_proj's rows, A and the states of the first rows are
 * asked for; behind it there is a chain of short things, and every block adds up x_proj's slices for itself.  The norms' scales come behind the
 * products, r's behind dt_proj's and C's behind the sum over a state, so that they are worked out meanwhile.
 *
 * All but the gate needs x_proj's sums and x alone, which `in` has halfway through: where it tells them (mixer_step_told), the chain runs beside
 * the rest of z, and what is left behind the end of `in` is z, the gate and v.  Up to STEP_FEW rows are instances of their own, in which nothing spills
 * up to 16 states and without an exchange (3 % of a step), and which are told z as well (more rows lose 1 % by that).  x is told in any case, as
 * the blocks of `in` need it.
 * Where the ranks' devices are neighbours, `in` has sent them its slices, and every block adds up all ranks' in rank order. */
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/mixer_step.cuh"

namespace {

enum {
    SCAN_SLICES = KN_MIXER_SLICES,
    SCAN_ROWS = 8, /* of dt_proj a warp                  */
    SCAN_MOST = 4, /* rows whose states are asked for at once */
    SCAN_BOTH = 4  /* slices of each of two ranks at once     */
};

struct scan_args {
    const bf16 *dt_proj; /* (channels, rank) */
    const float *mixed;  /* (m, SCAN_SLICES, rank + 2 state) */
    const float *A, *dt_bias, *D;
    void *state; /* (slots, channels, state) */
    step_batch batch;
    step_work work;
    const uint2 *told; /* see mixer_step_told; NULL: mixed */
    const uint32_t *z; /* the same of z, for up to STEP_FEW rows */
    const uint16_t *told_x; /* told in any case */
    int own, last;     /* slices that this rank has; the place of a sum that comes late */
    int m, channels, rank, pitch, rank_pitch; /* bytes between rows of dt_proj and of its operand, in shared memory */
    float eps;                                /* 0: no norms */
    kn_exchange x;                            /* EXCHANGE: of the slices, of which there are `slices` on any rank */
    int slices;
};

struct scan_shared {
    ring_barriers bars;
    float4 scales[STEP_ROWS];        /* of r, B and C of a row */
    float bias[STEP_DIM], D[STEP_DIM]; /* here until they are used: of registers there are none to spare */
};

/* Two neighbouring sums of this rank, their slices added up in order. */
__device__ __forceinline__ float2 mixed_slices(const float *at, int parts)
{
    float v[SCAN_SLICES][2];
#pragma unroll
    for (int j = 0; j < SCAN_SLICES; j++) state_load<2>(at + j * parts, v[j]);
#pragma unroll
    for (int j = 1; j < SCAN_SLICES; j++) v[0][0] += v[j][0], v[0][1] += v[j][1];
    return make_float2(v[0][0], v[0][1]);
}
/* The same of N slices while they arrive; false if not all are there. */
template <int N> __device__ __forceinline__ bool told_look(const uint2 *at, int parts, int slices, unsigned long long (&v)[N][2])
{
    bool there = true;
#pragma unroll
    for (int j = 0; j < N; j++) {
        v[j][0] = v[j][1] = 1ull << 32;
        if (j < slices) asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];" : "=l"(v[j][0]), "=l"(v[j][1]) : "l"(at + j * parts) : "memory");
    }
#pragma unroll
    for (int j = 0; j < N; j++) there = there && v[j][0] >> 32 != 0 && v[j][1] >> 32 != 0;
    return there;
}
__device__ __forceinline__ float2 told_slices(const uint2 *at, int parts, int slices)
{
    unsigned long long v[SCAN_SLICES][2];
    while (!told_look(at, parts, slices, v)) {}
    float2 sum = make_float2(0, 0);
#pragma unroll
    for (int j = 0; j < SCAN_SLICES; j++) sum.x += __uint_as_float((uint32_t)v[j][0]), sum.y += __uint_as_float((uint32_t)v[j][1]);
    return sum;
}

/* Both of two ranks' sums: this one's, as told, and what rank r sent; asked for at once, as they arrive at about the same time. */
__device__ __forceinline__ float2 told_and_received(const uint2 *told, const exchange_turn &t, int r, int at, int parts, int own, int slices)
{
    unsigned long long v[SCAN_BOTH][2];
    uint2 theirs[SCAN_BOTH];
    t.receive2(r, [&](int i) { return at + i * parts; }, slices, theirs, [&] { return told_look(told, parts, own, v); });
    float2 mine = make_float2(0, 0), sum = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < SCAN_BOTH; i++) {
        mine.x += __uint_as_float((uint32_t)v[i][0]), mine.y += __uint_as_float((uint32_t)v[i][1]);
        sum.x += __uint_as_float(theirs[i].x), sum.y += __uint_as_float(theirs[i].y);
    }
    return make_float2(mine.x + sum.x, mine.y + sum.y); /* in rank order or not: the same */
}

/* What rank r sent of two neighbouring sums, its slices added up in order; `at`: the first slice's place in the message. */
__device__ __forceinline__ float2 receive_slices(const exchange_turn &t, int r, int at, int parts, int slices)
{
    enum { AT_ONCE = 4 };
    float2 sum = make_float2(0, 0);
#pragma unroll 1
    for (int j = 0; j < slices; j += AT_ONCE) {
        uint2 v[AT_ONCE];
        t.receive2(r, [&](int i) { return at + (j + i) * parts; }, slices - j, v, [] { return true; });
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) sum.x += __uint_as_float(v[i].x), sum.y += __uint_as_float(v[i].y);
    }
    return sum;
}

template <class T, int V, bool EXCHANGE, int AHEAD> __global__ void __launch_bounds__(STEP_THREADS, 4) mixer_scan_kernel(const __grid_constant__ scan_args a)
{
#if STEP_CODE
    constexpr int N = 4 * V;
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ scan_shared sh;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int channel = blockIdx.x * STEP_DIM + warp * SCAN_ROWS + g, parts = a.rank + 2 * N;
    const ring rg = ring_make(smem, &sh.bars, STEP_WARPS, SCAN_ROWS * a.pitch, STEP_WARPS, 0); /* a slot a warp, filled once */
    ring_start(rg, [&](int i, int slot) {
        ring_issue(rg, slot, a.dt_proj + (size_t)(blockIdx.x * STEP_DIM + i * SCAN_ROWS) * a.rank, SCAN_ROWS, a.rank, a.rank * 2, a.pitch);
    }, STEP_WARPS);
    dependents_start();
    unsigned char *operand = smem + STEP_WARPS * SCAN_ROWS * a.pitch; /* (m, rank) bf16, rows rank_pitch bytes apart */
    float *mixed = (float *)(operand + a.m * a.rank_pitch);           /* (m, parts) */
    float A[V], s[AHEAD][V];
    const auto row = [&](int slot) { return (T *)a.state + ((size_t)slot * a.channels + channel) * N + q * V; };
    const auto fetch = [&](float (&h)[V], int n) {
        if (a.batch.past[n] > 0) {
            state_load<V>(row(a.batch.src[n]), h);
        } else { /* no initial state: the slot is dirty */
#pragma unroll
            for (int k = 0; k < V; k++) h[k] = 0;
        }
    };
    /* With an exchange there are no registers to keep A and x in. */
    const float *A_row = a.A + (size_t)channel * N + q * V;
    if constexpr (EXCHANGE) asm volatile("prefetch.global.L2 [%0];" ::"l"(A_row) : "memory");
    else state_load<V>(A_row, A);
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
        if (j < a.m) fetch(s[j], j);
    if (threadIdx.x < STEP_DIM) { /* seen behind the barriers below */
        const int at = blockIdx.x * STEP_DIM + threadIdx.x;
        sh.bias[threadIdx.x] = a.dt_bias ? a.dt_bias[at] : 0.f;
        sh.D[threadIdx.x] = a.D ? a.D[at] : 0.f;
    }
    if (a.told != NULL) {
        /* One thread looks, at one of the last; then all look at all. */
        if (threadIdx.x == 0)
            while (((const volatile uint2 *)a.told)[a.last].y == 0) __nanosleep(100);
        __syncthreads();
    } else {
        dependency_wait();
    }

    const exchange_turn turn(a.x, EXCHANGE);
    /* Of rows 2 q and 2 q + 1 of the batch, as an mma leaves its sums. */
    const auto two = [&](auto load) { return (2 * q < a.m ? (uint32_t)load(2 * q) : 0u) | (2 * q + 1 < a.m ? (uint32_t)load(2 * q + 1) << 16 : 0u); };
    const auto load_z = [&](int n) { return __ldcg((const unsigned short *)a.work.z + (size_t)n * a.channels + channel); };
    const auto look_x = [&](int n) { return step_look(a.told_x + (size_t)n * a.channels + channel); };
    uint32_t two_x = EXCHANGE ? 0u : two(look_x); /* asked for, and perhaps there: see below */
    uint32_t two_z = a.told == NULL ? two(load_z) : 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < a.m * (parts / 2); i += STEP_THREADS) {
        const int n = i / (parts / 2), k = i % (parts / 2) * 2, message = n * SCAN_SLICES * parts + k;
        float2 all;
        if (EXCHANGE && a.told != NULL && a.x.size == 2 && a.slices <= SCAN_BOTH) {
            all = told_and_received(a.told + message, turn, 1 - a.x.rank, message, parts, a.own, a.slices);
        } else {
            all = a.told != NULL ? told_slices(a.told + message, parts, a.own) : mixed_slices(a.mixed + message, parts);
            if constexpr (EXCHANGE) {
                const float2 mine = all;
                all = make_float2(0, 0);
#pragma unroll 1
                for (int from = 0; from < a.x.size; from++) {
                    const float2 part = from == a.x.rank ? mine : receive_slices(turn, from, message, parts, a.slices);
                    all.x += part.x, all.y += part.y;
                }
            }
        }
        *(float2 *)(mixed + n * parts + k) = all;
        if (k < a.rank) *(uint32_t *)((bf16 *)(operand + n * a.rank_pitch) + mma_swapped(k)) = kn_pack_bf16(all.x, all.y);
    }
    if constexpr (EXCHANGE) {
        state_load<V>(A_row, A);
        two_x = two(look_x);
    }
    __syncthreads();
    if (EXCHANGE && threadIdx.x == 0) turn.leave();

    if (a.eps > 0 && warp < a.m) {
        const float *mine = mixed + warp * parts;
        float squares[3] = { 0, 0, 0 };
        for (int k = lane; k < a.rank; k += 32) squares[0] += mine[k] * mine[k];
        if (lane < N) {
            squares[1] = mine[a.rank + lane] * mine[a.rank + lane];
            squares[2] = mine[a.rank + N + lane] * mine[a.rank + N + lane];
        }
#pragma unroll
        for (int j = 0; j < 3; j++) squares[j] = rsqrtf(kn_warp_sum(squares[j]) / (j ? N : a.rank) + a.eps);
        if (lane == 0) sh.scales[warp] = make_float4(squares[0], squares[1], squares[2], 0);
    }
    float acc[2][4] = {};
    ring_place place;
    place.slot = warp;
    ring_wait(rg, place);
    const uint32_t weights = rg.data + warp * rg.slot_bytes + g * a.pitch + q * 16, at = kn_shared(operand) + min(g, a.m - 1) * a.rank_pitch + q * 16;
#pragma unroll 4
    for (int k = 0; k < a.rank; k += 32) {
        const uint4 none = make_uint4(0, 0, 0, 0);
        const bool has = k + q * 8 < a.rank;
        mma32(acc, has ? load_shared16(weights + 2 * k) : none, has ? load_shared16(at + 2 * k) : none);
    }
    if (a.eps > 0) __syncthreads();
    float dt[2];
#pragma unroll
    for (int j = 0; j < 2; j++) dt[j] = kn_softplus(mma_sum(acc, j) * (a.eps > 0 ? sh.scales[2 * q + j].x : 1.f) + sh.bias[warp * SCAN_ROWS + g]);

    while ((2 * q < a.m && (two_x & 0xffff) == 0) || (2 * q + 1 < a.m && two_x >> 16 == 0)) two_x = two(look_x);
    __syncwarp();
    const float2 x = unpack(~two_x); /* of rows that are not there nothing is used */
    /* Beside another device z is mostly there before the sums are: asked for here, it is seen without a round trip of its own. */
    const auto z_at = [&](int j) { return a.z + (size_t)(2 * q + j) * a.channels + channel; };
    uint32_t first_z = 0;
    if constexpr (EXCHANGE && AHEAD == 1)
        if (a.told != NULL && q == 0) first_z = step_look(z_at(0));
    float y[2] = { 0, 0 };
    for (int n0 = 0; n0 < a.m; n0 += AHEAD) {
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            const int n = n0 + j, from = (lane & ~3) + n / 2;
            if (n >= a.m) break;
            const float B_scale = a.eps > 0 ? sh.scales[n].y : 1.f, C_scale = a.eps > 0 ? sh.scales[n].z : 1.f;
            const float step = __shfl_sync(~0u, n % 2 ? dt[1] : dt[0], from), in = step * __shfl_sync(~0u, n % 2 ? x.y : x.x, from) * B_scale;
            const float *B = mixed + n * parts + a.rank + q * V, *C = B + N;
            float sum = 0;
#pragma unroll
            for (int k = 0; k < V; k++) {
                s[j][k] = kn_exp2(step * A[k] * 1.4426950408889634f) * s[j][k] + in * B[k];
                sum += s[j][k] * C[k];
            }
            state_store<V>(row(a.batch.dst[n]), s[j]);
            if (n + AHEAD < a.m) fetch(s[j], n + AHEAD);
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (q == n / 2) y[j % 2] = C_scale * sum + sh.D[warp * SCAN_ROWS + g] * (j % 2 ? x.y : x.x);
        }
    }
    if (a.told != NULL) {
        if constexpr (AHEAD > STEP_FEW) {
            dependency_wait();
            two_z = two(load_z);
        } else {
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (2 * q + j < a.m) two_z |= (j == 0 && first_z & 1 ? first_z : step_wait(z_at(j))) >> 16 << 16 * j;
        }
    }
#pragma unroll
    for (int j = 0; j < 2; j++)
        if (2 * q + j < a.m) a.work.v[(size_t)(2 * q + j) * a.channels + mma_swapped(channel)] = __float2bfloat16(y[j] * kn_silu(j ? unpack(two_z).y : unpack(two_z).x));
#endif
}

size_t shared_of(const kn_scan_mixer_args *a)
{
    const size_t rows = a->rows, parts = a->dt_rank + 2 * a->state;
    return (size_t)STEP_DIM * step_odd_pitch(a->dt_rank * 2) + rows * (step_odd_pitch(a->dt_rank * 2) + parts * sizeof(float));
}

template <class T, bool EXCHANGE, int AHEAD> plp_status launch(kn_context *c, const kn_scan_mixer_args *a, const scan_args &s, size_t least)
{
    const dim3 grid(a->channels / STEP_DIM);
    const size_t needed = shared_of(a), shared = needed + sizeof(scan_shared) > least ? needed : least - sizeof(scan_shared);
    if (a->state == 8) return step_launch<mixer_scan_kernel<T, 2, EXCHANGE, AHEAD>>(c, grid, shared, s);
    if (a->state == 16) return step_launch<mixer_scan_kernel<T, 4, EXCHANGE, AHEAD>>(c, grid, shared, s);
    return step_launch<mixer_scan_kernel<T, 8, EXCHANGE, AHEAD>>(c, grid, shared, s);
}

template <class T, bool EXCHANGE> plp_status launch(kn_context *c, const kn_scan_mixer_args *a, const scan_args &s, size_t least)
{
    if (a->rows == 1) return launch<T, EXCHANGE, 1>(c, a, s, least);
    return a->rows == STEP_FEW ? launch<T, EXCHANGE, STEP_FEW>(c, a, s, least) : launch<T, EXCHANGE, SCAN_MOST>(c, a, s, least);
}

} // namespace

bool mixer_step_scan_knows(const kn_scan_mixer_args *a)
{
    enum { ROOM = 128 * 1024 };
    const bool state = a->state == 8 || a->state == 16 || a->state == 32, type = a->ssm_dtype == PLP_F32 || a->ssm_dtype == PLP_BF16;
    return state && type && a->dt_rank >= 8 && a->dt_rank % 8 == 0 && shared_of(a) <= ROOM && step_aligned(a->dt_proj) && step_aligned(a->A) &&
           step_aligned(a->ssm_state) && step_aligned(a->mixed);
}

int mixer_step_scan_bytes(const kn_scan_mixer_args *a) { return (int)(shared_of(a) + sizeof(scan_shared)); }

plp_status mixer_step_scan(kn_context *c, const kn_scan_mixer_args *a, const step_batch *b, const step_work *w, int least, int slices,
                           const step_told *told)
{
    const bool exchange = a->mixed_exchange != NULL;
    const int own = mixer_step_slices(a->hidden, a->channels), parts = a->dt_rank + 2 * a->state, last = own * parts - 1;
    const scan_args s = { (const bf16 *)a->dt_proj, a->mixed, a->A, a->dt_bias, a->D, a->ssm_state, *b, *w, mixer_step_told(c, a), told->z, told->x,
                          own, last, a->rows, a->channels,
                          a->dt_rank, step_odd_pitch(a->dt_rank * 2), step_odd_pitch(a->dt_rank * 2), (float)a->mixer_eps,
                          exchange ? *a->mixed_exchange : kn_exchange{}, slices };
    if (exchange) return a->ssm_dtype == PLP_F32 ? launch<float, true>(c, a, s, least) : launch<bf16, true>(c, a, s, least);
    return a->ssm_dtype == PLP_F32 ? launch<float, false>(c, a, s, least) : launch<bf16, false>(c, a, s, least);
}
