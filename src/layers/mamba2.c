#include "layers/layer.h"

#include "base/error.h"

static int bc(const layer_dims *d) { return d->groups * d->state; } /* columns of B, and of C */
static int conv_channels(const layer_dims *d) { return layer_inner(d) + 2 * bc(d); }
static int in_rows(const layer_dims *d) { return 2 * layer_inner(d) + 2 * bc(d) + d->heads; }
static int ld_in(const layer_dims *d) { return (int)layer_in_rows(in_rows(d)); } /* of its output */

/* The whole mixer in the backend's fused form, for steps of decode rows alone.  *done = false: not for this shape.  *up_to_date: the
 * residual has this layer's output, summed over the ranks. */
static plp_status fused_step(const layer_call *l, bool *done, bool *up_to_date)
{
    const layer_dims *d = l->d;
    const layer_weights *w = l->w;
    const kn_batch *b = l->b;
    const kn_exchange *exchange = tp_exchange(l->g, (size_t)b->seqs * (size_t)layer_ld_delta(d) * sizeof(float));
    const bool adds = tp_size(l->g) == 1 || exchange != NULL;
    kn_mixer_step_args a = {
        .rows = b->seqs,
        .hidden = d->hidden,
        .heads = d->heads,
        .groups = d->groups,
        .dim = d->dim,
        .state = d->state,
        .width = d->conv,
        .most_heads = d->most_heads,
        .residual = l->residual,
        .delta = adds ? NULL : l->s->delta,
        .ld_delta = layer_ld_delta(d),
        .exchange = exchange,
        .fold = d->norm == LAYER_NORM_FOLDED,
        .norm_weight = w->norm,
        .norm_eps = d->eps,
        .ready = l->s->ready,
        .is_ready = l->pending->ready,
        .next_norm = l->next_norm,
        .in_proj = w->in_proj,
        .in_bias = w->in_bias,
        .conv_weight = w->conv,
        .conv_bias = w->conv_bias,
        .A = w->A,
        .dt_bias = w->dt_bias,
        .D = w->D,
        .dt_min = d->dt_min,
        .dt_max = d->dt_max,
        .gate_weight = w->gate_norm,
        .gate_first = d->host_norm_first,
        .gate_groups = d->norm_groups,
        .all_groups = d->norm == LAYER_NORM_SUMMED ? d->all_norm_groups : 0,
        .group_first = d->norm_group_first,
        .gate_width = d->norm_width,
        .gate_eps = d->eps,
        .out_proj = w->out_proj,
        .out_bias = adds ? w->out_bias : NULL,
        .w_dtype = d->weights,
        .group = d->group,
        .conv_state = w->conv_state,
        .ssm_state = w->ssm_state,
        .conv_dtype = d->conv_dtype,
        .ssm_dtype = d->ssm_dtype,
        .work = l->s->step,
    };
    *done = *up_to_date = false;
    /* a step too large for it takes other roundings: where results must not depend on the batch, no step may */
    if (l->kn->mixer_step == NULL || d->deterministic || b->decodes != b->seqs) return PLP_OK;
    if (d->most_heads > KN_MIXER_HEADS) return PLP_OK; /* all ranks go one way: they may sum inside the mixer */
    bool known = l->kn->mixer_step_knows(l->c, &a, b);
    if (!known && exchange && d->norm != LAYER_NORM_SUMMED) { /* the layer sums behind it */
        a.exchange = NULL, a.delta = l->s->delta, a.out_bias = NULL;
        known = l->kn->mixer_step_knows(l->c, &a, b);
    }
    if (!known) return PLP_OK; /* the pieces add what is pending while they norm */
    PLP_TRY(layer_settle(l));
    PLP_TRY(l->kn->mixer_step(l->c, &a, b, done));
    *up_to_date = *done && a.delta == NULL;
    l->pending->ready = *up_to_date && b->seqs >= KN_READY_ROWS && l->next_norm != NULL;
    return PLP_OK;
}

/* The convolution and the scan, together where the backend can and nobody looks between them. */
static plp_status convolve_and_scan(const layer_call *l)
{
    enum { WORTH = 512 }; /* rows of prefill: below, two short kernels are done sooner than one long one */
    const layer_dims *d = l->d;
    const kn_batch *b = l->b;
    const int inner = layer_inner(d), channels = conv_channels(d);
    const kn_conv_args v = layer_convolution(l, inner, ld_in(d), channels);
    const kn_ssm_args a = { .heads = d->heads,
                            .groups = d->groups,
                            .dim = d->dim,
                            .state = d->state,
                            .chunk = d->chunk,
                            .group = d->group,
                            .host_group = d->host_group,
                            .x = l->s->conv,
                            .B = layer_at(l->s->conv, d->act, inner),
                            .C = layer_at(l->s->conv, d->act, inner + bc(d)),
                            .dt = layer_at(l->s->in, d->act, 2 * inner + 2 * bc(d)),
                            .ld_x = channels,
                            .ld_bc = channels,
                            .ld_dt = ld_in(d),
                            .A = l->w->A,
                            .dt_bias = l->w->dt_bias,
                            .D = l->w->D,
                            .dt_min = d->dt_min,
                            .dt_max = d->dt_max,
                            .h = l->w->ssm_state,
                            .state_dtype = d->ssm_dtype,
                            .y = l->s->y,
                            .ld_y = inner,
                            .block = l->block,
                            .snap_start = l->snap_start,
                            .snap_slot = l->snap_slot };
    const bool prefills = b->seqs > b->decodes;
    const bool together = b->tokens - b->decodes >= WORTH && l->kn->ssd_conv && l->probe->see == NULL &&
                          l->kn->ssd_conv_knows(l->c, &v, &a, b);
    if (together)
        PLP_TRY(l->kn->ssd_conv(l->c, &v, &a, b));
    else
        PLP_TRY(layer_convolve(l, inner, ld_in(d), channels));
    if (b->decodes > 0) PLP_TRY(l->kn->ssm_step(l->c, &a, b));
    if (prefills && !together) PLP_TRY(l->kn->ssd(l->c, &a, b));
    return layer_show(l, "scan", l->s->y, d->act, inner, inner);
}

