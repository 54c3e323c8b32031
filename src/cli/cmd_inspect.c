#include "cli/commands.h"

#include "base/error.h"

static plp_status run(cli *c)
{
    (void)c;
    return PLP_FAIL(PLP_ERR_USAGE, "inspect is not part of this build; fix: use a later one");
}

const cli_command cli_inspect = {
    .name = "inspect",
    .summary = "Show a model: config, tensors, sizes, the sharding plan for N ranks.",
    .usage = "inspect",
    .examples = "",
    .run = run,
};
