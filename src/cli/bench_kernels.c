/* Single operations at the sizes that one layer of the shape has on this rank, and the rates that bound them. */
#include "cli/bench.h"

#include "base/clock.h"
#include "base/error.h"
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Memory of the backend, filled with values in (-1, 1) or with `byte`. */
typedef struct {
    const kn_backend *kn;
    kn_context *c;
    void *list[32];
    int count;
    uint64_t random;
    plp_status st; /* the first failure: buffers are taken in one expression */
} buffers;

static void *take_random(buffers *p, int64_t n, plp_dtype dtype, float scale, float middle)
{
    const size_t size = plp_dtype_size(dtype), bytes = (size_t)n * size;
    char *host = NULL;
    void *there = NULL;
    if (p->st != PLP_OK) return NULL;
    if ((p->st = PLP_ALLOCATED(host = malloc(bytes + 1))) != PLP_OK) return NULL;
    for (int64_t i = 0; i < n; i++) {
        p->random = p->random * 6364136223846793005u + 1442695040888963407u;
        const float v = middle + scale * (float)(int32_t)(p->random >> 32) * 0x1p-31f;
        plp_convert(host + (size_t)i * size, dtype, &v, PLP_F32, 1);
    }
    p->st = p->kn->alloc(p->c, &there, bytes);
    if (p->st == PLP_OK) p->list[p->count++] = there;
    if (p->st == PLP_OK) p->st = p->kn->to_device(p->c, there, host, bytes);
    if (p->st == PLP_OK) p->st = p->kn->sync(p->c);
    free(host);
    return there;
}

static void *take_bytes(buffers *p, const void *data, size_t bytes)
{
    void *there = NULL;
    if (p->st != PLP_OK) return NULL;
    p->st = p->kn->alloc(p->c, &there, bytes);
    if (p->st == PLP_OK) p->list[p->count++] = there;
    if (p->st == PLP_OK) p->st = p->kn->to_device(p->c, there, data, bytes);
    if (p->st == PLP_OK) p->st = p->kn->sync(p->c);
    return there;
}

/* A matrix as the backend multiplies with it. */
static void pack(buffers *p, void *w, int64_t n, int64_t k, plp_dtype dtype, bool *packed)
{
    *packed = false;
    if (p->st == PLP_OK && p->kn->pack) p->st = p->kn->pack(p->c, w, n, (int)k, dtype, packed);
}

static void drain(buffers *p)
{
    for (int i = 0; i < p->count; i++) p->kn->release(p->c, &p->list[i]);
    p->count = 0;
}

/* One operation, ready to be queued. */
typedef struct kernel kernel;
struct kernel {
    const char *name;
    plp_status (*queue)(const kernel *k, const bench *b, kn_context *c);
    const void *args;
    const kn_batch *batch;
    void *out; /* of out_dtype, outs elements: must come out finite, and the same twice */
    plp_dtype out_dtype;
    int64_t outs;
    double bytes, flops;
    bool stateful; /* it updates what it reads: nothing to compare */
    int copies;    /* of a product's weights, used in turn          */
};

#define QUEUE(op)                                                                                                                          \
    static plp_status queue_##op(const kernel *k, const bench *b, kn_context *c) { return b->options.backend->op(c, k->args); }
#define QUEUE_BATCH(op)                                                                                                                    \
    static plp_status queue_##op(const kernel *k, const bench *b, kn_context *c) { return b->options.backend->op(c, k->args, k->batch); }
/* Every call takes the next copy of the weights. */
static plp_status queue_linear(const kernel *k, const bench *b, kn_context *c)
{
    static unsigned calls;
    kn_linear_args a = *(const kn_linear_args *)k->args;
    const unsigned copy = k->copies > 1 ? calls++ % (unsigned)k->copies : 0;
    a.w = (const char *)a.w + copy * (size_t)a.n * (size_t)a.k * plp_dtype_size(a.w_dtype);
    return b->options.backend->linear(c, &a);
}
QUEUE(add_norm)
QUEUE(gated_norm)
QUEUE(rms)
QUEUE_BATCH(conv)
QUEUE_BATCH(ssd)
QUEUE_BATCH(ssm_step)
/* Convolution and scan in one, where the backend has that. */
typedef struct {
    const kn_conv_args *conv;
    const kn_ssm_args *ssm;
} ssd_conv_args;
static plp_status queue_ssd_conv(const kernel *k, const bench *b, kn_context *c)
{
    const ssd_conv_args *a = k->args;
    return b->options.backend->ssd_conv(c, a->conv, a->ssm, k->batch);
}
QUEUE_BATCH(scan)
QUEUE_BATCH(scan_step)

