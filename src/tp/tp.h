/* src/tp/tp.h -- ranks, slices and collectives.
 *
 * Collective functions say so: every rank of the group calls them, in the same order, with the same counts and types. */
#ifndef TP_TP_H
#define TP_TP_H

#include "kernels/kernels.h"
#include "base/dtype.h"

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Which of n indivisible units (heads, groups, vocabulary rows) a rank owns.  Slices tile [0, n) in rank order and differ by at most
 * one unit; with n < size some are empty. */
typedef struct {
    int64_t first, count;
} tp_slice;
tp_slice tp_shard(int64_t n, int rank, int size);

enum { TP_MOST_RANKS = 256 };
typedef struct tp_group tp_group;

/* Collective over comm, which is duplicated; errors on it return. */
plp_status tp_group_create(tp_group **g, MPI_Comm comm);
void tp_group_destroy(tp_group **g);
int tp_rank(const tp_group *g);
int tp_size(const tp_group *g);
int tp_local_rank(const tp_group *g); /* among the ranks of this host */
int tp_local_size(const tp_group *g);
const char *tp_host(const tp_group *g);
/* A group of this process alone, for the unsharded side of a comparison.  Local. */
plp_status tp_group_self(tp_group **g);

/* Collective.  Ranks leave together: one that failed with its own code, the others with PLP_ERR_REMOTE, and none waits in the next
 * collective for a rank that has gone. */
plp_status tp_agree(const tp_group *g, plp_status mine);
/* Collective, host memory. */
plp_status tp_broadcast(const tp_group *g, void *data, size_t bytes, int root);
plp_status tp_gather_all(const tp_group *g, const void *mine, size_t bytes, void *all);
/* Different amounts from each rank: bytes[] and their displacements have tp_size entries. */
plp_status tp_gather_all_v(const tp_group *g, const void *mine, size_t bytes, void *all, const size_t *each, const size_t *at);
plp_status tp_barrier(const tp_group *g);
plp_status tp_max(const tp_group *g, double *value);

/* How tensors in the backend's memory are summed over the ranks. */
typedef enum {
    TP_COMM_AUTO, /* device memory: NCCL, and small messages straight between GPUs of one host; host memory: MPI */
    TP_COMM_MPI,  /* host-staged for device memory: slow, but any number of ranks may share one GPU              */
    TP_COMM_NCCL  /* NCCL alone                                                                                  */
} tp_comm_kind;
/* Collective.  Before the first tp_all_reduce: eager creation, so that nothing is set up in the first step.  A second call takes the place
 * of the first; the ranks' devices stay the same.  in_order: terms are added in rank order whatever a message's size, where devices reach each
 * other also those that NCCL is quicker for. */
plp_status tp_attach(tp_group *g, const kn_backend *backend, kn_context *context, tp_comm_kind kind, size_t most_bytes, bool in_order);
/* Collective.  Sum in place of `count` elements in the backend's memory: the same bits on every rank.  Terms are added in rank order, but by
 * NCCL, whose order is its own from three ranks on.  Queued on the context's stream. */
plp_status tp_all_reduce(tp_group *g, void *data, int64_t count, plp_dtype dtype);
/* Collective, the backend's memory.  What tp_gather_all does; stage: host memory for (tp_size + 1) * bytes, of use where the link is MPI
 * and the memory a device's.  Queued like a sum. */
plp_status tp_gather_all_device(const tp_group *g, const void *mine, size_t bytes, void *all, void *stage);
/* How a kernel may sum messages of so many bytes over the ranks by itself (kn_exchange): quicker than tp_all_reduce behind it.  NULL: it
 * cannot. */
const kn_exchange *tp_exchange(const tp_group *g, size_t bytes);
/* Collective, device memory, where tp_scatters.  data (tp_size, count): of the sum over the ranks, this rank's `count` elements, in their
 * place.  With a gather behind it half a tp_all_reduce each, and what lies between is done on a part of the rows. */
bool tp_scatters(const tp_group *g);
plp_status tp_scatter(tp_group *g, void *data, int64_t count, plp_dtype dtype);
/* Memory of every rank as this rank's device addresses it: base[r] is rank r's; all NULL where devices do not reach each other. */
typedef struct {
    void *base[KN_PEERS];
} tp_memory;
/* Collective, behind tp_attach.  own: the beginning of an allocation of the backend's memory.  To be closed before the group is detached. */
plp_status tp_memory_open(const tp_group *g, void *own, tp_memory *m);
void tp_memory_close(const tp_group *g, tp_memory *m);
/* A meeting of all devices behind what is queued: collective, in turn, where tp_memory_open has reached the others (kn_arrive_args, whose exchange is
 * set here). */
plp_status tp_arrive(tp_group *g, kn_arrive_args *a);
plp_status tp_await(tp_group *g);
/* Whether sums and gathers queue on the stream alone, so that a step with them can be captured and replayed. */
bool tp_capturable(const tp_group *g);
const char *tp_comm_name(const tp_group *g); /* "mpi", "nccl", "peers and nccl", "none" */

/* Foreign calls become statuses. */
plp_status tp_mpi_status(int code, const char *call, const char *file, int line);
#define TP_MPI(call) tp_mpi_status((call), #call, __FILE__, __LINE__)

#endif
