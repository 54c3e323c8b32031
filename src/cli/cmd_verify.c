/* polylepis verify: the sharded model against the whole one, layer by layer. */
#include "cli/commands.h"

#include "base/error.h"
#include "base/log.h"
#include "engine/session.h"
#include "model/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    int64_t tokens, decodes, slice, seed, plant;
    double tolerance, error_ratio;
    const char *shape;
    bool all;
} given = { .tokens = 48, .decodes = 4, .slice = 7, .seed = 1, .plant = -1 };

static const plp_option options[] = {
    { "--shape", NULL, "NAME", PLP_OPTION_TEXT, &given.shape, 1, 0,
      "random weights of a published shape instead of --model;\nbf16 unless --dtype is f16" },
    { "--tokens", NULL, "N", PLP_OPTION_INT, &given.tokens, 1, 4096,
      "of the prompt: random ids; default 48 (in 16 bits, of a few,\nchance may exceed --error-ratio)" },
    { "--decodes", NULL, "N", PLP_OPTION_INT, &given.decodes, 0, 1024, "steps of one token behind it; default 4" },
    { "--slice", NULL, "N", PLP_OPTION_INT, &given.slice, 1, 4096, "rows of a step of the chunked prefill; default 7" },
    { "--seed", NULL, "N", PLP_OPTION_INT, &given.seed, 0, 1e15, "of the ids" },
    { "--tolerance", NULL, "X", PLP_OPTION_REAL, &given.tolerance, 1e-9, 1,
      "largest difference, as a share of the largest value;\ndefault 1e-4 in float32, in 16 bits none" },
    { "--error-ratio", NULL, "X", PLP_OPTION_REAL, &given.error_ratio, 1e-3, 1e3,
      "16 bits: how many times as far from the same model in float32\nthe sharded one may be as the whole one, rms; default 1.5:\n"
      "partial sums are rounded once more, by sqrt 2 at the most" },
    { "--all", NULL, NULL, PLP_OPTION_FLAG, &given.all, 0, 0, "a row for every tensor; default: the worst of each layer" },
    { "--plant-difference", NULL, "LAYER", PLP_OPTION_INT, &given.plant, 0, 1 << 20,
      "change one weight on the last rank first, to see it found" },
};

/* What is compared: a rank's shard, the whole model, and in 16 bits the whole model in float32. */
typedef struct {
    engine_session shard, whole, exact; /* of the latter two no more than group and model; exact.model: NULL in float32 */
} models;

static plp_status open_shard(const cli *c, engine_session *shard)
{
    plp_engine_options o = c->model;
    model_config config;
    model_options mo;
    o.max_seqs = 1, o.max_batch_tokens = (int)given.tokens;
    if (given.shape == NULL) return engine_session_open(shard, MPI_COMM_WORLD, &o, (int)given.tokens);
    PLP_TRY(tp_group_create(&shard->group, MPI_COMM_WORLD));
    PLP_TRY(tp_agree(shard->group, engine_shape(&o, given.shape, &config)));
    PLP_TRY(tp_agree(shard->group, engine_model_options(&o, shard->group, (int)given.tokens, &mo)));
    return model_create_random(&shard->model, &config, 1, shard->group, &mo);
}

/* The model that the shard is a part of, for this rank alone. */
static plp_status open_whole(engine_session *whole, const engine_session *shard, const model_options *o)
{
    PLP_TRY(tp_group_self(&whole->group));
    if (given.shape == NULL) return model_create(&whole->model, shard->source, whole->group, o);
    return model_create_random(&whole->model, model_config_of(shard->model), 1, whole->group, o);
}

static uint64_t sum_of(const model_memory *m) { return m->weights + m->states + m->work; }

/* Before either is made: what the whole model takes, and in float32 (exact; NULL: it is not wanted). */
static plp_status check_memory(const engine_session *shard, const model_options *o, const model_options *exact)
{
    const model_config *c = model_config_of(shard->model);
    model_memory whole, wide = { 0 };
    size_t available;
    PLP_TRY(model_measure(&whole, c, 0, 1, o));
    if (exact != NULL) PLP_TRY(model_measure(&wide, c, 0, 1, exact));
    PLP_TRY(engine_memory(o, shard->group, &available));
    const uint64_t need = sum_of(&whole) + sum_of(&wide);
    char parts[64] = "";
    if (exact != NULL)
        snprintf(parts, sizeof parts, " (%.2f, and %.2f in float32)", (double)sum_of(&whole) * 1e-9, (double)sum_of(&wide) * 1e-9);
    plp_log(PLP_LOG_INFO, "memory per rank beside its shard: the whole model %.2f GB%s; %.2f GB available", (double)need * 1e-9, parts,
            (double)available * 1e-9);
    if (need <= available) return PLP_OK;
    return PLP_FAIL(
        PLP_ERR_MEMORY,
        "%.2f GB needed for the whole model beside the shard of each rank%s, %.2f GB available to one on %s, short by %.2f GB; fix: "
        "%sfewer ranks that share this memory, or a smaller model",
        (double)need * 1e-9, parts, (double)available * 1e-9, tp_host(shard->group), (double)(need - available) * 1e-9,
        exact == NULL ? "" : "--dtype f32 compares without the latter; or ");
}

