/* What a request gives depends on nothing but itself: not on what else runs, its slot, how its prompt is cut, or what is kept of others.
 *
 *     test_invariance [cuda] [REQUESTS SEQS [once [TOKENS]]]
 *
 * Random requests on the demo model and on odd shapes, one at a time, then together, with every prefix cache and slices of 16, 64 and 512 tokens, in slots
 * full of NaN, looking ahead and not: the tokens and the bits of their probabilities are the same.  What np = 1 gives may differ where two candidates are equal
 * up to rounding, and is counted.  By default few enough requests for a test; 10000 64 takes a quarter of an hour on an idle machine, and
 * `once`, which does not combine all caches with all slices, a third of that.  TOKENS: most that a request gives; 12.  See
 * tools/invariance_10k.sh. */
#include "mpi_test.h"

#include "engine/engine.h"
#include "model/state.h"

#include "base/clock.h"
#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST = 260, MOST_OUT = 12, CACHES = 3, SLICES = 4, STEMS = 5 };
static const int slices[SLICES] = { 16, 40, 64, 512 }; /* 40: is cut to what leaves the bits alone */

typedef struct {
    int token[MOST_OUT];
    double logprob[MOST_OUT];
    int count;
    bool finished;
} answer;

typedef struct {
    int ids[LONGEST];
    plp_request given;
    answer alone, got;
} job;

static job *jobs;
static const kn_backend *backend; /* the CPU, or with the argument `cuda` a GPU that the ranks share */
#ifdef PLP_SANITIZED
static int count = 12, seqs = 6; /* there everything takes ten times as long */
#else
static int count = 36, seqs = 8;
#endif
static int most_out = MOST_OUT;
static int threads = 1;
static bool at_once;      /* all jobs are submitted before the first step */
static uint64_t first_id; /* of the jobs under way: ids count up */

static uint64_t state = 7;
static int below(int n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (uint64_t)n);
}

/* Prompts of 1 to LONGEST tokens, half of them short, many with one of a few beginnings; greedy, seeded, and seeded with filters. */
static void make_jobs(int vocabulary)
{
    static int stem[STEMS][LONGEST];
    state = 7; /* equal on ranks that did different things so far */
    for (int i = 0; i < STEMS; i++)
        for (int k = 0; k < LONGEST; k++) stem[i][k] = below(vocabulary);
    for (int i = 0; i < count; i++) {
        job *j = &jobs[i];
        const int stems = below(LONGEST), which = below(STEMS), length = 1 + below(i % 2 ? LONGEST : 50);
        for (int k = 0; k < length; k++) j->ids[k] = k < stems ? stem[which][k] : below(vocabulary);
        j->given = plp_request_defaults();
        j->given.ids = j->ids, j->given.count = (size_t)length;
        j->given.max_tokens = 1 + below(most_out);
        j->given.logprobs = 0;
        j->given.sampling.seed = (uint64_t)i / 3;
        j->given.sampling.temperature = i % 3 ? 0.9 : 0;
        if (i % 3 == 2) j->given.sampling.top_p = 0.9, j->given.sampling.repetition = 1.1;
    }
}

/* Shapes whose rows lie at odd places in memory. */
static const model_config odd[] = {
    { .family = "mamba2",
      .kind = MODEL_MAMBA2,
      .hidden = 45,
      .layers = 2,
      .heads = 7,
      .head_dim = 9,
      .inner = 63,
      .groups = 1,
      .state = 19,
      .conv = 4,
      .chunk = 24,
      .vocab = 64,
      .vocab_used = 61,
      .norm_eps = 1e-5,
      .dt_max = INFINITY,
      .norm_groups = 1,
      .tied = true,
      .conv_bias = true,
      .dtype = PLP_BF16 },
    { .family = "mamba",
      .kind = MODEL_MAMBA1,
      .hidden = 45,
      .layers = 2,
      .heads = 23,
      .head_dim = 1,
      .inner = 23,
      .groups = 1,
      .state = 7,
      .conv = 4,
      .dt_rank = 3,
      .chunk = 16,
      .vocab = 64,
      .vocab_used = 61,
      .norm_eps = 1e-5,
      .dt_max = INFINITY,
      .dtype = PLP_BF16 },
};

