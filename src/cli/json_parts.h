/* src/cli/json_parts.h -- what answers, reports and headers have in common as JSON.  Running out of memory shows in plp_json_complete
 * (base/json_out.h). */
#ifndef CLI_JSON_PARTS_H
#define CLI_JSON_PARTS_H

#include "polylepis/engine.h"

#include <json-c/json.h>
#include <stdint.h>

void cli_add_text(json_object *o, const char *key, const char *text); /* NULL: null */
void cli_add_int(json_object *o, const char *key, int64_t value);
void cli_add_real(json_object *o, const char *key, double value);

/* The event's token with its logprob, and the most probable ones beside it. */
json_object *cli_logprobs_json(const plp_engine *e, const plp_event *event);
/* "finish_reason" and "stop_reason": the stop string, else the id that stopped it, where that is not negative. */
void cli_add_ending(json_object *o, plp_finish finish, const char *stop_text, int stop_id);

#endif
