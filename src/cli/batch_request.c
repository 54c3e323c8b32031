#include "cli/batch_request.h"

#include "cli/sampling.h"

#include "base/error.h"
#include "base/options.h"
#include "base/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WHERE = 40 };
static const int64_t MOST_SEED = INT64_MAX - 1; /* json-c gives INT64_MAX for all that is larger */

/* Fields that the engine has no use for yet: accepted where they ask for nothing. */
static const struct {
    const char *name, *nothing;
} unsupported[] = {
    { "best_of", "1" }, { "stream", "false" }, { "suffix", "null" }, { "stream_options", "null" }, { "use_beam_search", "false" },
};
enum { UNSUPPORTED = sizeof unsupported / sizeof *unsupported };

static const char *const sampling_fields[] = { "prompt",
                                               "n",
                                               "max_tokens",
                                               "min_tokens",
                                               "temperature",
                                               "top_k",
                                               "top_p",
                                               "min_p",
                                               "presence_penalty",
                                               "frequency_penalty",
                                               "repetition_penalty",
                                               "seed",
                                               "stop",
                                               "stop_token_ids",
                                               "include_stop_str_in_output",
                                               "ignore_eos",
                                               "skip_special_tokens",
                                               "logprobs",
                                               "prompt_logprobs",
                                               "echo",
                                               "detokenize",
                                               "logit_bias",
                                               "allowed_token_ids",
                                               "bad_words" };
static const char *const plain_fields[] = { "id", "custom_id" }, *const body_fields[] = { "model", "user" },
                         *const outer_fields[] = { "custom_id", "method", "url", "body" };
enum {
    SAMPLING_FIELDS = sizeof sampling_fields / sizeof *sampling_fields,
    PLAIN_FIELDS = sizeof plain_fields / sizeof *plain_fields,
    BODY_FIELDS = sizeof body_fields / sizeof *body_fields,
    OUTER_FIELDS = sizeof outer_fields / sizeof *outer_fields,
};

static bool is_among(const char *name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static plp_status unknown(const char *where, const char *name, const char *const *names, int n)
{
    const char *nearest = plp_nearest(name, names, n);
    if (nearest == NULL) return PLP_FAIL(PLP_ERR_DATA, "%s: unknown field %.60s; fix: leave it out", where, name);
    return PLP_FAIL(PLP_ERR_DATA, "%s: unknown field %.60s; fix: did you mean %s?", where, name, nearest);
}

static plp_status check_outer(json_object *o, const char *where)
{
    json_object_object_foreach(o, name, value)
    {
        (void)value;
        if (!is_among(name, outer_fields, OUTER_FIELDS)) return unknown(where, name, outer_fields, OUTER_FIELDS);
    }
    return PLP_OK;
}

/* Of a plain line, or of the body of one in OpenAI's form. */
static plp_status check_fields(json_object *o, const char *where, const char *const *more, int more_count)
{
    json_object_object_foreach(o, name, value)
    {
        int i = 0;
        if (is_among(name, more, more_count) || is_among(name, sampling_fields, SAMPLING_FIELDS)) continue;
        while (i < UNSUPPORTED && strcmp(name, unsupported[i].name) != 0) i++;
        if (i == UNSUPPORTED) return unknown(where, name, sampling_fields, SAMPLING_FIELDS);
        if (value == NULL || strcmp(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN), unsupported[i].nothing) == 0) continue;
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s is not supported; fix: leave it out", where, name);
    }
    return PLP_OK;
}

plp_status batch_request_fields(json_object *line, const char *where) { return check_fields(line, where, plain_fields, PLAIN_FIELDS); }

/* The line's number where the line names none.  A line whose id cannot be read has none at all: the number would be taken from the line
 * that gives it as its own. */
static plp_status read_id(batch_request *r, const char *where)
{
    const char *id = NULL, *custom = NULL;
    PLP_TRY(plp_json_string(r->root, "id", where, &id));
    PLP_TRY(plp_json_string(r->root, "custom_id", where, &custom));
    if (id != NULL && custom != NULL) return PLP_FAIL(PLP_ERR_DATA, "%s: id and custom_id; fix: give one of them", where);
    r->id = id != NULL ? id : custom != NULL ? custom : r->number;
    return PLP_OK;
}

