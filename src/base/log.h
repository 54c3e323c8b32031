/* src/base/log.h -- the log: stderr, one write(2) a line, so that lines of several ranks never mix.
 *
 * Progress comes from rank 0, and so does what all ranks find alike; what one rank finds comes from any:
 *     [rank 3/8 node02] error[DATA]: in_proj: no such dataset; model.h5; fix: convert the checkpoint again */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "polylepis/status.h"

#include <stdbool.h>

typedef enum { PLP_LOG_NONE = -1, PLP_LOG_ERROR, PLP_LOG_WARN, PLP_LOG_INFO, PLP_LOG_DEBUG } plp_log_level;

/* Who speaks.  size <= 1: no prefix. */
void plp_log_identity(int rank, int size, const char *host);
int plp_log_rank(void);
/* The highest level that is written; PLP_LOG_NONE at start: a library does not speak unless its program lets it.  Rank 0 alone writes
 * PLP_LOG_INFO. */
void plp_log_threshold(plp_log_level level);
void plp_log(plp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A warning of something that every rank sees, such as a file of the checkpoint: rank 0 alone writes it, and names no rank. */
void plp_warn_alike(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The message of this thread's last failure as one error line. */
void plp_log_failure(plp_status status);

/* A progress line for whoever waits: redrawn in place on a terminal, else a plain line at most every ten seconds.  Rank 0 only; silent
 * below PLP_LOG_INFO.  `last` ends the line. */
void plp_log_progress(bool last, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
