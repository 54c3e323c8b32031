#include "tp/judge.h"

#include "tp/stamp.h"

#include <stdio.h>

/* A process that lives beats four times a second, whatever it does. */
static const double heartbeat = 10;

/* Where a rank may wait for disks and readers, which are slower than anything inside the job. */
static double patience(const tp_seen *s, double limit)
{
    return s->phase == TP_OPEN || s->phase == TP_LOAD || s->phase == TP_OUTPUT ? 4 * limit : limit;
}

/* A step whose collectives are queued on a device does nothing on the host that takes long: when it is still, it waits for the device. */
static bool waits(const tp_seen *s) { return s->waits || (s->queues && (s->phase == TP_PREFILL || s->phase == TP_DECODE)); }

static tp_verdict find_gone(const tp_seen *ranks, int count, double limit)
{
    tp_verdict v = { .why = TP_FINE };
    for (int i = 0; i < count; i++)
        if (ranks[i].watched && ranks[i].gone > (limit < heartbeat ? limit : heartbeat) && ranks[i].gone > v.seconds)
            v = (tp_verdict){ TP_GONE, i, ranks[i].gone };
    return v;
}

static tp_verdict find_behind(const tp_seen *ranks, int count, double limit)
{
    tp_verdict v = { .why = TP_FINE };
    double longest = 0; /* that anybody has waited */
    for (int i = 0; i < count; i++)
        if (waits(&ranks[i]) && ranks[i].still > longest) longest = ranks[i].still;
    for (int i = 0; i < count; i++) {
        const tp_seen *s = &ranks[i];
        const double most = patience(s, limit);
        if (!s->watched || waits(s) || s->phase == TP_LEAVE) continue; /* who leaves waits for whoever still works */
        if (s->still > most && longest > most && s->still > v.seconds) v = (tp_verdict){ TP_BEHIND, i, s->still };
    }
    return v;
}

static tp_verdict find_knot(const tp_seen *ranks, int count, double limit)
{
    tp_verdict v = { .why = TP_FINE };
    for (int i = 0; i < count; i++) {
        const tp_seen *s = &ranks[i];
        if (s->watched && s->phase == TP_LEAVE && !s->waits) continue;
        if (!s->watched || !waits(s) || !(s->still > patience(s, limit))) return (tp_verdict){ .why = TP_FINE };
        if (v.why == TP_FINE || s->seq < ranks[v.index].seq) v = (tp_verdict){ TP_KNOT, i, s->still };
    }
    return v;
}

tp_verdict tp_judge(const tp_seen *ranks, int count, bool all, double limit)
{
    tp_verdict v = find_gone(ranks, count, limit);
    if (v.why == TP_FINE) v = find_behind(ranks, count, limit);
    if (v.why == TP_FINE && all) v = find_knot(ranks, count, limit);
    return v;
}

void tp_verdict_text(const tp_verdict *v, const tp_seen *ranks, const char *host, char *text, size_t size)
{
    static const char *const what[] = { [TP_FINE] = "is fine",
                                        [TP_GONE] = "is stopped or dead, no sign of life",
                                        [TP_BEHIND] = "does not move and the others wait for it",
                                        [TP_KNOT] = "waits, as all ranks do, and is the least far," };
    static const char *const fix[] = { [TP_FINE] = "",
                                       [TP_GONE] = "see that host's log for why it ended, then start again",
                                       [TP_BEHIND] = "look at its host, disk and GPU, or raise --watchdog",
                                       [TP_KNOT] = "run again with --diag DIR and see polylepis diag, or raise --watchdog" };
    const tp_seen *s = &ranks[v->index];
    snprintf(text, size, "watchdog: rank %d on %s %s for %.1f s; phase %s, step %lld, collective %lld; fix: %s", s->rank, host,
             what[v->why], v->seconds, tp_phase_name(s->phase), (long long)s->step, (long long)s->seq, fix[v->why]);
}
