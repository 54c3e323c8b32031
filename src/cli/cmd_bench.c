#include "cli/commands.h"

#include "base/error.h"

static plp_status run(cli *c)
{
    (void)c;
    return PLP_FAIL(PLP_ERR_USAGE, "bench is not part of this build; fix: use a later one");
}

const cli_command cli_bench = {
    .name = "bench",
    .summary = "Time decode, prefill, kernels, collectives and loading.",
    .usage = "bench",
    .examples = "",
    .run = run,
};
