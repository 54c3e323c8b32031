#include "engine/sampling.h"

#include "base/error.h"
#include "kernels/choose.h"

#include <math.h>
#include <stdlib.h>

enum { FIRST_SORTED = 256 }; /* of a whole row: how many are put in order before the filters are asked; doubled until they are content */
static const double COLDEST = 1e-4; /* a temperature below is 0: its reciprocal leaves no digits to the noise */

struct sampling_work {
    kn_item *heap, *sorted; /* (vocab) or (ranks * KN_CANDIDATES), whichever is more */
    int *next;              /* (ranks) */
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

kn_sample_row sampling_kernel_row(const sampling_row *r, int penalty_first)
{
    const plp_sampling *s = r->params;
    return (kn_sample_row){
        .inv_temperature = s->temperature < COLDEST ? 0 : (float)(1 / s->temperature),
        .repetition = (float)s->repetition,
        .presence = (float)s->presence,
        .frequency = (float)s->frequency,
        .seed = s->seed,
        .position = r->position,
        .penalty_first = penalty_first,
        .penalty_count = r->penalties,
        .top_k = s->top_k,
        .top_p = s->top_p,
        .min_p = s->min_p,
    };
}

bool sampling_settles(const sampling_row *r)
{
    const kn_sample_row k = sampling_kernel_row(r, 0);
    return r->bans == 0 && r->alloweds == 0 && r->biases == 0 && !r->list && kn_settles(&k);
}

bool sampling_wants_candidates(const sampling_row *r) { return r->logprobs >= 0 || !sampling_settles(r); }

/* --------------------------------------------------------------------------------------------------------------------- logprobs */

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

/* log sum exp of the logits as they are: what a logprob is short of. */
static double log_mass(const kn_candidates *all, int stride, int ranks)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < ranks; i++) max = fmax(max, all[i * stride].raw_max);
    for (int i = 0; i < ranks; i++) sum += all[i * stride].raw_sum * exp(all[i * stride].raw_max - max);
    return max + log(sum);
}

/* The logit of an id that is among the candidates.  false when it is not, or a logit is not finite. */
static bool raw_of(const kn_candidates *all, int stride, int ranks, int id, double *raw)
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
    const double mass = log_mass(all, stride, ranks);
    c->logprob -= mass;
    for (int i = 0; i < c->tops; i++) c->top_logprob[i] -= mass;
}

bool sampling_score(const kn_candidates *all, int stride, int ranks, int id, int tops, sampling_choice *score)
{
    *score = (sampling_choice){ .token = id };
    if (!raw_of(all, stride, ranks, id, &score->logprob)) return false;
    for (int i = 0; i < ranks; i++)
        for (int k = 0; k < all[i * stride].count; k++) offer(score, tops, all[i * stride].id[k], all[i * stride].raw[k]);
    normalise(score, all, stride, ranks);
    return true;
}

