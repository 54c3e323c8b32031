/* src/engine/schedule.h -- which rows the next step computes: a function of the running sequences alone, so that all ranks plan alike.
 *
 * Decode rows come first, one of every sequence whose prompt is done; then slices of prompts in the order in which the sequences came, up
 * to the step's budget.  A slice ends at the prompt's end or where the backend may cut a sequence without changing a bit (see
 * kn_backend.grain), at a chunk's end if it can: so what is computed does not depend on what else runs.  Only where the budget holds no
 * such place does the first prompt get a slice that ends anywhere; a budget of (sequences - 1 + grain) always holds one.
 * A prompt that finds no room ends the step: none overtakes it, and none starves. */
#ifndef ENGINE_SCHEDULE_H
#define ENGINE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int budget;           /* most rows of a step                                                                           */
    int slice;            /* most rows of a slice                                                                          */
    int64_t chunk, grain; /* of the model, and of the backend                                                              */
    int64_t block;        /* slices end on multiples of it where they can, and at the last one before the prompt's end; 0: */
} schedule_rules;         /* they need not                                                                                 */

typedef struct {
    int64_t prompt; /* tokens of the prompt                                                     */
    int64_t past;   /* tokens already in the state                                              */
    bool waits;     /* gets no rows in this step, be it a prompt or not                         */
    int64_t cut;    /* a slice that begins before this position ends there at the latest; 0: no */
} schedule_seq;

typedef struct {
    int seq, rows;
    bool out; /* the last row's logits give a token */
} schedule_slice;

/* For steps of `budget` rows on a backend, of a model with that chunk (0: it has none) and kn_backend.grain (0: chunk ends alone). */
schedule_rules schedule_rules_of(int budget, int64_t chunk, int64_t grain);

/* Rows that a slice must have room for to end where no bit changes; 1 where bits may change: the backend has no grain, and need not be
 * deterministic. */
int schedule_least_slice(int64_t chunk, int64_t grain, bool deterministic);

/* seqs in the order in which they came.  budget >= the number of decoding sequences + 1.  Fills slices (at most `count` of them) and
 * returns how many; the first *decodes of them are decode rows. */
int schedule_step(const schedule_rules *r, const schedule_seq *seqs, int count, schedule_slice *slices, int *decodes);

#endif
