/* tests/mpi/mpi_test.h -- checks that run on every rank, and one verdict.
 *
 *     int main(int argc, char **argv)
 *     {
 *         tp_group *g = mpi_test_begin(&argc, &argv);
 *         CHECK(tp_barrier(g) == PLP_OK);
 *         return mpi_test_end(g);
 *     }
 *
 * A failed check is counted and the test goes on, so that the ranks stay in step; CHECK must not guard a collective that others still call. */
#ifndef MPI_MPI_TEST_H
#define MPI_MPI_TEST_H

#include "tp/tp.h"

#include <stdbool.h>

/* Evaluates `condition` once and yields it. */
#define CHECK(condition) mpi_test_check((condition), #condition, __FILE__, __LINE__)

/* Collective.  MPI_Init and the group of all ranks, or an exit with the reason.  A rank that is still running 100 s later names
 * its last check and ends the job: sooner than CTest's limit, which leaves no word of where a rank hung. */
tp_group *mpi_test_begin(int *argc, char ***argv);

/* Local.  Prints what failed, with the library's last message. */
bool mpi_test_check(bool good, const char *condition, const char *file, int line);

/* Collective, by MPI itself.  Whether all ranks have the same bytes. */
bool mpi_test_same(const void *data, size_t bytes);

/* Collective.  Destroys the group, sums the failures and ends MPI: 0, or 1 on every rank if a check failed on any. */
int mpi_test_end(tp_group *g);

#endif
