#include "layers/layer.h"

#include "base/error.h"

plp_status layer_add_norm(const kn_backend *kn, kn_context *c, int tokens, int hidden, float *residual, layer_pending *pending,
                          const int *map, int outs, const float *weight, double eps, void *out)
{
    const layer_pending p = *pending;
    *pending = (layer_pending){ 0 };
    return kn->add_norm(c, &(kn_add_norm_args){ .tokens = tokens,
                                                .hidden = hidden,
                                                .outs = outs,
                                                .residual = residual,
                                                .delta = p.delta,
                                                .delta_dtype = p.dtype,
                                                .ld_delta = p.ld,
                                                .bias = p.bias,
                                                .sumsq = p.sumsq,
                                                .ld_sumsq = p.ld_sumsq,
                                                .sumsq_width = p.width,
                                                .sumsq_eps = p.eps,
                                                .exchange = p.exchange,
                                                .map = map,
                                                .picked = p.picked,
                                                .weight = weight,
                                                .eps = eps,
                                                .out = out });
}

plp_status layer_show(const layer_call *l, const char *tensor, const void *data, plp_dtype dtype, int64_t columns)
{
    const layer_probe *p = l->probe;
    return p->see ? p->see(p->arg, p->layer, tensor, data, dtype, l->b->tokens, columns, columns) : PLP_OK;
}

plp_status layer_settle(const layer_call *l)
{
    if (l->pending->delta == NULL) return PLP_OK;
    return layer_add_norm(l->kn, l->c, l->b->tokens, l->d->hidden, l->residual, l->pending, NULL, 0, NULL, 0, NULL);
}

/* This rank's part of the rows: equal parts, or they would not be scattered. */
static int own_rows(const layer_call *l) { return l->b->tokens / tp_size(l->g); }

/* Adds what is pending to this rank's rows; out: norms them, too. */
static plp_status add_own(const layer_call *l, bool out)
{
    const layer_dims *d = l->d;
    const int rows = own_rows(l), first = tp_rank(l->g) * rows;
    layer_pending *p = l->pending;
    p->delta = layer_at(p->delta, p->dtype, first * p->ld);
    if (p->sumsq) p->sumsq += first * p->ld_sumsq;
    return layer_add_norm(l->kn, l->c, rows, d->hidden, l->residual + (int64_t)first * d->hidden, p, NULL, out ? rows : 0,
                          out ? l->w->norm : NULL, d->eps, out ? layer_at(l->s->normed, d->act, (int64_t)first * d->hidden) : NULL);
}

/* Everyone's rows of `data`, whose rows are `hidden` elements. */
static plp_status gather_rows(const layer_call *l, void *data, plp_dtype dtype)
{
    const int64_t own = (int64_t)own_rows(l) * l->d->hidden;
    return tp_gather_all_device(l->g, layer_at(data, dtype, tp_rank(l->g) * own), (size_t)own * plp_dtype_size(dtype), data, NULL);
}

plp_status layer_collect(const layer_call *l)
{
    if (!l->pending->scattered) return PLP_OK;
    PLP_TRY(add_own(l, false));
    return gather_rows(l, l->residual, PLP_F32);
}

static plp_status norm(const layer_call *l)
{
    const int tokens = l->b->tokens;
    if (!l->pending->scattered)
        return layer_add_norm(l->kn, l->c, tokens, l->d->hidden, l->residual, l->pending, NULL, tokens, l->w->norm, l->d->eps,
                              l->s->normed);
    PLP_TRY(add_own(l, true));
    return gather_rows(l, l->s->normed, l->d->act);
}

plp_status layer_project_in(const layer_call *l, int rows)
{
    const layer_dims *d = l->d;
    const int tokens = l->b->tokens;
    PLP_TRY(norm(l));
    PLP_TRY(l->kn->linear(l->c, &(kn_linear_args){ .rows = tokens,
                                                   .n = rows,
                                                   .k = d->hidden,
                                                   .x = l->s->normed,
                                                   .x_dtype = d->act,
                                                   .ldx = d->hidden,
                                                   .w = l->w->in_proj,
                                                   .w_dtype = d->weights,
                                                   .packed = l->packed,
                                                   .bias = l->w->in_bias,
                                                   .y = l->s->in,
                                                   .y_dtype = d->act,
                                                   .ldy = rows,
                                                   .round_x = d->round }));
    return layer_show(l, "in_proj", l->s->in, d->act, rows);
}

kn_conv_args layer_convolution(const layer_call *l, int first, int rows, int channels)
{
    const layer_dims *d = l->d;
    return (kn_conv_args){ .channels = channels,
                           .width = d->conv,
                           .in = layer_at(l->s->in, d->act, first),
                           .ld_in = rows,
                           .weight = l->w->conv,
                           .bias = l->w->conv_bias,
                           .state = l->w->conv_state,
                           .state_dtype = d->conv_dtype,
                           .out = l->s->conv,
                           .ld_out = channels,
                           .block = l->block,
                           .snap_start = l->snap_start,
                           .snap_slot = l->snap_slot };
}

plp_status layer_convolve(const layer_call *l, int first, int rows, int channels)
{
    const kn_conv_args a = layer_convolution(l, first, rows, channels);
    PLP_TRY(l->kn->conv(l->c, &a, l->b));
    return layer_show(l, "conv", l->s->conv, l->d->act, channels);
}

