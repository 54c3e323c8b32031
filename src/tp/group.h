/* src/tp/group.h -- inside a tp_group; for src/tp alone. */
#ifndef TP_GROUP_H
#define TP_GROUP_H

#include "tp/stamp.h"
#include "tp/tp.h"

enum { TP_HOST = 64 };

struct tp_group {
    MPI_Comm comm;
    int rank, size, local_rank, local_size;
    char host[TP_HOST];

    /* set by tp_attach */
    const kn_backend *backend;
    kn_context *context;
    tp_comm_kind kind;
    bool in_order;
    void *stage;          /* host memory: a rank's pieces of everyone's data */
    void *mirror;         /* host memory: the data itself, where it lives on a device */
    size_t room;          /* bytes of each */
    void *nccl;           /* ncclComm_t */
    kn_exchange exchange; /* size 0: the ranks' devices do not reach each other */
};

/* An MPI call that ends when all ranks have come, as the watchdog and the flight recorder are to know it. */
#define TP_COLLECTIVE(g, op, bytes, call) ((g)->size == 1 ? TP_MPI(call) : TP_WAIT(op, bytes, TP_MPI(call)))

/* Undoes tp_attach. */
void tp_detach(tp_group *g);

/* NCCL; PLP_ERR_DEVICE when built without. */
plp_status tp_nccl_create(tp_group *g);
void tp_nccl_destroy(tp_group *g);
plp_status tp_nccl_sum(tp_group *g, void *data, int64_t count, plp_dtype dtype);
plp_status tp_nccl_gather(const tp_group *g, const void *mine, size_t bytes, void *all);
plp_status tp_nccl_scatter(tp_group *g, void *data, int64_t count, plp_dtype dtype);

/* Collective.  Leaves g->exchange without ranks where the devices cannot reach each other: that is no error. */
plp_status tp_peers_create(tp_group *g);
void tp_peers_destroy(tp_group *g);

#endif
