/* src/engine/share.h -- several answers to one prompt: one request computes it, and those that wait for it take over its state and draw from
 * its last row.  Whoever is left when the one that computed it has moved on, because there was no slot before, computes it for the others. */
#ifndef ENGINE_SHARE_H
#define ENGINE_SHARE_H

#include "engine/request.h"

/* Whether the request waits for another one's prompt. */
static inline bool share_waits(const request *r) { return r->leader != 0 && r->past == 0 && !r->done; }
/* Before a step: finds who waits for nobody that runs, and lets those running and in the queue that wait with it wait for it.  led(arg, r)
 * for each of them: it computes its prompt. */
plp_status share_lead(request *const *running, int count, request *queue, plp_status (*led)(void *arg, request *r), void *arg);

#endif
