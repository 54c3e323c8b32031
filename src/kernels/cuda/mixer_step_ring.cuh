/* src/kernels/cuda/mixer_step_ring.cuh -- what the kernels of a decode step share: small PTX wrappers, and the ring of shared-memory slots
 * through which weights stream.
 *
 * A decode step is a stream of weights, so everything here serves one aim: the memory bus never idles.  One block of 8 warps sits on
 * every multiprocessor and keeps tens of KB in flight with bulk copies (cp.async.bulk, one per row segment of 0.5-3 KB).
 * Stage i of a block is its i-th piece of the matrix; it lies in slot i % slots, rows at `pitch` bytes.  RING_PAD bytes between rows make
 * the 16-byte loads of mma fragments free of bank conflicts while the weights stay row-major; without them, the copies are faster.
 *   full[s]   completes when the copies of a slot have landed: one arrival (the lane that announces the bytes), and the bytes
 *   empty[s]  completes when nobody reads the slot any more: one arrival a warp
 * There is no producer warp (its registers would keep the next kernel off the multiprocessor): warp i % 8 refills the slot of stage i - 1
 * at stage i.  Taking turns matters: when the last warp to release a slot refilled it at once, whoever was late paid for the copies as well
 * and stayed late (5.9 ms a step instead of 4.4). */
#ifndef KERNELS_CUDA_MIXER_STEP_RING_CUH
#define KERNELS_CUDA_MIXER_STEP_RING_CUH

#include "kernels/cuda/hopper.cuh"

#include <cuda_bf16.h>
#include <cstdint>

/* A build may hold code for older GPUs too, which lack these instructions: kernels are empty there, and never launched (step_runs_on). */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#    define STEP_CODE 1
#else
#    define STEP_CODE 0
#endif

typedef __nv_bfloat16 bf16;

enum { STEP_THREADS = 256, STEP_WARPS = 8, STEP_ROWS = 8, RING_SLOTS = 16, RING_AT_ONCE = 2, RING_PAD = 64 };

