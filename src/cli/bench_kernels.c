/* Single operations at the sizes that one layer of the shape has on this rank, and the rates that bound them. */
#include "cli/bench.h"

#include "base/clock.h"
#include "base/error.h"

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
};

#define QUEUE(op)                                                                                                                          \
    static plp_status queue_##op(const kernel *k, const bench *b, kn_context *c) { return b->options.backend->op(c, k->args); }
#define QUEUE_BATCH(op)                                                                                                                    \
    static plp_status queue_##op(const kernel *k, const bench *b, kn_context *c) { return b->options.backend->op(c, k->args, k->batch); }
QUEUE(linear)
QUEUE(add_norm)
QUEUE(gated_norm)
QUEUE_BATCH(conv)
QUEUE_BATCH(ssd)
QUEUE_BATCH(ssm_step)

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

static plp_status time_kernel(bench *b, kn_context *c, const kernel *k, const char *size, bool stateful)
{
    enum { CALLS = 8 }; /* queued together: on a GPU a launch alone takes longer than some kernels */
    const kn_backend *kn = b->options.backend;
    bench_row r = { .np = tp_size(b->group), .dtype = plp_dtype_name(b->options.f32 ? PLP_F32 : b->config.dtype), .good = true };
    double times[64];
    const int repeats = b->repeats < 64 ? b->repeats : 64;
    snprintf(r.name, sizeof r.name, "%s", k->name);
    snprintf(r.shape, sizeof r.shape, "%.31s %s", b->shape, size);
    snprintf(r.check, sizeof r.check, "finite, repeatable");
    if (!stateful)
        PLP_TRY(check(k, b, c, &r));
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
                         .max_state = (int)c->state,
                         .max_chunk = (int)c->chunk };
}

