/* src/model/verify.h -- is the sharded model the model?  Layer by layer against the whole one, on the same tokens.
 *
 * Every rank holds its shard and, beside it, the whole model, and compares what it owns: in_proj, conv and scan on its own heads and
 * groups (Mamba-1: channels), the sum of x_proj, the residual, and its part of the logits; the largest differences of all ranks are then brought together. */
#ifndef MODEL_VERIFY_H
#define MODEL_VERIFY_H

#include "model/model.h"

typedef struct {
    char phase[24], tensor[16];
    int64_t layer;   /* = layers: the logits                                     */
    double absolute; /* largest difference over ranks and elements               */
    double relative; /* the same, over the whole model's largest magnitude there */
    bool within;
} model_difference;

typedef struct {
    int tokens;  /* of the prompt: random ids from `seed`, at most max_tokens of both models */
    int decodes; /* steps of one token behind it                                             */
    int slice;   /* of the chunked prefill                                                   */
    uint64_t seed;
    double tolerance; /* of `relative`; a NaN is never within                                     */
} model_verify_options;

/* Collective over the shard's group.  Phases: prefill, chunked prefill, decode.  *list (the caller's to free) has a row for every phase,
 * layer and tensor, in the order of computation: the same on all ranks.  PLP_ERR_DISAGREE, naming the first, when a row is not within
 * the tolerance. */
plp_status model_verify(model *shard, model *whole, const model_verify_options *o, model_difference **list, int *count);

#endif
