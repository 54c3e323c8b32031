#include "engine/engine.h"

#include "engine/request.h"
#include "engine/reuse.h"
#include "engine/schedule.h"
#include "engine/score.h"
#include "engine/share.h"
#include "engine/state_file.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE = 256, SCORED = 64 }; /* bytes; rows of a prompt that are scored together */

/* An event that waits to be read: text is an offset into the engine's text until then. */
typedef struct {
    plp_event event;
    size_t text_at, stop_at, list_at; /* SIZE_MAX: no stop text; the arrays below */
    int top_id[PLP_MOST_LOGPROBS];
    double top_logprob[PLP_MOST_LOGPROBS];
    char message[MESSAGE];
} queued;

/* A step that was queued, until its tokens are read. */
typedef struct {
    bool queued;
    bool settles; /* its tokens are sure to be drawn on the device */
    bool scores;  /* probabilities of prompts are wanted           */
    int slices, decodes;
    int outs;
    int64_t step;
    request **out;     /* (max_seqs) whose the rows of logits are */
    sampling_row *row; /* (max_seqs) how they are drawn           */
} flight;

struct plp_engine {
    engine_session session; /* what plp_engine_create opened, kept for plp_engine_destroy; empty over a borrowed model */
    model *model;
    text_tokenizer *tokenizer;
    const model_config *config;
    tp_group *group;
    engine_options options;
    int ranks, max_seqs, max_tokens;
    schedule_rules rules;
    reuse *reuse; /* NULL: no prefix cache */
    bool ahead;   /* see plp_ahead         */

    request *first, *last; /* the queue              */
    request **running;     /* (max_seqs) as admitted */
    int runs, waits;
    int *free_slot; /* (max_seqs) a stack     */
    int free_slots;
    uint64_t next_id;

    int64_t step;
    uint64_t digest;   /* of every request, schedule and token so far */
    uint64_t *digests; /* (ranks) */
    plp_status broken;
    plp_engine_stats stats;

    /* One step. */
    schedule_seq *seq;
    schedule_slice *slice;
    int *ids, *start, *source, *slot, *out_row;
    int64_t *past;
    kn_sample_row *kernel_row;
    model_draw draw;
    sampling_work *work;
    sampling_choice *choice; /* (max_seqs) */
    plp_status *drawn;       /* (max_seqs) PLP_OK, or why there is none */
    engine_scorer *scorer;   /* once asked for */
    float *logits;           /* (vocab), once asked for */
    int *penalty_id, *penalty_hits;
    size_t penalty_room;

    flight flights[2]; /* the last step and the one before it */
    int last_flight;

    queued *event; /* of the last step */
    int events, event_room, read;
    int late; /* events from here on came after the step: they stay for the next one */
    char *text;
    size_t text_used, text_room;
    int *list_id; /* PLP_ALL_LOGPROBS of the events, one after the other */
    double *list_logprob;
    size_t list_used, list_room;
    size_t *list_at; /* (max_seqs) of the rows, like `choice`; SIZE_MAX: none */
};

/* -------------------------------------------------------------------------------------------------------------------- events */
static plp_status add_text(plp_engine *e, const char *text, size_t bytes, size_t *at)
{
    if (e->text_used + bytes + 1 > e->text_room) {
        const size_t room = 2 * (e->text_used + bytes) + 4096;
        char *grown = realloc(e->text, room);
        PLP_TRY(PLP_ALLOCATED(grown));
        e->text = grown, e->text_room = room;
    }
    *at = e->text_used;
    if (bytes > 0) memcpy(e->text + e->text_used, text, bytes);
    e->text[e->text_used + bytes] = 0;
    e->text_used += bytes + 1;
    return PLP_OK;
}

static plp_status add_event(plp_engine *e, plp_event_kind kind, const request *r, queued **added)
{
    if (e->events == e->event_room) {
        const int room = 2 * e->event_room + 64;
        queued *grown = realloc(e->event, (size_t)room * sizeof *grown);
        PLP_TRY(PLP_ALLOCATED(grown));
        e->event = grown, e->event_room = room;
    }
    queued *q = &e->event[e->events];
    *q = (queued){ .event = { .kind = kind, .request = r->id, .token = -1, .stop_id = -1 }, .stop_at = SIZE_MAX, .list_at = SIZE_MAX };
    PLP_TRY(add_text(e, "", 0, &q->text_at));
    e->events++;
    *added = q;
    return PLP_OK;
}

int plp_engine_next_event(plp_engine *e, plp_event *event)
{
    if (e == NULL || event == NULL || e->read == e->events) return 0;
    const queued *q = &e->event[e->read++];
    *event = q->event;
    event->text = e->text + q->text_at;
    event->stop_text = q->stop_at == SIZE_MAX ? NULL : e->text + q->stop_at;
    event->top_id = q->list_at == SIZE_MAX ? q->top_id : e->list_id + q->list_at;
    event->top_logprob = q->list_at == SIZE_MAX ? q->top_logprob : e->list_logprob + q->list_at;
    event->message = q->message;
    return 1;
}

/* Before a step. */
static void forget_events(plp_engine *e)
{
    const int from = e->read > e->late ? e->read : e->late;
    if (from < e->events) { /* their text stays where it is */
        memmove(e->event, e->event + from, (size_t)(e->events - from) * sizeof *e->event);
        e->events -= from;
    } else
        e->events = 0, e->text_used = 0, e->list_used = 0;
    e->read = 0, e->late = INT_MAX;
}

