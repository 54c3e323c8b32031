#include "model/verify.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a probe saw: a copy of one tensor. */
typedef struct {
    const char *tensor;
    int64_t past, layer, rows, columns; /* past: tokens before its step */
    float *data;
} sight;

typedef struct {
    model *m;
    int64_t past;
    sight *list;
    int count, room;
} film;

static plp_status record(void *arg, int64_t layer, const char *tensor, const void *data, plp_dtype dtype, int64_t rows, int64_t columns,
                         int64_t ld)
{
    film *f = arg;
    plp_status st = PLP_OK;
    const model_options *o = model_options_of(f->m);
    const size_t count = (size_t)(rows * ld);
    void *copy = NULL;
    float *wide = NULL;
    if (f->count == f->room) {
        sight *more = realloc(f->list, (size_t)(f->room * 2 + 64) * sizeof *more);
        PLP_DO(PLP_ALLOCATED(more));
        f->list = more, f->room = f->room * 2 + 64;
    }
    PLP_DO(PLP_ALLOCATED(copy = malloc(count * plp_dtype_size(dtype) + 1)));
    PLP_DO(PLP_ALLOCATED(wide = malloc(count * sizeof *wide + 1)));
    PLP_DO(o->backend->to_host(model_context(f->m), copy, data, count * plp_dtype_size(dtype)));
    PLP_DO(o->backend->sync(model_context(f->m)));
    plp_convert(wide, PLP_F32, copy, dtype, count);
    for (int64_t t = 1; t < rows && ld > columns; t++) memmove(wide + t * columns, wide + t * ld, (size_t)columns * sizeof *wide);
    f->list[f->count++] = (sight){ tensor, f->past, layer, rows, columns, wide };
    wide = NULL;
done:
    free(copy);
    free(wide);
    return st;
}

static void wipe(film *f)
{
    for (int i = 0; i < f->count; i++) free(f->list[i].data);
    free(f->list);
    *f = (film){ .m = f->m };
}

/* Columns of a shard's tensor that lie together in the whole one. */
typedef struct {
    int64_t local, global, count;
} piece;
enum { PIECES = 5 };

/* A tensor's columns are cut like the rows of the weights that made them, or the columns of the one that reads them.  Tensors that are not
 * named here are the same on every rank. */
static const struct {
    const char *tensor;
    int count;
    model_band bands[PIECES];
} cuts[] = { { "in_proj", 5, { MODEL_IN_Z, MODEL_IN_X, MODEL_IN_B, MODEL_IN_C, MODEL_IN_DT } },
             { "conv", 3, { MODEL_CONV_X, MODEL_CONV_B, MODEL_CONV_C } },
             { "scan", 1, { MODEL_OUT_PROJ } } };

static int pieces_of(const model_plan *p, const model_config *c, const sight *whole, piece list[PIECES])
{
    if (strcmp(whole->tensor, "logits") == 0) { /* not by the band of the head, which a tied model does not have */
        list[0] = (piece){ 0, p->vocab.first, p->vocab.count };
        return 1;
    }
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        if (strcmp(whole->tensor, cuts[i].tensor) != 0) continue;
        int64_t local = 0, global = 0, rows, columns;
        for (int k = 0; k < cuts[i].count; k++) {
            const tp_slice own = model_plan_band(p, c, cuts[i].bands[k]);
            list[k] = (piece){ local, global + own.first, own.count };
            model_band_shape(c, cuts[i].bands[k], &rows, &columns);
            local += own.count, global += model_band_of(cuts[i].bands[k])->by_columns ? columns : rows;
        }
        return cuts[i].count;
    }
    list[0] = (piece){ 0, 0, whole->columns };
    return 1;
}

/* Of a column, over all steps of a phase. */
typedef struct {
    double shard, whole, exact; /* of shard - exact, of whole - exact, of exact itself */
} squares;

/* Of a row of the list: the columns that this rank has. */
typedef struct {
    squares *column;
    int64_t columns;
} tally;

static plp_status compare(model_difference *d, tally *sums, const model_plan *p, const model_config *c, const sight *mine,
                          const sight *whole, const sight *exact)
{
    piece list[PIECES];
    const int n = pieces_of(p, c, whole, list);
    double largest = 0, most = 0;
    bool finite = true;
    if (exact != NULL && sums->column == NULL) {
        PLP_TRY(PLP_ALLOCATED(sums->column = calloc((size_t)mine->columns + 1, sizeof *sums->column)));
        sums->columns = mine->columns;
    }
    for (int64_t i = 0; i < whole->rows * whole->columns; i++) largest = fmax(largest, fabs((double)whole->data[i]));
    for (int64_t t = 0; t < mine->rows; t++)
        for (int k = 0; k < n; k++)
            for (int64_t i = 0; i < list[k].count; i++) {
                const int64_t here = list[k].local + i, there = t * whole->columns + list[k].global + i;
                const double a = mine->data[t * mine->columns + here], b = whole->data[there];
                finite = finite && isfinite(a) && isfinite(b);
                most = fmax(most, fabs(a - b));
                if (exact == NULL) continue;
                const double e = exact->data[there];
                squares *s = sums->column + here;
                s->shard += (a - e) * (a - e), s->whole += (b - e) * (b - e), s->exact += e * e;
            }
    d->absolute = fmax(d->absolute, finite ? most : INFINITY);
    d->relative = fmax(d->relative, !finite ? INFINITY : most == 0 ? 0 : most / largest);
    return PLP_OK;
}

