/* src/engine/schedule.h -- which rows the next step computes: a function of the running sequences alone, so that all ranks plan alike.
 *
 * Decode rows come first, one of every sequence whose prompt is done; then slices of prompts in the order in which the sequences came, up
 * to the step's budget.  A slice ends at the prompt's end or at an absolute multiple of the model's chunk, so that a sequence is cut the
 * same way whatever else runs; only where the budget is smaller than what is left of a chunk does the first prompt get a shorter one.
 * A prompt that finds no room ends the step: none overtakes it, and none starves. */
#ifndef ENGINE_SCHEDULE_H
#define ENGINE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t prompt; /* tokens of the prompt          */
    int64_t past;   /* tokens already in the state   */
} schedule_seq;

typedef struct {
    int seq, rows;
    bool out; /* the last row's logits give a token */
} schedule_slice;

/* seqs in the order in which they came.  budget >= the number of decoding sequences + 1.  Fills slices (at most `count` of them) and
 * returns how many; the first *decodes of them are decode rows. */
int schedule_step(const schedule_seq *seqs, int count, int budget, int64_t chunk, schedule_slice *slices, int *decodes);

#endif
