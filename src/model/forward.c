#include "model/state.h"

#include "base/error.h"
#include "base/fault.h"
#include "tp/stamp.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static plp_status check_step(const model *m, const model_step *s)
{
    const model_options *o = &m->options;
    if (s->tokens > o->max_tokens || s->seqs > o->max_seqs || s->outs > o->max_outs)
        return PLP_FAIL(PLP_ERR_INTERNAL, "step of %d rows, %d sequences, %d outputs; the model was made for %d, %d, %d", s->tokens,
                        s->seqs, s->outs, o->max_tokens, o->max_seqs, o->max_outs);
    for (int t = 0; t < s->tokens; t++)
        if (s->ids[t] >= m->config.vocab_used || (s->ids[t] < 0 && (t >= s->decodes || ~s->ids[t] >= m->drawn)))
            return PLP_FAIL(PLP_ERR_DATA, "token id %d, the vocabulary has 0 to %lld; fix: use the model's own tokenizer", s->ids[t],
                            (long long)m->config.vocab_used - 1);
    for (int i = 0; i < s->seqs; i++)
        if (s->src_slot[i] < 0 || s->src_slot[i] >= o->slots || s->dst_slot[i] < 0 || s->dst_slot[i] >= o->slots)
            return PLP_FAIL(PLP_ERR_INTERNAL, "slot %d or %d of %d", s->src_slot[i], s->dst_slot[i], o->slots);
    return PLP_OK;
}

enum { INPUT_MARK = MODEL_FLIGHTS }; /* behind those of draws: the last inputs */

/* For a step on a device, whose collectives other ranks may be late for. */
static plp_status wait_for_device(model *m, int mark)
{
    if (m->plan.size == 1 || !tp_capturable(m->group)) return m->kn->wait(m->context, mark);
    return TP_WAIT(TP_DEVICE, 0, m->kn->wait(m->context, mark));
}

static plp_status upload_draw(model *m, const model_draw *d, int rows)
{
    memcpy(m->host[m->input].sample, d->row, (size_t)rows * sizeof *d->row);
    PLP_TRY(m->kn->to_device(m->context, m->there.sample, m->host[m->input].sample, (size_t)rows * sizeof *d->row));
    if (d->penalties == 0) return PLP_OK;
    if (d->penalties > m->penalty_room)
        return PLP_FAIL(PLP_ERR_INTERNAL, "%d penalties, at most %lld", d->penalties, (long long)m->penalty_room);
    PLP_TRY(m->kn->to_device(m->context, m->penalties, d->penalty_id, (size_t)d->penalties * sizeof(int)));
    return m->kn->to_device(m->context, m->penalties + m->penalty_room, d->penalty_hits, (size_t)d->penalties * sizeof(int));
}

static plp_status upload(model *m, const model_step *s)
{
    const model_inputs *h = &m->host[m->input];
    bool fed = false;
    PLP_TRY(wait_for_device(m, INPUT_MARK)); /* what lay there was sent */
    memcpy(h->past, s->past, (size_t)s->seqs * sizeof *h->past);
    memcpy(h->start, s->start, (size_t)(s->seqs + 1) * sizeof(int));
    memcpy(h->src_slot, s->src_slot, (size_t)s->seqs * sizeof(int));
    memcpy(h->dst_slot, s->dst_slot, (size_t)s->seqs * sizeof(int));
    if (s->outs) memcpy(h->out_row, s->out_row, (size_t)s->outs * sizeof(int));
    memcpy(h->ids, s->ids, (size_t)s->tokens * sizeof(int));
    for (int t = 0; t < s->decodes; t++) fed |= s->ids[t] < 0;
    PLP_TRY(m->kn->to_device(m->context, m->there.past, h->past, h->fixed + (size_t)s->tokens * sizeof(int)));
    if (s->draw && s->outs > 0) PLP_TRY(upload_draw(m, s->draw, s->outs));
    PLP_TRY(m->kn->mark(m->context, INPUT_MARK));
    return fed ? m->kn->feed(m->context, m->there.ids, m->choices, s->decodes) : PLP_OK;
}

