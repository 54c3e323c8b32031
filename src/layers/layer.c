#include "layers/layer.h"

#include "base/error.h"

/* residual += pending, which is nothing then. */
static kn_add_norm_args add_pending(int tokens, int hidden, float *residual, layer_pending *pending)
{
    const layer_pending p = *pending;
    *pending = (layer_pending){ 0 };
    return (kn_add_norm_args){ .tokens = tokens,
                               .hidden = hidden,
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
                               .picked = p.picked };
}

plp_status layer_add_norm(const kn_backend *kn, kn_context *c, int tokens, int hidden, float *residual, layer_pending *pending,
                          const int *map, int outs, const float *weight, double eps, void *out)
{
    kn_add_norm_args a = add_pending(tokens, hidden, residual, pending);
    a.outs = outs, a.map = map, a.weight = weight, a.eps = eps, a.out = out;
    return kn->add_norm(c, &a);
}

plp_status layer_show(const layer_call *l, const char *tensor, const void *data, plp_dtype dtype, int64_t columns, int64_t ld)
{
    const layer_probe *p = l->probe;
    return p->see ? p->see(p->arg, p->layer, tensor, data, dtype, l->b->tokens, columns, ld) : PLP_OK;
}

plp_status layer_settle(const layer_call *l)
{
    if (l->pending->delta == NULL) return PLP_OK;
    return layer_add_norm(l->kn, l->c, l->b->tokens, l->d->hidden, l->residual, l->pending, NULL, 0, NULL, 0, NULL);
}

/* This rank's part of the rows: equal parts, or they would not be scattered. */
static int own_rows(const layer_call *l) { return l->b->tokens / tp_size(l->g); }

/* Rows of the ranks that send each other their parts of the sum: those of rank r begin at rank_row(l, r). */
static int rank_row(const layer_call *l, int rank) { return (int)((int64_t)l->b->tokens * rank / tp_size(l->g)); }
static int rank_rows(const layer_call *l, int rank) { return rank_row(l, rank + 1) - rank_row(l, rank); }
/* In rank r's delta: rank `from`'s part of r's rows, (rank_rows, hidden); behind all of them the folded norm's sums (tp_size, rank_rows). */
static void *part_at(const layer_call *l, int r, int from)
{
    return layer_at(l->s->reach.delta[r], l->d->act, (int64_t)from * rank_rows(l, r) * l->d->hidden);
}
static float *part_sums(const layer_call *l, int r, int from)
{
    return (float *)part_at(l, r, tp_size(l->g)) + (int64_t)from * rank_rows(l, r);
}

/* Behind what was queued on every rank. */
static plp_status meet(const layer_call *l)
{
    PLP_TRY(tp_arrive(l->g, &(kn_arrive_args){ 0 }));
    return tp_await(l->g);
}

/* Adds what is pending to this rank's rows, of which the others' parts have been sent here, and sends everyone the normed rows. */
static plp_status norm_own(const layer_call *l)
{
    const layer_dims *d = l->d;
    const int rank = tp_rank(l->g), first = rank_row(l, rank), rows = rank_rows(l, rank);
    kn_add_norm_args a = add_pending(rows, d->hidden, l->residual + (int64_t)first * d->hidden, l->pending);
    a.outs = rows, a.weight = l->w->norm, a.eps = d->eps;
    a.parts = tp_size(l->g), a.ld_parts = (int64_t)rows * d->hidden, a.ld_sumsq_parts = rows;
    for (int r = 0; r < tp_size(l->g); r++) {
        void *to = layer_at(l->s->reach.normed[r], d->act, (int64_t)first * d->hidden);
        if (r == rank) {
            a.out = to;
            continue;
        }
        a.copy[a.copies] = to;
        a.residual_copy[a.copies++] = l->last ? layer_at(l->s->reach.residual[r], PLP_F32, (int64_t)first * d->hidden) : NULL;
    }
    PLP_TRY(tp_await(l->g));
    if (rows > 0) PLP_TRY(l->kn->add_norm(l->c, &a));
    return meet(l);
}

/* Everyone's rows of `data`, whose rows are `hidden` elements. */
static plp_status gather_rows(const layer_call *l, void *data, plp_dtype dtype)
{
    const int64_t own = (int64_t)own_rows(l) * l->d->hidden;
    return tp_gather_all_device(l->g, layer_at(data, dtype, tp_rank(l->g) * own), (size_t)own * plp_dtype_size(dtype), data, NULL);
}

/* Adds what is pending to this rank's rows, norms them, and gathers everyone's. */
static plp_status norm_and_gather(const layer_call *l)
{
    const layer_dims *d = l->d;
    const int rows = own_rows(l), first = tp_rank(l->g) * rows;
    const int64_t at = (int64_t)first * d->hidden;
    layer_pending *p = l->pending;
    p->delta = layer_at(p->delta, p->dtype, first * p->ld);
    if (p->sumsq) p->sumsq += first * p->ld_sumsq;
    PLP_TRY(layer_add_norm(l->kn, l->c, rows, d->hidden, l->residual + at, p, NULL, rows, l->w->norm, d->eps,
                           layer_at(l->s->normed, d->act, at)));
    if (l->last) PLP_TRY(gather_rows(l, l->residual, PLP_F32));
    return gather_rows(l, l->s->normed, d->act);
}

static plp_status norm(const layer_call *l)
{
    const int tokens = l->b->tokens;
    if (l->pending->sent) return norm_own(l);
    if (l->pending->scattered) return norm_and_gather(l);
    return layer_add_norm(l->kn, l->c, tokens, l->d->hidden, l->residual, l->pending, NULL, tokens, l->w->norm, l->d->eps, l->s->normed);
}

