/* Whatever allocation or call to the system fails, once or from then on: a job ends with a status that says so, or has done all of its work;
 * it leaves no half-written file and no descriptor, and what can be resumed gives the same bytes.
 *
 *     test_failures [all]        without it, of many failures a part (all of the first 20, and ever fewer behind): sanitizers take long */
#include "failures/fail.h"

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/sampling.h"
#include "model/source.h"
#include "unit/unit_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char fixture[] = PLP_TEST_DATA "/fixtures/mamba2-g1";
static bool all;
static cli program;

/* ---------------------------------------------------------------------------------------------------------------------- files */
static char *in_dir(const char *name)
{
    static char path[4][160];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

typedef struct {
    char *data;
    size_t bytes;
} contents;

/* NULL where there is no such file. */
static contents read_all(const char *name)
{
    contents c = { 0 };
    FILE *f = fopen(in_dir(name), "rb");
    if (f == NULL) return c;
    c.data = malloc(1 << 22);
    assert_non_null(c.data);
    c.bytes = fread(c.data, 1, 1 << 22, f);
    assert_true(c.bytes < 1 << 22);
    fclose(f);
    return c;
}

static bool exists(const char *name) { return access(in_dir(name), F_OK) == 0; }

static int descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d) != NULL) n++;
    closedir(d);
    return n;
}

static void remove_outputs(void)
{
    static const char *const names[] = { "out", "out.part", "out.tmp", "out.lock", "made.h5", "made.h5.part" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_dir(names[i]));
}

/* ----------------------------------------------------------------------------------------------------------------------- work */
/* Something that can be done again and again: work gives a status; check looks at what it left. */
typedef struct {
    const char *name;
    plp_status (*work)(void);
    void (*check)(plp_status st);
} job;

static contents model_bytes, answer_bytes;

static plp_status convert(void) { return model_convert(fixture, in_dir("made.h5"), &(model_convert_options){ .check_finite = true }); }
static void check_convert(plp_status st)
{
    contents made = read_all("made.h5");
    assert_false(exists("made.h5.part"));
    if (st == PLP_OK) assert_non_null(made.data);
    if (made.data != NULL) { /* perhaps under its name and yet not synced, which is an error */
        assert_int_equal(made.bytes, model_bytes.bytes);
        assert_memory_equal(made.data, model_bytes.data, made.bytes);
    }
    free(made.data);
}

enum { TOKENS = 4, PROMPTS = 2 };
static int drawn[PROMPTS][TOKENS], right[PROMPTS][TOKENS];

static plp_status decode(plp_engine *e, const plp_request *requests)
{
    plp_event event;
    uint64_t id;
    int left = 1, count[PROMPTS] = { 0 };
    for (int i = 0; i < PROMPTS; i++) PLP_TRY(plp_engine_submit(e, &requests[i], &id));
    while (left > 0) {
        PLP_TRY(plp_engine_step(e, &left));
        while (plp_engine_next_event(e, &event)) {
            if (event.kind == PLP_EVENT_ERROR) return event.status;
            const int i = (int)event.request - 1;
            assert_in_range(i, 0, PROMPTS - 1);
            if (event.kind == PLP_EVENT_TOKEN) drawn[i][count[i]++] = event.token;
        }
    }
    return PLP_OK;
}

static plp_status use_engine(plp_engine *e, int *ids, size_t count)
{
    static const char *const stops[] = { "zzz" };
    plp_request requests[PROMPTS];
    for (int i = 0; i < PROMPTS; i++) {
        requests[i] = plp_request_defaults();
        requests[i].ids = ids, requests[i].count = count - (size_t)i;
        requests[i].max_tokens = TOKENS, requests[i].ignore_eos = 1, requests[i].logprobs = i;
        requests[i].sampling.frequency = i, requests[i].sampling.top_p = 0.9, requests[i].sampling.seed = 5;
    }
    plp_engine_info info;
    plp_engine_describe(e, &info);
    if (info.has_tokenizer) requests[0].stops = stops, requests[0].stop_count = 1;
    return decode(e, requests);
}