/* Of a source, or with random weights of a shape. */
static model *make_model(tp_group *g, const model_source *s, const model_config *shape)
{
    model *m = NULL;
    const int tokens = 512 + seqs;
    const model_options o = { .backend = backend,
                              .threads = threads,
                              .comm = TP_COMM_MPI,
                              .f32 = true,
                              .deterministic = true,
                              .max_tokens = tokens,
                              .max_seqs = seqs,
                              .max_outs = seqs,
                              .slots = 4 * seqs };
    CHECK((s ? model_create(&m, s, g, &o) : model_create_random(&m, shape, 42, g, &o)) == PLP_OK);
    return m;
}

/* Jobs first .. end, at most `ahead` more of them submitted than finished, some in every step.  Answers go to `got`. */
static plp_status run_jobs(plp_engine *e, int first, int end, int ahead)
{
    int left = 0, next = first, open = 0;
    for (int i = first; i < end; i++) jobs[i].got.count = 0, jobs[i].got.finished = false;
    while (next < end || left > 0) {
        plp_event event;
        for (int n = at_once ? end - first : 1 + below(4); n > 0 && next < end && open < ahead; n--, open++, next++) {
            uint64_t id;
            const plp_status st = plp_engine_submit(e, &jobs[next].given, &id);
            if (st != PLP_OK) return st;
            if (next == first) first_id = id;
        }
        const plp_status st = plp_engine_step(e, &left);
        if (st != PLP_OK) return st;
        while (plp_engine_next_event(e, &event)) {
            if (!CHECK(event.request - first_id < (uint64_t)(next - first) && event.kind != PLP_EVENT_ERROR)) continue;
            job *j = &jobs[first + (int)(event.request - first_id)];
            if (event.kind == PLP_EVENT_TOKEN && CHECK(j->got.count < MOST_OUT)) {
                j->got.token[j->got.count] = event.token;
                j->got.logprob[j->got.count++] = event.logprob;
            } else if (event.kind == PLP_EVENT_FINISHED)
                j->got.finished = true, open--;
        }
    }
    return PLP_OK;
}

static bool equal(const answer *a, const answer *b)
{
    const size_t n = (size_t)a->count;
    return a->count == b->count && a->finished && b->finished && memcmp(a->token, b->token, n * sizeof *a->token) == 0 &&
           memcmp(a->logprob, b->logprob, n * sizeof *a->logprob) == 0;
}

static void compute_alone(model *m)
{
    plp_engine *e = NULL;
    CHECK(engine_create(&e, m, NULL, &(engine_options){ .ahead = PLP_AHEAD_OFF }) == PLP_OK);
    for (int i = 0; i < count; i++) {
        CHECK(run_jobs(e, i, i + 1, 1) == PLP_OK);
        jobs[i].alone = jobs[i].got;
    }
    engine_destroy(&e);
}

static void compute_together(model *m, const engine_options *o, bool report)
{
    static const char *const caches[] = { "none", "align", "all" };
    plp_engine *e = NULL;
    plp_engine_stats stats;
    int wrong = 0;
    const double began = plp_seconds();
    for (int s = 0; s < model_options_of(m)->slots; s++) CHECK(model_slot_poison(m, s) == PLP_OK);
    if (!CHECK(engine_create(&e, m, NULL, o) == PLP_OK)) return;
    CHECK(run_jobs(e, 0, count, 3 * seqs) == PLP_OK);
    plp_engine_statistics(e, &stats);
    for (int i = 0; i < count; i++)
        if (!equal(&jobs[i].got, &jobs[i].alone) && wrong++ < 3)
            printf("cache %s, slices of %d: request %d of %zu tokens differs\n", caches[o->cache], o->max_slice, i, jobs[i].given.count);
    CHECK(wrong == 0);
    CHECK(o->cache == PLP_CACHE_NONE ? stats.cached_tokens == 0 : stats.cached_tokens > stats.prefill_tokens / 50);
    if (report)
        printf("cache %-5s slices of %3d%s: %d requests, %d differ; %lld prompt tokens computed, %lld kept; %.1f s\n", caches[o->cache],
               o->max_slice, o->ahead == PLP_AHEAD_ON ? ", looking ahead" : "", count, wrong, (long long)stats.prefill_tokens,
               (long long)stats.cached_tokens, plp_seconds() - began);
    engine_destroy(&e);
}

