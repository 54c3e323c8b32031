/* Sampling over sharded candidates against float64 brute force over the whole row: the same token from any number of ranks, whether the
 * candidates or the gathered row decide, and the distribution it stands for. */
#include "engine/sampling.h"
#include "kernels/choose.h"
#include "tp/tp.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VOCAB = 700, MOST_RANKS = 5 };

static kn_context *context;
static uint64_t dice;

static uint32_t roll(uint32_t n) /* xorshift64* */
{
    dice ^= dice >> 12, dice ^= dice << 25, dice ^= dice >> 27;
    return (uint32_t)(((dice * 0x2545F4914F6CDD1Du) >> 32) * n >> 32);
}
static double uniform(void) { return (roll(1u << 30) + 0.5) / (1u << 30); }
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

static int start(void **state)
{
    (void)state;
    const kn_options options = { .threads = 1, .max_tokens = 8, .max_k = MOST_VOCAB, .max_n = MOST_VOCAB };
    return kn_cpu()->create(&context, &options) != PLP_OK;
}
static int stop(void **state)
{
    (void)state;
    kn_cpu()->destroy(&context);
    return 0;
}

/* What the ranks' kernels find in a row. */
static void find_candidates(const float *logits, int vocab, int ranks, const sampling_row *r, kn_candidates *all)
{
    memset(all, 0x7f, (size_t)ranks * sizeof *all);
    for (int i = 0; i < ranks; i++) {
        const tp_slice own = tp_shard(vocab, i, ranks);
        const kn_sample_row k = sampling_kernel_row(r, 0);
        const kn_candidates_args a = { .rows = 1,
                                       .first = (int)own.first,
                                       .valid = (int)own.count,
                                       .logits = logits + own.first,
                                       .ld = own.count,
                                       .row = &k,
                                       .penalty_id = r->penalty_id,
                                       .penalty_hits = r->penalty_hits,
                                       .out = &all[i] };
        assert_int_equal(kn_cpu()->candidates(context, &a), PLP_OK);
    }
}

/* What a backend chooses of them, and what that gives. */
static sampling_result from_candidates(sampling_work *w, const sampling_row *r, const kn_candidates *all, int ranks,
                                       sampling_choice *choice)
{
    static kn_item sorted[MOST_RANKS * KN_CANDIDATES];
    int next[MOST_RANKS];
    const kn_sample_row k = sampling_kernel_row(r, 0);
    const kn_choice c = kn_choose_row(&k, all, 1, ranks, sorted, next);
    return sampling_from_choice(w, r, &c, all, 1, ranks, choice);
}

/* ---------------------------------------------------------------------------------------------------------------- brute force */
typedef struct {
    int id;
    double p;
} entry;

static int by_p(const void *x, const void *y)
{
    const entry *a = x, *b = y;
    if (a->p != b->p) return a->p > b->p ? -1 : 1;
    return a->id - b->id;
}

/* What the filters leave, best first. */
static int brute_survivors(const float *logits, int vocab, const sampling_row *r, entry *v)
{
    const plp_sampling *s = r->params;
    int n = 0;
    for (int i = 0; i < vocab; i++) {
        double p = logits[i];
        bool out = r->alloweds > 0;
        for (int k = 0; k < r->alloweds; k++) out &= r->allowed[k] != i;
        for (int k = 0; k < r->biases; k++) p += r->bias_id[k] == i ? r->bias[k] : 0;
        for (int k = 0; k < r->penalties; k++)
            if (r->penalty_id[k] == i) {
                p = p < 0 ? p * s->repetition : p / s->repetition;
                if (r->penalty_hits[k] > 0) p -= s->presence + s->frequency * r->penalty_hits[k];
            }
        for (int k = 0; k < r->bans; k++) out |= r->banned[k] == i;
        if (!out) v[n++] = (entry){ i, s->temperature > 0 ? p / s->temperature : p };
    }
    qsort(v, (size_t)n, sizeof *v, by_p);
    if (s->temperature == 0) return 1;
    const double best = v[0].p;
    int left = n;
    while (s->min_p > 0 && left > 1 && exp(v[left - 1].p - best) < s->min_p) left--;
    if (s->top_k > 0 && left > s->top_k) left = (int)s->top_k;
    if (s->top_p >= 1) return left;
    double mass = 0, sum = 0;
    for (int i = 0; i < left; i++) mass += exp(v[i].p - best);
    for (int i = 0; i < left; i++)
        if ((sum += exp(v[i].p - best)) >= s->top_p * mass) return i + 1;
    return left;
}

