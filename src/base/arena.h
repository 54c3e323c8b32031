/* src/base/arena.h -- memory that is sized by a table before its one allocation.
 *
 * A plan is walked twice: first with a NULL base, to learn the size, then over the real memory.  So memory runs out at start or never.
 *     plp_arena a = { 0 };  lay_out(&a, model);          a.used is the size
 *     a = (plp_arena){ .base = memory };  lay_out(&a, model);  the pointers are set */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

enum { PLP_ARENA_ALIGN = 256 }; /* what cudaMalloc gives, and more than any vector load wants */

typedef struct {
    char *base; /* NULL while measuring */
    size_t used;
} plp_arena;

/* The next `count` elements of `size` bytes, aligned; NULL while measuring, and for a count of 0. */
static inline void *plp_arena_take(plp_arena *a, int64_t count, size_t size)
{
    if (count <= 0) return NULL;
    void *p = a->base ? a->base + a->used : NULL;
    a->used += ((size_t)count * size + PLP_ARENA_ALIGN - 1) / PLP_ARENA_ALIGN * PLP_ARENA_ALIGN;
    return p;
}

#endif
