/* src/model/verify.h -- is the sharded model the model?  Layer by layer against the whole one, on the same tokens.
 *
 * Every rank holds its shard and, beside it, the whole model, and compares what it owns: in_proj, conv and scan on its own heads and
 * groups (Mamba-1: channels), the sum of x_proj, the residual, and its part of the logits; the largest differences of all ranks are then
 * brought together.
 *
 * In float32 the two agree but for the order of sums.  In 16 bits they differ by roundings that fall the other way, and by how much is
 * nobody's to guess: it grows with the depth and with what a tensor is made of.  So there is a third model, whole and in float32, with the
 * same weights, and both are held against it.  Each differs from it by what 16 bits cost, and the shards' cost may be `error_ratio` times
 * the whole model's.  A partial sum of each rank is rounded where the whole model rounds one sum: the shares of W ranks are each some
 * 1/sqrt W of it, so together their roundings are about as large as its one, and with that of the sum at most sqrt 2 times as large.  Of a
 * float32 checkpoint, whose matrices 16 bits round, that rounding counts on both sides. */
#ifndef MODEL_VERIFY_H
#define MODEL_VERIFY_H

#include "model/model.h"

typedef struct {
    char phase[24], tensor[16];
    int64_t layer;   /* = layers: the logits                                     */
    double absolute; /* largest difference over ranks and elements               */
    double relative; /* the same, over the whole model's largest magnitude there */
    /* Over all steps of the phase and what a rank owns, of the rank whose ratio is largest; 0 without a float32 model.  Each column counts
     * as a share of its own size. */
    double error, whole_error; /* rms of (sharded - float32), of (whole - float32), over the rms of float32 */
    double ratio;              /* error / whole_error; 0 where error is 0, infinite where only that is not, or one is not finite */
    bool within;
} model_difference;

typedef struct {
    int tokens;  /* of the prompt: random ids from `seed`, at most max_tokens of both models */
    int decodes; /* steps of one token behind it                                             */
    int slice;   /* of the chunked prefill                                                   */
    uint64_t seed;
    double tolerance;   /* of `relative`; with a float32 model 0 is none.  What is not finite is never within */
    double error_ratio; /* of `ratio`, with a float32 model                                       */
} model_verify_options;

/* Collective over the shard's group.  exact: the whole model in float32, NULL without one.  Phases: prefill, chunked prefill, decode.
 * *list (the caller's to free) has a row for every phase, layer and tensor, in the order of computation: the same on all ranks.
 * PLP_ERR_DISAGREE, naming the first, when a row is not within what is allowed. */
plp_status model_verify(model *shard, model *whole, model *exact, const model_verify_options *o, model_difference **list, int *count);

#endif
