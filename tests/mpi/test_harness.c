/* The harness itself, or no MPI test means anything: one failure on one rank is every rank's, and checking nothing is no pass. */
#include "mpi_test.h"

#include <stdlib.h>
#include <string.h>

/* In place of src/tp: the harness is judged without the code that it judges. */
struct tp_group {
    int unused;
};
plp_status tp_group_create(tp_group **g, MPI_Comm comm)
{
    (void)comm;
    *g = calloc(1, sizeof **g);
    return *g != NULL ? PLP_OK : PLP_ERR_MEMORY;
}
void tp_group_destroy(tp_group **g)
{
    free(*g);
    *g = NULL;
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const char *mode = argc == 2 ? argv[1] : "";
    if (strcmp(mode, "pass") == 0) CHECK(rank < size);
    if (strcmp(mode, "fail-last") == 0) CHECK(rank < size - 1);
    const int want = strcmp(mode, "pass") == 0 ? 0 : 1; /* "nothing" checks nothing */
    return mpi_test_end(g) == want ? 0 : 1;             /* each rank judges its own status: mpirun shows only the worst */
}
