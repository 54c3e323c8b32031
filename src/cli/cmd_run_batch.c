/* polylepis run-batch: many prompts from a file, their continuations to another; a job that was killed goes on where it was. */
#include "cli/batch_loop.h"
#include "cli/batch_summary.h"
#include "cli/canary.h"
#include "cli/commands.h"
#include "cli/json_parts.h"
#include "cli/sampling.h"
#include "cli/stop.h"

#include "base/error.h"
#include "base/json_out.h"
#include "base/log.h"
#include "engine/engine.h"
#include "io/journal.h"
#include "io/jsonl.h"
#include "polylepis/polylepis.h"
#include "tp/stamp.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *input, *output, *summary, *canary;
    int order, duplicates, progress;
    bool strict, force, break_lock;
    int64_t max_seqs, line_mib;
    int64_t answers;
    bool include_stop;
} given = { .line_mib = 64, .answers = 1 };

static const plp_option options[] = {
    { "--input", "-i", "IN.jsonl", PLP_OPTION_TEXT, &given.input, 1, 0,
      "one request a line, {\"id\": \"a\", \"prompt\": TEXT or [ids], ...}, or\nOpenAI's batch form; -: standard input" },
    { "--output", "-o", "OUT.jsonl", PLP_OPTION_TEXT, &given.output, 1, 0,
      "one answer a line; -: standard output.  OUT.jsonl.part while the job\nruns: the same command goes on with it" },
    { "--max-seqs", NULL, "N", PLP_OPTION_INT, &given.max_seqs, 1, 65535,
      "most requests that run at a time; default: as many states as\nmemory holds, at most 256" },
    { "--order", NULL, "input|finished", PLP_OPTION_CHOICE, &given.order, 0, 0, "of the answers" },
    { "--strict", NULL, NULL, PLP_OPTION_FLAG, &given.strict, 0, 0,
      "end with the first bad line; what shows without the model is found\nbefore anything is computed" },
    { "--dup", NULL, "refuse|allow", PLP_OPTION_CHOICE, &given.duplicates, 0, 0, "an id that comes again is an error of its line" },
    { "--answers", NULL, "N", PLP_OPTION_INT, &given.answers, 1, 128, "to each prompt, the field n; default 1" },
    { "--include-stop", NULL, NULL, PLP_OPTION_FLAG, &given.include_stop, 0, 0, "a stop string is part of the text" },
    { "--max-line-mib", NULL, "N", PLP_OPTION_INT, &given.line_mib, 1, 1024, "longest line, in MiB; default 64" },
    { "--force", NULL, NULL, PLP_OPTION_FLAG, &given.force, 0, 0, "begin anew, and replace output and summary if they exist" },
    { "--break-lock", NULL, NULL, PLP_OPTION_FLAG, &given.break_lock, 0, 0, "the job of another host that holds the output is gone" },
    { "--summary", NULL, "FILE", PLP_OPTION_TEXT, &given.summary, 1, 0,
      "write the closing summary as JSON, in the place of an older one;\n--force: of any file" },
    { "--canary", NULL, "FILE", PLP_OPTION_TEXT, &given.canary, 1, 0,
      "compute a fixed prompt at the start and the end: record its answer\nin FILE, or stop with 76 if it is not the same any more" },
    { "--progress", NULL, "auto|off", PLP_OPTION_CHOICE, &given.progress, 0, 0, "a line on a terminal, one every ten seconds in a log" },
};

/* --------------------------------------------------------------------------------------------------------------------- header */
static const char *number_name(plp_number n)
{
    static const char *const names[] = { "auto", "f32", "bf16", "f16" };
    return names[n];
}

static void add_stops(json_object *o, const plp_request *r)
{
    json_object *stops = json_object_new_array(), *ids = json_object_new_array();
    for (int i = 0; i < r->stop_count; i++) json_object_array_add(stops, json_object_new_string(r->stops[i]));
    for (int i = 0; i < r->stop_id_count; i++) json_object_array_add(ids, json_object_new_int(r->stop_ids[i]));
    json_object_object_add(o, "stop", stops);
    json_object_object_add(o, "stop_token_ids", ids);
}

