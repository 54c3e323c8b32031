/* src/engine/prefix_cache.h -- which states of which prefixes lie in which slots.  Bookkeeping alone: the engine's steps read and write
 * the states.  All of it is a function of the calls, so that ranks that make the same calls decide alike.
 *
 * A prefix is named by a digest of everything that its state is a function of: the root (model, number types), and the tokens, block by
 * block, each digest covering the one before it.  A state can be found once `publish` says that the step that writes it is queued. */
#ifndef ENGINE_PREFIX_CACHE_H
#define ENGINE_PREFIX_CACHE_H

#include "base/sha256.h"
#include "polylepis/status.h"

#include <stdbool.h>

typedef struct {
    uint8_t byte[PLP_SHA256_BYTES];
} prefix_key;

typedef struct prefix_cache prefix_cache;

/* The state slots first .. first + slots are the cache's.  root: copied. */
plp_status prefix_cache_create(prefix_cache **c, int first, int slots, int64_t block, const void *root, size_t bytes);
void prefix_cache_destroy(prefix_cache **c);

/* keys[i] names the first (i + 1) * block of the ids: count / block of them. */
void prefix_cache_keys(const prefix_cache *c, const int *ids, int64_t count, prefix_key *keys);
bool prefix_key_equal(const prefix_key *a, const prefix_key *b);

/* From here on a new step: what the last one used may go. */
void prefix_cache_next_step(prefix_cache *c);
/* The last of keys[first .. end) whose state is there, and its slot, which keeps its state for this step; -1: none. */
int prefix_cache_find(prefix_cache *c, const prefix_key *keys, int first, int end, int *slot);
/* The slot that this step shall write the state to: a free one, or that of the state not used for longest.  -1: the state is there, or
 * will be, or this step uses all slots. */
int prefix_cache_take(prefix_cache *c, const prefix_key *key);
/* The step is queued: what it writes can be found. */
void prefix_cache_publish(prefix_cache *c);
/* Drops the states of these prefixes. */
void prefix_cache_forget(prefix_cache *c, const prefix_key *keys, int count);

typedef struct {
    int held, slots;
    int64_t evicted;
} prefix_cache_counts;
prefix_cache_counts prefix_cache_count(const prefix_cache *c);

#endif
