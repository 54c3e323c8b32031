/* src/model/shapes.h -- published models by name: their sizes, for benchmarks with random weights. */
#ifndef MODEL_SHAPES_H
#define MODEL_SHAPES_H

#include "model/config.h"

/* "mamba2-130m" to "mamba2-2.7b", "codestral-7b", "mamba-130m" to "mamba-2.8b", "falcon-mamba-7b".  PLP_ERR_USAGE lists them. */
plp_status model_shape_find(const char *name, model_config *config);

#endif
