#include "engine/reuse.h"

#include "base/error.h"

#include <stdlib.h>

struct reuse {
    prefix_cache *cache;
    int64_t block;
    bool inside;
    int *snap_start, *snap_slot;
};

plp_status reuse_check(int64_t block, int64_t chunk, int64_t slots)
{
    if (block % chunk != 0)
        return PLP_FAIL(PLP_ERR_USAGE, "--cache-block %lld, the model's chunk is %lld; fix: give a multiple of it", (long long)block,
                        (long long)chunk);
    if (slots < 1)
        return PLP_FAIL(PLP_ERR_USAGE, "the prefix cache has room for no state; fix: give it more memory, or --prefix-cache none");
    return PLP_OK;
}

plp_status reuse_create(reuse **out, const reuse_options *o)
{
    plp_status st = PLP_OK;
    reuse *u = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(u = calloc(1, sizeof *u)));
    u->block = o->block, u->inside = o->inside;
    PLP_DO(PLP_ALLOCATED(u->snap_start = malloc(((size_t)o->max_seqs + 1) * sizeof *u->snap_start)));
    PLP_DO(PLP_ALLOCATED(u->snap_slot = malloc(((size_t)o->max_tokens + 1) * sizeof *u->snap_slot))); /* a row ends one block at most */
    PLP_DO(prefix_cache_create(&u->cache, o->first, o->slots, o->block, o->root, o->root_bytes));
    *out = u, u = NULL;
done:
    reuse_destroy(&u);
    return st;
}

void reuse_destroy(reuse **out)
{
    reuse *u = *out;
    if (u == NULL) return;
    prefix_cache_destroy(&u->cache);
    free(u->snap_start);
    free(u->snap_slot);
    free(u);
    *out = NULL;
}

int64_t reuse_block(const reuse *u) { return u->block; }

plp_status reuse_admit(reuse *u, request *r)
{
    if (r->restored || r->prompt < u->block) return PLP_OK; /* what a restored state is of, nobody computes again */
    PLP_TRY(PLP_ALLOCATED(r->keys = malloc((size_t)(r->prompt / u->block) * sizeof *r->keys)));
    r->key_count = (int)(r->prompt / u->block);
    prefix_cache_keys(u->cache, r->ids, r->prompt, r->keys);
    return PLP_OK;
}

/* The block that the request computes next, and the end of those whose states it can begin from. */
static int next_block(const reuse *u, const request *r) { return (int)(r->past / u->block); }
static int usable(const reuse *u, const request *r) { return r->key_count > 0 ? (int)((r->prompt - 1) / u->block) : 0; }

/* How many blocks from `block` on the two prompts have in common. */
static int shared(const request *a, const request *b, int block)
{
    int n = block;
    while (n < a->key_count && n < b->key_count && prefix_key_equal(&a->keys[n], &b->keys[n])) n++;
    return n - block;
}

/* Lets running[i] wait for an earlier request that computes the same block in this step. */
static void wait_for(const reuse *u, request *const *running, int i, schedule_seq *seqs)
{
    request *r = running[i];
    const int block = next_block(u, r);
    if (block >= usable(u, r)) return;
    for (int j = 0; j < i; j++) {
        const request *ahead = running[j];
        if (seqs[j].waits || ahead->past >= ahead->prompt || next_block(u, ahead) != block) continue;
        const int blocks = shared(r, ahead, block);
        if (blocks == 0 || (r->waited_block == block && r->waited_for != ahead->id)) continue;
        r->waited_block = block, r->waited_for = ahead->id;
        seqs[i].waits = true;
        if (u->inside) return;
        const int end = block + blocks < usable(u, r) ? block + blocks : usable(u, r);
        if (seqs[j].cut == 0 || end * u->block < seqs[j].cut) seqs[j].cut = end * u->block; /* where the two part */
        return;
    }
}

void reuse_find(reuse *u, request *const *running, int count, schedule_seq *seqs)
{
    prefix_cache_next_step(u->cache);
    for (int i = 0; i < count; i++) {
        request *r = running[i];
        if (r->past >= r->prompt) continue;
        int slot;
        const int block = prefix_cache_find(u->cache, r->keys, next_block(u, r), usable(u, r), &slot);
        if (block >= 0) {
            r->found = (block + 1) * u->block - r->past, r->source = slot;
            r->past = seqs[i].past = (block + 1) * u->block;
        }
        wait_for(u, running, i, seqs);
    }
}

void reuse_settle(request *const *running, int count, const schedule_slice *prefills, int prefill_count)
{
    for (int i = 0, k = 0; i < count; i++) {
        request *r = running[i];
        if (r->found == 0) continue;
        while (k < prefill_count && prefills[k].seq < i) k++;
        if (k < prefill_count && prefills[k].seq == i) continue;
        r->past -= r->found, r->found = 0, r->source = r->slot;
    }
}

void reuse_keep(reuse *u, request *const *running, const schedule_slice *slices, int count, int decodes, const int **start,
                const int **slot)
{
    int n = 0;
    for (int i = 0; i < count; i++) {
        u->snap_start[i] = n;
        if (i < decodes) continue;
        const request *r = running[slices[i].seq];
        const int64_t end = r->past + slices[i].rows;
        const int first = next_block(u, r), last = (int)(end / u->block);
        for (int block = last - 1; block >= first; block--) { /* where slots are few, the longest prefix has it */
            const bool wanted = block < r->key_count && (u->inside || (block + 1) * u->block == end);
            u->snap_slot[n + block - first] = wanted ? prefix_cache_take(u->cache, &r->keys[block]) : -1;
        }
        n += last - first;
    }
    u->snap_start[count] = n;
    *start = u->snap_start, *slot = u->snap_slot;
}

void reuse_publish(reuse *u) { prefix_cache_publish(u->cache); }
void reuse_forget(reuse *u, const request *r) { prefix_cache_forget(u->cache, r->keys, r->key_count); }
prefix_cache_counts reuse_count(const reuse *u) { return prefix_cache_count(u->cache); }