/* All operations of a layer for `seqs` sequences of `tokens` rows together; decode when they are equal. */
static plp_status layer_kernels(bench *b, int tokens, int seqs)
{
    plp_status st = PLP_OK;
    const model_config *c = &b->config;
    const kn_backend *kn = b->options.backend;
    const bool decode = tokens == seqs, cpu = kn == kn_cpu();
    const plp_dtype weights = b->options.f32 && !cpu ? PLP_F32 : c->dtype, act = cpu || b->options.f32 ? PLP_F32 : weights;
    model_plan p;
    kn_context *ctx = NULL;
    buffers pool = { .kn = kn, .random = 1 };
    int *ints = NULL, *map = NULL;
    int64_t *past = NULL;
    char size[48];
    PLP_TRY(model_plan_make(&p, c, tp_rank(b->group), tp_size(b->group)));
    const kn_options o = context_options(b, &p, tokens, act);
    PLP_DO(kn->create(&ctx, &o));
    pool.c = ctx;
    const int64_t E = c->hidden, I = p.channels.count, R = p.in_rows, C = p.conv_channels, H = p.heads.count,
                  bc = p.groups.count * c->state;
    const double a = (double)plp_dtype_size(act), w = (double)plp_dtype_size(weights), T = tokens;
    const double s = (double)plp_dtype_size(b->options.ssm_dtype);
    PLP_DO(PLP_ALLOCATED(ints = calloc(2 * (size_t)seqs + 3, sizeof *ints)));
    PLP_DO(PLP_ALLOCATED(map = calloc((size_t)H, sizeof *map)));
    PLP_DO(PLP_ALLOCATED(past = calloc((size_t)seqs, sizeof *past)));
    int *start = ints, *slot = ints + seqs + 1;
    for (int i = 0; i < seqs; i++) start[i] = (int)((int64_t)tokens * i / seqs), slot[i] = i, past[i] = decode ? 100 : 0;
    start[seqs] = tokens;
    model_plan_group_map(&p, c, map);
    const int *there_start = take_bytes(&pool, start, sizeof(int) * (size_t)(seqs + 1)),
              *there_slot = take_bytes(&pool, slot, sizeof(int) * (size_t)seqs);
    const int64_t *there_past = take_bytes(&pool, past, sizeof *past * (size_t)seqs);
    const kn_batch batch = { .tokens = tokens,
                             .seqs = seqs,
                             .decodes = decode ? seqs : 0,
                             .start = there_start,
                             .src_slot = there_slot,
                             .dst_slot = there_slot,
                             .past = there_past,
                             .host_start = start,
                             .host_past = past };
    int norm_first[257] = { 0 };
    model_plan_norm_first(&p, c, norm_first);
    const int *there_map = take_bytes(&pool, map, sizeof *map * (size_t)H);
    const int *there_first = take_bytes(&pool, norm_first, sizeof(int) * (size_t)(p.norm_groups.count + 1));
    void *residual = take_random(&pool, tokens * E, PLP_F32, 1, 0), *delta = take_random(&pool, tokens * E, PLP_F32, 1, 0);
    void *normed = take_random(&pool, tokens * E, act, 1, 0), *in = take_random(&pool, tokens * R, act, 1, 0);
    void *conv = take_random(&pool, tokens * C, act, 1, 0), *y = take_random(&pool, tokens * I, act, 1, 0);
    void *w_in = take_random(&pool, R * E, weights, 0.05f, 0), *w_out = take_random(&pool, E * I, weights, 0.05f, 0);
    void *vector = take_random(&pool, C * c->conv, PLP_F32, 0.5f, 0), *A = take_random(&pool, H, PLP_F32, 0.5f, -1);
    void *conv_state = take_random(&pool, seqs * (c->conv - 1) * C, act, 1, 0);
    void *ssm_state = take_random(&pool, seqs * I * c->state, b->options.ssm_dtype, 1, 0);
    PLP_DO(pool.st);

    const kn_linear_args in_proj = { .rows = tokens,
                                     .n = (int)R,
                                     .k = (int)E,
                                     .x = normed,
                                     .x_dtype = act,
                                     .ldx = E,
                                     .w = w_in,
                                     .w_dtype = weights,
                                     .y = in,
                                     .y_dtype = act,
                                     .ldy = R,
                                     .round_x = !b->options.f32 };
    const kn_linear_args out_proj = { .rows = tokens,
                                      .n = (int)E,
                                      .k = (int)I,
                                      .x = y,
                                      .x_dtype = act,
                                      .ldx = I,
                                      .w = w_out,
                                      .w_dtype = weights,
                                      .y = delta,
                                      .y_dtype = PLP_F32,
                                      .ldy = E,
                                      .round_x = !b->options.f32 };
    const kn_add_norm_args add = { .tokens = tokens,
                                   .hidden = (int)E,
                                   .outs = tokens,
                                   .residual = residual,
                                   .delta = delta,
                                   .delta_dtype = PLP_F32,
                                   .ld_delta = E,
                                   .weight = vector,
                                   .eps = 1e-5,
                                   .out = normed };
    const kn_conv_args cv = { .channels = (int)C,
                              .width = (int)c->conv,
                              .in = (char *)in + (size_t)I * plp_dtype_size(act),
                              .ld_in = R,
                              .weight = vector,
                              .state = conv_state,
                              .state_dtype = act,
                              .out = conv,
                              .ld_out = C };
    const kn_ssm_args ssm = { .heads = (int)H,
                              .groups = (int)p.groups.count,
                              .dim = (int)c->head_dim,
                              .state = (int)c->state,
                              .chunk = (int)c->chunk,
                              .group = there_map,
                              .host_group = map,
                              .x = conv,
                              .B = (char *)conv + (size_t)I * plp_dtype_size(act),
                              .C = (char *)conv + (size_t)(I + bc) * plp_dtype_size(act),
                              .dt = (char *)in + (size_t)(R - H) * plp_dtype_size(act),
                              .ld_x = C,
                              .ld_bc = C,
                              .ld_dt = R,
                              .A = A,
                              .dt_bias = A,
                              .D = A,
                              .dt_max = INFINITY,
                              .h = ssm_state,
                              .state_dtype = b->options.ssm_dtype,
                              .y = y,
                              .ld_y = I };
    const kn_gated_norm_args gate = { .tokens = tokens,
                                      .channels = (int)I,
                                      .groups = (int)p.norm_groups.count,
                                      .mode = KN_NORM_LOCAL,
                                      .first = there_first,
                                      .width = (double)I / (double)p.norm_groups.count,
                                      .eps = 1e-5,
                                      .y = y,
                                      .z = in,
                                      .ld_y = I,
                                      .ld_z = R,
                                      .weight = vector,
                                      .out = conv,
                                      .ld_out = I };
    const double scan = T * (double)I * (double)c->state;
    const kernel list[] = {
        { "in_proj", queue_linear, &in_proj, NULL, in, act, tokens * R, w * (double)(R * E) + a * T * (double)(E + R),
          2 * T * (double)(R * E) },
        { "out_proj", queue_linear, &out_proj, NULL, delta, PLP_F32, tokens * E, w * (double)(I * E) + a * T * (double)(E + I),
          2 * T * (double)(I * E) },
        { "gated_norm", queue_gated_norm, &gate, NULL, conv, act, tokens * I, 3 * a * T * (double)I, 0 },
        { "add_norm", queue_add_norm, &add, NULL, normed, act, tokens * E, (12 + a) * T * (double)E, 0 },
        { "conv", queue_conv, &cv, &batch, conv, act, tokens * C, 2 * a * T * (double)C, 8 * T * (double)C },
        { decode ? "ssm_step" : "ssd", decode ? queue_ssm_step : queue_ssd, &ssm, &batch, y, act, tokens * I,
          a * T * (double)(C + I + H) + (decode ? 2 : 1) * s * seqs * (double)(I * c->state), 5 * scan },
    };
    snprintf(size, sizeof size, decode ? "B=%d" : "T=%d", tokens);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const bool stateful = list[i].queue == queue_add_norm || (decode && list[i].batch != NULL);
        PLP_DO(time_kernel(b, ctx, list + i, size, stateful));
    }