/* Runs into poisoned outputs twice: every element written, finite, and the same both times. */
static plp_status check(const kernel *k, bench *b, kn_context *c, bench_row *r)
{
    plp_status st = PLP_OK;
    const kn_backend *kn = b->options.backend;
    const size_t bytes = (size_t)k->outs * plp_dtype_size(k->out_dtype);
    char *first = NULL, *second = NULL;
    float *wide = NULL;
    PLP_DO(PLP_ALLOCATED(first = malloc(bytes)));
    PLP_DO(PLP_ALLOCATED(second = malloc(bytes)));
    PLP_DO(PLP_ALLOCATED(wide = malloc((size_t)k->outs * sizeof *wide)));
    for (int i = 0; i < 2; i++) {
        PLP_DO(kn->fill(c, k->out, 0xff, bytes));
        PLP_DO(k->queue(k, b, c));
        PLP_DO(kn->to_host(c, i ? second : first, k->out, bytes));
        PLP_DO(kn->sync(c));
    }
    plp_convert(wide, PLP_F32, first, k->out_dtype, (size_t)k->outs);
    for (int64_t i = 0; i < k->outs; i++)
        if (!isfinite(wide[i])) r->good = false;
    if (!r->good) snprintf(r->check, sizeof r->check, "not finite");
    if (memcmp(first, second, bytes) != 0) r->good = false, snprintf(r->check, sizeof r->check, "differs from run to run");
done:
    free(first);
    free(second);
    free(wide);
    return st;
}

static plp_status time_kernel(bench *b, kn_context *c, const kernel *k, const char *size)
{
    enum { CALLS = 8 }; /* queued together: on a GPU a launch alone takes longer than some kernels */
    const kn_backend *kn = b->options.backend;
    bench_row r = { .np = tp_size(b->group), .dtype = plp_dtype_name(b->options.f32 ? PLP_F32 : b->config.dtype), .good = true };
    double times[64];
    const int repeats = b->repeats < 64 ? b->repeats : 64;
    snprintf(r.name, sizeof r.name, "%s", k->name);
    snprintf(r.shape, sizeof r.shape, "%.31s %.28s", b->shape, size);
    snprintf(r.check, sizeof r.check, "finite, repeatable");
    kernel same = *k;
    same.copies = 1; /* the same weights twice */
    if (!k->stateful)
        PLP_TRY(check(&same, b, c, &r));
    else
        snprintf(r.check, sizeof r.check, "none: it updates its input");
    for (int i = -2; i < repeats; i++) {
        const double begin = plp_seconds();
        for (int j = 0; j < CALLS; j++) PLP_TRY(k->queue(k, b, c));
        PLP_TRY(kn->sync(c));
        if (i >= 0) times[i] = (plp_seconds() - begin) / CALLS;
    }
    r.bytes = k->bytes, r.flops = k->flops;
    bench_times(&r, times, repeats);
    const double memory = b->read_rate > 0 ? r.bytes / b->read_rate : 0, arithmetic = b->flop_rate > 0 ? r.flops / b->flop_rate : 0;
    r.floor_us = 1e6 * fmax(memory, arithmetic);
    return bench_print(b, &r);
}

static kn_options context_options(const bench *b, const model_plan *p, int tokens, plp_dtype act)
{
    const model_config *c = &b->config;
    const int64_t n = p->in_rows > c->hidden ? p->in_rows : c->hidden, k = c->hidden > p->channels.count ? c->hidden : p->channels.count;
    return (kn_options){ .device = b->options.device,
                         .threads = b->options.threads,
                         .act = act,
                         .deterministic = b->options.deterministic,
                         .max_tokens = tokens,
                         .max_k = (int)k,
                         .max_n = (int)n,
                         .max_heads = (int)p->heads.count,
                         .max_dim = (int)c->head_dim,
                         .max_state = (int)c->state };
}

