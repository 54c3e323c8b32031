/* src/engine/tokenizer.h -- a model's tokenizer, where it has one that is supported: token ids do without. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include "model/source.h"
#include "text/tokenizer.h"

/* Of the model at `path`.  *t: NULL where it came without one, or, with a warning that says why, where its own is not supported.  Local. */
plp_status engine_tokenizer(text_tokenizer **t, const model_source *source, const char *path, bool *unsupported);
/* PLP_ERR_USAGE, always: why a session has none. */
plp_status engine_no_tokenizer(bool unsupported);

#endif
