#include "cli/abort.h"

#include "base/error.h"
#include "base/log.h"
#include "tp/watchdog.h"

#include <errno.h>
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 3 }; /* seconds for MPI_Abort, and for the rank of this host that speaks */

static const char *directory;

plp_status cli_diag_directory(const char *path)
{
    struct stat info;
    const char *wish = path != NULL ? path : getenv("PLP_DIAG_DIR");
    if (wish == NULL || wish[0] == 0) return PLP_OK;
    bool good = mkdir(wish, 0700) == 0;
    if (!good && errno == EEXIST && stat(wish, &info) == 0) {
        good = S_ISDIR(info.st_mode) && access(wish, W_OK | X_OK) == 0;
        if (!S_ISDIR(info.st_mode)) errno = ENOTDIR;
    }
    if (!good)
        return PLP_FAIL(plp_create_status(errno), "--diag %s: %s; output; fix: choose a directory that can be written", wish,
                        strerror(errno));
    directory = wish;
    return PLP_OK;
}

void cli_dump(bool own)
{
    if (directory == NULL) return;
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
