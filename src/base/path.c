#include "base/path.h"

#include "base/error.h"

#include <stdio.h>

plp_status plp_path_join(const char *dir, const char *name, char path[PLP_PATH])
{
    if (snprintf(path, PLP_PATH, "%s/%s", dir, name) < PLP_PATH) return PLP_OK;
    return PLP_FAIL(PLP_ERR_USAGE, "%.200s...: a path of more than %d bytes; fix: choose a shorter one", dir, PLP_PATH - 1);
}
