#include "tp/watchdog.h"

#include "tp/flight.h"
#include "tp/group.h"
#include "tp/judge.h"
#include "tp/stamp.h"

#include "base/clock.h"
#include "base/error.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double tick = 0.25;

/* One a process, as there is one main thread. */
static struct {
    MPI_Win window;
    int local, count;     /* this rank among those of the host, and how many they are */
    bool all;             /* no rank is on another host   */
    const tp_page **page; /* (count) */
    char host[TP_HOST];
    double limit;
    tp_end_job *end;

    bool runs, stops;
    pthread_t thread;
    pthread_mutex_t lock; /* of `stops` alone */
    pthread_cond_t wake;
    tp_seen *seen; /* (count) of the watchdog's thread alone */
    int64_t *beats, *moves;
} dog = { .window = MPI_WIN_NULL };

/* ---------------------------------------------------------------------------------------------------------------- the thread */
/* A tick later: `passed` seconds more of silence for whoever gave no sign. */
static void look(double passed)
{
    for (int i = 0; i < dog.count; i++) {
        const tp_page *p = dog.page[i];
        tp_seen *s = &dog.seen[i];
        const int64_t beats = p->beats, moves = p->moves;
        s->gone = beats == dog.beats[i] ? s->gone + passed : 0;
        s->still = moves == dog.moves[i] ? s->still + passed : 0;
        dog.beats[i] = beats, dog.moves[i] = moves;
        s->rank = p->rank, s->watched = p->watched, s->waits = p->waits, s->queues = p->queues;
        s->phase = p->phase, s->step = p->step, s->seq = p->seq;
    }
    dog.seen[dog.local].gone = 0;
}

/* The first rank of the host that says so ends the job; the others give it a while, and then end themselves. */
static void call_for_end(const tp_verdict *v)
{
    char text[512];
    _Atomic int *ending = &((tp_page *)dog.page[0])->ending;
    int nobody = 0;
    tp_verdict_text(v, dog.seen, dog.host, text, sizeof text);
    dog.end(atomic_compare_exchange_strong(ending, &nobody, 1) ? text : NULL);
}

/* False when it is time to stop. */
static bool sleep_a_tick(void)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(tick * 1e9);
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&dog.lock);
    while (!dog.stops && pthread_cond_timedwait(&dog.wake, &dog.lock, &until) == 0) continue;
    const bool go_on = !dog.stops;
    pthread_mutex_unlock(&dog.lock);
    return go_on;
}

static void *watch(void *unused)
{
    (void)unused;
    double last = plp_seconds();
    while (sleep_a_tick()) {
        const double now = plp_seconds(), passed = now - last < 2 * tick ? now - last : 2 * tick; /* it slept itself: no fault of theirs */
        last = now;
        ((tp_page *)dog.page[dog.local])->beats++;
        look(passed);
        const tp_verdict v = tp_judge(dog.seen, dog.count, dog.all, dog.limit);
        if (v.why != TP_FINE || dog.page[0]->ending) call_for_end(&v);
    }
    return NULL;
}

static plp_status start_thread(void)
{
    pthread_condattr_t monotonic;
    sigset_t all, before;
    pthread_mutex_init(&dog.lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&dog.wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&dog.thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return PLP_FAIL(PLP_ERR_MEMORY, "no thread for the watchdog: %s; fix: see ulimit -u", strerror(failed));
    dog.runs = true;
    return PLP_OK;
}

/* -------------------------------------------------------------------------------------------------------------- start and stop */
static plp_status share_pages(const tp_group *g)
{
    plp_status st;
    MPI_Comm local = MPI_COMM_NULL;
    tp_page *mine;
    PLP_DO(TP_MPI(MPI_Comm_split_type(g->comm, MPI_COMM_TYPE_SHARED, g->rank, MPI_INFO_NULL, &local)));
    PLP_DO(TP_MPI(MPI_Win_allocate_shared(sizeof *mine, 1, MPI_INFO_NULL, local, &mine, &dog.window)));
    for (int i = 0; i < dog.count; i++) {
        MPI_Aint bytes;
        int unit;
        PLP_DO(TP_MPI(MPI_Win_shared_query(dog.window, i, &bytes, &unit, (void *)&dog.page[i])));
    }
    memset((void *)mine, 0, sizeof *mine);
    tp_stamp_into(mine);
    mine->rank = g->rank;
    mine->size = g->size;
    PLP_DO(TP_MPI(MPI_Barrier(local))); /* nobody looks at a page that was not cleared */
done:
    if (local != MPI_COMM_NULL) MPI_Comm_free(&local);
    return st;
}

plp_status tp_watchdog_start(const tp_group *g, double limit, tp_end_job *end)
{
    memcpy(dog.host, g->host, sizeof dog.host);
    if (g->size == 1) return PLP_OK;
    const size_t n = (size_t)g->local_size;
    dog.local = g->local_rank, dog.count = g->local_size, dog.all = g->local_size == g->size;
    dog.limit = limit, dog.end = end;
    PLP_TRY(PLP_ALLOCATED(dog.page = calloc(n, sizeof *dog.page)));
    PLP_TRY(PLP_ALLOCATED(dog.seen = calloc(n, sizeof *dog.seen)));
    PLP_TRY(PLP_ALLOCATED(dog.beats = calloc(n, sizeof *dog.beats)));
    PLP_TRY(PLP_ALLOCATED(dog.moves = calloc(n, sizeof *dog.moves)));
    PLP_TRY(share_pages(g));
    if (limit <= 0) return PLP_OK;
    PLP_TRY(start_thread());
    ((tp_page *)dog.page[dog.local])->watched = 1;
    return PLP_OK;
}

void tp_watchdog_stop(void)
{
    if (dog.window == MPI_WIN_NULL) return;
    ((tp_page *)dog.page[dog.local])->watched = 0; /* the others must not miss the beats that end here */
    if (dog.runs) {
        pthread_mutex_lock(&dog.lock);
        dog.stops = true;
        pthread_cond_signal(&dog.wake);
        pthread_mutex_unlock(&dog.lock);
        pthread_join(dog.thread, NULL);
        pthread_cond_destroy(&dog.wake);
        pthread_mutex_destroy(&dog.lock);
    }
    tp_stamp_into(NULL);
    MPI_Win_free(&dog.window); /* waits for the others: their threads read this page */
    free(dog.page);
    free(dog.seen);
    free(dog.beats);
    free(dog.moves);
    memset(&dog, 0, sizeof dog);
    dog.window = MPI_WIN_NULL;
}

plp_status tp_watchdog_dump(const char *directory, bool own)
{
    if (own || dog.window == MPI_WIN_NULL) return tp_flight_write(directory, tp_stamp_page(), dog.host);
    for (int i = 0; i < dog.count; i++) PLP_TRY(tp_flight_write(directory, dog.page[i], dog.host));
    return PLP_OK;
}
