#include "io/gather.h"

#include "base/error.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A thread that helps the caller, who is number 0. */
typedef struct {
    io_gather *g;
    pthread_t thread;
    int number;
} helper;

struct io_gather {
    int threads, helpers; /* wanted, the caller among them; running */
    helper helper[IO_MOST_THREADS];
    io_scratch scratch[IO_MOST_THREADS];

    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    uint64_t round; /* of reads that the helpers were called for */
    int busy;       /* helpers that are not done with it         */
    bool quit;

    const io_range *list; /* the read that is under way */
    io_fetch fetch;
    const void *file;
    int64_t pieces;
    atomic_llong next; /* piece to take */
    int64_t bad;       /* first that failed; pieces: none */
};

/* Bytes of its tensor that a range is. */
typedef struct {
    uint64_t begin, end;
} extent;

static extent extent_of(const io_range *r)
{
    const uint64_t size = plp_dtype_size(r->tensor->dtype);
    return (extent){ (uint64_t)r->first * size, (uint64_t)(r->first + r->count) * size };
}

static int64_t pieces_of(const io_range *r)
{
    const extent e = extent_of(r);
    return r->count == 0 ? 0 : (int64_t)((e.end - 1) / IO_BLOCK - e.begin / IO_BLOCK + 1);
}

static plp_status read_piece(const io_range *r, int64_t piece, io_scratch *scratch, io_fetch fetch, const void *file)
{
    const extent e = extent_of(r);
    const uint64_t start = (e.begin / IO_BLOCK + (uint64_t)piece) * IO_BLOCK, size = plp_dtype_size(r->tensor->dtype);
    const uint64_t from = start > e.begin ? start : e.begin, to = start + IO_BLOCK < e.end ? start + IO_BLOCK : e.end;
    uint8_t *place = r->take == NULL ? (uint8_t *)r->dst + (from - e.begin) : NULL;
    const uint8_t *data;
    if (scratch->data == NULL) PLP_TRY(PLP_ALLOCATED(scratch->data = malloc(IO_BLOCK)));
    PLP_TRY(fetch(file, r->tensor, from, to - from, place, scratch, &data));
    if (r->take != NULL)
        r->take(r->dst, (int64_t)((from - e.begin) / size), data, (int64_t)((to - from) / size));
    else if (data != place)
        memcpy(place, data, to - from);
    return PLP_OK;
}

/* Piece i of all of them, by that thread. */
static plp_status read_one(io_gather *g, int64_t i, int thread)
{
    const io_range *r = g->list;
    for (; i >= pieces_of(r); r++) i -= pieces_of(r);
    return read_piece(r, i, &g->scratch[thread], g->fetch, g->file);
}

static void read_some(io_gather *g, int thread)
{
    for (int64_t i; (i = atomic_fetch_add(&g->next, 1)) < g->pieces;) {
        if (read_one(g, i, thread) == PLP_OK) continue;
        pthread_mutex_lock(&g->lock);
        if (i < g->bad) g->bad = i;
        pthread_mutex_unlock(&g->lock);
    }
}

static void *help(void *arg)
{
    const helper *h = arg;
    io_gather *g = h->g;
    pthread_mutex_lock(&g->lock);
    for (uint64_t seen = g->round - 1;;) { /* started for the round that has begun */
        while (!g->quit && g->round == seen) pthread_cond_wait(&g->begin, &g->lock);
        if (g->quit) break;
        seen = g->round;
        pthread_mutex_unlock(&g->lock);
        read_some(g, h->number);
        pthread_mutex_lock(&g->lock);
        if (--g->busy == 0) pthread_cond_signal(&g->end);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

static void dismiss(io_gather *g)
{
    pthread_mutex_lock(&g->lock);
    g->quit = true;
    pthread_cond_broadcast(&g->begin);
    pthread_mutex_unlock(&g->lock);
    for (int i = 0; i < g->helpers; i++) pthread_join(g->helper[i].thread, NULL);
    g->helpers = 0, g->quit = false;
}

/* With the lock held.  Signals are for the threads that were there before.  Where no thread can be had, fewer do the work. */
static void call_helpers(io_gather *g)
{
    sigset_t all, before;
    sigfillset(&all);
    g->round++;
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (g->helpers < g->threads - 1) {
        helper *h = &g->helper[g->helpers];
        *h = (helper){ .g = g, .number = g->helpers + 1 };
        if (pthread_create(&h->thread, NULL, help, h) != 0) break;
        g->helpers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    g->busy = g->helpers;
    pthread_cond_broadcast(&g->begin);
}

plp_status io_gather_read(io_gather *g, const io_range *list, int n, io_fetch fetch, const void *file)
{
    g->list = list, g->fetch = fetch, g->file = file, g->pieces = 0;
    for (int i = 0; i < n; i++) g->pieces += pieces_of(list + i);
    g->bad = g->pieces;
    atomic_store(&g->next, 0);
    if (g->threads > 1 && g->pieces > 1) {
        pthread_mutex_lock(&g->lock);
        call_helpers(g);
        pthread_mutex_unlock(&g->lock);
        read_some(g, 0);
        pthread_mutex_lock(&g->lock);
        while (g->busy > 0) pthread_cond_wait(&g->end, &g->lock);
        pthread_mutex_unlock(&g->lock);
    } else
        g->bad = 0;
    for (; g->bad < g->pieces; g->bad++) PLP_TRY(read_one(g, g->bad, 0)); /* again: a message belongs to the thread that writes it */
    return PLP_OK;
}

void io_gather_threads(io_gather *g, int threads)
{
    g->threads = threads < 1 ? 1 : threads < IO_MOST_THREADS ? threads : IO_MOST_THREADS;
    if (g->helpers > g->threads - 1) dismiss(g);
}

plp_status io_gather_create(io_gather **out)
{
    io_gather *g = calloc(1, sizeof *g);
    *out = g;
    PLP_TRY(PLP_ALLOCATED(g));
    g->threads = 1;
    for (int i = 0; i < IO_MOST_THREADS; i++) g->scratch[i].block = -1;
    pthread_mutex_init(&g->lock, NULL); /* neither fails on Linux */
    pthread_cond_init(&g->begin, NULL);
    pthread_cond_init(&g->end, NULL);
    return PLP_OK;
}

void io_gather_destroy(io_gather **out)
{
    io_gather *g = *out;
    if (g == NULL) return;
    dismiss(g);
    pthread_cond_destroy(&g->end);
    pthread_cond_destroy(&g->begin);
    pthread_mutex_destroy(&g->lock);
    for (int i = 0; i < IO_MOST_THREADS; i++) free(g->scratch[i].data);
    free(g);
    *out = NULL;
}
