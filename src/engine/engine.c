#include "engine/engine.h"

#include "engine/request.h"
#include "engine/reuse.h"
#include "engine/schedule.h"
#include "engine/state_file.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE = 256 };

/* An event that waits to be read: text is an offset into the engine's text until then. */
typedef struct {
    plp_event event;
    size_t text_at, stop_at; /* SIZE_MAX: no stop text */
    int top_id[PLP_MOST_LOGPROBS];
    double top_logprob[PLP_MOST_LOGPROBS];
    char message[MESSAGE];
} queued;

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
    int *ids, *start, *source, *slot, *out_row, *out_seq;
    int64_t *past;
    sampling_row *row;
    kn_sample_row *kernel_row;
    kn_candidates *candidates; /* (ranks, max_seqs) */
    sampling_work *work;
    float *logits; /* (vocab), once asked for */
    int *penalty_id, *penalty_hits;
    size_t penalty_room;

    queued *event; /* of the last step */
    int events, event_room, read;
    char *text;
    size_t text_used, text_room;
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
    *q = (queued){ .event = { .kind = kind, .request = r->id, .token = -1, .stop_id = -1 }, .stop_at = SIZE_MAX };
    PLP_TRY(add_text(e, "", 0, &q->text_at));
    e->events++;
    *added = q;
    return PLP_OK;
}

int plp_engine_next_event(plp_engine *e, plp_event *event)
{
    if (e->read == e->events) return 0;
    const queued *q = &e->event[e->read++];
    *event = q->event;
    event->text = e->text + q->text_at;
    event->stop_text = q->stop_at == SIZE_MAX ? NULL : e->text + q->stop_at;
    event->top_id = q->top_id;
    event->top_logprob = q->top_logprob;
    event->message = q->message;
    return 1;
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
    const int64_t chunk = e->config->chunk > 0 ? e->config->chunk : 1, grain = o->backend->grain > 0 ? o->backend->grain : chunk;
    const int64_t block = e->options.block > 0 ? e->options.block : chunk;
    const int slots = o->slots - e->max_seqs, most = e->options.max_slice;
    e->rules = (schedule_rules){ .budget = e->max_tokens, .slice = e->max_tokens, .chunk = chunk, .grain = grain < chunk ? grain : chunk };
    if (most > 0) e->rules.slice = most < (int)e->rules.grain ? (int)e->rules.grain : most;
    if (e->options.cache == PLP_CACHE_NONE) return PLP_OK;
    if (block % chunk != 0)
        return PLP_FAIL(PLP_ERR_USAGE, "--cache-block %lld, the model's chunk is %lld; fix: give a multiple of it", (long long)block,
                        (long long)chunk);
    if (slots < 1)
        return PLP_FAIL(PLP_ERR_USAGE, "the prefix cache has room for no state; fix: give it more memory, or --prefix-cache none");
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
    PLP_DO(PLP_ALLOCATED(e->out_seq = malloc(seqs * sizeof *e->out_seq)));
    PLP_DO(PLP_ALLOCATED(e->past = malloc(seqs * sizeof *e->past)));
    PLP_DO(PLP_ALLOCATED(e->row = malloc(seqs * sizeof *e->row)));
    PLP_DO(PLP_ALLOCATED(e->kernel_row = malloc(seqs * sizeof *e->kernel_row)));
    PLP_DO(PLP_ALLOCATED(e->candidates = malloc(seqs * (size_t)e->ranks * sizeof *e->candidates)));
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
    free(e->out_seq);
    free(e->past);
    free(e->row);
    free(e->kernel_row);
    free(e->candidates);
    free(e->digests);
    reuse_destroy(&e->reuse);
    sampling_work_destroy(&e->work);
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
    const prefix_cache_counts cache = e->reuse ? reuse_count(e->reuse) : (prefix_cache_counts){ 0 };
    *stats = e->stats;
    stats->cache_held = cache.held, stats->cache_states = cache.slots, stats->cache_evictions = cache.evicted;
}

plp_status plp_encode(plp_engine *e, const char *text, size_t bytes, int add_special, int **ids, size_t *count)
{
    if (e->tokenizer == NULL)
        return PLP_FAIL(PLP_ERR_USAGE,
                        "the model has no tokenizer; fix: give token ids, or convert it with tokenizer.json in its directory");
    return text_encode(e->tokenizer, text, bytes, add_special, ids, count);
}

const char *plp_token(const plp_engine *e, int id) { return e->tokenizer == NULL ? NULL : text_tokenizer_token(e->tokenizer, id); }

