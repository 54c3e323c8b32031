/* polylepis generate: one prompt, its continuation as it comes. */
#include "cli/commands.h"
#include "cli/json_parts.h"
#include "cli/sampling.h"
#include "cli/stop.h"
#include "text/buffer.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/json_out.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/state_file.h"
#include "io/part_file.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PROMPT = 1 << 28 };

static struct {
    const char *prompt, *file, *save, *load;
    plp_ints ids;
    bool json;
    char *text; /* of file, once it was read */
    size_t bytes;
} given;
static const cli_sampling *const sampling = &cli_sampling_given;

static const plp_option options[] = {
    { "--prompt", "-p", "TEXT", PLP_OPTION_TEXT, &given.prompt, 0, 0, "the prompt" },
    { "--prompt-file", "-f", "FILE", PLP_OPTION_TEXT, &given.file, 1, 0, "the prompt is this file's text; -: standard input" },
    { "--prompt-token-ids", NULL, "1,2,3", PLP_OPTION_INTS, &given.ids, 0, INT32_MAX, "the prompt as token ids; nothing is added" },
    { "--save-state", NULL, "FILE", PLP_OPTION_TEXT, &given.save, 1, 0,
      "keep the sequence's state here when all is done, in the place of\nan older state, and of no other file; FILE.part until then" },
    { "--load-state", NULL, "FILE", PLP_OPTION_TEXT, &given.load, 1, 0, "go on from such a state; a prompt may follow it" },
    { "--json", NULL, NULL, PLP_OPTION_FLAG, &given.json, 0, 0,
      "print one object when all is done, instead of text as it comes;\nof a model without tokenizer always" },
};

/* -------------------------------------------------------------------------------------------------------------------- prompt */
static plp_status check_options(void)
{
    const int prompts = (given.prompt != NULL) + (given.file != NULL) + (given.ids.count > 0);
    if (prompts > 1 || (prompts == 0 && given.load == NULL))
        return PLP_FAIL(PLP_ERR_USAGE, "%d prompts; command line; fix: give one of --prompt, --prompt-file, --prompt-token-ids", prompts);
    PLP_TRY(cli_not_stream("--save-state", given.save));
    PLP_TRY(cli_check_bos(&sampling->bos));
    if (sampling->logprobs != CLI_NO_LOGPROBS && !given.json)
        return PLP_FAIL(PLP_ERR_USAGE, "--logprobs without --json; command line; fix: give --json as well");
    return PLP_OK;
}

/* Collective.  What the engine will be given is looked at before the model is loaded, which may take minutes. */
static plp_status read_files(const cli *c)
{
    plp_status st = PLP_OK;
    if (given.load != NULL && access(given.load, R_OK) != 0) st = PLP_FAIL_ERRNO("open", given.load);
    PLP_TRY(tp_agree(c->group, st));
    return given.file == NULL ? PLP_OK : cli_read_input(c, given.file, MOST_PROMPT, &given.text, &given.bytes);
}

/* *ids is the caller's. */
static plp_status encode_prompt(plp_engine *e, int **ids, size_t *count)
{
    if (given.prompt == NULL && given.file == NULL && given.ids.count == 0) return PLP_OK; /* a state is continued */
    if (given.ids.count > 0) {
        *ids = given.ids.item, *count = (size_t)given.ids.count;
        given.ids = (plp_ints){ 0 };
        return PLP_OK;
    }
    if (given.prompt != NULL) return cli_encode(e, given.prompt, strlen(given.prompt), &sampling->bos, ids, count);
    return cli_encode(e, given.text, given.bytes, &sampling->bos, ids, count);
}

/* Rank 0's, where none was given. */
static plp_status choose_seed(const cli *c, uint64_t *seed)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *seed = sampling->seed >= 0 ? (uint64_t)sampling->seed
                                : ((uint64_t)now.tv_nsec << 20 ^ (uint64_t)now.tv_sec << 4 ^ (uint64_t)getpid()) & UINT32_MAX;
    return tp_broadcast(c->group, seed, sizeof *seed, 0);
}

