#include "tp/group.h"

#include "base/error.h"

/* stage: everyone's, then mine. */
static plp_status gather_by_mpi(const tp_group *g, const void *mine, size_t bytes, void *all, char *stage)
{
    char *own = stage + (size_t)g->size * bytes;
    PLP_TRY(g->backend->to_host(g->context, own, mine, bytes));
    PLP_TRY(g->backend->sync(g->context));
    PLP_TRY(tp_gather_all(g, own, bytes, stage));
    return g->backend->to_device(g->context, all, stage, (size_t)g->size * bytes);
}

static plp_status gather(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    const kn_exchange *x = tp_exchange(g, bytes);
    const bool apart = (const char *)mine + bytes <= (const char *)all || (const char *)mine >= (const char *)all + (size_t)g->size * bytes;
    return x != NULL && apart && bytes % 4 == 0 ? g->backend->exchange_gather(g->context, x, mine, bytes, all)
                                                : tp_nccl_gather(g, mine, bytes, all);
}

plp_status tp_gather_all_device(const tp_group *g, const void *mine, size_t bytes, void *all, void *stage)
{
    if (bytes == 0) return PLP_OK;
    if (g->size == 1) return mine == all ? PLP_OK : g->backend->copy(g->context, all, mine, bytes);
    if (g->kind == TP_COMM_NCCL) return TP_WAIT(TP_GATHER, bytes, gather(g, mine, bytes, all));
    return g->backend == kn_cuda() ? gather_by_mpi(g, mine, bytes, all, stage) : tp_gather_all(g, mine, bytes, all);
}
