/* src/text/buffer.h -- growing arrays of bytes and of ids. */
#ifndef TEXT_BUFFER_H
#define TEXT_BUFFER_H

#include "polylepis/status.h"

#include <stddef.h>

typedef struct {
    char *data; /* owned: free(); NULL until the first byte */
    size_t used, room;
} text_buffer;

plp_status text_buffer_put(text_buffer *b, const char *bytes, size_t count);

typedef struct {
    int *list; /* owned: free() */
    size_t count, room;
} text_ids;

plp_status text_ids_put(text_ids *ids, int id);

#endif
