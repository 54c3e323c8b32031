/* tests/unit/listen.h -- what a call says on standard error: warnings and all. */
#ifndef UNIT_LISTEN_H
#define UNIT_LISTEN_H

#include "base/log.h"

#include <stdio.h>
#include <unistd.h>

static FILE *listen_file;
static int listen_kept; /* standard error as it was */

static inline void listen_begin(void)
{
    listen_file = tmpfile();
    fflush(stderr);
    listen_kept = dup(STDERR_FILENO);
    dup2(fileno(listen_file), STDERR_FILENO);
    plp_log_threshold(PLP_LOG_WARN);
}

/* All that was said since, as text. */
static inline void listen_end(char heard[1024])
{
    plp_log_threshold(PLP_LOG_ERROR);
    dup2(listen_kept, STDERR_FILENO);
    close(listen_kept);
    rewind(listen_file);
    heard[fread(heard, 1, 1023, listen_file)] = 0;
    fclose(listen_file);
}

#endif
