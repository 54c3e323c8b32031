/* src/kernels/cuda/mixer_step.cuh -- one mixer for 1..8 decode rows in three kernels, and RMSNorm + lm_head in one.  For 9 to 64 rows
 * the same with products of another kind, Mamba-1's second product as a kernel, and one for a step's first norm: mixer_step_wide.cuh.
 *
 *     in     RMSNorm + in_proj + { z | conv1d update + SiLU for x, B, C | softplus and clamp for dt };  Mamba-1: + x_proj
 *     ssm    Mamba-2: h = exp(dt A) h + dt x B^T;  y = h C + D x;  v = y silu(z);  sums of v^2
 *     scan   Mamba-1: RMSNorms of dt, B, C + dt_proj + softplus, and the same per channel
 *     out    gated group RMSNorm (Mamba-2) + out_proj, added to the residual or written as this rank's partial sum
 *     head   RMSNorm + lm_head, float32 logits                       (the code of `in` with another epilogue)
 * Weights and activations bf16, products accumulate in float32, state arithmetic and the residual float32.
 *
 * Every kernel lets its successor start at once (programmatic dependent launch), asks for its weights or state, and only then waits for
 * the kernels before it: while one drains, the next one's weights already stream.  in + ssm + out fit on a multiprocessor together:
 * 128 + 64 + 64 registers x 256 threads are the whole register file, and ring_slots() below divides the shared memory.  scan keeps its part
 * of dt_proj in shared memory, so that `out` follows when `in` has left: its ring fills while scan, which is all latency, is at work.
 * A kernel writes nothing, and reads nothing that a kernel of the same step writes, before its wait.  What it may read before: weights, the
 * batch's arrays, and the states of its layer.  Those must be complete before the operation queued just ahead of a step began.
 * Two exceptions, ssm and scan: `in` tells them value by value (step_told), so the states move while it streams z, and the end of `in`, which takes
 * a microsecond to be known, is not waited for.  Who is told has proof that `in` has passed its own wait, so all that came before is complete;
 * and once all of it was seen, `in` has nothing left to write, so `out` need not wait for it either. */
#ifndef KERNELS_CUDA_MIXER_STEP_CUH
#define KERNELS_CUDA_MIXER_STEP_CUH

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mixer_step_ring.cuh"

#include <atomic>
#include <cstdlib>
#include <cstring>

/* The table's entries (kernels.h). */
extern "C" {
size_t kn_mixer_step_work_cuda(const kn_mixer_step_args *a);
plp_status kn_mixer_step_cuda(kn_context *c, const kn_mixer_step_args *a, const kn_batch *b, bool *done);
bool kn_mixer_step_knows_cuda(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b);
size_t kn_scan_mixer_work_cuda(const kn_scan_mixer_args *a);
plp_status kn_scan_mixer_begin_cuda(kn_context *c, const kn_scan_mixer_args *a, const kn_batch *b, bool *done);
plp_status kn_scan_mixer_end_cuda(kn_context *c, const kn_scan_mixer_args *a, const kn_batch *b);
plp_status kn_norm_linear_cuda(kn_context *c, const kn_norm_linear_args *a, bool *done);
}

enum { STEP_DIM = 64, STEP_TAPS = 4, STEP_HEADS = KN_MIXER_HEADS, STEP_GROUPS = 32, STEP_PARTS = STEP_DIM / 8 };
enum { STEP_FEW = 2 }; /* rows for which scan has registers to spare, and is told z */

struct step_batch { /* device pointers, (m) */
    const int *src, *dst;
    const int64_t *past;
};
struct step_work { /* between the kernels of a layer */
    bf16 *z, *xbc, *v; /* (m, inner), (m, channels), (m, inner) */
    float *dt, *squares; /* (m, heads); squares of up to STEP_ROWS rows: (m, heads, STEP_PARTS), of 8 channels each */
};
/* What `in` tells ssm or scan while both are at work: words whose lowest bit says that they are there.  It is free in what was rounded to bf16, and dt
 * has it rounded away.  Mamba-1's x has no bit to spare: 16 bits, inverted, of which no value is 0 (mixer_step_ring.cuh).  What one store writes
 * arrives together, so neither side needs a fence, which would wait for all of a thread's stores. */
struct step_told {
    uint32_t *in; /* (m, channels + heads): x, B, C, dt; Mamba-2 alone */
    uint32_t *z;  /* (m, inner); NULL: it is in step_work, and `in` must be waited for */
    uint16_t *x;  /* (m, channels), Mamba-1 alone: also for the blocks of `in`, whose second product it enters */
};
plp_status mixer_step_wide_create(kn_context *c); /* what mixer_step_wide.cuh needs in the context */
/* One launch a kernel; a and b are known to fit.  Shared memory of a ring: slots of `slot` bytes, and `fixed` beside them. */
struct step_room {
    int slot, fixed;
};
step_room mixer_step_in_room(const kn_mixer_step_args *a, int sms);
step_room mixer_step_out_room(const kn_mixer_step_args *a, int sms);
struct product_second; /* mixer_step_product.cuh */
/* second: Mamba-1 alone. */
plp_status mixer_step_in(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w, int slots, const step_told *told,
                         const product_second *second);
