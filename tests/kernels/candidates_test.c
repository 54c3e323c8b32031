#include "kernel_test.h"

#include "kernels/choose.h"

#include <stdlib.h>
#include <string.h>

/* Logits are multiples of 1/16, temperatures and penalties powers of two: p is exact in float32, ties are many and their order is known.
 * INEXACT rows use any numbers; there the order of nearly equal p is the backend's. */
enum { INEXACT = 1, PENALTIES = 2, HUGE_LOGITS = 4, NOT_FINITE = 8 };

/* The whole block of Philox4x32-10, as published. */
static void philox(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
        const uint64_t a = (uint64_t)0xD2511F53 * c[0], b = (uint64_t)0xCD9E8D57 * c[2];
        const uint32_t next[4] = { (uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a };
        memcpy(c, next, sizeof next);
    }
}

static double gumbel(uint64_t seed, int64_t position, int token)
{
    uint32_t c[4] = { (uint32_t)position, (uint32_t)((uint64_t)position >> 32), (uint32_t)token, 0 };
    philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
    return -log(-log(((c[0] >> 9) + 0.5) / (1 << 23)));
}

/* Known answers of the Random123 library, and kn_gumbel against float64. */
static void run_gumbel(kt *t, const int *size)
{
    static const uint32_t known[3][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };
    for (int i = 0; i < 3; i++) {
        uint32_t c[4];
        memcpy(c, known[i], sizeof c);
        philox(c, known[i][4], known[i][5]);
        if (memcmp(c, known[i] + 6, sizeof c) != 0) kt_fail(t, "the reference's Philox misses known answer %d", i);
    }
    for (int i = 0; i < size[0]; i++) {
        const uint64_t seed = (uint64_t)kt_below(t, 1 << 30) << 20 | (uint64_t)kt_below(t, 1 << 20);
        const int64_t position = (int64_t)kt_below(t, 1 << 30) << (i % 3 * 8);
        const int token = i % 2 ? kt_below(t, 1 << 17) : i;
        const double got = kn_gumbel(seed, position, token), want = gumbel(seed, position, token);
        if (!kt_near(t, PLP_F32, got, want)) kt_fail(t, "noise %d is %.9g, want %.9g", i, got, want);
    }
}

/* Every noise that there is: not above what a draw takes for its bound, and that not far above where noise is high. */
static void run_noise_below(kt *t, const int *size)
{
    (void)size;
    for (int i = 0; i < 1 << 23; i++) {
        const float u = ((float)i + 0.5f) * 0x1p-23f, noise = kn_noise_of(u), most = kn_noise_below(u);
        if (!(noise <= most) || (u > 0.99f && !(most < noise + 0.07f))) kt_fail(t, "u %.9g: noise %.9g, bound %.9g", u, noise, most);
    }
}

typedef struct {
    double p;
    int id;
} ranked;

static int better_first(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : (x->id > y->id) - (x->id < y->id);
}

static void max_and_sum(const double *v, int n, double *max, double *sum)
{
    *max = -INFINITY, *sum = 0;
    for (int i = 0; i < n; i++) *max = v[i] > *max ? v[i] : *max;
    for (int i = 0; i < n; i++) *sum += exp(v[i] - *max);
}

