/* src/text/template.h -- the post-processor: which special tokens stand around the ids of a text.
 *
 * TemplateProcessing (its "single" template), ByteLevel, which moves offsets and no ids, and a Sequence of them with at most one template. */
#ifndef TEXT_TEMPLATE_H
#define TEXT_TEMPLATE_H

#include "text/buffer.h"

#include <json-c/json.h>
#include <stdbool.h>

/* component: the member "post_processor"; NULL, none.  Appends to *parts, in order, ids, and -1 where the text comes. */
plp_status text_template_read(text_ids *parts, json_object *component, const char *where);
/* Appends to *out the ids of a text with what stands around them, or without the special ones. */
plp_status text_template_apply(const text_ids *parts, const text_ids *text, bool add_special, text_ids *out);

#endif