static bool is_among(const int *ids, int count, int id)
{
    for (int i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}
static bool banned(const sampling_row *r, int id) { return is_among(r->banned, r->bans, id); }

/* ----------------------------------------------------------------------------------------------------------- from the candidates */
sampling_result sampling_from_choice(sampling_work *w, const sampling_row *r, const kn_choice *c, const kn_candidates *all, int stride,
                                     int ranks, sampling_choice *choice)
{
    const kn_sample_row k = sampling_kernel_row(r, 0);
    bool complete;
    if (c->outcome == KN_NOT_FINITE) return SAMPLING_NOT_FINITE;
    if (c->outcome == KN_NEEDS_ROW || r->alloweds > 0 || r->biases > 0 || (r->bans > 0 && (kn_filters(&k) || banned(r, c->token))))
        return SAMPLING_NEEDS_ROW;
    if (r->logprobs > 0 && r->penalties > 0) return SAMPLING_NEEDS_ROW; /* the lists are in the order of what the penalties made */
    *choice = (sampling_choice){ .token = c->token, .logprob = c->raw };
    if (r->logprobs < 0) return SAMPLING_DONE;
    const int n = r->logprobs > 0 ? kn_merge(all, stride, ranks, w->sorted, w->next, &complete) : 0;
    for (int i = 0; i < n; i++) offer(choice, r->logprobs, w->sorted[i].id, w->sorted[i].raw);
    normalise(choice, all, stride, ranks);
    return SAMPLING_DONE;
}

/* ------------------------------------------------------------------------------------------------------------ from the whole row */
static bool before(kn_item a, kn_item b) { return a.p > b.p || (a.p == b.p && a.id < b.id); }

static void sift_down(kn_item *heap, int i, int n)
{
    const kn_item v = heap[i];
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
    const kn_sample_row k = sampling_kernel_row(r, 0);
    const float scale = kn_greedy(&k) ? 1 : k.inv_temperature;
    for (int i = 0; i < valid; i++) w->heap[i] = (kn_item){ i, logits[i], logits[i] };
    for (int i = 0; i < r->biases; i++) w->heap[r->bias_id[i]].p += r->bias[i];
    for (int i = 0; i < r->penalties; i++) {
        const int id = r->penalty_id[i];
        if (id < valid) w->heap[id].p = penalised(w->heap[id].p, r->penalty_hits[i], &k);
    }
    for (int i = 0; i < valid; i++) w->heap[i].p *= scale;
    int n = 0;
    if (r->alloweds > 0) { /* in rising order */
        for (int i = 0; i < r->alloweds; i++)
            if (!banned(r, r->allowed[i])) w->heap[n++] = w->heap[r->allowed[i]];
        if (n == 0) /* all of them are banned: they are drawn all the same */
            for (int i = 0; i < r->alloweds; i++) w->heap[n++] = w->heap[r->allowed[i]];
    } else {
        for (int i = 0; i < valid; i++)
            if (!banned(r, i)) w->heap[n++] = w->heap[i];
        if (n == 0) n = valid; /* the same */
    }
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(w->heap, i, n);

    double mass = kn_mass_above(all, stride, ranks, w->heap[0].p);
    if (r->bans > 0 || r->alloweds > 0 || r->biases > 0) {
        mass = 0;
        for (int i = 0; i < n; i++) mass += exp((double)w->heap[i].p - w->heap[0].p);
    }
    const int wanted = kn_greedy(&k) ? 1 : n;
    int sorted = 0, left = -1;
    for (int more = kn_greedy(&k) ? 1 : FIRST_SORTED; left < 0; more *= 2) {
        for (int heap = n - sorted; sorted < more && heap > 0; heap--) {
            w->sorted[sorted++] = w->heap[0];
            w->heap[0] = w->heap[heap - 1];
            sift_down(w->heap, 0, heap - 1);
        }
        left = kn_survivors(w->sorted, sorted, sorted >= wanted, mass, &k);
    }
    const kn_item *v = &w->sorted[kn_draw(w->sorted, left, &k)];
    *choice = (sampling_choice){ .token = v->id, .logprob = v->raw };
    if (r->logprobs < 0) return;
    for (int i = 0; r->logprobs > 0 && i < valid; i++) offer(choice, r->logprobs, i, logits[i]);
    normalise(choice, all, stride, ranks);
}

static int compare(const void *a, const void *b)
{
    const kn_item *x = a, *y = b;
    return before(*x, *y) ? -1 : before(*y, *x);
}

void sampling_list(sampling_work *w, const float *logits, int valid, const sampling_choice *choice, int *ids, double *logprobs)
{
    const double mass = logits[choice->token] - choice->logprob;
    for (int i = 0; i < valid; i++) w->sorted[i] = (kn_item){ i, logits[i], logits[i] };
    qsort(w->sorted, (size_t)valid, sizeof *w->sorted, compare);
    for (int i = 0; i < valid; i++) ids[i] = w->sorted[i].id, logprobs[i] = w->sorted[i].raw - mass;
}