static plp_status add_error(plp_engine *e, const request *r, plp_status status, const char *message)
{
    queued *q;
    PLP_TRY(add_event(e, PLP_EVENT_ERROR, r, &q));
    q->event.status = status;
    snprintf(q->message, sizeof q->message, "%s", message);
    return PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------ create, destroy */
static plp_status set_rules(plp_engine *e, const model_options *o)
{
    e->rules = schedule_rules_of(e->max_tokens, e->config->chunk, o->backend->grain);
    const int64_t chunk = e->rules.chunk, block = e->options.block > 0 ? e->options.block : chunk;
    const int slots = o->slots - e->max_seqs, most = e->options.max_slice;
    const int least = schedule_least_slice(e->config->chunk, o->backend->grain, o->deterministic);
    if (most > 0) e->rules.slice = most < least ? least : most;
    if (e->options.cache == PLP_CACHE_NONE) return PLP_OK;
    PLP_TRY(reuse_check(block, chunk, slots));
    if (e->options.cache == PLP_CACHE_ALIGN) e->rules.block = block;
    char root[192];
    const int used = snprintf(root, sizeof root, "%s %s %s", e->options.digest, plp_dtype_name(e->config->dtype),
                              plp_dtype_name(o->ssm_dtype));
    return reuse_create(&e->reuse, &(reuse_options){ .block = block,
                                                     .inside = e->options.cache == PLP_CACHE_ALL,
                                                     .first = e->max_seqs,
                                                     .slots = slots,
                                                     .root = root,
                                                     .root_bytes = (size_t)used,
                                                     .max_seqs = e->max_seqs,
                                                     .max_tokens = e->max_tokens });
}

plp_status engine_create(plp_engine **out, model *m, text_tokenizer *t, const engine_options *options)
{
    plp_status st = PLP_OK;
    plp_engine *e = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(e = calloc(1, sizeof *e)));
    const model_options *o = model_options_of(m);
    e->model = m, e->tokenizer = t, e->config = model_config_of(m), e->group = model_group(m);
    e->ranks = tp_size(e->group), e->options = *options;
    e->max_seqs = o->slots < o->max_seqs ? o->slots : o->max_seqs;
    e->max_tokens = o->max_tokens;
    e->ahead = options->ahead == PLP_AHEAD_ON || (options->ahead == PLP_AHEAD_AUTO && model_draws_on_device(m));
    e->late = INT_MAX;
    const size_t seqs = (size_t)e->max_seqs, tokens = (size_t)e->max_tokens;
    PLP_DO(PLP_ALLOCATED(e->running = calloc(seqs, sizeof *e->running)));
    PLP_DO(PLP_ALLOCATED(e->free_slot = malloc(seqs * sizeof *e->free_slot)));
    PLP_DO(PLP_ALLOCATED(e->seq = malloc(seqs * sizeof *e->seq)));
    PLP_DO(PLP_ALLOCATED(e->slice = malloc(seqs * sizeof *e->slice)));
    PLP_DO(PLP_ALLOCATED(e->ids = malloc(tokens * sizeof *e->ids)));
    PLP_DO(PLP_ALLOCATED(e->start = malloc((seqs + 1) * sizeof *e->start)));
    PLP_DO(PLP_ALLOCATED(e->source = malloc(seqs * sizeof *e->source)));
    PLP_DO(PLP_ALLOCATED(e->slot = malloc(seqs * sizeof *e->slot)));
    PLP_DO(PLP_ALLOCATED(e->out_row = malloc(seqs * sizeof *e->out_row)));
    PLP_DO(PLP_ALLOCATED(e->past = malloc(seqs * sizeof *e->past)));
    PLP_DO(PLP_ALLOCATED(e->choice = malloc(seqs * sizeof *e->choice)));
    PLP_DO(PLP_ALLOCATED(e->list_at = malloc(seqs * sizeof *e->list_at)));
    PLP_DO(PLP_ALLOCATED(e->drawn = malloc(seqs * sizeof *e->drawn)));
    PLP_DO(PLP_ALLOCATED(e->kernel_row = malloc(seqs * sizeof *e->kernel_row)));
    for (int i = 0; i < 2; i++) {
        PLP_DO(PLP_ALLOCATED(e->flights[i].out = malloc(seqs * sizeof *e->flights[i].out)));
        PLP_DO(PLP_ALLOCATED(e->flights[i].row = malloc(seqs * sizeof *e->flights[i].row)));
    }
    PLP_DO(PLP_ALLOCATED(e->digests = malloc((size_t)e->ranks * sizeof *e->digests)));
    PLP_DO(sampling_work_create(&e->work, (int)e->config->vocab, e->ranks));
    PLP_DO(set_rules(e, o));
    while (e->free_slots < e->max_seqs) e->free_slot[e->free_slots] = e->max_seqs - 1 - e->free_slots, e->free_slots++;
    *out = e, e = NULL;
done:
    engine_destroy(&e);
    return st;
}

