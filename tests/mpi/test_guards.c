/* What is not finite in one sequence stays there: its request ends with a message that says where, all others give the same bits, nothing
 * of it is kept in the prefix cache or in its slot.  A kept state that has gone bad costs the requests that begin from it some time. */
#include "mpi_test.h"

#include "engine/engine.h"

#include "base/error.h"
#include "model/state.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 6, VICTIM = 2, OUT = 10, LONGEST = 200, KEPT = 8, LATE = 4 };

typedef struct {
    int token[OUT], tokens, finished, errors;
    double logprob[OUT];
    char message[300];
} answer;

static int prompt[REQUESTS][LONGEST];
static const int length[REQUESTS] = { 3, 130, 200, 64, 17, 150 }; /* the victim's has three chunks, of which two are kept */

/* Where to put which value, into the victim's numbers, in which step. */
typedef enum { NOWHERE, CONV, SSM, RESIDUAL, LOGITS, PLACES } place;
typedef struct {
    place place;
    float value;
    int64_t layer;
    int step;
} plant;

typedef struct {
    model *m;
    plant p;
    bool due;
    int rank; /* that plants */
} planter;

static plp_status put(model *m, const void *at, float value)
{
    const kn_backend *kn = model_options_of(m)->backend;
    const plp_status st = kn->to_device(model_context(m), (void *)at, &value, sizeof value);
    return st != PLP_OK ? st : kn->sync(model_context(m));
}

/* A probe that changes what it sees.  In a step that decodes all requests, the row of a request is its number. */
static plp_status change(void *arg, int64_t layer, const char *tensor, const void *data, plp_dtype dtype, int64_t rows, int64_t columns,
                         int64_t ld)
{
    const planter *p = arg;
    const int64_t last = model_config_of(p->m)->layers - 1; /* what is wrong behind it is in no state */
    const bool here = strcmp(tensor, "residual") == 0 && layer == (p->p.place == LOGITS ? last : p->p.layer);
    (void)columns;
    if (!p->due || !here || dtype != PLP_F32) return PLP_OK;
    CHECK(rows == REQUESTS);
    return put(p->m, (const float *)data + VICTIM * ld, p->p.value);
}

/* The conv windows of all layers come first in a state as it is read, each before its layer's SSM state. */
static void change_state(model *m, const plant *p, int slot)
{
    const model_config *c = model_config_of(m);
    const model_plan *plan = model_plan_of(m);
    const int64_t conv = (c->conv - 1) * plan->conv_channels, ssm = plan->channels.count * c->state;
    float *state = malloc((size_t)model_slot_floats(m) * sizeof *state);
    if (!CHECK(state != NULL && model_slot_read(m, slot, state) == PLP_OK)) return;
    state[p->layer * (conv + ssm) + (p->place == SSM ? conv : conv - plan->conv_channels)] = p->value; /* the newest row stays longest */
    CHECK(model_slot_write(m, slot, state) == PLP_OK);
    free(state);
}

static void note(const plp_event *event, uint64_t first, answer *answers)
{
    if (!CHECK(event->request - first < REQUESTS)) return;
    answer *a = &answers[event->request - first];
    if (event->kind == PLP_EVENT_TOKEN && CHECK(a->tokens < OUT)) {
        a->token[a->tokens] = event->token;
        a->logprob[a->tokens++] = event->logprob;
    }
    a->finished += event->kind == PLP_EVENT_FINISHED;
    if (event->kind != PLP_EVENT_ERROR) return;
    CHECK(event->status == PLP_ERR_DATA);
    a->errors++;
    strncpy(a->message, event->message, sizeof a->message - 1);
}

static uint64_t submit(plp_engine *e, int i)
{
    uint64_t id = 0;
    plp_request r = plp_request_defaults();
    r.ids = prompt[i], r.count = (size_t)length[i], r.max_tokens = OUT, r.ignore_eos = 1, r.logprobs = 0;
    r.sampling.temperature = i % 2 ? 0.9 : 0, r.sampling.seed = (uint64_t)i;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    return id;
}

/* Steps to the end; in step p->step the victim gets its value. */
static void run(plp_engine *e, planter *p, uint64_t first, answer *answers)
{
    plp_event event;
    int left = 1;
    for (int step = 0; left > 0; step++) {
        p->due = step == p->p.step && tp_rank(model_group(p->m)) == p->rank;
        if (p->due && (p->p.place == CONV || p->p.place == SSM)) change_state(p->m, &p->p, VICTIM); /* slots are given out in order */
        if (!CHECK(plp_engine_step(e, &left) == PLP_OK)) return;
        while (plp_engine_next_event(e, &event)) note(&event, first, answers);
    }
}

