#include "tp/group.h"

#include "base/error.h"
#include "base/fault.h"

#include <stdlib.h>
#include <string.h>

/* Elements up to which everyone sends everything to everyone: one message instead of two. */
enum { ONE_SHOT = 8192 };

/* out[i] = sum over r of parts[r][i], in rank order, so that every rank and every run gets the same bits. */
static void sum_in_rank_order(void *out, const void *parts, int64_t stride, int64_t count, int ranks, plp_dtype dtype)
{
    if (dtype == PLP_F32) {
        const float *p = parts;
        float *o = out;
        for (int64_t i = 0; i < count; i++) {
            float sum = p[i];
            for (int r = 1; r < ranks; r++) sum += p[r * stride + i];
            o[i] = sum;
        }
        return;
    }
    const uint16_t *p = parts;
    uint16_t *o = out;
    for (int64_t i = 0; i < count; i++) {
        float sum = 0, term;
        for (int r = 0; r < ranks; r++) {
            plp_convert(&term, PLP_F32, p + r * stride + i, dtype, 1);
            sum += term;
        }
        plp_convert(o + i, dtype, &sum, PLP_F32, 1);
    }
}

/* Sum over the ranks, in rank order, of host memory. */
static plp_status sum_host(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    const size_t size = plp_dtype_size(dtype);
    const MPI_Datatype element = dtype == PLP_F32 ? MPI_FLOAT : MPI_UINT16_T;
    if (g->size == 1 || count == 0) return PLP_OK;
    if (count <= ONE_SHOT) {
        PLP_TRY(TP_MPI(MPI_Allgather(data, (int)count, element, g->stage, (int)count, element, g->comm)));
        sum_in_rank_order(data, g->stage, count, count, g->size, dtype);
        return PLP_OK;
    }
    /* Each rank sums one part of the data, in pieces that the staging memory holds for all ranks at once. */
    const int64_t room = (int64_t)(g->room / size),
                  most = (room < INT32_MAX ? room : INT32_MAX) / g->size * g->size; /* MPI counts by int */
    for (int64_t at = 0; at < count; at += most) {
        const int64_t n = count - at < most ? count - at : most, part = (n + g->size - 1) / g->size;
        char *piece = (char *)data + (size_t)at * size;
        int sent[2][TP_MOST_RANKS], received[2][TP_MOST_RANKS]; /* counts, displacements */
        for (int r = 0; r < g->size; r++) {
            const int64_t first = part * r < n ? part * r : n, mine = part * g->rank < n ? part * g->rank : n;
            sent[0][r] = (int)(first + part < n ? part : n - first), sent[1][r] = (int)first;
            received[0][r] = (int)(mine + part < n ? part : n - mine), received[1][r] = (int)(r * part);
        }
        PLP_TRY(TP_MPI(MPI_Alltoallv(piece, sent[0], sent[1], element, g->stage, received[0], received[1], element, g->comm)));
        sum_in_rank_order(piece + (size_t)sent[1][g->rank] * size, g->stage, part, sent[0][g->rank], g->size, dtype);
        PLP_TRY(TP_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, piece, sent[0], sent[1], element, g->comm)));
    }
    return PLP_OK;
}

static void free_staging(tp_group *g)
{
    free(g->stage);
    free(g->mirror);
    g->stage = g->mirror = NULL;
}

void tp_detach(tp_group *g)
{
    tp_peers_destroy(g);
    tp_nccl_destroy(g);
    free_staging(g);
}

/* What connects the devices stays from one attachment to the next: setting it up takes a second. */
static plp_status connect_devices(tp_group *g, bool peers)
{
    if (g->nccl == NULL) PLP_TRY(tp_nccl_create(g));
    if (!peers) tp_peers_destroy(g);
    return peers && g->exchange.size == 0 ? tp_peers_create(g) : PLP_OK;
}

