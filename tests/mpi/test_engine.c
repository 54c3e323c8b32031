/* The engine on the demonstration model: what a request gives does not depend on what runs beside it, on its slot, or on the slices of
 * its prompt, or whether the engine looks ahead: tokens, text, and logprobs, to the bit. */
#include "mpi_test.h"

#include "base/sha256.h"
#include "engine/engine.h"
#include "engine/score.h"
#include "io/model_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { REQUESTS = 24, MOST_OUT = 20, MOST_PROMPT = 150 };

typedef struct {
    int prompt[MOST_PROMPT];
    plp_request given;
    uint64_t id;
} job;

typedef struct {
    int token[MOST_OUT], tokens, ends;
    double logprob[MOST_OUT];
    char text[1024];
    plp_finish finish;
} answer;

static job jobs[REQUESTS];
static plp_device device = PLP_DEVICE_CPU;

/* few: every second one is given without logprobs */
static void make_jobs(int vocabulary, bool few)
{
    static const char *const stops[] = { "the", " of " };
    uint64_t dice = 88172645463325252u;
    for (int i = 0; i < REQUESTS; i++) {
        plp_request *r = &jobs[i].given;
        *r = plp_request_defaults();
        r->ids = jobs[i].prompt;
        r->count = 1 + (size_t)(i * 31 % (MOST_PROMPT - 1));
        for (size_t k = 0; k < r->count; k++) {
            dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
            jobs[i].prompt[k] = (int)(dice % (uint64_t)vocabulary);
        }
        r->max_tokens = 1 + i * 7 % MOST_OUT;
        r->logprobs = few && i % 2 == 0 ? -1 : 3;
        r->sampling.seed = (uint64_t)i;
        r->sampling.temperature = i % 3 ? 1 : 0;
        if (i % 4 == 1) r->sampling.top_p = 0.9; /* random prompts: flat distributions, whole rows are gathered */
        if (i % 4 == 2) r->sampling.repetition = 1.2, r->sampling.frequency = 0.1;
        if (i % 4 == 3) r->sampling.top_k = 20;
        if (i % 5 == 4) r->stops = stops, r->stop_count = 2;
    }
}

static void note(const plp_event *e, answer *answers)
{
    int i = 0;
    while (i < REQUESTS && jobs[i].id != e->request) i++;
    CHECK(i < REQUESTS && e->kind != PLP_EVENT_ERROR);
    if (i == REQUESTS) return;
    answer *a = &answers[i];
    strncat(a->text, e->text, sizeof a->text - strlen(a->text) - 1);
    if (e->kind == PLP_EVENT_TOKEN && a->tokens < MOST_OUT) {
        const int tops = jobs[i].given.logprobs;
        CHECK(tops < 0 ? e->tops == 0 : e->tops == tops && e->top_logprob[0] >= e->logprob);
        a->logprob[a->tokens] = e->logprob;
        a->token[a->tokens++] = e->token;
    }
    if (e->kind == PLP_EVENT_FINISHED) a->finish = e->finish, a->ends++;
}

/* All requests from `first` on, `joining` of them at every step. */
static void run_jobs(int seqs, int batch_tokens, int joining, plp_ahead ahead, int first, bool few, answer *answers)
{
    const plp_engine_options options = { .model = PLP_DEMO,
                                         .device = device,
                                         .deterministic = 1,
                                         .link = PLP_LINK_MPI,
                                         .max_seqs = seqs,
                                         .max_batch_tokens = batch_tokens,
                                         .ahead = ahead };
    plp_engine *e = NULL;
    plp_engine_info info;
    plp_event event;
    int left = 0, submitted = 0;
    memset(answers, 0, REQUESTS * sizeof *answers);
    CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &options) == PLP_OK);
    plp_engine_describe(e, &info);
    make_jobs(info.vocabulary, few);
    plp_status st = PLP_OK;
    while (st == PLP_OK && (submitted < REQUESTS || left > 0)) {
        for (int k = 0; k < joining && submitted < REQUESTS; k++, submitted++) {
            job *j = &jobs[(first + submitted) % REQUESTS];
            CHECK(plp_engine_submit(e, &j->given, &j->id) == PLP_OK);
        }
        st = plp_engine_step(e, &left);
        while (plp_engine_next_event(e, &event)) note(&event, answers);
    }
    CHECK(st == PLP_OK);
    plp_engine_destroy(&e);
}