static plp_status run_engine(const char *model)
{
    plp_engine *e = NULL;
    int few[] = { 5, 6, 7, 8 }, *ids = few;
    size_t count = 4;
    memset(drawn, 0, sizeof drawn);
    const plp_engine_options o = { .model = model, .device = PLP_DEVICE_CPU, .threads = 1, .max_seqs = 2, .cache = PLP_CACHE_ALIGN };
    plp_status st = plp_engine_create(&e, MPI_COMM_WORLD, &o);
    if (st != PLP_OK) {
        assert_null(e);
        return st;
    }
    plp_engine_info info;
    plp_engine_describe(e, &info);
    if (info.has_tokenizer) st = plp_encode(e, "In the beginning", 16, 1, &ids, &count);
    if (st == PLP_OK) st = use_engine(e, ids, count);
    if (ids != few) plp_free(ids);
    plp_engine_destroy(&e);
    return st;
}
static plp_status run_file(void) { return run_engine(in_dir("model.h5")); }
static plp_status run_directory(void) { return run_engine(PLP_DEMO); }
static void check_engine(plp_status st)
{
    if (st == PLP_OK) assert_memory_equal(drawn, right, sizeof right);
}

static plp_status run_batch(void) { return cli_run_batch.run(&program); }
static void check_batch(plp_status st)
{
    for (int again = 0; again < 2; again++) { /* what is under its name is whole; and then the same command goes on */
        contents out = read_all("out");
        if (st == PLP_OK) assert_non_null(out.data);
        if (out.data != NULL) {
            assert_int_equal(out.bytes, answer_bytes.bytes);
            assert_memory_equal(out.data, answer_bytes.data, out.bytes);
        }
        free(out.data);
        assert_false(exists("out.tmp"));
        unlink(in_dir("out.lock")); /* to take it away may be what failed */
        if (exists("out") && !exists("out.part")) break;
        st = run_batch();
        if (st != PLP_OK) fail_msg("resumed: %s", plp_last_error());
    }
}

/* ----------------------------------------------------------------------------------------------------------------------- loops */
static const char *plan_name(const fail_plan *p)
{
    static char text[64];
    const char *kind = p->kind == FAIL_MEMORY ? "memory" : p->kind == FAIL_SHORT ? "short" : strerror(p->error);
    snprintf(text, sizeof text, "%s, %s", kind, p->on ? "from then on" : "once");
    return text;
}

static bool is_right(const fail_plan *p, const char *call, plp_status st)
{
    const bool moves = strcmp(call, "read") == 0 || strcmp(call, "pread") == 0 || strcmp(call, "write") == 0 || strcmp(call, "pwrite") == 0;
    if (st == PLP_OK) return true;
    if (p->kind == FAIL_MEMORY) return st == PLP_ERR_MEMORY;
    if (p->kind == FAIL_SHORT || (p->error == EINTR && moves)) return false; /* is to be done again */
    return st == PLP_ERR_IO || st == PLP_ERR_CREATE || st == PLP_ERR_INPUT || st == PLP_ERR_DATA;
}

/* n = 1, 2, ... until nothing fails any more. */
static void loop(const job *j, fail_plan p)
{
    long tries = 0, errors = 0;
    const int open_before = descriptors();
    for (p.n = 1;; p.n += all ? 1 : 1 + p.n / 20) {
        remove_outputs();
        fail_begin(&p);
        const plp_status st = j->work();
        const char *call = fail_end();
        if (call == NULL) {
            assert_int_equal(st, PLP_OK);
            break;
        }
        tries++, errors += st != PLP_OK;
        if (!is_right(&p, call, st))
            fail_msg("%s, %s: number %ld, %s: %s: %s (%s)", j->name, plan_name(&p), p.n, call, plp_status_name(st), plp_last_error(),
                     plp_last_error_site());
        if (getenv("FAIL_SHOW")) print_message("%s %ld %s: %s %s\n", j->name, p.n, call, plp_status_name(st), st ? plp_last_error() : "");
        j->check(st);
        if (descriptors() != open_before)
            fail_msg("%s, %s: number %ld, %s: %d descriptors, before %d", j->name, plan_name(&p), p.n, call, descriptors(), open_before);
    }
    assert_true(tries > 0);
    print_message("%-9s %s: %ld of %ld, %ld ended in an error\n", j->name, plan_name(&p), tries, p.n - 1, errors);
}

