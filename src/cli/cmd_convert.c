/* polylepis convert: a checkpoint directory, or another model file, becomes one model file. */
#include "cli/commands.h"
#include "cli/stop.h"

#include "base/error.h"
#include "model/source.h"

static struct {
    bool check_finite, replace, full_norm, trust;
} given;

static const plp_option options[] = {
    { "--check-finite", NULL, NULL, PLP_OPTION_FLAG, &given.check_finite, 0, 0,
      "refuse weights with a NaN or an infinity, naming the first" },
    { "--force", NULL, NULL, PLP_OPTION_FLAG, &given.replace, 0, 0, "replace the output if it exists" },
    { "--full-norm", NULL, NULL, PLP_OPTION_FLAG, &given.full_norm, 0, 0,
      "one gated norm over all of the inner width, as Hugging Face's\nclass computes it, instead of one a group" },
    { "--trust-model", NULL, NULL, PLP_OPTION_FLAG, &given.trust, 0, 0, "parse a model file in this process: see generate --help" },
};

static bool asked_to_stop(void)
{
    if (cli_stop_asked() == CLI_GO_ON) return false;
    cli_stop_heard();
    return true;
}

/* Rank 0 does it; the others wait for it on their way out. */
static plp_status run(cli *c)
{
    PLP_TRY(cli_not_stream("the output", c->words[1]));
    cli_watch_signals(); /* the others too: mpirun and srun signal all of them */
    if (c->rank != 0) return PLP_OK;
    PLP_TRY(cli_not_input(c->words[1], c->words[0]));
    const model_convert_options o = { .source = { .full_norm = given.full_norm, .trust = given.trust },
                                      .replace = given.replace,
                                      .stop = asked_to_stop,
                                      .check_finite = given.check_finite };
    return model_convert(c->words[0], c->words[1], &o);
}

const cli_command cli_convert = {
    .name = "convert",
    .summary = "Import a checkpoint directory into one model file, or write a model file anew.",
    .usage = "convert MODEL OUT.h5 [options]",
    .examples = "  polylepis convert models/demo demo.h5 --check-finite\n",
    .least = 2,
    .most = 2,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
