/* src/kernels/cuda/ssm_sweep.cu -- see ssm_sweep.cuh.
 *
 * A head's matrix is 1, 2 or 4 stages of a ring, its place a slot.  full[stage] completes when a stage has landed, there[slot] when the values of its
 * head have, empty[slot] when all warps of the group that updates it have read both. */
#include "kernels/cuda/ssm_sweep.cuh"
#include "kernels/cuda/mixer_step.cuh"

namespace {

enum {
    STAGE = 8192,       /* bytes */
    RING = 128 * 1024,  /* bytes of states */
    STAGES = RING / STAGE,
    MOST_GROUPS = 4,
    MOST_WARPS = 8,
    FEWEST = 8          /* heads for a multiprocessor: of fewer, all are better asked for at once (mixer_step_ssm.cu) */
};

struct sweep_kernel_args {
    ssm_sweep_args a;
    ssm_sweep_counters *counters;
    int flight; /* stages on their way */
};

/* Where a head's values lie in shared memory, bytes. */
template <int N> struct sweep_values {
    enum { B = 0, C = B + 2 * N, X = C + 2 * N, Z = X + 2 * STEP_DIM, WEIGHT = Z + 2 * STEP_DIM, DT = WEIGHT + 4 * STEP_DIM, BYTES = (DT + 16 + 127) / 128 * 128 };
};
/* Groups of warps take turns, a head each: a small one has arrived before the steps of the last one's update, one after the other, are done. */
template <class S, int N> struct sweep_shape {
    enum {
        TILE = STEP_DIM * N * (int)sizeof(S), /* bytes of a head */
        PER_HEAD = TILE / STAGE,
        SLOTS = RING / TILE,
        SHARED = RING + SLOTS * sweep_values<N>::BYTES,
        GROUPS = TILE < 32 * 1024 ? (int)MOST_GROUPS : 1,
        WARPS = GROUPS > 1 ? 4 : (int)MOST_WARPS, /* of a group: neighbouring rows each */
        GROUP_THREADS = WARPS * 32,
        THREADS = GROUPS * GROUP_THREADS + 64, /* behind them a warp that fetches values, and one that fetches states */
        VALUES = 16 / sizeof(S),               /* of a lane, in a row                                                 */
        LANES = N / VALUES,                    /* of a row                                                            */
        ABREAST = 32 / LANES,                  /* rows of a warp at once                                              */
        ROWS = STEP_DIM / WARPS / ABREAST,     /* of a lane                                                           */
        SAME = LANES / ROWS                    /* lanes that get the same sum                                         */
    };
};
/* A head of a row, and where to find what belongs to it. */
struct sweep_head {
    int row, head; /* row -1: there is none */
    int src, dst, group;
    bool fresh; /* no initial state: the slot is dirty */
};
struct sweep_shared {
    uint64_t full[STAGES], there[STAGES], empty[STAGES]; /* the last two: as many as there are slots */
    sweep_head head[STAGES], next[STAGES];               /* of a slot: what is in it, and with `empty` what comes next */
    unsigned char asked[STAGES];                         /* the last ones: twice the stage, and the phase in which it lands */
    float parts[MOST_GROUPS][2][MOST_WARPS];             /* sums of squares of a group's even and odd heads */
};

#if STEP_CODE
__device__ __forceinline__ const void *down16(const void *p) { return (const void *)((uintptr_t)p & ~(uintptr_t)15); }

/* The i-th head of all rows, in the order in which they lie in memory. */
__device__ __forceinline__ sweep_head head_of(const ssm_sweep_args &a, int i)
{
    const int m = i / a.heads, head = i - m * a.heads;
    if (m >= a.rows) return { -1, 0, 0, 0, 0, false };
    return { m, head, a.src[m], a.dst[m], a.group[head], a.past[m] <= 0 };
}

/* One thread of a group: takes heads from the counter, each two turns before its place is free, so that nobody waits for the answers. */
struct sweep_taker {
    int given;       /* heads that need not be taken */
    int taken;       /* the last one                 */
    sweep_head head; /* the one before               */
    __device__ __forceinline__ void take(const sweep_kernel_args &k) { taken = (int)atomicAdd(&k.counters->next, 1) + given; }
    __device__ __forceinline__ void advance(const sweep_kernel_args &k)
    {
        head = head_of(k.a, taken);
        take(k);
    }
    /* The last taker of all leaves the counters as it found them.  To know `taken` is to know that all that was taken is counted. */
    __device__ __forceinline__ void end(const sweep_kernel_args &k, unsigned takers)
    {
        if (atomicAdd(&k.counters->left, taken < 0 ? 0u : 1u) == takers - 1) k.counters->next = k.counters->left = 0;
    }
};

/* Goes through a block's turns: f(head, slot, phase, whether all groups are at work), first for heads that are given, as many as there are slots, then for
 * those that the groups' takers leave with `empty`, until each group has had one that is none. */
template <class Shape, class F> __device__ __forceinline__ void sweep_turns(const ssm_sweep_args &a, sweep_shared &sh, F f)
{
    int slot = 0, phase = 0, ended = 0; /* a bit for each group */
    bool given = true;
    while (ended != (1 << Shape::GROUPS) - 1) {
        const int group = 1 << slot % Shape::GROUPS;
        if (!(ended & group)) {
            if (!given) kn_bar_wait(kn_shared(&sh.empty[slot]), phase ^ 1);
            const sweep_head h = given ? head_of(a, blockIdx.x + slot * gridDim.x) : sh.next[slot];
            if (h.row < 0) ended |= group;
            f(h, slot, phase, ended == 0);
        }
        if (++slot == Shape::SLOTS) slot = 0, phase ^= 1, given = false;
    }
}

/* One thread: the states, of which no more than k.flight stages are on their way.  Nor, once a group has ended, more than there are places of another
 * one: a stage must not have landed once more before one looks. */
template <class S, int N> __device__ __forceinline__ void fetch_states(const sweep_kernel_args &k, sweep_shared &sh, unsigned char *ring)
{
    typedef sweep_shape<S, N> shape;
    const uint64_t policy = kn_keep_policy();
    int asked = 0; /* stages */
    sweep_turns<shape>(k.a, sh, [&](const sweep_head &h, int slot, int phase, bool all) {
        if (h.row < 0) return;
        const int flight = all ? k.flight : min(k.flight, STAGES / shape::GROUPS);
        const char *from = (const char *)k.a.state + ((size_t)h.src * k.a.heads + h.head) * shape::TILE;
#pragma unroll 1
        for (int s = 0; s < shape::PER_HEAD; s++, asked++) {
            const int at = slot * shape::PER_HEAD + s;
            const uint32_t bar = kn_shared(&sh.full[at]);
            if (asked >= flight) {
                const int landed = sh.asked[(asked - flight) % STAGES];
                kn_bar_wait(kn_shared(&sh.full[landed / 2]), landed & 1);
            }
            sh.asked[asked % STAGES] = (unsigned char)(at * 2 + phase);
            if (h.fresh) {
                kn_bar_arrive(bar);
                continue;
            }
            kn_bar_expect(bar, STAGE);
            kn_bulk_load_kept(kn_shared(ring) + at * STAGE, from + s * STAGE, STAGE, bar, policy);
        }
    });
}

/* One thread: the values. */
template <class T, class S, int N, bool GATE> __device__ __forceinline__ void fetch_values(const ssm_sweep_args &a, sweep_shared &sh, unsigned char *ring)
{
    typedef sweep_values<N> at;
    const int bytes = 4 * N + 2 * STEP_DIM + 16 + (GATE ? 2 * STEP_DIM + (a.weight ? 4 * STEP_DIM : 0) : 0);
    const auto fetch = [&](const sweep_head &h, int slot, int, bool) {
        const uint32_t to = kn_shared(ring) + RING + slot * at::BYTES, bar = kn_shared(&sh.there[slot]);
        sh.head[slot] = h;
        if (h.row < 0) {
            kn_bar_arrive(bar);
            return;
        }
        const int64_t dt = h.row * a.ld_dt + h.head;
        kn_bar_expect(bar, bytes);
        kn_bulk_load(to + at::B, (const T *)a.B + h.row * a.ld_bc + h.group * N, 2 * N, bar);
        kn_bulk_load(to + at::C, (const T *)a.C + h.row * a.ld_bc + h.group * N, 2 * N, bar);
        kn_bulk_load(to + at::X, (const T *)a.x + h.row * a.ld_x + h.head * STEP_DIM, 2 * STEP_DIM, bar);
        kn_bulk_load(to + at::DT, down16(GATE ? (const void *)((const float *)a.dt + dt) : (const void *)((const T *)a.dt + dt)), 16, bar);
        if (GATE) kn_bulk_load(to + at::Z, (const bf16 *)a.z + ((size_t)h.row * a.heads + h.head) * STEP_DIM, 2 * STEP_DIM, bar);
        if (GATE && a.weight) kn_bulk_load(to + at::WEIGHT, a.weight + h.head * STEP_DIM, 4 * STEP_DIM, bar);
    };
    sweep_turns<sweep_shape<S, N>>(a, sh, fetch);
}

#endif

template <class T, class S, int N, bool GATE> __global__ void __launch_bounds__(sweep_shape<S, N>::THREADS) ssm_sweep_kernel(const __grid_constant__ sweep_kernel_args k)
{
#if STEP_CODE
    typedef sweep_shape<S, N> shape;
    typedef sweep_values<N> at;
    constexpr int V = shape::VALUES, LANES = shape::LANES, ROWS = shape::ROWS;
    extern __shared__ __align__(128) unsigned char ring[];
    __shared__ sweep_shared sh;
    const ssm_sweep_args &a = k.a;
    const int group = threadIdx.x / shape::GROUP_THREADS, warp = threadIdx.x / 32 % shape::WARPS, lane = threadIdx.x % 32, heads = a.heads;
    if (threadIdx.x < STAGES) {
        kn_bar_init(kn_shared(&sh.full[threadIdx.x]), 1);
        kn_bar_init(kn_shared(&sh.there[threadIdx.x]), 1);
        kn_bar_init(kn_shared(&sh.empty[threadIdx.x]), shape::WARPS * KN_WARP);
        kn_bar_init_done();
        kn_fence_async();
    }
    __syncthreads();
    dependents_start();
    if (!GATE) dependency_wait();
    if (group == shape::GROUPS && warp == 1) { /* with a gate in a mixer, whose states are complete before the wait (mixer_step.cuh) */
        if (lane == 0) fetch_states<S, N>(k, sh, ring);
        return;
    }
    if (GATE) dependency_wait();
    if (group == shape::GROUPS) {
        if (lane == 0) fetch_values<T, S, N, GATE>(a, sh, ring);
        return;
    }
    const int row0 = warp * (STEP_DIM / shape::WARPS) + lane / LANES, own = row0 + lane % LANES / shape::SAME * shape::ABREAST;
    const int stage = warp * shape::PER_HEAD / shape::WARPS;
    const bool takes = threadIdx.x % shape::GROUP_THREADS == 0;
    sweep_taker taker = { shape::SLOTS * (int)gridDim.x, 0, {} };
    if (takes) taker.take(k), taker.advance(k);
    int slot = group, phase = 0, parity = 0;
#pragma unroll 1
    for (;;) {
        const unsigned char *values = ring + RING + slot * at::BYTES;
        kn_bar_wait(kn_shared(&sh.there[slot]), phase);
        const sweep_head at_hand = sh.head[slot];
        const int m = at_hand.row, head = at_hand.head;
        if (m < 0) break;
        S *to = (S *)a.state + (((size_t)at_hand.dst * heads + head) * STEP_DIM + row0) * N + lane % LANES * V;
        float B[V], C[V], x[ROWS], y[ROWS], dt, decay;
        kn_load<V>((const T *)(values + at::B) + lane % LANES * V, B);
        kn_load<V>((const T *)(values + at::C) + lane % LANES * V, C);
#pragma unroll
        for (int j = 0; j < ROWS; j++) x[j] = kn_float(((const T *)(values + at::X))[row0 + j * shape::ABREAST]);
        const float x_own = kn_float(((const T *)(values + at::X))[own]), D = a.D ? __ldg(a.D + head) : 0.f;
        const float z = GATE ? kn_float(((const bf16 *)(values + at::Z))[own]) : 0.f, weight = GATE && a.weight ? ((const float *)(values + at::WEIGHT))[own] : 1.f;
        if (GATE) {
            dt = ((const float *)(values + at::DT))[((uintptr_t)a.dt / 4 + m * a.ld_dt + head) % 4];
            decay = __expf(dt * __ldg(a.A + head));
        } else {
            const float raw = kn_float(((const T *)(values + at::DT))[((uintptr_t)a.dt / 2 + m * a.ld_dt + head) % 8]);
            dt = kn_ssm_dt(raw, a.dt_bias ? __ldg(a.dt_bias + head) : 0.f, a.dt_min, a.dt_max);
            decay = expf(dt * __ldg(a.A + head));
        }
        kn_bar_wait(kn_shared(&sh.full[slot * shape::PER_HEAD + stage]), phase);
        const unsigned char *from = ring + slot * shape::TILE + (row0 * N + lane % LANES * V) * sizeof(S);
        const auto read = [&](int j) { return at_hand.fresh ? make_uint4(0, 0, 0, 0) : *(const uint4 *)(from + j * shape::ABREAST * N * sizeof(S)); };
        const auto release = [&] {
            if (takes) sh.next[slot] = taker.head;
            __syncwarp();
            kn_warp_arrive(kn_shared(&sh.empty[slot]));
            if (takes) taker.advance(k);
        };
        /* Where places are few, they are free at once; elsewhere registers are. */
        constexpr bool AT_ONCE = shape::GROUPS == 1;
        uint4 h[AT_ONCE ? ROWS : 1];
        if (AT_ONCE) {
#pragma unroll
            for (int j = 0; j < ROWS; j++) h[j] = read(j);
            release();
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            const float dtx = dt * x[j];
            float v[V];
            uint4 u = AT_ONCE ? h[j] : read(j);
            kn_load<V>((const S *)&u, v);
            y[j] = 0;
#pragma unroll
            for (int q = 0; q < V; q++) {
                v[q] = decay * v[q] + dtx * B[q];
                y[j] += v[q] * C[q];
            }
            kn_store<V>((S *)&u, v);
            __stwt((uint4 *)(to + j * shape::ABREAST * N), u); /* through L2: nobody reads it again within the step */
        }
        if (!AT_ONCE) release();
        const float y_own = step_sum_lanes<ROWS, LANES>(y, lane) + D * x_own;
        T *out = (T *)a.y + m * a.ld_y + head * STEP_DIM + own;
        if (GATE) {
            const float v = y_own * kn_silu(z);
            float square = v * v;
#pragma unroll
            for (int bit = shape::SAME; bit < 32; bit *= 2) square += __shfl_xor_sync(~0u, square, bit);
            if (lane % shape::SAME == 0) *out = kn_as<T>(v * weight);
            if (lane == 0) sh.parts[group][parity][warp] = square;
            kn_named_sync(1 + group, shape::GROUP_THREADS);
            if (takes) {
                float t = 0;
                for (int w = 0; w < shape::WARPS; w++) t += sh.parts[group][parity][w];
                a.squares[(size_t)m * heads + head] = t;
            }
        } else if (lane % shape::SAME == 0) {
            *out = kn_as<T>(y_own);
        }
        parity ^= 1;
        slot += shape::GROUPS;
        if (slot >= shape::SLOTS) slot -= shape::SLOTS, phase ^= 1;
    }
    if (takes) taker.end(k, shape::GROUPS * gridDim.x);
#endif
}

template <class T, class S, int N, bool GATE> plp_status launch(kn_context *c, const sweep_kernel_args &k)
{
    const int all = k.a.rows * k.a.heads;
    return step_launch<ssm_sweep_kernel<T, S, N, GATE>>(c, dim3(all < c->sms ? all : c->sms), sweep_shape<S, N>::SHARED, k, sweep_shape<S, N>::THREADS);
}
template <class T, class S> plp_status launch(kn_context *c, const sweep_kernel_args &k, int state)
{
    if constexpr (sizeof(T) == 4) return PLP_FAIL(PLP_ERR_INTERNAL, "no sweep in float32"); /* ssm_sweep_knows */
    else {
        if constexpr (std::is_same<T, bf16>::value && !std::is_same<S, __half>::value)
            if (k.a.z) return state == 128 ? launch<T, S, 128, true>(c, k) : launch<T, S, 64, true>(c, k);
        return state == 128 ? launch<T, S, 128, false>(c, k) : launch<T, S, 64, false>(c, k);
    }
}

} // namespace

