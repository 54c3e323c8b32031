#include "cli/json_parts.h"

#include "base/json_out.h"

void cli_add_text(json_object *o, const char *key, const char *text)
{
    json_object_object_add(o, key, text != NULL ? json_object_new_string(text) : NULL);
}

void cli_add_int(json_object *o, const char *key, int64_t value) { json_object_object_add(o, key, json_object_new_int64(value)); }
void cli_add_real(json_object *o, const char *key, double value) { json_object_object_add(o, key, json_object_new_double(value)); }

static json_object *logprob_of(const plp_engine *e, int id, double logprob)
{
    json_object *entry = json_object_new_object();
    cli_add_int(entry, "id", id);
    cli_add_text(entry, "token", plp_token(e, id));
    cli_add_real(entry, "logprob", logprob);
    return entry;
}

json_object *cli_logprobs_json(const plp_engine *e, const plp_event *event)
{
    json_object *entry = logprob_of(e, event->token, event->logprob), *top = json_object_new_array();
    for (int k = 0; k < event->tops; k++) json_object_array_add(top, logprob_of(e, event->top_id[k], event->top_logprob[k]));
    json_object_object_add(entry, "top", top);
    return entry;
}

void cli_add_ending(json_object *o, plp_finish finish, const char *stop_text, int stop_id)
{
    static const char *const names[] = { "stop", "length", "cancelled" };
    cli_add_text(o, "finish_reason", names[finish]);
    if (stop_text == NULL && stop_id >= 0)
        cli_add_int(o, "stop_reason", stop_id);
    else
        cli_add_text(o, "stop_reason", stop_text);
}
