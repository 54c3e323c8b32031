/* src/text/component.h -- what the readers of tokenizer.json's components share.
 *
 * A component is an object with a "type".  One that is not known is refused by its name: skipping it would give other ids than the model
 * was trained with, and no one would see it. */
#ifndef TEXT_COMPONENT_H
#define TEXT_COMPONENT_H

#include "polylepis/status.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TEXT_MOST_IDS = 1 << 24 }; /* ids lie below it: a table by id must not take the memory that a hostile file asks for */

/* `part` is the key under which the component stands ("normalizer").  PLP_ERR_DATA unless it is an object whose "type" is a string. */
plp_status text_component_type(json_object *component, const char *where, const char *part, const char **type);
plp_status text_component_unknown(const char *where, const char *part, const char *type);

/* Members that must be there.  Strings and arrays are borrowed. */
plp_status text_need(json_object *object, const char *key, const char *where, enum json_type type, json_object **value);
plp_status text_need_string(json_object *object, const char *key, const char *where, const char **bytes, size_t *length);
plp_status text_need_character(json_object *object, const char *key, const char *where, int32_t *c);
plp_status text_need_bool(json_object *object, const char *key, const char *where, bool *value);

#endif