/* jobs[].alone against jobs[].got, which one rank computed. */
static void compare_ranks(void)
{
    int differ = 0, filtered = 0;
    double widest = 0;
    for (int i = 0; i < count; i++) {
        const job *j = &jobs[i];
        int k = 0;
        while (k < j->got.count && k < j->alone.count && j->got.token[k] == j->alone.token[k]) k++;
        if (k == j->got.count && k == j->alone.count) continue;
        differ++;
        if (!CHECK(k < j->got.count && k < j->alone.count)) continue;
        if (j->given.sampling.top_p < 1) { /* a token may have left the set that is drawn from */
            filtered++;
            continue;
        }
        const double t = j->given.sampling.temperature;
        const int a = j->alone.token[k], b = j->got.token[k];
        double margin = j->alone.logprob[k] - j->got.logprob[k];
        if (t > 0) {
            const int64_t position = (int64_t)j->given.count + k;
            const double noise = kn_gumbel(j->given.sampling.seed, position, a) - (double)kn_gumbel(j->given.sampling.seed, position, b);
            margin = margin / t + noise;
        }
        CHECK(fabs(margin) < (backend == kn_cpu() ? 1e-4 : 1e-3)); /* the error of float32 logits here */
        widest = fmax(widest, fabs(margin));
        printf("request %d differs from np 1 at token %d: %d and %d, margin %.2g\n", i, k, a, b, margin);
    }
    printf("against np 1: %d of %d differ (%d with filters), widest margin %.2g\n", differ, count, filtered, widest);
}

/* Collective.  One model: all requests alone, then together in all ways. */
static void examine(model *m, bool once, bool report)
{
    const double began = plp_seconds();
    make_jobs((int)model_config_of(m)->vocab_used);
    compute_alone(m);
    if (report) printf("alone: %.1f s\n", plp_seconds() - began);
    for (int cache = 0; cache < CACHES; cache++)
        for (int i = 0; i < SLICES; i++) {
            if (once && i != cache + (cache > 0)) continue; /* every cache, and slices of 16, 64, 512, once */
            const plp_ahead ahead = (cache + i) % 2 ? PLP_AHEAD_ON : PLP_AHEAD_OFF;
            compute_together(m, &(engine_options){ .cache = (plp_cache)cache, .max_slice = slices[i], .ahead = ahead }, report);
        }
}

/* Collective.  A hundred prompts with 2,000 tokens in common and twenty of their own, with a cache: the common ones are computed once, and
 * what they give, as some of them show that are computed alone, is the same. */
static void share(model *m)
{
    enum { PROMPTS = 100, COMMON = 2000, OWN = 20, ALONE = 25 };
    static int ids[PROMPTS][COMMON + OWN];
    const int had = count;
    job *const had_jobs = jobs;
    state = 11;
    count = PROMPTS;
    if (CHECK((jobs = calloc(PROMPTS, sizeof *jobs)) != NULL)) {
        plp_engine *e = NULL;
        for (int i = 0; i < PROMPTS; i++) {
            for (int k = 0; k < COMMON + OWN; k++) ids[i][k] = i > 0 && k < COMMON ? ids[0][k] : below((int)model_config_of(m)->vocab_used);
            jobs[i].given = plp_request_defaults();
            jobs[i].given.ids = ids[i], jobs[i].given.count = COMMON + OWN;
            jobs[i].given.max_tokens = 2, jobs[i].given.logprobs = 0, jobs[i].given.sampling.seed = (uint64_t)i;
        }
        CHECK(engine_create(&e, m, NULL, &(engine_options){ 0 }) == PLP_OK);
        for (int i = 0; i < PROMPTS; i += ALONE) {
            CHECK(run_jobs(e, i, i + 1, 1) == PLP_OK);
            jobs[i].alone = jobs[i].got;
        }
        engine_destroy(&e);
        for (plp_cache cache = PLP_CACHE_ALIGN; cache <= PLP_CACHE_ALL; cache++) {
            plp_engine_stats stats;
            CHECK(engine_create(&e, m, NULL, &(engine_options){ .cache = cache }) == PLP_OK);
            CHECK(run_jobs(e, 0, PROMPTS, PROMPTS) == PLP_OK);
            plp_engine_statistics(e, &stats);
            engine_destroy(&e);
            CHECK(stats.prefill_tokens + stats.cached_tokens == PROMPTS * (COMMON + OWN));
            if (!CHECK(20 * stats.prefill_tokens <= PROMPTS * (COMMON + OWN)))
                printf("%lld of %d prompt tokens computed\n", (long long)stats.prefill_tokens, PROMPTS * (COMMON + OWN));
            for (int i = 0; i < PROMPTS; i += ALONE) CHECK(equal(&jobs[i].got, &jobs[i].alone));
        }
    }
    free(jobs);
    jobs = had_jobs, count = had;
}