static int brute_token(const float *logits, int vocab, const sampling_row *r)
{
    entry v[MOST_VOCAB];
    const int n = brute_survivors(logits, vocab, r, v);
    int best = 0;
    double most = -INFINITY;
    for (int i = 0; i < n && r->params->temperature > 0; i++) {
        const double score = v[i].p + kn_gumbel(r->params->seed, r->position, v[i].id);
        if (score > most) most = score, best = i;
    }
    return v[best].id;
}

/* ---------------------------------------------------------------------------------------------------------------------- tests */
typedef struct {
    int vocab, penalties, bans, id[40], hits[40], ban[3], alloweds, allowed[20], biases, bias_id[20];
    float logits[MOST_VOCAB], bias[20];
    plp_sampling params;
    sampling_row row;
} trial;

static void make_trial(trial *t)
{
    t->vocab = 20 + (int)roll(MOST_VOCAB - 19);
    const double spread = 0.3 + 5 * uniform();
    for (int i = 0; i < t->vocab; i++) t->logits[i] = (float)(spread * normal());
    t->params = (plp_sampling){ .repetition = 1, .top_p = 1, .seed = roll(1u << 31) };
    if (roll(8) > 0) t->params.temperature = 0.2 + 2 * uniform();
    if (roll(2)) t->params.top_k = 1 + (int)roll(roll(2) ? 10 : 300);
    if (roll(2)) t->params.top_p = uniform();
    if (roll(3) == 0) t->params.min_p = 0.2 * uniform() * uniform();
    t->penalties = t->bans = 0;
    if (roll(3) == 0) {
        t->params.repetition = 0.7 + uniform(), t->params.presence = uniform(), t->params.frequency = uniform();
        const int step = 1 + t->vocab / 30;
        for (int id = (int)roll(3); id < t->vocab && t->penalties < 40; id += 1 + (int)roll((uint32_t)step))
            t->id[t->penalties] = id, t->hits[t->penalties++] = (int)roll(4);
    }
    if (roll(4) == 0)
        while (t->bans < 3) t->ban[t->bans++] = (int)roll((uint32_t)t->vocab);
    t->alloweds = t->biases = 0;
    if (roll(8) == 0) /* more than are banned, in rising order */
        for (int id = (int)roll(4); id < t->vocab && t->alloweds < 20; id += 1 + (int)roll(4)) t->allowed[t->alloweds++] = id;
    if (t->alloweds < 4) t->alloweds = 0;
    if (roll(8) == 0)
        for (int id = (int)roll(9); id < t->vocab && t->biases < 20; id += 1 + (int)roll(30))
            t->bias_id[t->biases] = id, t->bias[t->biases++] = (float)(4 * normal());
    t->row = (sampling_row){ .params = &t->params,
                             .logprobs = -1,
                             .position = roll(100000),
                             .penalty_id = t->id,
                             .penalty_hits = t->hits,
                             .penalties = t->penalties,
                             .banned = t->ban,
                             .bans = t->bans,
                             .allowed = t->allowed,
                             .alloweds = t->alloweds,
                             .bias_id = t->bias_id,
                             .bias = t->bias,
                             .biases = t->biases };
}

static void candidates_and_rows_agree_with_brute_force(void **state)
{
    (void)state;
    static trial t;
    static kn_candidates all[MOST_RANKS];
    int settled = 0, gathered = 0;
    dice = 20240607;
    for (int i = 0; i < 4000; i++) {
        make_trial(&t);
        const int want = brute_token(t.logits, t.vocab, &t.row);
        for (int ranks = 1; ranks <= MOST_RANKS; ranks++) {
            sampling_work *w;
            sampling_choice c = { .token = -7 };
            assert_int_equal(sampling_work_create(&w, t.vocab, ranks), PLP_OK);
            find_candidates(t.logits, t.vocab, ranks, &t.row, all);
            if (from_candidates(w, &t.row, all, ranks, &c) == SAMPLING_DONE) {
                settled++;
                if (c.token != want) fail_msg("trial %d, %d ranks: candidates gave %d, brute force %d", i, ranks, c.token, want);
            } else
                gathered++;
            sampling_from_logits(w, &t.row, all, 1, ranks, t.logits, t.vocab, &c);
            if (c.token != want) fail_msg("trial %d, %d ranks: the row gave %d, brute force %d", i, ranks, c.token, want);
            sampling_work_destroy(&w);
        }
    }
    assert_true(settled > 10000 && gathered > 1000); /* both ways were walked */
}