void engine_destroy(plp_engine **out)
{
    plp_engine *e = *out;
    if (e == NULL) return;
    if (e->model != NULL) model_draw_forget(e->model); /* it may be borrowed, and another engine's next */
    for (int i = 0; e->running != NULL && i < e->runs; i++) request_destroy(&e->running[i]);
    for (request *r = e->first, *next; r != NULL; r = next) next = r->next, request_destroy(&r);
    free(e->running);
    free(e->free_slot);
    free(e->seq);
    free(e->slice);
    free(e->ids);
    free(e->start);
    free(e->source);
    free(e->slot);
    free(e->out_row);
    free(e->past);
    for (int i = 0; i < 2; i++) {
        free(e->flights[i].out);
        free(e->flights[i].row);
    }
    free(e->kernel_row);
    free(e->digests);
    reuse_destroy(&e->reuse);
    sampling_work_destroy(&e->work);
    engine_scorer_destroy(&e->scorer);
    free(e->choice);
    free(e->list_at);
    free(e->list_id);
    free(e->list_logprob);
    free(e->drawn);
    free(e->logits);
    free(e->penalty_id);
    free(e->penalty_hits);
    free(e->event);
    free(e->text);
    free(e);
    *out = NULL;
}

engine_session *engine_session_of(plp_engine *e) { return &e->session; }

void plp_engine_describe(const plp_engine *e, plp_engine_info *info)
{
    if (info == NULL) return;
    *info = (plp_engine_info){ .bos = -1, .backend = "none", .link = "none" };
    if (e == NULL) return;
    const model_memory memory = model_memory_of(e->model);
    *info = (plp_engine_info){
        .rank = tp_rank(e->group),
        .size = e->ranks,
        .vocabulary = (int)e->config->vocab_used,
        .bos = (int)e->config->bos,
        .has_tokenizer = e->tokenizer != NULL,
        .max_seqs = e->max_seqs,
        .max_batch_tokens = e->max_tokens,
        .weight_bytes = memory.weights,
        .state_bytes = memory.states,
        .work_bytes = memory.work,
        .backend = model_options_of(e->model)->backend->name,
        .link = tp_comm_name(e->group),
    };
}

void plp_engine_statistics(const plp_engine *e, plp_engine_stats *stats)
{
    if (stats == NULL) return;
    *stats = (plp_engine_stats){ 0 };
    if (e == NULL) return;
    const prefix_cache_counts cache = e->reuse ? reuse_count(e->reuse) : (prefix_cache_counts){ 0 };
    *stats = e->stats;
    stats->cache_held = cache.held, stats->cache_states = cache.slots, stats->cache_evictions = cache.evicted;
}

plp_status plp_encode(plp_engine *e, const char *text, size_t bytes, int add_special, int **ids, size_t *count)
{
    if (ids != NULL) *ids = NULL;
    if (count != NULL) *count = 0;
    PLP_TRY(PLP_GIVEN(e, "engine"));
    PLP_TRY(PLP_GIVEN(ids, "ids"));
    PLP_TRY(PLP_GIVEN(count, "count"));
    if (bytes > 0) PLP_TRY(PLP_GIVEN(text, "text"));
    if (e->tokenizer == NULL) return engine_no_tokenizer(e->session.unsupported);
    return text_encode(e->tokenizer, text != NULL ? text : "", bytes, add_special, ids, count);
}

plp_status plp_decode(plp_engine *e, const int *ids, size_t count, int keep_special, char **text, size_t *bytes)
{
    if (text != NULL) *text = NULL;
    if (bytes != NULL) *bytes = 0;
    PLP_TRY(PLP_GIVEN(e, "engine"));
    PLP_TRY(PLP_GIVEN(text, "text"));
    PLP_TRY(PLP_GIVEN(bytes, "bytes"));
    if (count > 0) PLP_TRY(PLP_GIVEN(ids, "ids"));
    if (e->tokenizer == NULL) return engine_no_tokenizer(e->session.unsupported);
    const int known = text_tokenizer_vocab(e->tokenizer), drawn = (int)e->config->vocab_used, most = known > drawn ? known : drawn;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= most)
            return PLP_FAIL(PLP_ERR_DATA, "id %d at index %zu; request; fix: give ids from 0 to %d", ids[i], i, most - 1);
    return text_decode(e->tokenizer, ids, count, !keep_special, text, bytes);
}

const char *plp_token(const plp_engine *e, int id)
{
    return e == NULL || e->tokenizer == NULL ? NULL : text_tokenizer_token(e->tokenizer, id);
}

void plp_free(void *memory) { free(memory); }

/* -------------------------------------------------------------------------------------------------------- requests come and go */
/* FNV-1a. */
static void note_digest(plp_engine *e, const void *data, size_t bytes)
{
    for (const unsigned char *p = data; bytes > 0; bytes--) e->digest = (e->digest ^ *p++) * 0x100000001b3u;
}

/* Lists with their lengths, strings with their ends: nothing reads like something else. */
static void note_request(plp_engine *e, const request *r)
{
    const plp_request *g = &r->given;
    const int64_t numbers[] = { r->past,      g->max_tokens,        g->min_tokens, g->logprobs,   g->prompt_logprobs,
                                r->drawn,     r->stop_id_count,     g->stop_count, g->bias_count, g->allowed_count,
                                g->bad_count, g->keep_special != 0, r->length };
    note_digest(e, r->ids, (size_t)r->length * sizeof *r->ids);
    note_digest(e, &r->given.sampling, sizeof r->given.sampling);
    note_digest(e, numbers, sizeof numbers);
    note_digest(e, r->stop_ids, (size_t)r->stop_id_count * sizeof *r->stop_ids);
    for (int i = 0; i < g->stop_count; i++) note_digest(e, r->stops[i], strlen(r->stops[i]) + 1);
    note_digest(e, r->bias_id, (size_t)g->bias_count * sizeof *r->bias_id);
    note_digest(e, r->bias, (size_t)g->bias_count * sizeof *r->bias);
    note_digest(e, r->allowed, (size_t)g->allowed_count * sizeof *r->allowed);
    note_digest(e, r->bad_sizes, (size_t)g->bad_count * sizeof *r->bad_sizes);
    for (int i = 0; i < g->bad_count; i++) note_digest(e, r->bad[i], (size_t)r->bad_sizes[i] * sizeof *r->bad[i]);
}