/* v = y silu(z), normed as far as this rank alone can; with straddling groups, after the sums came together. */
static plp_status gate(const layer_call *l)
{
    static const kn_norm_mode modes[] = { [LAYER_NORM_NONE] = KN_NORM_NONE,
                                          [LAYER_NORM_LOCAL] = KN_NORM_LOCAL,
                                          [LAYER_NORM_FOLDED] = KN_NORM_FOLD,
                                          [LAYER_NORM_SUMMED] = KN_NORM_SUMS };
    const layer_dims *d = l->d;
    const int channels = layer_inner(d), tokens = l->b->tokens, sums = d->all_norm_groups;
    kn_gated_norm_args a = { .tokens = tokens,
                             .channels = channels,
                             .groups = d->norm_groups,
                             .mode = modes[d->norm],
                             .first = d->norm_first,
                             .width = d->norm_width,
                             .eps = d->eps,
                             .y = l->s->y,
                             .z = l->s->in,
                             .ld_y = channels,
                             .ld_z = ld_in(d),
                             .weight = l->w->gate_norm,
                             .out = l->s->y,
                             .ld_out = channels };
    if (d->norm == LAYER_NORM_FOLDED) a.sums = layer_folded_sums(l, &a.ld_sums);
    if (d->norm == LAYER_NORM_SUMMED) {
        a.sums = l->s->sums + d->norm_group_first, a.ld_sums = sums;
        PLP_TRY(l->kn->fill(l->c, l->s->sums, 0, (size_t)tokens * (size_t)sums * sizeof(float)));
        PLP_TRY(l->kn->gated_norm(l->c, &a));
        PLP_TRY(tp_all_reduce(l->g, l->s->sums, (int64_t)tokens * sums, PLP_F32));
        a.mode = KN_NORM_APPLY;
    }
    return l->kn->gated_norm(l->c, &a);
}

static plp_status gate_and_project(const layer_call *l)
{
    PLP_TRY(gate(l));
    PLP_TRY(layer_project_out(l));
    return layer_finish(l);
}

static plp_status forward(const layer_call *l)
{
    const layer_dims *d = l->d;
    bool done, up_to_date;
    PLP_TRY(fused_step(l, &done, &up_to_date));
    if (up_to_date) return PLP_OK;
    if (done) return layer_finish(l);
    PLP_TRY(layer_project_in(l, in_rows(d), ld_in(d)));
    PLP_TRY(convolve_and_scan(l));
    return layer_behind_scan(l, ld_in(d), gate_and_project);
}

static int64_t sum_columns(const layer_dims *d) { return d->norm == LAYER_NORM_SUMMED ? d->all_norm_groups : d->norm == LAYER_NORM_FOLDED; }

static void lay_out(layer_scratch *s, plp_arena *a, const kn_backend *kn, const layer_dims *d, int64_t tokens, int64_t seqs)
{
    const size_t act = plp_dtype_size(d->act);
    const kn_mixer_step_args shape = {
        .rows = (int)seqs, .hidden = d->hidden, .heads = d->heads, .groups = d->groups, .dim = d->dim, .state = d->state, .width = d->conv
    };
    s->normed = plp_arena_take(a, tokens * d->hidden, act);
    s->in = plp_arena_take(a, tokens * ld_in(d), act);
    s->conv = plp_arena_take(a, tokens * conv_channels(d), act);
    s->y = plp_arena_take(a, tokens * layer_inner(d), act);
    s->sums = plp_arena_take(a, tokens * sum_columns(d), sizeof(float));
    s->delta = plp_arena_take(a, (tokens + KN_PEERS) * layer_ld_delta(d), sizeof(float)); /* parts of rows that ranks do not divide */
    if (kn->mixer_step == NULL) return;
    s->step = plp_arena_take(a, (int64_t)kn->mixer_step_work(&shape), 1);
    s->ready.x = plp_arena_take(a, (int64_t)KN_MIXER_WIDE * d->hidden, plp_dtype_size(PLP_BF16));
    s->ready.squares = plp_arena_take(a, KN_READY_SQUARES, sizeof(float));
}

static layer_scratch rows_from(const layer_scratch *s, const layer_dims *d, int64_t row)
{
    return (layer_scratch){ .normed = layer_at(s->normed, d->act, row * d->hidden),
                            .in = layer_at(s->in, d->act, row * ld_in(d)),
                            .conv = layer_at(s->conv, d->act, row * conv_channels(d)),
                            .y = layer_at(s->y, d->act, row * layer_inner(d)),
                            .sums = s->sums + row * sum_columns(d),
                            .delta = layer_at(s->delta, PLP_F32, row * layer_ld_delta(d)) };
}

static int64_t summed(const layer_dims *d)
{
    const int64_t groups = d->norm == LAYER_NORM_SUMMED ? d->all_norm_groups : 0, delta = layer_ld_delta(d);
    return groups > delta ? groups : delta;
}

const layer_kind layer_mamba2 = { .lay_out = lay_out, .rows_from = rows_from, .summed = summed, .forward = forward };