static void check_row(kt *t, const kn_candidates *o, const kn_sample_row *r, const double *raw, const double *p, int first, int valid,
                      bool exact)
{
    double max, sum;
    max_and_sum(raw, valid, &max, &sum);
    if (!o->finite) kt_fail(t, "finite is 0");
    if (!kt_near(t, PLP_F32, o->raw_max, max) || !kt_near(t, PLP_F32, o->raw_sum, sum))
        kt_fail(t, "raw max %.9g sum %.9g, want %.9g %.9g", o->raw_max, o->raw_sum, max, sum);
    max_and_sum(p, valid, &max, &sum);
    if (!kt_near(t, PLP_F32, o->max, max) || !kt_near(t, PLP_F32, o->sum, sum))
        kt_fail(t, "max %.9g sum %.9g, want %.9g %.9g", o->max, o->sum, max, sum);

    ranked *order = kt_host(t, (size_t)valid * sizeof *order);
    double best = -INFINITY;
    for (int i = 0; i < valid; i++) {
        order[i] = (ranked){ p[i], i };
        const double score = p[i] + (r->inv_temperature > 0 ? gumbel(r->seed, r->position, first + i) : 0);
        if (score > best) best = score;
    }
    qsort(order, (size_t)valid, sizeof *order, better_first);
    const int count = valid < KN_CANDIDATES ? valid : KN_CANDIDATES;
    if (o->count != count) kt_fail(t, "count %d, want %d", o->count, count);
    for (int i = 0; i < count && i < o->count; i++) {
        const int v = o->id[i] - first;
        if (v < 0 || v >= valid || (exact && v != order[i].id))
            kt_fail(t, "id[%d] is %d, want %d", i, o->id[i], order[i].id + first);
        else if (!kt_near(t, PLP_F32, o->p[i], order[i].p) || !kt_near(t, PLP_F32, o->p[i], p[v]) || o->raw[i] != raw[v])
            kt_fail(t, "p[%d] is %.9g, raw %.9g; want %.9g, %.9g", i, o->p[i], o->raw[i], order[i].p, raw[v]);
        for (int j = 0; j < i; j++)
            if (o->id[j] == o->id[i] || o->p[j] < o->p[i]) kt_fail(t, "candidates %d and %d are equal or out of order", j, i);
    }
    const int drawn = o->drawn_id - first;
    if (valid == 0) return;
    if (drawn < 0 || drawn >= valid) {
        kt_fail(t, "drawn id %d outside %d .. %d", o->drawn_id, first, first + valid - 1);
        return;
    }
    const double score = p[drawn] + (r->inv_temperature > 0 ? gumbel(r->seed, r->position, o->drawn_id) : 0);
    if (!kt_near(t, PLP_F32, o->drawn_score, best) || !kt_near(t, PLP_F32, score, best))
        kt_fail(t, "drawn %d with %.9g (%.9g), best is %.9g", o->drawn_id, o->drawn_score, score, best);
    if (r->inv_temperature == 0 && exact && drawn != order[0].id) kt_fail(t, "greedy id %d, want %d", o->drawn_id, order[0].id + first);
    if (!kt_near(t, PLP_F32, o->drawn_p, p[drawn]) || o->drawn_raw != raw[drawn])
        kt_fail(t, "drawn p %.9g raw %.9g, want %.9g %.9g", o->drawn_p, o->drawn_raw, p[drawn], raw[drawn]);
}

static void run(kt *t, const int *size)
{
    enum { LISTED = 40 };
    const int rows = size[0], first = size[1], valid = size[2], flags = size[3], ld = valid + 9;
    const bool exact = !(flags & INEXACT);
    kt_array logits = kt_matrix(t, PLP_F32, rows, valid, ld, flags & HUGE_LOGITS ? 3000 : 3); /* padding is NaN: it must not be looked at */
    for (size_t i = 0; i < logits.n && exact; i++) logits.v[i] = nearbyint(logits.v[i] * 16) / 16;
    for (int i = 0; i < rows && flags & NOT_FINITE; i++)
        logits.v[i * ld + kt_below(t, valid)] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    kt_put(t, &logits);
    kn_sample_row *row = kt_host(t, (size_t)rows * sizeof *row);
    int *id = kt_host(t, (size_t)rows * LISTED * sizeof *id), *hits = kt_host(t, (size_t)rows * LISTED * sizeof *hits);
    double *p = kt_host(t, (size_t)(rows * valid) * sizeof *p);
    for (int i = 0; i < rows; i++) {
        static const float temperatures[] = { 0, 1, 2, 0.5f };
        row[i] = (kn_sample_row){ .inv_temperature = exact ? temperatures[i % 4] : (float)kt_uniform(t, 0.3, 3),
                                  .repetition = 1,
                                  .seed = (uint64_t)kt_below(t, 1 << 30) << 17,
                                  .position = kt_below(t, 5000),
                                  .top_p = 1,
                                  .penalty_first = i * LISTED };
        const double by = row[i].inv_temperature > 0 ? row[i].inv_temperature : 1;
        if (flags & PENALTIES && i % 3 != 2) {
            row[i].penalty_count = LISTED - i % 2;
            row[i].repetition = exact ? (i % 2 ? 2 : 0.5f) : 1.3f;
            row[i].presence = exact ? 0.25f : 0.3f;
            row[i].frequency = exact ? -0.5f : 0.7f;
        }
        for (int j = 0; j < valid; j++) p[i * valid + j] = logits.v[i * ld + j] * by;
        for (int j = 0; j < LISTED; j++) { /* distinct ids, some of other ranks */
            const int v = (j * (valid / 16 + 1) + i) - valid / 4;
            id[i * LISTED + j] = v + first, hits[i * LISTED + j] = j % 4;
            if (v < 0 || v >= valid || j >= row[i].penalty_count) continue;
            const double raw = logits.v[i * ld + v], score = raw < 0 ? raw * row[i].repetition : raw / row[i].repetition;
            p[i * valid + v] = (score - (j % 4 > 0 ? row[i].presence + row[i].frequency * (j % 4) : 0)) * by;
        }
    }
    kn_candidates *got = kt_host(t, (size_t)rows * sizeof *got), *poison = kt_host(t, (size_t)rows * sizeof *poison);
    memset(poison, 0xff, (size_t)rows * sizeof *poison);
    const kn_candidates_args a = { .rows = rows,
                                   .first = first,
                                   .valid = valid,
                                   .logits = logits.p,
                                   .ld = ld,
                                   .row = kt_upload(t, row, (size_t)rows * sizeof *row),
                                   .penalty_id = kt_upload(t, id, (size_t)rows * LISTED * sizeof *id),
                                   .penalty_hits = kt_upload(t, hits, (size_t)rows * LISTED * sizeof *hits),
                                   .out = kt_upload(t, poison, (size_t)rows * sizeof *poison) };
    kn_candidates *alone = kt_host(t, (size_t)rows * sizeof *alone);
    kn_candidates_args drawn = a;
    drawn.drawn_alone = true;
    if (!kt_ok(t, t->kn->candidates(t->c, &drawn))) return;
    kt_ok(t, t->kn->to_host(t->c, alone, a.out, (size_t)rows * sizeof *alone));
    kt_ok(t, t->kn->sync(t->c));
    if (!kt_ok(t, t->kn->candidates(t->c, &a))) return;
    kt_ok(t, t->kn->sync(t->c));
    kt_ok(t, t->kn->to_host(t->c, got, a.out, (size_t)rows * sizeof *got));
    kt_ok(t, t->kn->sync(t->c));
    for (int i = 0; i < rows; i++)
        if (alone[i].finite != got[i].finite ||
            (got[i].finite && (alone[i].drawn_id != got[i].drawn_id || alone[i].drawn_score != got[i].drawn_score ||
                               alone[i].drawn_p != got[i].drawn_p || alone[i].drawn_raw != got[i].drawn_raw)))
            kt_fail(t, "row %d: %d is drawn with the list, %d without", i, got[i].drawn_id, alone[i].drawn_id);
    for (int i = 0; i < rows; i++)
        if (flags & NOT_FINITE) {
            if (got[i].finite != 0) kt_fail(t, "row %d: finite is %d", i, got[i].finite);
        } else
            check_row(t, got + i, row + i, logits.v + i * ld, p + i * valid, first, valid, exact);
}

