#include "engine/hold.h"

#include "base/error.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void hold_free(hold *h)
{
    free(h->text);
    *h = (hold){ 0 };
}

typedef enum { DIFFERS, BEGINS, WHOLE } agreement;

/* What the text from `at` on shows of a stop string. */
static agreement compare(const hold *h, size_t at, const char *stop)
{
    const size_t length = strlen(stop), there = h->used - at;
    if (memcmp(h->text + at, stop, length < there ? length : there) != 0) return DIFFERS;
    return there < length ? BEGINS : WHOLE;
}

plp_status hold_push(hold *h, const char *piece, size_t bytes, const char *const *stops, int count, bool last, size_t *ready, int *found)
{
    if (h->used + bytes > h->room) {
        const size_t room = 2 * (h->used + bytes) + 64;
        char *text = realloc(h->text, room);
        PLP_TRY(PLP_ALLOCATED(text));
        h->text = text, h->room = room;
    }
    if (bytes > 0) memcpy(h->text + h->used, piece, bytes);
    h->used += bytes;
    *found = -1;
    *ready = h->used;
    for (size_t at = 0; at < h->used; at++)
        for (int i = 0; i < count; i++) {
            const agreement a = compare(h, at, stops[i]);
            if (a == WHOLE) {
                *ready = at, *found = i;
                return PLP_OK;
            }
            if (a == BEGINS && !last && at < *ready) *ready = at;
        }
    return PLP_OK;
}

void hold_take(hold *h, size_t n)
{
    h->used -= n;
    if (n > 0) memmove(h->text, h->text + n, h->used);
}
