#include "text/pieces.h"

#include "base/error.h"
#include "base/grow.h"

#include <stdlib.h>

static plp_status put(text_pieces *p, text_piece piece)
{
    text_piece *grown = plp_grow(p->list, &p->room, p->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    p->list = grown;
    p->list[p->count++] = piece;
    return PLP_OK;
}

plp_status text_pieces_token(text_pieces *p, int id) { return put(p, (text_piece){ .id = id }); }

plp_status text_pieces_text(text_pieces *p, const char *bytes, size_t count, bool first)
{
    if (count == 0) return PLP_OK;
    const size_t start = p->text.used;
    PLP_TRY(text_buffer_put(&p->text, bytes, count));
    return put(p, (text_piece){ start, start + count, -1, first });
}

void text_pieces_clear(text_pieces *p) { p->text.used = p->count = 0; }

void text_pieces_destroy(text_pieces *p)
{
    free(p->text.data);
    free(p->list);
    *p = (text_pieces){ 0 };
}