/* kn->choose against its definition on the host, from the same lists: a token of another place in them must be as good up to rounding.  The
 * rule itself answers to float64 in tests/unit/test_sampling.c.  Then kn->feed. */
static void run_choose(kt *t, const int *size)
{
    const int rows = size[0], ranks = size[1], vocab = size[2];
    const size_t lists = (size_t)(rows * ranks), items = (size_t)ranks * KN_CANDIDATES;
    kn_candidates *all = kt_host(t, lists * sizeof *all);
    kn_sample_row *row = kt_host(t, (size_t)rows * sizeof *row);
    kn_item *sorted = kt_host(t, items * sizeof *sorted);
    kn_choice *got = kt_host(t, (size_t)rows * sizeof *got);
    int *next = kt_host(t, lists * sizeof *next), *ids = kt_host(t, (size_t)rows * 2 * sizeof *ids);
    for (int i = 0; i < rows; i++) {
        row[i] = (kn_sample_row){ .inv_temperature = i % 5 ? (float)kt_uniform(t, 0.3, 2) : 0,
                                  .seed = (uint64_t)kt_below(t, 1 << 30),
                                  .position = kt_below(t, 5000),
                                  .top_k = i % 4 ? 0 : 1 + kt_below(t, 100),
                                  .top_p = i % 3 ? 1 : kt_uniform(t, 0.2, 1),
                                  .min_p = i % 7 ? 0 : kt_uniform(t, 0, 0.2) };
        for (int r = 0; r < ranks; r++) {
            const int first = r * vocab / ranks, own = (r + 1) * vocab / ranks - first;
            kt_array logits = kt_random(t, PLP_F32, (size_t)own, 0, 3);
            if (i % 11 == 10 && r == ranks - 1) {
                logits.v[own / 2] = NAN;
                kt_put(t, &logits);
            }
            const kn_candidates_args a = { .rows = 1,
                                           .first = first,
                                           .valid = own,
                                           .logits = logits.p,
                                           .ld = own,
                                           .row = kt_upload(t, row + i, sizeof *row),
                                           .out = kt_upload(t, all, sizeof *all) };
            if (!kt_ok(t, t->kn->candidates(t->c, &a))) return;
            kt_ok(t, t->kn->to_host(t->c, all + r * rows + i, a.out, sizeof *all));
            kt_ok(t, t->kn->sync(t->c));
        }
    }
    const kn_choose_args a = { .rows = rows,
                               .ranks = ranks,
                               .all = kt_upload(t, all, lists * sizeof *all),
                               .row = kt_upload(t, row, (size_t)rows * sizeof *row),
                               .sorted = kt_upload(t, kt_host(t, rows * items * sizeof *sorted), rows * items * sizeof *sorted),
                               .next = kt_upload(t, next, lists * sizeof *next),
                               .out = kt_upload(t, got, (size_t)rows * sizeof *got) };
    for (int i = 0; i < rows; i++) ids[i] = i % 3 ? ~(rows - 1 - i) : i;
    int *there = kt_upload(t, ids, (size_t)rows * sizeof *ids);
    if (!kt_ok(t, t->kn->choose(t->c, &a)) || !kt_ok(t, t->kn->feed(t->c, there, a.out, rows))) return;
    kt_ok(t, t->kn->to_host(t->c, got, a.out, (size_t)rows * sizeof *got));
    kt_ok(t, t->kn->to_host(t->c, ids + rows, there, (size_t)rows * sizeof *ids));
    kt_ok(t, t->kn->sync(t->c));
    int outcomes[3] = { 0 };
    for (int i = 0; i < rows; i++) {
        const kn_choice want = kn_choose_row(row + i, all + i, rows, ranks, sorted, next);
        outcomes[want.outcome]++;
        if (got[i].outcome != want.outcome) kt_fail(t, "row %d: outcome %d, want %d", i, got[i].outcome, want.outcome);
        const int fed = i % 3 ? got[rows - 1 - i].token : i;
        if (ids[rows + i] != fed) kt_fail(t, "id %d is %d, want %d", i, ids[rows + i], fed);
        if (got[i].token == want.token && (want.outcome != KN_CHOSEN || got[i].raw == want.raw)) continue;
        const double by = row[i].inv_temperature;
        const double a_score = got[i].raw * by + kn_gumbel(row[i].seed, row[i].position, got[i].token);
        const double b_score = want.raw * by + kn_gumbel(row[i].seed, row[i].position, want.token);
        if (!kt_near(t, PLP_F32, a_score, b_score))
            kt_fail(t, "row %d: token %d (%.9g), want %d (%.9g)", i, got[i].token, a_score, want.token, b_score);
    }
    if (outcomes[KN_CHOSEN] < rows / 2 || outcomes[KN_NOT_FINITE] == 0 || (ranks == 1 && outcomes[KN_NEEDS_ROW] == 0))
        kt_fail(t, "outcomes %d, %d, %d: the rows are not the ones that were meant", outcomes[0], outcomes[1], outcomes[2]);
}