/* One layer's share of this rank, and memory for all of its operations: names as in layers/layer.h. */
typedef struct {
    const model_config *c;
    model_plan p;
    plp_dtype act, weights, state_dtype;
    bool decode, round, packed;
    int tokens, seqs;
    int64_t E, I, R, C, H, bc; /* hidden, inner, rows of in_proj as in memory, channels of conv, heads, columns of B */
    kn_batch batch;
    const int *group, *host_group, *norm_first;
    void *residual, *delta, *normed, *in, *conv, *y, *w_in, *w_out, *vector, *A, *conv_state, *ssm_state;
    void *w_x, *w_dt, *mixed, *parts, *dt, *work; /* Mamba-1 */
    int *ints;                                    /* host: start, slots, group map, first channels of norm groups */
    int64_t *past;
} bench_layer;

static void *at(void *base, plp_dtype dtype, int64_t n) { return (char *)base + (size_t)n * plp_dtype_size(dtype); }

/* Weights in so many copies that a call never finds its own in a cache: a model's layers are not there either. */
static int copies_of(int64_t elements, plp_dtype dtype)
{
    const size_t bytes = (size_t)elements * plp_dtype_size(dtype), cache = (size_t)128 << 20;
    return bytes >= cache ? 1 : (int)((cache + bytes - 1) / bytes);
}

static void *take_weights(buffers *pool, int64_t n, int64_t k, plp_dtype dtype, bool *packed)
{
    const int copies = copies_of(n * k, dtype);
    char *w = take_random(pool, n * k * copies, dtype, 0.05f, 0);
    for (int i = 0; i < copies; i++) pack(pool, w + (size_t)i * (size_t)(n * k) * plp_dtype_size(dtype), n, k, dtype, packed);
    return w;
}

static plp_status set_up_batch(bench_layer *l, buffers *pool)
{
    const int seqs = l->seqs;
    PLP_TRY(PLP_ALLOCATED(l->ints = calloc(2 * (size_t)seqs + 1 + (size_t)l->H + (size_t)l->p.norm_groups.count + 1, sizeof *l->ints)));
    PLP_TRY(PLP_ALLOCATED(l->past = calloc((size_t)seqs, sizeof *l->past)));
    int *start = l->ints, *slot = start + seqs + 1, *map = slot + seqs, *first = map + l->H;
    for (int i = 0; i < seqs; i++) start[i] = (int)((int64_t)l->tokens * i / seqs), slot[i] = i, l->past[i] = l->decode ? 100 : 0;
    start[seqs] = l->tokens;
    if (l->c->kind == MODEL_MAMBA2) model_plan_group_map(&l->p, l->c, map);
    model_plan_norm_first(&l->p, l->c, first);
    const int *slots = take_bytes(pool, slot, sizeof(int) * (size_t)seqs);
    l->batch = (kn_batch){ .tokens = l->tokens, .seqs = seqs, .decodes = l->decode ? seqs : 0, .src_slot = slots, .dst_slot = slots };
    l->batch.start = take_bytes(pool, start, sizeof(int) * (size_t)(seqs + 1));
    l->batch.past = take_bytes(pool, l->past, sizeof *l->past * (size_t)seqs);
    l->batch.host_start = start, l->batch.host_past = l->past;
    l->group = take_bytes(pool, map, sizeof(int) * (size_t)l->H), l->host_group = map;
    l->norm_first = take_bytes(pool, first, sizeof(int) * (size_t)(l->p.norm_groups.count + 1));
    return pool->st;
}

