/* What runs for long takes no more than it took at first: resident memory, descriptors, threads and a GPU's memory, of engines that are made
 * and destroyed again and again, and of one that serves request after request.
 *
 *     test_soak [peers] [ENGINES REQUESTS TOKENS]       TOKENS: of each request; 1000 100000 10 take some minutes
 *
 * On the smallest fixture, and the CPU unless `peers` asks for a GPU a rank.  What is measured in the last tenth may exceed what was measured
 * after the first tenth by 1 MiB; on a GPU by 2, which is what its driver deals memory out in.  On GPUs the engines' first measure is taken
 * after a third of them: two ranks grew by 55 MB between the fourth engine and the last of 30, in another run by 0.1 between the eleventh and
 * the last of 100. */
#include "place.h"

#include "engine/engine.h"

#include "base/clock.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char model_path[] = PLP_TEST_DATA "/fixtures/mamba2-g1";
enum { SEQS = 16, MOST_MORE = 1 << 20, MOST_MORE_DEVICE = 2 << 20, LONGEST = 40 };
static place on;

typedef struct {
    int64_t resident, device; /* bytes; those in use on the GPU, by anybody */
    int descriptors, threads, shared;
} footprint;

static int entries(const char *directory)
{
    int n = 0;
    DIR *d = opendir(directory);
    while (d != NULL && readdir(d) != NULL) n++;
    if (d != NULL) closedir(d);
    return n;
}

static footprint measure(void)
{
    footprint f = { .descriptors = entries("/proc/self/fd"), .threads = entries("/proc/self/task"), .shared = entries("/dev/shm") };
    long long pages = 0;
    FILE *in = fopen("/proc/self/statm", "r");
    CHECK(in != NULL && fscanf(in, "%*s %lld", &pages) == 1);
    if (in != NULL) fclose(in);
    f.resident = pages * sysconf(_SC_PAGESIZE);
    size_t available, total;
    if (on.backend == kn_cuda()) {
        CHECK(on.backend->memory(on.device, &available, &total) == PLP_OK);
        f.device = (int64_t)(total - available);
    }
    return f;
}

/* The same when all ranks are done: a GPU's memory that another rank has mapped is free when that one lets go, too.  Its use has two seconds to
 * come down to `first`: it was once seen 304 MB higher on one of two GPUs right behind the last engine, and not any more with the next. */
static footprint measure_settled(const footprint *first)
{
    CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS);
    footprint f = measure();
    for (int tries = 0; tries < 20 && f.device - first->device > MOST_MORE_DEVICE; tries++) {
        usleep(100 * 1000);
        f = measure();
    }
    return f;
}

static void compare(const char *what, const footprint *first, const footprint *last, long long n, double seconds)
{
#ifndef PLP_SANITIZED /* freed memory stays in its quarantine */
    CHECK(last->resident - first->resident <= MOST_MORE);
#endif
    CHECK(last->device - first->device <= MOST_MORE_DEVICE);
    CHECK(last->descriptors == first->descriptors);
    CHECK(last->threads == first->threads);
    printf("%s: %lld in %.1f s; resident %.2f MB, then %.2f MB; %.1f MB on the GPU, then %.1f MB; %d descriptors, then %d; %d threads, "
           "then %d; "
           "%d files in /dev/shm, then %d\n",
           what, n, seconds, (double)first->resident * 1e-6, (double)last->resident * 1e-6, (double)first->device * 1e-6,
           (double)last->device * 1e-6, first->descriptors, last->descriptors, first->threads, last->threads, first->shared, last->shared);
}

static plp_engine *create(void)
{
    plp_engine *e = NULL;
    const plp_engine_options o = { .model = model_path,
                                   .device = on.backend == kn_cuda() ? PLP_DEVICE_CUDA : PLP_DEVICE_CPU,
                                   .threads = 1,
                                   .max_seqs = SEQS,
                                   .max_batch_tokens = 64,
                                   .cache = PLP_CACHE_ALIGN };
    CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &o) == PLP_OK);
    return e;
}

