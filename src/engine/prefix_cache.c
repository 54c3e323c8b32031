#include "engine/prefix_cache.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

typedef enum { EMPTY, TAKEN, HELD } entry_state;

typedef struct {
    prefix_key key;
    entry_state state;
    int64_t step;     /* that used it last         */
    int chain;        /* next of its bucket; -1    */
    int older, newer; /* in the order of their use */
} entry;

struct prefix_cache {
    int first, slots;
    int64_t block, step;
    prefix_key root;
    entry *entry;  /* (slots + 1): the last is the ring's anchor, whose newer is the oldest */
    int *bucket;   /* (mask + 1)   */
    uint32_t mask; /* of a key     */
    int *taken;    /* (slots)      */
    int takes, held;
    int64_t evicted;
};

/* ------------------------------------------------------------------------------------------------------------------------ ring */
static void unlink_entry(prefix_cache *c, int i)
{
    c->entry[c->entry[i].older].newer = c->entry[i].newer;
    c->entry[c->entry[i].newer].older = c->entry[i].older;
}

/* Behind `older`: behind the anchor's oldest neighbour as the next to go, before the anchor as the newest. */
static void link_entry(prefix_cache *c, int i, int older)
{
    entry *e = &c->entry[i];
    e->older = older, e->newer = c->entry[older].newer;
    c->entry[e->newer].older = i;
    c->entry[older].newer = i;
}

static void use(prefix_cache *c, int i)
{
    c->entry[i].step = c->step;
    unlink_entry(c, i);
    link_entry(c, i, c->entry[c->slots].older);
}

/* ---------------------------------------------------------------------------------------------------------------------- buckets */
static int *bucket_of(const prefix_cache *c, const prefix_key *key)
{
    uint32_t hash;
    memcpy(&hash, key->byte, sizeof hash);
    return &c->bucket[hash & c->mask];
}

bool prefix_key_equal(const prefix_key *a, const prefix_key *b) { return memcmp(a->byte, b->byte, sizeof a->byte) == 0; }

static int find(const prefix_cache *c, const prefix_key *key)
{
    int i = *bucket_of(c, key);
    while (i >= 0 && !prefix_key_equal(&c->entry[i].key, key)) i = c->entry[i].chain;
    return i;
}

/* Empties an entry, which becomes the next to be filled. */
static void drop(prefix_cache *c, int i)
{
    int *at = bucket_of(c, &c->entry[i].key);
    while (*at != i) at = &c->entry[*at].chain;
    *at = c->entry[i].chain;
    c->held -= c->entry[i].state == HELD;
    c->entry[i].state = EMPTY, c->entry[i].step = -1;
    unlink_entry(c, i);
    link_entry(c, i, c->slots);
}

/* -------------------------------------------------------------------------------------------------------------- create, destroy */
plp_status prefix_cache_create(prefix_cache **out, int first, int slots, int64_t block, const void *root, size_t bytes)
{
    plp_status st = PLP_OK;
    prefix_cache *c = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(c = calloc(1, sizeof *c)));
    c->first = first, c->slots = slots, c->block = block;
    plp_sha256(root, bytes, c->root.byte);
    while (c->mask < 2 * (uint32_t)slots) c->mask = 2 * c->mask + 1;
    PLP_DO(PLP_ALLOCATED(c->entry = calloc((size_t)slots + 1, sizeof *c->entry)));
    PLP_DO(PLP_ALLOCATED(c->bucket = malloc(((size_t)c->mask + 1) * sizeof *c->bucket)));
    PLP_DO(PLP_ALLOCATED(c->taken = malloc(((size_t)slots + 1) * sizeof *c->taken)));
    memset(c->bucket, 0xff, ((size_t)c->mask + 1) * sizeof *c->bucket);
    c->entry[slots].older = c->entry[slots].newer = slots;
    for (int i = 0; i < slots; i++) c->entry[i].step = -1, link_entry(c, i, c->entry[slots].older);
    *out = c, c = NULL;
done:
    prefix_cache_destroy(&c);
    return st;
}

void prefix_cache_destroy(prefix_cache **out)
{
    prefix_cache *c = *out;
    if (c == NULL) return;
    free(c->entry);
    free(c->bucket);
    free(c->taken);
    free(c);
    *out = NULL;
}

void prefix_cache_keys(const prefix_cache *c, const int *ids, int64_t count, prefix_key *keys)
{
    const prefix_key *before = &c->root;
    for (int64_t i = 0; i < count / c->block; before = &keys[i++]) {
        plp_sha256_stream s;
        plp_sha256_init(&s);
        plp_sha256_update(&s, before->byte, sizeof before->byte);
        plp_sha256_update(&s, &i, sizeof i);
        plp_sha256_update(&s, ids + i * c->block, (size_t)c->block * sizeof *ids);
        plp_sha256_final(&s, keys[i].byte);
    }
}

/* ------------------------------------------------------------------------------------------------------------------------- steps */
void prefix_cache_next_step(prefix_cache *c) { c->step++; }

int prefix_cache_find(prefix_cache *c, const prefix_key *keys, int first, int end, int *slot)
{
    for (int k = end - 1; k >= first; k--) {
        const int i = find(c, &keys[k]);
        if (i < 0 || c->entry[i].state != HELD) continue;
        use(c, i);
        *slot = c->first + i;
        return k;
    }
    return -1;
}

int prefix_cache_take(prefix_cache *c, const prefix_key *key)
{
    const int i = c->entry[c->slots].newer; /* the oldest */
    if (i == c->slots || c->entry[i].step == c->step || find(c, key) >= 0) return -1;
    if (c->entry[i].state != EMPTY) drop(c, i), c->evicted++;
    entry *e = &c->entry[i];
    int *bucket = bucket_of(c, key);
    e->key = *key, e->state = TAKEN;
    e->chain = *bucket, *bucket = i;
    use(c, i);
    c->taken[c->takes++] = i;
    return c->first + i;
}

void prefix_cache_publish(prefix_cache *c)
{
    for (int i = 0; i < c->takes; i++) c->entry[c->taken[i]].state = HELD;
    c->held += c->takes;
    c->takes = 0;
}

void prefix_cache_forget(prefix_cache *c, const prefix_key *keys, int count)
{
    for (int k = 0; k < count; k++) {
        const int i = find(c, &keys[k]);
        if (i >= 0) drop(c, i);
    }
}

prefix_cache_counts prefix_cache_count(const prefix_cache *c)
{
    return (prefix_cache_counts){ .held = c->held, .slots = c->slots, .evicted = c->evicted };
}
