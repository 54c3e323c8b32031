#include "layers/layer.h"

#include "base/error.h"

static int parts(const layer_dims *d) { return d->dt_rank + 2 * d->state; } /* dt before its projection, B, C */

/* kn->scan_mixer's arguments with x_proj in so many slices.  Whether the mixer adds its output to the residual itself: a.delta is NULL. */
static kn_scan_mixer_args fused_args(const layer_call *l, int slices)
{
    enum { FEW = 2 }; /* rows whose sums of several slices every block of the second kernel may add up for itself */
    const layer_dims *d = l->d;
    const layer_weights *w = l->w;
    const int rows = l->b->seqs;
    const kn_exchange *exchange = tp_exchange(l->g, (size_t)rows * (size_t)layer_ld_delta(d) * sizeof(float));
    const bool adds = tp_size(l->g) == 1 || exchange != NULL, leaves = adds && slices == 1 && (rows > KN_MIXER_ROWS || !l->last);
    const kn_exchange *mixed_exchange = rows <= FEW || slices == 1
                                            ? tp_exchange(l->g, (size_t)rows * (size_t)(slices * parts(d)) * sizeof(float))
                                            : NULL;
    return (kn_scan_mixer_args){
        .rows = rows,
        .hidden = d->hidden,
        .channels = layer_inner(d),
        .most_channels = d->most_heads * d->dim,
        .state = d->state,
        .width = d->conv,
        .dt_rank = d->dt_rank,
        .slices = slices,
        .residual = l->residual,
        .delta = adds ? NULL : l->s->delta,
        .ld_delta = layer_ld_delta(d),
        .exchange = exchange,
        .mixed_exchange = mixed_exchange,
        .between = tp_size(l->g) > 1 && mixed_exchange == NULL,
        .norm_weight = w->norm,
        .norm_eps = d->eps,
        .mixer_eps = d->mixer_eps,
        .ready = l->s->ready,
        .is_ready = l->pending->ready,
        .next_norm = leaves ? l->next_norm : NULL, /* the head reads what lies otherwise, see kn_ready_at */
        .in_proj = w->in_proj,
        .in_bias = w->in_bias,
        .conv_weight = w->conv,
        .conv_bias = w->conv_bias,
        .x_proj = w->x_proj,
        .dt_proj = w->dt_proj,
        .A = w->A,
        .dt_bias = w->dt_bias,
        .D = w->D,
        .out_proj = w->out_proj,
        .out_bias = adds ? w->out_bias : NULL,
        .w_dtype = d->weights,
        .conv_state = w->conv_state,
        .ssm_state = w->ssm_state,
        .conv_dtype = d->conv_dtype,
        .ssm_dtype = d->ssm_dtype,
        .mixed = l->s->mixed,
        .work = l->s->step,
    };
}

/* The whole mixer in the backend's fused form, for steps of decode rows alone.  *done = false: not for this shape.  *up_to_date: the
 * residual has this layer's output, summed over the ranks. */
static plp_status fused_step(const layer_call *l, bool *done, bool *up_to_date)
{
    enum { VECTOR = 64 }; /* all ranks go one way: what fused forms ask of the channels holds on every rank, or is asked of none */
    enum { APART = 5 };   /* of more rows x_proj by itself, which adds up over the ranks, beats a collective between two kernels */
    const layer_dims *d = l->d;
    const kn_batch *b = l->b;
    kn_scan_mixer_args a = fused_args(l, 1);
    *done = *up_to_date = false;
    /* a step too large for it takes other roundings: where results must not depend on the batch, no step may */
    if (l->kn->scan_mixer_begin == NULL || d->deterministic || b->decodes != b->seqs || d->unit % VECTOR != 0) return PLP_OK;
    if (l->w->mixer_norm != NULL) return PLP_OK;                /* the fused forms know no weights of these norms */
    if (d->most_heads > KN_MIXER_HEADS * VECTOR) return PLP_OK; /* of fewer, a rank alone would go the other way */
    if (b->seqs > KN_MIXER_WIDE) return PLP_OK;                 /* the pieces add what is pending while they norm */
    PLP_TRY(layer_settle(l));
    if (b->seqs > KN_MIXER_ROWS || (b->seqs > APART && a.exchange != NULL && a.mixed_exchange != NULL))
        PLP_TRY(l->kn->scan_mixer_begin(l->c, &a, b, done));
    if (!*done && b->seqs <= KN_MIXER_ROWS) {
        a = fused_args(l, KN_MIXER_SLICES);
        PLP_TRY(l->kn->scan_mixer_begin(l->c, &a, b, done));
    }
    if (!*done) return PLP_OK;
    if (a.between) PLP_TRY(tp_all_reduce(l->g, l->s->mixed, (int64_t)a.rows * a.slices * parts(d), PLP_F32));
    PLP_TRY(l->kn->scan_mixer_end(l->c, &a, b));
    *up_to_date = a.delta == NULL;
    l->pending->ready = a.next_norm != NULL;
    return PLP_OK;
}