static bool same(const answer *a, const answer *b)
{
    return a->tokens == OUT && b->tokens == OUT && a->finished == 1 && b->finished == 1 && a->errors == 0 && b->errors == 0 &&
           memcmp(a->token, b->token, sizeof a->token) == 0 && memcmp(a->logprob, b->logprob, sizeof a->logprob) == 0;
}

static bool slot_is_clean(model *m, int slot)
{
    const size_t n = (size_t)model_slot_floats(m);
    float *state = malloc(n * sizeof *state);
    if (!CHECK(state != NULL && model_slot_read(m, slot, state) == PLP_OK)) return false;
    bool zero = true, poison = true; /* builds with fault hooks fill it with NaN instead */
    for (size_t i = 0; i < n; i++) zero &= state[i] == 0, poison &= isnan(state[i]) != 0;
    free(state);
    return zero || poison;
}

static void one_fails(model *m, const plant *where, int rank, const answer *want)
{
    answer got[REQUESTS] = { 0 };
    planter p = { .m = m, .p = *where, .rank = rank };
    plp_engine *e = NULL;
    plp_engine_stats before, after;
    int left;
    if (where->place >= RESIDUAL) model_set_probe(m, (layer_probe){ .see = change, .arg = &p });
    if (!CHECK(engine_create(&e, m, NULL, &(engine_options){ .cache = PLP_CACHE_ALIGN }) == PLP_OK)) return;
    const uint64_t first = submit(e, 0);
    for (int i = 1; i < REQUESTS; i++) submit(e, i);
    run(e, &p, first, got);
    model_set_probe(m, (layer_probe){ 0 });
    for (int i = 0; i < REQUESTS; i++) CHECK(i == VICTIM ? got[i].errors == 1 && got[i].finished == 0 : same(&got[i], &want[i]));
    CHECK(got[VICTIM].tokens < OUT);
    CHECK(memcmp(got[VICTIM].token, want[VICTIM].token, (size_t)got[VICTIM].tokens * sizeof(int)) == 0);

    char text[100];
    static const char *const parts[] = { [CONV] = " (conv window)", [SSM] = " (ssm state)", [RESIDUAL] = " (conv window)" };
    if (where->place == LOGITS)
        snprintf(text, sizeof text, "non-finite at the logits; step %d, ", where->step);
    else
        snprintf(text, sizeof text, "non-finite at layer %d%s; step %d, ", (int)where->layer + (where->place == RESIDUAL),
                 parts[where->place], where->step);
    if (!CHECK(strncmp(got[VICTIM].message, text, strlen(text)) == 0)) printf("%s, not %s\n", got[VICTIM].message, text);
    CHECK(strstr(got[VICTIM].message, " of request 3; fix: ") != NULL);
    CHECK(plp_engine_step(e, &left) == PLP_OK && slot_is_clean(m, VICTIM));

    /* Again, in a slot that others left: nothing was kept of it, and now it is as it should be. */
    answer again[REQUESTS] = { 0 };
    plp_engine_statistics(e, &before);
    const uint64_t id = submit(e, VICTIM);
    p.p.step = -1;
    run(e, &p, id - VICTIM, again);
    plp_engine_statistics(e, &after);
    CHECK(same(&again[VICTIM], &want[VICTIM]));
    CHECK(after.cached_tokens == before.cached_tokens);
    engine_destroy(&e);
}

/* All states that are kept go bad; a request that would begin from one gives what it always gave, and the states are replaced. */
static void kept_states_go_bad(model *m, const answer *want)
{
    answer got[REQUESTS] = { 0 };
    planter p = { .m = m, .p = { .step = -1 } };
    plp_engine *e = NULL;
    plp_engine_stats stats;
    if (!CHECK(engine_create(&e, m, NULL, &(engine_options){ .cache = PLP_CACHE_ALIGN }) == PLP_OK)) return;
    for (int i = 0; i < 3; i++) {
        memset(got, 0, sizeof got);
        const uint64_t id = submit(e, VICTIM);
        run(e, &p, id - VICTIM, got);
        CHECK(same(&got[VICTIM], &want[VICTIM]));
        plp_engine_statistics(e, &stats);
        CHECK(stats.cached_tokens == 0); /* of no use: each time the state was forgotten, and the prompt computed */
        for (int slot = REQUESTS; slot < REQUESTS + KEPT; slot++) CHECK(model_slot_poison(m, slot) == PLP_OK);
    }
    engine_destroy(&e);
}

/* No state is saved of a request that has failed, or that begins anew behind a kept state that has gone bad: of which the engine, which is a
 * step ahead, learns as it saves. */