static kn_context *whole;
static plp_status fail_in_threads(kn_context *c, const kn_embed_args *a)
{
    return c == whole ? kn_cpu()->embed(c, a) : PLP_FAIL(PLP_ERR_DEVICE, "an embedding that fails, on purpose");
}

/* Whoever made the step reads why a thread could not. */
static void a_thread_fails(model *m, plp_engine *e)
{
    const kn_backend *const had = m->kn;
    kn_backend broken = *had;
    broken.embed = fail_in_threads, whole = m->context;
    m->kn = &broken;
    CHECK(run_jobs(e, 0, count, count) == PLP_ERR_DEVICE && strstr(plp_last_error(), "on purpose") != NULL);
    m->kn = had;
}

/* By this rank alone: short prompts one at a time by one thread, then together by three, which share out the rows of a step where they
 * know the size of their cache. */
static void deal(const model_source *s, const model_config *shape)
{
    enum { PROMPTS = 30, LONG = 3, ROWS = 27, THREADS = 3, ROUNDS = 4 }; /* what threads do to each other does not happen each time */
    static int ids[PROMPTS][LONG];
    const int had = count, had_seqs = seqs;
    job *const had_jobs = jobs;
    tp_group *self = NULL;
    plp_engine *e = NULL;
    state = 13;
    count = PROMPTS;
    CHECK(tp_group_self(&self) == PLP_OK && (jobs = calloc(PROMPTS, sizeof *jobs)) != NULL);
    model *m = jobs && self ? make_model(self, s, shape) : NULL;
    for (int i = 0; m && i < PROMPTS; i++) {
        for (int k = 0; k < LONG; k++) ids[i][k] = below((int)model_config_of(m)->vocab_used);
        jobs[i].given = plp_request_defaults();
        jobs[i].given.ids = ids[i], jobs[i].given.count = (size_t)(1 + i % LONG);
        jobs[i].given.max_tokens = MOST_OUT - i % 4, jobs[i].given.logprobs = 0, jobs[i].given.ignore_eos = 1;
        jobs[i].given.sampling.seed = (uint64_t)i, jobs[i].given.sampling.temperature = i % 3 ? 0.9 : 0;
        if (i % 5 == 2) jobs[i].given.sampling.repetition = 1.1;
    }
    if (m) compute_alone(m);
    model_destroy(&m);
    threads = THREADS, seqs = ROWS, at_once = true;
    if (jobs && self && (m = make_model(self, s, shape)) != NULL) {
        const bool dealt = kn_cpu()->cache() >= model_memory_of(m).weights;
        CHECK(engine_create(&e, m, NULL, &(engine_options){ 0 }) == PLP_OK);
        for (int round = 0; round < ROUNDS; round++) {
            CHECK(run_jobs(e, 0, PROMPTS, PROMPTS) == PLP_OK);
            for (int i = 0; i < PROMPTS; i++) CHECK(equal(&jobs[i].got, &jobs[i].alone));
        }
        CHECK(!dealt || m->dealt > 0);
        if (dealt) a_thread_fails(m, e);
        engine_destroy(&e);
        model_destroy(&m);
    }
    tp_group_destroy(&self);
    free(jobs);
    jobs = had_jobs, count = had, threads = 1, seqs = had_seqs, at_once = false;
}

