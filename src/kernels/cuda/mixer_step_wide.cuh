/* src/kernels/cuda/mixer_step_wide.cuh -- a mixer's decode step for 9 to 64 rows, whose matrix products stream weights once from memory:
 *
 *     d[r][n] = sum_k w[r][k] x[n][k]                  w (rows, k) weights, x (m, k) activations, both bf16, sums in float32
 *
 * One block a multiprocessor owns a band of up to 256 rows of w (of in_proj two), and perhaps a part of k.  One warp asks the copy engine for stages of
 * 64 columns, of w and x alike, into a ring that takes nearly all shared memory: more than half, so that the next product of the stream
 * becomes resident when this block leaves, and fills its own ring while the others finish.  (Rings of half of it, and both resident: the first
 * product is slower for what the second one fetches.)  A warpgroup multiplies 64 rows of the band by all of x (wgmma, the weights are the
 * operand that is 64 wide).  Every block reads all of x from L2, which bounds the rows this is good for.
 *
 * Behind the last stage memory idles, so all that is needed there is fetched before, by warps of their own, into shared memory.
 * The weights are asked for before the wait for the kernels before (see mixer_step.cuh), x behind it.  Blocks start at different columns,
 * or they would all ask for the same offsets of rows a power of two apart.  A row's sums do not depend on the rows beside it. */
#ifndef KERNELS_CUDA_MIXER_STEP_WIDE_CUH
#define KERNELS_CUDA_MIXER_STEP_WIDE_CUH

#include "kernels/cuda/mixer_step.cuh"

enum {
    WIDE_ROWS = 64,    /* of the batch, at most                      */
    WIDE_BAND = 256,   /* rows of w of a block, at most              */
    WIDE_COLUMNS = 64, /* of a stage: 128 bytes of each row          */
    WIDE_SLOTS = 24,   /* stages of a ring, at most                  */
    WIDE_USUAL = 12,   /* ... of in_proj and out_proj: more make small models slower */
    WIDE_SPARE = 1024  /* the ring begins at a multiple of this      */
};

/* Work space beside step_work: what the norm leaves for in_proj. */
struct wide_work {
    bf16 *normed; /* (m, hidden): residual * weight, before the scale */
    float *scale; /* (m): the scale                                   */
};
enum { WIDE_PARTS = KN_CLUSTER /* of k, of out_proj */, WIDE_OUT_BAND = 192 /* rows of it that a cluster shares, at most */ };

plp_status mixer_step_wide_norm(kn_context *c, const kn_mixer_step_args *a, const wide_work *w);
plp_status mixer_step_wide_in(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w, const wide_work *x);
plp_status mixer_step_wide_out(kn_context *c, const kn_mixer_step_args *a, const step_work *w);
/* Mamba-1: from w->xbc (x alone), w->z and mixed to w->v. */
plp_status mixer_step_wide_scan(kn_context *c, const kn_scan_mixer_args *a, const step_batch *b, const step_work *w);
bool mixer_step_wide_scan_knows(const kn_scan_mixer_args *a);
int mixer_step_wide_out_bands(const kn_context *c, const kn_mixer_step_args *a); /* of rows of out_proj: parts of what it leaves in ready.squares */
bool mixer_step_wide_in_knows(const kn_mixer_step_args *a, int sms);
bool mixer_step_wide_out_knows(const kn_context *c, const kn_mixer_step_args *a);

/* ------------------------------------------------------------------------------------------------ bands, stages */
struct wide_args {
    CUtensorMap x;
    int rows, m, box; /* of w (out_proj), of the batch; rows of w in a stage, a multiple of 8 */
    int chunks;       /* of 64 columns, of all parts                               */
    int slots;
};
/* Bands begin and end at multiples of 8 rows. */
static inline int wide_box(int rows, int bands) { return (int)kn_ceil(kn_ceil(rows, 8), bands) * 8; }
static __host__ __device__ __forceinline__ int wide_stage(int box, int n) { return (box + n) * WIDE_COLUMNS * 2; }