/* Logits of few values: the lower id wins everywhere, at the edge of top_k as well. */
static void ties_go_to_the_lower_id(void **state)
{
    (void)state;
    static trial t;
    static kn_candidates all[MOST_RANKS];
    dice = 99;
    for (int i = 0; i < 2000; i++) {
        make_trial(&t);
        for (int v = 0; v < t.vocab; v++) t.logits[v] = (float)((int)roll(6) - 3);
        t.params = (plp_sampling){
            .repetition = 1, .temperature = (i & 1) ? 0.5 : 0, .top_k = 1 + (int)roll(90), .top_p = 1, .seed = (uint64_t)i
        };
        t.row.penalties = t.row.bans = t.row.alloweds = t.row.biases = 0;
        const int want = brute_token(t.logits, t.vocab, &t.row), ranks = 1 + (int)roll(MOST_RANKS);
        sampling_work *w;
        sampling_choice c = { .token = -7 };
        assert_int_equal(sampling_work_create(&w, t.vocab, ranks), PLP_OK);
        find_candidates(t.logits, t.vocab, ranks, &t.row, all);
        if (from_candidates(w, &t.row, all, ranks, &c) == SAMPLING_DONE) assert_int_equal(c.token, want);
        sampling_from_logits(w, &t.row, all, 1, ranks, t.logits, t.vocab, &c);
        assert_int_equal(c.token, want);
        sampling_work_destroy(&w);
    }
}

/* Over many positions tokens come as often as the softmax of what the filters leave says.  Chi-square with at most 11 degrees of freedom
 * exceeds 60 once in 10^8 tries; the noise is a fixed function, so that the test does not flicker. */
static void draws_follow_the_distribution(void **state)
{
    (void)state;
    enum { VOCAB = 150, DRAWS = 20000, RANKS = 3 };
    static float logits[VOCAB];
    static kn_candidates all[RANKS];
    const plp_sampling params[] = { { .repetition = 1, .temperature = 0.7, .top_k = 12, .top_p = 1, .seed = 5 },
                                    { .repetition = 1, .temperature = 1.3, .top_k = 12, .top_p = 0.9, .min_p = 0.01, .seed = 6 },
                                    { .repetition = 1, .temperature = 0.4, .top_p = 0.6, .seed = 7 } };
    dice = 3;
    for (int v = 0; v < VOCAB; v++) logits[v] = (float)(1.5 * normal());
    for (size_t k = 0; k < sizeof params / sizeof *params; k++) {
        sampling_row r = { .params = &params[k], .logprobs = -1 };
        entry left[VOCAB];
        int hits[VOCAB] = { 0 };
        double mass = 0, chi = 0;
        const int n = brute_survivors(logits, VOCAB, &r, left);
        sampling_work *w;
        assert_true(n > 1 && n <= 12);
        assert_int_equal(sampling_work_create(&w, VOCAB, RANKS), PLP_OK);
        for (r.position = 0; r.position < DRAWS; r.position++) {
            sampling_choice c;
            find_candidates(logits, VOCAB, RANKS, &r, all);
            assert_int_equal(from_candidates(w, &r, all, RANKS, &c), SAMPLING_DONE);
            hits[c.token]++;
        }
        sampling_work_destroy(&w);
        int total = 0;
        for (int i = 0; i < n; i++) mass += exp(left[i].p), total += hits[left[i].id];
        assert_int_equal(total, DRAWS);
        for (int i = 0; i < n; i++) {
            const double want = DRAWS * exp(left[i].p) / mass;
            chi += (hits[left[i].id] - want) * (hits[left[i].id] - want) / want;
        }
        if (!(chi < 60)) fail_msg("setting %zu: chi-square %g over %d tokens", k, chi, n);
    }
}