/* Brings the residual up to date and shows it. */
static plp_status show_residual(model *m, const model_step *s, layer_pending *pending)
{
    const layer_probe *p = &m->probe;
    if (p->see == NULL) return PLP_OK;
    if (pending->delta) PLP_TRY(layer_add_norm(m->kn, m->context, s->tokens, m->dims.hidden, m->residual, pending, NULL, 0, NULL, 0, NULL));
    return p->see(p->arg, p->layer, "residual", m->residual, PLP_F32, s->tokens, m->dims.hidden, m->dims.hidden);
}

/* The last norm and the head, for the rows whose logits are wanted: of the first row of a share on, like the map. */
static plp_status head(model *m, const model_share *s, layer_pending *pending)
{
    const kn_backend *kn = m->kn;
    const int hidden = m->dims.hidden, vocab = (int)m->plan.vocab.count;
    float *residual = m->residual + (int64_t)s->first * hidden, *logits = m->logits + (int64_t)s->first * vocab;
    void *normed = layer_at(m->normed_out, m->act, (int64_t)s->first * hidden);
    const bool ready = pending->ready && s->seqs <= KN_MIXER_ROWS; /* what is ready for more rows lies otherwise */
    bool done = false;
    if (kn->norm_linear && pending->delta == NULL && !m->options.deterministic)
        PLP_TRY(kn->norm_linear(s->context,
                                &(kn_norm_linear_args){ .rows = s->outs,
                                                        .n = vocab,
                                                        .hidden = hidden,
                                                        .residual = residual,
                                                        .map = m->there.out_row,
                                                        .weight = m->weights.final_norm,
                                                        .ready = ready ? s->scratch.ready : (kn_ready){ 0 },
                                                        .eps = m->config.norm_eps,
                                                        .w = m->weights.head,
                                                        .w_dtype = m->weights.dtype,
                                                        .y = logits,
                                                        .ld_y = vocab },
                                &done));
    if (done) return PLP_OK;
    PLP_TRY(layer_add_norm(kn, s->context, s->tokens, hidden, residual, pending, m->there.out_row, s->outs, m->weights.final_norm,
                           m->config.norm_eps, normed));
    return kn->linear(s->context, &(kn_linear_args){ .rows = s->outs,
                                                     .n = vocab,
                                                     .k = hidden,
                                                     .x = normed,
                                                     .x_dtype = m->act,
                                                     .ldx = hidden,
                                                     .w = m->weights.head,
                                                     .w_dtype = m->weights.dtype,
                                                     .packed = m->weights.packed,
                                                     .y = logits,
                                                     .y_dtype = PLP_F32,
                                                     .ldy = vocab,
                                                     .round_x = m->dims.round });
}

static model_share whole_of(const model *m, const model_step *s)
{
    return (model_share){
        .context = m->context, .scratch = m->scratch, .tokens = s->tokens, .seqs = s->seqs, .decodes = s->decodes, .outs = s->outs
    };
}

/* Rows of the embedding, from the head's first on, that are packed. */
static int64_t packed_ids(const model *m) { return m->weights.packed && m->config.tied ? m->plan.vocab.count : 0; }

/* Whether the last layer can do without most rows: those that are wanted are few, and none is wanted twice. */
static bool wants_few(const model_step *s, const model_share *share)
{
    if (!s->no_others || share->tokens != s->tokens || 4 * s->outs > s->tokens) return false;
    for (int i = 1; i < s->outs; i++)
        if (s->out_row[i] <= s->out_row[i - 1]) return false;
    return true;
}

