/* src/cli/abort.h -- the ways out that are not the normal one. */
#ifndef CLI_ABORT_H
#define CLI_ABORT_H

#include "polylepis/status.h"

#include <stdbool.h>

/* Where flight recorders go when the job ends abnormally; NULL: where PLP_DIAG_DIR says, else nowhere.  Made if it is missing. */
plp_status cli_diag_directory(const char *directory);
/* The flight recorders of this rank, or of all ranks of its host, if a directory was named. */
void cli_dump(bool own);

/* Ends all ranks with this status' exit code, from any thread: through MPI_Abort, and this process alone when that takes too long. */
void cli_abort(plp_status st) __attribute__((noreturn));

/* For tp_watchdog_start. */
void cli_watchdog_ends(const char *why) __attribute__((noreturn));

#endif