static void every_allocation(const job *j)
{
    loop(j, (fail_plan){ .kind = FAIL_MEMORY });
    loop(j, (fail_plan){ .kind = FAIL_MEMORY, .on = true });
}

static void every_call(const job *j, bool writes)
{
    loop(j, (fail_plan){ .kind = FAIL_ERROR, .error = EIO });
    loop(j, (fail_plan){ .kind = FAIL_ERROR, .error = EINTR });
    loop(j, (fail_plan){ .kind = FAIL_SHORT });
    if (!writes) return;
    loop(j, (fail_plan){ .kind = FAIL_ERROR, .error = ENOSPC });
    loop(j, (fail_plan){ .kind = FAIL_ERROR, .error = ENOSPC, .on = true });
}

static void conversion(void **state)
{
    (void)state;
    static const job j = { "convert", convert, check_convert };
    every_allocation(&j);
    every_call(&j, true);
}

static void engine_of_a_file(void **state)
{
    (void)state;
    static const job j = { "engine", run_file, check_engine };
    assert_int_equal(run_file(), PLP_OK);
    memcpy(right, drawn, sizeof right);
    every_allocation(&j);
    every_call(&j, false);
}

static void engine_of_a_directory_with_a_tokenizer(void **state)
{
    (void)state;
    static const job j = { "directory", run_directory, check_engine };
    assert_int_equal(run_directory(), PLP_OK);
    memcpy(right, drawn, sizeof right);
    every_allocation(&j);
    every_call(&j, false);
}

static void batch_job_with_journal(void **state)
{
    (void)state;
    static const job j = { "batch", run_batch, check_batch };
    every_allocation(&j);
    every_call(&j, true);
}

static int begin(void **state)
{
    static char *arguments[] = { "--input", NULL, "--output", NULL, "--max-seqs", "2", "--progress",  "off",
                                 "-n",      "3",  "-t",       "0",  "--logprobs", "1", "--ignore-eos" };
    const plp_option_table tables[] = { { "", cli_run_batch.options, cli_run_batch.option_count },
                                        { "", cli_sampling_options, CLI_SAMPLING_OPTIONS } };
    int words;
    if (make_dir(state) != 0) return -1;
    plp_log_threshold(PLP_LOG_NONE);
    FILE *f = fopen(in_dir("in"), "w");
    if (f == NULL) return -1;
    for (int i = 0; i < 3; i++) fprintf(f, "{\"id\": \"%d\", \"prompt\": [%d, 2, 3]%s}\n", i, i, i == 1 ? ", \"n\": 2" : "");
    fclose(f);
    arguments[1] = strdup(in_dir("in")), arguments[3] = strdup(in_dir("out"));
    if (tp_group_create(&program.group, MPI_COMM_WORLD) != PLP_OK) return -1;
    program.size = 1;
    program.model = (plp_engine_options){ .model = strdup(in_dir("model.h5")), .device = PLP_DEVICE_CPU, .threads = 1 };
    if (plp_options_parse(tables, 2, sizeof arguments / sizeof *arguments, arguments, NULL, 0, &words) != PLP_OK ||
        model_convert(fixture, program.model.model, &(model_convert_options){ 0 }) != PLP_OK || run_batch() != PLP_OK) {
        fprintf(stderr, "%s\n", plp_last_error());
        return -1;
    }
    model_bytes = read_all("model.h5"), answer_bytes = read_all("out");
    return 0; /* the options keep what they were given */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversion),
        cmocka_unit_test(engine_of_a_file),
        cmocka_unit_test(engine_of_a_directory_with_a_tokenizer),
        cmocka_unit_test(batch_job_with_journal),
    };
    int threads;
    all = argc > 1 && strcmp(argv[1], "all") == 0;
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &threads) != MPI_SUCCESS) return 1;
    const int failures = cmocka_run_group_tests(tests, begin, drop_dir);
    free(model_bytes.data);
    free(answer_bytes.data);
    free((char *)program.model.model);
    tp_group_destroy(&program.group);
    MPI_Finalize();
    return failures;
}