/* *body: where the fields of the request are. */
static plp_status read_outer(batch_request *r, const char *where, json_object **body)
{
    const char *method = "POST", *url = NULL;
    r->openai = json_object_object_get_ex(r->root, "body", body) || json_object_object_get_ex(r->root, "url", NULL);
    if (!r->openai) {
        *body = r->root;
        return batch_request_fields(r->root, where);
    }
    PLP_TRY(check_outer(r->root, where));
    PLP_TRY(plp_json_string(r->root, "method", where, &method));
    PLP_TRY(plp_json_string(r->root, "url", where, &url));
    if (strcmp(method, "POST") != 0) return PLP_FAIL(PLP_ERR_DATA, "%s: method %.20s; fix: give POST", where, method);
    if (url != NULL && strcmp(url, "/v1/chat/completions") == 0)
        return PLP_FAIL(PLP_ERR_DATA,
                        "%s: /v1/chat/completions needs a chat template, and none is applied here; fix: put the text that the "
                        "template gives as prompt of /v1/completions",
                        where);
    if (url == NULL || strcmp(url, "/v1/completions") != 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: url %.60s; fix: give /v1/completions", where, url != NULL ? url : "is missing");
    if (!json_object_is_type(*body, json_type_object))
        return PLP_FAIL(PLP_ERR_DATA, "%s: body is no object; fix: give the request's fields in one", where);
    PLP_TRY(check_fields(*body, where, body_fields, BODY_FIELDS));
    return plp_json_string(*body, "model", where, &r->model);
}

static plp_status read_prompt(batch_request *r, json_object *body, const char *where)
{
    json_object *prompt = NULL;
    int *ids = NULL;
    json_object_object_get_ex(body, "prompt", &prompt);
    if (prompt == NULL) return PLP_FAIL(PLP_ERR_DATA, "%s: no prompt; fix: give text or a list of ids", where);
    if (json_object_is_type(prompt, json_type_string)) return plp_json_string(body, "prompt", where, &r->text);
    if (!json_object_is_type(prompt, json_type_array))
        return PLP_FAIL(PLP_ERR_DATA, "%s: prompt is neither text nor a list of ids; fix: give one of them", where);
    const plp_status st = plp_json_ids(body, "prompt", where, &ids, &r->request.count);
    r->request.ids = ids;
    return st;
}

/* A text, or a list of texts. */
static plp_status read_stops(batch_request *r, json_object *body, const char *where, const plp_request *job)
{
    json_object *stop = NULL;
    json_object_object_get_ex(body, "stop", &stop);
    const bool list = json_object_is_type(stop, json_type_array);
    const size_t n = list ? json_object_array_length(stop) : stop != NULL ? 1 : (size_t)job->stop_count;
    const char **stops = malloc((n + 1) * sizeof *stops);
    PLP_TRY(PLP_ALLOCATED(stops));
    if (stop == NULL && n > 0) memcpy(stops, job->stops, n * sizeof *stops);
    r->request.stops = stops, r->request.stop_count = (int)n;
    for (size_t i = 0; stop != NULL && i < n; i++) {
        json_object *v = list ? json_object_array_get_idx(stop, i) : stop;
        const bool text = json_object_is_type(v, json_type_string);
        if (!text || strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
            return PLP_FAIL(PLP_ERR_DATA, "%s: stop is neither a text without NUL nor a list of them; fix: give one of them", where);
        stops[i] = json_object_get_string(v);
    }
    return PLP_OK;
}

static plp_status read_stop_ids(batch_request *r, json_object *body, const char *where, const plp_request *job)
{
    int *ids = NULL;
    size_t count = (size_t)job->stop_id_count;
    const plp_status st = plp_json_ids(body, "stop_token_ids", where, &ids, &count);
    if (st == PLP_OK && ids == NULL) { /* the job's */
        PLP_TRY(PLP_ALLOCATED(ids = malloc((count + 1) * sizeof *ids)));
        if (count > 0) memcpy(ids, job->stop_ids, count * sizeof *ids);
    }
    r->request.stop_ids = ids, r->request.stop_id_count = (int)count;
    return st;
}

/* {"id": what is added to its logit} */
static plp_status read_biases(batch_request *r, json_object *body, const char *where)
{
    json_object *map = NULL;
    int n = 0;
    json_object_object_get_ex(body, "logit_bias", &map);
    if (map == NULL) return PLP_OK;
    if (!json_object_is_type(map, json_type_object))
        return PLP_FAIL(PLP_ERR_DATA, "%s: logit_bias is no object; fix: give {\"id\": number}", where);
    const size_t count = (size_t)json_object_object_length(map) + 1;
    int *ids = malloc(count * sizeof *ids);
    double *biases = malloc(count * sizeof *biases);
    r->request.bias_ids = ids, r->request.biases = biases;
    PLP_TRY(PLP_ALLOCATED(ids));
    PLP_TRY(PLP_ALLOCATED(biases));
    json_object_object_foreach(map, name, value)
    {
        char *end;
        const long id = strtol(name, &end, 10);
        const bool padded = name[0] == '0' && name[1] != 0; /* "05" would be id 5 once more */
        if (name[0] < '0' || name[0] > '9' || padded || *end != 0 || id > INT32_MAX)
            return PLP_FAIL(PLP_ERR_DATA, "%s: logit_bias: %.40s is no token id; fix: give integers from 0 on, without zeros before them",
                            where, name);
        if (!json_object_is_type(value, json_type_int) && !json_object_is_type(value, json_type_double))
            return PLP_FAIL(PLP_ERR_DATA, "%s: logit_bias of %.40s is no number; fix: give one", where, name);
        ids[n] = (int)id, biases[n++] = json_object_get_double(value);
    }
    r->request.bias_count = n;
    return PLP_OK;
}

static plp_status read_allowed(batch_request *r, json_object *body, const char *where)
{
    int *ids = NULL;
    size_t count = 0;
    const plp_status st = plp_json_ids(body, "allowed_token_ids", where, &ids, &count);
    r->request.allowed = ids, r->request.allowed_count = (int)count;
    PLP_TRY(st);
    return ids != NULL && count == 0 ? PLP_FAIL(PLP_ERR_DATA, "%s: allowed_token_ids allows none; fix: leave it out", where) : PLP_OK;
}

enum { MOST_BAD_WORDS = 512 }; /* each is two of the engine's 1024, see encode_bad_words */

/* Their texts; see encode_bad_words. */
static plp_status read_bad_words(batch_request *r, json_object *body, const char *where)
{
    json_object *list = NULL;
    json_object_object_get_ex(body, "bad_words", &list);
    if (list == NULL) return PLP_OK;
    if (!json_object_is_type(list, json_type_array))
        return PLP_FAIL(PLP_ERR_DATA, "%s: bad_words is no list; fix: give a list of texts", where);
    if (json_object_array_length(list) > MOST_BAD_WORDS)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %zu bad words; fix: at most %d", where, json_object_array_length(list), MOST_BAD_WORDS);
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        json_object *v = json_object_array_get_idx(list, i);
        if (!json_object_is_type(v, json_type_string) || json_object_get_string_len(v) == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: bad_words[%zu] is no text; fix: give texts that are not empty", where, i);
    }
    r->bad_words = list;
    return PLP_OK;
}

/* 64 bits that depend on all of these. */
static uint64_t mix(uint64_t seed, const char *text, size_t bytes)
{
    plp_sha256_stream s;
    uint8_t digest[PLP_SHA256_BYTES], number[8];
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) number[i] = (uint8_t)(seed >> 8 * i);
    plp_sha256_init(&s);
    plp_sha256_update(&s, number, sizeof number);
    plp_sha256_update(&s, text, bytes);
    plp_sha256_final(&s, digest);
    for (int i = 0; i < 8; i++) value |= (uint64_t)digest[i] << 8 * i;
    return value;
}

/* What is echoed has probabilities where the output has them. */
static plp_status read_echo(batch_request *r, json_object *o, const char *where)
{
    plp_request *q = &r->request;
    PLP_TRY(plp_json_bool(o, "echo", where, &r->echo));
    r->lists_prompt = q->prompt_logprobs >= 0;
    if (!r->echo || q->logprobs < 0 || r->lists_prompt) return PLP_OK;
    if (q->logprobs == PLP_ALL_LOGPROBS)
        return PLP_FAIL(PLP_ERR_DATA, "%s: echo with logprobs of all ids; fix: prompt_logprobs from 0 to %d as well", where,
                        PLP_MOST_LOGPROBS);
    q->prompt_logprobs = q->logprobs;
    return PLP_OK;
}

static plp_status read_sampling(batch_request *r, json_object *o, const char *where, const batch_defaults *defaults)
{
    plp_request *q = &r->request;
    plp_sampling *s = &q->sampling;
    int64_t n = defaults->n, logprobs = CLI_NO_LOGPROBS, prompt_logprobs = -1, seed = -1;
    bool ignore_eos = q->ignore_eos, skip_special = !q->keep_special;
    PLP_TRY(plp_json_int(o, "n", where, 1, BATCH_MOST_ANSWERS, &n));
    PLP_TRY(plp_json_int(o, "max_tokens", where, 1, INT32_MAX, &q->max_tokens));
    PLP_TRY(plp_json_int(o, "min_tokens", where, 0, INT32_MAX, &q->min_tokens));
    PLP_TRY(plp_json_double(o, "temperature", where, 0, 1000, &s->temperature));
    PLP_TRY(plp_json_int(o, "top_k", where, -1, INT32_MAX, &s->top_k));
    PLP_TRY(plp_json_double(o, "top_p", where, 0, 1, &s->top_p));
    PLP_TRY(plp_json_double(o, "min_p", where, 0, 1, &s->min_p));
    PLP_TRY(plp_json_double(o, "presence_penalty", where, -100, 100, &s->presence));
    PLP_TRY(plp_json_double(o, "frequency_penalty", where, -100, 100, &s->frequency));
    PLP_TRY(plp_json_double(o, "repetition_penalty", where, 1e-3, 1e3, &s->repetition));
    PLP_TRY(plp_json_int(o, "seed", where, 0, MOST_SEED, &seed));
    PLP_TRY(plp_json_int(o, "logprobs", where, -1, PLP_MOST_LOGPROBS, &logprobs));
    PLP_TRY(plp_json_int(o, "prompt_logprobs", where, 0, PLP_MOST_LOGPROBS, &prompt_logprobs));
    PLP_TRY(plp_json_bool(o, "detokenize", where, &r->detokenize));
    PLP_TRY(plp_json_bool(o, "ignore_eos", where, &ignore_eos));
    PLP_TRY(plp_json_bool(o, "skip_special_tokens", where, &skip_special));
    PLP_TRY(plp_json_bool(o, "include_stop_str_in_output", where, &r->include_stop));
    if (s->top_k < 0) s->top_k = 0; /* -1 is off as well */
    s->seed = seed >= 0 ? (uint64_t)seed : mix((uint64_t)defaults->seed, r->id, strlen(r->id));
    if (logprobs != CLI_NO_LOGPROBS) q->logprobs = cli_logprobs(logprobs);
    r->n = (int)n, q->prompt_logprobs = (int)prompt_logprobs;
    PLP_TRY(read_echo(r, o, where));
    PLP_TRY(read_biases(r, o, where));
    PLP_TRY(read_allowed(r, o, where));
    PLP_TRY(read_bad_words(r, o, where));
    q->ignore_eos = ignore_eos, q->keep_special = !skip_special;
    return PLP_OK;
}

plp_status batch_request_read(batch_request *r, const char *text, size_t bytes, int64_t line, const batch_defaults *defaults)
{
    char where[WHERE];
    json_object *body;
    *r = (batch_request){ .line = line, .n = 1, .detokenize = true, .include_stop = defaults->include_stop, .request = defaults->request };
    plp_request *q = &r->request;
    q->ids = NULL, q->count = 0, q->stops = NULL, q->stop_ids = NULL; /* the job's; what is here is ours to free */
    q->bias_ids = q->allowed = NULL, q->biases = NULL, q->bad = NULL, q->bad_sizes = NULL;
    snprintf(where, sizeof where, "line %lld", (long long)line);
    snprintf(r->number, sizeof r->number, "%lld", (long long)line - 1);
    if (bytes == 0) return PLP_FAIL(PLP_ERR_DATA, "%s: empty; fix: leave it out", where);
    PLP_TRY(plp_json_check(text, bytes, where));
    PLP_TRY(plp_json_parse(text, bytes, where, &r->root));
    if (!json_object_is_type(r->root, json_type_object))
        return PLP_FAIL(PLP_ERR_DATA, "%s: not an object; fix: one JSON object a line", where);
    PLP_TRY(read_id(r, where));
    PLP_TRY(read_outer(r, where, &body));
    PLP_TRY(read_prompt(r, body, where));
    PLP_TRY(read_stops(r, body, where, &defaults->request));
    PLP_TRY(read_stop_ids(r, body, where, &defaults->request));
    return read_sampling(r, body, where, defaults);
}

/* Each as it is, and as it is behind a space. */
static plp_status encode_bad_words(batch_request *r, plp_engine *e)
{
    const size_t words = r->bad_words != NULL ? json_object_array_length(r->bad_words) : 0;
    if (words == 0) return PLP_OK;
    int **bad = calloc(2 * words, sizeof *bad), *sizes = calloc(2 * words, sizeof *sizes);
    r->request.bad = (const int *const *)bad, r->request.bad_sizes = sizes, r->request.bad_count = 0;
    PLP_TRY(PLP_ALLOCATED(bad));
    PLP_TRY(PLP_ALLOCATED(sizes));
    for (size_t i = 0; i < 2 * words; i++) {
        json_object *v = json_object_array_get_idx(r->bad_words, i / 2);
        const size_t bytes = (size_t)json_object_get_string_len(v);
        size_t count = 0;
        char *text = malloc(bytes + 2);
        PLP_TRY(PLP_ALLOCATED(text));
        text[0] = ' ';
        memcpy(text + 1, json_object_get_string(v), bytes + 1);
        const plp_status st = plp_encode(e, text + (i % 2 == 0), bytes + (i % 2), 0, &bad[i], &count);
        free(text);
        PLP_TRY(st);
        sizes[i] = (int)count;
        r->request.bad_count = (int)i + 1;
    }
    return PLP_OK;
}

plp_status batch_request_encode(batch_request *r, plp_engine *e, const batch_defaults *defaults)
{
    int *ids = NULL;
    PLP_TRY(encode_bad_words(r, e));
    if (r->text == NULL) return PLP_OK;
    const plp_status st = cli_encode(e, r->text, strlen(r->text), &defaults->bos, &ids, &r->request.count);
    r->request.ids = ids;
    return st;
}

void batch_request_free(batch_request *r)
{
    json_object_put(r->root);
    free((void *)(uintptr_t)r->request.ids);
    free((void *)(uintptr_t)r->request.stops);
    free((void *)(uintptr_t)r->request.stop_ids);
    free((void *)(uintptr_t)r->request.bias_ids);
    free((void *)(uintptr_t)r->request.biases);
    free((void *)(uintptr_t)r->request.allowed);
    for (int i = 0; r->request.bad != NULL && i < r->request.bad_count; i++) free((void *)(uintptr_t)r->request.bad[i]);
    free((void *)(uintptr_t)r->request.bad);
    free((void *)(uintptr_t)r->request.bad_sizes);
    *r = (batch_request){ 0 };
}

uint64_t batch_request_seed(const batch_request *r, int i)
{
    char number[16];
    const int n = snprintf(number, sizeof number, "/%d", i);
    return i == 0 ? r->request.sampling.seed : mix(r->request.sampling.seed, number, (size_t)n);
}