/* Queues a share's computation; its inputs are there.  *left: what no norm has added to the residual. */
static plp_status compute(model *m, const model_step *s, const model_share *share, layer_pending *left)
{
    const kn_backend *kn = m->kn;
    const model_inputs *in = &m->there, *host = &m->host[m->input];
    const int first = share->first;
    float *residual = m->residual + (int64_t)first * m->dims.hidden;
    const kn_batch batch = { .tokens = share->tokens,
                             .seqs = share->seqs,
                             .decodes = share->decodes,
                             .start = in->start, /* of decode rows: counts from 0, wherever they begin */
                             .src_slot = in->src_slot + first,
                             .dst_slot = in->dst_slot + first,
                             .past = in->past + first,
                             .host_start = host->start,
                             .host_past = host->past + first };
    layer_pending pending = { 0 };
    layer_call call = { .kn = kn,
                        .c = share->context,
                        .g = m->group,
                        .d = &m->dims,
                        .s = &share->scratch,
                        .packed = m->weights.packed,
                        .b = &batch,
                        .block = s->block,
                        .snap_start = s->snap_start,
                        .snap_slot = s->snap_slot,
                        .probe = &m->probe,
                        .residual = residual,
                        .pending = &pending };
    PLP_TRY(kn->embed(share->context, &(kn_embed_args){ .tokens = share->tokens,
                                                        .hidden = m->dims.hidden,
                                                        .vocab = m->config.vocab,
                                                        .ids = in->ids + first,
                                                        .table = m->weights.embed,
                                                        .table_dtype = m->weights.dtype,
                                                        .packed_first = m->plan.vocab.first,
                                                        .packed_count = packed_ids(m),
                                                        .out = residual }));
    if (first == 0) PLP_TRY(MODEL_FAULT_ROW(m, "embed", residual));
    for (int64_t i = 0; i < m->config.layers; i++) {
        if (first == 0) { /* on the main thread */
            m->probe.layer = i;
            tp_stamp(s->decodes == s->tokens ? TP_DECODE : TP_PREFILL, m->steps);
        }
        call.w = m->weights.layers + i;
        call.next_norm = i + 1 < m->config.layers ? call.w[1].norm : m->weights.final_norm;
        call.first = i == 0, call.last = i + 1 == m->config.layers;
        if (call.last && wants_few(s, share)) call.wanted = in->out_row, call.outs = s->outs;
        PLP_TRY(m->kind->forward(&call));
        PLP_TRY(show_residual(m, s, &pending));
    }
    if (share->outs > 0) PLP_TRY(head(m, share, &pending));
    *left = pending;
    return PLP_OK;
}

/* How many of this rank's rows of the head are real: the rest pads the vocabulary. */
static int valid_ids(const model *m)
{
    const int64_t valid = m->config.vocab_used - m->plan.vocab.first;
    return (int)(valid < 0 ? 0 : valid < m->plan.vocab.count ? valid : m->plan.vocab.count);
}

/* This rank's candidates of rows [first, first + rows) of logits; how they are drawn is there. */
static plp_status candidates(model *m, kn_context *c, int first, int rows, bool drawn_alone)
{
    if (first == 0) PLP_TRY(MODEL_FAULT_ROW(m, "logits", m->logits));
    return m->kn->candidates(c, &(kn_candidates_args){ .rows = rows,
                                                       .first = (int)m->plan.vocab.first,
                                                       .valid = valid_ids(m),
                                                       .logits = m->logits + first * m->plan.vocab.count,
                                                       .ld = m->plan.vocab.count,
                                                       .row = m->there.sample + first,
                                                       .penalty_id = m->penalties,
                                                       .penalty_hits = m->penalties + m->penalty_room,
                                                       .drawn_alone = drawn_alone,
                                                       .out = m->candidates + first });
}

/* All ranks' to m->all. */
static plp_status gather_candidates(model *m, int rows)
{
    return tp_gather_all_device(m->group, m->candidates, (size_t)rows * sizeof *m->candidates, m->all,
                                m->candidates_host[m->begun % MODEL_FLIGHTS]);
}

static plp_status compute_share(model *m, const model_step *s, const model_share *share, layer_pending *left)
{
    PLP_TRY(compute(m, s, share, left));
    return s->draw && share->outs > 0 ? candidates(m, share->context, share->first, share->outs, !s->draw->candidates) : PLP_OK;
}

/* One row of every sequence, its logits wanted. */
static bool decodes_alone(const model *m, const model_step *s)
{
    if (m->probe.see || s->decodes != s->tokens || s->outs != s->tokens) return false;
    for (int i = 0; i < s->outs; i++)
        if (s->out_row[i] != i) return false;
    return true;
}

