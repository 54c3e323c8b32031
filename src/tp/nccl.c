#include "tp/group.h"

#include "base/error.h"

#include <stdlib.h>

#ifdef PLP_CUDA
#    include <cuda_runtime.h>
#    include <nccl.h>

static plp_status nccl_status(ncclResult_t code, const char *call, const char *file, int line)
{
    if (code == ncclSuccess) return PLP_OK;
    return plp_fail(PLP_ERR_DEVICE, file, line, "NCCL failed: %s (%s) in %.60s; fix: see NCCL_DEBUG=WARN, or use --comm mpi",
                    ncclGetErrorString(code), ncclGetLastError(NULL), call);
}
#    define TP_NCCL(call) nccl_status((call), #    call, __FILE__, __LINE__)

static plp_status cuda_status(cudaError_t code, const char *call, const char *file, int line)
{
    if (code == cudaSuccess) return PLP_OK;
    return plp_fail(PLP_ERR_DEVICE, file, line, "%.60s: %s; fix: see the driver's log (dmesg, nvidia-smi), or use --comm mpi", call,
                    cudaGetErrorString(code));
}
#    define TP_CUDA(call) cuda_status((call), #    call, __FILE__, __LINE__)

static const ncclDataType_t types[] = { [PLP_F32] = ncclFloat32, [PLP_BF16] = ncclBfloat16, [PLP_F16] = ncclFloat16 };

/* A queue of its own for sums that run beside kernels, and a communicator that leaves the multiprocessors to those. */
struct tp_side {
    ncclComm_t comm;
    cudaStream_t stream;
    cudaEvent_t ready, done[TP_TURNS];
};
enum { SIDE_BLOCKS = 8 };

static plp_status connect(tp_group *g, int blocks, ncclComm_t *comm)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    const char *tried = getenv("PLP_SIDE_BLOCKS");
    if (blocks > 0) config.maxCTAs = tried ? atoi(tried) : blocks;
    PLP_TRY(tp_agree(g, g->rank == 0 ? TP_NCCL(ncclGetUniqueId(&id)) : PLP_OK));
    PLP_TRY(tp_broadcast(g, &id, sizeof id, 0));
    return tp_agree(g, TP_NCCL(ncclCommInitRankConfig(comm, g->size, id, g->rank, &config)));
}

static plp_status make_side(struct tp_side *s)
{
    int least, most;
    PLP_TRY(TP_CUDA(cudaDeviceGetStreamPriorityRange(&least, &most)));
    PLP_TRY(TP_CUDA(cudaStreamCreateWithPriority(&s->stream, cudaStreamNonBlocking, most))); /* its few blocks go first */
    PLP_TRY(TP_CUDA(cudaEventCreateWithFlags(&s->ready, cudaEventDisableTiming)));
    for (int i = 0; i < TP_TURNS; i++) PLP_TRY(TP_CUDA(cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming)));
    return PLP_OK;
}

plp_status tp_nccl_create(tp_group *g)
{
    ncclComm_t comm = NULL;
    PLP_TRY(connect(g, 0, &comm));
    g->nccl = comm;
    return PLP_OK;
}

plp_status tp_nccl_create_side(tp_group *g)
{
    PLP_TRY(tp_agree(g, PLP_ALLOCATED(g->side = calloc(1, sizeof *g->side))));
    PLP_TRY(connect(g, SIDE_BLOCKS, &g->side->comm));
    return tp_agree(g, make_side(g->side));
}

void tp_nccl_destroy(tp_group *g)
{
    struct tp_side *s = g->side;
    if (s != NULL) {
        if (s->comm) ncclCommDestroy(s->comm);
        for (int i = 0; i < TP_TURNS; i++)
            if (s->done[i]) cudaEventDestroy(s->done[i]);
        if (s->ready) cudaEventDestroy(s->ready);
        if (s->stream) cudaStreamDestroy(s->stream);
        free(s);
    }
    if (g->nccl) ncclCommDestroy(g->nccl);
    g->nccl = NULL, g->side = NULL;
}

plp_status tp_nccl_sum(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    return TP_NCCL(ncclAllReduce(data, data, (size_t)count, types[dtype], ncclSum, g->nccl, g->backend->stream(g->context)));
}

plp_status tp_nccl_gather(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    return TP_NCCL(ncclAllGather(mine, all, bytes, ncclInt8, g->nccl, g->backend->stream(g->context)));
}

static ncclResult_t queue(tp_group *g, tp_side_work work, void *data, size_t count, plp_dtype dtype)
{
    const struct tp_side *s = g->side;
    void *own = (char *)data + (size_t)g->rank * count * plp_dtype_size(dtype);
    switch (work) {
    case TP_SIDE_SCATTER: return ncclReduceScatter(data, own, count, types[dtype], ncclSum, s->comm, s->stream);
    case TP_SIDE_GATHER: return ncclAllGather(own, data, count, types[dtype], s->comm, s->stream);
    default: return ncclAllReduce(data, data, count, types[dtype], ncclSum, s->comm, s->stream);
    }
}

plp_status tp_nccl_side(tp_group *g, tp_side_work work, int turn, void *data, int64_t count, plp_dtype dtype)
{
    struct tp_side *s = g->side;
    PLP_TRY(TP_CUDA(cudaEventRecord(s->ready, g->backend->stream(g->context))));
    PLP_TRY(TP_CUDA(cudaStreamWaitEvent(s->stream, s->ready, 0)));
    PLP_TRY(TP_NCCL(queue(g, work, data, (size_t)count, dtype)));
    return TP_CUDA(cudaEventRecord(s->done[turn], s->stream));
}

plp_status tp_nccl_side_end(tp_group *g, int turn)
{
    return TP_CUDA(cudaStreamWaitEvent(g->backend->stream(g->context), g->side->done[turn], 0));
}
#else
plp_status tp_nccl_create(tp_group *g)
{
    (void)g;
    return PLP_FAIL(PLP_ERR_DEVICE, "built without NCCL; fix: configure with -DPLP_CUDA=ON, or use --comm mpi");
}
plp_status tp_nccl_create_side(tp_group *g) { return tp_nccl_create(g); }
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
plp_status tp_nccl_side(tp_group *g, tp_side_work work, int turn, void *data, int64_t count, plp_dtype dtype)
{
    (void)work, (void)turn;
    return tp_nccl_sum(g, data, count, dtype);
}
plp_status tp_nccl_side_end(tp_group *g, int turn)
{
    (void)turn;
    return tp_nccl_create(g);
}
#endif
