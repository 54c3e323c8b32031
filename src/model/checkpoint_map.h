/* src/model/checkpoint_map.h -- where the bands of a model lie in a checkpoint: the names of every dialect, bands that are stacked in one
 * tensor, and a head that may be the embedding. */
#ifndef MODEL_CHECKPOINT_MAP_H
#define MODEL_CHECKPOINT_MAP_H

#include "io/checkpoint.h"
#include "model/source.h"

typedef struct {
    const io_checkpoint *checkpoint; /* borrowed */
    const char *prefix;              /* before every name: "" or "model." */
    const io_tensor *embedding;
    const io_tensor *head; /* NULL: tied */
} model_checkpoint_map;

/* Finds the dialect of the names, and settles what only the tensors tell: vocab, tied, the biases, whether norms of dt, B and C have
 * weights, dtype.  PLP_ERR_DATA for missing tensors, PLP_ERR_SHAPE for an embedding that does not hold the config's vocabulary. */
plp_status model_checkpoint_map_open(model_checkpoint_map *m, const io_checkpoint *checkpoint, model_config *c);
/* Every tensor is there with the shape that the config makes (PLP_ERR_DATA names the missing, PLP_ERR_SHAPE the first that differs); unknown
 * ones are warned of. */
plp_status model_checkpoint_map_check(const model_checkpoint_map *m, const model_config *c);
/* The tensor that holds a band, and the band's first row in it. */
plp_status model_checkpoint_map_find(const model_checkpoint_map *m, const model_config *c, model_band band, int64_t layer,
                                     const io_tensor **t, int64_t *first_row);

#endif
