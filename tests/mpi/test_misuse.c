/* The C library in the hands of a program that errs: what fails says so and touches nothing else, nothing ends the process, and an engine
 * beside one that has failed goes on. */
#include "mpi_test.h"

#include "engine/engine.h"

#include "base/error.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOKENS = 6 };
static const int prompt[] = { 5, 6, 7, 8 };
static int right[TOKENS];

typedef struct {
    plp_engine *e;
    int token[TOKENS], tokens;
    plp_status st;
    char message[400];
} work;

static uint64_t submit(plp_engine *e)
{
    uint64_t id = 0;
    plp_request r = plp_request_defaults();
    r.ids = prompt, r.count = 4, r.max_tokens = TOKENS, r.ignore_eos = 1, r.sampling.seed = 3;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_OK);
    return id;
}

/* One request from its beginning to its end, or to the first failure. */
static void *decode(void *arg)
{
    work *w = arg;
    int left = 1;
    submit(w->e);
    w->tokens = 0;
    while ((w->st = plp_engine_step(w->e, &left)) == PLP_OK && left > 0) {
        plp_event event;
        while (plp_engine_next_event(w->e, &event))
            if (event.kind == PLP_EVENT_TOKEN && w->tokens < TOKENS) w->token[w->tokens++] = event.token;
    }
    for (plp_event event; w->st == PLP_OK && plp_engine_next_event(w->e, &event);)
        if (event.kind == PLP_EVENT_TOKEN && w->tokens < TOKENS) w->token[w->tokens++] = event.token;
    snprintf(w->message, sizeof w->message, "%s", plp_last_error());
    return NULL;
}

static bool is_right(plp_engine *e)
{
    work w = { .e = e };
    decode(&w);
    return w.st == PLP_OK && w.tokens == TOKENS && memcmp(w.token, right, sizeof right) == 0;
}

static plp_status create(plp_engine **e, const char *path)
{
    return plp_engine_create(e, MPI_COMM_WORLD,
                             &(plp_engine_options){ .model = path, .device = PLP_DEVICE_CPU, .threads = 1, .max_seqs = 2 });
}

static plp_status refuse(void *arg, int64_t layer, const char *tensor, const void *data, plp_dtype dtype, int64_t rows, int64_t columns,
                         int64_t ld)
{
    (void)arg, (void)layer, (void)tensor, (void)data, (void)dtype, (void)rows, (void)columns, (void)ld;
    return PLP_FAIL(PLP_ERR_DEVICE, "a device that is lost, on purpose");
}

/* One of two engines fails in a step, and says the same ever after. */
static void one_of_two_fails(plp_engine *good)
{
    plp_engine *bad = NULL;
    work w = { 0 };
    int left = 7;
    CHECK(create(&bad, PLP_DEMO) == PLP_OK);
    model_set_probe(engine_session_of(bad)->model, (layer_probe){ .see = refuse });
    w.e = bad;
    decode(&w);
    CHECK(w.st == PLP_ERR_DEVICE && w.tokens == 0 && strstr(w.message, "a device that is lost") != NULL);
    CHECK(is_right(good));
    CHECK(plp_engine_step(bad, &left) == PLP_ERR_DEVICE && strstr(plp_last_error(), "an earlier step of this engine failed") != NULL);
    CHECK(plp_engine_save_state(bad, 1, "/nonexistent/state") == PLP_ERR_DEVICE);
    plp_engine_destroy(&bad);
    CHECK(bad == NULL);
    plp_engine_destroy(&bad); /* twice */
    CHECK(is_right(good));
}

/* Before it is looked whether there is memory, of which this takes tens of gigabytes, and weights are loaded. */
static void a_cache_that_cannot_be_is_refused_at_once(void)
{
    plp_engine *e = NULL;
    plp_engine_options o = {
        .model = PLP_DEMO, .device = PLP_DEVICE_CPU, .threads = 1, .max_seqs = 65535, .max_batch_tokens = 1 << 20, .cache = PLP_CACHE_ALL
    };
    o.cache_bytes = 1;
    CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &o) == PLP_ERR_USAGE && strstr(plp_last_error(), "has room for no state") != NULL);
    o.cache_bytes = 0, o.cache_block = 63;
    CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &o) == PLP_ERR_USAGE && strstr(plp_last_error(), "--cache-block 63") != NULL);
    o.max_batch_tokens = 8;
    CHECK(plp_engine_create(&e, MPI_COMM_WORLD, &o) == PLP_ERR_USAGE && strstr(plp_last_error(), "or lower --max-seqs") != NULL);
}

