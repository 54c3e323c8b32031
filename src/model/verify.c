#include "model/verify.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a probe saw: a copy of one tensor. */
typedef struct {
    const char *tensor;
    int64_t layer, rows, columns;
    float *data;
} sight;

typedef struct {
    model *m;
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
    f->list[f->count++] = (sight){ tensor, layer, rows, columns, wide };
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

static void compare(model_difference *d, const model_plan *p, const model_config *c, const sight *mine, const sight *whole)
{
    piece list[PIECES];
    const int n = pieces_of(p, c, whole, list);
    double largest = 0, most = 0;
    bool finite = true;
    for (int64_t i = 0; i < whole->rows * whole->columns; i++) largest = fmax(largest, fabs((double)whole->data[i]));
    for (int64_t t = 0; t < mine->rows; t++)
        for (int k = 0; k < n; k++)
            for (int64_t i = 0; i < list[k].count; i++) {
                const double a = mine->data[t * mine->columns + list[k].local + i],
                             b = whole->data[t * whole->columns + list[k].global + i];
                finite = finite && isfinite(a) && isfinite(b);
                most = fmax(most, fabs(a - b));
            }
    d->absolute = finite ? most : INFINITY;
    d->relative = !finite ? INFINITY : most == 0 ? 0 : most / largest;
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
        PLP_DO(model_forward(m, &step));
        at += n;
    }
done:
    model_set_probe(m, (layer_probe){ 0 });
    free(rows);
    return st;
}

/* Rows of one phase behind *count: the steps of a phase are folded into one row for every layer and tensor. */
static plp_status compare_phase(const phase *p, model *shard, model *whole, const int *ids, model_difference *list, int *count)
{
    plp_status st = PLP_OK;
    film mine = { .m = shard }, theirs = { .m = whole };
    const int first = *count;
    PLP_DO(run(shard, p, ids, &mine));
    PLP_DO(tp_agree(model_group(shard), run(whole, p, ids, &theirs)));
    for (int i = 0, j = 0; i < mine.count; i++) {
        const sight *a = mine.list + i;
        /* a fused step shows less: look for the same sight in what the whole model showed */
        while (j < theirs.count && (theirs.list[j].layer != a->layer || strcmp(theirs.list[j].tensor, a->tensor) != 0)) j++;
        if (j == theirs.count) break;
        model_difference d = { .layer = a->layer };
        snprintf(d.phase, sizeof d.phase, "%s", p->name);
        snprintf(d.tensor, sizeof d.tensor, "%s", a->tensor);
        compare(&d, model_plan_of(shard), model_config_of(shard), a, theirs.list + j++);
        int k = first;
        while (k < *count && (list[k].layer != d.layer || strcmp(list[k].tensor, d.tensor) != 0)) k++;
        if (k == *count) list[(*count)++] = d;
        list[k].absolute = fmax(list[k].absolute, d.absolute);
        list[k].relative = fmax(list[k].relative, d.relative);
    }
    for (int k = first; k < *count; k++) {
        PLP_DO(tp_max(model_group(shard), &list[k].absolute));
        PLP_DO(tp_max(model_group(shard), &list[k].relative));
    }
done:
    wipe(&mine);
    wipe(&theirs);
    return st;
}

plp_status model_verify(model *shard, model *whole, const model_verify_options *o, model_difference **out, int *count)
{
    const model_config *c = model_config_of(shard);
    const phase phases[] = { { "prefill", o->tokens, o->tokens, 0 },
                             { "chunked prefill", o->slice, o->tokens, 0 },
                             { "decode", o->tokens, o->tokens, o->decodes } };
    const int kinds = 3, most_tensors = 5; /* in_proj, conv, x_proj, scan, residual */
    plp_status st = PLP_OK;
    model_difference *list = NULL;
    int *ids = NULL;
    *count = 0, *out = NULL;
    PLP_DO(PLP_ALLOCATED(list = calloc((size_t)(kinds * (c->layers * most_tensors + 1)), sizeof *list)));
    PLP_DO(PLP_ALLOCATED(ids = malloc((size_t)(o->tokens + o->decodes) * sizeof *ids)));
    uint64_t random = o->seed;
    for (int i = 0; i < o->tokens + o->decodes; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator: any spread of ids will do */
        ids[i] = (int)((random >> 33) % (uint64_t)c->vocab_used);
    }
    for (int i = 0; i < kinds; i++) PLP_DO(compare_phase(phases + i, shard, whole, ids, list, count));
    for (int i = *count - 1; i >= 0; i--) {
        list[i].within = list[i].relative <= o->tolerance;
        if (!list[i].within) /* the first one's message is the one that stays */
            st = PLP_FAIL(PLP_ERR_DISAGREE, "%s, layer %lld, %s: sharded and whole model differ by %.3g of the largest value, %.3g allowed",
                          list[i].phase, (long long)list[i].layer, list[i].tensor, list[i].relative, o->tolerance);
    }
    *out = list;
    list = NULL;
done:
    free(list);
    free(ids);
    return st;
}
