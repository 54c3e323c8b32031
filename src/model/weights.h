/* src/model/weights.h -- this rank's weights: laid out by the plan, filled from any reader of bands. */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "layers/layer.h"
#include "base/arena.h"
#include "model/plan.h"

typedef struct {
    plp_dtype dtype; /* of the matrices in memory */
    void *embed;     /* (vocab, hidden)           */
    void *head;      /* (vocab here, hidden); inside embed when tied */
    bool packed;     /* head and the layers' matrices are as kn->pack leaves them; of embed, what head is */
    float *final_norm;
    layer_weights *layers; /* host array of (layers), the caller's; its pointers are backend memory */
} model_weights;

/* Where bands come from. */
typedef struct {
    plp_status (*read)(void *arg, const model_range *list, int count); /* to host memory, as model_source_read_ranges */
    /* A matrix, or a part of one, in the backend's memory: queues on the context's stream.  NULL: matrices are read as well. */
    plp_status (*make)(void *arg, const kn_backend *kn, kn_context *context, const model_range *range);
    void *arg;
} model_band_reader;

/* Sets every pointer; with an arena that has no base this measures. */
void model_weights_lay_out(model_weights *w, plp_arena *a, const model_plan *p, const model_config *c);

/* Reads this rank's bands and puts them in place, each number looked at first by `check` threads (model/values.h) unless that is 0, and
 * packs what is multiplied with.  Progress on rank 0.  Local: the caller agrees on the status. */
plp_status model_weights_load(model_weights *w, const model_plan *p, const model_config *c, const kn_backend *kn, kn_context *context,
                              const model_band_reader *reader, int check);

/* A reader whose arg is a model_source. */
plp_status model_read_source(void *source, const model_range *list, int count);

/* Random weights, the same on every np: a value depends on seed, band, layer and its place in the whole band.  Readers for an arg that is a
 * model_random; what is no matrix is float32 and small. */
typedef struct {
    const model_config *config;
    uint64_t seed;
} model_random;
plp_status model_read_random(void *random, const model_range *list, int count);
plp_status model_make_random(void *random, const kn_backend *kn, kn_context *context, const model_range *range);

#endif