/* told NULL: x, B, C, dt and z are in w, and sums of v^2 are of heads. */
plp_status mixer_step_ssm(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w, const step_told *told);
int mixer_step_scan_bytes(const kn_scan_mixer_args *a); /* of shared memory that a block needs */
/* least: bytes of shared memory that a block takes in all, if it needs less.  slices: mixer_step_slices of the most channels that a rank has.
 * told: x, and z or NULL. */
plp_status mixer_step_scan(kn_context *c, const kn_scan_mixer_args *a, const step_batch *b, const step_work *w, int least, int slices,
                           const step_told *told);
/* least: as above.  told: of mixer_step_turn, whose first `count` words are set to 0 for another turn. */
plp_status mixer_step_out(kn_context *c, const kn_mixer_step_args *a, const step_work *w, int slots, int least, uint32_t *told, int64_t count);

/* Words for this mixer.  Mixers take turns: a kernel that has started early must not find what an earlier one left for another. */
static inline uint32_t *mixer_step_turn(const kn_context *c) { return c->told + (size_t)(c->turn % KN_TURNS) * KN_TOLD; }

/* Bytes between the rows of in_proj in a slot: 1 and 2 rows gain 1 % without (faster copies), on an H100 Codestral's 4 rows 4 % with (no
 * conflicts). */
static inline int step_pad(int rows) { return rows <= 2 ? 0 : (int)RING_PAD; }

/* Sizes that the kernels' instances know. */
bool mixer_step_in_knows(const kn_mixer_step_args *a);
int mixer_step_slices(int hidden, int channels); /* in which the second product of `in` leaves its sums; more than KN_MIXER_SLICES are not known */
/* Where `in` leaves the sums of its second product for `scan`, which starts on them while `in` is still at z; NULL if a collective comes
 * between, or z is too short for that. */
uint2 *mixer_step_told(const kn_context *c, const kn_scan_mixer_args *a);
bool mixer_step_ssm_knows(const kn_mixer_step_args *a);
bool mixer_step_scan_knows(const kn_scan_mixer_args *a);
bool mixer_step_out_knows(const kn_mixer_step_args *a, int sms);

static inline int step_inner(const kn_mixer_step_args *a) { return a->heads * STEP_DIM; }
static inline int step_channels(const kn_mixer_step_args *a) { return step_inner(a) + 2 * a->groups * a->state; }
static inline int step_dts(const kn_mixer_step_args *a) { return a->dt_bias ? a->heads : 0; } /* rows of in_proj for dt: none in Mamba-1, whose dt comes later */
/* Bytes between rows of 16-byte units that 8 lanes in two rows read together: an odd number of 64 bytes keeps those apart. */
static inline int step_odd_pitch(int bytes) { return bytes % 128 <= 64 ? bytes / 128 * 128 + 64 : bytes / 128 * 128 + 192; }
static inline bool step_aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

/* What all of these need of the device and the context. */
static inline bool step_runs_on(const kn_context *c) { return c->hopper && c->options.act == PLP_BF16; }

/* Before a kernel's first launch.  Every kernel gets the same carve-out, all of it shared memory, so that they can be neighbours on a
 * multiprocessor. */
template <auto Kernel> plp_status step_prepare(const kn_context *c)
{
    static std::atomic<uint64_t> prepared; /* a bit for each device */
    const uint64_t bit = 1ull << (c->options.device & 63);
    if (!(prepared.load() & bit)) {
        cudaFuncAttributes f;
        int most;
        PLP_TRY(KN_CUDA(cudaFuncGetAttributes(&f, (const void *)Kernel)));
        PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->options.device)));
        PLP_TRY(KN_CUDA(cudaFuncSetAttribute((const void *)Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most - (int)f.sharedSizeBytes)));
        PLP_TRY(KN_CUDA(cudaFuncSetAttribute((const void *)Kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared)));
        prepared |= bit;
    }
    return PLP_OK;
}
/* Launches Kernel<<<grid, threads, shared>>>(a) in clusters of so many blocks, as a programmatic dependent of what was queued before.  PLP_PDL=0
 * in the environment starts kernels one after the other: results must not change, which tells a race from a rounding. */
template <auto Kernel, class A>
plp_status step_launch(kn_context *c, dim3 grid, size_t shared, const A &a, int threads = STEP_THREADS, int cluster = 1)
{
    PLP_TRY(step_prepare<Kernel>(c));
    const char *pdl = getenv("PLP_PDL");
    const bool early = pdl == NULL || strcmp(pdl, "0") != 0;
    return KN_CUDA(kn_launch(c, early, +Kernel, grid, threads, shared, a, cluster));
}

#endif
