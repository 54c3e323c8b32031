#include "mpi_test.h"

#include "polylepis/status.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Sanitizers check every access of the CPU's products: without AVX-512 a test that takes 4 s takes more than 100. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LIMIT_SECONDS = 400 };
#else
enum { LIMIT_SECONDS = 100 };
#endif

static int rank, checks, failures;
static char hang[512]; /* what the alarm prints, made beforehand: a handler may not format */

static void remember(const char *file, int line)
{
    snprintf(hang, sizeof hang, "mpi_test: rank %d hangs; last check: %s:%d\n", rank, file, line);
}

static void on_alarm(int signal)
{
    (void)signal;
    const ssize_t written = write(STDERR_FILENO, hang, strlen(hang));
    (void)written;
    _exit(1); /* without MPI_Finalize, so that the launcher ends the other ranks */
}

tp_group *mpi_test_begin(int *argc, char ***argv)
{
    tp_group *g = NULL;
    if (MPI_Init(argc, argv) != MPI_SUCCESS) exit(1);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    remember("none", 0);
    signal(SIGALRM, on_alarm);
    alarm(LIMIT_SECONDS);
    if (tp_group_create(&g, MPI_COMM_WORLD) != PLP_OK) {
        fprintf(stderr, "mpi_test: rank %d: %s\n", rank, plp_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return g;
}

bool mpi_test_check(bool good, const char *condition, const char *file, int line)
{
    checks++;
    remember(file, line);
    if (good) return true;
    failures++;
    fprintf(stderr, "%s:%d: rank %d: failed: %s; last error: \"%s\"\n", file, line, rank, condition, plp_last_error());
    return false;
}

bool mpi_test_same(const void *data, size_t bytes)
{
    int same = 1;
    char *first = malloc(bytes + 1);
    if (first == NULL) MPI_Abort(MPI_COMM_WORLD, 1);
    memcpy(first, data, bytes);
    MPI_Bcast(first, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    same = memcmp(first, data, bytes) == 0;
    MPI_Allreduce(MPI_IN_PLACE, &same, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    free(first);
    return same;
}

int mpi_test_end(tp_group *g)
{
    int sums[2] = { checks, failures }; /* by MPI itself: the collectives under test must not judge themselves */
    tp_group_destroy(&g);
    MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) fprintf(stderr, "mpi_test: %d checks over all ranks, %d failed\n", sums[0], sums[1]);
    MPI_Finalize();
    return sums[1] > 0 || sums[0] == 0 ? 1 : 0; /* a test that checked nothing has not passed */
}