static plp_request request_of(const int *ids, size_t count, uint64_t seed)
{
    enum { MAX_TOKENS = 128 };
    plp_request r = cli_sampling_request(MAX_TOKENS, 0);
    r.ids = ids, r.count = count, r.state = given.load;
    r.sampling.seed = seed;
    return r;
}

/* -------------------------------------------------------------------------------------------------------------------- output */
typedef struct {
    plp_engine *engine;
    bool prints;         /* rank 0 */
    bool has_text;       /* the model has a tokenizer */
    json_object *answer; /* with --json */
    json_object *ids, *logprobs;
    text_buffer text; /* all of it with --json; without, what stdout has not taken when we were asked to stop */
    int64_t tokens;
    double began, first, ended; /* seconds */
} output;

/* As poll: 1 where stdout takes more, or has failed, within so many milliseconds. */
static int poll_stdout(int milliseconds)
{
    struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };
    return poll(&out, 1, milliseconds);
}

/* Whether stdout takes more, waiting for that as long as nobody asks us to stop.  mpirun reads nothing more once it got SIGTERM: a rank that
 * waits for it in a write would be killed with the state unsaved. */
static bool stdout_is_ready(void)
{
    while (cli_stop_asked() == CLI_GO_ON) {
        const int ready = poll_stdout(200); /* a signal between the look and the wait is seen behind it */
        if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
    }
    return poll_stdout(0) > 0;
}

static plp_status put_text(output *o, const char *text, size_t bytes)
{
    if (o->answer != NULL) return text_buffer_put(&o->text, text, bytes);
    if (bytes == 0) return PLP_OK;
    if (o->text.used > 0 || !stdout_is_ready()) return text_buffer_put(&o->text, text, bytes);
    fwrite(text, 1, bytes, stdout); /* a failure shows in ferror, which is looked at in the end */
    fflush(stdout);
    return PLP_OK;
}

/* The end of the text; what was kept is dropped where still nobody reads. */
static void end_text(const output *o)
{
    if (o->text.used > 0 && poll_stdout(500) <= 0) return;
    if (o->text.used > 0) fwrite(o->text.data, 1, o->text.used, stdout);
    putchar('\n');
    fflush(stdout);
}

static void put_token(output *o, const plp_event *e)
{
    if (o->answer == NULL) return;
    json_object_array_add(o->ids, json_object_new_int(e->token));
    if (o->logprobs != NULL) json_object_array_add(o->logprobs, cli_logprobs_json(o->engine, e));
}

static plp_status handle(output *o, const plp_event *e)
{
    if (e->kind == PLP_EVENT_ERROR) return PLP_FAIL(e->status, "%s", e->message);
    if (e->kind == PLP_EVENT_TOKEN && o->tokens++ == 0) o->first = plp_seconds();
    if (!o->prints) return PLP_OK;
    PLP_TRY(put_text(o, e->text, e->text_bytes));
    if (e->kind == PLP_EVENT_TOKEN)
        put_token(o, e);
    else if (o->answer != NULL)
        cli_add_ending(o->answer, e->finish, e->stop_text, e->stop_id);
    return PLP_OK;
}

static double rate(int64_t tokens, double seconds) { return seconds > 0 ? (double)tokens / seconds : 0; }

typedef struct {
    double prefill, decode; /* seconds */
    int64_t decoded;
} timings;

static timings timings_of(const output *o)
{
    return (timings){ .prefill = o->first - o->began,
                      .decode = o->ended - o->first,
                      .decoded = o->tokens > 0 ? o->tokens - 1 : 0 }; /* the first comes of the prefill */
}