/* rtol 1e-5 for sums of up to 50k exponentials in float32, atol 1e-5 for scores around 20. */
const kt_case kt_candidates_rows[] = {
    /* name                      run  rows first valid flags             rtol  atol */
    { "gumbel", run_gumbel, { 10000 }, 2e-6, 1e-6 }, /* two logarithms: near u = 1/e the noise is near 0, so atol counts */
    { "gumbel.below", run_noise_below, { 0 }, 0, 0 },
    { "candidates.vocabulary", run, { 4, 0, 50288, 0 }, 1e-5, 1e-5 },
    { "candidates.shard", run, { 5, 12572, 12572, PENALTIES }, 1e-5, 1e-5 },
    { "candidates.small", run, { 8, 64, 63, PENALTIES }, 1e-5, 1e-5 },
    { "candidates.sixty_four", run, { 4, 7, 64, 0 }, 1e-5, 1e-5 },
    { "candidates.one", run, { 4, 3, 1, 0 }, 1e-5, 1e-5 },
    { "candidates.nothing", run, { 3, 3, 0, 0 }, 1e-5, 1e-5 },
    { "candidates.general", run, { 17, 100, 1003, INEXACT | PENALTIES }, 1e-5, 1e-5 },
    { "candidates.huge", run, { 5, 0, 257, HUGE_LOGITS }, 1e-5, 1e-5 },
    { "choose.one_rank", run_choose, { 70, 1, 5000 }, 1e-5, 1e-5 },
    { "choose.ranks", run_choose, { 100, 3, 5000 }, 1e-5, 1e-5 },
    { "choose.small", run_choose, { 60, 4, 90 }, 1e-5, 1e-5 },
    { "candidates.not_finite", run, { 9, 0, 500, NOT_FINITE }, 1e-5, 1e-5 },
    { 0 }
};
