/* src/engine/hold.h -- text on its way out: what may be the beginning of a stop string is held back until it is known not to be. */
#ifndef ENGINE_HOLD_H
#define ENGINE_HOLD_H

#include "polylepis/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *text; /* held back, `used` bytes */
    size_t used, room;
} hold;

void hold_free(hold *h);
/* Adds a piece.  *ready: how many bytes of h->text may go out.  Returns through *found the index of a stop string that was completed
 * (the one that begins first; then the first of the list), before which *ready ends, or -1.  `last`: nothing follows, so that nothing
 * stays held back.  Stop strings are not empty. */
plp_status hold_push(hold *h, const char *piece, size_t bytes, const char *const *stops, int count, bool last, size_t *ready, int *found);
/* Forgets the first n bytes, which went out. */
void hold_take(hold *h, size_t n);

#endif
