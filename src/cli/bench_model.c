/* Whole steps of a model with random weights: decode and prefill. */
#include "cli/bench.h"

#include "base/clock.h"
#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Work of one step on this rank.  Weights are read once, states read and written; the rest is noise beside them. */
static void count_work(const model *m, int rows, int seqs, int outs, bench_row *r)
{
    const model_config *c = model_config_of(m);
    const model_options *o = model_options_of(m);
    const model_plan *p = model_plan_of(m);
    const plp_dtype matrices = o->f32 && o->backend == kn_cuda() ? PLP_F32 : c->dtype;
    const double size = (double)plp_dtype_size(matrices), embedding = (double)(c->vocab * c->hidden) * size;
    const double head = (double)(p->vocab.count * c->hidden) * size;
    const double all = (double)model_plan_weights(p, c, matrices), layers = all - embedding - (c->tied ? 0 : head);
    r->bytes = layers + (outs ? head : 0) + 2.0 * seqs * (double)model_memory_of(m).slot;
    const double scan = (double)(c->layers * p->heads.count * c->head_dim * c->state); /* update 3, output 2 operations an element */
    r->flops = 2 * (double)rows * (double)(c->layers * (p->in_rows + p->channels.count) * c->hidden) + 5 * rows * scan +
               2 * (double)outs * (double)(p->vocab.count * c->hidden);
}

static void set_floor(const bench *b, bench_row *r)
{
    const double memory = b->read_rate > 0 ? r->bytes / b->read_rate : 0, arithmetic = b->flop_rate > 0 ? r->flops / b->flop_rate : 0;
    r->floor_us = 1e6 * fmax(memory, arithmetic);
}

static bench_row row_of(const bench *b, const char *name, const char *symbol, int n)
{
    bench_row r = { .np = tp_size(b->group), .dtype = b->options.f32 ? "f32" : plp_dtype_name(b->config.dtype), .good = true };
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.shape, sizeof r.shape, "%.31s %s=%d", b->shape, symbol, n);
    snprintf(r.check, sizeof r.check, "ok");
    return r;
}

static void fail_check(bench_row *r, const char *why)
{
    r->good = false;
    snprintf(r->check, sizeof r->check, "%s", why);
}

static plp_status make(bench *b, int tokens, int seqs, int outs, model **m)
{
    model_options o = b->options;
    o.max_tokens = tokens, o.max_seqs = seqs, o.max_outs = outs, o.slots = seqs;
    return model_create_random(m, &b->config, 1, b->group, &o);
}

/* Copies of a sequence must give the same token. */
static void compare_copies(const kn_choice *drawn, int batch, bench_row *r)
{
    for (int i = 0; i < batch; i++) {
        if (drawn[i].outcome != KN_CHOSEN) fail_check(r, "not finite");
        if (drawn[i].token != drawn->token) fail_check(r, "copies of a sequence differ");
    }
}

/* A host's memory is shared, also with machines that are not seen from here, and its rate changes from second to second: on the CPU it is
 * measured right before and behind a row. */
static plp_status read_rate_now(const bench *b, model *m, double *rate)
{
    const size_t bytes = (size_t)1 << 29;
    double seconds;
    *rate = b->read_rate;
    if (b->options.backend != kn_cpu()) return PLP_OK;
    PLP_TRY(tp_barrier(b->group)); /* all ranks at once, as they decode */
    PLP_TRY(kn_cpu()->read_time(model_context(m), bytes, &seconds));
    *rate = (double)bytes / seconds;
    return PLP_OK;
}

/* B copies of one sequence: whatever the batch does to them, they must stay copies. */
static plp_status decode_batch(bench *b, model *m, int batch)
{
    enum { WARM = 6 };
    plp_status st = PLP_OK;
    const int steps = WARM + b->repeats + 1; /* the last has no step behind it that it could overlap with: not counted */
    int *ints = NULL;                        /* ids, start, slot, rows */
    int64_t *past = NULL;
    double *times = NULL;
    kn_sample_row *greedy = NULL;
    bench_row r = row_of(b, "decode", "B", batch);
    PLP_DO(PLP_ALLOCATED(ints = calloc(4 * (size_t)batch + 1, sizeof *ints)));
    PLP_DO(PLP_ALLOCATED(past = calloc((size_t)batch, sizeof *past)));
    PLP_DO(PLP_ALLOCATED(times = calloc((size_t)steps, sizeof *times)));
    PLP_DO(PLP_ALLOCATED(greedy = calloc((size_t)batch, sizeof *greedy)));
    int *ids = ints, *start = ints + batch, *slot = start + batch + 1, *rows = slot + batch;
    for (int i = 0; i < batch; i++) ids[i] = 7, start[i] = slot[i] = rows[i] = i;
    start[batch] = batch;
    /* Tokens stay on the device, and the host reads those of the step before while the next one runs. */
    const model_draw how = { .row = greedy };
    const bool ahead = model_draws_on_device(m);
    double before, behind;
    PLP_DO(read_rate_now(b, m, &before));
    double last = plp_seconds();
    for (int s = 0; s < steps + ahead; s++) {
        if (s < steps)
            PLP_DO(model_forward(m, &(model_step){ .tokens = batch,
                                                   .seqs = batch,
                                                   .decodes = batch,
                                                   .ids = ids,
                                                   .start = start,
                                                   .src_slot = slot,
                                                   .dst_slot = slot,
                                                   .past = past,
                                                   .outs = batch,
                                                   .out_row = rows,
                                                   .draw = &how }));
        for (int i = 0; i < batch; i++) past[i]++, ids[i] = ~i;
        if (ahead && s == 0) continue;
        const kn_choice *drawn;
        const kn_candidates *candidates;
        PLP_DO(model_draw_end(m, &drawn, &candidates));
        compare_copies(drawn, batch, &r);
        const double now = plp_seconds();
        times[s - ahead] = now - last, last = now;
    }
    PLP_DO(read_rate_now(b, m, &behind));
    b->read_rate = (before + behind) / 2;
    count_work(m, batch, batch, batch, &r);
    r.tokens = batch;
    bench_times(&r, times + WARM, b->repeats);
    set_floor(b, &r);
    PLP_DO(bench_print(b, &r));
done:
    free(ints);
    free(past);
    free(times);
    free(greedy);
    return st;
}

