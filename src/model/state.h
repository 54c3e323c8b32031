/* src/model/state.h -- inside a model; for src/model, and tests of it, alone. */
#ifndef MODEL_STATE_H
#define MODEL_STATE_H

#include "model/model.h"
#include "model/weights.h"

/* A step's inputs as they lie in the backend's memory, one upload: counts vary, places do not, so that a captured graph finds them. */
typedef struct {
    int64_t *past;
    int *start, *src_slot, *dst_slot, *out_row, *ids; /* ids last: only those used are sent */
    size_t fixed;                                     /* bytes before ids */
    kn_sample_row *sample;                            /* sent apart, if there is a draw */
} model_inputs;

/* Rows [first, first + tokens) of a step, and what computes them: all of them, or a thread's share of decode rows. */
typedef struct {
    kn_context *context;
    layer_scratch scratch; /* from the first row on */
    int first, tokens, seqs, decodes, outs;
} model_share;

enum { MODEL_FLIGHTS = 3 }; /* buffers of what crosses between host and device: two steps under way, one being filled */

enum { MODEL_GRAPHS = 3 }; /* kinds of a decode step, see model.graph */

struct model {
    model_config config;
    model_options options;
    model_plan plan;
    model_memory memory;
    double load_seconds;
    tp_group *group; /* borrowed */
    const kn_backend *kn;
    kn_context *context, **crew; /* crew: of one thread each, see forward.c; NULL: no such */
    int crew_size;
    plp_dtype act;

    model_weights weights;
    layer_dims dims;
    const layer_kind *kind;
    void *weights_memory, *states_memory, *work_memory;
    tp_memory reached; /* everyone's work_memory */

    void *inputs_host[MODEL_FLIGHTS];
    model_inputs host[MODEL_FLIGHTS], there; /* the same, in host memory and in the backend's */
    int input;                               /* whose turn it is */
    kn_graph **graph; /* (max_seqs + 1, MODEL_GRAPHS): a decode step of so many rows, once captured: without a draw, with one, with one
                         whose candidates the host looks at */
    bool *warm;       /* such a step has run uncaptured: heuristics have been searched */

    /* work space */
    layer_scratch scratch;
    float *residual, *logits;
    void *normed_out;                /* (max_outs, hidden) act */
    kn_candidates *candidates, *all; /* (max_outs) of this rank; (size, max_outs), the same where it is alone */
    kn_item *sorted;                 /* work space of kn->choose, and next */
    int *next;
    kn_choice *choices;    /* (max_outs) */
    int *penalties;        /* ids, then hits; (2, penalty_room) */
    int64_t penalty_room;  /* every row drawn may penalise every id */
    int *maps;             /* group map, then first channels of norm groups */
    int tokens, outs;      /* of the last step */
    bool without_others;   /* the same: see model_step.no_others */
    layer_pending pending; /* what no norm has added to its residual */
    int64_t steps, dealt;  /* so far */

    kn_candidates *candidates_host[MODEL_FLIGHTS]; /* (size + 1, max_outs) */
    kn_choice *choices_host[MODEL_FLIGHTS];
    int64_t begun, ended; /* draws, counted        */
    int drawn;            /* rows of the last one  */
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

#endif
