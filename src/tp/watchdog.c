#include "tp/watchdog.h"

#include "tp/flight.h"
#include "tp/group.h"
#include "tp/judge.h"
#include "tp/link.h"
#include "tp/stamp.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"

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
    const tp_page **page; /* (count) */
    double limit;
    char (*host)[TP_HOST]; /* (size), by rank */
    int size;

    /* of the host's leader alone, which watches ranks of other hosts: rank 0 all of them, the others rank 0 */
    tp_link *link; /* NULL: nobody */
    int far;       /* how many */
    int *far_rank; /* (far) */
    tp_sign *sign; /* (size) what is known of them, by rank; (count) more for what we say ourselves */
    double late;   /* seconds that we leave to a watcher of their own host */
    bool all;      /* the table has every rank of the job */
    tp_end_job *end;

    bool runs, stops;
    pthread_t thread;
    pthread_mutex_t lock; /* of `stops` alone */
    pthread_cond_t wake;
    tp_seen *seen; /* (count + far) of the watchdog's thread alone */
    int64_t *beats, *moves;
} dog = { .window = MPI_WIN_NULL };

/* ---------------------------------------------------------------------------------------------------------------- the thread */
static tp_sign sign_of(const tp_page *p)
{
    return (tp_sign){ .rank = p->rank,
                      .watched = p->watched,
                      .waits = p->waits,
                      .queues = p->queues,
                      .phase = p->phase,
                      .step = p->step,
                      .seq = p->seq,
                      .beats = p->beats,
                      .moves = p->moves };
}

/* A tick later: `passed` seconds more of silence for whoever gave no sign. */
static void note(int i, const tp_sign *now, double passed, double late)
{
    tp_seen *s = &dog.seen[i];
    s->gone = now->beats == dog.beats[i] ? s->gone + passed : -late;
    s->still = now->moves == dog.moves[i] ? s->still + passed : -late;
    dog.beats[i] = now->beats, dog.moves[i] = now->moves;
    s->rank = now->rank, s->watched = now->watched, s->waits = now->waits, s->queues = now->queues;
    s->phase = now->phase, s->step = now->step, s->seq = now->seq;
}

/* Rank 0 judges who holds up whom among all ranks; the leaders of the other hosts, whether it is there at all. */
static void look_far(double passed)
{
    tp_sign *mine = dog.sign + dog.size;
    for (int i = 0; i < dog.count; i++) mine[i] = sign_of(dog.page[i]);
    tp_link_send(dog.link, mine, dog.count);
    tp_link_receive(dog.link, dog.sign, dog.size);
    for (int i = 0; i < dog.far; i++) {
        tp_seen *s = &dog.seen[dog.count + i];
        note(dog.count + i, &dog.sign[dog.far_rank[i]], passed, dog.late);
        if (s->rank == 0) s->waits = true, s->still = 0; /* neither to blame nor kept waiting */
    }
}

static void look(double passed)
{
    for (int i = 0; i < dog.count; i++) {
        const tp_sign now = sign_of(dog.page[i]);
        note(i, &now, passed, 0);
    }
    dog.seen[dog.local].gone = 0;
    if (dog.link != NULL) look_far(passed);
}