static plp_status set_up_memory(bench_layer *l, buffers *pool)
{
    const int64_t T = l->tokens, N = l->c->state;
    l->residual = take_random(pool, T * l->E, PLP_F32, 1, 0), l->delta = take_random(pool, T * l->E, PLP_F32, 1, 0);
    l->normed = take_random(pool, T * l->E, l->act, 1, 0), l->in = take_random(pool, T * l->R, l->act, 1, 0);
    l->conv = take_random(pool, T * l->C, l->act, 1, 0), l->y = take_random(pool, T * l->I, l->act, 1, 0);
    l->w_in = take_weights(pool, l->R, l->E, l->weights, &l->packed);
    l->w_out = take_weights(pool, l->E, l->I, l->weights, &l->packed);
    l->vector = take_random(pool, l->C * l->c->conv, PLP_F32, 0.5f, 0);
    l->conv_state = take_random(pool, l->seqs * (l->c->conv - 1) * l->C, l->act, 1, 0);
    l->ssm_state = take_random(pool, l->seqs * l->I * N, l->state_dtype, 1, 0);
    const bool mamba1 = l->c->kind == MODEL_MAMBA1;
    l->A = take_random(pool, mamba1 ? l->I * N : l->H, PLP_F32, 0.5f, -1);
    if (!mamba1) return pool->st;
    const int64_t parts = l->c->dt_rank + 2 * N;
    const kn_scan_args shape = { .channels = (int)l->I, .state = (int)N };
    l->w_x = take_weights(pool, parts, l->I, l->weights, &l->packed);
    l->w_dt = take_weights(pool, l->I, l->c->dt_rank, l->weights, &l->packed);
    l->mixed = take_random(pool, T * parts, PLP_F32, 1, 0), l->parts = take_random(pool, T * parts, l->act, 1, 0);
    l->dt = take_random(pool, T * l->I, l->act, 1, 0);
    if (pool->kn->scan_work) l->work = take_random(pool, (int64_t)pool->kn->scan_work(&shape) / 4 + 1, PLP_F32, 1, 0);
    return pool->st;
}

/* The arguments of every operation, and rows that point to them. */
typedef struct {
    kn_linear_args in_proj, out_proj, x_proj, dt_proj;
    kn_add_norm_args add;
    kn_conv_args conv;
    kn_ssm_args ssm;
    kn_scan_args scan;
    kn_rms_args rms;
    ssd_conv_args ssd_conv;
    kn_gated_norm_args gate;
    kernel row[10];
    int rows;
} bench_list;

static kn_linear_args product(const bench_layer *l, int64_t n, int64_t k, void *x, int64_t ldx, void *w, void *y, plp_dtype y_dtype,
                              int64_t ldy)
{
    return (kn_linear_args){ .rows = l->tokens,
                             .n = (int)n,
                             .k = (int)k,
                             .x = x,
                             .x_dtype = l->act,
                             .ldx = ldx,
                             .w = w,
                             .w_dtype = l->weights,
                             .packed = l->packed,
                             .y = y,
                             .y_dtype = y_dtype,
                             .ldy = ldy,
                             .round_x = l->round };
}

static void add_product(const bench_layer *l, bench_list *list, const char *name, const kn_linear_args *a)
{
    const double weights = (double)a->n * a->k, T = l->tokens;
    list->row[list->rows++] =
        (kernel){ .name = name,
                  .queue = queue_linear,
                  .args = a,
                  .out = a->y,
                  .out_dtype = a->y_dtype,
                  .outs = (a->rows - 1) * a->ldy + a->n,
                  .copies = copies_of((int64_t)a->n * a->k, l->weights),
                  .bytes = weights * (double)plp_dtype_size(l->weights) +
                           T * ((double)a->k * (double)plp_dtype_size(l->act) + (double)a->n * (double)plp_dtype_size(a->y_dtype)),
                  .flops = 2 * T * weights };
}

/* What both kinds of mixer have. */
static void list_common(const bench_layer *l, bench_list *list)
{
    const double T = l->tokens, a = (double)plp_dtype_size(l->act);
    list->in_proj = product(l, l->R, l->E, l->normed, l->E, l->w_in, l->in, l->act, l->R);
    list->out_proj = product(l, l->E, l->I, l->y, l->I, l->w_out, l->delta, PLP_F32, l->E);
    list->add = (kn_add_norm_args){ .tokens = l->tokens,
                                    .hidden = (int)l->E,
                                    .outs = l->tokens,
                                    .residual = l->residual,
                                    .delta = l->delta,
                                    .delta_dtype = PLP_F32,
                                    .ld_delta = l->E,
                                    .weight = l->vector,
                                    .eps = 1e-5,
                                    .out = l->normed };
    list->conv = (kn_conv_args){ .channels = (int)l->C,
                                 .width = (int)l->c->conv,
                                 .in = at(l->in, l->act, l->I),
                                 .ld_in = l->R,
                                 .weight = l->vector,
                                 .state = l->conv_state,
                                 .state_dtype = l->act,
                                 .out = l->conv,
                                 .ld_out = l->C };
    add_product(l, list, "in_proj", &list->in_proj);
    add_product(l, list, "out_proj", &list->out_proj);
    list->row[list->rows++] =
        (kernel){ .name = "add_norm", .queue = queue_add_norm, .args = &list->add, .stateful = true, .bytes = (12 + a) * T * (double)l->E };
    list->row[list->rows++] = (kernel){ .name = "conv",
                                        .queue = queue_conv,
                                        .args = &list->conv,
                                        .batch = &l->batch,
                                        .out = l->conv,
                                        .out_dtype = l->act,
                                        .outs = l->tokens * l->C,
                                        .stateful = l->decode,
                                        .bytes = 2 * a * T * (double)l->C,
                                        .flops = 8 * T * (double)l->C };
}

