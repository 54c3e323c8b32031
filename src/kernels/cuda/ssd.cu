/* src/kernels/cuda/ssd.cu -- kn->ssd and kn->ssd_conv: the tables of a step, and which kernel computes it. */
#include "kernels/cuda/ssd.cuh"

#include <cstdlib>
#include <cstring>

/* Room for the tables of a step of max_tokens rows: a slice, a segment and a kept state have at least one row each. */
static size_t table_bytes(const kn_options *o)
{
    const size_t rows = (size_t)o->max_tokens + 1;
    return rows * (2 * sizeof(int) + 2 * sizeof(kn_ssd_segment)) + (size_t)o->max_heads * sizeof(kn_ssd_unit) + 64;
}
static size_t key_room(const kn_options *o)
{
    const size_t rows = (size_t)o->max_tokens + 1;
    return 64 + rows * (sizeof(int) * 3 + sizeof(int64_t)) + (size_t)o->max_heads * sizeof(int);
}

plp_status kn_ssd_create_cuda(kn_context *c)
{
    kn_ssd_cuda *s = c->ssd = (kn_ssd_cuda *)calloc(1, sizeof *s);
    PLP_TRY(PLP_ALLOCATED(s));
    s->bytes = table_bytes(&c->options);
    s->key_room = key_room(&c->options);
    PLP_TRY(PLP_ALLOCATED(s->key = (char *)calloc(1, s->key_room)));
    PLP_TRY(KN_CUDA(cudaMalloc((void **)&s->device, s->bytes)));
    for (int i = 0; i < KN_SSD_RING; i++) {
        PLP_TRY(KN_CUDA(cudaMallocHost((void **)&s->host[i], s->bytes)));
        PLP_TRY(KN_CUDA(cudaEventCreateWithFlags(&s->copied[i], cudaEventDisableTiming)));
    }
    return kn_ssd_hopper_create(c);
}

void kn_ssd_destroy_cuda(kn_context *c)
{
    kn_ssd_cuda *s = c->ssd;
    if (s == NULL) return;
    for (int i = 0; i < KN_SSD_RING; i++) {
        if (s->host[i] != NULL) cudaFreeHost(s->host[i]);
        if (s->copied[i] != NULL) cudaEventDestroy(s->copied[i]);
    }
    cudaFree(s->device);
    cudaFree(s->work);
    free(s->key);
    free(s);
    c->ssd = NULL;
}

/* ------------------------------------------------------------------------------------------------------------- a step's tables
 * The key is written behind itself and compared: false when the tables on the device were made from the same. */
typedef struct {
    char *to;
    size_t at;
    bool differs;
} key_writer;
static void key_add(key_writer *w, const void *p, size_t bytes)
{
    if (bytes == 0) return;
    w->differs |= memcmp(w->to + w->at, p, bytes) != 0;
    memcpy(w->to + w->at, p, bytes);
    w->at += bytes;
}
static bool key_changes(kn_ssd_cuda *s, const kn_ssm_args *a, const kn_batch *b, bool fused)
{
    const size_t seqs = (size_t)b->seqs;
    const int sizes[] = { b->tokens, b->seqs, b->decodes, a->heads, a->state, a->block, fused };
    key_writer w = { s->key, 0, false };
    key_add(&w, sizes, sizeof sizes);
    key_add(&w, b->host_start, (seqs + 1) * sizeof(int));
    key_add(&w, b->host_past, seqs * sizeof(int64_t));
    if (a->block > 0) {
        key_add(&w, a->snap_start, (seqs + 1) * sizeof(int));
        key_add(&w, a->snap_slot, (size_t)a->snap_start[b->seqs] * sizeof(int));
    }
    if (fused) key_add(&w, a->host_group, (size_t)a->heads * sizeof(int));
    const bool changed = w.differs || w.at != s->key_bytes;
    s->key_bytes = w.at;
    return changed;
}

