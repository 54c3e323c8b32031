#include "cli/text.h"

#include "base/error.h"
#include "base/grow.h"

#include <string.h>

plp_status cli_text_add(cli_text *t, const char *piece, size_t bytes)
{
    if (bytes == 0) return PLP_OK;
    if (t->used + bytes > t->room) {
        char *grown = plp_grow(t->bytes, &t->room, t->used + bytes, 1);
        PLP_TRY(PLP_ALLOCATED(grown));
        t->bytes = grown;
    }
    memcpy(t->bytes + t->used, piece, bytes);
    t->used += bytes;
    return PLP_OK;
}
