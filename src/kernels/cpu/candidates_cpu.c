#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"

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

static void select_top(kn_candidates *o, const float *p, int n)
{
    o->count = n < KN_CANDIDATES ? n : KN_CANDIDATES;
    for (int i = 0; i < o->count; i++) o->id[i] = i, o->p[i] = p[i];
    for (int i = o->count / 2 - 1; i >= 0; i--) sift_down(o, i, o->count);
    for (int i = o->count; i < n; i++)
        if (p[i] > o->p[0]) { /* ids come in rising order: an equal one is worse */
            o->id[0] = i, o->p[0] = p[i];
            sift_down(o, 0, o->count);
        }
    for (int left = o->count - 1; left > 0; left--) { /* heap sort: the worst goes last */
        swap(o, 0, left);
        sift_down(o, 0, left);
    }
}

static void draw(kn_candidates *o, const kn_sample_row *r, const float *p, int n, int first)
{
    o->drawn_score = -INFINITY;
    o->drawn_id = n ? 0 : -1;
    for (int i = 0; i < n; i++) {
        const float score = p[i] + (r->inv_temperature > 0 ? kn_gumbel(r->seed, r->position, first + i) : 0);
        if (score > o->drawn_score) o->drawn_score = score, o->drawn_id = i;
    }
}

static void row(const kn_candidates_args *a, int t, float *p)
{
    const float *logits = a->logits + t * a->ld;
    const kn_sample_row *r = a->row + t;
    kn_candidates *o = a->out + t;
    o->finite = all_finite(logits, a->valid);
    max_and_sum(logits, a->valid, &o->raw_max, &o->raw_sum);
    scale(p, logits, r->inv_temperature > 0 ? r->inv_temperature : 1, a->valid);
    penalise(a, r, p, logits);
    max_and_sum(p, a->valid, &o->max, &o->sum);
    select_top(o, p, a->valid);
    draw(o, r, p, a->valid, a->first);
    o->drawn_raw = a->valid ? logits[o->drawn_id] : -INFINITY;
    o->drawn_p = a->valid ? p[o->drawn_id] : -INFINITY;
    o->drawn_id += a->valid ? a->first : 0;
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
