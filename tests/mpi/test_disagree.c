/* Ranks of which one has other options, another request, one less than the others, or none at all: plp_engine_create or plp_engine_step says
 * so on every rank, and nobody waits.  It is the last rank, then rank 0. */
#include "mpi_test.h"

#include "polylepis/engine.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Those from BIAS on: the same of everything in number, but not the same. */
typedef enum {
    NO_PROMPT,
    NO_STATE_FILE,
    CANCELS_WAITING,
    CANCELS_RUNNING,
    BIAS,
    BIAS_ID,
    ALLOWED,
    BAD_WORD,
    BAD_WORDS,
    STOPS,
    CASES
} mishap;

static char state_path[64], no_path[] = "/nonexistent/state";

static plp_engine *create(plp_ahead ahead)
{
    plp_engine *e = NULL;
    CHECK(plp_engine_create(
              &e, MPI_COMM_WORLD,
              &(plp_engine_options){ .model = PLP_DEMO, .device = PLP_DEVICE_CPU, .threads = 1, .max_seqs = 2, .ahead = ahead }) == PLP_OK);
    return e;
}

static plp_request request(void)
{
    static const int prompt[] = { 5, 6, 7, 8 };
    plp_request r = plp_request_defaults();
    r.ids = prompt, r.count = 4, r.max_tokens = 6, r.ignore_eos = 1;
    return r;
}

static void skip_events(plp_engine *e)
{
    for (plp_event event; plp_engine_next_event(e, &event);) continue;
}

/* A step is called where nobody has a request: as often as one likes, and requests come and go in between. */
static void steps_without_requests(plp_engine *e)
{
    for (int round = 0; round < 3; round++) {
        uint64_t id = 0;
        int left = 7;
        const plp_request r = request();
        for (int i = 0; i < 3; i++) CHECK(plp_engine_step(e, &left) == PLP_OK && left == 0);
        CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
        if (round == 1) plp_engine_cancel(e, id);
        for (left = 1; left > 0;) {
            if (!CHECK(plp_engine_step(e, &left) == PLP_OK)) return;
            skip_events(e);
        }
    }
    plp_engine_stats stats;
    plp_engine_statistics(e, &stats);
    CHECK(stats.output_tokens == 12);
}

/* Leaves the file of a request that is under way. */
static void save_state(plp_engine *e)
{
    uint64_t id = 0;
    int left;
    const plp_request r = request();
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    CHECK(plp_engine_step(e, &left) == PLP_OK);
    CHECK(plp_engine_save_state(e, id, state_path) == PLP_OK);
}

/* What a request has that another rank's has otherwise. */
static void give_other(mishap what, bool here, plp_request *r)
{
    static const int ids[] = { 11, 12, 13, 14 }, *const words[][2] = { { ids, ids + 2 }, { ids, ids + 1 } },
                     sizes[][2] = { { 2, 1 }, { 1, 2 } };
    static const double biases[] = { 0.5, 0.25 };
    static const char *const stops[][2] = { { "ab", "c" }, { "a", "bc" } };
    if (what == BIAS || what == BIAS_ID)
        r->bias_ids = ids + (here && what == BIAS_ID), r->biases = biases + (here && what == BIAS), r->bias_count = 1;
    if (what == ALLOWED) r->allowed = ids + here, r->allowed_count = 3;
    if (what == BAD_WORD) r->bad = words[0] + here, r->bad_sizes = sizes[0] + 1, r->bad_count = 1;
    if (what == BAD_WORDS) r->bad = words[here], r->bad_sizes = sizes[here], r->bad_count = 2; /* 11 12, 13; and 11, 12 13 */
    if (what == STOPS) r->stops = stops[here], r->stop_count = 2;
}