/* The first rank of the host that says so ends the job; the others give it a while, and then end themselves. */
static void call_for_end(const tp_verdict *v)
{
    char text[512];
    _Atomic int *ending = &((tp_page *)dog.page[0])->ending;
    int nobody = 0;
    tp_verdict_text(v, dog.seen, dog.host[dog.seen[v->index].rank], text, sizeof text);
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
        const tp_verdict v = tp_judge(dog.seen, dog.count + dog.far, dog.all, dog.limit);
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
/* The ranks of this host. */
static plp_status split_host(const tp_group *g, MPI_Comm *local)
{
    const int ranks = PLP_FAULT_HOSTS(); /* of a host */
    if (ranks > 0) PLP_TRY(TP_MPI(MPI_Comm_split(g->comm, g->rank / ranks, g->rank, local)));
    if (ranks == 0) PLP_TRY(TP_MPI(MPI_Comm_split_type(g->comm, MPI_COMM_TYPE_SHARED, g->rank, MPI_INFO_NULL, local)));
    PLP_TRY(TP_MPI(MPI_Comm_rank(*local, &dog.local)));
    return TP_MPI(MPI_Comm_size(*local, &dog.count));
}

static plp_status share_pages(const tp_group *g, MPI_Comm local)
{
    tp_page *mine;
    PLP_TRY(PLP_ALLOCATED(dog.page = calloc((size_t)dog.count, sizeof *dog.page)));
    PLP_TRY(TP_MPI(MPI_Win_allocate_shared(sizeof *mine, 1, MPI_INFO_NULL, local, &mine, &dog.window)));
    for (int i = 0; i < dog.count; i++) {
        MPI_Aint bytes;
        int unit;
        PLP_TRY(TP_MPI(MPI_Win_shared_query(dog.window, i, &bytes, &unit, (void *)&dog.page[i])));
    }
    memset((void *)mine, 0, sizeof *mine);
    tp_stamp_into(mine);
    mine->rank = g->rank;
    mine->size = g->size;
    return TP_MPI(MPI_Barrier(local)); /* nobody looks at a page that was not cleared */
}

/* Room for what is told between hosts, and whom this leader watches there. */
static plp_status choose_far(const tp_group *g, int leader)
{
    PLP_TRY(PLP_ALLOCATED(dog.far_rank = malloc((size_t)g->size * sizeof *dog.far_rank)));
    PLP_TRY(PLP_ALLOCATED(dog.sign = calloc((size_t)(g->size + dog.count), sizeof *dog.sign)));
    for (int r = 0; r < g->size; r++) dog.sign[r] = (tp_sign){ .rank = r, .watched = 1 }; /* from here on, heard of or not */
    for (int r = leader == 0 ? 1 : 0; r < (leader == 0 ? g->size : 1); r++) {
        bool near = false;
        for (int i = 0; i < dog.count; i++) near |= dog.page[i]->rank == r;
        if (!near) dog.far_rank[dog.far++] = r;
    }
    dog.late = leader == 0 ? 1 : 2 * (leader < 4 ? leader : 4) - 1; /* whoever is first has ended the job by then: one line, as a rule */
    return PLP_OK;
}

static plp_status link_hosts(const tp_group *g)
{
    plp_status st;
    MPI_Comm leaders = MPI_COMM_NULL;
    int leader, hosts = 1;
    PLP_DO(TP_MPI(MPI_Comm_split(g->comm, dog.local == 0 ? 0 : MPI_UNDEFINED, g->rank, &leaders)));
    if (leaders == MPI_COMM_NULL) {
        dog.all = dog.count == g->size;
        return PLP_OK;
    }
    PLP_DO(TP_MPI(MPI_Comm_rank(leaders, &leader)));
    PLP_DO(TP_MPI(MPI_Comm_size(leaders, &hosts)));
    if (hosts > 1) PLP_DO(tp_link_open(&dog.link, leaders));
    if (dog.link != NULL) PLP_DO(choose_far(g, leader));
    if (hosts > 1 && dog.link == NULL && leader == 0)
        plp_log(PLP_LOG_WARN,
                "the watchdog's datagrams (UDP) do not get from %d hosts to %s: a rank that is stopped alone on its host is not "
                "noticed; fix: allow UDP between the nodes, or give the job a time limit",
                hosts - 1, g->host);
    dog.all = hosts == 1 || (leader == 0 && dog.link != NULL);
done:
    if (leaders != MPI_COMM_NULL) MPI_Comm_free(&leaders);
    return st;
}

plp_status tp_watchdog_start(const tp_group *g, double limit, tp_end_job *end)
{
    plp_status st;
    MPI_Comm local = MPI_COMM_NULL;
    dog.size = g->size;
    dog.limit = limit, dog.end = end;
    PLP_TRY(PLP_ALLOCATED(dog.host = calloc((size_t)g->size, sizeof *dog.host)));
    PLP_TRY(tp_gather_all(g, g->host, TP_HOST, dog.host));
    if (g->size == 1) return PLP_OK;
    PLP_DO(split_host(g, &local));
    PLP_DO(share_pages(g, local));
    if (limit <= 0) goto done;
    PLP_DO(link_hosts(g));
    PLP_DO(PLP_ALLOCATED(dog.seen = calloc((size_t)(dog.count + dog.far), sizeof *dog.seen)));
    PLP_DO(PLP_ALLOCATED(dog.beats = calloc((size_t)(dog.count + dog.far), sizeof *dog.beats)));
    PLP_DO(PLP_ALLOCATED(dog.moves = calloc((size_t)(dog.count + dog.far), sizeof *dog.moves)));
    for (int i = dog.count; i < dog.count + dog.far; i++) dog.seen[i].gone = dog.seen[i].still = -dog.late;
    PLP_DO(start_thread());
    ((tp_page *)dog.page[dog.local])->watched = 1;
done:
    if (local != MPI_COMM_NULL) MPI_Comm_free(&local);
    return st;
}

/* The other hosts must not miss what is not sent any more. */
static void say_goodbye(void)
{
    tp_sign *mine = dog.sign + dog.size;
    for (int i = 0; i < dog.count; i++) {
        mine[i] = sign_of(dog.page[i]);
        mine[i].watched = 0;
    }
    for (int times = 0; times < 3; times++) tp_link_send(dog.link, mine, dog.count); /* one may be lost */
}

void tp_watchdog_stop(void)
{
    if (dog.window == MPI_WIN_NULL) {
        free(dog.host);
        dog.host = NULL;
        return;
    }
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
    if (dog.link != NULL) say_goodbye();
    tp_link_close(&dog.link);
    tp_stamp_into(NULL);
    MPI_Win_free(&dog.window); /* waits for the others: their threads read this page */
    free(dog.page);
    free(dog.host);
    free(dog.far_rank);
    free(dog.sign);
    free(dog.seen);
    free(dog.beats);
    free(dog.moves);
    memset(&dog, 0, sizeof dog);
    dog.window = MPI_WIN_NULL;
}

static const char *host_of(const tp_page *p) { return dog.host != NULL ? dog.host[p->rank] : "unknown-host"; }

plp_status tp_watchdog_dump(const char *directory, bool own)
{
    if (own || dog.window == MPI_WIN_NULL) return tp_flight_write(directory, tp_stamp_page(), host_of(tp_stamp_page()));
    for (int i = 0; i < dog.count; i++) PLP_TRY(tp_flight_write(directory, dog.page[i], host_of(dog.page[i])));
    return PLP_OK;
}