/* Collective.  Probabilities of a prompt's tokens are those of teacher forcing, up to the rounding of a float32 logit: it cuts the prompt
 * where the bits change. */
static void score_prompts(void)
{
    enum { LONG = 3 };
    const plp_engine_options options = { .model = PLP_DEMO,
                                         .device = device,
                                         .deterministic = 1,
                                         .link = PLP_LINK_MPI,
                                         .max_seqs = 5,
                                         .max_batch_tokens = 100,
                                         .cache = PLP_CACHE_ALL };
    static double want[LONG][MOST_PROMPT];
    plp_engine *e = NULL;
    plp_event event;
    int left, next[LONG], ended = 0, wrong = 0;
    CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &options) == PLP_OK);
    if (e == NULL) return;
    for (int i = 0; i < LONG; i++) {
        job *j = &jobs[i + 4]; /* prompts of 126, 8 and 39 tokens */
        CHECK(engine_score_tokens(engine_session_of(e)->model, j->prompt, (int64_t)j->given.count, want[i]) == PLP_OK);
    }
    for (int i = 0; i < LONG; i++) {
        plp_request r = jobs[i + 4].given;
        r.prompt_logprobs = i, r.answers = 2, r.max_tokens = 1 + i, next[i] = 1, r.stop_count = 0;
        CHECK(plp_engine_submit(e, &r, &jobs[i + 4].id) == PLP_OK);
    }
    do {
        CHECK(plp_engine_step(e, &left) == PLP_OK);
        while (plp_engine_next_event(e, &event))
            for (int i = 0; i < LONG; i++) {
                const job *j = &jobs[i + 4];
                if (event.request == j->id && event.kind == PLP_EVENT_PROMPT) {
                    wrong += event.token != j->prompt[next[i]] || !(fabs(event.logprob + want[i][next[i] - 1]) < 1e-4) || event.tops != i;
                    wrong += i > 0 && !(event.top_logprob[0] >= event.logprob);
                    next[i]++;
                }
                if (event.request == j->id && event.kind == PLP_EVENT_TOKEN) CHECK(next[i] == (int)j->given.count);
                ended += event.kind == PLP_EVENT_FINISHED && (event.request == j->id || event.request == j->id + 1);
            }
    } while (left > 0);
    CHECK(wrong == 0 && ended == 2 * LONG);
    plp_engine_destroy(&e);
}

/* Collective.  Runs what there is to its end; tokens and logprobs of a request. */
static void take(plp_engine *e, uint64_t id, answer *a)
{
    plp_event event;
    int left;
    do {
        if (!CHECK(plp_engine_step(e, &left) == PLP_OK)) return;
        while (plp_engine_next_event(e, &event))
            if (event.request == id && event.kind == PLP_EVENT_TOKEN && a->tokens < MOST_OUT)
                a->logprob[a->tokens] = event.logprob, a->token[a->tokens++] = event.token;
    } while (left > 0);
}

