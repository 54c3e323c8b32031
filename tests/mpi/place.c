#include "place.h"

#include <string.h>

bool place_chosen(int argc, char **argv, tp_group *g, place *p, int *skipped)
{
    enum { SKIPPED = 77 };
    const char *where = argc > 1 ? argv[1] : "cpu";
    *p = (place){ .backend = kn_cpu(), .comm = TP_COMM_MPI };
    if (strcmp(where, "cpu") == 0) return true;
    const bool own = strcmp(where, "cuda") != 0;
    p->backend = kn_cuda();
    if (own) p->device = tp_local_rank(g), p->comm = strcmp(where, "nccl") == 0 ? TP_COMM_NCCL : TP_COMM_AUTO;
    if (kn_cuda_devices() >= (own ? tp_local_size(g) : 1)) return true;
    mpi_test_end(g);
    *skipped = SKIPPED;
    return false;
}
