/* src/engine/sampling.h -- from what the backend chose for a row of logits to its token.
 *
 * Every rank holds the candidates of all and decides alike, by the rule of kernels/choose.h; p is the logit after penalties, divided by the
 * temperature.  Where the backend's choice does not settle it (a wide top-p, ids that are banned), the whole row decides by the same rule. */
#ifndef ENGINE_SAMPLING_H
#define ENGINE_SAMPLING_H

#include "kernels/kernels.h"
#include "polylepis/engine.h"

typedef struct {
    const plp_sampling *params;
    int logprobs;                         /* -1: none; of PLP_ALL_LOGPROBS it is 0, and */
    bool list;                            /* the whole row is wanted as well           */
    int64_t position;                     /* of the token to come, in its sequence: what the noise depends on */
    const int *penalty_id, *penalty_hits; /* ids seen, and how often in the output */
    int penalties;
    const int *banned; /* ids that must not be drawn */
    int bans;
    const int *allowed; /* ids of which one must be drawn */
    int alloweds;       /* 0: any */
    const int *bias_id; /* what is added to their logits, before the penalties */
    const float *bias;
    int biases;
} sampling_row;

typedef struct {
    int token;
    double logprob; /* of the logits as they are; with logprobs >= 0 */
    int tops;
    int top_id[PLP_MOST_LOGPROBS];
    double top_logprob[PLP_MOST_LOGPROBS];
} sampling_choice;

typedef enum { SAMPLING_DONE, SAMPLING_NEEDS_ROW, SAMPLING_NOT_FINITE } sampling_result;

/* Room for a row's ids while they are put in order. */
typedef struct sampling_work sampling_work;
plp_status sampling_work_create(sampling_work **w, int vocab, int ranks);
void sampling_work_destroy(sampling_work **w);

/* Does this request look at penalties at all? */
bool sampling_penalises(const plp_sampling *params);
/* The row for kn_candidates_args; the penalty lists begin at penalty_first. */
kn_sample_row sampling_kernel_row(const sampling_row *r, int penalty_first);

/* Whether the backend's choice is sure to be the token, whatever the logits: the host need not look before the next step. */
bool sampling_settles(const sampling_row *r);
/* Whether anything below that is called for this row looks at the candidates. */
bool sampling_wants_candidates(const sampling_row *r);

/* Rank i's candidates are all[i * stride], here and below.  c: what the backend chose. */
sampling_result sampling_from_choice(sampling_work *w, const sampling_row *r, const kn_choice *c, const kn_candidates *all, int stride,
                                     int ranks, sampling_choice *choice);
/* After SAMPLING_NEEDS_ROW: with the whole row, (vocab) of which the first `valid` may be drawn. */
void sampling_from_logits(sampling_work *w, const sampling_row *r, const kn_candidates *all, int stride, int ranks, const float *logits,
                          int valid, sampling_choice *choice);

/* Ids and logprobs (valid) of the whole row, most probable first; `choice` has the logprob of its own token, and they fit it. */
void sampling_list(sampling_work *w, const float *logits, int valid, const sampling_choice *choice, int *ids, double *logprobs);

/* Of an id that a bonus has put among the candidates, and of the `tops` most probable.  false where a logit is not finite. */
bool sampling_score(const kn_candidates *all, int stride, int ranks, int id, int tops, sampling_choice *score);

#endif