static void bad_states_are_not_saved(model *m, const char *digest, const answer *want)
{
    static const char nowhere[] = "/nonexistent/state";
    answer got[REQUESTS] = { 0 };
    plp_engine *e = NULL;
    engine_options o = { .cache = PLP_CACHE_ALIGN, .ahead = PLP_AHEAD_ON };
    uint64_t id = 0;
    int left;
    snprintf(o.digest, sizeof o.digest, "%s", digest);
    if (!CHECK(engine_create(&e, m, NULL, &o) == PLP_OK)) return;
    CHECK(plp_engine_save_state(e, 1, nowhere) == PLP_ERR_USAGE && strstr(plp_last_error(), "request 1 does not run") != NULL);
    plp_request r = plp_request_defaults();
    r.ids = prompt[VICTIM], r.count = (size_t)length[VICTIM], r.max_tokens = OUT, r.ignore_eos = 1, r.sampling.temperature = 0;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    run(e, &(planter){ .m = m, .p = { .step = -1 } }, id - VICTIM, got);
    for (int slot = REQUESTS; slot < REQUESTS + KEPT; slot++) CHECK(model_slot_poison(m, slot) == PLP_OK);
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK && plp_engine_step(e, &left) == PLP_OK);
    CHECK(plp_engine_save_state(e, id, nowhere) == PLP_ERR_USAGE && strstr(plp_last_error(), "nothing of it is computed") != NULL);
    memset(got, 0, sizeof got);
    run(e, &(planter){ .m = m, .p = { .step = -1 } }, id - VICTIM, got);
    CHECK(got[VICTIM].tokens == OUT && memcmp(got[VICTIM].token, want[VICTIM].token, sizeof got[VICTIM].token) == 0);

    r.logprobs = PLP_ALL_LOGPROBS; /* read at once */
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK && plp_engine_step(e, &left) == PLP_OK && left == 1);
    CHECK(model_slot_poison(m, 0) == PLP_OK);
    CHECK(plp_engine_step(e, &left) == PLP_OK && left == 0);
    CHECK(plp_engine_save_state(e, id, nowhere) == PLP_ERR_USAGE && strstr(plp_last_error(), "has failed") != NULL);
    engine_destroy(&e);
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    const bool gpu = argc > 1 && strcmp(argv[1], "cuda") == 0;
    if (gpu && kn_cuda_devices() == 0) {
        mpi_test_end(g);
        return 77; /* skipped: no GPU here */
    }
    model_source *source = NULL;
    model *m = NULL;
    static answer want[REQUESTS];
    CHECK(model_source_open(&source, PLP_DEMO, NULL) == PLP_OK);
    const model_options o = { .backend = gpu ? kn_cuda() : kn_cpu(),
                              .threads = 1,
                              .comm = TP_COMM_MPI,
                              .f32 = true,
                              .deterministic = true,
                              .max_tokens = 700,
                              .max_seqs = REQUESTS,
                              .max_outs = REQUESTS,
                              .slots = REQUESTS + KEPT };
    if (CHECK(source != NULL && model_create(&m, source, g, &o) == PLP_OK)) {
        uint64_t dice = 1;
        for (int i = 0; i < REQUESTS; i++)
            for (int k = 0; k < LONGEST; k++) {
                dice = dice * 6364136223846793005u + 1442695040888963407u;
                prompt[i][k] = (int)((dice >> 33) % (uint64_t)model_config_of(m)->vocab_used);
            }
        plp_engine *e = NULL;
        planter nothing = { .m = m, .p = { .step = -1 } };
        m->begun = m->ended = INT_MAX; /* draws of a week */
        CHECK(engine_create(&e, m, NULL, &(engine_options){ .cache = PLP_CACHE_NONE }) == PLP_OK);
        const uint64_t first = submit(e, 0);
        for (int i = 1; i < REQUESTS; i++) submit(e, i);
        run(e, &nothing, first, want);
        engine_destroy(&e);
        const int64_t last = model_config_of(m)->layers - 1;
        const int rank = tp_size(g) - 1;
        for (place at = CONV; at < PLACES; at++)
            for (int infinite = 0; infinite < 2; infinite++)
                for (int late = 0; late < 2; late++)
                    one_fails(m,
                              &(plant){ .place = at,
                                        .value = infinite ? INFINITY : NAN,
                                        .layer = late ? last - (at == RESIDUAL) : 0,
                                        .step = late ? LATE + 1 : LATE },
                              late ? rank : 0, want);
        kept_states_go_bad(m, want);
        bad_states_are_not_saved(m, model_source_digest(source), want);
    }
    model_destroy(&m);
    model_source_close(&source);
    return mpi_test_end(g);
}