/* Bytes of a scan's states: read and written by a step, written by a prefill that starts from nothing. */
static double state_bytes(const bench_layer *l)
{
    return (l->decode ? 2 : 1) * (double)plp_dtype_size(l->state_dtype) * l->seqs * (double)(l->I * l->c->state);
}

static void list_mamba2(const bench_layer *l, const kn_backend *kn, kn_context *c, bench_list *list)
{
    const double T = l->tokens, a = (double)plp_dtype_size(l->act);
    const int groups = (int)l->p.norm_groups.count;
    list->ssm = (kn_ssm_args){ .heads = (int)l->H,
                               .groups = (int)l->p.groups.count,
                               .dim = (int)l->c->head_dim,
                               .state = (int)l->c->state,
                               .chunk = (int)l->c->chunk,
                               .group = l->group,
                               .host_group = l->host_group,
                               .x = l->conv,
                               .B = at(l->conv, l->act, l->I),
                               .C = at(l->conv, l->act, l->I + l->bc),
                               .dt = at(l->in, l->act, l->p.in_rows - l->H),
                               .ld_x = l->C,
                               .ld_bc = l->C,
                               .ld_dt = l->R,
                               .A = l->A,
                               .dt_bias = l->A,
                               .D = l->A,
                               .dt_max = INFINITY,
                               .h = l->ssm_state,
                               .state_dtype = l->state_dtype,
                               .y = l->y,
                               .ld_y = l->I };
    list->gate = (kn_gated_norm_args){ .tokens = l->tokens,
                                       .channels = (int)l->I,
                                       .groups = groups,
                                       .mode = KN_NORM_LOCAL,
                                       .first = l->norm_first,
                                       .width = (double)l->I / groups,
                                       .eps = 1e-5,
                                       .y = l->y,
                                       .z = l->in,
                                       .ld_y = l->I,
                                       .ld_z = l->R,
                                       .weight = l->vector,
                                       .out = l->conv,
                                       .ld_out = l->I };
    list->row[list->rows++] = (kernel){ .name = l->decode ? "ssm_step" : "ssd",
                                        .queue = l->decode ? queue_ssm_step : queue_ssd,
                                        .args = &list->ssm,
                                        .batch = &l->batch,
                                        .out = l->y,
                                        .out_dtype = l->act,
                                        .outs = l->tokens * l->I,
                                        .stateful = l->decode,
                                        .bytes = a * T * (double)(l->C + l->I + l->H) + state_bytes(l),
                                        .flops = 5 * T * (double)(l->I * l->c->state) };
    list->ssd_conv = (ssd_conv_args){ &list->conv, &list->ssm };
    if (!l->decode && kn->ssd_conv && kn->ssd_conv_knows(c, &list->conv, &list->ssm, &l->batch))
        list->row[list->rows++] = (kernel){ .name = "conv and ssd in one",
                                            .queue = queue_ssd_conv,
                                            .args = &list->ssd_conv,
                                            .batch = &l->batch,
                                            .out = l->y,
                                            .out_dtype = l->act,
                                            .outs = l->tokens * l->I,
                                            .bytes = a * T * (double)(2 * l->I + 6 * l->bc + l->H) + state_bytes(l),
                                            .flops = 5 * T * (double)(l->I * l->c->state) + 8 * T * (double)l->C };
    list->row[list->rows++] = (kernel){ .name = "gated_norm",
                                        .queue = queue_gated_norm,
                                        .args = &list->gate,
                                        .out = l->conv,
                                        .out_dtype = l->act,
                                        .outs = l->tokens * l->I,
                                        .bytes = 3 * a * T * (double)l->I };
}