static void enqueue(plp_engine *e, request *r, uint64_t leader)
{
    r->leader = leader;
    r->id = ++e->next_id;
    note_request(e, r);
    if (e->first == NULL)
        e->first = r;
    else
        e->last->next = r;
    e->last = r;
    e->waits++;
}

/* The answers to a prompt, in a list: all or none.  origin: NULL, or what they begin from. */
static plp_status create_answers(plp_engine *e, const plp_request *given, request_origin *origin, request **first)
{
    plp_request one = *given;
    request **next = first;
    plp_status st;
    *first = NULL;
    for (int i = 0; i < (given->answers > 1 ? given->answers : 1); i++, next = &(*next)->next) {
        if (given->seeds) one.sampling.seed = given->seeds[i];
        if (i > 0) one.prompt_logprobs = -1;
        PLP_DO(request_create(next, &one, e->config, e->tokenizer));
        if (origin != NULL) PLP_DO(request_restore(*next, origin));
    }
    return PLP_OK;
done:
    for (request *r = *first, *after; r != NULL; r = after) after = r->next, request_destroy(&r);
    return st;
}

/* Behind a state file, which is read once for all of them. */
static plp_status restore_answers(plp_engine *e, const plp_request *given, request **first)
{
    plp_status st = PLP_OK;
    state_file f;
    plp_request whole = *given;
    request_origin *origin = NULL;
    int *ids = NULL;
    PLP_TRY(state_file_read(&f, e->model, e->options.digest, given->state, e->options.trust));
    whole.count = (size_t)f.count + given->count;
    PLP_DO(PLP_ALLOCATED(ids = malloc(whole.count * sizeof *ids)));
    memcpy(ids, f.tokens, (size_t)f.count * sizeof *ids);
    if (given->count > 0) memcpy(ids + f.count, given->ids, given->count * sizeof *ids);
    whole.ids = ids;
    PLP_DO(PLP_ALLOCATED(origin = malloc(sizeof *origin)));
    *origin = (request_origin){ .state = f.state,
                                .past = f.past,
                                .prompt = given->count == 0 ? f.prompt : (int64_t)whole.count,
                                .continues = given->count == 0 && f.past >= f.prompt,
                                .holders = 1 };
    f.state = NULL;
    PLP_DO(create_answers(e, &whole, origin, first));
done:
    request_origin_drop(&origin);
    free(ids);
    state_file_free(&f);
    return st;
}

plp_status plp_engine_submit(plp_engine *e, const plp_request *given, uint64_t *id)
{
    request *first;
    PLP_TRY(PLP_GIVEN(e, "engine"));
    PLP_TRY(PLP_GIVEN(given, "request"));
    PLP_TRY(PLP_GIVEN(id, "id"));
    if (given->count > 0) PLP_TRY(PLP_GIVEN(given->ids, "ids"));
    PLP_TRY(given->state != NULL ? restore_answers(e, given, &first) : create_answers(e, given, NULL, &first));
    *id = e->next_id + 1;
    for (request *r = first, *after; r != NULL; r = after) {
        after = r->next, r->next = NULL;
        enqueue(e, r, r == first || r->restored ? 0 : *id);
    }
    return PLP_OK;
}

void plp_engine_cancel(plp_engine *e, uint64_t id)
{
    if (e == NULL) return;
    note_digest(e, &id, sizeof id);
    for (request *r = e->first; r != NULL; r = r->next)
        if (r->id == id) r->cancelled = true;
    for (int i = 0; i < e->runs; i++)
        if (e->running[i]->id == id) e->running[i]->cancelled = true;
}

static plp_status add_cancelled(plp_engine *e, request *r)
{
    queued *q;
    request_progress p = { .stop_text = -1 };
    PLP_TRY(request_end_text(r, &p));
    PLP_TRY(add_event(e, PLP_EVENT_FINISHED, r, &q));
    q->event.finish = PLP_FINISH_CANCELLED;
    q->event.text_bytes = p.ready;
    return add_text(e, r->held.text, p.ready, &q->text_at);
}

/* What a request leaves in its slot is never read; all the same, nothing stays of one that failed. */
static plp_status clean_slot(plp_engine *e, const request *r)
{
    if (PLP_FAULTS_ON) return model_slot_poison(e->model, r->slot);
    return r->failed ? model_slot_scrub(e->model, r->slot) : PLP_OK;
}

/* Takes the requests that are done, and of which no step under way has a row, out of the running ones, and leaves the others in their
 * order. */
static plp_status release_done(plp_engine *e)
{
    plp_status st = PLP_OK;
    int kept = 0;
    for (int i = 0; i < e->runs; i++) {
        request *r = e->running[i];
        if (r->done && r->unread == 0) {
            if (st == PLP_OK) st = clean_slot(e, r);
            e->free_slot[e->free_slots++] = r->slot;
            request_destroy(&r);
        } else
            e->running[kept++] = r;
    }
    e->runs = kept;
    return st;
}

