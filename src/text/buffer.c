#include "text/buffer.h"

#include "base/error.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void *text_grow(void *old, size_t *room, size_t need, size_t size)
{
    if (need <= *room) return old;
    const size_t wanted = need > SIZE_MAX / 2 ? need : need < 16 ? 16 : need + need / 2;
    if (wanted > SIZE_MAX / size) return NULL;
    void *grown = realloc(old, wanted * size);
    if (grown != NULL) *room = wanted;
    return grown;
}

plp_status text_buffer_put(text_buffer *b, const char *bytes, size_t count)
{
    if (count == 0) return PLP_OK;
    char *grown = text_grow(b->data, &b->room, b->used + count, 1);
    PLP_TRY(PLP_ALLOCATED(grown));
    b->data = grown;
    memcpy(b->data + b->used, bytes, count);
    b->used += count;
    return PLP_OK;
}

plp_status text_ids_put(text_ids *ids, int id)
{
    int *grown = text_grow(ids->list, &ids->room, ids->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    ids->list = grown;
    ids->list[ids->count++] = id;
    return PLP_OK;
}