static void list_mamba1(const bench_layer *l, bench_list *list)
{
    const double T = l->tokens, a = (double)plp_dtype_size(l->act);
    const int64_t rank = l->c->dt_rank, N = l->c->state, parts = rank + 2 * N;
    list->x_proj = product(l, parts, l->I, l->conv, l->I, l->w_x, l->mixed, PLP_F32, parts);
    list->rms = (kn_rms_args){ .tokens = l->tokens,
                               .segments = 3,
                               .width = { (int)rank, (int)N, (int)N },
                               .eps = l->c->mixer_norm_eps,
                               .in = l->mixed,
                               .ld_in = parts,
                               .out = l->parts,
                               .ld_out = parts };
    list->dt_proj = product(l, l->I, rank, l->parts, parts, l->w_dt, l->dt, l->act, l->I);
    list->scan = (kn_scan_args){ .channels = (int)l->I,
                                 .state = (int)N,
                                 .x = l->conv,
                                 .z = l->in,
                                 .dt = l->dt,
                                 .B = at(l->parts, l->act, rank),
                                 .C = at(l->parts, l->act, rank + N),
                                 .ld_x = l->I,
                                 .ld_z = l->R,
                                 .ld_dt = l->I,
                                 .ld_bc = parts,
                                 .A = l->A,
                                 .dt_bias = l->vector,
                                 .D = l->vector,
                                 .h = l->ssm_state,
                                 .state_dtype = l->state_dtype,
                                 .y = l->y,
                                 .ld_y = l->I,
                                 .work = l->work };
    add_product(l, list, "x_proj", &list->x_proj);
    list->row[list->rows++] = (kernel){ .name = "rms",
                                        .queue = queue_rms,
                                        .args = &list->rms,
                                        .out = l->parts,
                                        .out_dtype = l->act,
                                        .outs = l->tokens * parts,
                                        .bytes = (4 + a) * T * (double)parts };
    add_product(l, list, "dt_proj", &list->dt_proj);
    list->row[list->rows++] = (kernel){ .name = l->decode ? "scan_step" : "scan",
                                        .queue = l->decode ? queue_scan_step : queue_scan,
                                        .args = &list->scan,
                                        .batch = &l->batch,
                                        .out = l->y,
                                        .out_dtype = l->act,
                                        .outs = l->tokens * l->I,
                                        .stateful = l->decode,
                                        .bytes = a * T * (double)(4 * l->I + 2 * N) + state_bytes(l),
                                        .flops = 6 * T * (double)(l->I * N) };
}

/* All operations of a layer for `seqs` sequences of `tokens` rows together; decode when they are equal. */
static plp_status layer_kernels(bench *b, int tokens, int seqs)
{
    plp_status st = PLP_OK;
    const kn_backend *kn = b->options.backend;
    const bool cpu = kn == kn_cpu();
    bench_layer l = { .c = &b->config, .decode = tokens == seqs, .tokens = tokens, .seqs = seqs, .round = !b->options.f32 };
    bench_list list = { .rows = 0 };
    kn_context *ctx = NULL;
    buffers pool = { .kn = kn, .random = 1 };
    char size[48];
    l.weights = b->options.f32 && !cpu ? PLP_F32 : l.c->dtype, l.act = cpu || b->options.f32 ? PLP_F32 : l.weights;
    l.state_dtype = b->options.ssm_dtype;
    PLP_TRY(model_plan_make(&l.p, l.c, tp_rank(b->group), tp_size(b->group)));
    l.E = l.c->hidden, l.I = l.p.channels.count, l.R = layer_in_rows(l.p.in_rows), l.C = l.p.conv_channels, l.H = l.p.heads.count;
    l.bc = l.p.groups.count * l.c->state;
    const kn_options o = context_options(b, &l.p, tokens, l.act);
    PLP_DO(kn->create(&ctx, &o));
    pool.c = ctx;
    PLP_DO(set_up_batch(&l, &pool));
    PLP_DO(set_up_memory(&l, &pool));
    list_common(&l, &list);
    if (l.c->kind == MODEL_MAMBA2)
        list_mamba2(&l, kn, ctx, &list);
    else
        list_mamba1(&l, &list);
    snprintf(size, sizeof size, l.decode ? "B=%d" : "T=%d", tokens);
    for (int i = 0; i < list.rows; i++) PLP_DO(time_kernel(b, ctx, list.row + i, size));
done:
    drain(&pool);
    if (ctx) kn->destroy(&ctx);
    free(l.ints);
    free(l.past);
    return st;
}

