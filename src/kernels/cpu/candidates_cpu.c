#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"
#include "kernels/choose.h"

enum {
    STEP = 64,      /* of a row of logits: what noise is computed for together, or not at all                      */
    COLUMNS = 256,  /* into which a row is dealt, to learn how large the best must be                              */
    GROUP = 64,     /* what is then looked at together, before single ones                                         */
    MOST_KEYS = 256 /* collected before the worst are dropped; few rows of logits come to so many                  */
};

size_t kn_candidates_scratch(int valid) { return (size_t)valid * sizeof(float); }

/* Max and sum exp(v - max). */
KN_CLONES static void max_and_sum(const float *restrict v, int n, float *max_of, float *sum_of)
{
    float max = -INFINITY;
    double sum = 0;
#pragma omp simd reduction(max : max)
    for (int i = 0; i < n; i++) max = v[i] > max ? v[i] : max;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += kn_expf(v[i] - max);
    *max_of = max;
    *sum_of = (float)sum;
}

KN_CLONES static bool all_finite(const float *restrict v, int n)
{
    unsigned bad = 0;
    for (int i = 0; i < n; i++) bad |= (kn_bits_of(v[i]) & 0x7f800000u) == 0x7f800000u;
    return !bad;
}

KN_CLONES static void scale(float *restrict p, const float *restrict v, float by, int n)
{
    for (int i = 0; i < n; i++) p[i] = v[i] * by;
}

/* As vLLM: repetition for every id seen, presence and frequency for those of the output. */
static void penalise(const kn_candidates_args *a, const kn_sample_row *r, float *p, const float *logits)
{
    const float by = r->inv_temperature > 0 ? r->inv_temperature : 1;
    for (int i = r->penalty_first; i < r->penalty_first + r->penalty_count; i++) {
        const int v = a->penalty_id[i] - a->first;
        if (v < 0 || v >= a->valid) continue;
        float score = logits[v];
        score = score < 0 ? score * r->repetition : score / r->repetition;
        if (a->penalty_hits[i] > 0) score -= r->presence + r->frequency * (float)a->penalty_hits[i];
        p[v] = score * by;
    }
}

