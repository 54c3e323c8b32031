/* src/model/state.h -- inside a model; for src/model alone. */
#ifndef MODEL_STATE_H
#define MODEL_STATE_H

#include "model/model.h"
#include "model/weights.h"

/* A step's inputs as they lie in the backend's memory, one upload: counts vary, places do not, so that a captured graph finds them. */
typedef struct {
    int64_t *past;
    int *start, *src_slot, *dst_slot, *out_row, *ids; /* ids last: only those used are sent */
    size_t fixed;                                     /* bytes before ids */
} model_inputs;

enum { MODEL_FLIGHTS = 3 }; /* buffers of what crosses between host and device: two steps under way, one being filled */

struct model {
    model_config config;
    model_options options;
    model_plan plan;
    model_memory memory;
    tp_group *group; /* borrowed */
    const kn_backend *kn;
    kn_context *context;
    plp_dtype act;

    model_weights weights;
    layer_dims dims;
    const layer_kind *kind;
    void *weights_memory, *states_memory, *work_memory;

    void *inputs_host[MODEL_FLIGHTS];
    model_inputs host[MODEL_FLIGHTS], there; /* the same, in host memory and in the backend's */
    int input;                               /* whose turn it is */
    kn_graph **graph;                        /* (max_seqs + 1): a decode step of so many rows, once captured */
    bool *warm;                              /* such a step has run uncaptured: heuristics have been searched */

    /* work space */
    layer_scratch scratch;
    float *residual, *logits;
    void *normed_out; /* (max_outs, hidden) act */
    kn_candidates *candidates;
    kn_sample_row *sample_rows;
    int *penalties; /* ids, then hits; (2, MODEL_PENALTIES) */
    int *maps;      /* group map, then first channels of norm groups */
    int outs;       /* of the last step */
    int64_t steps;  /* so far */

    kn_candidates *candidates_host[MODEL_FLIGHTS];
    int candidate_rows[MODEL_FLIGHTS], begun, ended; /* halves of model_candidates, counted */
    float *logits_host;
    layer_probe probe;
};

#ifdef PLP_FAULTS
/* NaN in the states that a step begins from, where the hooks of base/fault.h say so. */
plp_status model_fault_states(model *m, const model_step *s);
#    define MODEL_FAULT_STATES(m, s) model_fault_states((m), (s))
/* The same for the first float32 of a row. */
#    define MODEL_FAULT_ROW(m, point, row) (plp_fault_nan(point) ? (m)->kn->fill((m)->context, (row), 0xff, sizeof(float)) : PLP_OK)
#else
#    define MODEL_FAULT_STATES(m, s)       PLP_OK
#    define MODEL_FAULT_ROW(m, point, row) PLP_OK
#endif

enum { MODEL_PENALTIES = 1 << 20 }; /* entries of a step's penalty lists */

#endif
