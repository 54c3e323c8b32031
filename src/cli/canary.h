/* src/cli/canary.h -- whether this machine still computes what it computed before: a fixed prompt, whose answer is recorded to the bit.
 *
 * The file has one line for each way to compute it: model, version, backend, device, number of ranks and options.  What may have other
 * bits is another line, and so jobs at other numbers of ranks and hosts of another kind can share the file. */
#ifndef CLI_CANARY_H
#define CLI_CANARY_H

#include "cli/cli.h"

/* Collective, of an engine without requests.  The first time the answer is recorded; later PLP_ERR_DISAGREE unless it is the same. */
plp_status cli_canary(const cli *c, plp_engine *e, const char *path, const char *when);

#endif
