/* src/tp/judge.h -- which rank holds up the job, from what a watcher saw of all of them.  Pure, tested with made-up tables. */
#ifndef TP_JUDGE_H
#define TP_JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int rank;
    bool watched, waits, queues; /* as in tp_page */
    int phase;
    int64_t step, seq;
    double gone;  /* seconds without a beat of its watchdog thread */
    double still; /* seconds without a stamp of its main thread     */
} tp_seen;

typedef enum {
    TP_FINE,
    TP_GONE,   /* the process is dead or stopped: not even its watchdog thread runs       */
    TP_BEHIND, /* others have waited for it for the whole limit, and it did not move      */
    TP_KNOT    /* all ranks wait, for each other or for what never comes; the least far one */
} tp_why;

typedef struct {
    tp_why why;
    int index; /* in the table */
    double seconds;
} tp_verdict;

/* `all`: the table has every rank of the job, so that ranks which all wait cannot be waiting for one that is not in it.
 * A rank that computes for long is no offence while nobody waits for it; one that waits is only a symptom. */
tp_verdict tp_judge(const tp_seen *ranks, int count, bool all, double limit);

/* "rank 2 (node01): ..." as one line. */
void tp_verdict_text(const tp_verdict *v, const tp_seen *ranks, const char *host, char *text, size_t size);

#endif
