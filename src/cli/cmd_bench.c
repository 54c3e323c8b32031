/* polylepis bench: how fast, and what share of what the machine could do. */
#include "cli/bench.h"
#include "cli/commands.h"

#include "base/error.h"
#include "base/log.h"
#include "engine/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DECODE, PREFILL, KERNELS, COLLECTIVES, LOAD, THROUGHPUT }; /* as --mode has them */
enum { REPEATS = 20, PROMPTS = 100 };

static struct {
    const char *shape;
    int mode;
    plp_ints batch, tokens;
    int64_t repeats;
    bool json, csv;
    int64_t prompts;
    double rate;
    const char *input, *output;
} given; /* 0 and NULL: not given */

static const plp_option options[] = {
    { "--shape", NULL, "NAME", PLP_OPTION_TEXT, &given.shape, 1, 0,
      "a published shape with random weights, see below;\nbf16 unless --dtype is f16" },
    { "--mode", NULL, "decode|prefill|kernels|collectives|load|throughput", PLP_OPTION_CHOICE, &given.mode, 0, 0,
      "what is timed; default decode" },
    { "--batch", NULL, "B,...", PLP_OPTION_INTS, &given.batch, 1, 4096,
      "sequences of a decode step, or requests that run at a time;\ndefault 1,8,32" },
    { "--tokens", NULL, "T,...", PLP_OPTION_INTS, &given.tokens, 1, 1 << 17, "tokens of a prefill; default 512" },
    { "--repeats", NULL, "N", PLP_OPTION_INT, &given.repeats, 3, 1000, "timed steps; default 20" },
    { "--num-prompts", NULL, "N", PLP_OPTION_INT, &given.prompts, 1, 1 << 20, "throughput: requests; default 100" },
    { "--rate", NULL, "R", PLP_OPTION_REAL, &given.rate, 0, 1e6, "throughput: requests a second, by chance; default 0: all at once" },
    { "--input-len", NULL, "N[:M]", PLP_OPTION_TEXT, &given.input, 1, 0, "throughput: tokens of a prompt, N to M; default 16:256" },
    { "--output-len", NULL, "N[:M]", PLP_OPTION_TEXT, &given.output, 1, 0, "throughput: tokens of an answer; default 16:128" },
    { "--json", NULL, NULL, PLP_OPTION_FLAG, &given.json, 0, 0, "one JSON object a row" },
    { "--csv", NULL, NULL, PLP_OPTION_FLAG, &given.csv, 0, 0, "comma-separated values" },
};

static const char *const modes[] = { "decode", "prefill", "kernels", "collectives", "load", "throughput" };

/* Whoever gives a number that has no say would believe what is printed to be of it. */
static plp_status check_heeded(const cli *c)
{
    enum { STEPS = 1 << DECODE | 1 << PREFILL | 1 << KERNELS | 1 << COLLECTIVES, SERVES = 1 << THROUGHPUT };
    const struct {
        const char *name;
        bool given;
        unsigned modes;
    } heeded[] = {
        { "--batch", given.batch.count > 0, 1 << DECODE | 1 << KERNELS | SERVES },
        { "--tokens", given.tokens.count > 0, 1 << PREFILL | 1 << KERNELS },
        { "--repeats", given.repeats > 0, STEPS },
        { "--num-prompts", given.prompts > 0, SERVES },
        { "--rate", given.rate > 0, SERVES },
        { "--input-len", given.input != NULL, SERVES },
        { "--output-len", given.output != NULL, SERVES },
        { "--max-batch-tokens", c->model.max_batch_tokens > 0, SERVES },
        { "--max-slice", c->model.max_slice > 0, SERVES },
    };
    for (size_t i = 0; i < sizeof heeded / sizeof *heeded; i++)
        if (heeded[i].given && (heeded[i].modes & 1u << given.mode) == 0)
            return PLP_FAIL(PLP_ERR_USAGE, "%s has no say in --mode %s; command line; fix: leave it out", heeded[i].name,
                            modes[given.mode]);
    return PLP_OK;
}

/* The engine's options say of how many sequences a step decodes; here that is the largest batch. */
static plp_status size_steps(cli *c, const bench *b)
{
    const int most = bench_largest(b->batches, b->batch_count);
    if (given.mode != THROUGHPUT) return PLP_OK;
    if (c->model.max_batch_tokens > 0 && c->model.max_batch_tokens < most)
        return PLP_FAIL(PLP_ERR_USAGE,
                        "--max-batch-tokens %d is less than --batch %d; command line; fix: a step decodes one token of every request",
                        c->model.max_batch_tokens, most);
    c->model.max_seqs = most;
    return PLP_OK;
}