static plp_status open_models(const cli *c, models *m)
{
    PLP_TRY(open_shard(c, &m->shard));
    const model_options *o = model_options_of(m->shard.model);
    const bool sixteen = !o->f32;
    model_options exact = *o;
    exact.f32 = true, exact.ssm_dtype = PLP_F32;
    if (!sixteen && given.error_ratio > 0)
        return PLP_FAIL(PLP_ERR_USAGE,
                        "--error-ratio: this model is computed in float32, which nothing is held against; command line; fix: "
                        "--dtype bf16 or f16, as it is stored, or --tolerance");
    PLP_TRY(tp_agree(m->shard.group, check_memory(&m->shard, o, sixteen ? &exact : NULL)));
    PLP_TRY(tp_agree(m->shard.group, open_whole(&m->whole, &m->shard, o)));
    return sixteen ? tp_agree(m->shard.group, open_whole(&m->exact, &m->shard, &exact)) : PLP_OK;
}

static void print_row(const model_difference *d, int64_t layers, bool sixteen)
{
    char layer[16];
    if (d->layer == layers)
        snprintf(layer, sizeof layer, "-");
    else
        snprintf(layer, sizeof layer, "%lld", (long long)d->layer);
    printf("%-16s %5s  %-9s %12.3e %12.3e", d->phase, layer, d->tensor, d->absolute, d->relative);
    if (sixteen) printf(" %12.3e %12.3e %7.3f", d->error, d->whole_error, d->ratio);
    printf("  %s\n", d->within ? "ok" : "DIFFERS");
}

/* What rows are compared by. */
static double weight_of(const model_difference *d, bool sixteen) { return sixteen ? d->ratio : d->relative; }

/* The rows, or of each layer the worst: the first that is beyond what is allowed, else the largest. */
static void print(const model_difference *list, int count, int64_t layers, bool sixteen)
{
    printf("%-16s %5s  %-9s %12s %12s", "phase", "layer", "tensor", "absolute", "relative");
    printf(sixteen ? " %12s %12s %7s\n" : "\n", "error", "whole's", "ratio");
    for (int i = 0, next; i < count; i = next) {
        int worst = i;
        for (next = i; next < count && list[next].layer == list[i].layer && strcmp(list[next].phase, list[i].phase) == 0; next++) {
            const bool worse = !list[next].within || weight_of(list + next, sixteen) > weight_of(list + worst, sixteen);
            if (given.all) print_row(list + next, layers, sixteen);
            if (list[worst].within && worse) worst = next;
        }
        if (!given.all) print_row(list + worst, layers, sixteen);
    }
}

static void print_verdict(const model_difference *list, int count, int ranks, bool sixteen, double tolerance)
{
    double ratio = 0;
    for (int i = 0; i < count; i++) ratio = list[i].ratio > ratio ? list[i].ratio : ratio;
    printf("%d ranks compute what one computes: %d comparisons", ranks, count);
    if (sixteen) printf(", error against float32 at most %.2f times the whole model's", ratio);
    if (tolerance > 0) printf("%s within %.1e of the largest value", sixteen ? "," : "", tolerance);
    printf("\n");
}

/* On the last rank, when it was asked for. */
static plp_status plant(const cli *c, model *shard)
{
    const int64_t layers = model_config_of(shard)->layers;
    if (given.plant < 0 || c->rank != c->size - 1) return PLP_OK;
    if (given.plant < layers) return model_plant_difference(shard, given.plant);
    return PLP_FAIL(PLP_ERR_USAGE, "--plant-difference %lld: the model has layers 0 to %lld; fix: name one of them", (long long)given.plant,
                    (long long)layers - 1);
}

static plp_status run(cli *c)
{
    plp_status st = PLP_OK;
    models m = { 0 };
    model_difference *list = NULL;
    int count = 0;
    if (c->model.model != NULL && given.shape != NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "--model with --shape; command line; fix: give one of them");
    if (c->model.model == NULL && given.shape == NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "--model or --shape is missing; command line; fix: polylepis verify --model M");
    if (c->model.max_batch_tokens > 0)
        return PLP_FAIL(PLP_ERR_USAGE, "--max-batch-tokens has no say in verify; command line; fix: give --tokens and --slice");
    PLP_DO(open_models(c, &m));
    PLP_DO(tp_agree(m.shard.group, plant(c, m.shard.model)));
    const bool sixteen = m.exact.model != NULL;
    const model_verify_options o = { .tokens = (int)given.tokens,
                                     .decodes = (int)given.decodes,
                                     .slice = (int)given.slice,
                                     .seed = (uint64_t)given.seed,
                                     .tolerance = given.tolerance > 0 || sixteen ? given.tolerance : 1e-4,
                                     .error_ratio = given.error_ratio > 0 ? given.error_ratio : 1.5 };
    st = model_verify(m.shard.model, m.whole.model, m.exact.model, &o, &list, &count);
    if (list != NULL && c->rank == 0) {
        print(list, count, model_config_of(m.shard.model)->layers, sixteen);
        if (st == PLP_OK) print_verdict(list, count, c->size, sixteen, o.tolerance);
    }
done:
    free(list);
    st = cli_join(c, st);
    engine_session_close(&m.exact);
    engine_session_close(&m.whole);
    engine_session_close(&m.shard);
    return st;
}

const cli_command cli_verify = {
    .name = "verify",
    .summary = "Compare the sharded model with the whole one, layer by layer, on the same tokens.",
    .usage = "verify --model M [options]",
    .examples = "  mpirun -np 3 polylepis verify --model models/demo\n  mpirun -np 2 polylepis verify --shape mamba2-130m --device cpu\n",
    .model = true,
    .model_optional = true,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