/* All that the answers depend on.  Neither the number of ranks nor the size of the batch is among it: a job may go on with others. */
static json_object *header_of(const cli *c, plp_engine *e, const batch_input *in, const batch_defaults *d)
{
    plp_engine_info info;
    const plp_request *r = &d->request;
    json_object *o = json_object_new_object();
    plp_engine_describe(e, &info);
    cli_add_text(o, "format", IO_JOURNAL_FORMAT " 1");
    cli_add_text(o, "version", plp_version());
    cli_add_text(o, "input", batch_input_digest(in));
    cli_add_text(o, "model", model_source_digest(engine_session_of(e)->source));
    cli_add_text(o, "backend", info.backend);
    cli_add_text(o, "dtype", number_name(c->model.compute));
    cli_add_text(o, "state_dtype", number_name(c->model.state));
    cli_add_int(o, "dup", given.duplicates);
    cli_add_int(o, "n", d->n);
    cli_add_int(o, "seed", d->seed);
    cli_add_int(o, "max_tokens", r->max_tokens);
    cli_add_int(o, "min_tokens", r->min_tokens);
    cli_add_real(o, "temperature", r->sampling.temperature);
    cli_add_int(o, "top_k", r->sampling.top_k);
    cli_add_real(o, "top_p", r->sampling.top_p);
    cli_add_real(o, "min_p", r->sampling.min_p);
    cli_add_real(o, "repetition_penalty", r->sampling.repetition);
    cli_add_real(o, "presence_penalty", r->sampling.presence);
    cli_add_real(o, "frequency_penalty", r->sampling.frequency);
    cli_add_int(o, "logprobs", r->logprobs);
    cli_add_int(o, "ignore_eos", r->ignore_eos);
    cli_add_int(o, "special", r->keep_special);
    cli_add_int(o, "include_stop", d->include_stop);
    cli_add_int(o, "bos", d->bos.add - d->bos.leave_out);
    cli_add_int(o, "max_line_mib", given.line_mib);
    add_stops(o, r);
    return o;
}

/* ------------------------------------------------------------------------------------------------------------------ rank 0 only */
/* What is written is none of what is read. */
static plp_status not_read(const cli *c, const batch_input *in, const char *name)
{
    PLP_TRY(cli_not_input(name, c->model.model));
    return cli_not_file(name, batch_input_stat(in));
}

static bool is_summary(const char *name)
{
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s.part", given.summary);
    return cli_same_name(name, given.summary) || cli_same_name(name, part);
}

/* The files that a job makes, or takes away, under its output's name are none that it reads, nor the summary or its part. */
static plp_status check_output(const cli *c, const batch_input *in)
{
    static const char *const suffixes[] = { "", ".part", ".tmp", ".lock" };
    plp_status st = PLP_OK;
    const size_t room = strlen(given.output) + 8;
    char *name = NULL;
    if (strcmp(given.output, "-") == 0) return PLP_OK;
    PLP_TRY(PLP_ALLOCATED(name = malloc(room)));
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        snprintf(name, room, "%s%s", given.output, suffixes[i]);
        PLP_DO(not_read(c, in, name));
        PLP_DO(cli_not_input(name, given.canary));
        if (given.canary != NULL && cli_same_name(name, given.canary)) /* which need not exist yet */
            PLP_DO(PLP_FAIL(PLP_ERR_CREATE, "--canary %s is the job's own; output; fix: choose another name", name));
        if (given.summary != NULL && is_summary(name))
            PLP_DO(PLP_FAIL(PLP_ERR_CREATE, "--summary %s is the job's own; output; fix: choose another name", name));
    }
done:
    free(name);
    return st;
}

static plp_status check_summary(const cli *c, const batch_input *in)
{
    if (given.summary == NULL) return PLP_OK;
    PLP_TRY(not_read(c, in, given.summary));
    PLP_TRY(cli_not_input(given.summary, given.canary));
    if (given.canary != NULL && is_summary(given.canary))
        return PLP_FAIL(PLP_ERR_CREATE, "--canary %s is the summary's; output; fix: choose another name", given.canary);
    return PLP_OK;
}

static plp_status check_files(const cli *c, const batch_input *in)
{
    PLP_TRY(check_output(c, in));
    PLP_TRY(check_summary(c, in));
    return given.canary != NULL ? not_read(c, in, given.canary) : PLP_OK;
}

/* What can be refused is refused before the model is loaded. */
static plp_status open_files(const cli *c, batch_job *job, batch_summary *summary)
{
    PLP_TRY(batch_input_create(&job->input, given.input, (size_t)given.line_mib << 20, given.duplicates == 1));
    PLP_TRY(check_files(c, job->input));
    PLP_TRY(batch_output_create(&job->output, given.output, given.order == 0, given.force, given.break_lock));
    PLP_TRY(batch_summary_open(summary, given.summary, given.force));
    if (!given.strict) return PLP_OK;
    if (batch_input_digest(job->input) == NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "--strict with an input that is no file; command line; fix: give a file, it is read twice");
    return batch_input_check(job->input, job->defaults);
}

static plp_status begin(const cli *c, batch_job *job)
{
    io_journal_found found;
    json_object *header = header_of(c, job->engine, job->input, job->defaults);
    plp_status st = plp_json_complete("the header of the journal");
    if (st == PLP_OK)
        st = batch_output_begin(job->output, header, batch_input_digest(job->input) != NULL, batch_input_lines(job->input), &found);
    json_object_put(header);
    PLP_TRY(st);
    job->report.lines = batch_input_lines(job->input);
    job->report.done = job->report.resumed = found.done;
    job->report.failed = found.failed;
    if (found.dropped > 0)
        plp_log(PLP_LOG_WARN, "%s.part: %lld damaged bytes at its end were dropped", given.output, (long long)found.dropped);
    if (found.done > 0) plp_log(PLP_LOG_INFO, "%lld requests were done before", (long long)found.done);
    return PLP_OK;
}

static plp_status finish(batch_job *job)
{
    PLP_TRY(batch_input_end(job->input));
    return batch_output_finish(job->output, job->report.done);
}

