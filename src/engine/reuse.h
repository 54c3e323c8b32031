/* src/engine/reuse.h -- prompts that begin alike: who begins from a state that is there, who waits for one that is being computed, and
 * which states a step leaves behind.
 *
 * States of prompts alone are kept, at multiples of the block: those that decode steps reach are equal up to rounding only.  At least one
 * token of a prompt is always computed, since its logits are wanted. */
#ifndef ENGINE_REUSE_H
#define ENGINE_REUSE_H

#include "engine/prefix_cache.h"
#include "engine/request.h"
#include "engine/schedule.h"

typedef struct {
    int64_t block;
    bool inside;      /* states at all boundaries in a slice, not that at its end alone */
    int first, slots; /* state slots for them                                           */
    const void *root; /* what states depend on besides the tokens, borrowed for the call of reuse_create */
    size_t root_bytes;
    int max_seqs, max_tokens; /* of a step */
} reuse_options;

/* Whether there can be such a cache.  PLP_ERR_USAGE. */
plp_status reuse_check(int64_t block, int64_t chunk, int64_t slots);

typedef struct reuse reuse;
plp_status reuse_create(reuse **u, const reuse_options *o);
void reuse_destroy(reuse **u);
int64_t reuse_block(const reuse *u);

/* A request that begins to run. */
plp_status reuse_admit(reuse *u, request *r);
/* Moves prompts ahead to the last state that is there (past, found, source), and sets waits and cut of those that do better to wait and of
 * those they wait for.  A request waits for one other at a time and for one block at most once,
 * and that other, which came earlier, moves on in every step in which it waits: none starves. */
void reuse_find(reuse *u, request *const *running, int count, schedule_seq *seqs);
/* Moves those back that are not among the step's slices of prompts: a state is sure to be there in the step that found it alone. */
void reuse_settle(request *const *running, int count, const schedule_slice *prefills, int prefill_count);
/* Slots for the states inside the slices: valid until the next call, as model_step wants them. */
void reuse_keep(reuse *u, request *const *running, const schedule_slice *slices, int count, int decodes, const int **start,
                const int **slot);
/* The step is queued. */
void reuse_publish(reuse *u);
/* The states of this request's prompt are not to be used any more. */
void reuse_forget(reuse *u, const request *r);
prefix_cache_counts reuse_count(const reuse *u);

#endif
