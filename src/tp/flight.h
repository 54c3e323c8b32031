/* src/tp/flight.h -- flight recorders as files, and where those of several ranks part.
 *
 * DIR/polylepis-diag.RANK, text, mode 0600, replaced when it exists: two lines of head, then a line for each of the last TP_RECORDS
 * collectives, oldest first:
 *     polylepis diag 1
 *     rank 1 of 3 on node02: decode 17
 *     collective operation bytes issued done      (seconds of the host's monotonic clock; done 0: never)
 *     181 all-reduce 4096 1234.567890123 1234.567990123 */
#ifndef TP_FLIGHT_H
#define TP_FLIGHT_H

#include "tp/stamp.h"

#include <stdbool.h>

/* Written as it stands: the rank that filled the page may be stopped, dead, or still at work. */
plp_status tp_flight_write(const char *directory, const tp_page *page, const char *host);

typedef struct {
    int64_t seq, bytes;
    int op;
    bool done;
} tp_flight_row;
typedef struct {
    int rank, size;
    char where[128]; /* "on node02: decode 17" */
    tp_flight_row row[TP_RECORDS];
    int rows;
} tp_flight;

/* PLP_ERR_DATA, naming the line, for what tp_flight_write did not write. */
plp_status tp_flight_read(const char *path, tp_flight *f);

/* The lowest collective that all recorders reach back to and that they do not agree on: another operation or size, done here and not
 * there, or not there at all; 0 when there is none. */
int64_t tp_flight_difference(const tp_flight *all, int count);
/* NULL when the recorder does not have it. */
const tp_flight_row *tp_flight_find(const tp_flight *f, int64_t seq);

#endif