int bench_largest(const int *list, int count)
{
    int most = 1;
    for (int i = 0; i < count; i++) most = list[i] > most ? list[i] : most;
    return most;
}

plp_status bench_decode(bench *b)
{
    plp_status st = PLP_OK;
    model *m = NULL;
    const int most = bench_largest(b->batches, b->batch_count);
    PLP_DO(make(b, most, most, most, &m));
    for (int i = 0; i < b->batch_count; i++) PLP_DO(decode_batch(b, m, b->batches[i]));
done:
    model_destroy(&m);
    return st;
}

/* Rows first .. first + n of the prompt; the last row's logits. */
static plp_status prefill_slice(model *m, const int *ids, int first, int n, bool out)
{
    const int start[2] = { 0, n }, slot = 0, row = n - 1;
    const int64_t past = first;
    return model_forward(m, &(model_step){ .tokens = n,
                                           .seqs = 1,
                                           .ids = ids + first,
                                           .start = start,
                                           .src_slot = &slot,
                                           .dst_slot = &slot,
                                           .past = &past,
                                           .outs = out,
                                           .out_row = &row,
                                           .no_others = true });
}

static plp_status prefill_length(bench *b, model *m, int tokens)
{
    plp_status st = PLP_OK;
    int *ids = NULL;
    float *logits = NULL; /* of the whole prompt, then of it in two slices */
    double *times = NULL;
    bench_row r = row_of(b, "prefill", "T", tokens);
    const int64_t vocab = b->config.vocab, used = b->config.vocab_used;
    const int repeats = b->repeats < 3 ? 3 : b->repeats < 10 ? b->repeats : 10;
    PLP_DO(PLP_ALLOCATED(ids = malloc((size_t)tokens * sizeof *ids)));
    PLP_DO(PLP_ALLOCATED(logits = malloc(2 * (size_t)vocab * sizeof *logits)));
    PLP_DO(PLP_ALLOCATED(times = calloc((size_t)repeats, sizeof *times)));
    for (int i = 0; i < tokens; i++) ids[i] = (int)((uint64_t)i * 2654435761u % (uint64_t)used);
    for (int i = -1; i < repeats; i++) {
        const double begin = plp_seconds();
        PLP_DO(prefill_slice(m, ids, 0, tokens, true));
        PLP_DO(model_gather_logits(m, 0, logits));
        if (i >= 0) times[i] = plp_seconds() - begin;
    }
    if (tokens > 1) { /* the same prompt in two slices must give the same logits */
        const int half = tokens / 2, first = half >= 256 ? half / 256 * 256 : half;
        PLP_DO(prefill_slice(m, ids, 0, first, false));
        PLP_DO(prefill_slice(m, ids, first, tokens - first, true));
        PLP_DO(model_gather_logits(m, 0, logits + vocab));
        double square = 0, norm = 0;
        for (int64_t v = 0; v < used; v++) {
            const double a = logits[v], d = logits[vocab + v] - a;
            square += d * d, norm += a * a;
        }
        if (!(sqrt(square) <= (b->options.f32 ? 1e-4 : 2e-2) * sqrt(norm))) fail_check(&r, "whole and chunked differ");
    }
    count_work(m, tokens, 1, 1, &r);
    r.tokens = tokens;
    bench_times(&r, times, repeats);
    set_floor(b, &r);
    PLP_DO(bench_print(b, &r));
done:
    free(ids);
    free(logits);
    free(times);
    return st;
}

plp_status bench_prefill(bench *b)
{
    plp_status st = PLP_OK;
    model *m = NULL;
    PLP_DO(make(b, bench_largest(b->tokens, b->token_count), 1, 1, &m));
    for (int i = 0; i < b->token_count; i++) PLP_DO(prefill_length(b, m, b->tokens[i]));
done:
    model_destroy(&m);
    return st;
}
