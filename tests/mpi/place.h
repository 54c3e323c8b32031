/* tests/mpi/place.h -- the same test on CPUs and on GPUs. */
#ifndef MPI_PLACE_H
#define MPI_PLACE_H

#include "mpi_test.h"

/* Where a test's models compute, by the program's first argument: none, the CPU; `cuda`, one GPU that the ranks share through host memory;
 * `peers`, a GPU a rank, as a job has it; `nccl`, the same through NCCL alone. */
typedef struct {
    const kn_backend *backend;
    tp_comm_kind comm;
    int device;
} place;

/* Collective.  False: there are too few GPUs here, and the test returns what this leaves in *skipped. */
bool place_chosen(int argc, char **argv, tp_group *g, place *p, int *skipped);

#endif
