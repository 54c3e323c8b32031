#include "engine/sampling.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>

enum { FIRST_SORTED = 256 }; /* of a whole row: how many are put in order before the filters are asked; doubled until they are content */
static const double COLDEST = 1e-4; /* a temperature below is 0: its reciprocal leaves no digits to the noise */

typedef struct {
    int id;
    float p, raw;
} item;

struct sampling_work {
    item *heap, *sorted; /* (vocab) or (ranks * KN_CANDIDATES), whichever is more */
    int *next;           /* (ranks) */
};

plp_status sampling_work_create(sampling_work **out, int vocab, int ranks)
{
    plp_status st = PLP_OK;
    sampling_work *w = NULL;
    const size_t lists = (size_t)ranks * KN_CANDIDATES, room = lists > (size_t)vocab ? lists : (size_t)vocab;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(w = calloc(1, sizeof *w)));
    PLP_DO(PLP_ALLOCATED(w->heap = malloc(room * sizeof *w->heap)));
    PLP_DO(PLP_ALLOCATED(w->sorted = malloc(room * sizeof *w->sorted)));
    PLP_DO(PLP_ALLOCATED(w->next = malloc((size_t)ranks * sizeof *w->next)));
    *out = w, w = NULL;
done:
    sampling_work_destroy(&w);
    return st;
}

void sampling_work_destroy(sampling_work **w)
{
    if (*w == NULL) return;
    free((*w)->heap);
    free((*w)->sorted);
    free((*w)->next);
    free(*w);
    *w = NULL;
}

bool sampling_penalises(const plp_sampling *s) { return s->repetition != 1 || s->presence != 0 || s->frequency != 0; }

static bool greedy(const plp_sampling *s) { return s->temperature < COLDEST; }
static bool filters(const plp_sampling *s) { return !greedy(s) && (s->top_k > 0 || s->top_p < 1 || s->min_p > 0); }

kn_sample_row sampling_kernel_row(const sampling_row *r, int penalty_first)
{
    const plp_sampling *s = r->params;
    return (kn_sample_row){
        .inv_temperature = greedy(s) ? 0 : (float)(1 / s->temperature),
        .repetition = (float)s->repetition,
        .presence = (float)s->presence,
        .frequency = (float)s->frequency,
        .seed = s->seed,
        .position = r->position,
        .penalty_first = penalty_first,
        .penalty_count = r->penalties,
    };
}

/* ------------------------------------------------------------------------------------------------------------------- the rule */

/* Of n items in order, best first, how many the filters leave.  `complete`: there are no others; else -1 when n of them do not settle it.
 * mass: sum exp(p - best) over the whole vocabulary. */
static int survivors(const item *v, int n, bool complete, double mass, const plp_sampling *s)
{
    const double least = s->min_p > 0 ? v[0].p + log(s->min_p) : -INFINITY;
    const bool cut = s->top_k > 0 || s->min_p > 0;
    int left = 0;
    double sum = 0;
    while (left < n && (s->top_k == 0 || left < s->top_k) && v[left].p >= least) sum += exp((double)v[left++].p - v[0].p);
    const bool closed = complete || left < n || left == s->top_k;
    if (s->top_p >= 1) return closed ? left : -1;
    if (cut && !closed) return -1; /* top_p is a share of what the others leave */
    if (cut) mass = sum;
    sum = 0;
    for (int i = 0; i < left; i++) {
        sum += exp((double)v[i].p - v[0].p);
        if (sum >= s->top_p * mass) return i + 1;
    }
    return closed ? left : -1;
}

/* The largest p + noise of the first n; greedy: the first. */
static int draw(const item *v, int n, const sampling_row *r)
{
    if (greedy(r->params)) return 0;
    int best = 0;
    float most = -INFINITY;
    for (int i = 0; i < n; i++) {
        const float score = v[i].p + kn_gumbel(r->params->seed, r->position, v[i].id);
        if (score > most || (score == most && v[i].id < v[best].id)) most = score, best = i;
    }
    return best;
}