/* Nothing of nothing is 0; something of nothing, and what is not finite, infinite. */
static double quotient(double a, double b) { return !isfinite(a) || !isfinite(b) ? INFINITY : a == 0 ? 0 : a / b; }

/* Each column's error is a share of its own size, or a few large ones would be all that counts: of scan, those of one head, whose roundings
 * fall together.  To that size comes a quarter of the tensor's, so that of what is next to nothing there is next to no error. */
static void finish(model_difference *d, const tally *sums)
{
    const double columns = (double)sums->columns;
    double all = 0, shard = 0, whole = 0;
    for (int64_t i = 0; i < sums->columns; i++) all += sums->column[i].exact / columns;
    for (int64_t i = 0; i < sums->columns; i++) {
        const squares *s = sums->column + i;
        shard += quotient(s->shard, s->exact + all / 16) / columns;
        whole += quotient(s->whole, s->exact + all / 16) / columns;
    }
    d->error = quotient(sqrt(shard), 1);
    d->whole_error = quotient(sqrt(whole), 1);
    d->ratio = quotient(d->error, d->whole_error);
}

typedef struct {
    const char *name;
    int slice;  /* rows of a prefill step            */
    int tokens; /* of the prompt                     */
    int decodes;
} phase;

/* The phase's steps through one model.  What each step shows is kept. */
static plp_status run(model *m, const phase *p, const int *ids, film *f)
{
    plp_status st = PLP_OK;
    int *rows = NULL;
    PLP_TRY(PLP_ALLOCATED(rows = malloc((size_t)p->tokens * sizeof *rows)));
    for (int i = 0; i < p->tokens; i++) rows[i] = i;
    model_set_probe(m, (layer_probe){ .see = record, .arg = f });
    for (int at = 0; at < p->tokens + p->decodes;) {
        const bool decode = at >= p->tokens;
        const int left = decode ? 1 : p->tokens - at, n = left < p->slice ? left : p->slice, slot = 0, start[2] = { 0, n };
        const int64_t past = at;
        const model_step step = { .tokens = n,
                                  .seqs = 1,
                                  .decodes = decode,
                                  .ids = ids + at,
                                  .start = start,
                                  .src_slot = &slot,
                                  .dst_slot = &slot,
                                  .past = &past,
                                  .outs = n,
                                  .out_row = rows };
        f->past = at;
        PLP_DO(model_forward(m, &step));
        at += n;
    }
done:
    model_set_probe(m, (layer_probe){ 0 });
    free(rows);
    return st;
}

/* The same in what another model showed, from *at on; NULL: it showed less, as a step in fused form does. */
static const sight *counterpart(const film *f, const sight *of, int *at)
{
    for (int i = *at; i < f->count && f->list[i].past <= of->past; i++) {
        const sight *s = f->list + i;
        if (s->past != of->past || s->layer != of->layer || strcmp(s->tensor, of->tensor) != 0) continue;
        *at = i + 1;
        return s;
    }
    return NULL;
}

/* Collective.  Of each row the largest of all ranks. */
static plp_status largest(const tp_group *g, model_difference *list, int count)
{
    plp_status st = PLP_OK;
    model_difference *all = NULL;
    const size_t bytes = (size_t)count * sizeof *list;
    PLP_TRY(tp_agree(g, PLP_ALLOCATED(all = malloc((size_t)tp_size(g) * bytes + 1))));
    PLP_DO(tp_gather_all(g, list, bytes, all));
    for (int i = 0; i < count; i++)
        for (int rank = 0; rank < tp_size(g); rank++) {
            const model_difference *d = all + rank * count + i;
            list[i].absolute = fmax(list[i].absolute, d->absolute);
            list[i].relative = fmax(list[i].relative, d->relative);
            if (rank > 0 && d->ratio <= list[i].ratio) continue; /* the lowest rank's of equal ones */
            list[i].error = d->error, list[i].whole_error = d->whole_error, list[i].ratio = d->ratio;
        }
done:
    free(all);
    return st;
}

enum { MOST_TENSORS = 5 }; /* in_proj, conv, x_proj, scan, residual */
static int most_rows(const model_config *c) { return (int)c->layers * MOST_TENSORS + 1; }

/* Rows of one phase and what their columns add up to; the steps of a phase are folded into one row for every layer and tensor.  exact:
 * nothing, when there is no such model. */