plp_status layer_project_in(const layer_call *l, int rows, int ld)
{
    const layer_dims *d = l->d;
    const int tokens = l->b->tokens;
    PLP_TRY(norm(l));
    PLP_TRY(l->kn->linear(l->c, &(kn_linear_args){ .rows = tokens,
                                                   .n = l->packed ? rows : ld,
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
                                                   .ldy = ld,
                                                   .round_x = d->round }));
    return layer_show(l, "in_proj", l->s->in, d->act, rows, ld);
}

kn_conv_args layer_convolution(const layer_call *l, int first, int ld, int channels)
{
    const layer_dims *d = l->d;
    return (kn_conv_args){ .channels = channels,
                           .width = d->conv,
                           .in = layer_at(l->s->in, d->act, first),
                           .ld_in = ld,
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

plp_status layer_convolve(const layer_call *l, int first, int ld, int channels)
{
    const kn_conv_args a = layer_convolution(l, first, ld, channels);
    PLP_TRY(l->kn->conv(l->c, &a, l->b));
    return layer_show(l, "conv", l->s->conv, l->d->act, channels, channels);
}

/* What the projection's output travels in.  Many rows: the type of activations, half the bytes to write, to sum over the ranks and to
 * read again.  Rows that must not depend on how many there are get float32 always; a fused step leaves it, too. */
static plp_dtype delta_dtype(const layer_call *l)
{
    enum { FEW = KN_MIXER_WIDE };
    return l->d->deterministic || l->b->tokens <= FEW ? PLP_F32 : l->d->act;
}

/* Many rows are shared out between the sum and the norm: a rank reads and writes its part of the residual alone. */
static bool shares_out(const layer_call *l)
{
    enum { WORTH = 768 };
    return tp_size(l->g) > 1 && !l->last && !l->d->deterministic && l->probe->see == NULL && l->b->tokens >= WORTH;
}

/* Where devices reach each other, out_proj writes each rank's rows into that rank's memory, and the normed rows go to everyone's. */
static bool sends(const layer_call *l)
{
    const kn_add_norm_args a = { .hidden = l->d->hidden,
                                 .residual = l->residual,
                                 .delta = l->s->delta,
                                 .delta_dtype = l->d->act,
                                 .ld_delta = l->d->hidden,
                                 .ld_parts = l->d->hidden };
    return l->s->reach.delta[0] != NULL && !l->picked && shares_out(l) && l->kn->shares(&a);
}

/* A folded norm's sum of squares stays float32: beside delta where that is narrower, or sent. */
static bool sums_ride(const layer_call *l) { return l->d->norm == LAYER_NORM_FOLDED && delta_dtype(l) == PLP_F32 && !sends(l); }
static int64_t delta_columns(const layer_call *l) { return sums_ride(l) ? layer_ld_delta(l->d) : l->d->hidden; }

float *layer_folded_sums(const layer_call *l, int64_t *ld)
{
    *ld = sums_ride(l) ? delta_columns(l) : 1;
    return sums_ride(l) ? (float *)l->s->delta + l->d->hidden : l->s->sums;
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

/* Where they do not, NCCL scatters the sum and gathers the normed rows. */
static bool scatters(const layer_call *l) { return shares_out(l) && tp_scatters(l->g) && l->b->tokens % tp_size(l->g) == 0; }

static plp_status project_out(const layer_call *l, int first, int rows, void *to)
{
    const layer_dims *d = l->d;
    const int inner = layer_inner(d);
    return l->kn->linear(l->c, &(kn_linear_args){ .rows = rows,
                                                  .n = d->hidden,
                                                  .k = inner,
                                                  .x = layer_at(l->s->y, d->act, (int64_t)first * inner),
                                                  .x_dtype = d->act,
                                                  .ldx = inner,
                                                  .w = l->w->out_proj,
                                                  .w_dtype = d->weights,
                                                  .packed = l->packed,
                                                  .y = to,
                                                  .y_dtype = delta_dtype(l),
                                                  .ldy = delta_columns(l),
                                                  .round_x = d->round });
}

/* Every rank's rows into its memory, this rank's own last: meanwhile the others' are on their way.  The first time in a step the others must have begun it,
 * too: what the last one has left in their delta may be read until then. */
static plp_status project_to_owners(const layer_call *l)
{
    const int rank = tp_rank(l->g), size = tp_size(l->g);
    kn_arrive_args sums = { .values = l->d->norm == LAYER_NORM_FOLDED ? l->s->sums : NULL };
    for (int r = 0; r < size; r++) sums.to[r] = part_sums(l, r, rank), sums.first[r + 1] = rank_row(l, r + 1);
    if (l->first) PLP_TRY(meet(l));
    for (int i = 1; i <= size; i++) {
        const int r = (rank + i) % size;
        if (i == size) PLP_TRY(tp_arrive(l->g, &sums));
        if (rank_rows(l, r) > 0) PLP_TRY(project_out(l, rank_row(l, r), rank_rows(l, r), part_at(l, r, rank)));
    }
    return PLP_OK;
}

plp_status layer_project_out(const layer_call *l) { return sends(l) ? project_to_owners(l) : project_out(l, 0, l->b->tokens, l->s->delta); }

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
    if (sends(l)) {
        if (p.sumsq) p.sumsq = part_sums(l, tp_rank(l->g), 0);
        p.sent = true;
        *l->pending = p;
        return PLP_OK;
    }
    p.picked = l->picked;
    /* The kernel that sums by itself rounds otherwise than a sum and a norm behind it, which more rows take. */
    p.exchange = d->deterministic ? NULL : tp_exchange(l->g, (size_t)count * plp_dtype_size(p.dtype));
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
