/* polylepis logits: teacher-forced logits of every prompt of a JSONL file, as HDF5. */
#include "cli/commands.h"
#include "cli/stop.h"

#include "base/error.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/score.h"
#include "engine/session.h"
#include "io/logits_file.h"
#include "tp/stamp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_INPUT = 1 << 30, ROWS = 128 }; /* rows a step computes */

static struct {
    const char *input, *output;
    bool replace;
} given;

static const plp_option options[] = {
    { "--input", "-i", "IN.jsonl", PLP_OPTION_TEXT, &given.input, 1, 0,
      "a line each: {\"id\": \"a\", \"prompt\": TEXT or [ids]}; without an id\n(or custom_id) the line's number, from 0; -: standard "
      "input" },
    { "--output", "-o", "OUT.h5", PLP_OPTION_TEXT, &given.output, 1, 0, "/<id>/tokens int32 (T), /<id>/logits float32 (T, V)" },
    { "--force", NULL, NULL, PLP_OPTION_FLAG, &given.replace, 0, 0, "replace the output if it exists" },
};

/* A line of the input. */
typedef struct {
    char id[256];
    int *ids; /* owned */
    size_t count;
} record;

static plp_status read_fields(json_object *o, const char *where, text_tokenizer *t, record *r)
{
    const char *id = r->id, *text = NULL;
    json_object *prompt = NULL;
    if (!json_object_is_type(o, json_type_object)) return PLP_FAIL(PLP_ERR_DATA, "%s: not an object; fix: one JSON object a line", where);
    PLP_TRY(plp_json_string(o, "id", where, &id));
    if (id != r->id && json_object_object_get_ex(o, "custom_id", NULL))
        return PLP_FAIL(PLP_ERR_DATA, "%s: id and custom_id; fix: give one of them", where);
    PLP_TRY(plp_json_string(o, "custom_id", where, &id));
    if (strlen(id) >= sizeof r->id)
        return PLP_FAIL(PLP_ERR_DATA, "%s: id of %zu bytes; fix: at most %zu", where, strlen(id), sizeof r->id - 1);
    if (id != r->id) strcpy(r->id, id);
    json_object_object_get_ex(o, "prompt", &prompt);
    if (json_object_is_type(prompt, json_type_array))
        PLP_TRY(plp_json_ids(o, "prompt", where, &r->ids, &r->count));
    else {
        PLP_TRY(plp_json_string(o, "prompt", where, &text));
        if (text == NULL) return PLP_FAIL(PLP_ERR_DATA, "%s: no prompt; fix: give text or a list of ids", where);
        if (t == NULL) return PLP_FAIL(PLP_ERR_DATA, "%s: a prompt of text, and the model has no tokenizer; fix: give ids", where);
        PLP_TRY(text_encode(t, text, strlen(text), true, &r->ids, &r->count));
    }
    if (r->count == 0) return PLP_FAIL(PLP_ERR_DATA, "%s: the prompt has no tokens; fix: leave the line out", where);
    return PLP_OK;
}

static plp_status read_record(const char *line, size_t bytes, int64_t number, text_tokenizer *t, record *r)
{
    char where[300];
    json_object *o = NULL;
    *r = (record){ 0 };
    snprintf(where, sizeof where, "%.200s line %lld", given.input, (long long)number + 1);
    snprintf(r->id, sizeof r->id, "%lld", (long long)number);
    if (number == 0 && bytes >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) line += 3, bytes -= 3; /* a byte order mark */
    PLP_TRY(plp_json_check(line, bytes, where));
    PLP_TRY(plp_json_parse(line, bytes, where, &o));
    const plp_status st = read_fields(o, where, t, r);
    json_object_put(o);
    return st;
}

typedef struct {
    io_logits_writer *writer; /* rank 0 */
    int64_t vocab;
    const tp_group *group;
} sink;

static plp_status write_row(void *arg, int64_t index, const float *logits)
{
    const sink *s = arg;
    if (index % ROWS == 0) PLP_TRY(cli_stop_here(s->group, "no output is left; fix: start again, it begins anew"));
    if (s->writer == NULL) return PLP_OK;
    tp_stamp(TP_OUTPUT, index);
    PLP_TRY(PLP_FAULT_AT("write"));
    return io_logits_append(s->writer, logits, 1);
}

static plp_status score_record(const cli *c, engine_session *s, sink *out, const record *r)
{
    plp_status st = PLP_OK;
    if (out->writer != NULL) st = io_logits_begin(out->writer, r->id, r->ids, (int64_t)r->count, out->vocab);
    PLP_TRY(tp_agree(c->group, st));
    return engine_score_logits(s->model, r->ids, (int64_t)r->count, write_row, out);
}

static plp_status score_lines(const cli *c, engine_session *s, sink *out, const char *text, size_t bytes)
{
    const char *end = text + bytes;
    int64_t number = 0, done = 0;
    for (const char *line = text, *next; line < end; line = next + 1, number++) {
        record r;
        next = memchr(line, '\n', (size_t)(end - line));
        if (next == NULL) next = end;
        if (line + strspn(line, " \t\r") >= next) continue; /* a blank line */
        plp_status st = tp_agree(c->group, read_record(line, (size_t)(next - line), number, s->tokenizer, &r));
        if (st == PLP_OK) st = score_record(c, s, out, &r);
        free(r.ids);
        PLP_TRY(st);
        plp_log_progress(false, "%lld prompts done", (long long)++done);
    }
    plp_log_progress(true, "%lld prompts done", (long long)done);
    return PLP_OK;
}

/* Rank 0. */
static plp_status open_output(const cli *c, sink *out)
{
    PLP_TRY(cli_not_input(given.output, given.input));
    PLP_TRY(cli_not_input(given.output, c->model.model));
    return io_logits_create(&out->writer, given.output, given.replace);
}

static plp_status run(cli *c)
{
    plp_status st = PLP_OK;
    engine_session s = { 0 };
    sink out = { 0 };
    char *text = NULL;
    size_t bytes = 0;
    if (given.input == NULL || given.output == NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "%s is missing; command line; fix: polylepis %s", given.input ? "--output" : "--input",
                        cli_logits.usage);
    PLP_TRY(cli_not_stream("--output", given.output));
    PLP_TRY(cli_read_input(c, given.input, MOST_INPUT, &text, &bytes));
    cli_watch_signals();
    if (c->rank == 0) st = open_output(c, &out);
    PLP_DO(tp_agree(c->group, st));
    c->model.max_seqs = 1;
    if (c->model.max_batch_tokens == 0) c->model.max_batch_tokens = ROWS;
    PLP_DO(engine_session_open(&s, MPI_COMM_WORLD, &c->model, c->model.max_batch_tokens));
    out.vocab = model_config_of(s.model)->vocab, out.group = c->group;
    PLP_DO(score_lines(c, &s, &out, text, bytes));
    if (c->rank == 0) st = io_logits_finish(&out.writer);
done:
    io_logits_discard(&out.writer);
    st = cli_join(c, st);
    engine_session_close(&s);
    free(text);
    return st;
}

const cli_command cli_logits = {
    .name = "logits",
    .summary = "Teacher-forced logits of prompts, as an HDF5 file.",
    .usage = "logits --model M -i IN.jsonl -o OUT.h5 [options]",
    .examples = "  polylepis logits -m model.h5 -i prompts.jsonl -o logits.h5\n"
                "  h5dump -d /a/logits -s 0,0 -c 1,8 logits.h5\n",
    .model = true,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