static void options_out_of_range_are_refused(plp_engine *e)
{
    plp_engine *nothing = NULL;
    const plp_engine_options minus = { .model = PLP_DEMO, .compute = (plp_number)-1 };
    CHECK(plp_engine_create(&nothing, MPI_COMM_WORLD, &minus) == PLP_ERR_USAGE && strstr(plp_last_error(), "compute -1;") != NULL);
    const plp_engine_options wrong[] = {
        { .max_seqs = INT_MAX },   { .max_batch_tokens = INT_MAX }, { .state = (plp_number)9 }, { .link = (plp_link)9 },
        { .cache = (plp_cache)9 }, { .cache_states = INT_MAX - 1 }, { .threads = INT_MAX },     { .cache_block = -64 },
    };
    for (size_t i = 0; i <= sizeof wrong / sizeof *wrong; i++) {
        const bool memory = i == sizeof wrong / sizeof *wrong; /* more than any machine has, and no small number of slots instead */
        plp_engine_options o = memory ? (plp_engine_options){ .cache_bytes = UINT64_MAX } : wrong[i];
        plp_engine *none = NULL;
        o.model = PLP_DEMO, o.device = PLP_DEVICE_CPU;
        if (o.cache == PLP_CACHE_NONE) o.cache = PLP_CACHE_ALL;
        const plp_status st = plp_engine_create(&none, MPI_COMM_WORLD, &o);
        CHECK(st == (memory ? PLP_ERR_MEMORY : PLP_ERR_USAGE) && none == NULL);
        CHECK(strstr(plp_last_error(), memory ? "short by" : "engine options") != NULL);
    }
    CHECK(is_right(e));
}

static void what_is_wrong_is_refused(plp_engine *e)
{
    uint64_t id = 99;
    plp_request r = plp_request_defaults();
    plp_engine *none = (plp_engine *)&r;
    CHECK(create(&none, "/nonexistent/model.h5") != PLP_OK && none == NULL && strlen(plp_last_error()) > 0);
    none = (plp_engine *)&r;
    CHECK(create(&none, "/dev/null") != PLP_OK && none == NULL);
    r.ids = prompt, r.count = 0;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_DATA && id == 99);
    r.count = 4, r.sampling.top_p = NAN;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_USAGE);
    r.sampling.top_p = 1, r.max_tokens = 0;
    CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_USAGE);
    r.max_tokens = 1, r.ids = (const int[]){ 5, -1, 7, 8 };
    CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_DATA);
    r.ids = prompt;
    int *const counts[] = { &r.stop_count, &r.stop_id_count, &r.bias_count, &r.allowed_count, &r.bad_count };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        *counts[i] = -1;
        CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_USAGE);
        *counts[i] = 0;
    }
    r.stops = (const char *const[]){ "a", "a\xc3" }, r.stop_count = 2; /* half of a character */
    CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_USAGE && strstr(plp_last_error(), "stop string 1: invalid UTF-8") != NULL);
    r.stop_count = 0;
    char *text = (char *)&r;
    size_t bytes;
    CHECK(plp_decode(e, (const int[]){ 5, -1 }, 2, 0, &text, &bytes) == PLP_ERR_DATA && text == NULL);
    CHECK(plp_decode(e, (const int[]){ 5, 1 << 30 }, 2, 0, &text, &bytes) == PLP_ERR_DATA && text == NULL);
    int *ids = NULL;
    size_t count = 9;
    CHECK(plp_encode(e, "", 0, 0, &ids, &count) == PLP_OK && ids != NULL && count == 0);
    plp_free(ids);
    CHECK(plp_encode(e, "a\xff\xe2\x82z", 5, 0, &ids, &count) == PLP_OK); /* a byte, and a character that is cut short */
    CHECK(plp_decode(e, ids, count, 0, &text, &bytes) == PLP_OK && strcmp(text, "a\xef\xbf\xbd\xef\xbf\xbdz") == 0);
    plp_free(text);
    plp_free(ids);
    r.state = "/nonexistent/state";
    CHECK(plp_engine_submit(e, &r, &id) == PLP_ERR_INPUT && id == 99);
    plp_engine_cancel(e, 12345);
    CHECK(plp_engine_save_state(e, 12345, "/nonexistent/state") == PLP_ERR_USAGE);
    CHECK(is_right(e));
}