static plp_status write_summary(const batch_job *job, batch_summary *file, bool finished)
{
    plp_engine_info info;
    plp_engine_stats stats;
    plp_engine_statistics(job->engine, &stats);
    batch_report_progress(&job->report, true);
    batch_report_log(&job->report, &stats);
    if (file->path == NULL) return PLP_OK;
    plp_engine_describe(job->engine, &info);
    json_object *o = batch_report_json(&job->report, &info, &stats, finished);
    const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY);
    plp_status st = plp_json_complete("the summary");
    if (st == PLP_OK) st = PLP_ALLOCATED(text);
    if (st == PLP_OK) st = batch_summary_write(file, text);
    json_object_put(o);
    return st;
}

/* ----------------------------------------------------------------------------------------------------------------------- run */
static plp_status run_job(cli *c, batch_job *job, batch_summary *summary)
{
    plp_engine_info info;
    plp_engine_describe(job->engine, &info);
    plp_log(PLP_LOG_INFO, "%d rank%s on %s, %d requests at a time", info.size, info.size == 1 ? "" : "s", info.backend, info.max_seqs);
    if (given.canary != NULL) PLP_TRY(cli_canary(c, job->engine, given.canary, "at the start"));
    PLP_TRY(tp_agree(c->group, c->rank == 0 ? begin(c, job) : PLP_OK));
    plp_status st = batch_run(job);
    if (st == PLP_OK && given.canary != NULL) st = cli_canary(c, job->engine, given.canary, "at the end");
    if (st == PLP_OK) st = tp_agree(c->group, c->rank == 0 ? finish(job) : PLP_OK);
    if (c->rank == 0 && (st == PLP_OK || st == PLP_ERR_STOPPED)) {
        const plp_status written = write_summary(job, summary, st == PLP_OK);
        if (st == PLP_OK) st = written;
    }
    if (st != PLP_OK || c->rank != 0 || job->report.failed == 0) return st;
    return PLP_FAIL(PLP_ERR_PARTIAL, "%lld of %lld requests failed; %s; fix: their records say why", (long long)job->report.failed,
                    (long long)job->report.done, given.output);
}

static plp_status check_options(void)
{
    if (given.input == NULL || given.output == NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "%s is missing; command line; fix: polylepis %s", given.input ? "--output" : "--input",
                        cli_run_batch.usage);
    PLP_TRY(cli_not_stream("--summary", given.summary));
    PLP_TRY(cli_not_stream("--canary", given.canary));
    return cli_check_bos(&cli_sampling_given.bos);
}

/* Reads its input or its journal, or writes results; a producer at the other end of a pipe may take its time. */
static void alive(void)
{
    static int64_t pieces;
    tp_stamp(TP_OUTPUT, ++pieces);
}

static plp_status run(cli *c)
{
    enum { MAX_TOKENS = 16 }; /* the default of the completions API */
    plp_status st = PLP_OK;
    batch_summary summary = { .part = { .directory = -1, .fd = -1 } };
    const batch_defaults defaults = { .request = cli_sampling_request(MAX_TOKENS, 1),
                                      .seed = cli_sampling_given.seed >= 0 ? cli_sampling_given.seed : 0,
                                      .n = (int)given.answers,
                                      .include_stop = given.include_stop,
                                      .bos = cli_sampling_given.bos };
    batch_job job = { .c = c, .defaults = &defaults, .strict = given.strict, .report = { .silent = given.progress == 1, .lines = -1 } };
    PLP_DO(check_options());
    (void)plp_json_complete("an earlier job of this process"); /* no matter to this one */
    json_c_set_serialization_double_format("%.9g", JSON_C_OPTION_GLOBAL);
    io_alive = alive;
    PLP_DO(tp_agree(c->group, c->rank == 0 ? open_files(c, &job, &summary) : PLP_OK));
    cli_watch_signals();
    c->model.max_seqs = given.max_seqs > 0 ? (int)given.max_seqs : -1;
    plp_log(PLP_LOG_INFO, "loading %s", c->model.model);
    PLP_DO(plp_engine_create(&job.engine, MPI_COMM_WORLD, &c->model));
    st = run_job(c, &job, &summary);
done:
    batch_summary_close(&summary);
    io_alive = NULL;
    batch_output_close(&job.output);
    batch_input_destroy(&job.input);
    st = cli_join(c, st);
    plp_engine_destroy(&job.engine);
    cli_sampling_free();
    return st;
}

const cli_command cli_run_batch = {
    .name = "run-batch",
    .summary = "Continue all prompts of a file; a job that was killed goes on where it was.",
    .usage = "run-batch --model M -i IN.jsonl -o OUT.jsonl [options]",
    .examples = "  polylepis run-batch -m models/demo -i in.jsonl -o out.jsonl\n"
                "  mpirun -np 4 polylepis run-batch -m model.h5 -i in.jsonl -o out.jsonl --max-seqs 64 -n 256 -t 0.8\n"
                "  producer | polylepis run-batch -m model.h5 -i - -o - --order finished\n",
    .model = true,
    .serving = true,
    .sampling = true,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
