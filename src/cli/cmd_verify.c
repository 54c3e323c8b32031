#include "cli/commands.h"

#include "base/error.h"

static plp_status run(cli *c)
{
    (void)c;
    return PLP_FAIL(PLP_ERR_USAGE, "verify is not part of this build; fix: use a later one");
}

const cli_command cli_verify = {
    .name = "verify",
    .summary = "Compare the sharded model with the whole one, layer by layer.",
    .usage = "verify",
    .examples = "",
    .run = run,
};
