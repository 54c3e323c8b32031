/* src/model/model.h -- a model on its ranks: weights, state slots, and the forward pass of one step.
 *
 * One code path for 1 and N ranks and for both backends.  Everything is allocated in model_create, and model_forward allocates nothing;
 * what looks closer at a step (model_gather_logits, model_slot_read and _write) takes some memory for the call. */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "kernels/kernels.h"
#include "layers/layer.h"
#include "model/plan.h"
#include "model/source.h"
#include "tp/tp.h"

typedef struct model model;

typedef struct {
    const kn_backend *backend; /* kn_cpu() or kn_cuda()                                             */
    int device;                /* CUDA ordinal                                                      */
    int threads;               /* CPU threads of a rank; 0: its share of the host's                 */
    tp_comm_kind comm;
    bool f32;            /* float32 activations everywhere; else matrix products in the weights' 16 bits */
    plp_dtype ssm_dtype; /* of the stored SSM state                                           */
    bool deterministic;
    bool check_values; /* model_check_values on all that is loaded                         */
    int max_tokens;    /* most rows of a step                                               */
    int max_seqs;      /* most sequences of a step                                          */
    int max_outs;      /* most rows whose logits a step gives                               */
    int slots;         /* state slots                                                       */
} model_options;

/* What a model of these options takes on this rank, in bytes.  Needs no weights. */
typedef struct {
    uint64_t weights, states, slot, work; /* slot: one state slot; states = slots * slot */
} model_memory;

plp_status model_measure(model_memory *memory, const model_config *c, int rank, int size, const model_options *o);
/* Of one state slot on the rank of this plan. */
uint64_t model_slot_bytes(const model_plan *p, const model_config *c, const model_options *o);
/* Of the rank that has most: where groups straddle it need not be the first. */
plp_status model_most_slot_bytes(const model_config *c, int size, const model_options *o, uint64_t *bytes);

/* Collective.  Loads this rank's bands from the source.  PLP_ERR_MEMORY before anything is loaded when the memory does not suffice. */
plp_status model_create(model **m, const model_source *s, tp_group *g, const model_options *o);
/* Collective.  Random weights of a shape, for benchmarks: the same on every np for the same seed. */
plp_status model_create_random(model **m, const model_config *config, uint64_t seed, tp_group *g, const model_options *o);
void model_destroy(model **m);

const model_config *model_config_of(const model *m);
model_memory model_memory_of(const model *m);
int model_threads(const model *m);         /* of this rank */
double model_load_seconds(const model *m); /* from the source into the backend's memory, on the slowest rank */
const model_options *model_options_of(const model *m);
tp_group *model_group(model *m);
kn_context *model_context(model *m);
tp_slice model_vocab_slice(const model *m, int rank); /* rows of the head on a rank */

/* How a step's tokens are drawn: host arrays, borrowed for the call. */
typedef struct {
    const kn_sample_row *row; /* (outs) */
    const int *penalty_id, *penalty_hits;
    int penalties;
    bool candidates; /* the host looks at the candidates too */
} model_draw;

/* One step: host arrays, borrowed for the call.  See kn_batch for the meaning. */
typedef struct {
    int tokens, seqs, decodes;
    const int *ids; /* (tokens); ~i: what the last step drew for its row i of logits, which need not have been read by the host */
    const int *start, *src_slot, *dst_slot; /* (seqs + 1), (seqs), (seqs) */
    const int64_t *past;                    /* (seqs)            */
    int outs;
    const int *out_row; /* (outs) rows whose logits are wanted */
    bool no_others;     /* nobody asks for those of other rows, as model_logits_of does: the last layer may do without them */
    int block;          /* prefix cache, see kn_ssm_args: states at multiples of block inside slices go to these slots */
    const int *snap_start, *snap_slot;
    const model_draw *draw; /* NULL: no tokens are wanted */
} model_step;

/* Collective.  Afterwards the logits of out_row are in the backend's memory, split by vocabulary over the ranks.  PLP_ERR_DATA for an id
 * outside the vocabulary, before anything is queued. */
plp_status model_forward(model *m, const model_step *s);
/* Logits of other rows of the last step, which must not have said no_others, take the place of those of its out_row: `rows` of them, at most
 * max_outs.  Before the next step. */
plp_status model_logits_of(model *m, const int *row, int rows);
/* Collective.  Candidates of the last step's first `rows` logits rows from every rank: host (tp_size, rows).  Penalty lists in host
 * memory. */
plp_status model_candidates(model *m, int rows, const kn_sample_row *row, const int *penalty_id, const int *penalty_hits, int penalties,
                            kn_candidates *all);
/* Waits for the oldest step that drew and was not read: what was drawn for its rows of logits, the same on every rank, and if it was asked
 * for, all candidates (tp_size, outs).  Borrowed until the step after the next.  At most two steps may be unread, so that the next one
 * runs while the host reads the last one's tokens. */
plp_status model_draw_end(model *m, const kn_choice **choice, const kn_candidates **candidates);
/* What was drawn and not read is not wanted any more. */
void model_draw_forget(model *m);
/* Whether it pays to queue a step before the last one's tokens were read: a device computes it meanwhile. */
bool model_draws_on_device(const model *m);
/* Collective.  Logits row `row` of the last step from all ranks: host (vocab) float32 on every rank.  Padding columns are -INFINITY. */
plp_status model_gather_logits(model *m, int row, float *logits);

/* Copies a slot's whole state to another on this rank.  Queued like a step. */
plp_status model_slot_copy(model *m, int from, int to);
/* Tests: fills a slot with NaN, so that reading a dirty one shows. */
plp_status model_slot_poison(model *m, int slot);
/* A sequence that has failed leaves nothing behind: zeros. */
plp_status model_slot_scrub(model *m, int slot);
/* Collective.  Where what a sequence has in its slot stopped being finite, on whatever rank, "layer 3 (ssm state)"; where all of that is
 * finite, "the logits". */
plp_status model_find_not_finite(model *m, int slot, char *where, size_t size);
/* A slot's state of this rank as host float32: layer by layer, conv (K-1, local channels x B C), then ssm (local heads, dim, state).
 * model_slot_floats elements. */
int64_t model_slot_floats(const model *m);
plp_dtype model_conv_dtype(const model *m); /* of the stored conv window */
plp_status model_slot_read(model *m, int slot, float *state);
plp_status model_slot_write(model *m, int slot, const float *state);

/* A look at what flows through a step, for `verify`: in_proj, conv, x_proj (Mamba-1) and scan of every layer, the residual behind it, and
 * last, as layer `layers`, the logits (outs, local vocabulary).  see NULL: off. */
void model_set_probe(model *m, layer_probe probe);

/* Changes one value of a layer's D on this rank: `verify` and its tests plant a difference to show that it is found. */
plp_status model_plant_difference(model *m, int64_t layer);
/* This rank's plan. */
const model_plan *model_plan_of(const model *m);

#endif