struct wide_barriers {
    uint64_t full[WIDE_SLOTS], empty[WIDE_SLOTS];
};
/* What a block computes: rows row0 .. row0 + rows of w, `count` chunks from `first` on, beginning at the start-th of them. */
struct wide_piece {
    int row0, rows, first, count, start;
    __device__ __forceinline__ wide_piece(const wide_args &a, int band, int bands, int part, int parts)
    {
        const int units = (a.rows + 7) / 8, u0 = (int)((int64_t)units * band / bands), u1 = (int)((int64_t)units * (band + 1) / bands);
        row0 = u0 * 8;
        rows = min(u1 * 8, a.rows) - row0;
        first = (int)((int64_t)a.chunks * part / parts);
        count = (int)((int64_t)a.chunks * (part + 1) / parts) - first;
        start = band % count;
    }
    __device__ __forceinline__ int chunk(int i) const { return first + (start + i < count ? start + i : start + i - count); }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
__device__ __forceinline__ unsigned char *wide_ring(unsigned char *shared)
{
    return shared + (WIDE_SPARE - kn_shared(shared) % WIDE_SPARE) % WIDE_SPARE;
}
/* The whole block: barriers for `warps` warps that multiply. */
__device__ __forceinline__ void wide_start(wide_barriers *b, int slots, int warps)
{
    if (threadIdx.x == 0) {
        for (int s = 0; s < slots; s++) {
            kn_bar_init(kn_shared(b->full + s), 1);
            kn_bar_init(kn_shared(b->empty + s), warps * KN_WARP);
        }
        kn_bar_init_done();
        kn_fence_async();
    }
    __syncthreads();
}
/* One thread: all stages, those of w that fit before the wait.  load(to, column, bar) asks for those of w, `rows` of them. */
template <int N, class Piece, class W>
__device__ __forceinline__ void wide_fetch(const wide_args &a, const Piece &p, unsigned char *ring, wide_barriers *b, int rows, W load)
{
    const uint32_t base = kn_shared(ring);
    const int stage = wide_stage(a.box, N), x_at = a.box * WIDE_COLUMNS * 2, ahead = min(a.slots, p.count);
    const auto fetch_w = [&](int i, int slot) {
        kn_bar_expect(kn_shared(b->full + slot), wide_stage(rows, N));
        load(base + slot * stage, p.chunk(i) * WIDE_COLUMNS, kn_shared(b->full + slot));
    };
    const auto fetch_x = [&](int i, int slot) {
        kn_tile_load(base + slot * stage + x_at, &a.x, p.chunk(i) * WIDE_COLUMNS, 0, kn_shared(b->full + slot));
    };
    for (int i = 0; i < ahead; i++) fetch_w(i, i);
    dependency_wait();
    for (int i = 0; i < ahead; i++) fetch_x(i, i);
    for (int i = ahead, slot = 0, phase = 0; i < p.count; i++) {
        kn_bar_wait(kn_shared(b->empty + slot), phase);
        fetch_w(i, slot);
        fetch_x(i, slot);
        if (++slot == a.slots) slot = 0, phase ^= 1;
    }
}
/* A warpgroup in the ring: the next stage to multiply. */
struct wide_place {
    int stage = 0, slot = 0, phase = 0;
};
/* A warpgroup: acc = (or with `add`, +=) its 64 rows of the band by x, over the stages from the place up to `end`. */
template <int N>
__device__ __forceinline__ void wide_multiply(const wide_args &a, unsigned char *ring, wide_barriers *b, wide_place &at, int end, bool add,
                                              float (&acc)[N / 2])
{
    const int stage = wide_stage(a.box, N);
    const uint32_t base = kn_shared(ring), w_at = threadIdx.x / 128 * KN_TILE, x_at = a.box * WIDE_COLUMNS * 2;
    int last = -1;
    const auto release = [&] { /* stage `last` has been multiplied */
        kn_warp_arrive(kn_shared(b->empty + last));
    };
    for (; at.stage < end; at.stage++) {
        kn_bar_wait(kn_shared(b->full + at.slot), at.phase);
        const uint32_t from = base + at.slot * stage, w = kn_k_major(from + w_at), x = kn_k_major(from + x_at);
        kn_touch(acc);
        kn_wgmma_fence();
#pragma unroll
        for (int k = 0; k < WIDE_COLUMNS / 16; k++) kn_wgmma_ss(acc, kn_descriptor(w, k * 32), kn_descriptor(x, k * 32), add || k > 0);
        kn_wgmma_commit();
        kn_wgmma_wait<1>();
        if (last >= 0) release();
        last = at.slot;
        add = true;
        if (++at.slot == a.slots) at.slot = 0, at.phase ^= 1;
    }
    kn_wgmma_wait<0>();
    kn_touch(acc);
    if (last >= 0) release();
}
#endif

/* ------------------------------------------------------------------------------------------------ the host's side */
/* Calls f with an integral constant, the number of columns of wgmma for m rows. */
template <class F> static inline void wide_by_rows(int m, F f)
{
    if (m <= 16) f(std::integral_constant<int, 16>());
    else if (m <= 32) f(std::integral_constant<int, 32>());
    else f(std::integral_constant<int, 64>());
}
static inline int wide_columns(int m)
{
    int columns;
    wide_by_rows(m, [&](auto n) { columns = decltype(n)::value; });
    return columns;
}
/* Shared memory: the ring, what is beside it, and room behind the last stage for the rows that `groups` products of 64 read past a band. */
static inline int wide_behind(int box, int n, int groups)
{
    const int past = groups * KN_TILE - wide_stage(box, n);
    return past > 0 ? past : 0;
}
/* Stages that fit, `usual` at most; 0: fewer than two do. */
static inline int wide_slots(int box, int n, int groups, int beside, int available, int usual = WIDE_USUAL)
{
    const int most = (available - WIDE_SPARE - beside - wide_behind(box, n, groups)) / wide_stage(box, n);
    return most < 2 ? 0 : most < usual ? most : usual;
}
static inline size_t wide_bytes(int box, int n, int groups, int slots)
{
    return (size_t)WIDE_SPARE + (size_t)(slots * wide_stage(box, n) + wide_behind(box, n, groups));
}

#endif
