/* polylepis inspect: what a model is, and who would own what on N ranks. */
#include "cli/commands.h"

#include "base/error.h"
#include "engine/tokenizer.h"
#include "model/plan.h"

#include <math.h>
#include <stdio.h>

static struct {
    int64_t plan;
    bool tensors, trust;
} given;

static const plp_option options[] = {
    { "--plan", NULL, "N", PLP_OPTION_INT, &given.plan, 1, 1 << 20, "the sharding plan for N ranks" },
    { "--tensors", NULL, NULL, PLP_OPTION_FLAG, &given.tensors, 0, 0, "every band with its shape and bytes" },
    { "--trust-model", NULL, NULL, PLP_OPTION_FLAG, &given.trust, 0, 0, "parse a model file in this process: see generate --help" },
};

static double megabytes(uint64_t bytes) { return 1e-6 * (double)bytes; }

/* One that is not supported has been warned of. */
static plp_status print_tokenizer(const model_source *s, const char *path)
{
    text_tokenizer *t;
    bool unsupported;
    PLP_TRY(engine_tokenizer(&t, s, path, &unsupported));
    printf("tokenizer       %s\n", t != NULL ? "yes" : unsupported ? "not supported: token ids only" : "none: prompts as token ids only");
    text_tokenizer_destroy(&t);
    return PLP_OK;
}

static plp_status print_config(const model_source *s, const char *path)
{
    static const char *const norms[] = { "no", "yes", "yes, with weights" };
    const model_config *c = model_source_config(s);
    model_plan whole;
    PLP_TRY(model_plan_make(&whole, c, 0, 1));
    const uint64_t weights = model_plan_weights(&whole, c, c->dtype), parameters = model_plan_weights(&whole, c, PLP_F32) / sizeof(float);
    printf("family          %s\nlayers          %lld\nhidden          %lld\ninner           %lld\n", c->family, (long long)c->layers,
           (long long)c->hidden, (long long)c->inner);
    if (c->kind == MODEL_MAMBA2)
        printf("heads           %lld of %lld channels\ngroups          %lld (B, C), %lld (gated norm)\n", (long long)c->heads,
               (long long)c->head_dim, (long long)c->groups, (long long)c->norm_groups);
    else
        printf("dt_rank         %lld\nnorm of dt,B,C  %s\n", (long long)c->dt_rank,
               norms[c->mixer_norm_weights ? 2 : c->mixer_norm_eps > 0]);
    printf("state           %lld\nconv            %lld\nchunk           %lld\n", (long long)c->state, (long long)c->conv,
           (long long)c->chunk);
    printf("vocabulary      %lld ids, %lld rows; head %s\n", (long long)c->vocab_used, (long long)c->vocab,
           c->tied ? "tied" : "of its own");
    printf("biases          projections %s, conv %s\n", c->proj_bias ? "yes" : "no", c->conv_bias ? "yes" : "no");
    printf("norm eps        %g\ndt limit        %g to %g\n", c->norm_eps, c->dt_min, c->dt_max);
    printf("bos             %lld\nstops           ", (long long)c->bos);
    for (int i = 0; i < c->stops; i++) printf("%s%lld", i ? ", " : "", (long long)c->stop[i]);
    printf("%s\n", c->stops ? "" : "none");
    PLP_TRY(print_tokenizer(s, path));
    printf("dtype           %s\nparameters      %llu\nweights         %.2f MB\ndigest          %s (%s)\n", plp_dtype_name(c->dtype),
           (unsigned long long)parameters, megabytes(weights), model_source_digest(s),
           model_source_digest_is_whole(s) ? "every byte" : "headers, config, tokenizer, a sample of each tensor's values");
    return PLP_OK;
}

static void print_tensors(const model_config *c)
{
    printf("\n%-24s %-10s %-18s %-6s %s\n", "band", "count", "shape", "dtype", "bytes");
    for (int band = 0; band < MODEL_BANDS; band++) {
        const model_band_info *info = model_band_of((model_band)band);
        const plp_dtype dtype = info->matrix ? c->dtype : PLP_F32;
        int64_t rows, columns;
        char shape[48];
        model_band_shape(c, (model_band)band, &rows, &columns);
        if (rows == 0) continue;
        snprintf(shape, sizeof shape, "%lld x %lld", (long long)rows, (long long)columns);
        const int64_t count = info->per_layer ? c->layers : 1;
        printf("%-24s %-10lld %-18s %-6s %lld\n", info->name, (long long)count, shape, plp_dtype_name(dtype),
               (long long)(count * rows * columns * (int64_t)plp_dtype_size(dtype)));
    }
}