static plp_status drop_cancelled(plp_engine *e)
{
    e->last = NULL;
    for (request **at = &e->first; *at != NULL;) {
        request *r = *at;
        if (!r->cancelled) {
            e->last = r, at = &r->next;
            continue;
        }
        PLP_TRY(add_cancelled(e, r));
        *at = r->next;
        e->waits--;
        request_destroy(&r);
    }
    for (int i = 0; i < e->runs; i++)
        if (e->running[i]->cancelled && !e->running[i]->done) {
            PLP_TRY(add_cancelled(e, e->running[i]));
            e->running[i]->done = true;
        }
    return PLP_OK;
}

/* A request is to compute its prompt. */
static plp_status find_reuse(void *engine, request *r)
{
    plp_engine *e = engine;
    return e->reuse && r->given.prompt_logprobs < 0 ? reuse_admit(e->reuse, r) : PLP_OK;
}

static plp_status admit(plp_engine *e)
{
    while (e->first != NULL && e->free_slots > 0) {
        request *r = e->first;
        e->first = r->next;
        if (e->first == NULL) e->last = NULL;
        e->waits--;
        r->slot = r->source = e->free_slot[--e->free_slots];
        e->running[e->runs++] = r;
        if (r->origin != NULL) PLP_TRY(model_slot_write(e->model, r->slot, r->origin->state));
        request_origin_drop(&r->origin);
        if (r->leader == 0) PLP_TRY(find_reuse(e, r));
    }
    return share_lead(e->running, e->runs, e->first, find_reuse, e);
}

/* ---------------------------------------------------------------------------------------------------------------------- step */
/* Collective.  The first of every step, also of one that has nothing to run here: the others may have.  Those behind it would hang where ranks
 * disagree about their size, or whether they come at all. */
static plp_status check_digests(plp_engine *e)
{
    char ranks[64] = "";
    if (e->ranks == 1) return PLP_OK;
    PLP_TRY(tp_gather_all(e->group, &e->digest, sizeof e->digest, e->digests));
    for (int i = 1, used = 0; i < e->ranks && used < (int)sizeof ranks - 12; i++)
        if (e->digests[i] != e->digests[0]) used += snprintf(ranks + used, sizeof ranks - (size_t)used, "%s%d", used ? ", " : "", i);
    if (ranks[0] == 0) return PLP_OK;
    return PLP_FAIL(
        PLP_ERR_DISAGREE,
        "rank %s: other requests, schedule or tokens than rank 0's; step %lld; fix: make the same calls on every rank, on processors of "
        "one kind",
        ranks, (long long)e->step);
}

/* The input of a slice; of a token that was not read, where the last step drew it. */
static void take_ids(const request *r, int rows, int *ids)
{
    if (r->past == r->length)
        *ids = ~r->out;
    else
        memcpy(ids, r->ids + r->past, (size_t)rows * sizeof *ids);
}

static void add_out(plp_engine *e, flight *f, request *r, int row) { e->out_row[f->outs] = row, f->out[f->outs++] = r; }

/* Those that wait for the end of this prompt draw from its last row as well. */
static void add_followers(plp_engine *e, flight *f, const request *leader, int row)
{
    for (int i = 0; i < e->runs; i++) {
        request *r = e->running[i];
        if (!share_waits(r) || r->leader != leader->id) continue;
        const int64_t numbers[] = { (int64_t)r->id, row, r->slot };
        note_digest(e, numbers, sizeof numbers);
        add_out(e, f, r, row);
    }
}

/* The state of the prompt, for each of them. */
static plp_status copy_states(plp_engine *e, const flight *f)
{
    const request *leader = NULL;
    for (int i = 0; i < f->outs; i++) {
        request *r = f->out[i];
        if (!share_waits(r)) {
            leader = r;
            continue;
        }
        PLP_TRY(model_slot_copy(e->model, leader->slot, r->slot));
        r->past = r->prompt, r->leader = 0, r->source = r->slot;
        e->stats.cached_tokens += r->prompt;
        r->borrowed = r->prompt;
    }
    return PLP_OK;
}

/* Lays out the slices' rows, and in f whose the rows are that will give a token. */
static model_step lay_out_step(plp_engine *e, flight *f, int slices, int decodes)
{
    int rows = 0;
    model_step step = { .seqs = slices,
                        .decodes = decodes,
                        .ids = e->ids,
                        .start = e->start,
                        .src_slot = e->source,
                        .dst_slot = e->slot,
                        .past = e->past,
                        .out_row = e->out_row,
                        .draw = &e->draw };
    note_digest(e, &e->step, sizeof e->step);
    f->outs = 0;
    for (int i = 0; i < slices; i++) {
        const schedule_slice *s = &e->slice[i];
        request *r = e->running[s->seq];
        e->start[i] = rows, e->source[i] = r->source, e->slot[i] = r->slot, e->past[i] = r->past;
        take_ids(r, s->rows, e->ids + rows);
        const int64_t numbers[] = { (int64_t)r->id, r->past, s->rows, r->source, r->slot };
        note_digest(e, numbers, sizeof numbers); /* the tokens were noted when they came */
        rows += s->rows;
        if (s->out) add_out(e, f, r, rows - 1);
        if (s->out && i >= decodes) add_followers(e, f, r, rows - 1);
    }
    e->start[slices] = rows;
    if (e->reuse && decodes < slices) {
        step.block = (int)reuse_block(e->reuse);
        reuse_keep(e->reuse, e->running, e->slice, slices, decodes, &step.snap_start, &step.snap_slot);
    }
    step.tokens = rows, step.outs = f->outs;
    return step;
}

