/* src/engine/engine.h -- the engine over a model that is already open; the rest is in polylepis/engine.h. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "engine/session.h"

/* The model and the tokenizer (NULL: none) are borrowed and must outlive the engine. */
plp_status engine_create(plp_engine **e, model *m, text_tokenizer *t);
void engine_destroy(plp_engine **e);
/* Room for what has to be closed behind the engine. */
engine_session *engine_session_of(plp_engine *e);

#endif