static void logprobs_are_of_the_logits_as_they_are(void **state)
{
    (void)state;
    static trial t;
    static kn_candidates all[MOST_RANKS];
    dice = 11;
    for (int i = 0; i < 1000; i++) {
        make_trial(&t);
        t.row.logprobs = (int)roll(PLP_MOST_LOGPROBS + 1);
        const int ranks = 1 + (int)roll(MOST_RANKS);
        sampling_work *w;
        sampling_choice c;
        assert_int_equal(sampling_work_create(&w, t.vocab, ranks), PLP_OK);
        find_candidates(t.logits, t.vocab, ranks, &t.row, all);
        if (from_candidates(w, &t.row, all, ranks, &c) == SAMPLING_NEEDS_ROW)
            sampling_from_logits(w, &t.row, all, 1, ranks, t.logits, t.vocab, &c);
        sampling_work_destroy(&w);

        entry raw[MOST_VOCAB];
        double mass = 0;
        for (int v = 0; v < t.vocab; v++) raw[v] = (entry){ v, t.logits[v] }, mass += exp(t.logits[v]);
        assert_int_equal(c.token, brute_token(t.logits, t.vocab, &t.row));
        assert_true(fabs(c.logprob - (t.logits[c.token] - log(mass))) < 1e-5); /* float32 sums of at most 700 terms */
        qsort(raw, (size_t)t.vocab, sizeof *raw, by_p);
        assert_int_equal(c.tops, t.row.logprobs);
        for (int k = 0; k < c.tops; k++) {
            assert_int_equal(c.top_id[k], raw[k].id);
            assert_true(fabs(c.top_logprob[k] - (raw[k].p - log(mass))) < 1e-5);
        }
    }
}

static void a_row_with_a_nan_on_one_rank_is_refused(void **state)
{
    (void)state;
    static trial t;
    static kn_candidates all[3];
    const float bad[] = { NAN, INFINITY, -INFINITY };
    dice = 4;
    for (int i = 0; i < 60; i++) {
        make_trial(&t);
        t.logits[roll((uint32_t)t.vocab)] = bad[i % 3];
        sampling_work *w;
        sampling_choice c;
        assert_int_equal(sampling_work_create(&w, t.vocab, 3), PLP_OK);
        find_candidates(t.logits, t.vocab, 3, &t.row, all);
        assert_int_equal(from_candidates(w, &t.row, all, 3, &c), SAMPLING_NOT_FINITE);
        sampling_work_destroy(&w);
    }
}

/* As where all that is allowed is: they are drawn all the same. */
static void a_row_whose_ids_are_all_banned_is_drawn_from(void **state)
{
    (void)state;
    enum { ALL = 40 };
    static trial t;
    static kn_candidates all[3];
    int every[ALL];
    for (int i = 0; i < ALL; i++) every[i] = i;
    dice = 5;
    for (int i = 0; i < 60; i++) {
        make_trial(&t);
        t.row.bans = t.row.alloweds = 0;
        const int wanted = brute_token(t.logits, ALL, &(sampling_row){ .params = t.row.params, .position = t.row.position });
        t.row.penalties = t.row.biases = 0, t.params.repetition = 1, t.params.presence = t.params.frequency = 0;
        t.row.banned = every, t.row.bans = ALL;
        sampling_work *w;
        sampling_choice c;
        assert_int_equal(sampling_work_create(&w, ALL, 3), PLP_OK);
        find_candidates(t.logits, ALL, 3, &t.row, all);
        assert_int_equal(from_candidates(w, &t.row, all, 3, &c), SAMPLING_NEEDS_ROW);
        sampling_from_logits(w, &t.row, all, 1, 3, t.logits, ALL, &c);
        assert_int_equal(c.token, wanted);
        sampling_work_destroy(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(candidates_and_rows_agree_with_brute_force),
        cmocka_unit_test(ties_go_to_the_lower_id),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(logprobs_are_of_the_logits_as_they_are),
        cmocka_unit_test(a_row_with_a_nan_on_one_rank_is_refused),
        cmocka_unit_test(a_row_whose_ids_are_all_banned_is_drawn_from),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
