#include "cli/batch_answer.h"

#include "cli/json_parts.h"

#include "base/error.h"
#include "base/json_out.h"
#include "base/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static plp_status copy_echo(batch_answer *a, const batch_request *r, plp_engine *e)
{
    plp_engine_info info;
    plp_engine_describe(e, &info);
    if (!r->echo || !r->detokenize || !info.has_tokenizer) return PLP_OK;
    if (r->text == NULL) return plp_decode(e, r->request.ids, r->request.count, r->request.keep_special, &a->echo, &a->echo_bytes);
    a->echo_bytes = strlen(r->text);
    return PLP_ALLOCATED(a->echo = strdup(r->text));
}

plp_status batch_answer_create(batch_answer **out, batch_request *request, plp_engine *e)
{
    plp_status st = PLP_OK;
    batch_answer *a = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(a = calloc(1, sizeof *a)));
    PLP_DO(PLP_ALLOCATED(a->choice = calloc((size_t)request->n, sizeof *a->choice)));
    PLP_DO(copy_echo(a, request, e));
    a->request = *request;
    if (request->id == request->number) a->request.id = a->request.number; /* it moved */
    *request = (batch_request){ 0 };
    if (a->request.request.prompt_logprobs >= 0) {
        a->prompt = json_object_new_array();
        json_object_array_add(a->prompt, NULL);
    }
    *out = a, a = NULL;
done:
    batch_answer_destroy(&a);
    return st;
}

void batch_answer_destroy(batch_answer **out)
{
    batch_answer *a = *out;
    if (a == NULL) return;
    for (int i = 0; a->choice != NULL && i < a->request.n; i++) {
        batch_choice *c = &a->choice[i];
        free(c->text.data);
        free(c->ids);
        free(c->stop_text);
        json_object_put(c->logprobs);
    }
    free(a->choice);
    json_object_put(a->prompt);
    plp_free(a->echo);
    batch_request_free(&a->request);
    free(a);
    *out = NULL;
}

/* ---------------------------------------------------------------------------------------------------------------------- events */
static json_object *string_or_null(const char *text) { return text != NULL ? json_object_new_string(text) : NULL; }

void batch_answer_prompt(batch_answer *a, const plp_event *event, const plp_engine *e)
{
    json_object_array_add(a->prompt, cli_logprobs_json(e, event));
}

plp_status batch_answer_token(batch_answer *a, int i, const plp_event *event, const plp_engine *e)
{
    batch_choice *c = &a->choice[i];
    if (c->tokens == c->ids_room) {
        const int64_t room = 2 * c->ids_room + 16;
        int *ids = realloc(c->ids, (size_t)room * sizeof *ids);
        PLP_TRY(PLP_ALLOCATED(ids));
        c->ids = ids, c->ids_room = room;
    }
    c->ids[c->tokens++] = event->token;
    PLP_TRY(text_buffer_put(&c->text, event->text, event->text_bytes));
    if (a->request.request.logprobs < 0) return PLP_OK;
    if (c->logprobs == NULL) c->logprobs = json_object_new_array();
    json_object_array_add(c->logprobs, cli_logprobs_json(e, event));
    c->logprob += event->logprob;
    return PLP_OK;
}

plp_status batch_answer_finish(batch_answer *a, int i, const plp_event *event)
{
    batch_choice *c = &a->choice[i];
    c->finish = event->finish, c->stop_id = event->stop_id;
    PLP_TRY(text_buffer_put(&c->text, event->text, event->text_bytes));
    if (event->stop_text == NULL) return PLP_OK;
    PLP_TRY(PLP_ALLOCATED(c->stop_text = strdup(event->stop_text)));
    return a->request.include_stop ? text_buffer_put(&c->text, event->stop_text, strlen(event->stop_text)) : PLP_OK;
}