static plp_status print_answer(output *o, size_t prompt, uint64_t seed, double load)
{
    const timings took = timings_of(o);
    json_object *t = json_object_new_object();
    json_object *text = o->has_text ? json_object_new_string_len(o->text.data != NULL ? o->text.data : "", (int)o->text.used) : NULL;
    json_object_object_add(o->answer, "text", text);
    cli_add_int(o->answer, "seed", (int64_t)seed);
    cli_add_real(t, "load_seconds", load);
    cli_add_int(t, "prefill_tokens", (int64_t)prompt);
    cli_add_real(t, "prefill_seconds", took.prefill);
    cli_add_real(t, "prefill_tokens_per_second", rate((int64_t)prompt, took.prefill));
    cli_add_int(t, "decode_tokens", took.decoded);
    cli_add_real(t, "decode_seconds", took.decode);
    cli_add_real(t, "decode_tokens_per_second", rate(took.decoded, took.decode));
    json_object_object_add(o->answer, "timings", t);
    PLP_TRY(plp_json_complete("the answer"));
    char *line = plp_json_text(o->answer, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    PLP_TRY(PLP_ALLOCATED(line));
    printf("%s\n", line);
    free(line);
    return PLP_OK;
}

static plp_status print_summary(output *o, size_t prompt, uint64_t seed, double load)
{
    const timings took = timings_of(o);
    if (o->answer != NULL)
        PLP_TRY(print_answer(o, prompt, seed, load));
    else
        end_text(o);
    char seeded[48] = "";
    if (sampling->temperature > 0) snprintf(seeded, sizeof seeded, "; --seed %llu", (unsigned long long)seed);
    plp_log(PLP_LOG_INFO, "prefill: %zu tokens in %.3f s, %.1f tokens/s; decode: %lld tokens in %.3f s, %.1f tokens/s%s", prompt,
            took.prefill, rate((int64_t)prompt, took.prefill), (long long)took.decoded, took.decode, rate(took.decoded, took.decode),
            seeded);
    return PLP_OK;
}

/* ----------------------------------------------------------------------------------------------------------------------- run */
static plp_status take_events(output *o)
{
    plp_event event;
    plp_status st = PLP_OK;
    while (st == PLP_OK && plp_engine_next_event(o->engine, &event)) st = handle(o, &event);
    return st;
}

/* Collective.  Until the request is done, or somebody asks to stop: then what there is counts as the answer, and the state that was to be
 * kept is that of now. */
static plp_status run_request(const cli *c, output *o, uint64_t id, bool *stopped)
{
    int left;
    cli_stop wish;
    for (*stopped = false;;) {
        PLP_TRY(plp_engine_step(o->engine, &left));
        PLP_TRY(take_events(o));
        if (left == 0) break;
        PLP_TRY(cli_stop_agreed(c->group, &wish));
        *stopped = wish != CLI_GO_ON;
        if (*stopped) break;
    }
    if (given.save != NULL) PLP_TRY(plp_engine_save_state(o->engine, id, given.save));
    if (!*stopped) return PLP_OK;
    plp_engine_cancel(o->engine, id);
    PLP_TRY(plp_engine_step(o->engine, &left));
    return take_events(o);
}

static plp_status say_stopped(const output *o, uint64_t seed)
{
    char again[64] = "start again";
    if (sampling->temperature > 0) snprintf(again, sizeof again, "start again with --seed %llu", (unsigned long long)seed);
    if (given.save != NULL)
        return PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal after %lld tokens; fix: --load-state %s goes on from here",
                        (long long)o->tokens, given.save);
    return PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal after %lld tokens; fix: %s, it begins anew", (long long)o->tokens, again);
}

static plp_status generate(const cli *c, plp_engine *e, output *o, double load)
{
    plp_status st = PLP_OK;
    int *ids = NULL;
    size_t count = 0;
    uint64_t seed, id;
    bool stopped;
    PLP_DO(tp_agree(c->group, encode_prompt(e, &ids, &count)));
    PLP_DO(choose_seed(c, &seed));
    const plp_request r = request_of(ids, count, seed);
    PLP_DO(tp_agree(c->group, plp_engine_submit(e, &r, &id)));
    if (!o->has_text && !given.json)
        PLP_DO(PLP_FAIL(PLP_ERR_USAGE,
                        "%s has no tokenizer%s, so what is generated has no text; output; fix: give --json, which prints ids",
                        c->model.model, engine_session_of(e)->unsupported ? " that is supported" : ""));
    if (o->prints && given.json) {
        json_object *prompt = json_object_new_array();
        for (size_t i = 0; i < count; i++) json_object_array_add(prompt, json_object_new_int(ids[i]));
        json_object_object_add(o->answer, "prompt_token_ids", prompt);
    }
    o->began = plp_seconds();
    PLP_DO(run_request(c, o, id, &stopped));
    o->ended = plp_seconds();
    if (o->tokens == 0) o->first = o->ended; /* stopped within the prompt */
    PLP_DO(tp_agree(c->group, o->prints ? print_summary(o, count, seed, load) : PLP_OK));
    if (stopped) st = say_stopped(o, seed);
done:
    plp_free(ids);
    return st;
}