/* s->mixed = x_proj of s->conv, summed over the ranks: each holds columns of x_proj, and what follows is not linear. */
static plp_status project_x(const layer_call *l)
{
    const layer_dims *d = l->d;
    const int inner = layer_inner(d), tokens = l->b->tokens;
    PLP_TRY(l->kn->linear(l->c, &(kn_linear_args){ .rows = tokens,
                                                   .n = parts(d),
                                                   .k = inner,
                                                   .x = l->s->conv,
                                                   .x_dtype = d->act,
                                                   .ldx = inner,
                                                   .w = l->w->x_proj,
                                                   .w_dtype = d->weights,
                                                   .packed = l->packed,
                                                   .y = l->s->mixed,
                                                   .y_dtype = PLP_F32,
                                                   .ldy = parts(d),
                                                   .round_x = d->round }));
    PLP_TRY(tp_all_reduce(l->g, l->s->mixed, (int64_t)tokens * parts(d), PLP_F32));
    return layer_show(l, "x_proj", l->s->mixed, PLP_F32, parts(d), parts(d));
}

/* s->parts from s->mixed, and dt into the columns of s->in that held x: the convolution has read them. */
static plp_status project_dt(const layer_call *l, void *dt)
{
    const layer_dims *d = l->d;
    const int inner = layer_inner(d), tokens = l->b->tokens;
    PLP_TRY(l->kn->rms(l->c, &(kn_rms_args){ .tokens = tokens,
                                             .segments = 3,
                                             .width = { d->dt_rank, d->state, d->state },
                                             .eps = d->mixer_eps,
                                             .weight = l->w->mixer_norm,
                                             .in = l->s->mixed,
                                             .ld_in = parts(d),
                                             .out = l->s->parts,
                                             .ld_out = parts(d) }));
    return l->kn->linear(l->c, &(kn_linear_args){ .rows = tokens,
                                                  .n = inner,
                                                  .k = d->dt_rank,
                                                  .x = l->s->parts,
                                                  .x_dtype = d->act,
                                                  .ldx = parts(d),
                                                  .w = l->w->dt_proj,
                                                  .w_dtype = d->weights,
                                                  .packed = l->packed,
                                                  .y = dt,
                                                  .y_dtype = d->act,
                                                  .ldy = 2 * inner,
                                                  .round_x = d->round });
}

static plp_status scan(const layer_call *l, const void *dt)
{
    const layer_dims *d = l->d;
    const int inner = layer_inner(d);
    const kn_scan_args a = { .channels = inner,
                             .state = d->state,
                             .x = l->s->conv,
                             .z = l->s->in,
                             .dt = dt,
                             .B = layer_at(l->s->parts, d->act, d->dt_rank),
                             .C = layer_at(l->s->parts, d->act, d->dt_rank + d->state),
                             .ld_x = inner,
                             .ld_z = 2 * inner,
                             .ld_dt = 2 * inner,
                             .ld_bc = parts(d),
                             .A = l->w->A,
                             .dt_bias = l->w->dt_bias,
                             .D = l->w->D,
                             .h = l->w->ssm_state,
                             .state_dtype = d->ssm_dtype,
                             .y = l->s->y,
                             .ld_y = inner,
                             .block = l->block,
                             .snap_start = l->snap_start,
                             .snap_slot = l->snap_slot,
                             .work = l->s->step };
    if (l->b->decodes > 0) PLP_TRY(l->kn->scan_step(l->c, &a, l->b));
    if (l->b->seqs > l->b->decodes) PLP_TRY(l->kn->scan(l->c, &a, l->b));
    return layer_show(l, "scan", l->s->y, d->act, inner, inner);
}