/* --------------------------------------------------------------------------------------------------------------------- records */
static json_object *usage_of(const batch_answer *a)
{
    json_object *usage = json_object_new_object();
    const int64_t prompt = (int64_t)a->request.request.count;
    int64_t tokens = 0;
    for (int i = 0; i < a->request.n; i++) tokens += a->choice[i].tokens;
    json_object_object_add(usage, "prompt_tokens", json_object_new_int64(prompt));
    json_object_object_add(usage, "completion_tokens", json_object_new_int64(tokens));
    json_object_object_add(usage, "total_tokens", json_object_new_int64(prompt + tokens));
    return usage;
}

static json_object *text_of(const batch_answer *a, const batch_choice *c, const plp_engine *e)
{
    plp_engine_info info;
    plp_engine_describe(e, &info);
    if (!info.has_tokenizer || !a->request.detokenize) return NULL;
    if (a->echo == NULL) return json_object_new_string_len(c->text.used > 0 ? c->text.data : "", (int)c->text.used);
    char *both = malloc(a->echo_bytes + c->text.used + 1);
    if (both == NULL) return plp_json_made(NULL);
    memcpy(both, a->echo, a->echo_bytes);
    if (c->text.used > 0) memcpy(both + a->echo_bytes, c->text.data, c->text.used);
    json_object *text = json_object_new_string_len(both, (int)(a->echo_bytes + c->text.used));
    free(both);
    return text;
}

/* A list, one entry a token, of an answer and of what is echoed before it.  NULL: not asked for. */
static json_object *logprobs_list(const batch_answer *a, const batch_choice *c)
{
    if (c->logprobs == NULL || !a->request.echo) return json_object_get(c->logprobs);
    json_object *list = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(a->prompt); i++)
        json_object_array_add(list, json_object_get(json_object_array_get_idx(a->prompt, i)));
    for (size_t i = 0; i < json_object_array_length(c->logprobs); i++)
        json_object_array_add(list, json_object_get(json_object_array_get_idx(c->logprobs, i)));
    return list;
}

static void add_plain(json_object *o, const batch_answer *a, const batch_choice *c, const plp_engine *e)
{
    json_object *ids = json_object_new_array();
    for (size_t i = 0; i < a->request.request.count && a->request.echo; i++)
        json_object_array_add(ids, json_object_new_int(a->request.request.ids[i]));
    for (int64_t i = 0; i < c->tokens; i++) json_object_array_add(ids, json_object_new_int(c->ids[i]));
    json_object_object_add(o, "text", text_of(a, c, e));
    json_object_object_add(o, "token_ids", ids);
    cli_add_ending(o, c->finish, c->stop_text, c->stop_id);
    if (c->logprobs == NULL) return;
    json_object_object_add(o, "cumulative_logprob", json_object_new_double(c->logprob));
    json_object_object_add(o, "logprobs", logprobs_list(a, c));
}

static json_object *plain_json(const batch_answer *a, const plp_engine *e)
{
    json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string(a->request.id));
    if (a->request.n == 1)
        add_plain(o, a, &a->choice[0], e);
    else {
        json_object *choices = json_object_new_array();
        for (int i = 0; i < a->request.n; i++) {
            json_object *choice = json_object_new_object();
            json_object_object_add(choice, "index", json_object_new_int(i));
            add_plain(choice, a, &a->choice[i], e);
            json_object_array_add(choices, choice);
        }
        json_object_object_add(o, "choices", choices);
    }
    if (a->request.lists_prompt) json_object_object_add(o, "prompt_logprobs", json_object_get(a->prompt));
    json_object_object_add(o, "usage", usage_of(a));
    return o;
}