/* Rank 0.  What --save-state will need is tried before the model is loaded. */
static plp_status check_save(const cli *c)
{
    io_part part;
    struct stat loaded;
    if (given.save == NULL) return PLP_OK;
    PLP_TRY(cli_not_input(given.save, c->model.model));
    PLP_TRY(cli_not_input(given.save, given.file));
    if (given.load != NULL && stat(given.load, &loaded) == 0)
        PLP_TRY(cli_not_part(given.save, &loaded)); /* which may be in its own place */
    const plp_status st = io_part_create(&part, given.save, true);
    io_part_discard(&part);
    return st == PLP_OK ? state_file_may_replace(given.save, c->model.trust_model) : st;
}

static plp_status run(cli *c)
{
    plp_status st = PLP_OK;
    plp_engine *e = NULL;
    plp_engine_info info;
    output o = { .prints = c->rank == 0 };
    PLP_TRY(check_options());
    PLP_TRY(tp_agree(c->group, c->rank == 0 ? check_save(c) : PLP_OK));
    cli_watch_signals();
    PLP_DO(read_files(c));
    const double began = plp_seconds();
    c->model.max_seqs = 1;
    if (given.save != NULL) c->model.ahead = PLP_AHEAD_OFF; /* the state is wanted where the text ends */
    plp_log(PLP_LOG_INFO, "loading %s", c->model.model);
    PLP_DO(plp_engine_create(&e, MPI_COMM_WORLD, &c->model));
    const double load = plp_seconds() - began;
    plp_engine_describe(e, &info);
    plp_log(PLP_LOG_INFO, "ready in %.1f s: %d rank%s on %s%s%s", load, info.size, info.size == 1 ? "" : "s", info.backend,
            info.size == 1 ? "" : ", sums over ", info.size == 1 ? "" : info.link);
    o.engine = e, o.has_text = info.has_tokenizer;
    if (o.prints && given.json) {
        (void)plp_json_complete("an earlier command of this process"); /* no matter to this one */
        json_c_set_serialization_double_format("%.9g", JSON_C_OPTION_GLOBAL);
        o.answer = json_object_new_object();
        json_object_object_add(o.answer, "token_ids", o.ids = json_object_new_array());
        if (sampling->logprobs != CLI_NO_LOGPROBS) json_object_object_add(o.answer, "logprobs", o.logprobs = json_object_new_array());
    }
    PLP_DO(generate(c, e, &o, load));
done:
    json_object_put(o.answer);
    free(o.text.data);
    st = cli_join(c, st);
    plp_engine_destroy(&e);
    free(given.ids.item);
    free(given.text);
    cli_sampling_free();
    return st;
}

const cli_command cli_generate = {
    .name = "generate",
    .summary = "Continue a prompt; text goes to stdout as it is generated.",
    .usage = "generate --model M --prompt TEXT [options]",
    .examples = "  polylepis generate -m models/demo -p \"In the beginning\"\n"
                "  mpirun -np 2 polylepis generate -m model.h5 -f prompt.txt -n 256 -t 0.8 --top-p 0.95 --seed 7\n"
                "  polylepis generate -m model.h5 --prompt-token-ids 0,510,4041 --json --logprobs 5\n"
                "  polylepis generate -m model.h5 -f book.txt -n 1 --save-state book.state\n"
                "  mpirun -np 4 polylepis generate -m model.h5 --load-state book.state -p \" And then\" -n 256\n",
    .model = true,
    .serving = true,
    .sampling = true,
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run,
};
