#include "cli/text.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

plp_status cli_text_add(cli_text *t, const char *piece, size_t bytes)
{
    if (bytes == 0) return PLP_OK;
    if (t->used + bytes > t->room) {
        char *grown = realloc(t->bytes, 2 * (t->used + bytes));
        PLP_TRY(PLP_ALLOCATED(grown));
        t->bytes = grown, t->room = 2 * (t->used + bytes);
    }
    memcpy(t->bytes + t->used, piece, bytes);
    t->used += bytes;
    return PLP_OK;
}
