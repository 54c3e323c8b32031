#include "cli/canary.h"

#include "cli/json_parts.h"

#include "base/error.h"
#include "base/json.h"
#include "base/json_out.h"
#include "base/log.h"
#include "base/sha256.h"
#include "engine/engine.h"
#include "io/line_file.h"
#include "polylepis/polylepis.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROMPT = 150, TOKENS = 16, TOPS = 5, MOST_FILE = 1 << 24 };

/* ----------------------------------------------------------------------------------------------------------------------- answer */
static plp_status note(plp_sha256_stream *s, const plp_event *event)
{
    if (event->kind == PLP_EVENT_ERROR) return PLP_FAIL(event->status, "the canary's prompt: %s", event->message);
    if (event->kind != PLP_EVENT_TOKEN) return PLP_OK;
    plp_sha256_update(s, &event->token, sizeof event->token);
    plp_sha256_update(s, &event->logprob, sizeof event->logprob);
    plp_sha256_update(s, event->top_id, (size_t)event->tops * sizeof *event->top_id);
    plp_sha256_update(s, event->top_logprob, (size_t)event->tops * sizeof *event->top_logprob);
    return PLP_OK;
}

/* Collective.  Tokens and the bits of their probabilities, in hex digits. */
static plp_status compute(plp_engine *e, char hex[PLP_SHA256_HEX])
{
    plp_engine_info info;
    plp_sha256_stream s;
    uint8_t digest[PLP_SHA256_BYTES];
    int ids[PROMPT], left = 1;
    uint64_t dice = 1, id;
    plp_engine_describe(e, &info);
    for (int i = 0; i < PROMPT; i++) {
        dice = dice * 6364136223846793005u + 1442695040888963407u; /* Knuth's */
        ids[i] = (int)((dice >> 33) % (uint64_t)info.vocabulary);
    }
    plp_request r = plp_request_defaults();
    r.ids = ids, r.count = PROMPT;
    r.max_tokens = TOKENS, r.ignore_eos = 1, r.logprobs = TOPS, r.sampling.temperature = 0;
    plp_sha256_init(&s);
    PLP_TRY(plp_engine_submit(e, &r, &id));
    while (left > 0) {
        plp_event event;
        PLP_TRY(plp_engine_step(e, &left));
        while (plp_engine_next_event(e, &event)) PLP_TRY(note(&s, &event));
    }
    plp_sha256_final(&s, digest);
    plp_sha256_hex(digest, hex);
    return PLP_OK;
}

/* -------------------------------------------------------------------------------------------------------------- rank 0: the file */
/* All that may change a bit. */
static json_object *way_of(const cli *c, plp_engine *e)
{
    char device[200] = "";
    plp_engine_info info;
    model *m = engine_session_of(e)->model;
    json_object *o = json_object_new_object();
    plp_engine_describe(e, &info);
    model_options_of(m)->backend->describe(model_context(m), device, sizeof device);
    cli_add_text(o, "model", model_source_digest(engine_session_of(e)->source));
    cli_add_text(o, "version", plp_version());
    cli_add_text(o, "backend", info.backend);
    cli_add_text(o, "device", device);
    cli_add_text(o, "link", info.link);
    cli_add_int(o, "ranks", info.size);
    cli_add_int(o, "dtype", c->model.compute);
    cli_add_int(o, "state_dtype", c->model.state);
    cli_add_int(o, "deterministic", c->model.deterministic);
    cli_add_int(o, "max_batch_tokens", info.max_batch_tokens);
    cli_add_int(o, "max_slice", c->model.max_slice);
    cli_add_int(o, "prefix_cache", c->model.cache);
    cli_add_int(o, "cache_block", c->model.cache_block);
    return o;
}

/* {"way":{...},"canary":"..."}; whether the line is of this way, and then what it says. */
static plp_status read_line(const char *text, size_t bytes, const char *path, const char *way, bool *found, char hex[PLP_SHA256_HEX])
{
    json_object *line = NULL, *there = NULL;
    const char *canary = NULL;
    PLP_TRY(plp_json_parse(text, bytes, path, &line));
    plp_status st = plp_json_string(line, "canary", path, &canary);
    if (st == PLP_OK && (!json_object_object_get_ex(line, "way", &there) || canary == NULL || strlen(canary) != PLP_SHA256_HEX - 1))
        st = PLP_FAIL(PLP_ERR_DATA, "%s: a line without \"way\" or \"canary\"; fix: give a file that --canary wrote", path);
    if (st == PLP_OK) {
        *found = strcmp(json_object_to_json_string_ext(there, JSON_C_TO_STRING_PLAIN), way) == 0;
        if (*found) memcpy(hex, canary, PLP_SHA256_HEX);
    }
    json_object_put(line);
    return st;
}

static plp_status find(const char *path, const char *way, bool *found, char hex[PLP_SHA256_HEX])
{
    plp_status st = PLP_OK;
    char *text = NULL;
    size_t bytes = 0;
    *found = false;
    if (access(path, F_OK) != 0 && errno == ENOENT) return PLP_OK;
    PLP_TRY(plp_read_file(path, MOST_FILE, &text, &bytes));
    for (char *line = text, *end; st == PLP_OK && !*found && *line != 0; line = *end != 0 ? end + 1 : end) {
        end = line + strcspn(line, "\n"); /* the last line may lack its end */
        st = read_line(line, (size_t)(end - line), path, way, found, hex);
    }
    free(text);
    return st;
}

static plp_status record(const char *path, const char *way, const char *hex)
{
    const size_t room = strlen(way) + PLP_SHA256_HEX + 32;
    char *line = malloc(room);
    PLP_TRY(PLP_ALLOCATED(line));
    const int n = snprintf(line, room, "{\"way\":%s,\"canary\":\"%s\"}\n", way, hex);
    const plp_status st = io_line_append(path, line, (size_t)n);
    free(line);
    if (st == PLP_OK) plp_log(PLP_LOG_INFO, "canary %.16s recorded in %s", hex, path);
    return st;
}

static plp_status compare(const cli *c, plp_engine *e, const char *path, const char *when, const char *hex)
{
    char was[PLP_SHA256_HEX] = "";
    bool found = false;
    json_object *o = way_of(c, e);
    const char *way = o != NULL ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : NULL;
    plp_status st = plp_json_complete("the canary");
    if (st == PLP_OK) st = PLP_ALLOCATED(way);
    if (st == PLP_OK) st = find(path, way, &found, was);
    if (st == PLP_OK && !found) st = record(path, way, hex);
    if (st == PLP_OK && found && strcmp(was, hex) != 0)
        st = PLP_FAIL(PLP_ERR_DISAGREE,
                      "the canary's answer is %.16s %s, was %.16s; %s; fix: trust no result of this machine before its memory and devices "
                      "are checked, or delete the line if something was changed on purpose",
                      hex, when, was, path);
    json_object_put(o);
    return st;
}

plp_status cli_canary(const cli *c, plp_engine *e, const char *path, const char *when)
{
    char hex[PLP_SHA256_HEX];
    PLP_TRY(compute(e, hex));
    return tp_agree(c->group, c->rank == 0 ? compare(c, e, path, when, hex) : PLP_OK);
}
