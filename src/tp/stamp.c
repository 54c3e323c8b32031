#include "tp/stamp.h"

#include <string.h>
#include <time.h>

static tp_page own;
static tp_page *page = &own;

const char *tp_phase_name(int phase)
{
    static const char *const names[TP_PHASES] = { "start", "open", "load", "prefill", "decode", "output", "leave" };
    return phase >= 0 && phase < TP_PHASES ? names[phase] : "unknown";
}

const char *tp_op_name(int op)
{
    static const char *const names[TP_OPS] = { "agree", "broadcast",  "gather",  "gather-uneven", "barrier",
                                               "max",   "all-reduce", "meeting", "device" };
    return op >= 0 && op < TP_OPS ? names[op] : "unknown";
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void tp_stamp(tp_phase phase, int64_t step)
{
    page->phase = (int)phase;
    page->step = step;
    page->moves++;
}

void tp_wait_begin(tp_op op, size_t bytes)
{
    const int64_t seq = page->seq + 1;
    tp_record *r = &page->record[seq % TP_RECORDS];
    r->op = (int64_t)op;
    r->bytes = (int64_t)bytes;
    r->issued = now();
    r->done = 0;
    r->seq = seq;
    page->seq = seq;
    page->waits = 1;
    page->moves++;
}

plp_status tp_wait_end(plp_status st)
{
    page->record[page->seq % TP_RECORDS].done = now();
    page->waits = 0;
    page->moves++;
    return st;
}

tp_page *tp_stamp_page(void) { return page; }

void tp_stamp_into(tp_page *other)
{
    if (other == NULL) other = &own;
    if (other == page) return;
    memcpy((void *)other, (const void *)page, sizeof *other);
    page = other;
}
