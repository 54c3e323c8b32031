/* src/model/config_resolve.h -- configs as people bring them, in one form: Hugging Face's config.json, the original state-spaces one, and
 * Codestral's params.json.  Which key means what, and what holds when it is absent, is tabled in docs/checkpoints.md. */
#ifndef MODEL_CONFIG_RESOLVE_H
#define MODEL_CONFIG_RESOLVE_H

#include "base/json.h"
#include "model/config.h"

/* A config of any of the dialects; `where` names it in messages.  Some of it is a claim that only the tensors can settle: vocab (0 when
 * not given), the biases, tied, dtype, and norm_groups 0.  PLP_ERR_DATA names the key, or the variant or family that is not supported. */
plp_status model_config_resolve(json_object *root, const char *where, model_config *c);

/* mixer_norm_eps of norms that have weights, once the tensors have shown that (c->mixer_norm_weights): else nothing. */
plp_status model_config_resolve_mixer_norms(model_config *c, json_object *root, const char *where);

/* Stop, bos and pad ids, and vocab_used.  Ids come from the first that tells: generation_config.json, tokenizer_config.json, the config,
 * tokenizer.json (a text of `bytes`, NULL when there is none), and what the dialect is known for.  c->vocab must be settled. */
plp_status model_config_resolve_ids(model_config *c, json_object *root, const char *where, const char *dir, const char *tokenizer,
                                    size_t bytes);

#endif
