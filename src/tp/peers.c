/* The inboxes of a kn_exchange: one allocation of device memory a rank, opened by all ranks of the host through CUDA IPC. */
#include "tp/group.h"

#include "base/error.h"
#include "base/log.h"

#include <string.h>

#ifdef PLP_CUDA
#    include <cuda_runtime.h>

/* Largest message that is quicker this way than through NCCL: everyone sends everything to everyone, twice as many bytes, but in one flight.
 * Two ranks: measured (docs/performance.md).  More: by the bytes a rank receives, (ranks - 1) times the message; above four 128 KiB, and a
 * quarter more, for a fused mixer's message has gaps: 33 words for every 32 rows that a block may have, whatever it has. */
static size_t most_bytes(int ranks) { return ranks == 2 ? (size_t)4 << 20 : ranks <= 4 ? (size_t)512 << 10 : (size_t)160 << 10; }

enum { WORD = 8, PAYLOAD = 4 };

typedef struct {
    int good, multiprocessors; /* as many everywhere: blocks exchange with the blocks of their number */
    cudaIpcMemHandle_t handle;
} offer;

static plp_status peers_status(cudaError_t error)
{
    if (error == cudaSuccess) return PLP_OK;
    cudaGetLastError(); /* an error that does not stick must not fail the next launch */
    return PLP_ERR_DEVICE;
}

static plp_status make_own(tp_group *g, size_t bytes, offer *mine)
{
    kn_exchange *x = &g->exchange;
    plp_status st = PLP_OK;
    int device;
    PLP_DO(peers_status(cudaGetDevice(&device)));
    PLP_DO(peers_status(cudaDeviceGetAttribute(&mine->multiprocessors, cudaDevAttrMultiProcessorCount, device)));
    PLP_DO(peers_status(cudaMalloc(&x->inbox[g->rank], bytes)));
    PLP_DO(peers_status(cudaMemset(x->inbox[g->rank], 0, bytes)));
    PLP_DO(peers_status(cudaMalloc((void **)&x->count, 2 * sizeof *x->count)));
    PLP_DO(peers_status(cudaMemset(x->count, 0, 2 * sizeof *x->count)));
    PLP_DO(peers_status(cudaDeviceSynchronize())); /* zero before anyone sends */
    PLP_DO(peers_status(cudaIpcGetMemHandle(&mine->handle, x->inbox[g->rank])));
done:
    mine->good = st == PLP_OK;
    return st;
}

static bool open_others(tp_group *g, const offer *all)
{
    for (int r = 0; r < g->size; r++)
        if (!all[r].good || all[r].multiprocessors != all[0].multiprocessors) return false;
    for (int r = 0; r < g->size; r++)
        if (r != g->rank &&
            peers_status(cudaIpcOpenMemHandle(&g->exchange.inbox[r], all[r].handle, cudaIpcMemLazyEnablePeerAccess)) != PLP_OK) {
            g->exchange.inbox[r] = NULL;
            return false;
        }
    return true;
}

plp_status tp_peers_create(tp_group *g)
{
    kn_exchange *x = &g->exchange;
    offer mine, all[KN_PEERS];
    char open[KN_PEERS], opened;
    int reached = 0;
    memset(&mine, 0, sizeof mine);
    memset(x, 0, sizeof *x);
    if (g->size > KN_PEERS || g->local_size != g->size) return PLP_OK;
    x->rank = g->rank, x->size = g->size, x->words = (int64_t)(most_bytes(g->size) / PAYLOAD);
    make_own(g, (size_t)(2 * x->size * x->words * WORD), &mine);
    PLP_TRY(tp_gather_all(g, &mine, sizeof mine, all));
    opened = (char)open_others(g, all);
    PLP_TRY(tp_gather_all(g, &opened, sizeof opened, open)); /* all or none: and nobody sends before everyone's inbox is there */
    for (int r = 0; r < g->size; r++) reached += open[r];
    if (reached == g->size) return PLP_OK;
    if (g->rank == 0)
        plp_log(PLP_LOG_INFO, "GPUs differ, or cannot address each other's memory, on %d of %d ranks: sums go through NCCL alone",
                g->size - reached, g->size);
    tp_peers_destroy(g);
    return PLP_OK;
}

/* The own inbox goes with the process if others still have it open: the driver counts. */
void tp_peers_destroy(tp_group *g)
{
    kn_exchange *x = &g->exchange;
    for (int r = 0; r < x->size; r++)
        if (x->inbox[r] != NULL) (void)(r == g->rank ? cudaFree(x->inbox[r]) : cudaIpcCloseMemHandle(x->inbox[r]));
    if (x->count != NULL) cudaFree(x->count);
    memset(x, 0, sizeof *x);
}
#else
plp_status tp_peers_create(tp_group *g)
{
    memset(&g->exchange, 0, sizeof g->exchange);
    return PLP_OK;
}
void tp_peers_destroy(tp_group *g) { (void)g; }
#endif
