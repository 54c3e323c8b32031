#include "cli/abort.h"

#include "base/error.h"
#include "base/log.h"
#include "tp/watchdog.h"

#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 3 }; /* seconds for MPI_Abort, and for the rank of this host that speaks */

static const char *directory;

void cli_diag_directory(const char *path) { directory = path != NULL ? path : getenv("PLP_DIAG_DIR"); }

void cli_dump(bool own)
{
    if (directory == NULL || directory[0] == 0) return;
    if (tp_watchdog_dump(directory, own) != PLP_OK) plp_log(PLP_LOG_WARN, "%s", plp_last_error());
}

static volatile sig_atomic_t code;
static void leave_now(int signal)
{
    (void)signal;
    _exit(code);
}

void cli_abort(plp_status st)
{
    sigset_t set;
    code = plp_status_exit(st);
    signal(SIGALRM, leave_now);
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    alarm(PATIENCE);
    MPI_Abort(MPI_COMM_WORLD, code);
    _exit(code);
}

void cli_watchdog_ends(const char *why)
{
    if (why != NULL) {
        const plp_status st = PLP_FAIL(PLP_ERR_REMOTE, "%s", why);
        plp_log_failure(st);
        cli_dump(false);
        cli_abort(st);
    }
    nanosleep(&(struct timespec){ .tv_sec = PATIENCE }, NULL); /* the launcher is faster, as a rule */
    _exit(plp_status_exit(PLP_ERR_REMOTE));
}