plp_status tp_attach(tp_group *g, const kn_backend *backend, kn_context *context, tp_comm_kind kind, size_t most_bytes, bool in_order)
{
    const bool device = backend == kn_cuda();
    if (g->size > TP_MOST_RANKS) return PLP_FAIL(PLP_ERR_USAGE, "%d ranks, at most %d; fix: start fewer", g->size, TP_MOST_RANKS);
    if (kind == TP_COMM_NCCL && !device) return PLP_FAIL(PLP_ERR_USAGE, "--comm nccl needs --device cuda; fix: give it, or --comm mpi");
    g->backend = backend, g->context = context, g->in_order = in_order;
    g->kind = kind != TP_COMM_AUTO ? kind : device ? TP_COMM_NCCL : TP_COMM_MPI;
    if (g->size == 1) return PLP_OK;
    tp_stamp_page()->queues = g->kind == TP_COMM_NCCL;
    if (g->kind == TP_COMM_NCCL) return connect_devices(g, kind == TP_COMM_AUTO);
    free_staging(g);
    const size_t one_shot = (size_t)ONE_SHOT * 4 * (size_t)g->size; /* every rank's copy of a small message */
    g->room = most_bytes + 64 * (size_t)g->size > one_shot ? most_bytes + 64 * (size_t)g->size : one_shot;
    PLP_TRY(tp_agree(g, PLP_ALLOCATED(g->stage = malloc(g->room))));
    return tp_agree(g, device ? PLP_ALLOCATED(g->mirror = malloc(most_bytes)) : PLP_OK);
}

/* Through host memory: the mirror is free for the next call when this one returns. */
static plp_status sum_device_by_mpi(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    const size_t bytes = (size_t)count * plp_dtype_size(dtype);
    PLP_TRY(g->backend->to_host(g->context, g->mirror, data, bytes));
    PLP_TRY(g->backend->sync(g->context));
    PLP_TRY(sum_host(g, g->mirror, count, dtype));
    PLP_TRY(g->backend->to_device(g->context, data, g->mirror, bytes));
    return g->backend->sync(g->context);
}

/* Piece after piece, each as large as an exchange takes. */
static plp_status sum_exchanged(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    const int64_t size = (int64_t)plp_dtype_size(dtype), most = g->exchange.words / 2 * 8 / size;
    for (int64_t at = 0; at < count; at += most) {
        const int64_t n = count - at < most ? count - at : most;
        PLP_TRY(g->backend->exchange_sum(g->context, &g->exchange, (char *)data + at * size, n, dtype));
    }
    return PLP_OK;
}

static plp_status sum(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    const bool reached = g->kind == TP_COMM_NCCL && g->exchange.size > 1;
    if (reached && (g->in_order || tp_exchange(g, (size_t)count * plp_dtype_size(dtype)))) return sum_exchanged(g, data, count, dtype);
    if (g->kind == TP_COMM_NCCL) return tp_nccl_sum(g, data, count, dtype);
    return g->mirror == NULL ? sum_host(g, data, count, dtype) : sum_device_by_mpi(g, data, count, dtype);
}

plp_status tp_all_reduce(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    if (g->size == 1 || count == 0) return PLP_OK;
    PLP_TRY(PLP_FAULT_AT("collective"));
    return TP_WAIT(TP_ALL_REDUCE, (size_t)count * plp_dtype_size(dtype), sum(g, data, count, dtype));
}

const kn_exchange *tp_exchange(const tp_group *g, size_t bytes)
{
    return g->kind == TP_COMM_NCCL && g->exchange.size > 1 && (int64_t)((bytes + 7) / 8) * 2 <= g->exchange.words ? &g->exchange : NULL;
}

bool tp_scatters(const tp_group *g) { return g->size > 1 && g->kind == TP_COMM_NCCL; }

plp_status tp_scatter(tp_group *g, void *data, int64_t count, plp_dtype dtype)
{
    PLP_TRY(PLP_FAULT_AT("collective"));
    return TP_WAIT(TP_ALL_REDUCE, (size_t)count * plp_dtype_size(dtype), tp_nccl_scatter(g, data, count, dtype));
}

plp_status tp_arrive(tp_group *g, kn_arrive_args *a)
{
    a->exchange = &g->exchange;
    PLP_TRY(PLP_FAULT_AT("collective"));
    return g->backend->arrive(g->context, a);
}

plp_status tp_await(tp_group *g) { return TP_WAIT(TP_MEETING, 0, g->backend->await(g->context, &g->exchange)); }

bool tp_capturable(const tp_group *g) { return g->size == 1 || g->kind == TP_COMM_NCCL; }

const char *tp_comm_name(const tp_group *g)
{
    if (g->size == 1) return "none";
    if (g->kind == TP_COMM_NCCL) return g->exchange.size ? "peers and nccl" : "nccl";
    return g->mirror ? "mpi, staged through host memory" : "mpi";
}
