/* src/kernels/cuda/hopper.cuh -- the instructions of sm_90a that the fused kernels use: mbarriers, tensor copies, wgmma.  PTX ISA 8.x. */
#ifndef KERNELS_CUDA_HOPPER_CUH
#define KERNELS_CUDA_HOPPER_CUH

#include "kernels/cuda/common.cuh"

#include <cuda.h>
#include <stdint.h>

constexpr int KN_TILE = 64 * 64 * 2; /* one 128-byte-swizzled tile of 64 rows of 64 bf16 in shared memory */

__device__ __forceinline__ uint32_t kn_shared(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ uint32_t kn_shared_load(uint32_t from)
{
    uint32_t r;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(r) : "r"(from) : "memory");
    return r;
}
__device__ __forceinline__ void kn_shared_store(uint32_t to, uint32_t v)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(v) : "memory");
}
__device__ __forceinline__ uint32_t kn_pack_bf16(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
__device__ __forceinline__ float kn_bf16_lo(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float kn_bf16_hi(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

/* ---- mbarriers and the copy engine */
__device__ __forceinline__ void kn_bar_init(uint32_t bar, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void kn_bar_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void kn_bar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
/* A whole warp, behind a __syncwarp() that orders the accesses of its lanes: the first arrives for all, KN_WARP arrivals of the barrier's count.
 * compute-sanitizer's racecheck goes by each thread's own arrivals and calls the others' accesses races: a build for it, with
 * -DKN_RACECHECK, lets all lanes arrive. */
#ifdef KN_RACECHECK
constexpr int KN_WARP = 32;
#else
constexpr int KN_WARP = 1;
#endif
__device__ __forceinline__ void kn_warp_arrive(uint32_t bar)
{
    if (KN_WARP > 1 || threadIdx.x % 32 == 0) kn_bar_arrive(bar);
}
__device__ __forceinline__ void kn_bar_expect(uint32_t bar, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void kn_bar_wait(uint32_t bar, int parity)
{
    asm volatile("{\n.reg .pred p;\nL: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra D;\nbra L;\nD:\n}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}
/* Describes bf16 (rows, columns), rows `ld` elements apart, for copies of tiles of 64 columns of box_rows <= 256 rows. */
plp_status kn_tensor_map(CUtensorMap *map, const void *p, int rows, int columns, int64_t ld, int box_rows);
/* Columns from `column` and rows from `row` of a mapped matrix to a tile; what lies outside the matrix arrives as zeros. */
__device__ __forceinline__ void kn_tile_load(uint32_t to, const CUtensorMap *map, int column, int row, uint32_t bar)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(bar)
                 : "memory");
}
/* Neighbouring bytes, a multiple of 16 at addresses that are. */
__device__ __forceinline__ void kn_bulk_load(uint32_t to, const void *from, int bytes, uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
/* The same of bytes that will be written soon: L2 keeps them till then (0.7 % of a state's update). */
__device__ __forceinline__ uint64_t kn_keep_policy()
{
    uint64_t p;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(p));
    return p;
}
__device__ __forceinline__ void kn_bulk_load_kept(uint32_t to, const void *from, int bytes, uint32_t bar, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes),
                 "r"(bar), "l"(policy)
                 : "memory");
}
/* Ordinary stores to shared memory before, reads by wgmma or the copy engine after. */
__device__ __forceinline__ void kn_fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/* A barrier of the threads of a cluster that have not exited: stores to shared memory before are seen behind it.  An address in the shared memory of
 * its block `rank`, and 16 bytes from there. */
__device__ __forceinline__ void kn_cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ uint32_t kn_cluster_at(uint32_t at, int rank)
{
    uint32_t r;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(at), "r"(rank));
    return r;
}
__device__ __forceinline__ float4 kn_cluster_load(uint32_t at)
{
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(at) : "memory");
    return v;
}
/* A barrier of the 128 threads of one warpgroup; of the `threads` of some whole warps. */
__device__ __forceinline__ void kn_warpgroup_sync(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }
__device__ __forceinline__ void kn_named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void kn_named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

/* ---- 8x8 matrices between registers and shared memory */
__device__ __forceinline__ void kn_ldmatrix_t(uint32_t (&r)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}
__device__ __forceinline__ void kn_stmatrix(uint32_t to, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}
__device__ __forceinline__ void kn_stmatrix_t(uint32_t to, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(r0), "r"(r1), "r"(r2), "r"(r3)
                 : "memory");
}
/* Offset of 16-byte unit u of row r in a swizzled tile. */
__device__ __forceinline__ int kn_swizzled(int r, int u) { return r * 128 + ((u ^ (r & 7)) << 4); }