/* A candidate as one number that is the larger the better: p, and among equal ones (0 and -0 are) the lower id. */
KN_INLINE uint32_t order_of(float p)
{
    const uint32_t bits = kn_bits_of(p + 0.f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
KN_INLINE uint64_t key_of(uint32_t order, int i) { return (uint64_t)order << 32 | (uint32_t)~i; }
KN_INLINE int id_of(uint64_t key) { return (int)~(uint32_t)key; }

/* Leaves the best `most` of n <= MOST_KEYS different keys, in order; returns how many there are.  A key's place is how many are better:
 * more comparisons than a heap makes, but sixteen at a time, and none is guessed wrong. */
KN_CLONES static int keep_best(uint64_t *key, int n, int most)
{
    enum { PADDING = 16 };
    uint64_t was[MOST_KEYS + PADDING];
    memcpy(was, key, (size_t)n * sizeof *was);
    memset(was + n, 0, PADDING * sizeof *was);
    const int padded = (n + PADDING - 1) / PADDING * PADDING;
    for (int i = 0; i < n; i++) {
        const uint64_t mine = was[i];
        uint64_t better = 0;
#pragma omp simd reduction(+ : better)
        for (int j = 0; j < padded; j++) better += was[j] > mine;
        if (better < (uint64_t)most) key[better] = mine;
    }
    return n < most ? n : most;
}

/* What at least KN_CANDIDATES of n numbers are not below, and not many more: so many columns have a larger one, when all are laid out in
 * rows of COLUMNS.  Found bit by bit. */
KN_CLONES static uint32_t least_of_best(const float *restrict p, int n)
{
    uint32_t largest[COLUMNS] = { 0 }, least = 0;
    for (int i = 0; i < n; i += COLUMNS) {
        const int m = n - i < COLUMNS ? n - i : COLUMNS;
        for (int j = 0; j < m; j++) largest[j] = order_of(p[i + j]) > largest[j] ? order_of(p[i + j]) : largest[j];
    }
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        int columns = 0;
        for (int j = 0; j < COLUMNS; j++) columns += largest[j] >= (least | bit);
        if (columns >= KN_CANDIDATES) least |= bit;
    }
    return least;
}

/* Appends those of p[first, last) that are at least `least`. */
KN_CLONES static int collect(uint64_t *key, int count, const float *restrict p, int first, int last, uint32_t least)
{
    unsigned any = 0;
    for (int i = first; i < last; i++) any |= order_of(p[i]) >= least;
    for (int i = first; i < last && any; i++) {
        const uint32_t order = order_of(p[i]);
        key[count] = key_of(order, i);
        count += order >= least;
    }
    return count;
}

static void select_top(kn_candidates *o, const float *p, int n)
{
    uint64_t key[MOST_KEYS];
    uint32_t least = n > KN_CANDIDATES ? least_of_best(p, n) : 0;
    int count = 0;
    for (int i = 0; i < n; i += GROUP) {
        if (count + GROUP > MOST_KEYS) { /* ids rise: an equal p is worse from here on */
            count = keep_best(key, count, KN_CANDIDATES);
            least = (uint32_t)(key[count - 1] >> 32) + 1;
        }
        count = collect(key, count, p, i, i + GROUP < n ? i + GROUP : n, least);
    }
    o->count = keep_best(key, count, KN_CANDIDATES);
    for (int i = 0; i < o->count; i++) o->id[i] = id_of(key[i]), o->p[i] = p[o->id[i]];
}

/* The highest p + noise.  Most stretches of p cannot have it, whatever their u: so they are spared the noise's logarithms. */
KN_CLONES static void draw(kn_candidates *o, const kn_sample_row *r, const float *restrict p, int n, int first)
{
    const uint64_t seed = r->seed;
    const int64_t position = r->position;
    o->drawn_score = -INFINITY;
    o->drawn_id = 0;
    for (int i = 0; i < n; i += STEP) {
        float u[STEP], score[STEP], reach = -INFINITY, best = -INFINITY;
        const int m = n - i < STEP ? n - i : STEP;
#pragma omp simd reduction(max : reach)
        for (int j = 0; j < m; j++) {
            u[j] = kn_noise_u(seed, position, first + i + j);
            const float most = p[i + j] + kn_noise_below(u[j]);
            reach = most > reach ? most : reach;
        }
        if (!(reach > o->drawn_score)) continue;
#pragma omp simd reduction(max : best)
        for (int j = 0; j < m; j++) {
            score[j] = p[i + j] + kn_noise_of(u[j]);
            best = score[j] > best ? score[j] : best;
        }
        for (int j = 0; j < m && best > o->drawn_score; j++)
            if (score[j] == best) o->drawn_score = best, o->drawn_id = i + j;
    }
}

/* The largest: of equal ones the first, as in the list. */
KN_CLONES static int first_of_best(const float *restrict p, int n)
{
    float max = -INFINITY;
    int i = 0;
#pragma omp simd reduction(max : max)
    for (int j = 0; j < n; j++) max = p[j] > max ? p[j] : max;
    while (i < n - 1 && p[i] != max) i++;
    return i;
}

static void row(const kn_candidates_args *a, int t, float *scratch)
{
    const float *logits = a->logits + t * a->ld, *p = logits;
    const kn_sample_row *r = a->row + t;
    kn_candidates *o = a->out + t;
    const bool greedy = !(r->inv_temperature > 0), same = (greedy || r->inv_temperature == 1) && r->penalty_count == 0;
    const bool listed = !a->drawn_alone || kn_filters(r);
    o->finite = all_finite(logits, a->valid);
    o->count = 0, o->raw_max = -INFINITY, o->raw_sum = 0;
    if (listed) max_and_sum(logits, a->valid, &o->raw_max, &o->raw_sum);
    o->max = o->raw_max, o->sum = o->raw_sum;
    if (!same) {
        scale(scratch, logits, greedy ? 1 : r->inv_temperature, a->valid);
        penalise(a, r, scratch, logits);
        if (listed) max_and_sum(scratch, a->valid, &o->max, &o->sum);
        p = scratch;
    }
    if (listed) select_top(o, p, a->valid);
    o->drawn_id = -1, o->drawn_score = o->drawn_p = o->drawn_raw = -INFINITY; /* of an empty range */
    if (a->valid > 0) {
        if (greedy)
            o->drawn_id = first_of_best(p, a->valid), o->drawn_score = p[o->drawn_id];
        else
            draw(o, r, p, a->valid, a->first);
        o->drawn_p = p[o->drawn_id];
        o->drawn_raw = logits[o->drawn_id];
        o->drawn_id += a->first;
    }
    for (int i = 0; i < o->count; i++) {
        o->raw[i] = logits[o->id[i]];
        o->id[i] += a->first;
    }
}

plp_status kn_candidates_cpu(kn_context *c, const kn_candidates_args *a)
{
    PLP_TRY(kn_scratch_holds(c, "candidates", kn_candidates_scratch(a->valid)));
    const int threads = kn_threads(c, 16.0 * a->rows * a->valid);
    KN_EACH(c, threads, t, a->rows, row(a, t, (float *)kn_scratch(c)));
    return PLP_OK;
}
