/* src/engine/engine.h -- the engine over a model that is already open; the rest is in polylepis/engine.h. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "model/model.h"
#include "polylepis/engine.h"
#include "text/tokenizer.h"

/* The model and the tokenizer (NULL: none) are borrowed and must outlive the engine. */
plp_status engine_create(plp_engine **e, model *m, text_tokenizer *t);

#endif