/* Keeps the `most` largest raw logits seen so far; equal ones: the lower id. */
static void offer(sampling_choice *c, int most, int id, double raw)
{
    int at = c->tops;
    while (at > 0 && (c->top_logprob[at - 1] < raw || (c->top_logprob[at - 1] == raw && c->top_id[at - 1] > id))) at--;
    if (at >= most) return;
    if (c->tops < most) c->tops++;
    for (int i = c->tops - 1; i > at; i--) c->top_id[i] = c->top_id[i - 1], c->top_logprob[i] = c->top_logprob[i - 1];
    c->top_id[at] = id, c->top_logprob[at] = raw;
}

double sampling_log_mass(const kn_candidates *all, int stride, int ranks)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < ranks; i++) max = fmax(max, all[i * stride].raw_max);
    for (int i = 0; i < ranks; i++) sum += all[i * stride].raw_sum * exp(all[i * stride].raw_max - max);
    return max + log(sum);
}

bool sampling_raw_of(const kn_candidates *all, int stride, int ranks, int id, double *raw)
{
    bool found = false;
    for (int i = 0; i < ranks; i++) {
        const kn_candidates *c = &all[i * stride];
        if (!c->finite) return false;
        for (int k = 0; k < c->count && !found; k++)
            if (c->id[k] == id) *raw = c->raw[k], found = true;
    }
    return found;
}

/* Raw logits become logprobs. */
static void normalise(sampling_choice *c, const kn_candidates *all, int stride, int ranks)
{
    const double mass = sampling_log_mass(all, stride, ranks);
    c->logprob -= mass;
    for (int i = 0; i < c->tops; i++) c->top_logprob[i] -= mass;
}

static bool banned(const sampling_row *r, int id)
{
    for (int i = 0; i < r->bans; i++)
        if (r->banned[i] == id) return true;
    return false;
}

static double mass_above(const kn_candidates *all, int stride, int ranks, float best)
{
    double mass = 0;
    for (int i = 0; i < ranks; i++) mass += all[i * stride].sum * exp((double)all[i * stride].max - best);
    return mass;
}

/* --------------------------------------------------------------------------------------------------------- from the candidates */

/* Merges the ranks' lists as far as the order is known: to the end of the first list that is cut off.  *complete: no list is. */
static int merge(sampling_work *w, const kn_candidates *all, int stride, int ranks, bool *complete)
{
    int n = 0;
    for (int i = 0; i < ranks; i++) w->next[i] = 0;
    for (;;) {
        int best = -1;
        item most = { 0 };
        for (int i = 0; i < ranks; i++) {
            const kn_candidates *c = &all[i * stride];
            const int k = w->next[i];
            if (k == c->count) continue;
            const item v = { c->id[k], c->p[k], c->raw[k] };
            if (best < 0 || v.p > most.p || (v.p == most.p && v.id < most.id)) best = i, most = v;
        }
        *complete = best < 0;
        if (best < 0) return n;
        w->sorted[n++] = most;
        if (++w->next[best] == KN_CANDIDATES) return n;
    }
}

/* Whether the token drawn from the whole vocabulary is among what the filters leave, although a list of n does not say where they end. */
static bool drawn_survives(const item *v, int n, double mass, const kn_candidates *drawn, const plp_sampling *s)
{
    if (s->min_p > 0 && drawn->drawn_p < v[0].p + log(s->min_p)) return false;
    if (s->top_k == 0 && s->top_p >= 1) return true;
    if (s->top_p < 1 && (s->top_k > 0 || s->min_p > 0)) return false; /* the share of an unknown mass */
    double before = 0;
    for (int i = 0; i < n; i++) {
        if (v[i].id == drawn->drawn_id) return s->top_k > 0 ? i < s->top_k : before < s->top_p * mass;
        before += exp((double)v[i].p - v[0].p);
    }
    return false;
}

