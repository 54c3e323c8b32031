/* src/cli/stop.h -- a job that is asked to stop: by the queue before its time limit or a preemption, by mpirun, by Ctrl-C.
 *
 * The handlers only take a note.  A command looks at it where it can leave something whole behind, says PLP_ERR_STOPPED (exit 75) and what
 * has become of the work; commands that write nothing do not call cli_watch_signals and end by the signal. */
#ifndef CLI_STOP_H
#define CLI_STOP_H

#include "tp/tp.h"

typedef enum {
    CLI_GO_ON,
    CLI_DRAIN, /* SIGUSR1: begin nothing new, there is time to finish what is under way */
    CLI_DROP   /* SIGTERM, SIGINT: leave now, SIGKILL may be a second away              */
} cli_stop;

/* From here on the first signal of a kind is noted, and another one ends the process: but not within a second, as Slurm sends two at once.
 * Who is to drop everything and does not come to it within three seconds, because it loads or waits for a rank that is gone, leaves at once
 * with 75: the queue would wait half a minute before it kills. */
void cli_watch_signals(void);
/* What this process has been asked for. */
cli_stop cli_stop_asked(void);
/* The command has heard it, and takes the time it needs. */
void cli_stop_heard(void);
/* Collective.  The strongest wish of all ranks; they have heard it. */
plp_status cli_stop_agreed(const tp_group *g, cli_stop *wish);
/* Collective.  PLP_ERR_STOPPED when any rank was asked to stop, with `left` of the work in its message. */
plp_status cli_stop_here(const tp_group *g, const char *left);

#endif
