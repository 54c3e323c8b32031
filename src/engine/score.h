/* src/engine/score.h -- teacher forcing: the logits behind every token of a text that is known. */
#ifndef ENGINE_SCORE_H
#define ENGINE_SCORE_H

#include "model/model.h"

/* Called on every rank, in order: logits (vocab) after ids[0 .. index], padding columns -INFINITY; borrowed for the call. */
typedef plp_status (*engine_score_row)(void *arg, int64_t index, const float *logits);

/* Collective.  Computes count tokens as one sequence in state slot 0, in slices of at most model_options.max_outs rows that end on
 * multiples of the model's chunk. */
plp_status engine_score(model *m, const int *ids, int64_t count, engine_score_row row, void *arg);

#endif
