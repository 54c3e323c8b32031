/* src/kernels/cuda/ssd.cuh -- what the two ways of kn->ssd share: the fused kernel for Hopper (ssd_hopper.cu) and the scan for everything
 * else (ssd_scan.cu); ssd.cu chooses.
 *
 * Both need tables on the device that depend on the step alone, not on the layer (where states are to be kept inside a slice; how slices
 * are cut).  They are made once a step and found again by comparing what they were made from.  Because they travel from host memory that
 * is used again, a prefill must not be captured into a graph; a step of decode rows alone does nothing here, and may be. */
#ifndef KERNELS_CUDA_SSD_CUH
#define KERNELS_CUDA_SSD_CUH

#include "kernels/cuda/common.cuh"

#include <cuda.h>

enum { KN_SSD_RING = 4 }; /* host buffers in flight */

/* A stretch of one sequence for one block and head: rows from `row0` in the packed batch, where the first `lead` of `rows` belong to what
 * came before and only keep the chunks aligned to the sequence. */
typedef struct {
    int row0, rows, lead, seq;
    int chunk0; /* number of its first chunk within the sequence                                                     */
    int init;   /* initial state: KN_SSD_ZERO, KN_SSD_SLOT, or the piece of the work space that holds a copy of it    */
    int piece0; /* pass 2: the first of `pieces` pieces before it.  pass 1: its own piece, `init` the one to copy to  */
    int pieces;
    int last; /* it ends the slice */
    int snap; /* snap_slot[snap + chunks / chunks of a block], or nothing where block is 0 */
} kn_ssd_segment;
enum { KN_SSD_ZERO = -1, KN_SSD_SLOT = -2 };

typedef struct {
    int head0, heads, group; /* one block's heads: one, or two of the same group */
} kn_ssd_unit;

struct kn_ssd_cuda {
    bool hopper; /* ready for the fused kernel */
    char *host[KN_SSD_RING], *device;
    cudaEvent_t copied[KN_SSD_RING];
    int turn;
    size_t bytes; /* of each buffer                           */
    char *key;    /* what the tables on the device depend on  */
    size_t key_bytes, key_room;
    /* the tables, on the device */
    const int *snap_start, *snap_slot;
    const kn_ssd_segment *segments; /* of pass 1, then of pass 2 */
    const kn_ssd_unit *units;
    int first_pass, second_pass, unit_count, unit_heads;
    /* ssd_hopper.cu */
    float *work;        /* the states of pieces, then their decays */
    CUtensorMap map[4]; /* of x, B, C, the rows above tiles of x, as last seen */
    struct {
        const void *p;
        int rows, columns;
        int64_t ld;
    } mapped[4];
};

/* Makes the tables of this step, unless they are there: with `fused` all of them, else snap_start and snap_slot alone. */
plp_status kn_ssd_tables(kn_context *c, const kn_ssm_args *a, const kn_batch *b, bool fused);
/* Whether the fused kernel takes these arguments. */
bool kn_ssd_hopper_takes(const kn_context *c, const kn_ssm_args *a, const kn_batch *b);
plp_status kn_ssd_hopper_create(kn_context *c);
/* Cuts the prefill slices into segments and the heads into units, into `segments` (pass 1 first) and `units`, for which there is room. */
void kn_ssd_hopper_plan(kn_context *c, const kn_ssm_args *a, const kn_batch *b, kn_ssd_segment *segments, kn_ssd_unit *units);
/* With `conv`, x is its first heads * dim channels, yet to be convolved; the convolution's states are read, and left as they are. */
plp_status kn_ssd_hopper_run(kn_context *c, const kn_ssm_args *a, const kn_conv_args *conv, const kn_batch *b);
plp_status kn_ssd_scan_run(kn_context *c, const kn_ssm_args *a, const kn_batch *b);

#endif