/* What the next step computes. */
static model_step plan(plp_engine *e, flight *f)
{
    int decodes;
    for (int i = 0; i < e->runs; i++) {
        const request *r = e->running[i];
        e->seq[i] = (schedule_seq){ .prompt = r->prompt, .past = r->past, .waits = r->done || share_waits(r) || request_ends(r) };
    }
    if (e->reuse) reuse_find(e->reuse, e->running, e->runs, e->seq);
    const int slices = schedule_step(&e->rules, e->seq, e->runs, e->slice, &decodes);
    if (e->reuse) reuse_settle(e->running, e->runs, e->slice + decodes, slices - decodes);
    return lay_out_step(e, f, slices, decodes);
}

/* How the rows' tokens are drawn. */
static plp_status plan_draw(plp_engine *e, flight *f)
{
    size_t penalties = 0;
    f->settles = true, e->draw = (model_draw){ .row = e->kernel_row };
    for (int i = 0; i < f->outs; i++) {
        const sampling_row *r = &f->row[i];
        f->row[i] = request_sampling_row(f->out[i]);
        f->settles &= sampling_settles(r) && !request_looks_back(f->out[i]);
        e->draw.candidates |= sampling_wants_candidates(r);
        e->kernel_row[i] = sampling_kernel_row(r, (int)penalties);
        penalties += (size_t)r->penalties;
    }
    if (penalties > e->penalty_room) {
        free(e->penalty_id);
        free(e->penalty_hits);
        e->penalty_room = 2 * penalties;
        e->penalty_id = malloc(e->penalty_room * sizeof *e->penalty_id);
        e->penalty_hits = malloc(e->penalty_room * sizeof *e->penalty_hits);
        PLP_TRY(PLP_ALLOCATED(e->penalty_id));
        PLP_TRY(PLP_ALLOCATED(e->penalty_hits));
    }
    for (int i = 0; i < f->outs; i++) {
        const sampling_row *r = &f->row[i];
        if (r->penalties == 0) continue;
        memcpy(e->penalty_id + e->kernel_row[i].penalty_first, r->penalty_id, (size_t)r->penalties * sizeof *e->penalty_id);
        memcpy(e->penalty_hits + e->kernel_row[i].penalty_first, r->penalty_hits, (size_t)r->penalties * sizeof *e->penalty_hits);
    }
    e->draw.penalty_id = e->penalty_id, e->draw.penalty_hits = e->penalty_hits, e->draw.penalties = (int)penalties;
    return PLP_OK;
}

static plp_status forward(plp_engine *e, const flight *f, const model_step *step)
{
    PLP_TRY(model_forward(e->model, step));
    if (e->reuse) reuse_publish(e->reuse);
    for (int i = 0; i < step->seqs; i++) {
        request *r = e->running[e->slice[i].seq];
        e->stats.cached_tokens += r->found;
        r->borrowed += r->found;
        r->past += e->slice[i].rows, r->found = 0, r->source = r->slot;
        if (i >= step->decodes) e->stats.prefill_tokens += e->slice[i].rows;
    }
    PLP_TRY(copy_states(e, f));
    for (int i = 0; i < f->outs; i++) f->out[i]->out = i, f->out[i]->unread++;
    return PLP_OK;
}

/* Whether the step computes prompts whose probabilities are wanted: it is read at once then, while its rows are there. */
static bool scores(const plp_engine *e, int slices, int decodes)
{
    bool any = false;
    for (int i = decodes; i < slices; i++) any |= e->running[e->slice[i].seq]->given.prompt_logprobs >= 0;
    return any;
}