/* Every argument that may be left out by mistake, one at a time. */
#define REFUSES(call, says) CHECK((call) == PLP_ERR_USAGE && strstr(plp_last_error(), says) != NULL)
static void what_is_missing_is_refused(plp_engine *e)
{
    plp_engine *none = (plp_engine *)&e;
    REFUSES(plp_engine_create(&none, MPI_COMM_WORLD, NULL), "options is NULL; plp_engine_create");
    CHECK(none == NULL);
    REFUSES(create(&none, NULL), "model is NULL");
    REFUSES(plp_engine_create(NULL, MPI_COMM_WORLD, &(plp_engine_options){ .model = PLP_DEMO }), "engine is NULL");
    REFUSES(plp_engine_create(&none, MPI_COMM_NULL, &(plp_engine_options){ .model = PLP_DEMO }), "MPI_COMM_NULL");
    plp_engine_destroy(NULL);

    int *ids = NULL, left = 0;
    char *text = NULL;
    size_t count = 9;
    uint64_t id = 99;
    plp_request r = plp_request_defaults();
    r.ids = prompt, r.count = 4;
    ids = &left, REFUSES(plp_encode(NULL, "a", 1, 1, &ids, &count), "engine is NULL; plp_encode");
    CHECK(ids == NULL && count == 0);
    ids = &left, REFUSES(plp_encode(e, NULL, 1, 1, &ids, &count), "text is NULL");
    CHECK(ids == NULL);
    REFUSES(plp_encode(e, "a", 1, 1, NULL, &count), "ids is NULL");
    ids = &left, REFUSES(plp_encode(e, "a", 1, 1, &ids, NULL), "count is NULL");
    CHECK(ids == NULL);
    CHECK(plp_encode(e, NULL, 0, 0, &ids, &count) == PLP_OK && count == 0);
    plp_free(ids);
    text = (char *)&r, count = 9, REFUSES(plp_decode(NULL, prompt, 4, 0, &text, &count), "engine is NULL");
    CHECK(text == NULL && count == 0);
    text = (char *)&r, REFUSES(plp_decode(e, NULL, 4, 0, &text, &count), "ids is NULL");
    CHECK(text == NULL);
    REFUSES(plp_decode(e, prompt, 4, 0, NULL, &count), "text is NULL");
    text = (char *)&r, REFUSES(plp_decode(e, prompt, 4, 0, &text, NULL), "bytes is NULL");
    CHECK(text == NULL);
    CHECK(plp_decode(e, NULL, 0, 0, &text, &count) == PLP_OK && count == 0);
    plp_free(text);
    REFUSES(plp_engine_submit(NULL, &r, &id), "engine is NULL");
    REFUSES(plp_engine_submit(e, NULL, &id), "request is NULL");
    REFUSES(plp_engine_submit(e, &r, NULL), "id is NULL");
    REFUSES(plp_engine_step(NULL, &left), "engine is NULL");
    REFUSES(plp_engine_step(e, NULL), "left is NULL");
    REFUSES(plp_engine_save_state(NULL, 1, "/nonexistent/state"), "engine is NULL");
    REFUSES(plp_engine_save_state(e, 1, NULL), "path is NULL");

    plp_engine_info info = { .vocabulary = 7 };
    plp_engine_stats stats = { .steps = 7 };
    plp_event event;
    plp_engine_describe(NULL, &info);
    plp_engine_statistics(NULL, &stats);
    CHECK(info.vocabulary == 0 && info.bos == -1 && info.backend != NULL && info.link != NULL && stats.steps == 0);
    plp_engine_describe(e, NULL);
    plp_engine_statistics(e, NULL);
    plp_engine_cancel(NULL, 1);
    CHECK(plp_token(NULL, 1) == NULL && plp_engine_next_event(NULL, &event) == 0 && plp_engine_next_event(e, NULL) == 0);
    CHECK(is_right(e));
}

/* Two groups that talk to each other are no group. */
static void an_inter_communicator_is_refused(plp_engine *e)
{
    int rank, size;
    MPI_Comm half, both;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size == 1) return;
    MPI_Comm_split(MPI_COMM_WORLD, rank == 0, rank, &half);
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, rank == 0 ? 1 : 0, 7, &both);
    plp_engine *none = (plp_engine *)&e;
    REFUSES(plp_engine_create(&none, both, &(plp_engine_options){ .model = PLP_DEMO }), "comm is an inter-communicator");
    CHECK(none == NULL);
    MPI_Comm_free(&both);
    MPI_Comm_free(&half);
    CHECK(is_right(e));
}