/* Collective.  A state saved where one token of the prompt is left goes on to the same bits: that token was given, not drawn. */
static void go_on_within_a_prompt(void)
{
    enum { SLICE = 64 };
    const plp_engine_options options = { .model = PLP_DEMO,
                                         .device = device,
                                         .deterministic = 1,
                                         .link = PLP_LINK_MPI,
                                         .max_seqs = 1,
                                         .max_batch_tokens = SLICE,
                                         .ahead = PLP_AHEAD_OFF };
    static answer whole, rest;
    char path[64];
    int prompt[SLICE + 1], name = (int)getpid(), left;
    plp_engine *e = NULL;
    uint64_t id;
    for (int i = 0; i <= SLICE; i++) prompt[i] = 3 + i * 37 % 1000;
    plp_request r = plp_request_defaults();
    r.ids = prompt, r.count = SLICE + 1, r.max_tokens = 6, r.ignore_eos = 1, r.logprobs = 1, r.sampling.temperature = 0;
    MPI_Bcast(&name, 1, MPI_INT, 0, MPI_COMM_WORLD);
    snprintf(path, sizeof path, "test_engine_%d.state", name);
    if (!CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &options) == PLP_OK)) return;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK && plp_engine_step(e, &left) == PLP_OK && left == 1);
    CHECK(plp_engine_save_state(e, id, path) == PLP_OK);
    take(e, id, &whole);
    r.ids = NULL, r.count = 0, r.state = path;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    take(e, id, &rest);
    CHECK(whole.tokens == 6 && rest.tokens == 6);
    CHECK(memcmp(whole.token, rest.token, sizeof whole.token) == 0 && memcmp(whole.logprob, rest.logprob, sizeof whole.logprob) == 0);
    plp_engine_destroy(&e);
    unlink(path);
}

/* Makes of a state file the beginning of one with 3 tokens, of which so many were given. */
static bool give_prompt(const char *path, int64_t prompt)
{
    static char digest[PLP_SHA256_HEX];
    const int tokens[] = { 5, 6, 7 };
    const char *of = NULL;
    io_model_file *h = NULL;
    io_model_writer *w = NULL;
    if (io_model_open(&h, path) != PLP_OK) return false;
    const bool named = io_model_get_string(h, "state_of", &of) == PLP_OK && of != NULL;
    if (named) snprintf(digest, sizeof digest, "%s", of);
    io_model_close(&h);
    const bool written = named && io_model_create(&w, path, true) == PLP_OK && io_model_put_string(w, "state_of", digest) == PLP_OK &&
                         io_model_put_int(w, "past", 2) == PLP_OK && io_model_put_int(w, "prompt", prompt) == PLP_OK &&
                         io_model_put_blob(w, "/tokens", tokens, sizeof tokens) == PLP_OK && io_model_finish(&w) == PLP_OK;
    io_model_discard(&w);
    return written;
}

/* Collective.  Bad words that end behind a saved state, and begin before it: what completes them is not drawn.  Of a file that has more
 * tokens given than there are nothing is. */
static void go_on_within_a_bad_word(const tp_group *g)
{
    enum { BEFORE = 5 };
    const plp_engine_options options = { .model = PLP_DEMO, .device = device, .link = PLP_LINK_MPI, .max_seqs = 1, .ahead = PLP_AHEAD_OFF };
    static answer plain, whole, rest;
    char path[64];
    int prompt[] = { 0, 1106, 260, 1894, 1074 }, word[2], name = (int)getpid(), left;
    const int *const bad[] = { word }, size = 2;
    plp_engine *e = NULL;
    uint64_t id;
    plp_request r = plp_request_defaults();
    r.ids = prompt, r.count = sizeof prompt / sizeof *prompt, r.max_tokens = 2 * BEFORE, r.ignore_eos = 1, r.sampling.temperature = 0;
    MPI_Bcast(&name, 1, MPI_INT, 0, MPI_COMM_WORLD);
    snprintf(path, sizeof path, "test_engine_%d.state", name);
    if (!CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &options) == PLP_OK)) return;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    take(e, id, &plain);
    word[0] = plain.token[BEFORE - 1], word[1] = plain.token[BEFORE];
    r.bad = bad, r.bad_sizes = &size, r.bad_count = 1;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    for (int i = 0; i < BEFORE; i++) CHECK(plp_engine_step(e, &left) == PLP_OK && left == 1);
    CHECK(plp_engine_save_state(e, id, path) == PLP_OK);
    take(e, id, &whole);
    CHECK(whole.tokens == BEFORE && whole.token[0] != word[1]);
    r.ids = NULL, r.count = 0, r.state = path, r.max_tokens = BEFORE;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    take(e, id, &rest);
    CHECK(rest.tokens == BEFORE && memcmp(whole.token, rest.token, BEFORE * sizeof *rest.token) == 0);
    const int64_t wrong[] = { -1, 0, 4 };
    for (int i = 0; i < 3; i++) {
        if (tp_rank(g) == 0) CHECK(give_prompt(path, wrong[i]));
        MPI_Barrier(MPI_COMM_WORLD);
        CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_DATA && strstr(plp_last_error(), "of them given") != NULL);
        MPI_Barrier(MPI_COMM_WORLD);
    }
    plp_engine_destroy(&e);
    unlink(path);
}