static plp_status queue_step(plp_engine *e, flight *f)
{
    const double began = plp_seconds();
    model_step step = plan(e, f);
    f->scores = scores(e, step.seqs, step.decodes);
    step.no_others = !f->scores;
    PLP_TRY(plan_draw(e, f));
    const double planned = plp_seconds();
    PLP_TRY(check_digests(e));
    if (step.tokens == 0) return PLP_OK; /* what runs has ended, once its tokens are read */
    PLP_TRY(forward(e, f, &step));
    f->queued = true, f->step = e->step;
    f->slices = step.seqs, f->decodes = step.decodes;
    if (f->scores) f->settles = false;
    e->stats.schedule_seconds += planned - began;
    e->stats.host_seconds += planned - began;
    e->stats.steps = ++e->step;
    return PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------------- its tokens */
/* Row i of the last step. */
static plp_status gather_row(plp_engine *e, int i)
{
    if (e->logits == NULL) PLP_TRY(PLP_ALLOCATED(e->logits = malloc((size_t)e->config->vocab * sizeof *e->logits)));
    return model_gather_logits(e->model, i, e->logits);
}

/* The whole row behind what was chosen from it, for the event to come. */
static plp_status list_row(plp_engine *e, const sampling_choice *choice, size_t *at)
{
    const size_t valid = (size_t)e->config->vocab_used;
    if (e->list_used + valid > e->list_room) {
        const size_t room = 2 * (e->list_used + valid);
        int *ids = realloc(e->list_id, room * sizeof *ids);
        PLP_TRY(PLP_ALLOCATED(ids));
        e->list_id = ids;
        double *logprobs = realloc(e->list_logprob, room * sizeof *logprobs);
        PLP_TRY(PLP_ALLOCATED(logprobs));
        e->list_logprob = logprobs, e->list_room = room;
    }
    *at = e->list_used;
    sampling_list(e->work, e->logits, (int)valid, choice, e->list_id + *at, e->list_logprob + *at);
    e->list_used += valid;
    return PLP_OK;
}

/* *finite: false where a logit is not, and there is no choice. */
static plp_status choose(plp_engine *e, const flight *f, int i, const kn_choice *chosen, const kn_candidates *candidates,
                         sampling_choice *choice, bool *finite)
{
    const sampling_result result = sampling_from_choice(e->work, &f->row[i], chosen + i, candidates + i, f->outs, e->ranks, choice);
    const bool list = f->row[i].list && result != SAMPLING_NOT_FINITE;
    *finite = result != SAMPLING_NOT_FINITE;
    e->list_at[i] = SIZE_MAX;
    if (result == SAMPLING_NEEDS_ROW || list) PLP_TRY(gather_row(e, i));
    if (result == SAMPLING_NEEDS_ROW)
        sampling_from_logits(e->work, &f->row[i], candidates + i, f->outs, e->ranks, e->logits, (int)e->config->vocab_used, choice);
    return list ? list_row(e, choice, &e->list_at[i]) : PLP_OK;
}

static plp_status deliver(plp_engine *e, request *r, const sampling_choice *c, size_t list_at)
{
    queued *q;
    request_progress p;
    note_digest(e, &c->token, sizeof c->token);
    e->stats.output_tokens++;
    PLP_TRY(request_append(r, c->token, &p));
    PLP_TRY(add_event(e, PLP_EVENT_TOKEN, r, &q));
    q->event.token = c->token, q->event.tops = c->tops, q->event.text_bytes = p.ready;
    if (r->given.logprobs >= 0) q->event.logprob = c->logprob; /* else it is the raw logit */
    memcpy(q->top_id, c->top_id, sizeof q->top_id);
    memcpy(q->top_logprob, c->top_logprob, sizeof q->top_logprob);
    if (list_at != SIZE_MAX) q->list_at = list_at, q->event.tops = (int)e->config->vocab_used;
    PLP_TRY(add_text(e, r->held.text, p.ready, &q->text_at));
    hold_take(&r->held, p.ready);
    if (!p.finished) return PLP_OK;

    r->done = true;
    PLP_TRY(add_event(e, PLP_EVENT_FINISHED, r, &q));
    q->event.finish = p.finish, q->event.stop_id = p.stop_id;
    return p.stop_text < 0 ? PLP_OK : add_text(e, r->stops[p.stop_text], strlen(r->stops[p.stop_text]), &q->stop_at);
}

/* Tokens for all rows of logits, where they are finite. */
static plp_status choose_all(plp_engine *e, const flight *f, const kn_choice *chosen, const kn_candidates *candidates)
{
    for (int i = 0; i < f->outs; i++) {
        bool finite = true;
        f->out[i]->unread--;
        if (!f->out[i]->done) PLP_TRY(choose(e, f, i, chosen, candidates, &e->choice[i], &finite));
        e->drawn[i] = finite ? PLP_OK : PLP_ERR_DATA;
    }
    return PLP_OK;
}

/* Collective.  A request whose logits are not finite ends; nothing of it is kept. */
static plp_status give_up(plp_engine *e, const flight *f, request *r)
{
    char where[40];
    PLP_TRY(model_find_not_finite(e->model, r->slot, where, sizeof where));
    PLP_FAIL(PLP_ERR_DATA,
             "non-finite at %s; step %lld, token %lld of request %llu; fix: see if another run gives the same: if so convert "
             "--check-finite, if not check this machine",
             where, (long long)f->step, (long long)r->length, (unsigned long long)r->id);
    r->done = r->failed = true;
    if (e->reuse) reuse_forget(e->reuse, r);
    return add_error(e, r, PLP_ERR_DATA, plp_last_error());
}

/* Collective.  The state that a prompt began from may be at fault: once more, from its own tokens alone. */
static plp_status fail_request(plp_engine *e, const flight *f, request *r)
{
    if (r->borrowed == 0 || request_outputs(r) > 0) return give_up(e, f, r);
    if (e->reuse) reuse_forget(e->reuse, r);
    e->stats.cached_tokens -= r->borrowed;
    e->stats.prefill_tokens -= r->prompt - r->borrowed;
    r->past = r->borrowed = r->key_count = 0, r->source = r->slot;
    r->stale = r->unread;
    return PLP_OK;
}

/* Probabilities of the tokens behind the rows first .. first + rows of a slice: of the prompt's from `next` on. */
static plp_status score_rows(plp_engine *e, const flight *f, request *r, int first, int64_t next, int rows)
{
    int row[SCORED];
    sampling_choice score[SCORED];
    for (int i = 0; i < rows; i++) row[i] = first + i;
    PLP_TRY(model_logits_of(e->model, row, rows));
    const plp_status st = engine_scorer_rows(e->scorer, e->model, r->ids + next, rows, r->given.prompt_logprobs, score);
    if (st == PLP_ERR_DATA) return fail_request(e, f, r);
    PLP_TRY(st);
    for (int i = 0; i < rows; i++) {
        queued *q;
        PLP_TRY(add_event(e, PLP_EVENT_PROMPT, r, &q));
        q->event.token = score[i].token, q->event.logprob = score[i].logprob, q->event.tops = score[i].tops;
        memcpy(q->top_id, score[i].top_id, sizeof q->top_id);
        memcpy(q->top_logprob, score[i].top_logprob, sizeof q->top_logprob);
    }
    return PLP_OK;
}

static plp_status score_prompts(plp_engine *e, const flight *f)
{
    const int most = e->max_seqs < SCORED ? e->max_seqs : SCORED;
    if (e->scorer == NULL) PLP_TRY(engine_scorer_create(&e->scorer, e->model));
    for (int i = f->decodes; i < f->slices; i++) {
        request *r = e->running[e->slice[i].seq];
        int rows = e->slice[i].rows;
        if (r->given.prompt_logprobs < 0 || r->done) continue;
        if (r->past == r->prompt) rows--; /* what comes behind the last is no prompt */
        for (int at = 0; at < rows && !r->done; at += most)
            PLP_TRY(score_rows(e, f, r, e->start[i] + at, e->past[i] + at + 1, rows - at < most ? rows - at : most));
    }
    return PLP_OK;
}

static plp_status read_step(plp_engine *e, flight *f)
{
    const kn_choice *chosen;
    const kn_candidates *candidates;
    f->queued = false;
    if (f->outs > 0) PLP_TRY(model_draw_end(e->model, &chosen, &candidates));
    const double came = plp_seconds();
    if (f->outs > 0) PLP_TRY(choose_all(e, f, chosen, candidates));
    if (f->scores) PLP_TRY(score_prompts(e, f));
    for (int i = 0; i < f->outs; i++) { /* no tokens behind a request's end, which the step before this one may have brought */
        request *r = f->out[i];
        if (r->done) continue;
        if (r->stale > 0) { /* it has begun anew since */
            r->stale--;
            continue;
        }
        PLP_TRY(e->drawn[i] == PLP_OK ? deliver(e, r, &e->choice[i], e->list_at[i]) : fail_request(e, f, r));
    }
    e->stats.host_seconds += plp_seconds() - came;
    return PLP_OK;
}

/* The step before the last one is read while the last one runs. */
static plp_status run_step(plp_engine *e)
{
    flight *before = &e->flights[e->last_flight], *now = &e->flights[!e->last_flight];
    PLP_TRY(e->runs > 0 ? queue_step(e, now) : check_digests(e));
    if (before->queued) PLP_TRY(read_step(e, before));
    if (now->queued && !(e->ahead && now->settles)) PLP_TRY(read_step(e, now));
    e->last_flight = !e->last_flight;
    return PLP_OK;
}

static int count_left(const plp_engine *e)
{
    int left = e->waits;
    for (int i = 0; i < e->runs; i++) left += !e->running[i]->done;
    return left;
}

static plp_status step(plp_engine *e)
{
    PLP_TRY(drop_cancelled(e));
    PLP_TRY(release_done(e)); /* those of the last step kept their slots until now: see plp_engine_save_state */
    PLP_TRY(admit(e));
    PLP_TRY(run_step(e));
    flight *f = &e->flights[e->last_flight];
    return f->queued && count_left(e) == 0 ? read_step(e, f) : PLP_OK; /* nobody waits for it */
}

/* Behind a step that failed half way requests, slots and the other ranks are no longer at one place. */
static plp_status check_whole(const plp_engine *e)
{
    if (e->broken == PLP_OK) return PLP_OK;
    return PLP_FAIL(e->broken, "an earlier step of this engine failed; fix: end the job");
}

plp_status plp_engine_step(plp_engine *e, int *left)
{
    PLP_TRY(PLP_GIVEN(e, "engine"));
    PLP_TRY(PLP_GIVEN(left, "left"));
    forget_events(e);
    PLP_TRY(check_whole(e));
    e->broken = step(e);
    *left = count_left(e);
    return e->broken;
}

/* ---------------------------------------------------------------------------------------------------------------------- states */
/* Reads what is under way, so that of every running request all but the last token are in its state. */
static plp_status settle(plp_engine *e)
{
    flight *f = &e->flights[e->last_flight];
    if (!f->queued) return PLP_OK;
    if (e->late == INT_MAX) e->late = e->events;
    return e->broken = read_step(e, f);
}

static plp_status check_saved(const request *r, uint64_t id)
{
    const unsigned long long number = id;
    if (r == NULL)
        return PLP_FAIL(PLP_ERR_USAGE,
                        "request %llu does not run; state; fix: save that of a request that runs, or right after the step that finished it",
                        number);
    if (r->failed)
        return PLP_FAIL(PLP_ERR_USAGE, "request %llu has failed; state; fix: save it before, or that of another request", number);
    if (r->past == 0) return PLP_FAIL(PLP_ERR_USAGE, "request %llu: nothing of it is computed; state; fix: save it after a step", number);
    if (r->past < r->length) return PLP_OK;
    return PLP_FAIL(PLP_ERR_USAGE, "request %llu has ended at token %lld, its state is behind it; fix: an engine that does not look ahead",
                    number, (long long)r->length);
}

plp_status plp_engine_save_state(plp_engine *e, uint64_t id, const char *path)
{
    const request *r = NULL;
    PLP_TRY(PLP_GIVEN(e, "engine"));
    PLP_TRY(PLP_GIVEN(path, "path"));
    PLP_TRY(check_whole(e));
    if (e->options.digest[0] == 0) return PLP_FAIL(PLP_ERR_USAGE, "a model with random weights; state; fix: open a model file");
    PLP_TRY(settle(e)); /* first: it may end the request, or have it begin anew */
    for (int i = 0; i < e->runs; i++)
        if (e->running[i]->id == id) r = e->running[i];
    PLP_TRY(check_saved(r, id));
    return state_file_write(e->model, e->options.digest, r->slot, r->ids, r->length, r->past, r->drawn, path);
}
