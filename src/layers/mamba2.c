#include "layers/mamba2.h"

#include "base/error.h"

static void *columns(const void *base, plp_dtype dtype, int64_t n) { return (char *)base + (size_t)n * plp_dtype_size(dtype); }

/* The whole mixer in the backend's fused form, for steps of decode rows alone.  *done = false: not for this shape. */
static plp_status fused_step(const kn_backend *kn, kn_context *c, tp_group *g, const layer_mamba2_dims *d, const layer_mamba2_weights *w,
                             const layer_mamba2_scratch *s, const kn_batch *b, float *residual, layer_pending *pending, bool *done)
{
    const bool alone = tp_size(g) == 1;
    const kn_mixer_step_args a = {
        .rows = b->seqs,
        .hidden = d->hidden,
        .heads = d->heads,
        .groups = d->groups,
        .dim = d->dim,
        .state = d->state,
        .width = d->conv,
        .residual = residual,
        .delta = alone ? NULL : s->delta,
        .ld_delta = layer_mamba2_ld_delta(d),
        .fold = d->norm == LAYER_NORM_FOLDED,
        .norm_weight = w->norm,
        .norm_eps = d->eps,
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
        .gate_width = d->norm_width,
        .gate_eps = d->eps,
        .out_proj = w->out_proj,
        .out_bias = alone ? w->out_bias : NULL,
        .w_dtype = d->weights,
        .group = d->group,
        .host_group = d->host_group,
        .conv_state = w->conv_state,
        .ssm_state = w->ssm_state,
        .conv_dtype = d->conv_dtype,
        .ssm_dtype = d->ssm_dtype,
        .work = s->step,
    };
    *done = false;
    if (kn->mixer_step == NULL || b->decodes != b->seqs || d->norm == LAYER_NORM_SUMMED) return PLP_OK;
    if (pending->delta) /* the fused form reads a residual that is up to date */
        PLP_TRY(layer_add_norm(kn, c, b->tokens, d->hidden, residual, pending, NULL, 0, NULL, 0, NULL));
    return kn->mixer_step(c, &a, b, done);
}

/* v = y silu(z), normed as far as this rank alone can; with straddling groups, after the sums came together. */
static plp_status gate(const kn_backend *kn, kn_context *c, tp_group *g, const layer_mamba2_dims *d, const layer_mamba2_weights *w,
                       const layer_mamba2_scratch *s, int tokens, int64_t ld_in)
{
    static const kn_norm_mode modes[] = { [LAYER_NORM_NONE] = KN_NORM_NONE,
                                          [LAYER_NORM_LOCAL] = KN_NORM_LOCAL,
                                          [LAYER_NORM_FOLDED] = KN_NORM_FOLD,
                                          [LAYER_NORM_SUMMED] = KN_NORM_SUMS };
    const int channels = d->heads * d->dim, sums = d->all_norm_groups;
    kn_gated_norm_args a = { .tokens = tokens,
                             .channels = channels,
                             .groups = d->norm_groups,
                             .mode = modes[d->norm],
                             .first = d->norm_first,
                             .width = d->norm_width,
                             .eps = d->eps,
                             .y = s->y,
                             .z = s->in,
                             .ld_y = channels,
                             .ld_z = ld_in,
                             .weight = w->gate_norm,
                             .out = s->y,
                             .ld_out = channels };
    if (d->norm == LAYER_NORM_FOLDED) a.sums = s->delta + d->hidden, a.ld_sums = layer_mamba2_ld_delta(d);
    if (d->norm == LAYER_NORM_SUMMED) {
        a.sums = s->sums + d->norm_group_first, a.ld_sums = sums;
        PLP_TRY(kn->fill(c, s->sums, 0, (size_t)tokens * (size_t)sums * sizeof(float)));
        PLP_TRY(kn->gated_norm(c, &a));
        PLP_TRY(tp_all_reduce(g, s->sums, (int64_t)tokens * sums, PLP_F32));
        a.mode = KN_NORM_APPLY;
    }
    return kn->gated_norm(c, &a);
}

static plp_status show(const layer_probe *p, const char *tensor, const void *data, plp_dtype dtype, int64_t rows, int64_t columns)
{
    return p->see ? p->see(p->arg, p->layer, tensor, data, dtype, rows, columns, columns) : PLP_OK;
}