static uint64_t dice = 1;
static int below(int n)
{
    dice = dice * 6364136223846793005u + 1442695040888963407u;
    return (int)((dice >> 33) % (uint64_t)n);
}

static bool submit(plp_engine *e, int tokens)
{
    static int ids[LONGEST];
    uint64_t id;
    plp_request r = plp_request_defaults();
    for (int k = 0; k < LONGEST; k++) ids[k] = below(100);
    r.ids = ids, r.count = (size_t)(1 + below(LONGEST));
    r.max_tokens = tokens, r.ignore_eos = 1;
    r.sampling.seed = (uint64_t)below(1000), r.sampling.frequency = 0.1;
    if (below(4) == 0) r.sampling.top_p = 0.9;
    return CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
}

/* Requests one after the other, SEQS of them waiting; every hundredth is cancelled.  The tokens that came. */
static int64_t serve(plp_engine *e, int64_t requests, int tokens, footprint *first)
{
    int64_t submitted = 0, finished = 0, drawn = 0;
    int left = 0;
    while (finished < requests) {
        plp_event event;
        for (; submitted < requests && submitted - finished < 2 * SEQS; submitted++)
            if (!submit(e, tokens)) return drawn;
        if (!CHECK(plp_engine_step(e, &left) == PLP_OK)) return drawn;
        while (plp_engine_next_event(e, &event)) {
            drawn += event.kind == PLP_EVENT_TOKEN;
            finished += event.kind == PLP_EVENT_FINISHED;
            if (event.kind == PLP_EVENT_TOKEN && event.request % 100 == 7) plp_engine_cancel(e, event.request);
            if (!CHECK(event.kind != PLP_EVENT_ERROR)) return drawn;
            if (event.kind == PLP_EVENT_FINISHED && finished == requests / 10) *first = measure();
        }
    }
    CHECK(left == 0);
    return drawn;
}

static void make_and_destroy(int engines, footprint *first, footprint *last)
{
    for (int i = 0; i < engines; i++) {
        plp_engine *e = create();
        if (e == NULL) break;
        serve(e, 2, 3, last);
        plp_engine_destroy(&e);
        if (i == engines / (on.backend == kn_cuda() ? 3 : 10)) *first = measure();
    }
    *last = measure_settled(first);
}

/* Whether a rank's memory did.  What is lost with every engine is lost again with the next ones; what a process takes once is not (0.95 MB in one run of
 * 30, 1.1 in one under load, 0.02 to 0.15 in all others). */
static bool grew(const footprint *first, const footprint *last)
{
    int any = last->resident - first->resident > MOST_MORE;
    CHECK(MPI_Allreduce(MPI_IN_PLACE, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD) == MPI_SUCCESS);
    return any;
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    int engines = 30, tokens = 10, skipped;
    int64_t requests = tp_size(g) == 1 ? 6000 : 600; /* ranks that share a busy processor take turns slowly */
    const bool placed = argc % 3 == 2;
    char **numbers = argv + 1 + placed;
    if (!place_chosen(placed ? argc : 1, argv, g, &on, &skipped)) return skipped;
    if (argc > 3) engines = atoi(numbers[0]), requests = atoll(numbers[1]), tokens = atoi(numbers[2]);
    if (argc > 3) alarm(0); /* longer than a test may take */
    footprint first = { 0 }, last;
    double began = plp_seconds();
    make_and_destroy(engines, &first, &last);
    if (grew(&first, &last)) make_and_destroy(engines, &first, &last);
    compare("engines", &first, &last, engines, plp_seconds() - began);

    plp_engine *e = create();
    if (e != NULL) {
        began = plp_seconds();
        const int64_t drawn = serve(e, requests, tokens, &first);
        last = measure();
        CHECK(drawn > requests * tokens * 9 / 10);
        compare("requests", &first, &last, requests, plp_seconds() - began);
        printf("%lld tokens\n", (long long)drawn);
    }
    plp_engine_destroy(&e);
    return mpi_test_end(g);
}