void plp_free(void *memory) { free(memory); }

/* -------------------------------------------------------------------------------------------------------- requests come and go */
/* FNV-1a. */
static void note_digest(plp_engine *e, const void *data, size_t bytes)
{
    for (const unsigned char *p = data; bytes > 0; bytes--) e->digest = (e->digest ^ *p++) * 0x100000001b3u;
}

static void note_request(plp_engine *e, const request *r)
{
    const int64_t numbers[] = {
        r->past, r->given.max_tokens, r->given.min_tokens, r->given.logprobs, r->stop_id_count, r->given.stop_count
    };
    note_digest(e, r->ids, (size_t)r->length * sizeof *r->ids);
    note_digest(e, &r->given.sampling, sizeof r->given.sampling);
    note_digest(e, numbers, sizeof numbers);
    note_digest(e, r->stop_ids, (size_t)r->stop_id_count * sizeof *r->stop_ids);
    for (int i = 0; i < r->given.stop_count; i++) note_digest(e, r->stops[i], strlen(r->stops[i]));
}

static void enqueue(plp_engine *e, request *r)
{
    r->id = ++e->next_id;
    note_request(e, r);
    if (e->first == NULL)
        e->first = r;
    else
        e->last->next = r;
    e->last = r;
    e->waits++;
}

/* A request that begins from a state file. */
static plp_status restore(plp_engine *e, const plp_request *given, request **r)
{
    plp_status st = PLP_OK;
    state_file f;
    plp_request whole = *given;
    int *ids = NULL;
    PLP_TRY(state_file_read(&f, e->model, e->options.digest, given->state));
    whole.count = (size_t)f.count + given->count;
    PLP_DO(PLP_ALLOCATED(ids = malloc(whole.count * sizeof *ids)));
    memcpy(ids, f.tokens, (size_t)f.count * sizeof *ids);
    if (given->count > 0) memcpy(ids + f.count, given->ids, given->count * sizeof *ids);
    whole.ids = ids;
    PLP_DO(request_create(r, &whole, e->config, e->tokenizer));
    request_restore(*r, f.state, f.past, given->count == 0);
    f.state = NULL;
done:
    free(ids);
    state_file_free(&f);
    return st;
}

plp_status plp_engine_submit(plp_engine *e, const plp_request *given, uint64_t *id)
{
    request *r;
    PLP_TRY(given->state ? restore(e, given, &r) : request_create(&r, given, e->config, e->tokenizer));
    enqueue(e, r);
    *id = r->id;
    return PLP_OK;
}

plp_status plp_engine_save_state(plp_engine *e, uint64_t id, const char *path)
{
    if (e->options.digest[0] == 0) return PLP_FAIL(PLP_ERR_USAGE, "a model with random weights; state; fix: open a model file");
    for (int i = 0; i < e->runs; i++) {
        const request *r = e->running[i];
        if (r->id == id && r->past > 0) return state_file_write(e->model, e->options.digest, r->slot, r->ids, r->length, r->past, path);
    }
    return PLP_FAIL(PLP_ERR_USAGE,
                    "request %llu has no state; fix: save that of a request that runs, or right after the step that finished it",
                    (unsigned long long)id);
}

void plp_engine_cancel(plp_engine *e, uint64_t id)
{
    note_digest(e, &id, sizeof id);
    for (request *r = e->first; r != NULL; r = r->next)
        if (r->id == id) r->cancelled = true;
    for (int i = 0; i < e->runs; i++)
        if (e->running[i]->id == id) e->running[i]->cancelled = true;
}

static plp_status add_cancelled(plp_engine *e, const request *r)
{
    queued *q;
    PLP_TRY(add_event(e, PLP_EVENT_FINISHED, r, &q));
    q->event.finish = PLP_FINISH_CANCELLED;
    q->event.text_bytes = r->held.used;
    return add_text(e, r->held.text, r->held.used, &q->text_at);
}

/* What a request leaves in its slot is never read; all the same, nothing stays of one that failed. */
static plp_status clean_slot(plp_engine *e, const request *r)
{
    if (PLP_FAULTS_ON) return model_slot_poison(e->model, r->slot);
    return r->failed ? model_slot_scrub(e->model, r->slot) : PLP_OK;
}

