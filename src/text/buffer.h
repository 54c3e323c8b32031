/* src/text/buffer.h -- growing arrays: bytes, ids, and the one rule by which all of them grow. */
#ifndef TEXT_BUFFER_H
#define TEXT_BUFFER_H

#include "polylepis/status.h"

#include <stddef.h>

/* An array with room for at least `need` > 0 elements: `old`, or where it has moved to; *room is then what it has.  NULL, and `old` left as
 * it was, where memory is exhausted. */
void *text_grow(void *old, size_t *room, size_t need, size_t size);

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