/* What the projection's output travels in.  Many rows: the type of activations, half the bytes to write, to sum over the ranks and to
 * read again.  Rows that must not depend on how many there are get float32 always; a fused step leaves it, too. */
static plp_dtype delta_dtype(const layer_call *l)
{
    enum { FEW = KN_MIXER_WIDE };
    return l->d->deterministic || l->b->tokens <= FEW ? PLP_F32 : l->d->act;
}

/* A folded norm's sum of squares stays float32: beside delta where that is narrower. */
static bool sums_ride(const layer_call *l) { return l->d->norm == LAYER_NORM_FOLDED && delta_dtype(l) == PLP_F32; }
static int64_t delta_columns(const layer_call *l) { return sums_ride(l) ? layer_ld_delta(l->d) : l->d->hidden; }

float *layer_folded_sums(const layer_call *l, int64_t *ld)
{
    *ld = sums_ride(l) ? delta_columns(l) : 1;
    return sums_ride(l) ? (float *)l->s->delta + l->d->hidden : l->s->sums;
}

plp_status layer_project_out(const layer_call *l)
{
    const layer_dims *d = l->d;
    const int inner = layer_inner(d);
    return l->kn->linear(l->c, &(kn_linear_args){ .rows = l->b->tokens,
                                                  .n = d->hidden,
                                                  .k = inner,
                                                  .x = l->s->y,
                                                  .x_dtype = d->act,
                                                  .ldx = inner,
                                                  .w = l->w->out_proj,
                                                  .w_dtype = d->weights,
                                                  .packed = l->packed,
                                                  .y = l->s->delta,
                                                  .y_dtype = delta_dtype(l),
                                                  .ldy = delta_columns(l),
                                                  .round_x = d->round });
}

/* Whether the kernel that adds `p` can sum it over the ranks as well. */
static bool sums_on_the_way(const layer_call *l, const layer_pending *p)
{
    const kn_add_norm_args a = { .tokens = l->b->tokens,
                                 .hidden = l->d->hidden,
                                 .delta = p->delta,
                                 .delta_dtype = p->dtype,
                                 .ld_delta = p->ld,
                                 .exchange = p->exchange };
    return p->exchange != NULL && l->kn->exchanges(&a);
}

/* Many rows are shared out between the sum and the norm: a rank reads and writes its part of the residual alone. */
static bool scatters(const layer_call *l)
{
    enum { WORTH = 1024 };
    const int tokens = l->b->tokens;
    return tp_scatters(l->g) && !l->d->deterministic && l->probe->see == NULL && tokens >= WORTH && tokens % tp_size(l->g) == 0;
}

static plp_status sum_over_ranks(const layer_call *l, void *data, int64_t count, plp_dtype dtype, bool scattered)
{
    return scattered ? tp_scatter(l->g, data, count / tp_size(l->g), dtype) : tp_all_reduce(l->g, data, count, dtype);
}

plp_status layer_finish(const layer_call *l)
{
    const layer_dims *d = l->d;
    const int64_t tokens = l->b->tokens, count = tokens * delta_columns(l);
    layer_pending p = { .delta = l->s->delta, .dtype = delta_dtype(l), .ld = delta_columns(l), .bias = l->w->out_bias };
    if (d->norm == LAYER_NORM_FOLDED) p.sumsq = layer_folded_sums(l, &p.ld_sumsq), p.width = d->norm_width, p.eps = d->eps;
    p.picked = l->picked;
    p.exchange = tp_exchange(l->g, (size_t)count * plp_dtype_size(p.dtype));
    if (p.picked || !sums_on_the_way(l, &p)) {
        p.exchange = NULL, p.scattered = !p.picked && scatters(l);
        PLP_TRY(sum_over_ranks(l, l->s->delta, count, p.dtype, p.scattered));
        if (d->norm == LAYER_NORM_FOLDED && !sums_ride(l)) PLP_TRY(sum_over_ranks(l, l->s->sums, tokens, PLP_F32, p.scattered));
    }
    *l->pending = p;
    return PLP_OK;
}

static plp_status pick(const layer_call *l, const void *in, int ld_in, void *out, int ld_out)
{
    const kn_pick_args a = {
        .rows = l->outs, .columns = layer_inner(l->d), .map = l->wanted, .in = in, .ld_in = ld_in, .out = out, .ld_out = ld_out
    };
    return l->kn->pick(l->c, &a);
}

plp_status layer_behind_scan(const layer_call *l, int ld_z, plp_status (*rest)(const layer_call *l))
{
    const int inner = layer_inner(l->d);
    if (l->wanted == NULL || l->kn->pick == NULL || l->probe->see) return rest(l);
    if (l->outs == 0) return PLP_OK;
    /* nobody reads the convolution's output any more, and it has room: four rows are more than one of y and one of in_proj's output */
    kn_batch batch = *l->b;
    layer_scratch scratch = *l->s;
    layer_call few = *l;
    batch.tokens = l->outs;
    scratch.y = l->s->conv, scratch.in = layer_at(l->s->conv, l->d->act, (int64_t)l->outs * inner);
    few.b = &batch, few.s = &scratch, few.picked = true;
    PLP_TRY(pick(l, l->s->y, inner, scratch.y, inner));
    if (ld_z > 0) PLP_TRY(pick(l, l->s->in, ld_z, scratch.in, ld_z));
    return rest(&few);
}