/* Decode rows, dealt to threads that go through all layers on their own.  A row's bits do not depend on those beside it. */
static plp_status compute_shares(model *m, const model_step *s)
{
    plp_status st = PLP_OK;
    char why[1024] = ""; /* a message is its thread's own */
    m->dealt++;
    m->pending = (layer_pending){ 0 };
#pragma omp parallel for schedule(static, 1) num_threads(m->crew_size)
    for (int i = 0; i < m->crew_size; i++) {
        const int first = (int)((int64_t)s->tokens * i / m->crew_size), rows = (int)((int64_t)s->tokens * (i + 1) / m->crew_size) - first;
        const model_share share = { .context = m->crew[i],
                                    .scratch = m->kind->rows_from(&m->scratch, &m->dims, first),
                                    .first = first,
                                    .tokens = rows,
                                    .seqs = rows,
                                    .decodes = rows,
                                    .outs = rows };
        layer_pending none;
        const plp_status mine = compute_share(m, s, &share, &none);
        if (mine == PLP_OK) continue;
#pragma omp critical
        st = mine, snprintf(why, sizeof why, "%s", plp_last_error());
    }
    return st == PLP_OK ? PLP_OK : PLP_FAIL(st, "%s", why);
}

static plp_status compute_and_draw(model *m, const model_step *s)
{
    enum { LEAST = 8 }; /* rows of a share: for fewer, weights are read too often */
    if (m->crew_size > 0 && s->tokens >= LEAST * m->crew_size && decodes_alone(m, s))
        PLP_TRY(compute_shares(m, s));
    else {
        const model_share whole = whole_of(m, s);
        PLP_TRY(compute_share(m, s, &whole, &m->pending));
    }
    if (s->draw == NULL || s->outs == 0) return PLP_OK;
    PLP_TRY(gather_candidates(m, s->outs));
    return m->kn->choose(m->context, &(kn_choose_args){ .rows = s->outs,
                                                        .ranks = m->plan.size,
                                                        .all = m->all,
                                                        .row = m->there.sample,
                                                        .sorted = m->sorted,
                                                        .next = m->next,
                                                        .out = m->choices });
}

/* A step that is the same work every time: one row of every sequence, its logits wanted, nothing else. */
static bool repeats(const model *m, const model_step *s)
{
    return m->kn->capture_begin != NULL && !s->block && decodes_alone(m, s) && tp_capturable(m->group);
}

/* As it is, or from a graph. */
static plp_status queue(model *m, const model_step *s)
{
    if (!repeats(m, s)) return compute_and_draw(m, s);
    const int kind = MODEL_GRAPHS * s->seqs + (s->draw == NULL ? 0 : s->draw->candidates ? 2 : 1); /* kernels keep drawn_alone */
    kn_graph **graph = &m->graph[kind];
    if (*graph == NULL && m->warm[kind]) {
        PLP_TRY(m->kn->capture_begin(m->context));
        const plp_status st = compute_and_draw(m, s);
        const plp_status ended = m->kn->capture_end(m->context, graph);
        if (st != PLP_OK && *graph != NULL) m->kn->graph_destroy(m->context, graph); /* a part of a step is none */
        PLP_TRY(st);
        PLP_TRY(ended);
    }
    m->warm[kind] = true;
    return *graph ? m->kn->replay(m->context, *graph) : compute_and_draw(m, s);
}

/* What was drawn, on its way to the host. */
static plp_status draw_begin(model *m, const model_step *s)
{
    const kn_backend *kn = m->kn;
    const int flight = (int)(m->begun % MODEL_FLIGHTS);
    m->drawn = s->outs;
    m->begun++;
    PLP_TRY(kn->to_host(m->context, m->choices_host[flight], m->choices, (size_t)s->outs * sizeof *m->choices));
    if (s->draw->candidates)
        PLP_TRY(kn->to_host(m->context, m->candidates_host[flight], m->all, (size_t)(m->plan.size * s->outs) * sizeof *m->all));
    return kn->mark(m->context, flight);
}

plp_status model_forward(model *m, const model_step *s)
{
    const bool draws = s->draw && s->outs > 0;
    PLP_TRY(check_step(m, s));
    m->without_others = s->no_others;
    m->tokens = s->tokens, m->outs = s->outs, m->pending = (layer_pending){ 0 };
    if (s->tokens == 0) return PLP_OK;
    if (draws && m->begun - m->ended >= 2)
        return PLP_FAIL(PLP_ERR_INTERNAL, "a third step that draws, the first one's tokens were not read");
    m->steps++;
    tp_stamp(s->decodes == s->tokens ? TP_DECODE : TP_PREFILL, m->steps);
    PLP_TRY(PLP_FAULT_AT("forward"));
    m->input = (m->input + 1) % MODEL_FLIGHTS;
    PLP_TRY(upload(m, s));
    PLP_TRY(MODEL_FAULT_STATES(m, s));
    PLP_TRY(queue(m, s));
    if (draws) PLP_TRY(draw_begin(m, s));
    const layer_probe *p = &m->probe;
    const int64_t vocab = m->plan.vocab.count;
    return p->see && s->outs ? p->see(p->arg, m->config.layers, "logits", m->logits, PLP_F32, s->outs, vocab, vocab) : PLP_OK;
}