plp_status bench_kernels(bench *b)
{
    for (int i = 0; i < b->batch_count; i++) PLP_TRY(layer_kernels(b, b->batches[i], b->batches[i]));
    for (int i = 0; i < b->token_count; i++) PLP_TRY(layer_kernels(b, b->tokens[i], 1));
    return PLP_OK;
}

plp_status bench_rates(bench *b)
{
    plp_status st = PLP_OK;
    const kn_backend *kn = b->options.backend;
    const bool cpu = kn == kn_cpu();
    const plp_dtype weights = b->options.f32 && !cpu ? PLP_F32 : b->config.dtype, act = cpu || b->options.f32 ? PLP_F32 : weights;
    const int m = cpu ? 512 : 8192, n = cpu ? 2048 : 8192, k = cpu ? 1024 : 8192;
    const size_t bytes = cpu ? (size_t)1 << 29 : (size_t)1 << 32;
    bool packed;
    kn_context *c = NULL;
    buffers pool = { .kn = kn, .random = 1 };
    double seconds, best = INFINITY;
    PLP_DO(kn->create(&c, &(kn_options){ .device = b->options.device,
                                         .threads = b->options.threads,
                                         .act = act,
                                         .max_tokens = m,
                                         .max_k = k,
                                         .max_n = n,
                                         .max_heads = 1,
                                         .max_dim = 64,
                                         .max_state = 128 }));
    pool.c = c;
    PLP_DO(tp_barrier(b->group)); /* the ranks of a host share its memory: all read at once */
    PLP_DO(kn->read_time(c, bytes, &seconds));
    b->read_rate = (double)bytes / seconds;
    void *x = take_random(&pool, (int64_t)m * k, act, 1, 0), *w = take_random(&pool, (int64_t)n * k, weights, 1, 0);
    void *y = take_random(&pool, (int64_t)m * n, act, 1, 0);
    pack(&pool, w, n, k, weights, &packed);
    PLP_DO(pool.st);
    PLP_DO(tp_barrier(b->group));
    for (int i = 0; i < 6; i++) {
        const double begin = plp_seconds();
        PLP_DO(kn->linear(c, &(kn_linear_args){ .rows = m,
                                                .n = n,
                                                .k = k,
                                                .x = x,
                                                .x_dtype = act,
                                                .ldx = k,
                                                .w = w,
                                                .w_dtype = weights,
                                                .packed = packed,
                                                .y = y,
                                                .y_dtype = act,
                                                .ldy = n,
                                                .round_x = !b->options.f32 }));
        PLP_DO(kn->sync(c));
        if (i > 1) best = fmin(best, plp_seconds() - begin);
    }
    b->flop_rate = 2.0 * m * n * k / best;
    if (tp_rank(b->group) == 0 && b->format == BENCH_MARKDOWN) {
        char line[160], nccl[32] = "";
        kn->describe(c, line, sizeof line);
        if (!cpu) cli_nccl_version(nccl, sizeof nccl);
        printf("# %s%s%s\n# per rank, %d rank%s at once: reads %.1f GB/s; matrix product %d x %d x %d %.1f GFLOP/s\n", line,
               nccl[0] ? ", NCCL " : "", nccl, tp_size(b->group), tp_size(b->group) == 1 ? "" : "s", b->read_rate * 1e-9, m, n, k,
               b->flop_rate * 1e-9);
    }
done:
    drain(&pool);
    if (c) kn->destroy(&c);
    return st;
}

