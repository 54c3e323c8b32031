/* polylepis perplexity: how well a model predicts a text.
 *
 * Documents are separated by a line that holds U+001E alone, be it the first or the last, and be its ends LF or CR LF; the end of the line
 * before it is no part of a document either.  The stream of tokens is separator, document, separator, document, ..., separator; it is cut
 * into windows, of which the last, shorter one is dropped.  In each window every token but the first is scored, given those before it in
 * the window. */
#include "cli/commands.h"
#include "cli/stop.h"

#include "base/error.h"
#include "base/log.h"
#include "engine/score.h"
#include "engine/session.h"

#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_INPUT = 1 << 30, ROWS = 128 };
static const char mark = '\x1e';

static struct {
    const char *text;
    int64_t window, windows, separator;
    bool json;
} given = { .window = 512, .separator = -1 };

static const plp_option options[] = {
    { "--text", "-f", "FILE", PLP_OPTION_TEXT, &given.text, 1, 0,
      "the text; a line with U+001E alone separates documents;\n-: standard input" },
    { "--window", "-w", "N", PLP_OPTION_INT, &given.window, 2, 1 << 24,
      "tokens of a window; default 512.  Whole windows are scored, and\nwhat is left at the end is not.  Perplexities of "
      "different\nwindows do not compare" },
    { "--windows", NULL, "N", PLP_OPTION_INT, &given.windows, 1, INT32_MAX, "stop after N windows; default: all" },
    { "--separator-id", NULL, "ID", PLP_OPTION_INT, &given.separator, 0, INT32_MAX,
      "token before, between and behind documents; default: the\nmodel's BOS, or its first stop token" },
    { "--json", NULL, NULL, PLP_OPTION_FLAG, &given.json, 0, 0, "print one object instead of a line" },
};

/* ---------------------------------------------------------------------------------------------------------------- the tokens */
typedef struct {
    int *ids; /* owned */
    size_t count, room;
    size_t bytes; /* of text, with one for every document's separator */
} stream;

static plp_status append(stream *s, const int *ids, size_t count)
{
    if (s->count + count > s->room) {
        const size_t room = 2 * (s->count + count);
        int *grown = realloc(s->ids, room * sizeof *grown);
        PLP_TRY(PLP_ALLOCATED(grown));
        s->ids = grown, s->room = room;
    }
    if (count > 0) memcpy(s->ids + s->count, ids, count * sizeof *ids);
    s->count += count;
    return PLP_OK;
}

/* The next document of text .. end, text being the start of a line: it ends at *to, and behind the separator the next one begins at *next;
 * NULL: it was the last.  Texts may hold NULs, so that strchr would stop short. */
static void find_document(const char *text, const char *end, const char **to, const char **next)
{
    *to = end, *next = NULL;
    for (const char *p = text; (p = memchr(p, mark, (size_t)(end - p))) != NULL; p++) {
        const char *behind = p + 1;
        if (p > text && p[-1] != '\n') continue;
        if (end - behind >= 2 && behind[0] == '\r' && behind[1] == '\n') behind++;
        if (behind < end && *behind != '\n') continue;
        *next = behind < end ? behind + 1 : end;
        if (p > text) p--; /* the end of the line before */
        if (p > text && *p == '\n' && p[-1] == '\r') p--;
        *to = p;
        return;
    }
}

static plp_status tokenize(stream *s, text_tokenizer *t, const char *text, size_t bytes, int separator)
{
    const char *end = text + bytes;
    PLP_TRY(append(s, &separator, 1));
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) text += 3; /* a byte order mark */
    for (const char *from = text, *to, *next; from != NULL; from = next) {
        int *ids = NULL;
        size_t count;
        find_document(from, end, &to, &next);
        PLP_TRY(text_encode(t, from, (size_t)(to - from), false, &ids, &count));
        plp_status st = append(s, ids, count);
        free(ids);
        PLP_TRY(st);
        PLP_TRY(append(s, &separator, 1));
        s->bytes += (size_t)(to - from) + 1;
    }
    return PLP_OK;
}

static plp_status prepare(const engine_session *s, const char *text, size_t bytes, stream *out)
{
    const model_config *c = model_config_of(s->model);
    const int64_t separator = given.separator >= 0 ? given.separator : c->bos >= 0 ? c->bos : c->stops > 0 ? c->stop[0] : -1;
    if (s->tokenizer == NULL) return engine_no_tokenizer(s->unsupported);
    if (separator < 0 || separator >= c->vocab_used)
        return PLP_FAIL(PLP_ERR_USAGE, "separator token %lld of a vocabulary of %lld; fix: give --separator-id", (long long)separator,
                        (long long)c->vocab_used);
    PLP_TRY(tokenize(out, s->tokenizer, text, bytes, (int)separator));
    if (out->count < (size_t)given.window)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %zu tokens, fewer than a window of %lld; fix: give more text, or a smaller --window", given.text,
                        out->count, (long long)given.window);
    return PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------------------- scoring */
typedef struct {
    int64_t scored;
    double sum, squares; /* in nats */
} score;

