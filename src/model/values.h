/* src/model/values.h -- what the numbers of a model may be. */
#ifndef MODEL_VALUES_H
#define MODEL_VALUES_H

#include "model/source.h"

/* Rows first .. first + count of a band (columns, where it is cut by columns) as model_source_read gives them.  PLP_ERR_DATA names the first
 * element that is NaN or infinite, an A_log whose exponential is 0 or infinite, and a dt_bias beyond a million: with any of them the state
 * is not finite after some tokens, or never changes. */
plp_status model_check_values(const model_config *c, model_band band, int64_t layer, int64_t first, int64_t count, const void *data,
                              plp_dtype dtype, int threads);

#endif
