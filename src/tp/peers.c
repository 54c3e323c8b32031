/* Device memory that all ranks of a host address, through CUDA IPC: an allocation a rank.  First of all, the inboxes of a kn_exchange. */
#include "tp/group.h"

#include "base/error.h"
#include "base/log.h"

#include <string.h>

#ifdef PLP_CUDA
#    include <cuda_runtime.h>

/* Largest message that is quicker this way than through NCCL: everyone sends everything to everyone, twice as many bytes, but in one flight.
 * Two ranks: measured (docs/performance.md, "Sums between GPUs").  More: by the bytes a rank receives, (ranks - 1) times the message; above
 * four 128 KiB, and a quarter more, for a fused mixer's message has gaps: 33 words for every 32 rows that a block may have, whatever it
 * has. */
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

static plp_status offer_own(void *own, offer *mine)
{
    int device;
    PLP_TRY(peers_status(cudaGetDevice(&device)));
    PLP_TRY(peers_status(cudaDeviceGetAttribute(&mine->multiprocessors, cudaDevAttrMultiProcessorCount, device)));
    return peers_status(cudaIpcGetMemHandle(&mine->handle, own));
}

static bool open_others(const tp_group *g, const offer *all, tp_memory *m)
{
    for (int r = 0; r < g->size; r++)
        if (!all[r].good || all[r].multiprocessors != all[0].multiprocessors) return false;
    for (int r = 0; r < g->size; r++)
        if (r != g->rank && peers_status(cudaIpcOpenMemHandle(&m->base[r], all[r].handle, cudaIpcMemLazyEnablePeerAccess)) != PLP_OK) {
            m->base[r] = NULL;
            return false;
        }
    return true;
}

/* A rank may free its own before the others have closed it: the driver counts who has memory open (as found; NVIDIA's manual promises nothing). */
void tp_memory_close(const tp_group *g, tp_memory *m)
{
    for (int r = 0; r < g->size && r < KN_PEERS; r++)
        if (r != g->rank && m->base[r] != NULL) (void)peers_status(cudaIpcCloseMemHandle(m->base[r]));
    memset(m, 0, sizeof *m);
}

/* *reached: ranks that reach everyone's.  own NULL: this rank has none. */
static plp_status open_all(const tp_group *g, void *own, tp_memory *m, int *reached)
{
    offer mine, all[KN_PEERS];
    char open[KN_PEERS], opened;
    memset(&mine, 0, sizeof mine);
    memset(m, 0, sizeof *m);
    mine.good = own != NULL && offer_own(own, &mine) == PLP_OK;
    PLP_TRY(tp_gather_all(g, &mine, sizeof mine, all));
    opened = (char)open_others(g, all, m);
    m->base[g->rank] = own;
    *reached = 0;
    PLP_TRY(tp_gather_all(g, &opened, sizeof opened, open)); /* all or none */
    for (int r = 0; r < g->size; r++) *reached += open[r];
    if (*reached < g->size) tp_memory_close(g, m);
    return PLP_OK;
}

plp_status tp_memory_open(const tp_group *g, void *own, tp_memory *m)
{
    int reached;
    memset(m, 0, sizeof *m);
    return g->kind == TP_COMM_NCCL && g->exchange.size > 1 ? open_all(g, own, m, &reached) : PLP_OK;
}

/* The inbox, and behind it who came. */
static size_t inbox_bytes(const kn_exchange *x) { return (size_t)(2 * x->size * x->words * WORD); }

static plp_status make_own(kn_exchange *x, void **inbox)
{
    enum { COUNTS = 3 }; /* of exchanges two, and one of meetings */
    const size_t bytes = inbox_bytes(x) + (size_t)x->size * sizeof *x->came[0];
    plp_status st = PLP_OK;
    PLP_DO(peers_status(cudaMalloc(inbox, bytes)));
    PLP_DO(peers_status(cudaMemset(*inbox, 0, bytes)));
    PLP_DO(peers_status(cudaMalloc((void **)&x->count, COUNTS * sizeof *x->count)));
    PLP_DO(peers_status(cudaMemset(x->count, 0, COUNTS * sizeof *x->count)));
    PLP_DO(peers_status(cudaDeviceSynchronize())); /* zero before anyone sends */
    x->meetings = x->count + COUNTS - 1;
done:
    return st;
}

plp_status tp_peers_create(tp_group *g)
{
    kn_exchange *x = &g->exchange;
    tp_memory inboxes;
    void *own = NULL;
    int reached;
    memset(x, 0, sizeof *x);
    if (g->size > KN_PEERS || g->local_size != g->size) return PLP_OK;
    x->rank = g->rank, x->size = g->size, x->words = (int64_t)(most_bytes(g->size) / PAYLOAD);
    const bool made = make_own(x, &own) == PLP_OK;
    x->inbox[g->rank] = own;                                     /* to be freed, whatever comes */
    PLP_TRY(open_all(g, made ? own : NULL, &inboxes, &reached)); /* nobody sends before everyone's inbox is there */
    if (reached == g->size) {
        for (int r = 0; r < g->size; r++)
            x->inbox[r] = inboxes.base[r], x->came[r] = (unsigned *)((char *)inboxes.base[r] + inbox_bytes(x));
        return PLP_OK;
    }
    if (g->rank == 0)
        plp_log(PLP_LOG_INFO, "GPUs differ, or cannot address each other's memory, on %d of %d ranks: sums go through NCCL alone",
                g->size - reached, g->size);
    tp_peers_destroy(g);
    return PLP_OK;
}

void tp_peers_destroy(tp_group *g)
{
    kn_exchange *x = &g->exchange;
    if (x->size == 0) return; /* and then there may be more ranks than inboxes */
    void *own = x->inbox[g->rank];
    tp_memory inboxes = { { NULL } };
    for (int r = 0; r < x->size; r++) inboxes.base[r] = x->inbox[r];
    tp_memory_close(g, &inboxes);
    if (own != NULL) cudaFree(own);
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
plp_status tp_memory_open(const tp_group *g, void *own, tp_memory *m)
{
    (void)g, (void)own;
    memset(m, 0, sizeof *m);
    return PLP_OK;
}
void tp_memory_close(const tp_group *g, tp_memory *m) { (void)g, (void)m; }
#endif
