#include "layers/layer.h"

#include "base/error.h"

static int parts(const layer_dims *d) { return d->dt_rank + 2 * d->state; } /* dt before its projection, B, C */

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
                                                   .y = l->s->mixed,
                                                   .y_dtype = PLP_F32,
                                                   .ldy = parts(d),
                                                   .round_x = d->round }));
    PLP_TRY(tp_all_reduce(l->g, l->s->mixed, (int64_t)tokens * parts(d), PLP_F32));
    return layer_show(l, "x_proj", l->s->mixed, PLP_F32, parts(d));
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
    return layer_show(l, "scan", l->s->y, d->act, inner);
}

static plp_status forward(const layer_call *l)
{
    const int inner = layer_inner(l->d);
    void *x = layer_at(l->s->in, l->d->act, inner); /* behind z */
    PLP_TRY(layer_project_in(l, 2 * inner));
    PLP_TRY(layer_convolve(l, inner, 2 * inner, inner));
    PLP_TRY(project_x(l));
    PLP_TRY(project_dt(l, x));
    PLP_TRY(scan(l, x));
    PLP_TRY(layer_other(l));
    PLP_TRY(layer_project_out(l));
    return layer_finish(l);
}

static void lay_out(layer_scratch *s, plp_arena *a, const kn_backend *kn, const layer_dims *d, int64_t tokens, int64_t seqs)
{
    const size_t act = plp_dtype_size(d->act);
    const int inner = layer_inner(d);
    (void)seqs;
    s->normed = plp_arena_take(a, tokens * d->hidden, act);
    s->in = plp_arena_take(a, tokens * 2 * inner, act);
    s->conv = plp_arena_take(a, tokens * inner, act);
    s->mixed = plp_arena_take(a, tokens * parts(d), sizeof(float));
    s->parts = plp_arena_take(a, tokens * parts(d), act);
    s->y = plp_arena_take(a, tokens * inner, act);
    s->delta = plp_arena_take(a, tokens * layer_ld_delta(d), sizeof(float));
    if (kn->scan_work) s->step = plp_arena_take(a, (int64_t)kn->scan_work(&(kn_scan_args){ .channels = inner, .state = d->state }), 1);
}

static int64_t summed(const layer_dims *d) { return parts(d) > d->hidden ? parts(d) : d->hidden; }

static layer_scratch from_row(const layer_scratch *s, const layer_dims *d, int64_t row)
{
    layer_scratch at = *s;
    at.normed = layer_at(s->normed, d->act, row * d->hidden);
    at.in = layer_at(s->in, d->act, row * 2 * layer_inner(d));
    at.conv = layer_at(s->conv, d->act, row * layer_inner(d));
    at.mixed = s->mixed + row * parts(d);
    at.parts = layer_at(s->parts, d->act, row * parts(d));
    at.y = layer_at(s->y, d->act, row * layer_inner(d));
    at.delta = layer_at(s->delta, PLP_F32, row * layer_ld_delta(d));
    return at;
}

const layer_kind layer_mamba1 = { .lay_out = lay_out, .from_row = from_row, .summed = summed, .forward = forward };
