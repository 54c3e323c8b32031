#include "cli/batch_loop.h"

#include "cli/batch_answer.h"
#include "cli/stop.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/json_out.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 20 }; /* bytes of lines that are sent at a time, but for the last of them */

/* ---------------------------------------------------------------------------------------------------------------------- state */

/* A request that the engine has: the i-th answer of a line. */
typedef struct {
    uint64_t id;
    batch_answer *answer;
    int i;
    double last; /* when it was submitted, then when its last token came */
} flight;

typedef struct {
    batch_job *job;
    flight *flights; /* by rising id */
    size_t count, room;
    size_t capacity; /* requests that run at a time */
    int64_t next;    /* rank 0: number of the next line  */
    bool end;        /* no more lines                    */
    char *block;     /* lines on their way to all ranks: int64 number, uint64 bytes, text, NUL */
    size_t used, block_room;
} loop;

static bool is_rank0(const loop *l) { return l->job->output != NULL; }

static flight *find(const loop *l, uint64_t id)
{
    size_t low = 0, high = l->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (l->flights[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < l->count && l->flights[low].id == id ? &l->flights[low] : NULL;
}

static void remove_flight(loop *l, flight *f)
{
    const size_t behind = l->count - (size_t)(f - l->flights) - 1;
    memmove(f, f + 1, behind * sizeof *f);
    l->count--;
}

/* -------------------------------------------------------------------------------------------------------------------- records */
static plp_status put(loop *l, int64_t line, bool failed, json_object *record)
{
    plp_status st = plp_json_complete("the record of a line");
    if (st == PLP_OK) st = batch_output_put(l->job->output, line, failed, record);
    l->job->report.done++;
    l->job->report.failed += failed;
    json_object_put(record);
    return st;
}

/* With --strict a line that fails is the job's failure.  What is wrong with its text names it already, what the engine refuses does not; to
 * the engine a request is usage, here it is data. */
static plp_status fail_job(int64_t line, plp_status status, const char *message)
{
    char where[40];
    const int n = snprintf(where, sizeof where, "line %lld", (long long)line);
    const plp_status as = status == PLP_ERR_USAGE ? PLP_ERR_DATA : status;
    return strncmp(message, where, (size_t)n) == 0 ? PLP_FAIL(as, "%s", message) : PLP_FAIL(as, "%s: %s", where, message);
}

/* The record of a line that failed with the last error. */
static plp_status put_error(loop *l, const batch_request *r, plp_status status)
{
    if (status == PLP_ERR_MEMORY) return status;
    if (l->job->strict) return fail_job(r->line, status, plp_last_error());
    return is_rank0(l) ? put(l, r->line, true, batch_error_json(r, status, plp_last_error())) : PLP_OK;
}

/* A line of which the engine has nothing any more. */
static plp_status put_answer(loop *l, batch_answer *a)
{
    plp_status st = PLP_OK;
    if (l->job->strict && a->failed != PLP_OK)
        st = fail_job(a->request.line, a->failed, a->error);
    else if (is_rank0(l))
        st = put(l, a->request.line, a->failed != PLP_OK, batch_answer_json(a, l->job->engine));
    batch_answer_destroy(&a);
    return st;
}

/* ---------------------------------------------------------------------------------------------------------------------- input */
static plp_status reserve(loop *l, size_t bytes)
{
    if (bytes <= l->block_room) return PLP_OK;
    char *block = realloc(l->block, 2 * bytes);
    PLP_TRY(PLP_ALLOCATED(block));
    l->block = block, l->block_room = 2 * bytes;
    return PLP_OK;
}

static plp_status pack(loop *l, const io_line *line)
{
    const uint64_t bytes = line->bytes;
    PLP_TRY(reserve(l, l->used + 2 * sizeof bytes + line->bytes + 1));
    memcpy(l->block + l->used, &line->number, sizeof line->number);
    memcpy(l->block + l->used + sizeof bytes, &bytes, sizeof bytes);
    memcpy(l->block + l->used + 2 * sizeof bytes, line->text, line->bytes + 1);
    l->used += 2 * sizeof bytes + line->bytes + 1;
    return PLP_OK;
}

/* Rank 0: lines for `wanted` requests at least, unless there are no more.  A stream is waited for where there is nothing else to do. */
static plp_status take_lines(loop *l, size_t wanted)
{
    enum { PATIENCE = 200 /* milliseconds */ };
    batch_job *job = l->job;
    for (size_t taken = 0; taken < wanted && l->used < BLOCK && l->next <= batch_output_most(job->output);) {
        io_line line;
        batch_request r;
        plp_status bad, st = PLP_OK;
        bool more, ready;
        PLP_TRY(batch_input_ready(job->input, l->count > 0 || taken > 0 ? 0 : PATIENCE, &ready));
        if (!ready) break; /* and signals are looked at */
        PLP_TRY(batch_input_next(job->input, job->defaults, &line, &r, &bad, &more));
        l->end = !more;
        if (!more) break;
        l->next = line.number + 1;
        const bool done = batch_output_has(job->output, line.number);
        if (!done && bad != PLP_OK) st = put_error(l, &r, bad);
        if (!done && bad == PLP_OK) st = pack(l, &line), taken += (size_t)r.n;
        batch_request_free(&r);
        PLP_TRY(st);
    }
    return PLP_OK;
}

static plp_status add_flight(loop *l, uint64_t id, batch_answer *a, int i)
{
    if (l->count == l->room) {
        const size_t room = 2 * l->room + 64;
        flight *flights = realloc(l->flights, room * sizeof *flights);
        PLP_TRY(PLP_ALLOCATED(flights));
        l->flights = flights, l->room = room;
    }
    l->flights[l->count++] = (flight){ id, a, i, plp_seconds() };
    a->left++;
    return PLP_OK;
}

/* The n requests of a line; they differ in the seed alone. */
static plp_status submit_all(loop *l, batch_answer *a)
{
    uint64_t id, seeds[BATCH_MOST_ANSWERS];
    plp_request request = a->request.request;
    for (int i = 0; i < a->request.n; i++) seeds[i] = batch_request_seed(&a->request, i);
    request.answers = a->request.n, request.seeds = seeds;
    PLP_TRY(plp_engine_submit(l->job->engine, &request, &id));
    for (int i = 0; i < a->request.n; i++) PLP_TRY(add_flight(l, id + (uint64_t)i, a, i));
    return PLP_OK;
}

static plp_status submit(loop *l, int64_t number, const char *text, size_t bytes)
{
    const batch_job *job = l->job;
    batch_request r;
    batch_answer *a = NULL;
    plp_status st = batch_request_read(&r, text, bytes, number, job->defaults);
    if (st == PLP_OK) st = batch_request_encode(&r, job->engine, job->defaults);
    if (st != PLP_OK) {
        st = put_error(l, &r, st);
        batch_request_free(&r);
        return st;
    }
    st = batch_answer_create(&a, &r, job->engine);
    if (st != PLP_OK) {
        st = put_error(l, &r, st);
        batch_request_free(&r);
        return st;
    }
    st = submit_all(l, a);
    if (st == PLP_OK) return PLP_OK;
    if (a->left > 0) return st; /* the engine has some of it: no line's fault */
    st = put_error(l, &a->request, st);
    batch_answer_destroy(&a);
    return st;
}

/* Collective.  Lines for the slots that are free, from rank 0 to all. */
static plp_status admit(loop *l)
{
    const tp_group *g = l->job->c->group;
    uint64_t head[2];
    l->used = 0;
    PLP_TRY(tp_agree(g, is_rank0(l) ? take_lines(l, l->capacity - l->count) : PLP_OK));
    head[0] = l->used, head[1] = l->end;
    PLP_TRY(tp_broadcast(g, head, sizeof head, 0));
    l->used = (size_t)head[0], l->end = head[1] != 0;
    if (l->used == 0) return PLP_OK;
    PLP_TRY(tp_agree(g, reserve(l, l->used)));
    PLP_TRY(tp_broadcast(g, l->block, l->used, 0));
    for (size_t at = 0; at < l->used;) {
        int64_t number;
        uint64_t bytes;
        memcpy(&number, l->block + at, sizeof number);
        memcpy(&bytes, l->block + at + sizeof number, sizeof bytes);
        at += sizeof number + sizeof bytes;
        PLP_TRY(submit(l, number, l->block + at, (size_t)bytes));
        at += (size_t)bytes + 1;
    }
    return PLP_OK;
}

/* ---------------------------------------------------------------------------------------------------------------------- events */
static void count_token(loop *l, flight *f, double now)
{
    batch_report *report = &l->job->report;
    const bool first = f->answer->choice[f->i].tokens == 0;
    plp_histogram_add(first ? &report->first_token : &report->between, now - f->last);
    f->last = now;
    report->out_tokens++;
    if (first && f->i == 0) report->prompt_tokens += (int64_t)f->answer->request.request.count;
}

/* One of n answers has failed, and with it the line. */
static void fail_answer(loop *l, batch_answer *a, const plp_event *event)
{
    a->failed = event->status;
    snprintf(a->error, sizeof a->error, "%s", event->message);
    for (size_t i = 0; i < l->count; i++)
        if (l->flights[i].answer == a && l->flights[i].id != event->request) plp_engine_cancel(l->job->engine, l->flights[i].id);
}

static plp_status handle(loop *l, const plp_event *event, double now)
{
    flight *f = find(l, event->request);
    if (f == NULL)
        return PLP_FAIL(PLP_ERR_INTERNAL, "an event of request %llu, which is not under way", (unsigned long long)event->request);
    batch_answer *a = f->answer;
    if (event->kind == PLP_EVENT_TOKEN) {
        count_token(l, f, now);
        return batch_answer_token(a, f->i, event, l->job->engine);
    }
    if (event->kind == PLP_EVENT_PROMPT) {
        batch_answer_prompt(a, event, l->job->engine);
        return PLP_OK;
    }
    if (event->kind == PLP_EVENT_ERROR)
        fail_answer(l, a, event);
    else
        PLP_TRY(batch_answer_finish(a, f->i, event));
    remove_flight(l, f);
    return --a->left == 0 ? put_answer(l, a) : PLP_OK;
}

/* Rank 0 writes, and may fail in it alone. */
static plp_status handle_all(loop *l)
{
    plp_event event;
    const double now = plp_seconds();
    while (plp_engine_next_event(l->job->engine, &event)) PLP_TRY(handle(l, &event, now));
    return is_rank0(l) ? batch_output_sync(l->job->output, false) : PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------------------ run */
static plp_status stopped(const loop *l)
{
    const batch_report *r = &l->job->report;
    if (!is_rank0(l)) return PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal");
    PLP_TRY(batch_output_sync(l->job->output, true));
    return PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal; %lld requests are done; fix: %s", (long long)r->done,
                    batch_output_resumes(l->job->output) && batch_input_digest(l->job->input) != NULL
                        ? "start the same command again to go on"
                        : "start anew: neither a stream that is read nor stdout can be resumed");
}

static plp_status go_on(loop *l)
{
    enum { FAILED = CLI_DROP + 1 }; /* counts more than any wish to stop */
    const tp_group *g = l->job->c->group;
    plp_status st = PLP_OK; /* of this rank's part of the step */
    for (;;) {
        double strongest = st != PLP_OK ? FAILED : cli_stop_asked();
        PLP_TRY(tp_max(g, &strongest));
        if (strongest >= CLI_DROP) cli_stop_heard();
        if (strongest == FAILED) return tp_agree(g, st);
        if (strongest == CLI_DROP || (strongest == CLI_DRAIN && l->count == 0)) return stopped(l);
        if (strongest == CLI_GO_ON && !l->end && l->count < l->capacity) PLP_TRY(admit(l));
        if (l->count == 0 && l->end) return PLP_OK;
        if (l->count == 0) continue;
        int left;
        PLP_TRY(plp_engine_step(l->job->engine, &left));
        st = handle_all(l);
        batch_report_progress(&l->job->report, false);
    }
}

plp_status batch_run(batch_job *job)
{
    plp_engine_info info;
    plp_engine_describe(job->engine, &info);
    loop l = { .job = job, .capacity = (size_t)info.max_seqs, .next = 1 };
    job->report.began = plp_seconds();
    const plp_status st = go_on(&l);
    while (l.count > 0) { /* each answer once, with the last of its flights */
        batch_answer *a = l.flights[--l.count].answer;
        if (--a->left == 0) batch_answer_destroy(&a);
    }
    free(l.flights);
    free(l.block);
    return st;
}
