/* Loading a model, beside what reading its bytes alone takes. */
#include "cli/bench.h"

#include "base/clock.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

enum { REPEATS = 5 };

typedef struct {
    /* Seconds: of reading the bytes alone; of filling the weights from the file; of all from opening the file to a model that can run. */
    double file[REPEATS], load[REPEATS], start[REPEATS];
    uint64_t passed, loaded; /* bytes read: of a pass over the file, of loading */
    const char *dtype;
} timings;

static plp_status time_pass(const bench *b, model_source *s, double *seconds, uint64_t *bytes)
{
    PLP_TRY(tp_barrier(b->group)); /* all ranks at once, as they load */
    const double begin = plp_seconds();
    PLP_TRY(tp_agree(b->group, model_source_pass(s, tp_rank(b->group), tp_size(b->group), bytes)));
    *seconds = plp_seconds() - begin;
    return PLP_OK;
}

static plp_status run_once(const bench *b, const char *path, bool trust, int i, timings *t)
{
    plp_status st = PLP_OK;
    model_source *s = NULL;
    model *m = NULL;
    model_options o = b->options;
    o.max_tokens = o.max_seqs = o.max_outs = o.slots = 1;
    const double begin = plp_seconds();
    PLP_DO(tp_agree(b->group, model_source_open(&s, path, &(model_source_options){ .trust = trust })));
    PLP_DO(model_create(&m, s, b->group, &o));
    t->start[i] = plp_seconds() - begin;
    t->load[i] = model_load_seconds(m);
    t->loaded = model_source_bytes_read(s);
    t->dtype = plp_dtype_name(model_config_of(m)->dtype);
    model_source_threads(s, model_threads(m));
    model_destroy(&m);
    PLP_DO(time_pass(b, s, &t->file[i], &t->passed)); /* by as many threads as have loaded */
done:
    model_destroy(&m);
    model_source_close(&s);
    return st;
}

static plp_status print(bench *b, const timings *t, const char *name, const char *check, double *times, uint64_t bytes, double floor_us)
{
    bench_row r = { .np = tp_size(b->group), .dtype = t->dtype, .bytes = (double)bytes, .floor_us = floor_us, .good = true };
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.shape, sizeof r.shape, "%.60s", b->shape);
    for (char *at = r.shape; (at = strpbrk(at, "\",\\|\n")) != NULL;) *at = '_'; /* of a path, for JSON, CSV and tables */
    snprintf(r.check, sizeof r.check, "%s", check);
    bench_times(&r, times, REPEATS);
    return bench_print(b, &r);
}

plp_status bench_load(bench *b, const char *path, bool trust)
{
    timings t = { 0 };
    for (int i = 0; i < REPEATS; i++) PLP_TRY(run_once(b, path, trust, i, &t));
    bench_row pass;
    bench_times(&pass, t.file, REPEATS);
    PLP_TRY(tp_max(b->group, &pass.us_med));
    const double floor_us = pass.us_med * (double)t.loaded / (double)t.passed;
    PLP_TRY(print(b, &t, "read", "none", t.file, t.passed, 0));
    PLP_TRY(print(b, &t, "load", "checksums", t.load, t.loaded, floor_us));
    return print(b, &t, "start", "checksums", t.start, t.loaded, floor_us);
}
