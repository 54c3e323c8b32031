#include "base/grow.h"

#include <stdint.h>
#include <stdlib.h>

void *plp_grow(void *old, size_t *room, size_t need, size_t size)
{
    if (need <= *room) return old;
    const size_t wanted = need > SIZE_MAX / 2 ? need : need < 16 ? 16 : need + need / 2;
    if (wanted > SIZE_MAX / size) return NULL;
    void *grown = realloc(old, wanted * size);
    if (grown != NULL) *room = wanted;
    return grown;
}
