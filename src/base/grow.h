/* src/base/grow.h -- the one rule by which arrays grow. */
#ifndef BASE_GROW_H
#define BASE_GROW_H

#include <stddef.h>

/* An array with room for at least `need` > 0 elements of `size` bytes: `old`, or where it has moved to; *room is then what it has.  NULL, and
 * `old` left as it was, where memory is exhausted. */
void *plp_grow(void *old, size_t *room, size_t need, size_t size);

#endif
