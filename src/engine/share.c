#include "engine/share.h"

#include "base/error.h"

/* Those that wait come behind the one that they wait for. */
static bool is_computed(request *const *running, int i, uint64_t leader)
{
    while (--i >= 0)
        if (running[i]->id == leader) return !running[i]->done && running[i]->past < running[i]->prompt;
    return false;
}

static void follow(request *r, uint64_t leader, uint64_t next)
{
    if (share_waits(r) && r->leader == leader) r->leader = next;
}

plp_status share_lead(request *const *running, int count, request *queue, plp_status (*led)(void *arg, request *r), void *arg)
{
    for (int i = 0; i < count; i++) {
        request *r = running[i];
        const uint64_t leader = r->leader;
        if (!share_waits(r) || is_computed(running, i, leader)) continue;
        r->leader = 0;
        for (int k = i + 1; k < count; k++) follow(running[k], leader, r->id);
        for (request *q = queue; q != NULL; q = q->next) follow(q, leader, r->id);
        PLP_TRY(led(arg, r));
    }
    return PLP_OK;
}