done:
    drain(&pool);
    if (ctx) kn->destroy(&ctx);
    free(ints);
    free(map);
    free(past);
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
                                         .max_state = 128,
                                         .max_chunk = 64 }));
    pool.c = c;
    PLP_DO(tp_barrier(b->group)); /* the ranks of a host share its memory: all read at once */
    PLP_DO(kn->read_time(c, bytes, &seconds));
    b->read_rate = (double)bytes / seconds;
    void *x = take_random(&pool, (int64_t)m * k, act, 1, 0), *w = take_random(&pool, (int64_t)n * k, weights, 1, 0);
    void *y = take_random(&pool, (int64_t)m * n, act, 1, 0);
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
                                                .y = y,
                                                .y_dtype = act,
                                                .ldy = n,
                                                .round_x = !b->options.f32 }));
        PLP_DO(kn->sync(c));
        if (i > 1) best = fmin(best, plp_seconds() - begin);
    }
    b->flop_rate = 2.0 * m * n * k / best;
    if (tp_rank(b->group) == 0 && b->format == BENCH_MARKDOWN) {
        char line[160];
        kn->describe(c, line, sizeof line);
        printf("# %s\n# per rank, %d rank%s at once: reads %.1f GB/s; matrix product %d x %d x %d %.1f GFLOP/s\n", line, tp_size(b->group),
               tp_size(b->group) == 1 ? "" : "s", b->read_rate * 1e-9, m, n, k, b->flop_rate * 1e-9);
    }
done:
    drain(&pool);
    if (c) kn->destroy(&c);
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
                                         .max_state = 128,
                                         .max_chunk = 64 }));
    pool.c = c;
    PLP_DO(tp_attach(b->group, kn, c, b->options.comm, (size_t)most));
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
    }
done:
    drain(&pool);
    if (c) kn->destroy(&c);
    return st;
}

plp_status bench_load(bench *b, const char *path)
{
    enum { REPEATS = 3 };
    plp_status st = PLP_OK;
    bench_row r = { .np = tp_size(b->group), .good = true };
    double times[REPEATS];
    for (int i = 0; i < REPEATS; i++) {
        model_source *s = NULL;
        model *m = NULL;
        model_options o = b->options;
        o.max_tokens = o.max_seqs = o.max_outs = o.slots = 1;
        const double begin = plp_seconds();
        st = model_source_open(&s, path, NULL);
        if (st == PLP_OK) st = model_create(&m, s, b->group, &o);
        times[i] = plp_seconds() - begin;
        if (st == PLP_OK) {
            r.bytes = (double)model_source_bytes_read(s);
            r.dtype = plp_dtype_name(model_config_of(m)->dtype);
        }
        model_destroy(&m);
        model_source_close(&s);
        PLP_DO(st);
    }
    snprintf(r.name, sizeof r.name, "load");
    snprintf(r.shape, sizeof r.shape, "%.60s", b->shape);
    snprintf(r.check, sizeof r.check, "checksums");
    bench_times(&r, times, REPEATS);
    PLP_DO(bench_print(b, &r));
done:
    return st;
}
