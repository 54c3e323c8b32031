#include "text/buffer.h"

#include "base/error.h"
#include "base/grow.h"

#include <string.h>

plp_status text_buffer_put(text_buffer *b, const char *bytes, size_t count)
{
    if (count == 0) return PLP_OK;
    char *grown = plp_grow(b->data, &b->room, b->used + count, 1);
    PLP_TRY(PLP_ALLOCATED(grown));
    b->data = grown;
    memcpy(b->data + b->used, bytes, count);
    b->used += count;
    return PLP_OK;
}

plp_status text_ids_put(text_ids *ids, int id)
{
    int *grown = plp_grow(ids->list, &ids->room, ids->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    ids->list = grown;
    ids->list[ids->count++] = id;
    return PLP_OK;
}
