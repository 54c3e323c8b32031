/* The engine over a model that is not there: a slot's state is a hash of the tokens it saw, and the logits are drawn from the hash.  A
 * row that is lost, repeated, or computed in another sequence's slot changes every token behind it.  Three ranks are played by one. */
#include "engine/engine.h"
#include "engine/schedule.h"
#include "engine/state_file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS = 3, STOP = 5, POISON = 13, MOST_SLOTS = 40, MOST_ROWS = 512, FLIGHTS = 3 };
#ifdef PLP_FUZZ
enum { VOCAB = 24, USED = 20 }; /* fuzz_scheduler.c includes this file, and wants many runs */
#else
enum { VOCAB = 211, USED = 200 };
#endif

/* ---------------------------------------------------------------------------------- the fake model, in place of src/model and src/tp */
typedef struct {
    uint64_t hash;
    int64_t past;
} fake_state;
struct model {
    model_config config;
    model_options options;
    fake_state slot[MOST_SLOTS];
    float logits[MOST_SLOTS][VOCAB];
    int outs, steps, most_rows;
    int begun, ended; /* draws */
    int unknown;      /* rows whose token the host had not read */
    kn_choice choice[FLIGHTS][MOST_SLOTS];
    kn_candidates candidates[FLIGHTS][RANKS * MOST_SLOTS];
    kn_context *context;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static bool sound; /* no state gives logits that are not finite: those drop what is kept of their prompt */
static void fill_logits(uint64_t hash, float *logits)
{
    for (int v = 0; v < VOCAB; v++) logits[v] = v < USED ? (float)(mix(hash, (uint64_t)v) >> 40) / (float)(1 << 21) : -INFINITY;
    if (!sound && hash % 200 == POISON) logits[USED - 1] = NAN; /* one state in two hundred is broken */
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
plp_status tp_gather_all(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    (void)g;
    for (int rank = 0; rank < RANKS; rank++) memcpy((char *)all + (size_t)rank * bytes, mine, bytes);
    return PLP_OK;
}

/* State files are another test's, cli.state.  Here one is the tokens 0, 1, 2, of which the first two are in the state. */
static int states_read;
static const float *state_written;
plp_status state_file_read(state_file *f, model *m, const char *digest, const char *path, bool trust)
{
    (void)m, (void)digest, (void)path, (void)trust;
    *f = (state_file){ .count = 3, .past = 2, .tokens = calloc(3, sizeof *f->tokens), .state = calloc(1, sizeof *f->state) };
    assert_true(f->tokens != NULL && f->state != NULL);
    for (int i = 0; i < 3; i++) f->tokens[i] = i;
    states_read++;
    return PLP_OK;
}
plp_status state_file_write(model *m, const char *digest, int slot, const int *tokens, int64_t count, int64_t past, int64_t prompt,
                            const char *path)
{
    (void)m, (void)digest, (void)slot, (void)tokens, (void)count, (void)past, (void)prompt, (void)path;
    return PLP_ERR_CREATE;
}
void state_file_free(state_file *f)
{
    free(f->tokens);
    free(f->state);
}
plp_status model_slot_write(model *m, int slot, const float *values)
{
    m->slot[slot] = (fake_state){ .hash = mix(mix(1, 0), 1), .past = 2 };
    assert_true(state_written == NULL || values == state_written); /* everyone's is the same memory */
    state_written = values;
    return PLP_OK;
}

plp_status model_slot_poison(model *m, int slot)
{
    m->slot[slot] = (fake_state){ .hash = ~(uint64_t)0, .past = -1 };
    return PLP_OK;
}
plp_status model_slot_scrub(model *m, int slot) { return model_slot_poison(m, slot); }
plp_status model_find_not_finite(model *m, int slot, char *where, size_t size)
{
    (void)m, (void)slot;
    snprintf(where, size, "the logits");
    return PLP_OK;
}

static void take(bool *taken, int slot)
{
    assert_false(taken[slot]);
    taken[slot] = true;
}

/* All ranks' candidates, and what is chosen from them. */
static void draw_tokens(model *m, const model_draw *d)
{
    static kn_item sorted[MOST_SLOTS * RANKS * KN_CANDIDATES];
    static int next[MOST_SLOTS * RANKS];
    kn_candidates *all = m->candidates[m->begun % FLIGHTS];
    for (int rank = 0; rank < RANKS; rank++) {
        const int first = rank * USED / RANKS, end = (rank + 1) * USED / RANKS;
        const kn_candidates_args a = { .rows = m->outs,
                                       .first = first,
                                       .valid = end - first,
                                       .logits = m->logits[0] + first,
                                       .ld = VOCAB,
                                       .row = d->row,
                                       .penalty_id = d->penalty_id,
                                       .penalty_hits = d->penalty_hits,
                                       .out = all + rank * m->outs };
        assert_int_equal(kn_cpu()->candidates(m->context, &a), PLP_OK);
    }
    const kn_choose_args a = {
        .rows = m->outs, .ranks = RANKS, .all = all, .row = d->row, .sorted = sorted, .next = next, .out = m->choice[m->begun % FLIGHTS]
    };
    assert_int_equal(kn_cpu()->choose(m->context, &a), PLP_OK);
    if (!d->candidates) memset(all, 0xff, (size_t)(RANKS * m->outs) * sizeof *all); /* they are not there */
    m->begun++;
    assert_true(m->begun - m->ended <= 2);
}

bool model_draws_on_device(const model *m)
{
    (void)m;
    return false;
}

plp_status model_draw_end(model *m, const kn_choice **choice, const kn_candidates **candidates)
{
    assert_true(m->ended < m->begun);
    *choice = m->choice[m->ended % FLIGHTS], *candidates = m->candidates[m->ended % FLIGHTS];
    m->ended++;
    return PLP_OK;
}

void model_draw_forget(model *m) { m->ended = m->begun; }

/* What was drawn is not what the host tells: it may not have read it. */
static int id_of(const model *m, int id) { return id >= 0 ? id : m->choice[(m->begun + FLIGHTS - 1) % FLIGHTS][~id].token; }

plp_status model_forward(model *m, const model_step *s)
{
    bool taken[MOST_SLOTS] = { false };
    assert_in_range(s->tokens, 1, m->options.max_tokens);
    assert_in_range(s->seqs, 1, m->options.max_seqs);
    assert_int_equal(s->start[0], 0);
    assert_int_equal(s->start[s->seqs], s->tokens);
    m->outs = 0;
    for (int i = 0; i < s->seqs; i++) {
        const int from = s->src_slot[i], slot = s->dst_slot[i], rows = s->start[i + 1] - s->start[i];
        assert_in_range(from, 0, m->options.slots - 1);
        assert_in_range(slot, 0, m->options.max_seqs - 1);
        assert_true(from == slot || from >= m->options.max_seqs);
        take(taken, slot);
        assert_true(rows > 0 && (i >= s->decodes || rows == 1));
        assert_true(i >= s->decodes || s->past[i] > 0);
        fake_state now = { .hash = 1 }; /* whatever the last owner left */
        if (s->past[i] > 0)
            now = m->slot[from]; /* what a snapshot of this step overwrites would be seen here only by sequences behind it */
        assert_int_equal(now.past, s->past[i]);
        int snap = s->block > 0 ? s->snap_start[i] : 0;
        for (int row = s->start[i]; row < s->start[i + 1]; row++) {
            assert_true(s->ids[row] >= 0 || (i < s->decodes && m->begun > 0));
            now.hash = mix(now.hash, (uint64_t)id_of(m, s->ids[row]));
            m->unknown += s->ids[row] < 0;
            now.past++;
            while (m->outs < s->outs && s->out_row[m->outs] == row) fill_logits(now.hash, m->logits[m->outs++]);
            if (i < s->decodes || s->block == 0 || now.past % s->block != 0) continue;
            const int to = s->snap_slot[snap++];
            if (to < 0) continue;
            assert_in_range(to, m->options.max_seqs, m->options.slots - 1);
            take(taken, to);
            m->slot[to] = now;
        }
        if (s->block > 0) assert_int_equal(snap, s->snap_start[i + 1]);
        m->slot[slot] = now;
    }
    for (int i = 0; i < s->seqs; i++) assert_true(s->past[i] == 0 || s->src_slot[i] == s->dst_slot[i] || !taken[s->src_slot[i]]);
    assert_int_equal(m->outs, s->outs);
    m->steps++;
    if (s->tokens > m->most_rows) m->most_rows = s->tokens;
    if (s->draw && s->outs > 0) draw_tokens(m, s->draw);
    return PLP_OK;
}

plp_status model_slot_copy(model *m, int from, int to)
{
    assert_true(from != to);
    m->slot[to] = m->slot[from];
    return PLP_OK;
}

/* Probabilities of prompts are another test's: mpi.test_engine. */
plp_status model_logits_of(model *m, const int *row, int rows)
{
    (void)m, (void)row, (void)rows;
    return PLP_ERR_INTERNAL;
}
plp_status model_candidates(model *m, int rows, const kn_sample_row *row, const int *penalty_id, const int *penalty_hits, int penalties,
                            kn_candidates *all)
{
    (void)m, (void)rows, (void)row, (void)penalty_id, (void)penalty_hits, (void)penalties, (void)all;
    return PLP_ERR_INTERNAL;
}

plp_status model_gather_logits(model *m, int row, float *logits)
{
    assert_int_equal(m->begun, m->ended); /* the row is of the step that is read */
    assert_in_range(row, 0, m->outs - 1);
    memcpy(logits, m->logits[row], sizeof m->logits[row]);
    return PLP_OK;
}

static void make_model(model *m, int seqs, int slots, int tokens, int chunk)
{
    memset(m, 0x7f, sizeof *m); /* slots are dirty */
    m->config = (model_config){ .chunk = chunk, .vocab = VOCAB, .vocab_used = USED, .stop = { STOP }, .stops = 1, .bos = 0 };
    m->options = (model_options){ .backend = kn_cpu(), .max_tokens = tokens, .max_seqs = seqs, .max_outs = seqs, .slots = slots };
    m->steps = m->most_rows = m->begun = m->ended = m->unknown = 0;
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
        const size_t like = (size_t)(rand() % MOST_PROMPT); /* many begin alike, for a while */
        for (size_t k = 0; k < like && k < j->given.count; k++) j->want.prompt[k] = (int)(k * (1 + (size_t)i % 3)) % USED;
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
    case PLP_EVENT_PROMPT: fail_msg("nobody asked for probabilities of prompts"); break;
    case PLP_EVENT_FINISHED: a->finished = true, a->finish = e->finish; break;
    case PLP_EVENT_ERROR:
        a->failed = true;
        assert_int_equal(e->status, PLP_ERR_DATA);
        assert_non_null(strstr(e->message, "non-finite at the logits; step "));
        break;
    }
}

static int64_t prompt_tokens(void)
{
    int64_t n = 0;
    for (int i = 0; i < REQUESTS; i++) n += (int64_t)jobs[i].given.count;
    return n;
}

static const engine_options plain;

/* Requests join at any step; every one must give what it gives alone. */
static plp_engine_stats run_jobs(int seqs, int tokens, int chunk, const engine_options *options, int states)
{
    plp_engine_stats stats;
    static model m;
    plp_engine *e;
    plp_event event;
    int left = 0, submitted = 0;
    make_model(&m, seqs, seqs + states, tokens, chunk);
    assert_int_equal(engine_create(&e, &m, NULL, options), PLP_OK);
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
    assert_int_equal(m.begun, m.ended);
    assert_true(options->ahead == PLP_AHEAD_ON ? m.unknown > m.steps / 8 : m.unknown == 0);
    plp_engine_statistics(e, &stats);
    engine_destroy(&e);
    kn_cpu()->destroy(&m.context);
    for (int i = 0; i < REQUESTS; i++) {
        const answer *want = &jobs[i].want, *got = &jobs[i].got;
        if (want->outs != got->outs || memcmp(want->out, got->out, (size_t)want->outs * sizeof *want->out) != 0 ||
            want->failed != got->failed || want->finished != got->finished || (want->finished && want->finish != got->finish))
            fail_msg("%d seqs, %d tokens: request %d gave %d tokens, alone %d", seqs, tokens, i, got->outs, want->outs);
    }
    return stats;
}

static void requests_do_not_depend_on_each_other(void **state)
{
    (void)state;
    int failed = 0, stopped = 0;
    make_jobs();
    for (int i = 0; i < REQUESTS; i++)
        failed += jobs[i].want.failed, stopped += jobs[i].want.finish == PLP_FINISH_STOP && jobs[i].want.finished;
    assert_true(failed > 3 && failed < REQUESTS / 2 && stopped > 10); /* all ends are walked */
    const plp_engine_stats alone = run_jobs(1, 512, 64, &plain, 0);
    assert_int_equal(alone.prefill_tokens, prompt_tokens());
    assert_int_equal(alone.cached_tokens, 0);
    run_jobs(7, 16, 8, &plain, 0);
    run_jobs(4, 64, 64, &plain, 0);
    run_jobs(16, 16, 64, &plain, 0);
    run_jobs(16, 512, 64, &plain, 0);
    run_jobs(16, 512, 64, &(engine_options){ .max_slice = 16 }, 0);
}

/* Tokens that the host reads a step late: the same tokens, the same ends. */
static void looking_ahead_changes_nothing(void **state)
{
    (void)state;
    static const plp_cache modes[] = { PLP_CACHE_NONE, PLP_CACHE_ALIGN, PLP_CACHE_ALL };
    make_jobs();
    for (int i = 0; i < 3; i++) {
        const engine_options ahead = { .ahead = PLP_AHEAD_ON, .cache = modes[i] };
        const int states = i > 0 ? 12 : 0;
        const plp_engine_stats a = run_jobs(1, 512, 64, &ahead, states), b = run_jobs(7, 16, 8, &ahead, states);
        const plp_engine_stats c = run_jobs(16, 64, 8, &ahead, states);
        assert_int_equal(a.prefill_tokens + a.cached_tokens, prompt_tokens());
        assert_int_equal(b.prefill_tokens + b.cached_tokens, prompt_tokens());
        assert_int_equal(c.prefill_tokens + c.cached_tokens, prompt_tokens());
    }
}

/* A request that is cancelled while a step has a row of it: no token comes behind its end, and the others lose none. */
static void cancelled_ahead(void **state)
{
    (void)state;
    static model m;
    plp_engine *e;
    plp_event event;
    uint64_t id[2], later;
    int left = 1, cancelled = 0, tokens = 0, ends = 0, ids[] = { 1, 2, 3 };
    sound = true;
    make_model(&m, 2, 2, 64, 8);
    assert_int_equal(engine_create(&e, &m, NULL, &(engine_options){ .ahead = PLP_AHEAD_ON }), PLP_OK);
    plp_request r = plp_request_defaults();
    r.ids = ids, r.count = 3, r.max_tokens = 20, r.ignore_eos = 1;
    for (int i = 0; i < 2; i++) assert_int_equal(plp_engine_submit(e, &r, &id[i]), PLP_OK);
    for (int step = 0; left > 0; step++) {
        if (step == 5) plp_engine_cancel(e, id[0]);
        if (step == 5) assert_int_equal(plp_engine_submit(e, &r, &later), PLP_OK); /* takes the slot */
        assert_int_equal(plp_engine_step(e, &left), PLP_OK);
        while (plp_engine_next_event(e, &event)) {
            assert_true(event.request != id[0] || cancelled == 0);
            if (event.kind == PLP_EVENT_TOKEN)
                tokens += event.request != id[0];
            else if (event.finish == PLP_FINISH_CANCELLED)
                cancelled++;
            else
                ends++;
        }
    }
    assert_true(cancelled == 1 && ends == 2 && tokens == 40 && m.begun == m.ended && m.unknown > 10);
    engine_destroy(&e);
    kn_cpu()->destroy(&m.context);
    sound = false;
}

static void states_that_are_kept_change_nothing(void **state)
{
    (void)state;
    static const plp_cache modes[] = { PLP_CACHE_ALIGN, PLP_CACHE_ALL };
    make_jobs();
    for (int i = 0; i < 2; i++)
        for (int states = 1; states <= 24; states += 23) /* with one of them nearly everything is evicted at once */
            for (int slice = 0; slice <= 16; slice += 16) {
                const engine_options fine = { .cache = modes[i], .max_slice = slice }, coarse = { .cache = modes[i], .block = 24 };
                const plp_engine_stats a = run_jobs(8, 64, 8, &fine, states), b = run_jobs(16, 512, 8, &coarse, states);
                const plp_engine_stats c = run_jobs(1, 16, 8, &fine, states);
                assert_int_equal(a.prefill_tokens + a.cached_tokens, prompt_tokens());
                assert_int_equal(b.prefill_tokens + b.cached_tokens, prompt_tokens());
                assert_int_equal(c.prefill_tokens + c.cached_tokens, prompt_tokens());
                assert_true(states == 1 || a.cached_tokens > prompt_tokens() / 5);
                assert_true(a.cached_tokens > 0 && a.cache_evictions > 0 && a.cache_held <= states && a.cache_states == states);
            }
}

/* A hundred prompts that begin alike, all at once: the beginning is computed once. */
static void a_common_beginning_is_computed_once(void **state)
{
    (void)state;
    enum { PROMPTS = 100, COMMON = 2000, OWN = 20 };
    static int ids[COMMON + OWN];
    static const plp_cache modes[] = { PLP_CACHE_ALIGN, PLP_CACHE_ALL };
    static model m;
    sound = true;
    for (int i = 0; i < COMMON; i++) ids[i] = i * 7 % USED;
    for (int mode = 0; mode < 2; mode++) {
        plp_engine *e;
        plp_engine_stats stats;
        int left;
        make_model(&m, 8, 40, 512, 64);
        assert_int_equal(engine_create(&e, &m, NULL, &(engine_options){ .cache = modes[mode] }), PLP_OK);
        for (int i = 0; i < PROMPTS; i++) {
            uint64_t id;
            plp_request r = plp_request_defaults();
            r.ids = ids, r.count = COMMON + OWN, r.max_tokens = 2;
            for (int k = 0; k < OWN; k++) ids[COMMON + k] = (i * 31 + k) % USED;
            assert_int_equal(plp_engine_submit(e, &r, &id), PLP_OK);
        }
        do assert_int_equal(plp_engine_step(e, &left), PLP_OK);
        while (left > 0);
        plp_engine_statistics(e, &stats);
        engine_destroy(&e);
        kn_cpu()->destroy(&m.context);
        assert_int_equal(stats.prefill_tokens, COMMON + OWN + (PROMPTS - 1) * (COMMON % 64 + OWN));
        assert_int_equal(stats.prefill_tokens + stats.cached_tokens, PROMPTS * (COMMON + OWN));
    }
    sound = false;
}

/* Several answers to one prompt are what as many requests give, and the prompt is computed once where there are slots for them, else once
 * for those that find one at a time.  The first of them may be gone before it is. */
static void answers_share_a_prompt(void **state)
{
    (void)state;
    enum { ANSWERS = 9, LONG = 300 };
    static int ids[LONG];
    static const uint64_t seeds[ANSWERS] = { 3, 1, 4, 1, 5, 9, 2, 6, 5 };
    static model m;
    sound = true;
    for (int i = 0; i < LONG; i++) ids[i] = i * 11 % USED;
    plp_request r = plp_request_defaults();
    r.ids = ids, r.count = LONG, r.max_tokens = 30, r.ignore_eos = 1, r.answers = ANSWERS, r.seeds = seeds;
    for (int round = 0; round < 12; round++) {
        const int seqs = round % 3 == 0 ? 16 : round % 3 == 1 ? 4 : 1;
        const bool cancels = round >= 6;
        answer want[ANSWERS], got[ANSWERS];
        plp_engine_stats stats;
        plp_engine *e;
        plp_event event;
        uint64_t first, other;
        int left;
        memset(got, 0, sizeof got);
        make_model(&m, seqs, seqs, 64, 8);
        assert_int_equal(engine_create(&e, &m, NULL, &(engine_options){ .ahead = round / 3 % 2 ? PLP_AHEAD_ON : PLP_AHEAD_OFF }), PLP_OK);
        plp_request before = r;
        before.count = 3, before.answers = 0, before.seeds = NULL;
        assert_int_equal(plp_engine_submit(e, &before, &other), PLP_OK);
        assert_int_equal(plp_engine_submit(e, &r, &first), PLP_OK);
        for (int i = 0; i < ANSWERS; i++) {
            plp_request one = r;
            one.sampling.seed = seeds[i];
            compute_alone(&one, &want[i]);
        }
        int step = 0;
        do {
            if (cancels && step++ == 2) plp_engine_cancel(e, first); /* some of the prompt is computed */
            assert_int_equal(plp_engine_step(e, &left), PLP_OK);
            while (plp_engine_next_event(e, &event)) {
                if (event.request == other) continue;
                assert_in_range(event.request, first, first + ANSWERS - 1);
                answer *a = &got[event.request - first];
                if (event.kind == PLP_EVENT_TOKEN)
                    a->out[a->outs++] = event.token;
                else
                    a->finished = true, a->finish = event.finish;
            }
        } while (left > 0);
        plp_engine_statistics(e, &stats);
        engine_destroy(&e);
        kn_cpu()->destroy(&m.context);
        for (int i = 0; i < ANSWERS; i++) {
            assert_true(got[i].finished);
            if (cancels && i == 0) continue;
            assert_int_equal(got[i].outs, want[i].outs);
            assert_memory_equal(got[i].out, want[i].out, (size_t)want[i].outs * sizeof *want[i].out);
        }
        if (cancels) continue;
        assert_int_equal(stats.prefill_tokens + stats.cached_tokens, 3 + ANSWERS * LONG);
        if (seqs == 16) assert_int_equal(stats.prefill_tokens, 3 + LONG);
        if (seqs == 4) assert_true(stats.prefill_tokens <= 3 + 4 * LONG);
    }
    sound = false;
}

/* Answers that begin from a state file: it is read once, whether or not they find slots at the same time, and one may be gone before. */
static void answers_share_a_state(void **state)
{
    (void)state;
    enum { ANSWERS = 9 };
    static const int ids[] = { 0, 1, 2, 33, 44 }; /* the last two behind the file's */
    static const uint64_t seeds[ANSWERS] = { 3, 1, 4, 1, 5, 9, 2, 6, 5 };
    static model m;
    sound = true;
    for (int seqs = 1; seqs <= 16; seqs *= 4) {
        answer want[ANSWERS], got[ANSWERS];
        plp_request r = plp_request_defaults(), one;
        plp_engine *e;
        plp_event event;
        uint64_t first;
        int left;
        memset(got, 0, sizeof got);
        make_model(&m, seqs, seqs, 64, 8);
        r.max_tokens = 30, r.ignore_eos = 1, one = r;
        one.ids = ids, one.count = 5;
        r.ids = ids + 3, r.count = 2, r.state = "a file", r.answers = ANSWERS, r.seeds = seeds;
        states_read = 0, state_written = NULL;
        assert_int_equal(engine_create(&e, &m, NULL, &plain), PLP_OK);
        assert_int_equal(plp_engine_submit(e, &r, &first), PLP_OK);
        assert_int_equal(states_read, 1);
        plp_engine_cancel(e, first + 4);
        do {
            assert_int_equal(plp_engine_step(e, &left), PLP_OK);
            while (plp_engine_next_event(e, &event)) {
                answer *a = &got[event.request - first];
                if (event.kind == PLP_EVENT_TOKEN) a->out[a->outs++] = event.token;
            }
        } while (left > 0);
        engine_destroy(&e);
        kn_cpu()->destroy(&m.context);
        for (int i = 0; i < ANSWERS; i++) {
            one.sampling.seed = seeds[i];
            compute_alone(&one, &want[i]);
            assert_int_equal(got[i].outs, i == 4 ? 0 : want[i].outs);
            assert_memory_equal(got[i].out, want[i].out, (size_t)got[i].outs * sizeof *got[i].out);
        }
    }
    sound = false;
}

static void a_cache_that_cannot_be_is_refused(void **state)
{
    (void)state;
    static model m;
    plp_engine *e;
    make_model(&m, 2, 4, 64, 8);
    assert_int_equal(engine_create(&e, &m, NULL, &(engine_options){ .cache = PLP_CACHE_ALL, .block = 12 }), PLP_ERR_USAGE);
    assert_non_null(strstr(plp_last_error(), "--cache-block 12, the model's chunk is 8"));
    assert_null(e);
    m.options.slots = 2;
    assert_int_equal(engine_create(&e, &m, NULL, &(engine_options){ .cache = PLP_CACHE_ALIGN }), PLP_ERR_USAGE);
    kn_cpu()->destroy(&m.context);
}

static void cancelled_requests_leave_at_once(void **state)
{
    (void)state;
    static model m;
    plp_engine *e;
    plp_event event;
    uint64_t id[5];
    int left, cancelled = 0, ids[] = { 1, 2, 3 };
    make_model(&m, 2, 2, 64, 8);
    assert_int_equal(engine_create(&e, &m, NULL, &plain), PLP_OK);
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

/* Bytes are held back until it is known whether they are UTF-8: a request that is cancelled gives what it has of them. */
static void a_cancelled_text_is_whole(void **state)
{
    (void)state;
    static const char json[] =
        "{\"added_tokens\": [], \"normalizer\": null, \"pre_tokenizer\": null, \"post_processor\": null, \"decoder\": "
        "{\"type\": \"ByteFallback\"}, \"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"vocab\": {\"a\": 0, "
        "\"<0x41>\": 1}, \"merges\": []}}";
    static model m;
    plp_engine *e;
    plp_event event;
    text_tokenizer *t = NULL;
    uint64_t id;
    int left, cancelled = 0, ids[] = { 1 };
    sound = true;
    make_model(&m, 2, 2, 64, 8);
    assert_int_equal(text_tokenizer_create(&t, json, sizeof json - 1, "test"), PLP_OK);
    assert_int_equal(engine_create(&e, &m, t, &plain), PLP_OK);
    plp_request r = plp_request_defaults();
    r.ids = ids, r.count = 1, r.max_tokens = 1000, r.allowed = ids, r.allowed_count = 1;
    assert_int_equal(plp_engine_submit(e, &r, &id), PLP_OK);
    for (int step = 0; step < 4; step++) {
        if (step == 3) plp_engine_cancel(e, id);
        assert_int_equal(plp_engine_step(e, &left), PLP_OK);
        while (plp_engine_next_event(e, &event)) {
            assert_string_equal(event.text, step < 3 ? "" : "AAA");
            assert_int_equal(event.text_bytes, strlen(event.text));
            cancelled += event.kind == PLP_EVENT_FINISHED && event.finish == PLP_FINISH_CANCELLED;
        }
    }
    assert_int_equal(cancelled, 1);
    engine_destroy(&e);
    text_tokenizer_destroy(&t);
    kn_cpu()->destroy(&m.context);
    sound = false;
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    static model m;
    plp_engine *e;
    uint64_t id;
    int ids[] = { 1, USED - 1 };
    make_model(&m, 2, 2, 64, 8);
    assert_int_equal(engine_create(&e, &m, NULL, &plain), PLP_OK);
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
    int stops[USED - 1];
    for (int i = 0; i < USED - 1; i++) stops[i] = i;
    REFUSED(PLP_ERR_USAGE, (r.stop_ids = stops, r.stop_id_count = USED - 1)); /* with the model's own no id is left */
    assert_non_null(strstr(plp_last_error(), "and 1 of the model's, of a vocabulary of"));
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
    const schedule_rules rules = { .budget = BUDGET, .slice = BUDGET, .chunk = CHUNK, .grain = 16 };
    int decodes;
    srand(1);
    for (int i = 0; i < SEQS; i++) s[i] = (schedule_seq){ .prompt = 1 + rand() % 1000 };
    for (int step = 0;; step++) {
        const int n = schedule_step(&rules, s, SEQS, slice, &decodes);
        int rows = 0, unfinished = 0;
        for (int i = 0; i < n; i++) {
            schedule_seq *q = &s[slice[i].seq];
            rows += slice[i].rows;
            q->past += slice[i].rows;
            assert_true(slice[i].out == (q->past >= q->prompt));
            if (i >= decodes) assert_true(q->past == q->prompt || q->past % 16 == 0);
            if (i > decodes) assert_true(q->past == q->prompt || q->past % CHUNK == 0 || rows == BUDGET || rows > BUDGET - CHUNK);
            if (i > decodes) assert_true(slice[i].seq > slice[i - 1].seq); /* in the order in which they came */
        }
        assert_true(rows <= BUDGET);
        for (int i = 0; i < SEQS; i++) unfinished += s[i].past < s[i].prompt;
        if (unfinished == 0) break;
        assert_true(n > decodes && step < SEQS * 1000 / CHUNK); /* some prompt moves on in every step */
    }
}

static void a_slice_has_room_for_its_least(void **state)
{
    (void)state;
    assert_int_equal(schedule_least_slice(256, 16, false), 16);
    assert_int_equal(schedule_least_slice(8, 16, true), 8); /* a chunk's end will do */
    assert_int_equal(schedule_least_slice(256, 0, true), 256);
    assert_int_equal(schedule_least_slice(256, 0, false), 1);
}

static void a_small_budget_still_moves_on(void **state)
{
    (void)state;
    schedule_seq s[] = { { .prompt = 4, .past = 9 }, { .prompt = 100 }, { .prompt = 3 } };
    schedule_slice slice[3];
    schedule_rules rules = { .budget = 8, .slice = 8, .chunk = 64, .grain = 16 };
    int decodes;
    assert_int_equal(schedule_step(&rules, s, 3, slice, &decodes), 2);
    assert_int_equal(decodes, 1);
    assert_int_equal(slice[0].seq, 0);
    assert_int_equal(slice[1].seq, 1);
    assert_int_equal(slice[1].rows, 7); /* less than the grain, since there is no more */
    assert_false(slice[1].out);
    s[1].past = 99;
    assert_int_equal(schedule_step(&rules, s, 3, slice, &decodes), 3);
    assert_true(slice[1].rows == 1 && slice[1].out);
    assert_true(slice[2].rows == 3 && slice[2].out);
    rules.budget = rules.slice = 70;
    s[1].past = 0;
    schedule_step(&rules, s, 3, slice, &decodes);
    assert_true(slice[1].rows == 64 && slice[2].rows == 3);
    rules.slice = 40;
    schedule_step(&rules, s, 3, slice, &decodes);
    assert_true(slice[1].rows == 32 && slice[2].rows == 3);
}

static void slices_can_be_made_to_end_on_blocks(void **state)
{
    (void)state;
    schedule_seq s[] = { { .prompt = 700 } };
    schedule_slice slice[1];
    int decodes, ends[] = { 384, 640, 700 };
    schedule_rules rules = { .budget = 400, .slice = 400, .chunk = 64, .grain = 16, .block = 128 };
    for (int i = 0; i < 3; i++) {
        schedule_step(&rules, s, 1, slice, &decodes);
        assert_int_equal(s->past += slice->rows, ends[i]);
    }
    *s = (schedule_seq){ .prompt = 700, .cut = 256 };
    schedule_step(&rules, s, 1, slice, &decodes);
    assert_int_equal(slice->rows, 256);
    rules.slice = 100; /* less than a block: on a chunk */
    schedule_step(&rules, s, 1, slice, &decodes);
    assert_int_equal(slice->rows, 64);
    s->waits = true;
    assert_int_equal(schedule_step(&rules, s, 1, slice, &decodes), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_do_not_depend_on_each_other),
        cmocka_unit_test(looking_ahead_changes_nothing),
        cmocka_unit_test(cancelled_ahead),
        cmocka_unit_test(states_that_are_kept_change_nothing),
        cmocka_unit_test(a_common_beginning_is_computed_once),
        cmocka_unit_test(answers_share_a_prompt),
        cmocka_unit_test(answers_share_a_state),
        cmocka_unit_test(a_cache_that_cannot_be_is_refused),
        cmocka_unit_test(cancelled_requests_leave_at_once),
        cmocka_unit_test(a_cancelled_text_is_whole),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(slices_end_on_chunks),
        cmocka_unit_test(a_slice_has_room_for_its_least),
        cmocka_unit_test(a_small_budget_still_moves_on),
        cmocka_unit_test(slices_can_be_made_to_end_on_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
