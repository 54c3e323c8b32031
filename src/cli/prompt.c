#include "cli/prompt.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

plp_status cli_check_bos(const cli_bos *b)
{
    if (b->add && b->leave_out) return PLP_FAIL(PLP_ERR_USAGE, "--add-bos with --no-add-bos; command line; fix: give one of them");
    return PLP_OK;
}

plp_status cli_encode(plp_engine *e, const char *text, size_t bytes, const cli_bos *bos, int **ids, size_t *count)
{
    plp_engine_info info;
    PLP_TRY(plp_encode(e, text, bytes, !bos->leave_out, ids, count));
    plp_engine_describe(e, &info);
    if (!bos->add || (*count > 0 && (*ids)[0] == info.bos)) return PLP_OK;
    if (info.bos < 0) return PLP_FAIL(PLP_ERR_USAGE, "--add-bos: the model's config names no BOS token; fix: leave it out");
    int *longer = realloc(*ids, (*count + 1) * sizeof *longer);
    PLP_TRY(PLP_ALLOCATED(longer));
    memmove(longer + 1, longer, *count * sizeof *longer);
    longer[0] = info.bos;
    *ids = longer, *count += 1;
    return PLP_OK;
}