static plp_status prepare(cli *c, bench *b)
{
    static const int batches[] = { 1, 8, 32 }, tokens[] = { 512 };
    const bool load = given.mode == LOAD;
    if (load && c->model.model == NULL) return PLP_FAIL(PLP_ERR_USAGE, "--mode load needs --model; command line; fix: name a model file");
    if ((load ? given.shape : c->model.model) != NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "--%s with --mode %s; command line; fix: leave it out", load ? "shape" : "model",
                        load ? "load" : "other than load");
    if (given.csv && given.mode == THROUGHPUT)
        return PLP_FAIL(PLP_ERR_USAGE, "--csv with --mode throughput, whose report is no table; command line; fix: give --json");
    if (c->model.cache != PLP_CACHE_NONE)
        return PLP_FAIL(PLP_ERR_USAGE, "--prefix-cache: the prompts of bench have nothing in common; command line; fix: leave it out");
    if (given.json && given.csv) return PLP_FAIL(PLP_ERR_USAGE, "--json with --csv; command line; fix: give one of them");
    if (!load && given.shape == NULL && given.mode != COLLECTIVES)
        return PLP_FAIL(PLP_ERR_USAGE, "--shape is missing; command line; fix: see polylepis bench --help");
    PLP_TRY(check_heeded(c));
    *b = (bench){ .group = c->group,
                  .shape = load ? c->model.model : given.shape,
                  .repeats = given.repeats > 0 ? (int)given.repeats : REPEATS,
                  .format = given.json  ? BENCH_JSON
                            : given.csv ? BENCH_CSV
                                        : BENCH_MARKDOWN };
    b->batches = given.batch.count ? given.batch.item : batches, b->batch_count = given.batch.count ? given.batch.count : 3;
    b->tokens = given.tokens.count ? given.tokens.item : tokens, b->token_count = given.tokens.count ? given.tokens.count : 1;
    if (given.mode == KERNELS && given.tokens.count && !given.batch.count) b->batch_count = 0;
    if (given.mode == KERNELS && given.batch.count && !given.tokens.count) b->token_count = 0;
    if (given.shape != NULL) PLP_TRY(engine_shape(&c->model, given.shape, &b->config));
    PLP_TRY(size_steps(c, b));
    PLP_TRY(engine_model_options(&c->model, c->group, 1, &b->options));
    /* Speed is that of 16-bit products unless float32 is asked for. */
    b->options.f32 = c->model.compute == PLP_NUMBER_F32;
    return PLP_OK;
}

static plp_status read_lengths(const char *option, const char *text, bench_lengths *l)
{
    long long least = 0, most = 0;
    int used = 0;
    if (sscanf(text, "%lld%n", &least, &used) == 1 && text[used] == 0)
        most = least;
    else if (sscanf(text, "%lld:%lld%n", &least, &most, &used) != 2 || text[used] != 0)
        least = 0;
    if (text[strspn(text, "0123456789:")] != 0) least = 0; /* sscanf takes blanks and signs */
    if (least < 1 || most < least || most > 1 << 20)
        return PLP_FAIL(PLP_ERR_USAGE, "%s %.40s; command line; fix: give N or N:M, 1 <= N <= M <= %d", option, text, 1 << 20);
    *l = (bench_lengths){ least, most };
    return PLP_OK;
}

static plp_status read_mix(const cli *c, bench_mix *mix)
{
    *mix = (bench_mix){ .prompts = given.prompts > 0 ? (int)given.prompts : PROMPTS, .rate = given.rate, .slice = c->model.max_slice };
    PLP_TRY(read_lengths("--input-len", given.input != NULL ? given.input : "16:256", &mix->input));
    return read_lengths("--output-len", given.output != NULL ? given.output : "16:128", &mix->output);
}

static plp_status run(cli *c)
{
    bench b;
    bench_mix mix;
    PLP_TRY(tp_agree(c->group, prepare(c, &b)));
    PLP_TRY(tp_agree(c->group, read_mix(c, &mix)));
    plp_log_threshold(PLP_LOG_WARN); /* rows speak for themselves */
    if (given.mode == DECODE || given.mode == PREFILL || given.mode == KERNELS) PLP_TRY(bench_rates(&b));
    switch (given.mode) {
    case DECODE: PLP_TRY(bench_decode(&b)); break;
    case PREFILL: PLP_TRY(bench_prefill(&b)); break;
    case KERNELS: PLP_TRY(bench_kernels(&b)); break;
    case THROUGHPUT: PLP_TRY(bench_throughput(&b, &mix)); break;
    case COLLECTIVES: PLP_TRY(bench_collectives(&b)); break;
    default: PLP_TRY(bench_load(&b, c->model.model, c->model.trust_model));
    }
    free(given.batch.item);
    free(given.tokens.item);
    return b.wrong == 0 ? PLP_OK : PLP_FAIL(PLP_ERR_INTERNAL, "%d rows failed their check; see the last column", b.wrong);
}

const cli_command cli_bench = {
    .name = "bench",
    .summary = "Time decode, prefill, kernels, collectives or loading, against what the machine could do, or serving many requests.",
    .usage = "bench --shape NAME [--mode MODE] [options]",
    .examples = "  polylepis bench --shape mamba2-130m --device cpu --batch 1,8,32\n"
                "  mpirun -np 2 polylepis bench --shape codestral-7b --mode prefill --tokens 2048,8192\n"
                "  polylepis bench --shape mamba2-130m --mode throughput --batch 1,32 --rate 2 --num-prompts 50\n"
                "  polylepis bench --mode load --model model.h5\n"
                "Shapes: mamba2-130m mamba2-370m mamba2-780m mamba2-1.3b mamba2-2.7b codestral-7b\n"
                "        mamba-130m mamba-370m mamba-790m mamba-1.4b mamba-2.8b falcon-mamba-7b\n",
    .model = true,
    .model_optional = true,
    .serving = true,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
