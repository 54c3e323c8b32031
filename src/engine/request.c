#include "engine/request.h"

#include "base/error.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_STOPS = 1024, MOST_ANSWERS = 128 };
static const double MOST_BIAS = 1e4;

plp_request plp_request_defaults(void)
{
    return (plp_request){
        .sampling = { .repetition = 1, .temperature = 1, .top_p = 1 },
        .max_tokens = 16,
        .logprobs = -1,
        .prompt_logprobs = -1,
    };
}

/* ------------------------------------------------------------------------------------------------------------------- checks */
static plp_status check_sampling(const plp_sampling *s)
{
    const struct {
        const char *name;
        double value, least, most;
    } ranges[] = {
        { "repetition_penalty", s->repetition, 1e-3, 1e3 },
        { "presence_penalty", s->presence, -100, 100 },
        { "frequency_penalty", s->frequency, -100, 100 },
        { "temperature", s->temperature, 0, 1e3 },
        { "min_p", s->min_p, 0, 1 },
        { "top_p", s->top_p, 0, 1 },
        { "top_k", (double)s->top_k, 0, 0x1p53 },
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (!(ranges[i].value >= ranges[i].least && ranges[i].value <= ranges[i].most)) /* NaN is in no range */
            return PLP_FAIL(PLP_ERR_USAGE, "%s %g; request; fix: give a number from %g to %g", ranges[i].name, ranges[i].value,
                            ranges[i].least, ranges[i].most);
    return PLP_OK;
}

/* Whether there is what the request counts. */
static plp_status check_list(const char *name, const void *list, int64_t count)
{
    if (list != NULL || count <= 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_USAGE, "%s is NULL, of %lld; request; fix: give it, or count 0", name, (long long)count);
}

static plp_status check_lists(const plp_request *g)
{
    PLP_TRY(check_list("stop_ids", g->stop_ids, g->stop_id_count));
    PLP_TRY(check_list("stops", g->stops, g->stop_count));
    PLP_TRY(check_list("bias_ids", g->bias_ids, g->bias_count));
    PLP_TRY(check_list("biases", g->biases, g->bias_count));
    PLP_TRY(check_list("allowed", g->allowed, g->allowed_count));
    PLP_TRY(check_list("bad", g->bad, g->bad_count));
    PLP_TRY(check_list("bad_sizes", g->bad_sizes, g->bad_count));
    for (int i = 0; i < g->stop_count; i++)
        if (g->stops[i] == NULL) return PLP_FAIL(PLP_ERR_USAGE, "stops[%d] is NULL; request; fix: leave it out", i);
    for (int i = 0; i < g->bad_count; i++)
        if (g->bad[i] == NULL) return PLP_FAIL(PLP_ERR_USAGE, "bad[%d] is NULL; request; fix: leave it out", i);
    return PLP_OK;
}

static plp_status check_ids(const char *what, const int *ids, size_t count, int64_t vocab)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return PLP_FAIL(PLP_ERR_DATA, "%s: id %d at index %zu, the vocabulary has %lld; request; fix: give ids from 0 to %lld", what,
                            ids[i], i, (long long)vocab, (long long)vocab - 1);
    return PLP_OK;
}

/* What changes the logits. */
static plp_status check_wishes(const plp_request *g, int64_t vocab)
{
    if (g->bias_count > MOST_STOPS || g->bad_count > MOST_STOPS)
        return PLP_FAIL(PLP_ERR_USAGE, "%d biases and %d bad words; request; fix: at most %d of each", g->bias_count, g->bad_count,
                        MOST_STOPS);
    PLP_TRY(check_ids("logit_bias", g->bias_ids, (size_t)g->bias_count, vocab));
    PLP_TRY(check_ids("allowed_token_ids", g->allowed, (size_t)g->allowed_count, vocab));
    for (int i = 0; i < g->bias_count; i++)
        if (!(g->biases[i] >= -MOST_BIAS && g->biases[i] <= MOST_BIAS))
            return PLP_FAIL(PLP_ERR_USAGE, "logit_bias %g of id %d; request; fix: give a number from -%g to %g", g->biases[i],
                            g->bias_ids[i], MOST_BIAS, MOST_BIAS);
    for (int i = 0; i < g->bad_count; i++) {
        if (g->bad_sizes[i] < 1) return PLP_FAIL(PLP_ERR_USAGE, "bad word %d has no tokens; request; fix: leave it out", i);
        PLP_TRY(check_ids("bad_words", g->bad[i], (size_t)g->bad_sizes[i], vocab));
    }
    return PLP_OK;
}

