#include "base/fault.h"

#ifdef PLP_FAULTS
#    include "base/error.h"
#    include "base/log.h"

#    include <signal.h>
#    include <stdio.h>
#    include <stdlib.h>
#    include <string.h>
#    include <time.h>
#    include <unistd.h>

static void rest(double seconds)
{
    const time_t whole = (time_t)seconds;
    nanosleep(&(struct timespec){ .tv_sec = whole, .tv_nsec = (long)(1e9 * (seconds - (double)whole)) }, NULL);
}

static plp_status act(const char *action, const char *point)
{
    if (strcmp(action, "kill") == 0) raise(SIGKILL);
    if (strcmp(action, "stop") == 0) raise(SIGSTOP);
    if (strcmp(action, "term") == 0) raise(SIGTERM);
    if (strcmp(action, "usr1") == 0) raise(SIGUSR1);
    if (strcmp(action, "exit") == 0) _exit(3);
    if (strcmp(action, "abort") == 0) abort();
    if (strcmp(action, "segv") == 0) signal(SIGSEGV, SIG_DFL), raise(SIGSEGV); /* a sanitizer would make another status of it */
    if (strcmp(action, "fail") == 0) return PLP_FAIL(PLP_ERR_INTERNAL, "fault at %s, on purpose", point);
    while (strcmp(action, "hang") == 0) rest(1);
    if (strcmp(action, "slow") == 0) rest(0.7);
    return PLP_OK;
}

/* Before MPI_Init the launcher alone knows which rank this is. */
static int rank_here(void)
{
    const char *launched = getenv("OMPI_COMM_WORLD_RANK");
    return launched != NULL ? atoi(launched) : plp_log_rank();
}

/* Whether it is time, and for what. */
static bool is_due(const char *point, char action[16])
{
    static int count;
    const char *wish = getenv("PLP_FAULT");
    char where[16];
    int rank, n;
    if (wish == NULL || sscanf(wish, "%15[^:]:%9d:%9d:%15s", where, &rank, &n, action) != 4) return false;
    if (rank != rank_here() || strcmp(where, point) != 0) return false;
    count++;
    return count == n || (count > n && strcmp(action, "slow") == 0);
}

plp_status plp_fault(const char *point)
{
    char action[16];
    return is_due(point, action) ? act(action, point) : PLP_OK;
}

bool plp_fault_nan(const char *point)
{
    char action[16];
    return is_due(point, action) && strcmp(action, "nan") == 0;
}

int plp_fault_hosts(void)
{
    const char *wish = getenv("PLP_FAULT_HOSTS");
    return wish != NULL ? atoi(wish) : 0;
}
#else
typedef int plp_fault_none; /* ISO C wants a declaration in every file */
#endif
