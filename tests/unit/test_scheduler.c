/* The engine over a model that is not there: a slot's state is a hash of the tokens it saw, and the logits are drawn from the hash.  A
 * row that is lost, repeated, or computed in another sequence's slot changes every token behind it.  Three ranks are played by one. */
#include "engine/engine.h"
#include "engine/schedule.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS = 3, VOCAB = 211, USED = 200, STOP = 5, POISON = 13, MOST_SLOTS = 16, MOST_ROWS = 512 };

/* ---------------------------------------------------------------------------------- the fake model, in place of src/model and src/tp */
struct model {
    model_config config;
    model_options options;
    struct {
        uint64_t hash;
        int64_t past;
    } slot[MOST_SLOTS];
    float logits[MOST_SLOTS][VOCAB];
    int outs, steps, most_rows;
    kn_context *context;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static void fill_logits(uint64_t hash, float *logits)
{
    for (int v = 0; v < VOCAB; v++) logits[v] = v < USED ? (float)(mix(hash, (uint64_t)v) >> 40) / (float)(1 << 21) : -INFINITY;
    if (hash % 200 == POISON) logits[USED - 1] = NAN; /* one state in two hundred is broken */
}

const model_config *model_config_of(const model *m) { return &m->config; }
const model_options *model_options_of(const model *m) { return &m->options; }
model_memory model_memory_of(const model *m)
{
    (void)m;
    return (model_memory){ 0 };
}
tp_group *model_group(model *m)
{
    (void)m;
    return NULL;
}
int tp_rank(const tp_group *g)
{
    (void)g;
    return 0;
}
int tp_size(const tp_group *g)
{
    (void)g;
    return RANKS;
}
const char *tp_comm_name(const tp_group *g)
{
    (void)g;
    return "none";
}
plp_status tp_same(const tp_group *g, const char *what, const void *data, size_t bytes)
{
    (void)g, (void)what, (void)data, (void)bytes;
    return PLP_OK;
}

plp_status model_forward(model *m, const model_step *s)
{
    bool taken[MOST_SLOTS] = { false };
    assert_in_range(s->tokens, 1, m->options.max_tokens);
    assert_in_range(s->seqs, 1, m->options.max_seqs);
    assert_int_equal(s->start[0], 0);
    assert_int_equal(s->start[s->seqs], s->tokens);
    m->outs = 0;
    for (int i = 0; i < s->seqs; i++) {
        const int slot = s->src_slot[i], rows = s->start[i + 1] - s->start[i];
        assert_int_equal(slot, s->dst_slot[i]);
        assert_in_range(slot, 0, m->options.slots - 1);
        assert_false(taken[slot]);
        taken[slot] = true;
        assert_true(rows > 0 && (i >= s->decodes || rows == 1));
        assert_true(i >= s->decodes || s->past[i] > 0);
        if (s->past[i] == 0) m->slot[slot].hash = 1, m->slot[slot].past = 0; /* whatever the last owner left */
        assert_int_equal(m->slot[slot].past, s->past[i]);
        for (int row = s->start[i]; row < s->start[i + 1]; row++) {
            m->slot[slot].hash = mix(m->slot[slot].hash, (uint64_t)s->ids[row]);
            m->slot[slot].past++;
            if (m->outs < s->outs && s->out_row[m->outs] == row) fill_logits(m->slot[slot].hash, m->logits[m->outs++]);
        }
    }
    assert_int_equal(m->outs, s->outs);
    m->steps++;
    if (s->tokens > m->most_rows) m->most_rows = s->tokens;
    return PLP_OK;
}

plp_status model_candidates(model *m, int rows, const kn_sample_row *row, const int *penalty_id, const int *penalty_hits, int penalties,
                            kn_candidates *all)
{
    (void)penalties;
    assert_int_equal(rows, m->outs);
    for (int rank = 0; rank < RANKS; rank++) {
        const int first = rank * USED / RANKS, next = (rank + 1) * USED / RANKS;
        const kn_candidates_args a = { .rows = rows,
                                       .first = first,
                                       .valid = next - first,
                                       .logits = m->logits[0] + first,
                                       .ld = VOCAB,
                                       .row = row,
                                       .penalty_id = penalty_id,
                                       .penalty_hits = penalty_hits,
                                       .out = all + rank * rows };
        assert_int_equal(kn_cpu()->candidates(m->context, &a), PLP_OK);
    }
    return PLP_OK;
}

plp_status model_gather_logits(model *m, int row, float *logits)
{
    assert_in_range(row, 0, m->outs - 1);
    memcpy(logits, m->logits[row], sizeof m->logits[row]);
    return PLP_OK;
}

static void make_model(model *m, int seqs, int tokens, int chunk)
{
    memset(m, 0x7f, sizeof *m); /* slots are dirty */
    m->config = (model_config){ .chunk = chunk, .vocab = VOCAB, .vocab_used = USED, .stop = { STOP }, .stops = 1, .bos = 0 };
    m->options = (model_options){ .backend = kn_cpu(), .max_tokens = tokens, .max_seqs = seqs, .max_outs = seqs, .slots = seqs };
    m->steps = m->most_rows = 0;
    const kn_options o = { .threads = 1, .max_tokens = tokens, .max_k = VOCAB, .max_n = VOCAB };
    assert_int_equal(kn_cpu()->create(&m->context, &o), PLP_OK);
}

/* ------------------------------------------------------------------------------------------------------------------ requests */
enum { REQUESTS = 250, MOST_PROMPT = 200, MOST_OUT = 40 };
typedef struct {
    int prompt[MOST_PROMPT];
    int out[MOST_OUT], outs;
    bool failed, finished;
    plp_finish finish;
} answer;
typedef struct {
    plp_request given;
    answer want, got;
    uint64_t id;
} job;
static job jobs[REQUESTS];

/* What a request must give, computed alone and without an engine: greedy or tempered, with stop ids and min_tokens. */
static void compute_alone(const plp_request *g, answer *a)
{
    uint64_t hash = 1;
    float logits[VOCAB];
    for (size_t i = 0; i < g->count; i++) hash = mix(hash, (uint64_t)g->ids[i]);
    for (*a = (answer){ 0 };;) {
        fill_logits(hash, logits);
        const bool early = a->outs < g->min_tokens;
        int best = -1;
        double most = -INFINITY;
        for (int v = 0; v < USED; v++) {
            if (isnan(logits[v])) {
                a->failed = true;
                return;
            }
            double score = logits[v];
            if (g->sampling.temperature > 0)
                score = logits[v] * (float)(1 / g->sampling.temperature) + kn_gumbel(g->sampling.seed, (int64_t)g->count + a->outs, v);
            if (early && ((v == STOP && !g->ignore_eos) || (g->stop_id_count && v == g->stop_ids[0]))) continue;
            if (score > most) most = score, best = v;
        }
        a->out[a->outs++] = best;
        hash = mix(hash, (uint64_t)best);
        const bool stops = (best == STOP && !g->ignore_eos) || (g->stop_id_count && best == g->stop_ids[0]);
        a->finished = (stops && a->outs >= g->min_tokens) || a->outs == g->max_tokens;
        a->finish = stops && a->outs >= g->min_tokens ? PLP_FINISH_STOP : PLP_FINISH_LENGTH;
        if (a->finished) return;
    }
}

static void make_jobs(void)
{
    static const int stop_ids[] = { 60 };
    srand(42);
    for (int i = 0; i < REQUESTS; i++) {
        job *j = &jobs[i];
        j->given = plp_request_defaults();
        j->given.count = (size_t)(1 + rand() % (i % 3 == 0 ? 3 : MOST_PROMPT - 1));
        for (size_t k = 0; k < j->given.count; k++) j->want.prompt[k] = rand() % USED;
        memcpy(j->got.prompt, j->want.prompt, sizeof j->want.prompt);
        j->given.ids = j->got.prompt;
        j->given.sampling.temperature = i % 2 ? 0 : 0.8;
        j->given.sampling.seed = (uint64_t)(i / 10);
        j->given.max_tokens = 1 + rand() % MOST_OUT;
        j->given.min_tokens = i % 5 == 0 ? j->given.max_tokens / 2 : 0;
        j->given.ignore_eos = i % 7 == 0;
        j->given.stop_ids = stop_ids, j->given.stop_id_count = i % 4 == 0;
        compute_alone(&j->given, &j->want);
    }
}

static job *job_of(uint64_t id)
{
    for (int i = 0; i < REQUESTS; i++)
        if (jobs[i].id == id) return &jobs[i];
    fail_msg("an event of request %llu, which was never submitted", (unsigned long long)id);
    return NULL;
}

static void note_event(const plp_event *e)
{
    answer *a = &job_of(e->request)->got;
    assert_false(a->finished || a->failed); /* nothing comes behind the end */
    switch (e->kind) {
    case PLP_EVENT_TOKEN:
        assert_true(a->outs < MOST_OUT);
        a->out[a->outs++] = e->token;
        break;
    case PLP_EVENT_FINISHED: a->finished = true, a->finish = e->finish; break;
    case PLP_EVENT_ERROR:
        a->failed = true;
        assert_int_equal(e->status, PLP_ERR_DATA);
        assert_non_null(strstr(e->message, "not finite; step "));
        break;
    }
}

/* Requests join at any step; every one must give what it gives alone. */
static void run_jobs(int seqs, int tokens, int chunk)
{
    static model m;
    plp_engine *e;
    plp_event event;
    int left = 0, submitted = 0;
    make_model(&m, seqs, tokens, chunk);
    assert_int_equal(engine_create(&e, &m, NULL), PLP_OK);
    for (int i = 0; i < REQUESTS; i++) jobs[i].got.outs = 0, jobs[i].got.failed = jobs[i].got.finished = false, jobs[i].id = 0;
    srand((unsigned)(seqs * 1000 + tokens));
    while (submitted < REQUESTS || left > 0) {
        for (int n = rand() % 4; n > 0 && submitted < REQUESTS; n--, submitted++)
            assert_int_equal(plp_engine_submit(e, &jobs[submitted].given, &jobs[submitted].id), PLP_OK);
        assert_int_equal(plp_engine_step(e, &left), PLP_OK);
        while (plp_engine_next_event(e, &event)) note_event(&event);
    }
    const int steps = m.steps;
    assert_int_equal(plp_engine_step(e, &left), PLP_OK); /* nothing to do, nothing done */
    assert_int_equal(m.steps, steps);
    engine_destroy(&e);
    kn_cpu()->destroy(&m.context);
    for (int i = 0; i < REQUESTS; i++) {
        const answer *want = &jobs[i].want, *got = &jobs[i].got;
        if (want->outs != got->outs || memcmp(want->out, got->out, (size_t)want->outs * sizeof *want->out) != 0 ||
            want->failed != got->failed || want->finished != got->finished || (want->finished && want->finish != got->finish))
            fail_msg("%d seqs, %d tokens: request %d gave %d tokens, alone %d", seqs, tokens, i, got->outs, want->outs);
    }
}

static void requests_do_not_depend_on_each_other(void **state)
{
    (void)state;
    int failed = 0, stopped = 0;
    make_jobs();
    for (int i = 0; i < REQUESTS; i++)
        failed += jobs[i].want.failed, stopped += jobs[i].want.finish == PLP_FINISH_STOP && jobs[i].want.finished;
    assert_true(failed > 3 && failed < REQUESTS / 2 && stopped > 10); /* all ends are walked */
    run_jobs(1, 512, 64);
    run_jobs(7, 16, 8);
    run_jobs(4, 64, 64);
    run_jobs(16, 16, 64);
    run_jobs(16, 512, 64);
}

static void cancelled_requests_leave_at_once(void **state)
{
    (void)state;
    static model m;
    plp_engine *e;
    plp_event event;
    uint64_t id[5];
    int left, cancelled = 0, ids[] = { 1, 2, 3 };
    make_model(&m, 2, 64, 8);
    assert_int_equal(engine_create(&e, &m, NULL), PLP_OK);
    plp_request r = plp_request_defaults();
    r.ids = ids, r.count = 3, r.max_tokens = 1000000, r.ignore_eos = 1;
    for (int i = 0; i < 5; i++) assert_int_equal(plp_engine_submit(e, &r, &id[i]), PLP_OK);
    assert_int_equal(plp_engine_step(e, &left), PLP_OK);
    assert_int_equal(left, 5);
    plp_engine_cancel(e, id[0]); /* runs */
    plp_engine_cancel(e, id[3]); /* waits */
    plp_engine_cancel(e, id[4]); /* waits, the last */
    plp_engine_cancel(e, 12345);
    assert_int_equal(plp_engine_step(e, &left), PLP_OK);
    assert_int_equal(left, 2);
    while (plp_engine_next_event(e, &event))
        if (event.kind == PLP_EVENT_FINISHED) {
            assert_int_equal(event.finish, PLP_FINISH_CANCELLED);
            assert_true(event.request == id[0] || event.request == id[3] || event.request == id[4]);
            cancelled++;
        }
    assert_int_equal(cancelled, 3);
    assert_int_equal(plp_engine_submit(e, &r, &id[0]), PLP_OK); /* the queue's end is where it was */
    assert_int_equal(plp_engine_step(e, &left), PLP_OK);
    assert_int_equal(left, 3);
    engine_destroy(&e); /* with requests under way */
    kn_cpu()->destroy(&m.context);
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    static model m;
    plp_engine *e;
    uint64_t id;
    int ids[] = { 1, USED - 1 };
    make_model(&m, 2, 64, 8);
    assert_int_equal(engine_create(&e, &m, NULL), PLP_OK);
    plp_request good = plp_request_defaults();
    good.ids = ids, good.count = 2;
    assert_int_equal(plp_engine_submit(e, &good, &id), PLP_OK);
#define REFUSED(status, change)                                                                                                            \
    do {                                                                                                                                   \
        plp_request r = good;                                                                                                              \
        change;                                                                                                                            \
        assert_int_equal(plp_engine_submit(e, &r, &id), status);                                                                           \
    } while (0)
    REFUSED(PLP_ERR_DATA, r.count = 0);
    ids[1] = USED; /* a padding id */
    REFUSED(PLP_ERR_DATA, (void)r);
    ids[1] = -1;
    REFUSED(PLP_ERR_DATA, (void)r);
    ids[1] = 3;
    REFUSED(PLP_ERR_USAGE, r.max_tokens = 0);
    REFUSED(PLP_ERR_USAGE, r.min_tokens = 17);
    REFUSED(PLP_ERR_USAGE, r.logprobs = 21);
    REFUSED(PLP_ERR_USAGE, r.sampling.temperature = NAN);
    REFUSED(PLP_ERR_USAGE, r.sampling.top_p = 1.5);
    REFUSED(PLP_ERR_USAGE, r.sampling.repetition = 0);
    REFUSED(PLP_ERR_USAGE, (r.stops = (const char *const[]){ "x" }, r.stop_count = 1)); /* no tokenizer */
#undef REFUSED
    engine_destroy(&e);
    kn_cpu()->destroy(&m.context);
}

/* ---------------------------------------------------------------------------------------------------------------- the schedule */
static void slices_end_on_chunks(void **state)
{
    (void)state;
    enum { SEQS = 40, BUDGET = 300, CHUNK = 64 };
    static schedule_seq s[SEQS];
    static schedule_slice slice[SEQS];
    int decodes;
    srand(1);
    for (int i = 0; i < SEQS; i++) s[i] = (schedule_seq){ 1 + rand() % 1000, 0 };
    for (int step = 0;; step++) {
        const int n = schedule_step(s, SEQS, BUDGET, CHUNK, slice, &decodes);
        int rows = 0, unfinished = 0;
        for (int i = 0; i < n; i++) {
            schedule_seq *q = &s[slice[i].seq];
            rows += slice[i].rows;
            q->past += slice[i].rows;
            assert_true(slice[i].out == (q->past >= q->prompt));
            if (i >= decodes) assert_true(q->past == q->prompt || q->past % CHUNK == 0);
            if (i > decodes) assert_true(slice[i].seq > slice[i - 1].seq); /* in the order in which they came */
        }
        assert_true(rows <= BUDGET);
        for (int i = 0; i < SEQS; i++) unfinished += s[i].past < s[i].prompt;
        if (unfinished == 0) break;
        assert_true(n > decodes && step < SEQS * 1000 / CHUNK); /* some prompt moves on in every step */
    }
}

static void a_small_budget_still_moves_on(void **state)
{
    (void)state;
    schedule_seq s[] = { { 4, 9 }, { 100, 0 }, { 3, 0 } };
    schedule_slice slice[3];
    int decodes;
    assert_int_equal(schedule_step(s, 3, 8, 64, slice, &decodes), 2);
    assert_int_equal(decodes, 1);
    assert_int_equal(slice[0].seq, 0);
    assert_int_equal(slice[1].seq, 1);
    assert_int_equal(slice[1].rows, 7); /* less than a chunk, since there is no more */
    assert_false(slice[1].out);
    s[1].past = 99;
    assert_int_equal(schedule_step(s, 3, 8, 64, slice, &decodes), 3);
    assert_true(slice[1].rows == 1 && slice[1].out);
    assert_true(slice[2].rows == 3 && slice[2].out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_do_not_depend_on_each_other),
        cmocka_unit_test(cancelled_requests_leave_at_once),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(slices_end_on_chunks),
        cmocka_unit_test(a_small_budget_still_moves_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
