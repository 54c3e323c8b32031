/* src/model/plan.h -- the sharding plan: who owns what, as arithmetic.  Needs no ranks, no memory and no files.
 *
 * Rank r owns a contiguous range of heads; ranges differ by at most one head.  Everything follows from it (docs/architecture.md): channels
 * of x and z, heads of dt, A and D, the groups of B and C that those heads read (kept on every rank that needs them), and the columns of
 * the output projection.  Mamba-1 is the same with channels in the place of heads, shared out by up to 64 at a time. */
#ifndef MODEL_PLAN_H
#define MODEL_PLAN_H

#include "kernels/kernels.h"
#include "model/source.h"
#include "tp/tp.h"

/* How the gated norm's statistic comes together under tensor parallelism. */
typedef enum {
    MODEL_NORM_NONE,   /* the model has no gated norm                                                             */
    MODEL_NORM_LOCAL,  /* every group lies whole on one rank: no communication                                    */
    MODEL_NORM_FOLDED, /* one group over all ranks: its scale is applied behind the projection, and its sum of squares rides in the
                          same all-reduce: one collective a layer                                                 */
    MODEL_NORM_SUMMED  /* groups straddle ranks: one small all-reduce of the sums of squares before the projection */
} model_norm;

typedef struct {
    int rank, size;
    tp_slice heads;       /* Mamba-1: channels */
    int64_t unit;         /* in multiples of which heads are shared out; the same on every rank */
    tp_slice groups;      /* that these heads read; may be shared with neighbours */
    tp_slice channels;    /* heads * head_dim */
    tp_slice norm_groups; /* groups of the gated norm that this rank holds a part of */
    tp_slice vocab;       /* rows of the head */
    model_norm norm;      /* the same on every rank */
    int64_t in_rows;      /* rows of in_proj here: z, x, B, C, dt */
    int64_t conv_channels;
} model_plan;

/* Rows of the head on a rank: by eights, so that the logits' rows are as matrix products like them; by ones where those would be few. */
tp_slice model_plan_vocab(int64_t vocab, int rank, int size);

/* PLP_ERR_USAGE when there are more ranks than heads. */
plp_status model_plan_make(model_plan *p, const model_config *c, int rank, int size);

/* The groups that a range of heads reads: head j reads group floor(j groups / heads). */
tp_slice model_groups_of(int64_t heads, int64_t groups, tp_slice own);

/* Local group of the rank's i-th head: (p->heads.count) of them. */
void model_plan_group_map(const model_plan *p, const model_config *c, int *map);
/* First local channel of each norm group that the rank holds a part of, and the end: (p->norm_groups.count + 1). */
void model_plan_norm_first(const model_plan *p, const model_config *c, int *first);

/* What a rank keeps of a band: rows (or columns, where the band is cut by columns).  count 0: nothing. */
tp_slice model_plan_band(const model_plan *p, const model_config *c, model_band band);

/* Sizes, in bytes. */
uint64_t model_plan_weights(const model_plan *p, const model_config *c, plp_dtype matrices);
uint64_t model_plan_conv_state(const model_plan *p, const model_config *c, plp_dtype dtype); /* of one sequence, all layers */
uint64_t model_plan_ssm_state(const model_plan *p, const model_config *c, plp_dtype dtype);

/* The collectives of one layer, for a step of `tokens` rows. */
typedef struct {
    const char *what;
    int64_t elements;
    plp_dtype dtype;
} model_collective;
enum { MODEL_COLLECTIVES = 2 };
int model_plan_collectives(const model_plan *p, const model_config *c, int64_t tokens, model_collective list[MODEL_COLLECTIVES]);

#endif