static uint64_t happens(mishap what, bool here, plp_engine *e)
{
    uint64_t id = 0;
    int left;
    plp_request r = request();
    plp_status wanted = PLP_OK;
    if (what == NO_PROMPT && here) r.count = 0, wanted = PLP_ERR_DATA;
    if (what == NO_STATE_FILE) r.count = 0, r.state = here ? no_path : state_path, wanted = here ? PLP_ERR_INPUT : PLP_OK;
    give_other(what, here, &r);
    CHECK(plp_engine_submit(e, &r, &id) == wanted);
    if (what == CANCELS_RUNNING) CHECK(plp_engine_step(e, &left) == PLP_OK && left == 1);
    if ((what == CANCELS_WAITING || what == CANCELS_RUNNING) && here) plp_engine_cancel(e, id);
    return id;
}

static void all_are_told(mishap what, bool here, plp_ahead ahead)
{
    plp_engine *e = create(ahead);
    int left;
    if (e == NULL) return;
    const uint64_t id = happens(what, here, e);
    CHECK(plp_engine_step(e, &left) == PLP_ERR_DISAGREE && strstr(plp_last_error(), "other requests") != NULL);
    skip_events(e);
    CHECK(plp_engine_step(e, &left) == PLP_ERR_DISAGREE); /* and stays so */
    CHECK(plp_engine_save_state(e, id, no_path) == PLP_ERR_DISAGREE);
    plp_engine_destroy(&e);
    CHECK(e == NULL);
}

/* Each option is one rank's own: an engine is made nowhere, and nobody waits. */
static void options_differ(bool here)
{
#define FIXED   .model = PLP_DEMO, .threads = 1, .trust_model = 1
#define OPTIONS FIXED, .device = PLP_DEVICE_CPU, .link = PLP_LINK_MPI /* any number of ranks on a GPU */
    static const plp_engine_options all = { OPTIONS };
    static const struct {
        const char *name;
        plp_engine_options options;
    } own[] = {
        { "compute", { OPTIONS, .compute = PLP_NUMBER_F32 } },
        { "state", { OPTIONS, .state = PLP_NUMBER_BF16 } },
        { "link", { FIXED, .device = PLP_DEVICE_CPU } },
        { "deterministic", { OPTIONS, .deterministic = 1 } },
        { "max_seqs", { OPTIONS, .max_seqs = -1 } },
        { "max_batch_tokens", { OPTIONS, .max_batch_tokens = 512 } },
        { "max_slice", { OPTIONS, .max_slice = 64 } },
        { "cache", { OPTIONS, .cache = PLP_CACHE_ALIGN } },
        { "cache_block", { OPTIONS, .cache_block = 1 << 20 } },
        { "cache_states", { OPTIONS, .cache_states = 1 << 30 } },
        { "cache_bytes", { OPTIONS, .cache_bytes = UINT64_MAX } },
        { "ahead", { OPTIONS, .ahead = PLP_AHEAD_ON } },
        { "allow_nonfinite", { OPTIONS, .allow_nonfinite = 1 } },
    };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        char wanted[64];
        plp_engine *e = NULL;
        snprintf(wanted, sizeof wanted, " has another %s than rank 0", own[i].name);
        CHECK(plp_engine_create(&e, MPI_COMM_WORLD, here ? &own[i].options : &all) == PLP_ERR_DISAGREE && e == NULL);
        CHECK(strstr(plp_last_error(), wanted) != NULL);
    }
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    long pid = (long)getpid();
    CHECK(tp_broadcast(g, &pid, sizeof pid, 0) == PLP_OK);
    snprintf(state_path, sizeof state_path, "/tmp/plp_test_disagree.%ld", pid);
    for (int odd = 0; odd < 2; odd++) options_differ(tp_rank(g) == (odd == 0 ? tp_size(g) - 1 : 0));
    for (plp_ahead ahead = PLP_AHEAD_OFF; ahead <= PLP_AHEAD_ON; ahead++) {
        plp_engine *e = create(ahead);
        if (e != NULL) steps_without_requests(e);
        if (e != NULL) save_state(e);
        plp_engine_destroy(&e);
        for (mishap what = 0; what < (ahead == PLP_AHEAD_OFF ? CASES : BIAS); what++)
            for (int odd = 0; odd < 2; odd++) all_are_told(what, tp_rank(g) == (odd == 0 ? tp_size(g) - 1 : 0), ahead);
    }
    if (tp_rank(g) == 0) unlink(state_path);
    return mpi_test_end(g);
}