/* ---- wgmma.  Operands in shared memory are tiles; groups of 8 rows (K-major) or of 8 k (MN-major) are 1024 bytes apart.  For an MN-major
 * operand the leading offset is the distance between 64-column tiles.  A descriptor is made of a low word and a constant byte offset. */
__device__ __forceinline__ uint32_t kn_k_major(uint32_t tile) { return (tile >> 4) | (1u << 16); }
__device__ __forceinline__ uint32_t kn_mn_major(uint32_t tile) { return (tile >> 4) | ((uint32_t)(KN_TILE >> 4) << 16); }
__device__ __forceinline__ uint64_t kn_descriptor(uint32_t low, int bytes)
{
    return ((uint64_t)(64u | (1u << 30)) << 32) | (uint64_t)(low + (bytes >> 4));
}
__device__ __forceinline__ void kn_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void kn_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int K> __device__ __forceinline__ void kn_wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(K) : "memory"); }
/* Keeps the compiler from moving uses of an accumulator across the point where a product starts or ends. */
template <int K> __device__ __forceinline__ void kn_touch(float (&r)[K])
{
#pragma unroll
    for (int i = 0; i < K; i++) asm volatile("" : "+f"(r[i])::"memory");
}

#define KN_F8(d, o)                                                                                                                        \
    "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3]), "+f"(d[o + 4]), "+f"(d[o + 5]), "+f"(d[o + 6]), "+f"(d[o + 7])
#define KN_F32(d, o) KN_F8(d, o), KN_F8(d, o + 8), KN_F8(d, o + 16), KN_F8(d, o + 24)
#define KN_R32       "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define KN_R64                                                                                                                             \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"              \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"

/* d (64 x 16, 32 or 64) (+)= A B^T, both in shared memory, K-major */
__device__ __forceinline__ void kn_wgmma_ss(float (&d)[8], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\nwgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, p, 1, 1, 0, 0;\n}"
                 : KN_F8(d, 0)
                 : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void kn_wgmma_ss(float (&d)[16], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, p, 1, 1, 0, 0;\n}"
                 : KN_F8(d, 0), KN_F8(d, 8)
                 : "l"(a), "l"(b), "r"(add));
}
__device__ __forceinline__ void kn_wgmma_ss(float (&d)[32], uint64_t a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " KN_R32
                 ", %32, %33, p, 1, 1, 0, 0;\n}"
                 : KN_F32(d, 0)
                 : "l"(a), "l"(b), "r"(add));
}
/* d (64 x 64 or 128) (+)= A B^T with A in registers; MN: B is MN-major, else K-major */
template <int MN> __device__ __forceinline__ void kn_wgmma_rs(float (&d)[32], const uint32_t *a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " KN_R32
                 ", {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}"
                 : KN_F32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(MN));
}
template <int MN> __device__ __forceinline__ void kn_wgmma_rs(float (&d)[64], const uint32_t *a, uint64_t b, int add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " KN_R64
                 ", {%64,%65,%66,%67}, %68, p, 1, 1, %70;\n}"
                 : KN_F32(d, 0), KN_F32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(MN));
}

#endif