static plp_status check(const plp_request *g, const model_config *c, const text_tokenizer *t)
{
    if (g->stop_count < 0 || g->stop_id_count < 0 || g->bias_count < 0 || g->allowed_count < 0 || g->bad_count < 0)
        return PLP_FAIL(PLP_ERR_USAGE, "a negative count; request; fix: 0 for none");
    if (g->count == 0) return PLP_FAIL(PLP_ERR_DATA, "the prompt has no tokens; request; fix: give text, or put the BOS token before it");
    PLP_TRY(check_lists(g));
    PLP_TRY(check_ids("prompt", g->ids, g->count, c->vocab_used));
    PLP_TRY(check_ids("stop_token_ids", g->stop_ids, (size_t)g->stop_id_count, c->vocab_used));
    PLP_TRY(check_sampling(&g->sampling));
    if (g->max_tokens < 1 || g->min_tokens < 0 || g->min_tokens > g->max_tokens)
        return PLP_FAIL(PLP_ERR_USAGE, "max_tokens %lld with min_tokens %lld; request; fix: 0 <= min_tokens <= max_tokens, and at least 1",
                        (long long)g->max_tokens, (long long)g->min_tokens);
    if (g->logprobs < -1 || (g->logprobs > PLP_MOST_LOGPROBS && g->logprobs != PLP_ALL_LOGPROBS))
        return PLP_FAIL(PLP_ERR_USAGE, "logprobs %d; request; fix: give 0 to %d, or PLP_ALL_LOGPROBS", g->logprobs, PLP_MOST_LOGPROBS);
    if (g->prompt_logprobs < -1 || g->prompt_logprobs > PLP_MOST_LOGPROBS || (g->prompt_logprobs >= 0 && g->state != NULL))
        return PLP_FAIL(PLP_ERR_USAGE, "prompt_logprobs %d%s; request; fix: give 0 to %d, and the whole prompt", g->prompt_logprobs,
                        g->state != NULL ? " behind a state" : "", PLP_MOST_LOGPROBS);
    if (g->answers < 0 || g->answers > MOST_ANSWERS)
        return PLP_FAIL(PLP_ERR_USAGE, "%d answers; request; fix: 1 to %d", g->answers, MOST_ANSWERS);
    PLP_TRY(check_wishes(g, c->vocab_used));
    if (g->stop_count > MOST_STOPS || g->stop_id_count > MOST_STOPS)
        return PLP_FAIL(PLP_ERR_USAGE, "%d stop strings and %d stop ids; request; fix: at most %d of each", g->stop_count, g->stop_id_count,
                        MOST_STOPS);
    if (g->stop_id_count + c->stops >= c->vocab_used)
        return PLP_FAIL(PLP_ERR_USAGE, "%d stop ids, and %d of the model's, of a vocabulary of %lld; request; fix: leave ids to draw",
                        g->stop_id_count, c->stops, (long long)c->vocab_used);
    if (g->stop_count > 0 && t == NULL)
        return PLP_FAIL(PLP_ERR_USAGE,
                        "stop strings without a tokenizer; request; fix: use stop ids, or convert the model with its tokenizer");
    for (int i = 0; i < g->stop_count; i++) {
        if (g->stops[i][0] == 0) return PLP_FAIL(PLP_ERR_USAGE, "stop string %d is empty; request; fix: leave it out", i);
        if (!plp_is_utf8(g->stops[i])) /* it could end the text within a character */
            return PLP_FAIL(PLP_ERR_USAGE, "stop string %d: invalid UTF-8; request; fix: give text in UTF-8", i);
    }
    return PLP_OK;
}

/* ---------------------------------------------------------------------------------------------------------------- penalties */

