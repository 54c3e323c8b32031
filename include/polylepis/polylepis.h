/* polylepis/polylepis.h -- the whole of the library. */
#ifndef POLYLEPIS_POLYLEPIS_H
#define POLYLEPIS_POLYLEPIS_H

#include "polylepis/engine.h"
#include "polylepis/status.h"

#define PLP_VERSION_MAJOR 0
#define PLP_VERSION_MINOR 1
#define PLP_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* the library exports what its headers declare, and nothing else */

/* "0.1.0": of the library that is linked, where the macros are those of the header. */
const char *plp_version(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
