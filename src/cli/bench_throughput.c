/* Many requests through the engine, over a model with random weights: what a service would see. */
#include "cli/bench.h"

#include "base/clock.h"
#include "base/error.h"
#include "engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    plp_request given;
    uint64_t id;
    double arrives, first, last; /* seconds after the start: of the request, its first and its last token so far */
    int64_t tokens;
} job;

typedef struct {
    double *value;
    int64_t count;
} series;

typedef struct {
    job *jobs;
    int count, submitted, finished;
    int *ids;               /* of the longest prompt */
    series ttft, tpot, itl; /* to the first token; between tokens, the mean of a request; between any two */
    double began, ended;
} load;

/* ------------------------------------------------------------------------------------------------------------------------ the mix */
/* In (0, 1), the same on every rank. */
static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(*state >> 11) + 0.5) * 0x1p-53;
}

static int64_t length_of(const bench_lengths *l, uint64_t *state)
{
    return l->least + (int64_t)(uniform(state) * (double)(l->most - l->least + 1));
}

static plp_status make_load(load *k, const bench *b, const bench_mix *mix)
{
    const int vocab = (int)b->config.vocab_used, longest = (int)mix->input.most;
    uint64_t state = 1;
    double at = 0;
    int64_t outputs = 0;
    k->count = mix->prompts;
    PLP_TRY(PLP_ALLOCATED(k->jobs = calloc((size_t)k->count, sizeof *k->jobs)));
    PLP_TRY(PLP_ALLOCATED(k->ids = malloc(((size_t)longest + (size_t)k->count) * sizeof *k->ids)));
    for (int i = 0; i < longest + k->count; i++) k->ids[i] = (int)(uniform(&state) * vocab);
    for (int i = 0; i < k->count; i++) {
        job *j = &k->jobs[i];
        j->given = plp_request_defaults();
        j->given.ids = k->ids + i; /* each begins elsewhere, so that none shares a beginning */
        j->given.count = (size_t)length_of(&mix->input, &state);
        j->given.max_tokens = length_of(&mix->output, &state);
        j->given.ignore_eos = 1;
        j->given.sampling.seed = (uint64_t)i;
        outputs += j->given.max_tokens;
        if (mix->rate > 0) at -= log(uniform(&state)) / mix->rate;
        j->arrives = at;
    }
    PLP_TRY(PLP_ALLOCATED(k->ttft.value = malloc((size_t)k->count * sizeof(double))));
    PLP_TRY(PLP_ALLOCATED(k->tpot.value = malloc((size_t)k->count * sizeof(double))));
    return PLP_ALLOCATED(k->itl.value = malloc((size_t)outputs * sizeof(double)));
}

static void free_load(load *k)
{
    free(k->jobs);
    free(k->ids);
    free(k->ttft.value);
    free(k->tpot.value);
    free(k->itl.value);
}

/* ------------------------------------------------------------------------------------------------------------------------ the run */
/* Rank 0's clock, so that all ranks submit the same requests before the same step. */
static plp_status arrivals(load *k, const bench *b, plp_engine *e, double *now)
{
    *now = plp_seconds() - k->began;
    PLP_TRY(tp_broadcast(b->group, now, sizeof *now, 0));
    for (; k->submitted < k->count && k->jobs[k->submitted].arrives <= *now; k->submitted++)
        PLP_TRY(plp_engine_submit(e, &k->jobs[k->submitted].given, &k->jobs[k->submitted].id));
    return PLP_OK;
}

static plp_status note(load *k, const plp_event *event, double now)
{
    job *j = &k->jobs[event->request - k->jobs[0].id]; /* ids count up */
    if (event->kind == PLP_EVENT_ERROR) return PLP_FAIL(event->status, "%s", event->message);
    if (event->kind == PLP_EVENT_TOKEN) {
        if (j->tokens++ == 0)
            j->first = now, k->ttft.value[k->ttft.count++] = now - j->arrives;
        else
            k->itl.value[k->itl.count++] = now - j->last;
        j->last = now;
        return PLP_OK;
    }
    k->finished++;
    if (j->tokens > 1) k->tpot.value[k->tpot.count++] = (j->last - j->first) / (double)(j->tokens - 1);
    return PLP_OK;
}

static plp_status serve(load *k, const bench *b, plp_engine *e)
{
    const struct timespec pause = { .tv_nsec = 200000 };
    k->began = plp_seconds();
    while (k->finished < k->count) {
        plp_event event;
        double now;
        int left = 0;
        PLP_TRY(arrivals(k, b, e, &now));
        PLP_TRY(plp_engine_step(e, &left));
        if (left == 0 && k->finished == k->submitted) nanosleep(&pause, NULL);
        now = plp_seconds() - k->began;
        while (plp_engine_next_event(e, &event)) PLP_TRY(note(k, &event, now));
    }
    k->ended = plp_seconds();
    return PLP_OK;
}

