/* src/model/config_attributes.h -- a config as attributes of a model file's root group: the one place that knows their names. */
#ifndef MODEL_CONFIG_ATTRIBUTES_H
#define MODEL_CONFIG_ATTRIBUTES_H

#include "io/model_file.h"
#include "model/config.h"

plp_status model_config_write(io_model_writer *w, const model_config *c);
/* PLP_ERR_DATA when an attribute is missing or breaks a rule of model_config_check. */
plp_status model_config_read(const io_model_file *f, model_config *c);

#endif