plp_status kn_ssd_tables(kn_context *c, const kn_ssm_args *a, const kn_batch *b, bool fused)
{
    kn_ssd_cuda *s = c->ssd;
    const int turn = s->turn, snaps = a->block > 0 ? a->snap_start[b->seqs] : 0;
    const size_t unit_at = sizeof(kn_ssd_segment) * 2 * ((size_t)c->options.max_tokens + 1);
    const size_t start_at = unit_at + sizeof(kn_ssd_unit) * (size_t)c->options.max_heads;
    const size_t slot_at = start_at + sizeof(int) * ((size_t)b->seqs + 1), used = slot_at + sizeof(int) * (size_t)snaps;
    if (b->tokens > c->options.max_tokens || b->seqs > c->options.max_tokens || a->heads > c->options.max_heads || used > s->bytes)
        return PLP_FAIL(PLP_ERR_INTERNAL, "ssd: %d rows, %d sequences, %d heads, %d kept states; work space for %d rows and %d heads",
                        b->tokens, b->seqs, a->heads, snaps, c->options.max_tokens, c->options.max_heads);
    if (!key_changes(s, a, b, fused)) return PLP_OK;
    s->key_bytes = 0; /* until the copy is queued */
    s->turn = (turn + 1) % KN_SSD_RING;
    PLP_TRY(KN_CUDA(cudaEventSynchronize(s->copied[turn]))); /* of four steps ago: long done */
    char *host = s->host[turn];
    if (fused) kn_ssd_hopper_plan(c, a, b, (kn_ssd_segment *)host, (kn_ssd_unit *)(host + unit_at));
    if (a->block > 0) {
        memcpy(host + start_at, a->snap_start, ((size_t)b->seqs + 1) * sizeof(int));
        memcpy(host + slot_at, a->snap_slot, (size_t)snaps * sizeof(int));
    }
    PLP_TRY(KN_CUDA(cudaMemcpyAsync(s->device, host, used, cudaMemcpyHostToDevice, c->stream)));
    PLP_TRY(KN_CUDA(cudaEventRecord(s->copied[turn], c->stream)));
    s->segments = (const kn_ssd_segment *)s->device;
    s->units = (const kn_ssd_unit *)(s->device + unit_at);
    s->snap_start = (const int *)(s->device + start_at);
    s->snap_slot = (const int *)(s->device + slot_at);
    key_changes(s, a, b, fused);
    return PLP_OK;
}

plp_status kn_ssd_cuda_run(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    if (b->seqs == b->decodes || b->tokens == b->decodes || a->heads == 0) return PLP_OK;
    const bool fused = kn_ssd_hopper_takes(c, a, b);
    PLP_TRY(kn_ssd_tables(c, a, b, fused));
    return fused ? kn_ssd_hopper_run(c, a, NULL, b) : kn_ssd_scan_run(c, a, b);
}

bool kn_ssd_conv_knows_cuda(const kn_context *c, const kn_conv_args *v, const kn_ssm_args *a, const kn_batch *b)
{
    return b->tokens > b->decodes && a->heads > 0 && kn_ssd_hopper_takes(c, a, b) && v->width == 4 && a->x == v->out &&
           a->ld_x == v->ld_out && a->heads * a->dim <= v->channels && kn_aligned(v->in, v->ld_in, PLP_BF16, 16) &&
           (uintptr_t)v->weight % 16 == 0;
}

plp_status kn_ssd_conv_cuda(kn_context *c, const kn_conv_args *v, const kn_ssm_args *a, const kn_batch *b)
{
    PLP_TRY(kn_conv_rows_cuda(c, v, b, a->heads * a->dim));
    PLP_TRY(kn_ssd_tables(c, a, b, true));
    PLP_TRY(kn_ssd_hopper_run(c, a, v, b));
    return kn_conv_states_cuda(c, v, b); /* x was convolved with the old ones */
}