plp_status model_logits_of(model *m, const int *row, int rows)
{
    const model_share s = { .context = m->context, .tokens = m->tokens, .outs = rows };
    if (rows > m->options.max_outs) return PLP_FAIL(PLP_ERR_INTERNAL, "logits of %d rows, at most %d", rows, m->options.max_outs);
    if (m->without_others) return PLP_FAIL(PLP_ERR_INTERNAL, "logits of rows that the step was told nobody asks for");
    for (int i = 0; i < rows; i++)
        if (row[i] < 0 || row[i] >= m->tokens) return PLP_FAIL(PLP_ERR_INTERNAL, "logits of row %d of %d", row[i], m->tokens);
    PLP_TRY(wait_for_device(m, INPUT_MARK));
    memcpy(m->host[m->input].out_row, row, (size_t)rows * sizeof *row);
    PLP_TRY(m->kn->to_device(m->context, m->there.out_row, m->host[m->input].out_row, (size_t)rows * sizeof *row));
    PLP_TRY(m->kn->mark(m->context, INPUT_MARK));
    m->outs = rows;
    return head(m, &s, &m->pending);
}

bool model_draws_on_device(const model *m) { return m->kn == kn_cuda(); }

plp_status model_draw_end(model *m, const kn_choice **choice, const kn_candidates **candidates)
{
    const int flight = (int)(m->ended % MODEL_FLIGHTS);
    if (m->ended == m->begun) return PLP_FAIL(PLP_ERR_INTERNAL, "tokens read that were never drawn");
    m->ended++;
    PLP_TRY(PLP_FAULT_AT("sample"));
    PLP_TRY(wait_for_device(m, flight));
    *choice = m->choices_host[flight], *candidates = m->candidates_host[flight];
    return PLP_OK;
}

void model_draw_forget(model *m) { m->ended = m->begun; } /* later ones come behind them in the queue */

plp_status model_candidates(model *m, int rows, const kn_sample_row *row, const int *penalty_id, const int *penalty_hits, int penalties,
                            kn_candidates *all)
{
    const model_draw d = { .row = row, .penalty_id = penalty_id, .penalty_hits = penalty_hits, .penalties = penalties };
    if (rows > m->outs) return PLP_FAIL(PLP_ERR_INTERNAL, "candidates of %d rows, the step gave %d", rows, m->outs);
    if (rows == 0) return PLP_OK;
    PLP_TRY(upload_draw(m, &d, rows));
    PLP_TRY(candidates(m, m->context, 0, rows, false));
    PLP_TRY(gather_candidates(m, rows));
    PLP_TRY(m->kn->to_host(m->context, all, m->all, (size_t)(m->plan.size * rows) * sizeof *all));
    return m->kn->sync(m->context);
}

plp_status model_gather_logits(model *m, int row, float *logits)
{
    plp_status st = PLP_OK;
    const int64_t own = m->plan.vocab.count;
    const int size = m->plan.size;
    size_t *each = NULL; /* and, behind them, where they go */
    if (row >= m->outs) return PLP_FAIL(PLP_ERR_INTERNAL, "logits row %d, the step gave %d", row, m->outs);
    PLP_TRY(PLP_ALLOCATED(each = malloc(2 * (size_t)size * sizeof *each)));
    for (int r = 0; r < size; r++) {
        const tp_slice slice = model_vocab_slice(m, r);
        each[r] = (size_t)slice.count * sizeof(float), each[size + r] = (size_t)slice.first * sizeof(float);
    }
    PLP_DO(m->kn->to_host(m->context, m->logits_host, m->logits + row * own, (size_t)own * sizeof(float)));
    PLP_DO(m->kn->sync(m->context));
    PLP_DO(tp_gather_all_v(m->group, m->logits_host, (size_t)own * sizeof(float), logits, each, each + size));
    for (int64_t v = m->config.vocab_used; v < m->config.vocab; v++) logits[v] = -INFINITY;
done:
    free(each);
    return st;
}
