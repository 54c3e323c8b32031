/* src/engine/engine.h -- the engine over a model that is already open; the rest is in polylepis/engine.h. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/sha256.h"
#include "engine/session.h"

typedef struct {
    plp_cache cache; /* of states; they lie in the model's slots beyond max_seqs                           */
    int64_t block;   /* tokens, a multiple of the model's chunk; 0: the chunk                              */
    int max_slice;   /* most tokens of a prompt in a step; 0: what has room                                */
    plp_ahead ahead;
    bool trust;                  /* state files, as model_source_options */
    char digest[PLP_SHA256_HEX]; /* of the model; "": none, and its states cannot be saved                 */
} engine_options;

/* The model and the tokenizer (NULL: none) are borrowed and must outlive the engine.  PLP_ERR_USAGE for a block that is no multiple of the
 * chunk, and for a cache without slots. */
plp_status engine_create(plp_engine **e, model *m, text_tokenizer *t, const engine_options *o);
void engine_destroy(plp_engine **e);
/* Room for what has to be closed behind the engine. */
engine_session *engine_session_of(plp_engine *e);

#endif
