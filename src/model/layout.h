/* src/model/layout.h -- where a band lies in a model file: its dataset's path and shape.  Shared by the writer and the reader. */
#ifndef MODEL_LAYOUT_H
#define MODEL_LAYOUT_H

#include "io/model_file.h"
#include "model/source.h"

/* "/layers/003/in_proj/z/weight", "/embedding/weight".  layer is ignored for bands that are not per layer. */
void model_layout_path(model_band band, int64_t layer, char path[IO_NAME]);

/* Columns that lie together in a band cut by columns: a head's, or for Mamba-1 the largest power of two up to 64 that divides inner. */
int64_t model_layout_block(const model_config *c);

/* Shape of the dataset; its rank is returned, 0 when this model has no such band.  (rows) where there is one column, (rows, columns), or,
 * cut by columns, (columns / block, rows, block): so a rank's columns are one contiguous piece. */
int model_layout_shape(const model_config *c, model_band band, int64_t shape[IO_RANK]);

/* The file holds every band with its shape and dtype (matrices in the config's, all others as F32), and nothing else. */
plp_status model_layout_check(const io_model_file *f, const model_config *c);

#endif
