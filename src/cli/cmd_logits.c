/* polylepis logits: teacher-forced logits of every prompt of a JSONL file, as HDF5. */
#include "cli/batch_request.h"
#include "cli/commands.h"
#include "cli/id_set.h"
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
    char where[300], id[256]; /* "FILE line 7" */
    json_object *root;        /* owned         */
    const char *text;         /* root's, of a prompt of text */
    int *ids;                 /* owned */
    size_t count;
} record;

static void free_record(record *r)
{
    json_object_put(r->root);
    free(r->ids);
    *r = (record){ 0 };
}

static plp_status read_fields(json_object *o, const char *where, record *r)
{
    const char *id = r->id;
    json_object *prompt = NULL;
    if (!json_object_is_type(o, json_type_object)) return PLP_FAIL(PLP_ERR_DATA, "%s: not an object; fix: one JSON object a line", where);
    PLP_TRY(batch_request_fields(o, where));
    PLP_TRY(plp_json_string(o, "id", where, &id));
    if (id != r->id && json_object_object_get_ex(o, "custom_id", NULL))
        return PLP_FAIL(PLP_ERR_DATA, "%s: id and custom_id; fix: give one of them", where);
    PLP_TRY(plp_json_string(o, "custom_id", where, &id));
    if (strlen(id) >= sizeof r->id)
        return PLP_FAIL(PLP_ERR_DATA, "%s: id of %zu bytes; fix: at most %zu", where, strlen(id), sizeof r->id - 1);
    if (id != r->id) strcpy(r->id, id);
    json_object_object_get_ex(o, "prompt", &prompt);
    if (json_object_is_type(prompt, json_type_array)) return plp_json_ids(o, "prompt", where, &r->ids, &r->count);
    PLP_TRY(plp_json_string(o, "prompt", where, &r->text));
    return r->text != NULL ? PLP_OK : PLP_FAIL(PLP_ERR_DATA, "%s: no prompt; fix: give text or a list of ids", where);
}

/* A message that does not say which line it is about. */
static plp_status of_line(const record *r, plp_status st) { return PLP_FAIL(st, "%s: %s", r->where, plp_last_error()); }

/* Ids, and whether the model knows them. */
static plp_status encode(record *r, const engine_session *s)
{
    const int64_t vocab = model_config_of(s->model)->vocab_used;
    plp_status st = PLP_OK;
    if (r->text != NULL && s->tokenizer == NULL) st = engine_no_tokenizer(s->unsupported);
    if (r->text != NULL && s->tokenizer != NULL) st = text_encode(s->tokenizer, r->text, strlen(r->text), true, &r->ids, &r->count);
    if (st != PLP_OK) return of_line(r, st == PLP_ERR_USAGE ? PLP_ERR_DATA : st);
    if (r->count == 0) return PLP_FAIL(PLP_ERR_DATA, "%s: the prompt has no tokens; fix: leave the line out", r->where);
    for (size_t i = 0; i < r->count; i++)
        if (r->ids[i] >= vocab)
            return PLP_FAIL(PLP_ERR_DATA, "%s: prompt: id %d at index %zu, the vocabulary has %lld; fix: give ids from 0 to %lld", r->where,
                            r->ids[i], i, (long long)vocab, (long long)vocab - 1);
    return PLP_OK;
}

/* The input, and how much of it was read. */
typedef struct {
    const char *at, *end;
    int64_t number; /* of lines so far */
} lines;

/* The next line that is not blank; *more: false behind the last.  *r is to be freed in any case. */
static plp_status next_record(lines *l, record *r, bool *more)
{
    *r = (record){ 0 };
    for (*more = false; l->at < l->end;) {
        const char *line = l->at, *next = memchr(line, '\n', (size_t)(l->end - line));
        if (next == NULL) next = l->end;
        l->at = next + 1, l->number++;
        if (line + strspn(line, " \t\r") >= next) continue;
        size_t bytes = (size_t)(next - line);
        *more = true;
        tp_stamp(TP_OUTPUT, l->number); /* a rank that reads a long input is not stuck */
        snprintf(r->where, sizeof r->where, "%.200s line %lld", given.input, (long long)l->number);
        snprintf(r->id, sizeof r->id, "%lld", (long long)l->number - 1);
        if (l->number == 1 && bytes >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) line += 3, bytes -= 3; /* a byte order mark */
        PLP_TRY(plp_json_check(line, bytes, r->where));
        PLP_TRY(plp_json_parse(line, bytes, r->where, &r->root));
        return read_fields(r->root, r->where, r);
    }
    return PLP_OK;
}

/* What is wrong with a line is said before anything is computed: without a session what shows in the lines alone. */
static plp_status check_lines(lines l, const engine_session *s)
{
    plp_status st = PLP_OK;
    cli_id_set ids = { 0 };
    bool more = true;
    while (st == PLP_OK && more) {
        record r;
        bool again = false;
        st = next_record(&l, &r, &more);
        if (st == PLP_OK && more && s != NULL) st = encode(&r, s);
        if (st == PLP_OK && more && s == NULL && (st = io_logits_check_id(r.id)) != PLP_OK) st = of_line(&r, st);
        if (st == PLP_OK && more && s == NULL) st = cli_id_set_add(&ids, r.id, &again);
        if (again) st = PLP_FAIL(PLP_ERR_DATA, "%s: id %.100s comes twice; fix: give every line its own", r.where, r.id);
        free_record(&r);
    }
    cli_id_set_free(&ids);
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
    st = engine_score_logits(s->model, r->ids, (int64_t)r->count, write_row, out);
    return st == PLP_ERR_DATA ? of_line(r, st) : st;
}

static plp_status score_lines(const cli *c, engine_session *s, sink *out, lines l)
{
    int64_t done = 0;
    for (;;) {
        record r;
        bool more;
        plp_status st = next_record(&l, &r, &more);
        if (st == PLP_OK && more) st = encode(&r, s);
        st = tp_agree(c->group, st);
        if (st == PLP_OK && more) st = score_record(c, s, out, &r);
        free_record(&r);
        PLP_TRY(st);
        if (!more) break;
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
    const lines input = { text, text + bytes, 0 };
    PLP_DO(tp_agree(c->group, check_lines(input, NULL)));
    c->model.max_seqs = 1;
    if (c->model.max_batch_tokens == 0) c->model.max_batch_tokens = ROWS;
    PLP_DO(engine_session_open(&s, MPI_COMM_WORLD, &c->model, c->model.max_batch_tokens));
    out.vocab = model_config_of(s.model)->vocab, out.group = c->group;
    PLP_DO(tp_agree(c->group, check_lines(input, &s)));
    PLP_DO(score_lines(c, &s, &out, input));
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