static plp_status project_out(const layer_call *l)
{
    PLP_TRY(layer_project_out(l));
    return layer_finish(l);
}

static plp_status forward(const layer_call *l)
{
    const int inner = layer_inner(l->d);
    void *x = layer_at(l->s->in, l->d->act, inner); /* behind z */
    bool done, up_to_date;
    PLP_TRY(fused_step(l, &done, &up_to_date));
    if (done) return up_to_date ? PLP_OK : layer_finish(l);
    PLP_TRY(layer_project_in(l, 2 * inner, 2 * inner));
    PLP_TRY(layer_convolve(l, inner, 2 * inner, inner));
    PLP_TRY(project_x(l));
    PLP_TRY(project_dt(l, x));
    PLP_TRY(scan(l, x));
    return layer_behind_scan(l, 0, project_out);
}

static void lay_out(layer_scratch *s, plp_arena *a, const kn_backend *kn, const layer_dims *d, int64_t tokens, int64_t seqs)
{
    const size_t act = plp_dtype_size(d->act);
    const int inner = layer_inner(d);
    const int64_t sums = tokens > KN_MIXER_ROWS * KN_MIXER_SLICES ? tokens : KN_MIXER_ROWS * KN_MIXER_SLICES;
    const kn_scan_mixer_args shape = {
        .rows = (int)seqs, .hidden = d->hidden, .channels = inner, .state = d->state, .dt_rank = d->dt_rank
    };
    const size_t of_scan = kn->scan_work ? kn->scan_work(&(kn_scan_args){ .channels = inner, .state = d->state }) : 0;
    const size_t of_mixer = kn->scan_mixer_work ? kn->scan_mixer_work(&shape) : 0;
    s->normed = plp_arena_take(a, tokens * d->hidden, act);
    s->in = plp_arena_take(a, tokens * 2 * inner, act);
    s->conv = plp_arena_take(a, tokens * inner, act);
    s->mixed = plp_arena_take(a, sums * parts(d), sizeof(float));
    s->parts = plp_arena_take(a, tokens * parts(d), act);
    s->y = plp_arena_take(a, tokens * inner, act);
    s->delta = plp_arena_take(a, (tokens + KN_PEERS) * layer_ld_delta(d), sizeof(float)); /* parts of rows that ranks do not divide */
    if (of_mixer > 0) {
        s->ready.x = plp_arena_take(a, (int64_t)KN_MIXER_WIDE * d->hidden, plp_dtype_size(PLP_BF16));
        s->ready.squares = plp_arena_take(a, KN_READY_SQUARES, sizeof(float));
    }
    if (of_scan + of_mixer > 0) s->step = plp_arena_take(a, (int64_t)(of_scan > of_mixer ? of_scan : of_mixer), 1);
}

static layer_scratch rows_from(const layer_scratch *s, const layer_dims *d, int64_t row)
{
    const int inner = layer_inner(d);
    return (layer_scratch){ .normed = layer_at(s->normed, d->act, row * d->hidden),
                            .in = layer_at(s->in, d->act, row * 2 * inner),
                            .conv = layer_at(s->conv, d->act, row * inner),
                            .mixed = s->mixed + row * parts(d),
                            .parts = layer_at(s->parts, d->act, row * parts(d)),
                            .y = layer_at(s->y, d->act, row * inner),
                            .delta = layer_at(s->delta, PLP_F32, row * layer_ld_delta(d)) };
}

static int64_t summed(const layer_dims *d)
{
    const int64_t slices = KN_MIXER_SLICES * parts(d);
    return slices > d->hidden ? slices : d->hidden;
}

const layer_kind layer_mamba1 = { .lay_out = lay_out, .rows_from = rows_from, .summed = summed, .forward = forward };
