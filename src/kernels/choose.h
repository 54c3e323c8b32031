/* src/kernels/choose.h -- from the candidates of all ranks to the token of a row, one definition for the CPU and the CUDA kernel.
 *
 * The token is the one of largest p + Gumbel noise among those that the filters leave, which is a draw from their softmax (Gumbel-max).
 * Where the best KN_CANDIDATES of each rank do not say what is left (a wide top_p), the whole row must decide, by the same rule.  What a
 * backend chose stands: exponentials and logarithms of a host and a GPU differ in their last bits, so that nothing is chosen twice. */
#ifndef KERNELS_CHOOSE_H
#define KERNELS_CHOOSE_H

#include "kernels/gumbel.h"
#include "kernels/kernels.h"

#include <math.h>

KN_SHARED bool kn_greedy(const kn_sample_row *r) { return !(r->inv_temperature > 0); }
KN_SHARED bool kn_filters(const kn_sample_row *r) { return !kn_greedy(r) && (r->top_k > 0 || r->top_p < 1 || r->min_p > 0); }

/* Of n items in order, best first, how many the filters leave.  `complete`: there are no others; else -1 when n of them do not settle it.
 * mass: sum exp(p - best) over the whole vocabulary. */
KN_SHARED int kn_survivors(const kn_item *v, int n, bool complete, double mass, const kn_sample_row *r)
{
    const double least = r->min_p > 0 ? v[0].p + log(r->min_p) : -(double)INFINITY;
    const bool cut = r->top_k > 0 || r->min_p > 0;
    int left = 0;
    double sum = 0;
    while (left < n && (r->top_k == 0 || left < r->top_k) && v[left].p >= least) sum += exp((double)v[left++].p - v[0].p);
    const bool closed = complete || left < n || left == r->top_k;
    if (r->top_p >= 1) return closed ? left : -1;
    if (cut && !closed) return -1; /* top_p is a share of what the others leave */
    if (cut) mass = sum;
    sum = 0;
    for (int i = 0; i < left; i++) {
        sum += exp((double)v[i].p - v[0].p);
        if (sum >= r->top_p * mass) return i + 1;
    }
    return closed ? left : -1;
}

/* The largest p + noise of the first n; greedy: the first. */
KN_SHARED int kn_draw(const kn_item *v, int n, const kn_sample_row *r)
{
    int best = 0;
    float most = -INFINITY;
    if (kn_greedy(r)) return 0;
    for (int i = 0; i < n; i++) {
        const float score = v[i].p + kn_noise(r->seed, r->position, v[i].id);
        if (score > most || (score == most && v[i].id < v[best].id)) most = score, best = i;
    }
    return best;
}

/* sum exp(p - best) over the whole vocabulary.  Rank i's candidates are all[i * stride], here and below. */
KN_SHARED double kn_mass_above(const kn_candidates *all, int64_t stride, int ranks, float best)
{
    double mass = 0;
    for (int i = 0; i < ranks; i++) mass += all[i * stride].sum * exp((double)all[i * stride].max - best);
    return mass;
}

/* Merges the ranks' lists as far as the order is known: to the end of the first list that is cut off.  *complete: no list is. */
KN_SHARED int kn_merge(const kn_candidates *all, int64_t stride, int ranks, kn_item *sorted, int *next, bool *complete)
{
    int n = 0;
    for (int i = 0; i < ranks; i++) next[i] = 0;
    for (;;) {
        int best = -1;
        kn_item most = { 0, 0, 0 };
        for (int i = 0; i < ranks; i++) {
            const kn_candidates *c = &all[i * stride];
            const int k = next[i];
            if (k == c->count) continue;
            const kn_item v = { c->id[k], c->p[k], c->raw[k] };
            if (best < 0 || v.p > most.p || (v.p == most.p && v.id < most.id)) best = i, most = v;
        }
        *complete = best < 0;
        if (best < 0) return n;
        sorted[n++] = most;
        if (++next[best] == KN_CANDIDATES) return n;
    }
}

/* Whether the token drawn from the whole vocabulary is among what the filters leave, although a list of n does not say where they end. */
KN_SHARED bool kn_drawn_survives(const kn_item *v, int n, double mass, const kn_candidates *drawn, const kn_sample_row *r)
{
    if (r->min_p > 0 && drawn->drawn_p < v[0].p + log(r->min_p)) return false;
    if (r->top_k == 0 && r->top_p >= 1) return true;
    if (r->top_p < 1 && (r->top_k > 0 || r->min_p > 0)) return false; /* the share of an unknown mass */
    double before = 0;
    for (int i = 0; i < n; i++) {
        if (v[i].id == drawn->drawn_id) return r->top_k > 0 ? i < r->top_k : before < r->top_p * mass;
        before += exp((double)v[i].p - v[0].p);
    }
    return false;
}

/* Whether kn_choose_row of such a row is sure to choose, whatever the logits. */
KN_SHARED bool kn_settles(const kn_sample_row *r) { return !kn_filters(r) || (r->top_k > 0 && r->top_k <= KN_CANDIDATES); }

/* sorted and next: work space for a row, see kn_choose_args. */
KN_SHARED kn_choice kn_choose_row(const kn_sample_row *r, const kn_candidates *all, int64_t stride, int ranks, kn_item *sorted, int *next)
{
    const kn_candidates *drawn = all; /* of the rank that drew the winner; ids rise with the ranks */
    kn_choice c = { -1, KN_NOT_FINITE, 0 };
    for (int i = 0; i < ranks; i++) {
        if (!all[i * stride].finite) return c;
        if (all[i * stride].drawn_score > drawn->drawn_score) drawn = &all[i * stride];
    }
    c.token = drawn->drawn_id, c.outcome = KN_CHOSEN, c.raw = drawn->drawn_raw;
    if (!kn_filters(r)) return c;
    bool complete;
    const int n = kn_merge(all, stride, ranks, sorted, next, &complete);
    const double mass = kn_mass_above(all, stride, ranks, sorted[0].p);
    const int left = kn_survivors(sorted, n, complete, mass, r);
    if (left < 0 && kn_drawn_survives(sorted, n, mass, drawn, r)) return c;
    if (left < 0) {
        c.token = -1, c.outcome = KN_NEEDS_ROW;
        return c;
    }
    const kn_item *v = &sorted[kn_draw(sorted, left, r)];
    c.token = v->id, c.raw = v->raw;
    return c;
}

#endif
