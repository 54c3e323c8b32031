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
    double tolerance;
    const char *shape;
    bool all;
} given = { .tokens = 48, .decodes = 4, .slice = 7, .seed = 1, .plant = -1 };

static const plp_option options[] = {
    { "--shape", NULL, "NAME", PLP_OPTION_TEXT, &given.shape, 1, 0,
      "random weights of a published shape instead of --model;\nbf16 unless --dtype is f16" },
    { "--tokens", NULL, "N", PLP_OPTION_INT, &given.tokens, 1, 4096, "of the prompt: random ids; default 48" },
    { "--decodes", NULL, "N", PLP_OPTION_INT, &given.decodes, 0, 1024, "steps of one token behind it; default 4" },
    { "--slice", NULL, "N", PLP_OPTION_INT, &given.slice, 1, 4096, "rows of a step of the chunked prefill; default 7" },
    { "--seed", NULL, "N", PLP_OPTION_INT, &given.seed, 0, 1e15, "of the ids" },
    { "--tolerance", NULL, "X", PLP_OPTION_REAL, &given.tolerance, 1e-9, 1,
      "largest difference, as a share of the largest value;\ndefault 1e-4 in float32, 3e-2 in 16 bits" },
    { "--all", NULL, NULL, PLP_OPTION_FLAG, &given.all, 0, 0, "a row for every tensor; default: the worst of each layer" },
    { "--plant-difference", NULL, "LAYER", PLP_OPTION_INT, &given.plant, 0, 1 << 20,
      "change one weight on the last rank first, to see it found" },
};

static plp_status open_models(const cli *c, engine_session *shard, engine_session *whole)
{
    plp_engine_options o = c->model;
    o.max_seqs = 1, o.max_batch_tokens = (int)given.tokens;
    if (given.shape == NULL) {
        PLP_TRY(engine_session_open(shard, MPI_COMM_WORLD, &o, (int)given.tokens));
    } else {
        model_config config;
        model_options mo;
        PLP_TRY(tp_group_create(&shard->group, MPI_COMM_WORLD));
        PLP_TRY(tp_agree(shard->group, engine_shape(&o, given.shape, &config)));
        PLP_TRY(tp_agree(shard->group, engine_model_options(&o, shard->group, (int)given.tokens, &mo)));
        PLP_TRY(model_create_random(&shard->model, &config, 1, shard->group, &mo));
    }
    /* Beside its shard, every rank holds the whole model on the same device. */
    PLP_TRY(tp_group_self(&whole->group));
    const model_options *mo = model_options_of(shard->model);
    if (given.shape == NULL) return tp_agree(shard->group, model_create(&whole->model, shard->source, whole->group, mo));
    return tp_agree(shard->group, model_create_random(&whole->model, model_config_of(shard->model), 1, whole->group, mo));
}

static void print_row(const model_difference *d, int64_t layers)
{
    char layer[16];
    if (d->layer == layers)
        snprintf(layer, sizeof layer, "-");
    else
        snprintf(layer, sizeof layer, "%lld", (long long)d->layer);
    printf("%-16s %5s  %-9s %12.3e %12.3e  %s\n", d->phase, layer, d->tensor, d->absolute, d->relative, d->within ? "ok" : "DIFFERS");
}

/* The rows, or of each layer the worst: the first that is beyond the tolerance, else the largest. */
static void print(const model_difference *list, int count, int64_t layers)
{
    printf("%-16s %5s  %-9s %12s %12s\n", "phase", "layer", "tensor", "absolute", "relative");
    for (int i = 0, next; i < count; i = next) {
        int worst = i;
        for (next = i; next < count && list[next].layer == list[i].layer && strcmp(list[next].phase, list[i].phase) == 0; next++) {
            if (given.all) print_row(list + next, layers);
            if (list[worst].within && (!list[next].within || list[next].relative > list[worst].relative)) worst = next;
        }
        if (!given.all) print_row(list + worst, layers);
    }
}

static plp_status run(cli *c)
{
    plp_status st = PLP_OK;
    engine_session shard = { 0 }, whole = { 0 };
    model_difference *list = NULL;
    int count = 0;
    if (c->model.model == NULL && given.shape == NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "--model or --shape is missing; command line; fix: polylepis verify --model M");
    PLP_DO(open_models(c, &shard, &whole));
    if (given.plant >= 0 && c->rank == c->size - 1) {
        const int64_t layers = model_config_of(shard.model)->layers;
        st = given.plant < layers ? model_plant_difference(shard.model, given.plant)
                                  : PLP_FAIL(PLP_ERR_USAGE, "--plant-difference %lld: the model has layers 0 to %lld",
                                             (long long)given.plant, (long long)layers - 1);
    }
    PLP_DO(tp_agree(shard.group, st));
    const double usual = model_options_of(shard.model)->f32 ? 1e-4 : 3e-2;
    const model_verify_options o = { .tokens = (int)given.tokens,
                                     .decodes = (int)given.decodes,
                                     .slice = (int)given.slice,
                                     .seed = (uint64_t)given.seed,
                                     .tolerance = given.tolerance > 0 ? given.tolerance : usual };
    st = model_verify(shard.model, whole.model, &o, &list, &count);
    if (list != NULL && c->rank == 0) {
        print(list, count, model_config_of(shard.model)->layers);
        if (st == PLP_OK)
            printf("%d ranks compute what one computes: %d comparisons within %.1e of the largest value\n", c->size, count, o.tolerance);
    }
done:
    free(list);
    st = cli_join(c, st);
    engine_session_close(&whole);
    engine_session_close(&shard);
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