/* --------------------------------------------------------------------------------------------------------------------- the report */
typedef struct {
    double mean, median, p99; /* milliseconds; p99 by the nearest rank */
} summary;

static summary summary_of(series *s)
{
    double sum = 0;
    if (s->count == 0) return (summary){ 0 };
    qsort(s->value, (size_t)s->count, sizeof *s->value, bench_ascending);
    for (int64_t i = 0; i < s->count; i++) sum += s->value[i];
    return (summary){ .mean = 1e3 * sum / (double)s->count,
                      .median = 1e3 * s->value[(s->count - 1) / 2],
                      .p99 = 1e3 * s->value[(int64_t)ceil(0.99 * (double)s->count) - 1] };
}

static void print_report(load *k, const bench *b, int seqs, const plp_engine_stats *stats)
{
    const double seconds = k->ended - k->began, steps = (double)stats->steps;
    const double requests = k->count / seconds, in = (double)stats->prefill_tokens / seconds, out = (double)stats->output_tokens / seconds;
    const double plan = 1e6 * stats->schedule_seconds / steps, host = 1e6 * stats->host_seconds / steps;
    const struct {
        const char *name, *text;
        summary s;
    } rows[] = { { "ttft", "time to first token", summary_of(&k->ttft) },
                 { "tpot", "time per output token", summary_of(&k->tpot) },
                 { "itl", "time between tokens", summary_of(&k->itl) } };
    if (b->format == BENCH_JSON) {
        printf("{\"name\": \"throughput\", \"shape\": \"%s\", \"np\": %d, \"seqs\": %d, \"requests\": %d, \"seconds\": %.3f, "
               "\"requests_per_second\": %.3f, \"input_tokens_per_second\": %.1f, \"output_tokens_per_second\": %.1f",
               b->shape, tp_size(b->group), seqs, k->count, seconds, requests, in, out);
        for (int i = 0; i < 3; i++)
            printf(", \"%s_ms\": {\"mean\": %.3f, \"median\": %.3f, \"p99\": %.3f}", rows[i].name, rows[i].s.mean, rows[i].s.median,
                   rows[i].s.p99);
        printf(", \"steps\": %lld, \"schedule_us\": %.1f, \"host_us\": %.1f}\n", (long long)stats->steps, plan, host);
        return;
    }
    printf("%s, np %d, %d at a time: %d requests in %.1f s: %.2f requests/s, %.0f tokens/s in, %.0f tokens/s out\n", b->shape,
           tp_size(b->group), seqs, k->count, seconds, requests, in, out);
    printf("  %-22s %10s %10s %10s\n", "milliseconds", "mean", "median", "p99");
    for (int i = 0; i < 3; i++) printf("  %-22s %10.2f %10.2f %10.2f\n", rows[i].text, rows[i].s.mean, rows[i].s.median, rows[i].s.p99);
    printf("  %lld steps; host time of each: %.1f us to plan it, %.1f us in all besides the model\n", (long long)stats->steps, plan, host);
}

/* At most `seqs` at a time. */
static plp_status run_load(const bench *b, const bench_mix *mix, int seqs)
{
    plp_status st = PLP_OK;
    load k = { 0 };
    model *m = NULL;
    plp_engine *e = NULL;
    plp_engine_stats stats;
    model_options o = b->options;
    o.max_seqs = o.max_outs = o.slots = seqs;
    o.max_tokens = engine_step_tokens(&o, &b->config);
    PLP_DO(model_create_random(&m, &b->config, 1, b->group, &o));
    PLP_DO(tp_agree(b->group, engine_create(&e, m, NULL, &(engine_options){ .max_slice = mix->slice })));
    PLP_DO(tp_agree(b->group, make_load(&k, b, mix)));
    PLP_DO(serve(&k, b, e));
    plp_engine_statistics(e, &stats);
    if (tp_rank(b->group) == 0) print_report(&k, b, seqs, &stats);
    fflush(stdout);
done:
    engine_destroy(&e);
    model_destroy(&m);
    free_load(&k);
    return st;
}

plp_status bench_throughput(bench *b, const bench_mix *mix)
{
    for (int i = 0; i < b->batch_count; i++) PLP_TRY(run_load(b, mix, b->batches[i]));
    return PLP_OK;
}
