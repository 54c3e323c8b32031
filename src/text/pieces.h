/* src/text/pieces.h -- a text on its way to ids: cut into pieces, some of which are added tokens already. */
#ifndef TEXT_PIECES_H
#define TEXT_PIECES_H

#include "text/buffer.h"

#include <stdbool.h>

typedef struct {
    size_t start, end; /* of text.data; never empty where id is -1 */
    int id;            /* an added token, final; or -1: text still to be encoded */
    bool first;        /* it begins where the whole input began, which Metaspace asks */
} text_piece;

typedef struct {
    text_buffer text;
    text_piece *list; /* owned: free() */
    size_t count, room;
} text_pieces;

plp_status text_pieces_token(text_pieces *p, int id);
/* Appends a piece and its text; nothing where it is empty. */
plp_status text_pieces_text(text_pieces *p, const char *bytes, size_t count, bool first);
void text_pieces_clear(text_pieces *p); /* keeps the memory */
void text_pieces_destroy(text_pieces *p);

#endif
