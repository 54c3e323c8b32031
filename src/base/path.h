/* src/base/path.h -- a file in a directory. */
#ifndef BASE_PATH_H
#define BASE_PATH_H

#include "polylepis/status.h"

enum { PLP_PATH = 4096 };
/* path = dir/name.  PLP_ERR_USAGE where that is too long. */
plp_status plp_path_join(const char *dir, const char *name, char path[PLP_PATH]);

#endif
