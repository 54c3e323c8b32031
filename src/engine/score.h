/* src/engine/score.h -- teacher forcing: what the model says of a text that is known.
 *
 * Both compute `count` tokens as one sequence in state slot 0, in slices of at most model_options.max_outs rows that end where those of
 * the engine do (engine/schedule.h): with max_outs of the backend's grain and more the bits do not depend on it. */
#ifndef ENGINE_SCORE_H
#define ENGINE_SCORE_H

#include "engine/sampling.h"
#include "model/model.h"

/* Called on every rank, in order: logits (vocab) after ids[0 .. index], padding columns -INFINITY; borrowed for the call. */
typedef plp_status (*engine_score_row)(void *arg, int64_t index, const float *logits);

/* Collective.  Gathers every row of logits. */
plp_status engine_score_logits(model *m, const int *ids, int64_t count, engine_score_row row, void *arg);
/* Collective.  nats[i] = -log p(ids[i + 1] after ids[0 .. i]), count - 1 of them, the same on all ranks.  PLP_ERR_DATA where the logits
 * are not finite. */
plp_status engine_score_tokens(model *m, const int *ids, int64_t count, double *nats);

/* The same of rows that a step gave. */
typedef struct engine_scorer engine_scorer;
plp_status engine_scorer_create(engine_scorer **s, model *m);
void engine_scorer_destroy(engine_scorer **s);
/* Collective.  The last step's first `rows` rows of logits: score[i] is of next[i], with the `tops` most probable.  PLP_ERR_DATA where a
 * logit is not finite. */
plp_status engine_scorer_rows(engine_scorer *s, model *m, const int *next, int rows, int tops, sampling_choice *score);

#endif