/* Every rank for itself: MPI is not there. */
static bool is_refused_without_mpi(const char *says)
{
    plp_engine *none = (plp_engine *)&says;
    const bool good = create(&none, PLP_DEMO) == PLP_ERR_USAGE && none == NULL && strstr(plp_last_error(), says) != NULL;
    if (!good) fprintf(stderr, "test_misuse: %s: \"%s\"\n", says, plp_last_error());
    return good;
}

/* What holds the log probability where one is asked for. */
static void no_logprobs_are_zero(plp_engine *e)
{
    int left = 1;
    submit(e);
    while (left > 0 && CHECK(plp_engine_step(e, &left) == PLP_OK))
        for (plp_event event; plp_engine_next_event(e, &event);)
            if (event.kind == PLP_EVENT_TOKEN) CHECK(event.logprob == 0 && event.tops == 0);
}

/* Arrays that a request counts and does not have. */
static void lists_that_are_missing_are_refused(plp_engine *e)
{
    const double bias = 1;
    const int size = 1, *const nothing = NULL;
    const char *const no_text = NULL;
    const struct {
        const char *says;
        plp_request r;
    } rows[] = {
        { "ids is NULL", { .ids = NULL } },
        { "ids is NULL", { .ids = NULL, .state = "/nonexistent/state" } },
        { "stop_ids is NULL", { .ids = prompt, .stop_id_count = 1 } },
        { "stops is NULL", { .ids = prompt, .stop_count = 1 } },
        { "stops[0] is NULL", { .ids = prompt, .stop_count = 1, .stops = &no_text } },
        { "bias_ids is NULL", { .ids = prompt, .bias_count = 1, .biases = &bias } },
        { "biases is NULL", { .ids = prompt, .bias_count = 1, .bias_ids = prompt } },
        { "allowed is NULL", { .ids = prompt, .allowed_count = 1 } },
        { "bad is NULL", { .ids = prompt, .bad_count = 1, .bad_sizes = &size } },
        { "bad_sizes is NULL", { .ids = prompt, .bad_count = 1, .bad = &nothing } },
        { "bad[0] is NULL", { .ids = prompt, .bad_count = 1, .bad = &nothing, .bad_sizes = &size } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const plp_request d = plp_request_defaults();
        plp_request r = rows[i].r;
        uint64_t id = 99;
        r.count = 4, r.sampling = d.sampling, r.max_tokens = 1, r.logprobs = -1, r.prompt_logprobs = -1;
        REFUSES(plp_engine_submit(e, &r, &id), rows[i].says);
        CHECK(id == 99);
    }
    CHECK(is_right(e));
}

/* One thread at a time, but any: and each has its own last message. */
static void another_thread_steps(plp_engine *e)
{
    work w = { .e = e };
    pthread_t thread;
    PLP_FAIL(PLP_ERR_IO, "of the main thread");
    const bool runs = pthread_create(&thread, NULL, decode, &w) == 0 && pthread_join(thread, NULL) == 0; /* it counts checks as well */
    CHECK(runs && w.st == PLP_OK && memcmp(w.token, right, sizeof right) == 0);
    CHECK(w.message[0] == 0 && strcmp(plp_last_error(), "of the main thread") == 0);
    CHECK(is_right(e));
}

/* A child that looks around and leaves takes nothing along. */
static void a_child_leaves(plp_engine *e)
{
    int status = 1;
    const pid_t child = fork();
    if (child == 0) {
        plp_engine_info info;
        plp_engine_describe(e, &info);
        _exit(info.max_seqs == 2 ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    CHECK(is_right(e));
}

int main(int argc, char **argv)
{
    const bool before = is_refused_without_mpi("MPI is not initialised");
    tp_group *g = mpi_test_begin(&argc, &argv);
    plp_engine *e = NULL;
    work w = { 0 };
    if (CHECK(create(&e, PLP_DEMO) == PLP_OK)) {
        w.e = e;
        decode(&w);
        CHECK(w.st == PLP_OK && w.tokens == TOKENS);
        memcpy(right, w.token, sizeof right);
        what_is_wrong_is_refused(e);
        what_is_missing_is_refused(e);
        lists_that_are_missing_are_refused(e);
        a_cache_that_cannot_be_is_refused_at_once();
        options_out_of_range_are_refused(e);
        one_of_two_fails(e);
        an_inter_communicator_is_refused(e);
        no_logprobs_are_zero(e);
        another_thread_steps(e);
        a_child_leaves(e);
    }
    plp_engine_destroy(&e);
    const int failed = mpi_test_end(g);
    return before && is_refused_without_mpi("MPI is finalised") ? failed : 1;
}