/* Notes an id that was seen, in the output or in the prompt. */
static plp_status note(request *r, int id, bool output)
{
    int low = 0, high = r->seen_count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (r->seen[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == r->seen_count || r->seen[low] != id) {
        if (r->seen_count == r->seen_room) {
            const int room = 2 * r->seen_room + 64;
            int *seen = realloc(r->seen, (size_t)room * sizeof *seen);
            PLP_TRY(PLP_ALLOCATED(seen));
            r->seen = seen;
            int *hits = realloc(r->hits, (size_t)room * sizeof *hits);
            PLP_TRY(PLP_ALLOCATED(hits));
            r->hits = hits, r->seen_room = room;
        }
        const size_t behind = (size_t)(r->seen_count - low) * sizeof *r->seen;
        memmove(r->seen + low + 1, r->seen + low, behind);
        memmove(r->hits + low + 1, r->hits + low, behind);
        r->seen[low] = id, r->hits[low] = 0;
        r->seen_count++;
    }
    r->hits[low] += output;
    return PLP_OK;
}

bool request_looks_back(const request *r) { return sampling_penalises(&r->given.sampling) || r->given.bad_count > 0; }

/* Whether the next token, after what is known, may complete the sequence: whether all but its last id are the last ones that were drawn. */
static bool completes(const request *r, const int *bad, int size)
{
    const int before = size - 1;
    return before <= r->length - r->drawn && memcmp(bad, r->ids + r->length - before, (size_t)before * sizeof *bad) == 0;
}

sampling_row request_sampling_row(request *r)
{
    const bool early = request_outputs(r) + r->unread - r->stale < r->given.min_tokens;
    int bans = 0;
    for (int i = 0; early && i < r->stop_id_count; i++) r->banned[bans++] = r->stop_ids[i];
    for (int i = 0; i < r->given.bad_count; i++)
        if (completes(r, r->bad[i], r->bad_sizes[i])) r->banned[bans++] = r->bad[i][r->bad_sizes[i] - 1];
    return (sampling_row){
        .params = &r->given.sampling,
        .logprobs = r->given.logprobs == PLP_ALL_LOGPROBS ? 0 : r->given.logprobs,
        .list = r->given.logprobs == PLP_ALL_LOGPROBS,
        .position = r->length + r->unread - r->stale,
        .penalty_id = r->seen,
        .penalty_hits = r->hits,
        .penalties = r->seen_count,
        .banned = r->banned,
        .bans = bans,
        .allowed = r->allowed,
        .alloweds = r->given.allowed_count,
        .bias_id = r->bias_id,
        .bias = r->bias,
        .biases = r->given.bias_count,
    };
}

/* -------------------------------------------------------------------------------------------------------------- create, end */
static plp_status copy_stops(request *r, const plp_request *g, const model_config *c)
{
    PLP_TRY(PLP_ALLOCATED(r->stop_ids = malloc((size_t)(g->stop_id_count + MODEL_STOPS) * sizeof *r->stop_ids)));
    for (int i = 0; i < g->stop_id_count; i++) r->stop_ids[r->stop_id_count++] = g->stop_ids[i];
    for (int i = 0; i < c->stops && !g->ignore_eos; i++) r->stop_ids[r->stop_id_count++] = (int)c->stop[i];
    if (g->stop_count == 0) return PLP_OK;
    PLP_TRY(PLP_ALLOCATED(r->stops = calloc((size_t)g->stop_count, sizeof *r->stops)));
    for (int i = 0; i < g->stop_count; i++) PLP_TRY(PLP_ALLOCATED(r->stops[i] = strdup(g->stops[i])));
    return PLP_OK;
}

static int ascending(const void *a, const void *b)
{
    const int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* *to: the caller's. */
static plp_status copy_ids(int **to, const int *ids, int count)
{
    PLP_TRY(PLP_ALLOCATED(*to = malloc(((size_t)count + 1) * sizeof **to)));
    if (count > 0) memcpy(*to, ids, (size_t)count * sizeof **to);
    return PLP_OK;
}

static plp_status copy_wishes(request *r, const plp_request *g)
{
    PLP_TRY(PLP_ALLOCATED(r->banned = malloc((size_t)(r->stop_id_count + g->bad_count + 1) * sizeof *r->banned)));
    PLP_TRY(copy_ids(&r->allowed, g->allowed, g->allowed_count));
    qsort(r->allowed, (size_t)g->allowed_count, sizeof *r->allowed, ascending);
    int kept = 0; /* each once, or it would be drawn twice as often */
    for (int i = 0; i < g->allowed_count; i++)
        if (i == 0 || r->allowed[i] != r->allowed[i - 1]) r->allowed[kept++] = r->allowed[i];
    r->given.allowed_count = kept;
    PLP_TRY(copy_ids(&r->bias_id, g->bias_ids, g->bias_count));
    PLP_TRY(PLP_ALLOCATED(r->bias = malloc(((size_t)g->bias_count + 1) * sizeof *r->bias)));
    for (int i = 0; i < g->bias_count; i++) r->bias[i] = (float)g->biases[i];
    PLP_TRY(copy_ids(&r->bad_sizes, g->bad_sizes, g->bad_count));
    PLP_TRY(PLP_ALLOCATED(r->bad = calloc((size_t)g->bad_count + 1, sizeof *r->bad)));
    for (int i = 0; i < g->bad_count; i++) PLP_TRY(copy_ids(&r->bad[i], g->bad[i], g->bad_sizes[i]));
    return PLP_OK;
}

plp_status request_create(request **out, const plp_request *g, const model_config *c, const text_tokenizer *t)
{
    plp_status st = PLP_OK;
    request *r = NULL;
    *out = NULL;
    PLP_TRY(check(g, c, t));
    PLP_DO(PLP_ALLOCATED(r = calloc(1, sizeof *r)));
    r->given = *g;
    r->slot = r->source = r->waited_block = -1;
    r->prompt = r->length = r->begin = r->drawn = (int64_t)g->count, r->room = r->length + 64;
    PLP_DO(PLP_ALLOCATED(r->ids = malloc((size_t)r->room * sizeof *r->ids)));
    memcpy(r->ids, g->ids, g->count * sizeof *r->ids);
    PLP_DO(copy_stops(r, g, c));
    PLP_DO(copy_wishes(r, g));
    if (g->sampling.repetition != 1)
        for (size_t i = 0; i < g->count; i++) PLP_DO(note(r, g->ids[i], false));
    if (t != NULL) PLP_DO(text_stream_create(&r->stream, t, !g->keep_special));
    *out = r, r = NULL;
done:
    request_destroy(&r);
    return st;
}

void request_destroy(request **out)
{
    request *r = *out;
    if (r == NULL) return;
    for (int i = 0; r->stops != NULL && i < r->given.stop_count; i++) free(r->stops[i]);
    free(r->stops);
    free(r->stop_ids);
    free(r->banned);
    free(r->allowed);
    free(r->bias_id);
    free(r->bias);
    for (int i = 0; r->bad != NULL && i < r->given.bad_count; i++) free(r->bad[i]);
    free(r->bad);
    free(r->bad_sizes);
    free(r->ids);
    free(r->keys);
    request_origin_drop(&r->origin);
    free(r->seen);
    free(r->hits);
    text_stream_destroy(&r->stream);
    hold_free(&r->held);
    free(r);
    *out = NULL;
}

plp_status request_restore(request *r, request_origin *origin)
{
    r->restored = true, r->origin = origin, r->past = origin->past, r->drawn = origin->prompt;
    origin->holders++;
    if (origin->continues && r->past == r->length - 1)
        r->prompt = r->past; /* the last token is computed as one that was drawn: a decode row */
    for (int64_t i = r->drawn; i < r->length && sampling_penalises(&r->given.sampling); i++) PLP_TRY(note(r, r->ids[i], true));
    return PLP_OK;
}

void request_origin_drop(request_origin **out)
{
    request_origin *o = *out;
    *out = NULL;
    if (o == NULL || --o->holders > 0) return;
    free(o->state);
    free(o);
}

/* -------------------------------------------------------------------------------------------------------------------- tokens */
static plp_status push_text(request *r, const char *piece, size_t bytes, bool last, request_progress *p)
{
    const int stops = request_outputs(r) < r->given.min_tokens ? 0 : r->given.stop_count;
    PLP_TRY(hold_push(&r->held, piece, bytes, (const char *const *)r->stops, stops, last, &p->ready, &p->stop_text));
    if (p->stop_text >= 0) p->finished = true, p->finish = PLP_FINISH_STOP, p->stop_id = -1;
    return PLP_OK;
}

plp_status request_end_text(request *r, request_progress *p)
{
    const char *piece = "";
    size_t bytes = 0;
    if (r->stream == NULL) return PLP_OK;
    PLP_TRY(text_stream_finish(r->stream, &piece, &bytes));
    return push_text(r, piece, bytes, true, p);
}

plp_status request_append(request *r, int token, request_progress *p)
{
    const char *piece = "";
    size_t bytes = 0;
    *p = (request_progress){ .stop_id = -1, .stop_text = -1 };
    if (r->length == r->room) {
        int *ids = realloc(r->ids, 2 * (size_t)r->room * sizeof *ids);
        PLP_TRY(PLP_ALLOCATED(ids));
        r->ids = ids, r->room *= 2;
    }
    r->ids[r->length++] = token;
    if (sampling_penalises(&r->given.sampling)) PLP_TRY(note(r, token, true));

    if (request_outputs(r) >= r->given.min_tokens)
        for (int i = 0; i < r->stop_id_count; i++)
            if (r->stop_ids[i] == token) p->finished = true, p->finish = PLP_FINISH_STOP, p->stop_id = token;
    if (!p->finished && request_outputs(r) == r->given.max_tokens) p->finished = true, p->finish = PLP_FINISH_LENGTH;

    if (r->stream == NULL) return PLP_OK;
    if (p->stop_id < 0) { /* the token that stops is no text */
        PLP_TRY(text_stream_push(r->stream, token, &piece, &bytes));
        PLP_TRY(push_text(r, piece, bytes, false, p));
    }
    return !p->finished || p->stop_text >= 0 ? PLP_OK : request_end_text(r, p);
}