/* Bytes a rank reads from the files when it loads its part. */
static uint64_t bytes_read(const model_source *s, const model_plan *p)
{
    const model_config *c = model_source_config(s);
    uint64_t bytes = 0;
    for (int band = 0; band < MODEL_BANDS; band++) {
        const tp_slice own = model_plan_band(p, c, (model_band)band);
        if (own.count > 0)
            bytes += model_source_cost(s, (model_band)band, own.first, own.count) *
                     (uint64_t)(model_band_of((model_band)band)->per_layer ? c->layers : 1);
    }
    return bytes;
}

static void print_range(tp_slice s)
{
    char text[40];
    if (s.count == 0)
        snprintf(text, sizeof text, "-");
    else
        snprintf(text, sizeof text, "%lld..%lld", (long long)s.first, (long long)(s.first + s.count - 1));
    printf(" %14s", text);
}

static plp_status print_plan(const model_source *s, int ranks)
{
    static const char *const norms[] = { [MODEL_NORM_NONE] = "no gated norm",
                                         [MODEL_NORM_LOCAL] = "gated norm local to each rank",
                                         [MODEL_NORM_FOLDED] = "gated norm over all ranks, folded into the layer's one all-reduce",
                                         [MODEL_NORM_SUMMED] = "norm groups straddle ranks: their sums are added first" };
    const model_config *c = model_source_config(s);
    model_plan p;
    PLP_TRY(model_plan_make(&p, c, 0, ranks));
    printf("\nplan for %d rank%s: %s\n", ranks, ranks == 1 ? "" : "s", norms[p.norm]);
    printf("%4s %14s %14s %14s %12s %12s %14s\n", "rank", c->kind == MODEL_MAMBA2 ? "heads" : "channels", "groups", "vocabulary",
           "weights MB", "reads MB", "state MB/seq");
    for (int r = 0; r < ranks; r++) {
        PLP_TRY(model_plan_make(&p, c, r, ranks));
        printf("%4d", r);
        print_range(p.heads);
        print_range(p.groups);
        print_range(p.vocab);
        printf(" %12.2f %12.2f %14.3f\n", megabytes(model_plan_weights(&p, c, c->dtype)), megabytes(bytes_read(s, &p)),
               megabytes(model_plan_conv_state(&p, c, c->dtype) + model_plan_ssm_state(&p, c, PLP_F32)));
    }
    model_collective list[MODEL_COLLECTIVES];
    const int n = model_plan_collectives(&p, c, 1, list);
    printf("collectives per layer and token: %s", n ? "" : "none\n");
    for (int i = 0; i < n; i++)
        printf("%s%s, %lld bytes%s", i ? "; " : "", list[i].what, (long long)(list[i].elements * (int64_t)plp_dtype_size(list[i].dtype)),
               i == n - 1 ? "\n" : "");
    return PLP_OK;
}

/* Rank 0 does it; the others wait for it on their way out. */
static plp_status run(cli *c)
{
    plp_status st = PLP_OK;
    model_source *s = NULL;
    if (c->rank != 0) return PLP_OK;
    PLP_DO(model_source_open(&s, c->words[0], &(model_source_options){ .trust = given.trust }));
    PLP_DO(print_config(s, c->words[0]));
    if (given.tensors) print_tensors(model_source_config(s));
    if (given.plan > 0) PLP_DO(print_plan(s, (int)given.plan));
done:
    model_source_close(&s);
    return st;
}

const cli_command cli_inspect = {
    .name = "inspect",
    .summary = "Show a model's config, sizes and digest, and the sharding plan for N ranks.",
    .usage = "inspect MODEL [--plan N] [--tensors]",
    .examples = "  polylepis inspect models/demo\n  polylepis inspect model.h5 --plan 4\n",
    .least = 1,
    .most = 1,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