typedef struct {
    double nats, error, perplexity, bits;
} result;

/* error: of the perplexity, the standard error of the mean times it. */
static result result_of(const score *s, const stream *t)
{
    const double n = (double)s->scored, mean = s->sum / n, variance = n > 1 ? (s->squares - n * mean * mean) / (n - 1) : 0;
    return (result){ .nats = mean,
                     .perplexity = exp(mean),
                     .error = exp(mean) * sqrt(fmax(variance, 0) / n),
                     .bits = mean * (double)t->count / (double)t->bytes / log(2) };
}

static void print_result(const score *s, const stream *t, int64_t windows)
{
    const result r = result_of(s, t);
    const int64_t behind = (int64_t)t->count - windows * given.window;
    if (!given.json) {
        printf("Final estimate: PPL = %.4f +/- %.5f, %.4f nats/token, %.4f bits/byte; %lld tokens scored in %lld windows of %lld, the "
               "last %lld of %zu left out\n",
               r.perplexity, r.error, r.nats, r.bits, (long long)s->scored, (long long)windows, (long long)given.window, (long long)behind,
               t->count);
        return;
    }
    json_c_set_serialization_double_format("%.9g", JSON_C_OPTION_GLOBAL);
    json_object *o = json_object_new_object();
    json_object_object_add(o, "perplexity", json_object_new_double(r.perplexity));
    json_object_object_add(o, "perplexity_error", json_object_new_double(r.error));
    json_object_object_add(o, "nats_per_token", json_object_new_double(r.nats));
    json_object_object_add(o, "bits_per_byte", json_object_new_double(r.bits));
    json_object_object_add(o, "tokens_scored", json_object_new_int64(s->scored));
    json_object_object_add(o, "tokens", json_object_new_int64((int64_t)t->count));
    json_object_object_add(o, "tokens_left_out", json_object_new_int64(behind));
    json_object_object_add(o, "bytes", json_object_new_int64((int64_t)t->bytes));
    json_object_object_add(o, "windows", json_object_new_int64(windows));
    json_object_object_add(o, "window", json_object_new_int64(given.window));
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    json_object_put(o);
}

/* Collective.  An estimate of a part of the text is none of the text: it is said in the message, and not on stdout. */
static plp_status stop_here(const tp_group *g, int64_t done, int64_t windows, const result *r)
{
    char left[200];
    snprintf(left, sizeof left, "%lld of %lld windows were scored, PPL %.4f so far; fix: start again, it begins anew", (long long)done,
             (long long)windows, r->perplexity);
    return cli_stop_here(g, left);
}

static plp_status score_windows(const cli *c, engine_session *s, const stream *t, double *nats)
{
    int64_t windows = (int64_t)t->count / given.window;
    if (given.windows > 0 && given.windows < windows) windows = given.windows;
    score sum = { 0 };
    for (int64_t w = 0; w < windows; w++) {
        PLP_TRY(engine_score_tokens(s->model, t->ids + w * given.window, given.window, nats));
        for (int64_t i = 0; i + 1 < given.window; i++) sum.sum += nats[i], sum.squares += nats[i] * nats[i], sum.scored++;
        const result r = result_of(&sum, t);
        if (w + 1 < windows) PLP_TRY(stop_here(c->group, w + 1, windows, &r));
        plp_log_progress(w + 1 == windows, "[%lld/%lld] PPL %.4f, %.4f nats/token", (long long)w + 1, (long long)windows, r.perplexity,
                         r.nats);
    }
    if (c->rank == 0) print_result(&sum, t, windows);
    return PLP_OK;
}

static plp_status run(cli *c)
{
    plp_status st = PLP_OK;
    engine_session s = { 0 };
    stream tokens = { 0 };
    double *nats = NULL;
    char *text = NULL;
    size_t bytes = 0;
    if (given.text == NULL) return PLP_FAIL(PLP_ERR_USAGE, "--text is missing; command line; fix: polylepis %s", cli_perplexity.usage);
    PLP_TRY(cli_read_input(c, given.text, MOST_INPUT, &text, &bytes));
    cli_watch_signals();
    c->model.max_seqs = 1;
    if (c->model.max_batch_tokens == 0) c->model.max_batch_tokens = ROWS;
    PLP_DO(engine_session_open(&s, MPI_COMM_WORLD, &c->model, c->model.max_batch_tokens));
    PLP_DO(tp_agree(c->group, prepare(&s, text, bytes, &tokens)));
    PLP_DO(PLP_ALLOCATED(nats = malloc((size_t)given.window * sizeof *nats)));
    PLP_DO(score_windows(c, &s, &tokens, nats));
done:
    free(nats);
    st = cli_join(c, st);
    engine_session_close(&s);
    free(tokens.ids);
    free(text);
    return st;
}

const cli_command cli_perplexity = {
    .name = "perplexity",
    .summary = "How well the model predicts a text: nats/token, perplexity, bits/byte.",
    .usage = "perplexity --model M --text FILE [options]",
    .examples = "  mpirun -np 2 polylepis perplexity -m models/demo -f tests/data/demo/heldout.txt\n",
    .model = true,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