sampling_result sampling_from_candidates(sampling_work *w, const sampling_row *r, const kn_candidates *all, int stride, int ranks,
                                         sampling_choice *choice)
{
    const plp_sampling *s = r->params;
    const kn_candidates *drawn = all; /* the rank that drew the winner; ids rise with the ranks */
    for (int i = 0; i < ranks; i++) {
        if (!all[i * stride].finite) return SAMPLING_NOT_FINITE;
        if (all[i * stride].drawn_score > drawn->drawn_score) drawn = &all[i * stride];
    }
    if (r->bans > 0 && (filters(s) || banned(r, drawn->drawn_id))) return SAMPLING_NEEDS_ROW;
    if (r->logprobs > 0 && r->penalties > 0) return SAMPLING_NEEDS_ROW; /* the lists are in the order of what the penalties made */

    bool complete = false;
    const int n = filters(s) || r->logprobs > 0 ? merge(w, all, stride, ranks, &complete) : 0;
    *choice = (sampling_choice){ .token = drawn->drawn_id, .logprob = drawn->drawn_raw };
    if (filters(s)) {
        const double mass = mass_above(all, stride, ranks, w->sorted[0].p);
        const int left = survivors(w->sorted, n, complete, mass, s);
        if (left < 0 && !drawn_survives(w->sorted, n, mass, drawn, s)) return SAMPLING_NEEDS_ROW;
        if (left >= 0) {
            const item *v = &w->sorted[draw(w->sorted, left, r)];
            choice->token = v->id, choice->logprob = v->raw;
        }
    }
    if (r->logprobs < 0) return SAMPLING_DONE;
    for (int i = 0; r->logprobs > 0 && i < n; i++) offer(choice, r->logprobs, w->sorted[i].id, w->sorted[i].raw);
    normalise(choice, all, stride, ranks);
    return SAMPLING_DONE;
}

/* ------------------------------------------------------------------------------------------------------------ from the whole row */
static bool before(item a, item b) { return a.p > b.p || (a.p == b.p && a.id < b.id); }

static void sift_down(item *heap, int i, int n)
{
    const item v = heap[i];
    for (int child = 2 * i + 1; child < n; i = child, child = 2 * i + 1) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], v)) break;
        heap[i] = heap[child];
    }
    heap[i] = v;
}

/* As the kernels compute it, to the bit. */
static float penalised(float raw, int hits, const kn_sample_row *k)
{
    float score = raw < 0 ? raw * k->repetition : raw / k->repetition;
    if (hits > 0) score -= k->presence + k->frequency * (float)hits;
    return score;
}

void sampling_from_logits(sampling_work *w, const sampling_row *r, const kn_candidates *all, int stride, int ranks, const float *logits,
                          int valid, sampling_choice *choice)
{
    const plp_sampling *s = r->params;
    const kn_sample_row k = sampling_kernel_row(r, 0);
    const float scale = greedy(s) ? 1 : k.inv_temperature;
    for (int i = 0; i < valid; i++) w->heap[i] = (item){ i, logits[i] * scale, logits[i] };
    for (int i = 0; i < r->penalties; i++) {
        const int id = r->penalty_id[i];
        if (id < valid) w->heap[id].p = penalised(logits[id], r->penalty_hits[i], &k) * scale;
    }
    int n = 0;
    for (int i = 0; i < valid; i++)
        if (!banned(r, i)) w->heap[n++] = w->heap[i];
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(w->heap, i, n);

    double mass = mass_above(all, stride, ranks, w->heap[0].p);
    if (r->bans > 0) {
        mass = 0;
        for (int i = 0; i < n; i++) mass += exp((double)w->heap[i].p - w->heap[0].p);
    }
    const int wanted = greedy(s) ? 1 : n;
    int sorted = 0, left = -1;
    for (int more = greedy(s) ? 1 : FIRST_SORTED; left < 0; more *= 2) {
        for (int heap = n - sorted; sorted < more && heap > 0; heap--) {
            w->sorted[sorted++] = w->heap[0];
            w->heap[0] = w->heap[heap - 1];
            sift_down(w->heap, 0, heap - 1);
        }
        left = survivors(w->sorted, sorted, sorted >= wanted, mass, s);
    }
    const item *v = &w->sorted[draw(w->sorted, left, r)];
    *choice = (sampling_choice){ .token = v->id, .logprob = v->raw };
    if (r->logprobs < 0) return;
    for (int i = 0; r->logprobs > 0 && i < valid; i++) offer(choice, r->logprobs, i, logits[i]);
    normalise(choice, all, stride, ranks);
}