/* ------------------------------------------------------------------------------------------------ PTX */
/* Programmatic dependent launch.  start: the next kernel of the stream may start.  wait: all earlier kernels are complete and visible. */
__device__ __forceinline__ void dependents_start(void) { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void dependency_wait(void) { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/* volatile: in the order written, see ring_release */
__device__ __forceinline__ uint4 load_shared16(uint32_t at)
{
    uint4 v;
    asm volatile("ld.volatile.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}
/* c += A B: A 16 rows x 16 columns, B 16 columns x 8 rows */
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
/* 32 columns of 8 rows a by 8 rows b, weights and batch or batch and weights.  The order of k inside an mma is free as long as both agree, so a
 * lane reads 8 neighbouring columns of a row, four pairs, with one 16-byte load.  The mma's A has 16 rows: its upper 8 are the same rows at
 * other columns, so that what is loaded is used as it lies in registers, if one of the two lies there in the order of mma_swapped.  Of c[0]
 * the lower rows count, of c[1] the upper ones: lane 4 g + q has the sums mma_sum(c, i) of row g of a and row 2 q + i of b. */
__device__ __forceinline__ void mma32(float (&c)[2][4], uint4 a, uint4 b)
{
    mma(c[0], a.x, a.y, a.z, a.w, b.x, b.y);
    mma(c[1], a.x, a.y, a.z, a.w, b.z, b.w);
}
__device__ __forceinline__ float mma_sum(const float (&c)[2][4], int i) { return c[0][i] + c[1][2 + i]; }
/* Of four pairs of columns, the second and the third change places. */
__device__ __forceinline__ uint4 mma_swapped(uint4 v) { return make_uint4(v.x, v.z, v.y, v.w); }
__device__ __forceinline__ int mma_swapped(int column) { return (column & ~6) | (column & 2) << 1 | (column & 4) >> 1; }

/* NB blocks of 32 columns of a row, 16 bytes of each for this lane */
template <int NB> __device__ __forceinline__ void load_row(uint4 (&v)[NB], uint32_t at)
{
#pragma unroll
    for (int b = 0; b < NB; b++) v[b] = load_shared16(at + b * 64);
}

/* ------------------------------------------------------------------------------------------------ numbers */
__device__ __forceinline__ float2 unpack(uint32_t v) { return make_float2(kn_bf16_lo(v), kn_bf16_hi(v)); }
__device__ __forceinline__ float load_bf16(const bf16 *p) /* from L2: earlier kernels of the step write what these kernels read */
{
    return __bfloat162float(__ushort_as_bfloat16(__ldcg((const unsigned short *)p)));
}

/* A word for a kernel that is at work at the same time, see step_told; what is told of it so far; the same when it is there */
__device__ __forceinline__ void step_tell(uint32_t *at, float value) { *(volatile uint32_t *)at = __float_as_uint(value) | 1; }
__device__ __forceinline__ uint32_t step_look(const uint32_t *at) { return *(const volatile uint32_t *)at; }
__device__ __forceinline__ uint32_t step_wait(const uint32_t *at)
{
    uint32_t v;
    while (!((v = step_look(at)) & 1)) {}
    return v;
}
/* The same of values of 16 bits, inverted: 0 is what is not there, for no rounding makes a NaN of all ones.  8 of them; whether all are there */
__device__ __forceinline__ void step_tell(uint16_t *at, bf16 value) { *(volatile uint16_t *)at = (uint16_t)~__bfloat16_as_ushort(value); }
__device__ __forceinline__ uint16_t step_look(const uint16_t *at) { return *(const volatile uint16_t *)at; }
__device__ __forceinline__ uint4 step_look8(const uint16_t *at)
{
    uint4 v;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at) : "memory");
    return v;
}
__device__ __forceinline__ bool step_there(uint4 v)
{
    const auto zeros = [](uint32_t w) { return (w - 0x00010001) & ~w & 0x80008000; }; /* not 0: some half of w is */
    return (zeros(v.x) | zeros(v.y) | zeros(v.z) | zeros(v.w)) == 0;
}
__device__ __forceinline__ float step_bf16(uint32_t told) { return __uint_as_float(told & 0xffff0000); }

/* The sums of COUNT values over LANES neighbouring lanes: halve the list while halving the lanes.  Lane l returns that of value
 * l % LANES / (LANES / COUNT). */
template <int COUNT, int LANES> __device__ __forceinline__ float step_sum_lanes(float (&y)[COUNT], int lane)
{
    int bit = LANES / 2;
#pragma unroll
    for (int half = COUNT / 2; half > 0; half /= 2, bit /= 2)
#pragma unroll
        for (int j = 0; j < half; j++) {
            const float give = lane & bit ? y[j] : y[j + half], keep = lane & bit ? y[j + half] : y[j];
            y[j] = keep + __shfl_xor_sync(~0u, give, bit);
        }
    float sum = y[0];
#pragma unroll
    for (; bit > 0; bit /= 2) sum += __shfl_xor_sync(~0u, sum, bit);
    return sum;
}

/* V = 2, 4 or 8 neighbouring elements of a state, from L2 */
template <int V> __device__ __forceinline__ void state_load(const float *p, float (&s)[V])
{
    if constexpr (V == 2) {
        const float2 u = __ldcg((const float2 *)p);
        s[0] = u.x, s[1] = u.y;
    } else {
#pragma unroll
        for (int k = 0; k < V; k += 4) {
            const float4 u = __ldcg((const float4 *)(p + k));
            s[k] = u.x, s[k + 1] = u.y, s[k + 2] = u.z, s[k + 3] = u.w;
        }
    }
}
template <int V> __device__ __forceinline__ void state_load(const bf16 *p, float (&s)[V])
{
    uint32_t u[V / 2];
    if constexpr (V == 8) {
        const uint4 t = __ldcg((const uint4 *)p);
        u[0] = t.x, u[1] = t.y, u[2] = t.z, u[3] = t.w;
    } else if constexpr (V == 4) {
        const uint2 t = __ldcg((const uint2 *)p);
        u[0] = t.x, u[1] = t.y;
    } else {
        u[0] = __ldcg((const uint32_t *)p);
    }
#pragma unroll
    for (int k = 0; k < V / 2; k++) {
        const float2 t = unpack(u[k]);
        s[2 * k] = t.x, s[2 * k + 1] = t.y;
    }
}
/* Written through: nobody reads a state again within the step, and what lies dirty in L2 meets the next weights on its way out (0.7 % of a step of
 * 2.7b at 8 rows against streaming stores, 0.5 % of Codestral at 64). */
template <int V> __device__ __forceinline__ void state_store(float *p, const float (&s)[V])
{
    if constexpr (V == 2) {
        __stwt((float2 *)p, make_float2(s[0], s[1]));
    } else {
#pragma unroll
        for (int k = 0; k < V; k += 4) __stwt((float4 *)(p + k), make_float4(s[k], s[k + 1], s[k + 2], s[k + 3]));
    }
}
template <int V> __device__ __forceinline__ void state_store(bf16 *p, const float (&s)[V])
{
    if constexpr (V == 8)
        __stwt((uint4 *)p, make_uint4(kn_pack_bf16(s[0], s[1]), kn_pack_bf16(s[2], s[3]), kn_pack_bf16(s[4], s[5]), kn_pack_bf16(s[6], s[7])));
    else if constexpr (V == 4) __stwt((uint2 *)p, make_uint2(kn_pack_bf16(s[0], s[1]), kn_pack_bf16(s[2], s[3])));
    else __stwt((uint32_t *)p, kn_pack_bf16(s[0], s[1]));
}

/* ------------------------------------------------------------------------------------------------ the ring */
struct ring_barriers {
    uint64_t full[RING_SLOTS], empty[RING_SLOTS];
};
struct ring {
    uint32_t data, full, empty; /* shared addresses */
    int slots, slot_bytes, stages;
    uint32_t zero; /* an argument of the kernel, so the compiler does not know it: see ring_release */
};
/* Where a warp is in the ring; all warps of a block count alike. */
struct ring_place {
    int stage = 0, slot = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next(const ring &r)
    {
        stage++;
        if (++slot == r.slots) {
            slot = 0;
            phase ^= 1;
        }
    }
};
__device__ __forceinline__ ring ring_make(unsigned char *data, ring_barriers *b, int slots, int slot_bytes, int stages, uint32_t zero)
{
    const ring r = { kn_shared(data), kn_shared(b->full), kn_shared(b->empty), slots, slot_bytes, stages, zero };
    return r;
}
/* The whole warp calls: n <= 32 row segments of `bytes` from `src` (rows `ld` elements apart) into a slot. */
__device__ __forceinline__ void ring_issue(const ring &r, int slot, const bf16 *src, int n, int64_t ld, int bytes, int pitch)
{
    const int lane = threadIdx.x % 32;
    const uint32_t full = r.full + 8 * slot;
    if (lane == 0) kn_bar_expect(full, n * bytes);
    __syncwarp();
    if (lane < n) kn_bulk_load(r.data + slot * r.slot_bytes + lane * pitch, src + lane * ld, bytes, full);
    __syncwarp();
}
/* issue(stage, slot) is the kernel's own: it knows where stage i lies.  Ends with the first stages on their way. */
template <class F> __device__ __forceinline__ void ring_start(const ring &r, F issue, int first = RING_AT_ONCE)
{
    if (threadIdx.x == 0) {
        for (int s = 0; s < r.slots; s++) {
            kn_bar_init(r.full + 8 * s, 1);
            kn_bar_init(r.empty + 8 * s, STEP_WARPS * KN_WARP);
        }
        kn_bar_init_done();
        kn_fence_async();
    }
    __syncthreads();
    for (int s = threadIdx.x / 32; s < first && s < r.slots && s < r.stages; s += STEP_WARPS) issue(s, s);
}
/* The other slots, each when the stage RING_AT_ONCE before it is there.  That keeps the memory as busy as asking for all at once does, but
 * leaves its queues short for the kernels that are at work meanwhile, whose values would wait behind a ring's worth of weights. */
template <class F> __device__ __forceinline__ void ring_fill(const ring &r, F issue)
{
    for (int s = threadIdx.x / 32; s < r.slots && s < r.stages; s += STEP_WARPS) {
        if (s < RING_AT_ONCE) continue;
        kn_bar_wait(r.full + 8 * (s - RING_AT_ONCE), 0);
        issue(s, s);
    }
}
__device__ __forceinline__ void ring_wait(const ring &r, const ring_place &p) { kn_bar_wait(r.full + 8 * p.slot, p.phase); }

/* This warp is done with the place; its turn to refill may come up with it.  `read`: of its last load from there.  A release must not go out
 * before the loads are back, or a refill overtakes them (seen, once refills came from L2: 128 columns of a row were the next stage's).  To write
 * it behind the mma does not do: the assembler moves it up to the last load.  So its address hangs on that; a warp's loads come back in the
 * order in which they went out, and load_row keeps that.
 * The refill comes after the warp's own work, or refill and product of successive stages would chain. */
template <class F> __device__ __forceinline__ void ring_release(const ring &r, const ring_place &p, uint32_t read, F issue)
{
    __syncwarp();
    kn_warp_arrive(r.empty + 8 * p.slot + (read & r.zero));
    const int before = p.stage - 1;
    if (before < 0 || p.stage % STEP_WARPS != threadIdx.x / 32 || before + r.slots >= r.stages) return;
    const int slot = p.slot ? p.slot - 1 : r.slots - 1;
    kn_bar_wait(r.empty + 8 * slot, p.slot ? p.phase : p.phase ^ 1);
    issue(before + r.slots, slot);
}

#endif
