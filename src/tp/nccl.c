#include "tp/group.h"

#include "base/error.h"
#include "base/fault.h"

#ifdef PLP_CUDA
#    include <nccl.h>

static plp_status nccl_status(ncclResult_t code, const char *call, const char *file, int line)
{
    if (code == ncclSuccess) return PLP_OK;
    return plp_fail(PLP_ERR_DEVICE, file, line, "NCCL failed: %s (%s) in %.60s; fix: see NCCL_DEBUG=WARN, or use --comm mpi",
                    ncclGetErrorString(code), ncclGetLastError(NULL), call);
}
#    define TP_NCCL(call) nccl_status((call), #    call, __FILE__, __LINE__)

static const ncclDataType_t types[] = { [PLP_F32] = ncclFloat32, [PLP_BF16] = ncclBfloat16, [PLP_F16] = ncclFloat16 };

plp_status tp_nccl_create(tp_group *g)
{
    ncclUniqueId id;
    ncclComm_t comm = NULL;
    PLP_TRY(tp_agree(g, g->rank == 0 ? TP_NCCL(ncclGetUniqueId(&id)) : PLP_OK));
    PLP_TRY(tp_broadcast(g, &id, sizeof id, 0));
    PLP_TRY(PLP_FAULT_AT("nccl"));
    PLP_TRY(tp_agree(g, TP_NCCL(ncclCommInitRank(&comm, g->size, id, g->rank))));
    g->nccl = comm;
    return PLP_OK;
}

void tp_nccl_destroy(tp_group *g)
{
    if (g->nccl) ncclCommDestroy(g->nccl);
    g->nccl = NULL;
}

plp_status tp_nccl_sum(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    return TP_NCCL(ncclAllReduce(data, data, (size_t)count, types[dtype], ncclSum, g->nccl, g->backend->stream(g->context)));
}

plp_status tp_nccl_gather(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    return TP_NCCL(ncclAllGather(mine, all, bytes, ncclInt8, g->nccl, g->backend->stream(g->context)));
}

plp_status tp_nccl_scatter(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    void *own = (char *)data + (size_t)g->rank * (size_t)count * plp_dtype_size(dtype);
    return TP_NCCL(ncclReduceScatter(data, own, (size_t)count, types[dtype], ncclSum, g->nccl, g->backend->stream(g->context)));
}
#else
plp_status tp_nccl_create(tp_group *g)
{
    (void)g;
    return PLP_FAIL(PLP_ERR_DEVICE, "built without NCCL; fix: configure with -DPLP_CUDA=ON, or use --comm mpi");
}
void tp_nccl_destroy(tp_group *g) { (void)g; }
plp_status tp_nccl_sum(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    (void)data, (void)count, (void)dtype;
    return tp_nccl_create(g);
}
plp_status tp_nccl_gather(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    (void)g, (void)mine, (void)bytes, (void)all;
    return tp_nccl_create(NULL);
}
plp_status tp_nccl_scatter(tp_group *g, void *data, int64_t count, plp_dtype dtype) { return tp_nccl_sum(g, data, count, dtype); }
#endif