static plp_status fold(const char *name, const film *mine, const film *theirs, const film *exact, model_difference *list, tally *sums,
                       int *count)
{
    const model_plan *p = model_plan_of(mine->m);
    const model_config *c = model_config_of(mine->m);
    for (int i = 0, at = 0, at_exact = 0; i < mine->count; i++) {
        const sight *a = mine->list + i, *b = counterpart(theirs, a, &at), *e = counterpart(exact, a, &at_exact);
        if (b == NULL || (exact->m != NULL && e == NULL)) continue;
        int k = 0;
        while (k < *count && (list[k].layer != a->layer || strcmp(list[k].tensor, a->tensor) != 0)) k++;
        if (k == *count) {
            list[k].layer = a->layer;
            snprintf(list[k].phase, sizeof list[k].phase, "%s", name);
            snprintf(list[k].tensor, sizeof list[k].tensor, "%s", a->tensor);
            ++*count;
        }
        PLP_TRY(compare(list + k, sums + k, p, c, a, b, e));
    }
    for (int k = 0; k < *count; k++) finish(list + k, sums + k);
    return PLP_OK;
}

/* Collective.  The phase's rows, of all ranks. */
static plp_status compare_phase(const phase *p, model *shard, model *whole, model *exact, const int *ids, model_difference *list,
                                int *count)
{
    plp_status st = PLP_OK;
    tp_group *g = model_group(shard);
    film mine = { .m = shard }, theirs = { .m = whole }, wide = { .m = exact };
    const int most = most_rows(model_config_of(shard));
    tally *sums = NULL;
    PLP_DO(tp_agree(g, PLP_ALLOCATED(sums = calloc((size_t)most, sizeof *sums))));
    PLP_DO(run(shard, p, ids, &mine));
    PLP_DO(tp_agree(g, run(whole, p, ids, &theirs)));
    if (exact != NULL) PLP_DO(tp_agree(g, run(exact, p, ids, &wide)));
    PLP_DO(tp_agree(g, fold(p->name, &mine, &theirs, &wide, list, sums, count)));
    PLP_DO(largest(g, list, *count));
done:
    for (int i = 0; sums != NULL && i < most; i++) free(sums[i].column);
    free(sums);
    wipe(&mine);
    wipe(&theirs);
    wipe(&wide);
    return st;
}

/* Whether a row is within what is allowed; what is not finite never is. */
static plp_status judge(model_difference *d, bool exact, const model_verify_options *o)
{
    const bool near = (exact && o->tolerance == 0) || d->relative <= o->tolerance, as_exact = !exact || d->ratio <= o->error_ratio;
    d->within = near && as_exact && isfinite(d->relative) && isfinite(d->ratio);
    if (d->within) return PLP_OK;
    if (exact && !(as_exact && isfinite(d->ratio)))
        return PLP_FAIL(
            PLP_ERR_DISAGREE,
            "%s, layer %lld, %s: the sharded model's error against float32 is %.3g, the whole one's %.3g: %.3g times as large, %.3g "
            "allowed; fix: see --all, try other hosts",
            d->phase, (long long)d->layer, d->tensor, d->error, d->whole_error, d->ratio, o->error_ratio);
    return PLP_FAIL(
        PLP_ERR_DISAGREE,
        "%s, layer %lld, %s: sharded and whole model differ by %.3g of the largest value, %.3g allowed; fix: see --all, try other hosts",
        d->phase, (long long)d->layer, d->tensor, d->relative, o->tolerance);
}

plp_status model_verify(model *shard, model *whole, model *exact, const model_verify_options *o, model_difference **out, int *count)
{
    const model_config *c = model_config_of(shard);
    const phase phases[] = { { "prefill", o->tokens, o->tokens, 0 },
                             { "chunked prefill", o->slice, o->tokens, 0 },
                             { "decode", o->tokens, o->tokens, o->decodes } };
    const int kinds = sizeof phases / sizeof *phases;
    plp_status st = PLP_OK;
    model_difference *list = NULL;
    int *ids = NULL;
    *count = 0, *out = NULL;
    PLP_DO(PLP_ALLOCATED(list = calloc((size_t)(kinds * most_rows(c)), sizeof *list)));
    PLP_DO(PLP_ALLOCATED(ids = malloc((size_t)(o->tokens + o->decodes) * sizeof *ids)));
    uint64_t random = o->seed;
    for (int i = 0; i < o->tokens + o->decodes; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator: any spread of ids will do */
        ids[i] = (int)((random >> 33) % (uint64_t)c->vocab_used);
    }
    for (int i = 0; i < kinds; i++) {
        int rows = 0;
        PLP_DO(compare_phase(phases + i, shard, whole, exact, ids, list + *count, &rows));
        *count += rows;
    }
    for (int i = *count - 1; i >= 0; i--) { /* the first one's message is the one that stays */
        const plp_status row = judge(list + i, exact != NULL, o);
        if (row != PLP_OK) st = row;
    }
    *out = list;
    list = NULL;
done:
    free(list);
    free(ids);
    return st;
}
