/* src/engine/session.h -- a model opened on its ranks: what every command needs before it can compute. */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "engine/tokenizer.h"
#include "model/model.h"
#include "polylepis/engine.h"

typedef struct {
    tp_group *group;
    model_source *source;
    text_tokenizer *tokenizer; /* NULL when the model came without one, or with one that is not supported */
    bool unsupported;
    model *model;
} engine_session;

/* Collective.  max_outs: most rows whose logits a step gives; 0: as many as sequences.  PLP_ERR_DISAGREE when ranks see another model file
 * or were given other options. */
plp_status engine_session_open(engine_session *s, MPI_Comm comm, const plp_engine_options *options, int max_outs);
/* What a user's options mean for a model of this rank, its device chosen.  Local. */
plp_status engine_model_options(const plp_engine_options *in, const tp_group *g, int max_outs, model_options *o);
/* A published shape (model/shapes.h), its matrices of the 16 bits that the options name. */
plp_status engine_shape(const plp_engine_options *in, const char *name, model_config *c);
/* What this rank may take of the memory that is free on its device now: ranks of a host share the host's; a GPU is one rank's, unless the
 * link is MPI. */
plp_status engine_memory(const model_options *o, const tp_group *g, size_t *bytes);
/* Rows that a step has room for: max_tokens, and at least a piece of a prompt that ends where it may besides all other sequences' tokens. */
int engine_step_tokens(const model_options *o, const model_config *c);
/* Collective.  What was opened, after a failure as well. */
void engine_session_close(engine_session *s);

#endif
