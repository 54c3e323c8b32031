#include "tp/group.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

plp_status tp_mpi_status(int code, const char *call, const char *file, int line)
{
    if (code == MPI_SUCCESS) return PLP_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return plp_fail(PLP_ERR_REMOTE, file, line, "MPI failed: %s in %.60s", text, call);
}

plp_status tp_group_create(tp_group **out, MPI_Comm comm)
{
    plp_status st = PLP_OK;
    MPI_Comm local = MPI_COMM_NULL;
    tp_group *g = NULL;
    *out = NULL;
    PLP_TRY(PLP_ALLOCATED(g = calloc(1, sizeof *g)));
    g->comm = MPI_COMM_NULL;
    PLP_DO(TP_MPI(MPI_Comm_dup(comm, &g->comm)));
    PLP_DO(TP_MPI(MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN))); /* or TP_MPI would see nothing */
    PLP_DO(TP_MPI(MPI_Comm_rank(g->comm, &g->rank)));
    PLP_DO(TP_MPI(MPI_Comm_size(g->comm, &g->size)));
    PLP_DO(TP_MPI(MPI_Comm_split_type(g->comm, MPI_COMM_TYPE_SHARED, g->rank, MPI_INFO_NULL, &local)));
    PLP_DO(TP_MPI(MPI_Comm_rank(local, &g->local_rank)));
    PLP_DO(TP_MPI(MPI_Comm_size(local, &g->local_size)));
    if (gethostname(g->host, sizeof g->host - 1) != 0) snprintf(g->host, sizeof g->host, "unknown-host");
done:
    if (local != MPI_COMM_NULL) MPI_Comm_free(&local);
    if (st != PLP_OK)
        tp_group_destroy(&g);
    else
        *out = g;
    return st;
}

plp_status tp_group_self(tp_group **g) { return tp_group_create(g, MPI_COMM_SELF); }

void tp_group_destroy(tp_group **out)
{
    tp_group *g = *out;
    if (g == NULL) return;
    tp_detach(g);
    if (g->comm != MPI_COMM_NULL) MPI_Comm_free(&g->comm);
    free(g);
    *out = NULL;
}

int tp_rank(const tp_group *g) { return g->rank; }
int tp_size(const tp_group *g) { return g->size; }
int tp_local_rank(const tp_group *g) { return g->local_rank; }
int tp_local_size(const tp_group *g) { return g->local_size; }
const char *tp_host(const tp_group *g) { return g->host; }

plp_status tp_agree(const tp_group *g, plp_status mine)
{
    int lowest = mine == PLP_OK ? g->size : g->rank; /* the lowest rank that failed */
    PLP_TRY(TP_COLLECTIVE(g, TP_AGREE, sizeof lowest, MPI_Allreduce(MPI_IN_PLACE, &lowest, 1, MPI_INT, MPI_MIN, g->comm)));
    if (mine != PLP_OK || lowest == g->size) return mine;
    return PLP_FAIL(PLP_ERR_REMOTE, "rank %d failed; its own line says why", lowest);
}

/* MPI counts are int: whatever is larger goes in pieces. */
enum { MOST_BYTES = 1 << 30 };

plp_status tp_broadcast(const tp_group *g, void *data, size_t bytes, int root)
{
    for (size_t at = 0; at < bytes; at += MOST_BYTES) {
        const size_t n = bytes - at < MOST_BYTES ? bytes - at : MOST_BYTES;
        PLP_TRY(TP_COLLECTIVE(g, TP_BROADCAST, n, MPI_Bcast((char *)data + at, (int)n, MPI_BYTE, root, g->comm)));
    }
    return PLP_OK;
}

plp_status tp_gather_all(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    if (bytes > MOST_BYTES) return PLP_FAIL(PLP_ERR_INTERNAL, "gathering %zu bytes from a rank, at most %d", bytes, MOST_BYTES);
    return TP_COLLECTIVE(g, TP_GATHER, bytes, MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, g->comm));
}

plp_status tp_gather_all_v(const tp_group *g, const void *mine, size_t bytes, void *all, const size_t *each, const size_t *at)
{
    plp_status st = PLP_OK;
    int *counts = NULL; /* and, behind them, the displacements */
    PLP_TRY(PLP_ALLOCATED(counts = malloc(2 * (size_t)g->size * sizeof *counts)));
    for (int r = 0; r < g->size; r++) {
        if (at[r] + each[r] > INT32_MAX) {
            st = PLP_FAIL(PLP_ERR_INTERNAL, "gathering %zu bytes, at most %d", at[r] + each[r], INT32_MAX);
            goto done;
        }
        counts[r] = (int)each[r], counts[g->size + r] = (int)at[r];
    }
    st = TP_COLLECTIVE(g, TP_GATHER_UNEVEN, bytes,
                       MPI_Allgatherv(mine, (int)bytes, MPI_BYTE, all, counts, counts + g->size, MPI_BYTE, g->comm));
done:
    free(counts);
    return st;
}

plp_status tp_barrier(const tp_group *g) { return TP_COLLECTIVE(g, TP_BARRIER, 0, MPI_Barrier(g->comm)); }

plp_status tp_max(const tp_group *g, double *value)
{
    return TP_COLLECTIVE(g, TP_MAX, sizeof *value, MPI_Allreduce(MPI_IN_PLACE, value, 1, MPI_DOUBLE, MPI_MAX, g->comm));
}