bool ssm_sweep_knows(const kn_context *c, const ssm_sweep_args *a, int dim, int state, plp_dtype act, plp_dtype state_dtype)
{
    const auto aligned = [](const void *p, int64_t ld) { return (uintptr_t)p % 16 == 0 && ld % 8 == 0; };
    const bool gate = a->z != NULL;
    if (c->options.deterministic) return false; /* a row's bits must not depend on whether there are enough of them for a sweep */
    return c->hopper && dim == STEP_DIM && (state == 64 || state == 128) && act != PLP_F32 && (!gate || (act == PLP_BF16 && state_dtype != PLP_F16)) &&
           aligned(a->state, 0) && aligned(a->x, a->ld_x) && aligned(a->B, a->ld_bc) && aligned(a->C, a->ld_bc) && aligned(a->z, 0) &&
           aligned(a->weight, 0) && (int64_t)a->rows * a->heads >= (int64_t)FEWEST * c->sms && (int64_t)a->rows * a->heads < INT32_MAX / 2;
}

plp_status ssm_sweep(kn_context *c, const ssm_sweep_args *a, int state, plp_dtype act, plp_dtype state_dtype)
{
    const sweep_kernel_args k = { *a, c->sweep, c->sweep_flight };
    plp_status st = PLP_OK;
    kn_by_type(act, [&](auto t) { kn_by_type(state_dtype, [&](auto s) { st = launch<decltype(t), decltype(s)>(c, k, state); }); });
    return st;
}

plp_status ssm_sweep_create(kn_context *c)
{
    if (!c->hopper) return PLP_OK;
    const double latency = 1.3e-6; /* of what is on its way: 4 stages on an H100, 6 on an H200 */
    int khz = 0, bits = 0;
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&khz, cudaDevAttrMemoryClockRate, c->options.device)));
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, c->options.device)));
    const int stages = (int)(2e3 * khz * (bits / 8.) * latency / c->sms / STAGE + .5);
    c->sweep_flight = stages < 4 ? 4 : stages > STAGES / 2 ? STAGES / 2 : stages;
    PLP_TRY(KN_CUDA(cudaMalloc((void **)&c->sweep, sizeof *c->sweep)));
    return KN_CUDA(cudaMemsetAsync(c->sweep, 0, sizeof *c->sweep, c->stream));
}
