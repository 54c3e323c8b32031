/* src/tp/watchdog.h -- a thread of each rank that watches the other ranks of its host, and on the host's lowest rank those of other hosts.
 *
 * It beats in a page that all ranks of the host share, sees the others' beats and stamps (tp/stamp.h), and calls for the job's end when one
 * of them is dead, stopped, or does not move while others wait for it (tp/judge.h).  What a watcher counts is its own ticks without a sign
 * of the other, so clocks are not compared, and time during which the whole host slept or the job was suspended does not count.
 * Between hosts the same signs go by datagrams (tp/link.h): rank 0 judges all ranks, the lowest rank of every other host watches rank 0. */
#ifndef TP_WATCHDOG_H
#define TP_WATCHDOG_H

#include "tp/tp.h"

/* The job must end: called on the watchdog's thread, and once on each host with the reason; on the other ranks of the host with NULL a
 * moment later.  Does not return. */
typedef void tp_end_job(const char *why);

/* Collective.  From here on the stamps can be seen from the other ranks of the host.  limit 0: without a thread. */
plp_status tp_watchdog_start(const tp_group *g, double limit, tp_end_job *end);
/* Collective, before MPI_Finalize; what was not started may be stopped. */
void tp_watchdog_stop(void);

/* The flight recorders of the ranks of this host as DIR/polylepis-diag.RANK, of the dead and stopped ones too; `own`: this rank's alone. */
plp_status tp_watchdog_dump(const char *directory, bool own);

#endif