/* Collective.  The last rank's requests differ: in a token, or in their length, so that the ranks' next sums would have other sizes.  What
 * an engine leaves unread is no concern of the next one on the model. */
static void plant_difference(model *m, tp_group *g)
{
    const int ids[] = { 5, 6, 7, 8, 9 }, others[] = { 5, 6, 1, 8, 9 };
    const bool last = tp_rank(g) == tp_size(g) - 1;
    char who[32];
    snprintf(who, sizeof who, "rank %d: ", tp_size(g) - 1);
    for (int longer = 0; longer < 2; longer++) {
        plp_engine *e = NULL;
        uint64_t id;
        int left;
        plp_request r = plp_request_defaults();
        CHECK(engine_create(&e, m, NULL, &(engine_options){ .ahead = PLP_AHEAD_ON }) == PLP_OK);
        r.ids = ids, r.count = 4;
        CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
        CHECK(plp_engine_step(e, &left) == PLP_OK);
        if (last && longer) r.count = 5;
        if (last && !longer) r.ids = others;
        CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
        const plp_status st = plp_engine_step(e, &left);
        if (!CHECK(st == (tp_size(g) > 1 ? PLP_ERR_DISAGREE : PLP_OK)) || st == PLP_OK) {
            engine_destroy(&e);
            continue;
        }
        CHECK(strstr(plp_last_error(), who) != NULL && strstr(plp_last_error(), "step 1;") != NULL);
        CHECK(plp_engine_step(e, &left) == PLP_ERR_DISAGREE); /* and stays so */
        engine_destroy(&e);
    }
}

/* What this rank alone gives, against what all gave. */
static void examine_ranks(const model_source *s)
{
    tp_group *self = NULL;
    plp_engine *e = NULL;
    CHECK(tp_group_self(&self) == PLP_OK);
    model *m = make_model(self, s, NULL);
    if (m != NULL && CHECK(engine_create(&e, m, NULL, &(engine_options){ 0 }) == PLP_OK)) {
        CHECK(run_jobs(e, 0, count, 3 * seqs) == PLP_OK);
        compare_ranks();
    }
    engine_destroy(&e);
    model_destroy(&m);
    tp_group_destroy(&self);
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    model_source *source = NULL;
    model *m = NULL;
    const bool gpu = argc > 1 && strcmp(argv[1], "cuda") == 0;
    backend = gpu ? kn_cuda() : kn_cpu();
    if (gpu && kn_cuda_devices() == 0) {
        tp_group_destroy(&g);
        MPI_Finalize();
        return 77;
    }
    argc -= gpu, argv += gpu;
    if (argc >= 3) count = atoi(argv[1]), seqs = atoi(argv[2]);
    if (argc >= 5) most_out = atoi(argv[4]) < MOST_OUT ? atoi(argv[4]) : MOST_OUT;
    if (argc >= 3) alarm(0); /* longer than a test may take */
    jobs = calloc((size_t)count, sizeof *jobs);
    CHECK(jobs != NULL && model_source_open(&source, PLP_DEMO, NULL) == PLP_OK);
    if (jobs && source && (m = make_model(g, source, NULL)) != NULL) {
        examine(m, argc >= 4, tp_rank(g) == 0 && argc >= 3);
        share(m);
        plant_difference(m, g);
        model_destroy(&m);
        if (tp_size(g) > 1 && tp_rank(g) == 0) examine_ranks(source);
        if (tp_size(g) == 1 && !gpu) {
            deal(source, NULL);
            for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) deal(NULL, &odd[i]);
        }
    }
    for (size_t i = 0; jobs && argc < 3 && i < sizeof odd / sizeof *odd; i++)
        if ((m = make_model(g, NULL, &odd[i])) != NULL) {
            examine(m, false, false);
            model_destroy(&m);
        }
    model_source_close(&source);
    free(jobs);
    return mpi_test_end(g);
}