/* The time of one all-reduce among IN_A_GRAPH in a graph: what a decode step pays, without the host's call and wait. */
static plp_status time_graph(bench *b, kn_context *c, float *data, int64_t bytes, bench_row *r)
{
    enum { IN_A_GRAPH = 32 };
    plp_status st = PLP_OK;
    const kn_backend *kn = b->options.backend;
    const int repeats = b->repeats < 64 ? b->repeats : 64;
    const float one = 1, want = (float)pow(tp_size(b->group), IN_A_GRAPH);
    double times[64];
    float first;
    kn_graph *graph = NULL;
    snprintf(r->name, sizeof r->name, "all_reduce in a graph (%s)", tp_comm_name(b->group));
    PLP_DO(kn->capture_begin(c));
    for (int i = 0; i < IN_A_GRAPH && st == PLP_OK; i++) st = tp_all_reduce(b->group, data, bytes / 4, PLP_F32);
    const plp_status queued = st;
    st = kn->capture_end(c, &graph);
    if (queued != PLP_OK) st = queued;
    PLP_DO(st);
    for (int i = -2; i < repeats; i++) {
        PLP_DO(kn->fill(c, data, 0, (size_t)bytes));
        PLP_DO(kn->to_device(c, data, &one, sizeof one));
        PLP_DO(kn->sync(c));
        PLP_DO(tp_barrier(b->group));
        const double begin = plp_seconds();
        PLP_DO(kn->replay(c, graph));
        PLP_DO(kn->sync(c));
        if (i >= 0) times[i] = (plp_seconds() - begin) / IN_A_GRAPH;
        PLP_DO(kn->to_host(c, &first, data, sizeof first));
        PLP_DO(kn->sync(c));
        if (!(fabsf(first / want - 1) < 1e-5f)) r->good = false, snprintf(r->check, sizeof r->check, "wrong sum");
    }
    bench_times(r, times, repeats);
done:
    if (graph) kn->graph_destroy(c, &graph);
    return st;
}

plp_status bench_collectives(bench *b)
{
    plp_status st = PLP_OK;
    const kn_backend *kn = b->options.backend;
    const int64_t most = (int64_t)64 << 20;
    const bool cpu = kn == kn_cpu();
    kn_context *c = NULL;
    buffers pool = { .kn = kn, .random = 1 };
    PLP_DO(kn->create(&c, &(kn_options){ .device = b->options.device,
                                         .threads = b->options.threads,
                                         .act = cpu ? PLP_F32 : PLP_BF16,
                                         .max_tokens = 1,
                                         .max_k = 64,
                                         .max_n = 64,
                                         .max_heads = 1,
                                         .max_dim = 64,
                                         .max_state = 128 }));
    pool.c = c;
    PLP_DO(tp_attach(b->group, kn, c, b->options.comm, (size_t)most, false));
    float *data = take_random(&pool, most / 4, PLP_F32, 1, 0);
    PLP_DO(pool.st);
    for (int64_t bytes = 2048; bytes <= most; bytes *= 4) {
        bench_row r = { .np = tp_size(b->group), .dtype = "F32", .good = true, .bytes = (double)bytes };
        double times[64], sum = 0;
        float first;
        const int repeats = b->repeats < 64 ? b->repeats : 64;
        snprintf(r.name, sizeof r.name, "all_reduce (%s)", tp_comm_name(b->group));
        snprintf(r.shape, sizeof r.shape, "%lld KiB", (long long)(bytes >> 10));
        snprintf(r.check, sizeof r.check, "sum of ones");
        for (int i = -2; i < repeats; i++) {
            const float one = 1;
            PLP_DO(kn->to_device(c, data, &one, sizeof one));
            PLP_DO(kn->sync(c));
            PLP_DO(tp_barrier(b->group));
            const double begin = plp_seconds();
            PLP_DO(tp_all_reduce(b->group, data, bytes / 4, PLP_F32));
            PLP_DO(kn->sync(c));
            if (i >= 0) times[i] = plp_seconds() - begin;
            PLP_DO(kn->to_host(c, &first, data, sizeof first));
            PLP_DO(kn->fill(c, data + 1, 0, (size_t)bytes - 4)); /* sums of sums would overflow */
            PLP_DO(kn->sync(c));
            sum += first;
        }
        if (sum != (double)(repeats + 2) * tp_size(b->group)) r.good = false, snprintf(r.check, sizeof r.check, "wrong sum");
        bench_times(&r, times, repeats);
        PLP_DO(bench_print(b, &r));
        if (kn->capture_begin && tp_capturable(b->group) && tp_size(b->group) > 1) {
            PLP_DO(time_graph(b, c, data, bytes, &r));
            PLP_DO(bench_print(b, &r));
        }
    }
done:
    drain(&pool);
    if (c) kn->destroy(&c);
    return st;
}