plp_status layer_mamba2(const kn_backend *kn, kn_context *c, tp_group *g, const layer_mamba2_dims *d, const layer_mamba2_weights *w,
                        const layer_mamba2_scratch *s, const kn_batch *b, const kn_ssm_args *snap, const layer_probe *probe,
                        float *residual, layer_pending *pending)
{
    const int inner = d->heads * d->dim, bc = d->groups * d->state, channels = inner + 2 * bc, rows = 2 * inner + 2 * bc + d->heads;
    const int64_t ld_delta = layer_mamba2_ld_delta(d);
    const bool folded = d->norm == LAYER_NORM_FOLDED;
    bool done;
    PLP_TRY(fused_step(kn, c, g, d, w, s, b, residual, pending, &done));
    if (done && tp_size(g) == 1) return PLP_OK; /* the residual is up to date */
    if (!done) {
        PLP_TRY(layer_add_norm(kn, c, b->tokens, d->hidden, residual, pending, NULL, b->tokens, w->norm, d->eps, s->normed));
        PLP_TRY(kn->linear(c, &(kn_linear_args){ .rows = b->tokens,
                                                 .n = rows,
                                                 .k = d->hidden,
                                                 .x = s->normed,
                                                 .x_dtype = d->act,
                                                 .ldx = d->hidden,
                                                 .w = w->in_proj,
                                                 .w_dtype = d->weights,
                                                 .bias = w->in_bias,
                                                 .y = s->in,
                                                 .y_dtype = d->act,
                                                 .ldy = rows,
                                                 .round_x = d->round }));
        PLP_TRY(show(probe, "in_proj", s->in, d->act, b->tokens, rows));
        PLP_TRY(kn->conv(c,
                         &(kn_conv_args){ .channels = channels,
                                          .width = d->conv,
                                          .in = columns(s->in, d->act, inner),
                                          .ld_in = rows,
                                          .weight = w->conv,
                                          .bias = w->conv_bias,
                                          .state = w->conv_state,
                                          .state_dtype = d->conv_dtype,
                                          .out = s->conv,
                                          .ld_out = channels },
                         b));
        PLP_TRY(show(probe, "conv", s->conv, d->act, b->tokens, channels));
        const kn_ssm_args ssm = { .heads = d->heads,
                                  .groups = d->groups,
                                  .dim = d->dim,
                                  .state = d->state,
                                  .chunk = d->chunk,
                                  .group = d->group,
                                  .host_group = d->host_group,
                                  .x = s->conv,
                                  .B = columns(s->conv, d->act, inner),
                                  .C = columns(s->conv, d->act, inner + bc),
                                  .dt = columns(s->in, d->act, 2 * inner + 2 * bc),
                                  .ld_x = channels,
                                  .ld_bc = channels,
                                  .ld_dt = rows,
                                  .A = w->A,
                                  .dt_bias = w->dt_bias,
                                  .D = w->D,
                                  .dt_min = d->dt_min,
                                  .dt_max = d->dt_max,
                                  .h = w->ssm_state,
                                  .state_dtype = d->ssm_dtype,
                                  .y = s->y,
                                  .ld_y = inner,
                                  .block = snap->block,
                                  .snap_start = snap->snap_start,
                                  .snap_slot = snap->snap_slot };
        if (b->decodes > 0) PLP_TRY(kn->ssm_step(c, &ssm, b));
        if (b->seqs > b->decodes) PLP_TRY(kn->ssd(c, &ssm, b));
        PLP_TRY(show(probe, "scan", s->y, d->act, b->tokens, inner));
        PLP_TRY(gate(kn, c, g, d, w, s, b->tokens, rows));
        PLP_TRY(kn->linear(c, &(kn_linear_args){ .rows = b->tokens,
                                                 .n = d->hidden,
                                                 .k = inner,
                                                 .x = s->y,
                                                 .x_dtype = d->act,
                                                 .ldx = inner,
                                                 .w = w->out_proj,
                                                 .w_dtype = d->weights,
                                                 .y = s->delta,
                                                 .y_dtype = PLP_F32,
                                                 .ldy = ld_delta,
                                                 .round_x = d->round }));
    }
    PLP_TRY(tp_all_reduce(g, s->delta, b->tokens * ld_delta, PLP_F32));
    *pending = (layer_pending){ .delta = s->delta, .dtype = PLP_F32, .ld = ld_delta, .bias = w->out_bias };
    if (folded) pending->sumsq = s->delta + d->hidden, pending->ld_sumsq = ld_delta, pending->width = d->norm_width, pending->eps = d->eps;
    return PLP_OK;
}