/* Takes the requests that are done out of the running ones, and leaves the others in their order. */
static plp_status release_done(plp_engine *e)
{
    plp_status st = PLP_OK;
    int kept = 0;
    for (int i = 0; i < e->runs; i++) {
        request *r = e->running[i];
        if (r->done) {
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

static plp_status admit(plp_engine *e)
{
    while (e->first != NULL && e->free_slots > 0) {
        request *r = e->first;
        e->first = r->next;
        if (e->first == NULL) e->last = NULL;
        e->waits--;
        r->slot = r->source = e->free_slot[--e->free_slots];
        e->running[e->runs++] = r;
        if (r->restored) PLP_TRY(model_slot_write(e->model, r->slot, r->restored));
        if (e->reuse) PLP_TRY(reuse_admit(e->reuse, r));
    }
    return PLP_OK;
}

/* ---------------------------------------------------------------------------------------------------------------------- step */
/* Collective.  Before the first collective of a step, which would hang where ranks disagree about its size. */
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

/* Lays out the slices' rows.  e->out_seq: whose the rows are that will give a token. */
static model_step lay_out_step(plp_engine *e, int slices, int decodes)
{
    int rows = 0, outs = 0;
    model_step step = { .seqs = slices,
                        .decodes = decodes,
                        .ids = e->ids,
                        .start = e->start,
                        .src_slot = e->source,
                        .dst_slot = e->slot,
                        .past = e->past,
                        .out_row = e->out_row };
    note_digest(e, &e->step, sizeof e->step);
    for (int i = 0; i < slices; i++) {
        const schedule_slice *s = &e->slice[i];
        const request *r = e->running[s->seq];
        e->start[i] = rows, e->source[i] = r->source, e->slot[i] = r->slot, e->past[i] = r->past;
        memcpy(e->ids + rows, r->ids + r->past, (size_t)s->rows * sizeof *e->ids);
        const int64_t numbers[] = { (int64_t)r->id, r->past, s->rows, r->source, r->slot };
        note_digest(e, numbers, sizeof numbers); /* the tokens were noted when they came */
        rows += s->rows;
        if (s->out) e->out_row[outs] = rows - 1, e->out_seq[outs++] = s->seq;
    }
    e->start[slices] = rows;
    if (e->reuse && decodes < slices) {
        step.block = (int)reuse_block(e->reuse);
        reuse_keep(e->reuse, e->running, e->slice, slices, decodes, &step.snap_start, &step.snap_slot);
    }
    step.tokens = rows, step.outs = outs;
    return step;
}

/* What the next step computes. */
static model_step plan(plp_engine *e)
{
    int decodes;
    for (int i = 0; i < e->runs; i++) e->seq[i] = (schedule_seq){ .prompt = e->running[i]->prompt, .past = e->running[i]->past };
    if (e->reuse) reuse_find(e->reuse, e->running, e->runs, e->seq);
    const int slices = schedule_step(&e->rules, e->seq, e->runs, e->slice, &decodes);
    if (e->reuse) reuse_settle(e->running, e->runs, e->slice + decodes, slices - decodes);
    return lay_out_step(e, slices, decodes);
}

static plp_status forward(plp_engine *e, const model_step *step)
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
    return PLP_OK;
}

/* The candidates of every row, from all ranks. */
static plp_status gather_candidates(plp_engine *e, int outs)
{
    size_t penalties = 0;
    for (int i = 0; i < outs; i++) {
        e->row[i] = request_sampling_row(e->running[e->out_seq[i]]);
        e->kernel_row[i] = sampling_kernel_row(&e->row[i], (int)penalties);
        penalties += (size_t)e->row[i].penalties;
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
    for (int i = 0; i < outs; i++) {
        const sampling_row *r = &e->row[i];
        if (r->penalties == 0) continue;
        memcpy(e->penalty_id + e->kernel_row[i].penalty_first, r->penalty_id, (size_t)r->penalties * sizeof *e->penalty_id);
        memcpy(e->penalty_hits + e->kernel_row[i].penalty_first, r->penalty_hits, (size_t)r->penalties * sizeof *e->penalty_hits);
    }
    return model_candidates(e->model, outs, e->kernel_row, e->penalty_id, e->penalty_hits, (int)penalties, e->candidates);
}

static plp_status choose(plp_engine *e, int i, int outs, sampling_choice *choice, bool *finite)
{
    const kn_candidates *all = e->candidates + i;
    const sampling_result result = sampling_from_candidates(e->work, &e->row[i], all, outs, e->ranks, choice);
    *finite = result != SAMPLING_NOT_FINITE;
    if (result != SAMPLING_NEEDS_ROW) return PLP_OK;
    if (e->logits == NULL) PLP_TRY(PLP_ALLOCATED(e->logits = malloc((size_t)e->config->vocab * sizeof *e->logits)));
    PLP_TRY(model_gather_logits(e->model, i, e->logits));
    sampling_from_logits(e->work, &e->row[i], all, outs, e->ranks, e->logits, (int)e->config->vocab_used, choice);
    return PLP_OK;
}

static plp_status deliver(plp_engine *e, request *r, const sampling_choice *c)
{
    queued *q;
    request_progress p;
    note_digest(e, &c->token, sizeof c->token);
    e->stats.output_tokens++;
    PLP_TRY(request_append(r, c->token, &p));
    PLP_TRY(add_event(e, PLP_EVENT_TOKEN, r, &q));
    q->event.token = c->token, q->event.logprob = c->logprob, q->event.tops = c->tops, q->event.text_bytes = p.ready;
    memcpy(q->top_id, c->top_id, sizeof q->top_id);
    memcpy(q->top_logprob, c->top_logprob, sizeof q->top_logprob);
    PLP_TRY(add_text(e, r->held.text, p.ready, &q->text_at));
    hold_take(&r->held, p.ready);
    if (!p.finished) return PLP_OK;

    r->done = true;
    PLP_TRY(add_event(e, PLP_EVENT_FINISHED, r, &q));
    q->event.finish = p.finish, q->event.stop_id = p.stop_id;
    return p.stop_text < 0 ? PLP_OK : add_text(e, r->stops[p.stop_text], strlen(r->stops[p.stop_text]), &q->stop_at);
}

/* Collective.  A request whose logits are not finite ends; nothing of it is kept. */
static plp_status give_up(plp_engine *e, request *r)
{
    char where[40];
    PLP_TRY(model_find_not_finite(e->model, r->slot, where, sizeof where));
    PLP_FAIL(PLP_ERR_DATA,
             "non-finite at %s; step %lld, token %lld of request %llu; fix: see if another run gives the same: if so convert "
             "--check-finite, if not check this machine",
             where, (long long)e->step, (long long)r->length, (unsigned long long)r->id);
    r->done = r->failed = true;
    if (e->reuse) reuse_forget(e->reuse, r);
    return add_error(e, r, PLP_ERR_DATA, plp_last_error());
}

/* The state that a prompt began from may be at fault: once more, from its own tokens alone. */
static void begin_anew(plp_engine *e, request *r)
{
    reuse_forget(e->reuse, r);
    e->stats.cached_tokens -= r->borrowed;
    e->stats.prefill_tokens -= r->prompt - r->borrowed;
    r->past = r->borrowed = r->key_count = 0;
}

/* Collective where it is not finite.  A token for a row of logits. */
static plp_status draw(plp_engine *e, int i, int outs)
{
    request *r = e->running[e->out_seq[i]];
    sampling_choice choice;
    bool finite;
    PLP_TRY(choose(e, i, outs, &choice, &finite));
    if (finite) return deliver(e, r, &choice);
    if (r->borrowed == 0 || request_outputs(r) > 0) return give_up(e, r);
    begin_anew(e, r);
    return PLP_OK;
}

static plp_status run_step(plp_engine *e)
{
    const double began = plp_seconds();
    const model_step step = plan(e);
    const double planned = plp_seconds();
    PLP_TRY(check_digests(e));
    PLP_TRY(forward(e, &step));
    if (step.outs > 0) PLP_TRY(gather_candidates(e, step.outs));
    const double computed = plp_seconds();
    for (int i = 0; i < step.outs; i++) PLP_TRY(draw(e, i, step.outs));
    e->stats.schedule_seconds += planned - began;
    e->stats.host_seconds += planned - began + plp_seconds() - computed;
    e->stats.steps = ++e->step;
    return PLP_OK;
}

plp_status plp_engine_step(plp_engine *e, int *left)
{
    e->events = e->read = 0;
    e->text_used = 0;
    if (e->broken != PLP_OK) return PLP_FAIL(e->broken, "an earlier step of this engine failed; fix: end the job");
    e->broken = drop_cancelled(e);
    const plp_status released = release_done(e); /* those of the last step kept their slots until now: see plp_engine_save_state */
    if (e->broken == PLP_OK) e->broken = released;
    if (e->broken == PLP_OK) e->broken = admit(e);
    if (e->broken == PLP_OK && e->runs > 0) e->broken = run_step(e);
    *left = e->waits;
    for (int i = 0; i < e->runs; i++) *left += !e->running[i]->done;
    return e->broken;
}
