#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"
#include "kernels/gumbel.h"

enum { STEP = 256 }; /* of a row of logits: what is looked at together, before single ones */

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

/* The list is a heap while it fills: worst first, where equal p are worse for the higher id. */
static bool worse(const kn_candidates *o, int i, int j) { return o->p[i] < o->p[j] || (o->p[i] == o->p[j] && o->id[i] > o->id[j]); }
static void swap(kn_candidates *o, int i, int j)
{
    const int id = o->id[i];
    const float p = o->p[i];
    o->id[i] = o->id[j], o->p[i] = o->p[j];
    o->id[j] = id, o->p[j] = p;
}
static void sift_down(kn_candidates *o, int i, int count)
{
    for (int child = 2 * i + 1; child < count; i = child, child = 2 * i + 1) {
        if (child + 1 < count && worse(o, child + 1, child)) child++;
        if (!worse(o, child, i)) return;
        swap(o, i, child);
    }
}

KN_CLONES static bool any_above(const float *p, int n, float least)
{
    int above = 0;
    for (int i = 0; i < n; i++) above |= p[i] > least;
    return above;
}

static void select_top(kn_candidates *o, const float *p, int n)
{
    o->count = n < KN_CANDIDATES ? n : KN_CANDIDATES;
    for (int i = 0; i < o->count; i++) o->id[i] = i, o->p[i] = p[i];
    for (int i = o->count / 2 - 1; i >= 0; i--) sift_down(o, i, o->count);
    for (int i = o->count; i < n; i += STEP) {
        const int m = n - i < STEP ? n - i : STEP;
        if (!any_above(p + i, m, o->p[0])) continue;
        for (int j = 0; j < m; j++)
            if (p[i + j] > o->p[0]) { /* ids come in rising order: an equal one is worse */
                o->id[0] = i + j, o->p[0] = p[i + j];
                sift_down(o, 0, o->count);
            }
    }
    for (int left = o->count - 1; left > 0; left--) { /* heap sort: the worst goes last */
        swap(o, 0, left);
        sift_down(o, 0, left);
    }
}

/* The highest p + noise. */
KN_CLONES static void draw(kn_candidates *o, const kn_sample_row *r, const float *restrict p, int n, int first)
{
    const uint64_t seed = r->seed;
    const int64_t position = r->position;
    o->drawn_score = -INFINITY;
    o->drawn_id = 0;
    for (int i = 0; i < n; i += STEP) {
        float score[STEP], best = -INFINITY;
        const int m = n - i < STEP ? n - i : STEP;
#pragma omp simd reduction(max : best)
        for (int j = 0; j < m; j++) {
            score[j] = p[i + j] + kn_noise(seed, position, first + i + j);
            best = score[j] > best ? score[j] : best;
        }
        for (int j = 0; j < m && best > o->drawn_score; j++)
            if (score[j] == best) o->drawn_score = best, o->drawn_id = i + j;
    }
}

static void row(const kn_candidates_args *a, int t, float *scratch)
{
    const float *logits = a->logits + t * a->ld, *p = logits;
    const kn_sample_row *r = a->row + t;
    kn_candidates *o = a->out + t;
    const bool greedy = !(r->inv_temperature > 0), same = (greedy || r->inv_temperature == 1) && r->penalty_count == 0;
    o->finite = all_finite(logits, a->valid);
    max_and_sum(logits, a->valid, &o->raw_max, &o->raw_sum);
    o->max = o->raw_max, o->sum = o->raw_sum;
    if (!same) {
        scale(scratch, logits, greedy ? 1 : r->inv_temperature, a->valid);
        penalise(a, r, scratch, logits);
        max_and_sum(scratch, a->valid, &o->max, &o->sum);
        p = scratch;
    }
    select_top(o, p, a->valid);
    o->drawn_id = -1, o->drawn_score = o->drawn_p = o->drawn_raw = -INFINITY; /* of an empty range */
    if (a->valid > 0) {
        if (greedy)
            o->drawn_id = o->id[0], o->drawn_score = o->p[0];
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
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int t = 0; t < a->rows; t++) row(a, t, (float *)kn_scratch(c));
    return PLP_OK;
}
