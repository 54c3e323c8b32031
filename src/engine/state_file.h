/* src/engine/state_file.h -- the state of one sequence in a file, cut for no number of ranks: an HDF5 container as model files are (see
 * io/model_file.h), with
 *
 *     /conv_x   float32 (layers, conv - 1, channels)       the convolution's last inputs, oldest first; so are
 *     /conv_B, /conv_C          (layers, conv - 1, groups * state)     these, Mamba-2 alone
 *     /ssm      float32 (layers, channels, state)
 *     /tokens   bytes: int32, all tokens of the sequence, of which the state holds the first `past`
 *
 * and the attributes state_of (the model's digest), past, prompt (tokens that were given, not drawn), conv_dtype and ssm_dtype (what the
 * numbers were kept in). */
#ifndef ENGINE_STATE_FILE_H
#define ENGINE_STATE_FILE_H

#include "model/model.h"

/* Collective.  Rank 0 writes; an existing file is replaced when the new one is complete. */
plp_status state_file_write(model *m, const char *digest, int slot, const int *tokens, int64_t count, int64_t past, int64_t prompt,
                            const char *path);

/* PLP_ERR_CREATE where a file at path is none of ours.  One that is damaged but for its numbers cannot be told from others. */
plp_status state_file_may_replace(const char *path, bool trust);

typedef struct {
    int *tokens;                 /* (count) */
    int64_t count, past, prompt; /* prompt: past in files that do not say it */
    float *state;                /* this rank's, for model_slot_write */
} state_file;

/* Local.  trust: see io_model_open_trusted.  PLP_ERR_DATA for a file that is none, is damaged, or is of another model. */
plp_status state_file_read(state_file *f, model *m, const char *digest, const char *path, bool trust);
void state_file_free(state_file *f);

#endif