/* Collective.  Slots by what memory holds: the demonstration model is small, so that other limits count. */
static void size_by_memory(void)
{
    const int tokens[] = { 0, 40 }, want[] = { 256, 40 };
    for (int i = 0; i < 2; i++) {
        const plp_engine_options options = {
            .model = PLP_DEMO, .device = device, .link = PLP_LINK_MPI, .max_seqs = -1, .max_batch_tokens = tokens[i]
        };
        plp_engine *e = NULL;
        plp_engine_info info = { 0 };
        if (!CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &options) == PLP_OK)) continue;
        plp_engine_describe(e, &info);
        CHECK(info.max_seqs == want[i] && info.max_batch_tokens >= info.max_seqs);
        plp_engine_destroy(&e);
    }
}

int main(int argc, char **argv)
{
    static answer alone[REQUESTS], together[REQUESTS];
    tp_group *g = mpi_test_begin(&argc, &argv);
    if (argc > 1 && strcmp(argv[1], "cuda") == 0) device = PLP_DEVICE_CUDA;
    if (device == PLP_DEVICE_CUDA && kn_cuda_devices() == 0) {
        tp_group_destroy(&g);
        MPI_Finalize();
        return 77;
    }
    run_jobs(1, 512, REQUESTS, PLP_AHEAD_OFF, 0, false, alone);
    /* The model's chunk is 64; the third setting cuts prompts at multiples of 16, which leave the bits alone as well on the CPU.  The last one
     * begins with a request whose tokens are drawn without anything else being known of them, and goes on with one that asks for logprobs. */
    const struct {
        int seqs, batch_tokens, joining;
        plp_ahead ahead;
        int first;
        bool few;
    } settings[] = { { 16, 512, REQUESTS, PLP_AHEAD_AUTO, 0, false },
                     { 5, 70, 1, PLP_AHEAD_ON, 0, false },
                     { 8, 16, 3, PLP_AHEAD_OFF, 0, false },
                     { 16, 512, 2, PLP_AHEAD_ON, 0, false },
                     { 1, 512, REQUESTS, PLP_AHEAD_ON, 16, true } };
    for (size_t s = 0; s < sizeof settings / sizeof *settings; s++) {
        run_jobs(settings[s].seqs, settings[s].batch_tokens, settings[s].joining, settings[s].ahead, settings[s].first, settings[s].few,
                 together);
        for (int i = 0; i < REQUESTS; i++) {
            const answer *want = &alone[i], *got = &together[i];
            CHECK(got->ends == 1 && want->ends == 1 && got->finish == want->finish && got->tokens == want->tokens && got->tokens > 0);
            CHECK(memcmp(got->token, want->token, sizeof got->token) == 0);
            CHECK(strcmp(got->text, want->text) == 0);
            if (!settings[s].few || i % 2 == 1) CHECK(memcmp(got->logprob, want->logprob, sizeof got->logprob) == 0);
        }
    }
    score_prompts();
    go_on_within_a_prompt();
    go_on_within_a_bad_word(g);
    size_by_memory();
    return mpi_test_end(g);
}