/* The completions API has its own form of logprobs: one list for each member. */
static json_object *openai_logprobs(const batch_answer *a, const batch_choice *c, const plp_engine *e)
{
    json_object *o = json_object_new_object(), *tokens = json_object_new_array(), *values = json_object_new_array(),
                *tops = json_object_new_array();
    json_object *list = logprobs_list(a, c);
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *entry = json_object_array_get_idx(list, i), *top = json_object_object_get(entry, "top");
        if (entry == NULL) { /* the first of the prompt */
            json_object_array_add(tokens, string_or_null(plp_token(e, a->request.request.ids[i])));
            json_object_array_add(values, NULL);
            json_object_array_add(tops, NULL);
            continue;
        }
        json_object *map = json_object_new_object();
        for (size_t k = 0; k < json_object_array_length(top); k++) {
            json_object *t = json_object_array_get_idx(top, k), *token = json_object_object_get(t, "token");
            if (token != NULL)
                json_object_object_add(map, json_object_get_string(token), json_object_get(json_object_object_get(t, "logprob")));
        }
        json_object_array_add(tokens, json_object_get(json_object_object_get(entry, "token")));
        json_object_array_add(values, json_object_get(json_object_object_get(entry, "logprob")));
        json_object_array_add(tops, map);
    }
    json_object_put(list);
    json_object_object_add(o, "tokens", tokens);
    json_object_object_add(o, "token_logprobs", values);
    json_object_object_add(o, "top_logprobs", tops);
    return o;
}

/* "PREFIX-0123456789abcdef": of the id and the line, so that a resumed job says the same. */
static json_object *name_of(const char *prefix, const batch_request *r)
{
    plp_sha256_stream s;
    uint8_t digest[PLP_SHA256_BYTES];
    char hex[PLP_SHA256_HEX], text[48];
    plp_sha256_init(&s);
    plp_sha256_update(&s, r->number, strlen(r->number) + 1);
    if (r->id != NULL) plp_sha256_update(&s, r->id, strlen(r->id));
    plp_sha256_final(&s, digest);
    plp_sha256_hex(digest, hex);
    snprintf(text, sizeof text, "%s%.16s", prefix, hex);
    return json_object_new_string(text);
}

static json_object *openai_record(const batch_request *r, json_object *response, json_object *error)
{
    json_object *o = json_object_new_object();
    json_object_object_add(o, "id", name_of("batch_req_", r));
    cli_add_text(o, "custom_id", r->id);
    json_object_object_add(o, "response", response);
    json_object_object_add(o, "error", error);
    return o;
}

static json_object *openai_json(const batch_answer *a, const plp_engine *e)
{
    json_object *body = json_object_new_object(), *choices = json_object_new_array(), *response = json_object_new_object();
    for (int i = 0; i < a->request.n; i++) {
        const batch_choice *c = &a->choice[i];
        json_object *choice = json_object_new_object();
        json_object_object_add(choice, "index", json_object_new_int(i));
        json_object_object_add(choice, "text", text_of(a, c, e));
        json_object_object_add(choice, "logprobs", c->logprobs != NULL ? openai_logprobs(a, c, e) : NULL);
        if (a->request.lists_prompt) json_object_object_add(choice, "prompt_logprobs", json_object_get(a->prompt));
        cli_add_ending(choice, c->finish, c->stop_text, c->stop_id);
        json_object_array_add(choices, choice);
    }
    json_object_object_add(body, "id", name_of("cmpl-", &a->request));
    json_object_object_add(body, "object", json_object_new_string("text_completion"));
    json_object_object_add(body, "created", json_object_new_int(0)); /* a time would make every resumed job another one */
    cli_add_text(body, "model", a->request.model);
    json_object_object_add(body, "choices", choices);
    json_object_object_add(body, "usage", usage_of(a));
    json_object_object_add(response, "status_code", json_object_new_int(200));
    json_object_object_add(response, "request_id", name_of("req_", &a->request));
    json_object_object_add(response, "body", body);
    return openai_record(&a->request, response, NULL);
}

json_object *batch_error_json(const batch_request *r, plp_status status, const char *message)
{
    json_object *error = json_object_new_object();
    json_object_object_add(error, "code", json_object_new_string(plp_status_name(status)));
    json_object_object_add(error, "message", json_object_new_string(message));
    json_object_object_add(error, "line", json_object_new_int64(r->line));
    if (r->openai) return openai_record(r, NULL, error);
    json_object *o = json_object_new_object();
    cli_add_text(o, "id", r->id);
    json_object_object_add(o, "error", error);
    return o;
}

json_object *batch_answer_json(const batch_answer *a, const plp_engine *e)
{
    if (a->failed != PLP_OK) return batch_error_json(&a->request, a->failed, a->error);
    return a->request.openai ? openai_json(a, e) : plain_json(a, e);
}
