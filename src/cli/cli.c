#include "cli/cli.h"

#include "cli/abort.h"
#include "cli/commands.h"
#include "cli/describe.h"
#include "cli/sampling.h"
#include "cli/stop.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/log.h"
#include "tp/handshake.h"
#include "tp/stamp.h"
#include "tp/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const cli_command *const commands[] = { &cli_generate, &cli_run_batch, &cli_logits, &cli_perplexity, &cli_convert,
                                               &cli_inspect,  &cli_verify,    &cli_bench,  &cli_diag };
enum { COMMANDS = sizeof commands / sizeof *commands };

/* ------------------------------------------------------------------------------------------------------------ common options */
static struct {
    const char *model;
    int device, compute, state, link;
    int cache;
    int64_t threads, batch_tokens, slice, cache_block, cache_memory;
    bool deterministic, quiet, trust, nonfinite;
    int64_t watchdog;
    const char *diag;
} common = { .watchdog = 30 };

static const plp_option model_options[] = {
    { "--model", "-m", "PATH", PLP_OPTION_TEXT, &common.model, 1, 0, "model file (polylepis convert) or checkpoint directory" },
    { "--device", NULL, "auto|cpu|cuda", PLP_OPTION_CHOICE, &common.device, 0, 0, "where to compute; auto: CUDA where GPUs are visible" },
    { "--dtype", NULL, "auto|f32|bf16|f16", PLP_OPTION_CHOICE, &common.compute, 0, 0,
      "numbers of matrix products; auto: on CUDA as the weights are\nstored, on the CPU f32: float32 everywhere, weights exact" },
    { "--state-dtype", NULL, "auto|f32|bf16|f16", PLP_OPTION_CHOICE, &common.state, 0, 0,
      "of the SSM state between steps; auto: f32 (16-bit states drift)" },
    { "--comm", NULL, "auto|mpi|nccl", PLP_OPTION_CHOICE, &common.link, 0, 0,
      "how ranks add up; auto: between GPUs of a host through each\nother's memory, and NCCL; else MPI" },
    { "--threads", NULL, "N", PLP_OPTION_INT, &common.threads, 1, 1024, "CPU threads of a rank; default: its share of the host's" },
    { "--max-batch-tokens", NULL, "N", PLP_OPTION_INT, &common.batch_tokens, 1, 1 << 20,
      "most tokens of a step; default 512, of logits and perplexity 128" },
    { "--trust-model", NULL, NULL, PLP_OPTION_FLAG, &common.trust, 0, 0,
      "parse model files in this process, where none can be started\nfor it: only files whose makers you trust (SECURITY.md)" },
    { "--allow-nonfinite", NULL, NULL, PLP_OPTION_FLAG, &common.nonfinite, 0, 0,
      "take weights that are NaN, infinite or out of any use as they are" },
    { "--deterministic", NULL, NULL, PLP_OPTION_FLAG, &common.deterministic, 0, 0,
      "the same bits whatever else is computed (on the CPU always)" },
};
/* Of commands that run an engine: others compute one text at a time, and would not heed them. */
static const plp_option serving_options[] = {
    { "--max-slice", NULL, "N", PLP_OPTION_INT, &common.slice, 1, 1 << 20,
      "most tokens of one prompt in a step; at least 16 on the CPU, a\nchunk on CUDA with --deterministic; default: what has room" },
    { "--prefix-cache", NULL, "none|align|all", PLP_OPTION_CHOICE, &common.cache, 0, 0,
      "keep states so that prompts that begin alike are computed once:\nat the ends of slices, or at every block; default none" },
    { "--cache-block", NULL, "N", PLP_OPTION_INT, &common.cache_block, 1, 1 << 20,
      "tokens between such states; default: the model's chunk" },
    { "--cache-memory", NULL, "MB", PLP_OPTION_INT, &common.cache_memory, 1, 1 << 24,
      "for such states, on every rank; default: as many states as run" },
};
static const plp_option general_options[] = {
    { "--watchdog", NULL, "SECONDS", PLP_OPTION_INT, &common.watchdog, 0, 86400,
      "end the job when a rank is stopped, or holds up the others\nfor so long; default 30, 0: off. Between hosts it takes UDP" },
    { "--diag", NULL, "DIR", PLP_OPTION_TEXT, &common.diag, 1, 0,
      "when the job ends abnormally, each rank's last collectives\ngo there, for polylepis diag; made if missing; "
      "default:\n$PLP_DIAG_DIR" },
    { "--quiet", "-q", NULL, PLP_OPTION_FLAG, &common.quiet, 0, 0, "nothing on stderr but warnings and errors" },
    { "--help", "-h", NULL, PLP_OPTION_FLAG, &(bool){ false }, 0, 0, "this text" }, /* was seen to before */
};

static int tables_of(const cli_command *command, plp_option_table *tables)
{
    int n = 0;
    if (command->option_count > 0) tables[n++] = (plp_option_table){ "Options", command->options, command->option_count };
    if (command->sampling) tables[n++] = (plp_option_table){ "Sampling", cli_sampling_options, CLI_SAMPLING_OPTIONS };
    if (command->model) tables[n++] = (plp_option_table){ "Model", model_options, sizeof model_options / sizeof *model_options };
    if (command->serving) tables[n++] = (plp_option_table){ "Serving", serving_options, sizeof serving_options / sizeof *serving_options };
    tables[n++] = (plp_option_table){ "General", general_options, sizeof general_options / sizeof *general_options };
    return n;
}

/* ---------------------------------------------------------------------------------------------------------------------- help */
static void print_help(const cli_command *command)
{
    plp_option_table tables[CLI_TABLES];
    if (command != NULL) {
        printf("Usage: polylepis %s\n\n%s\n", command->usage, command->summary);
        plp_options_help(tables, tables_of(command, tables), stdout);
        printf("\nExamples:\n%s", command->examples);
        return;
    }
    printf("polylepis: Mamba language models, split over many ranks.\n\nUsage: [mpirun -np N] polylepis COMMAND [options]\n\nCommands:\n");
    for (int i = 0; i < COMMANDS; i++) printf("  %-12s %s\n", commands[i]->name, commands[i]->summary);
    printf("  %-12s %s\n  %-12s %s\n", "help", "this text, or that of a command", "version", "versions of the program and its libraries");
    printf("\nResults go to stdout, everything else to stderr.  Exit status: 0 done, 3 some requests failed, 64 usage or launch, 65 bad\n"
           "data, 66 missing input, 69 no device, 70 internal, 71 memory, 73 cannot create, 74 I/O, 75 stopped, also by the watchdog,\n"
           "76 ranks disagree, 77 permission, 78 a resumed job with other settings.\n"
           "\nExamples:\n"
           "  polylepis generate --model models/demo --prompt \"In the beginning\"\n"
           "  mpirun -np 2 polylepis perplexity --model model.h5 --text book.txt\n"
           "  polylepis help generate\n"
           "  source <(polylepis --describe bash)    completion in this shell; also zsh\n");
}

static void describe(const char *form)
{
    cli_description list[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) {
        list[i].command = commands[i];
        list[i].count = tables_of(commands[i], list[i].tables);
    }
    cli_describe(form, list, COMMANDS);
}

static const cli_command *find_command(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

/* Help and version work without MPI: in a Slurm step MPI_Init may be had only once.  Under a launcher rank 0 alone speaks. */
static bool answer_without_mpi(int argc, char **argv)
{
    const char *first = argc > 1 ? argv[1] : "", *launched = getenv("OMPI_COMM_WORLD_RANK");
    if (launched == NULL) launched = getenv("SLURM_PROCID");
    const bool speaks = launched == NULL || atoi(launched) == 0;
    if (strcmp(first, "--version") == 0 || strcmp(first, "version") == 0) {
        if (speaks) cli_print_version();
        return true;
    }
    if (strcmp(first, "--describe") == 0 && argc == 3 && cli_describes(argv[2])) {
        if (speaks) describe(argv[2]);
        return true;
    }
    const bool help = strcmp(first, "help") == 0;
    const char *name = help ? (argc > 2 ? argv[2] : "") : first;
    const cli_command *command = find_command(name);
    plp_option_table tables[CLI_TABLES]; /* of no command: nothing has a value */
    const int n = command != NULL ? tables_of(command, tables) : 0;
    if (!help && !(argc > 1 && plp_options_name(tables, n, argc - 1, argv + 1, "--help", "-h"))) return false;
    const bool listed = help &&
                        (strcmp(name, "help") == 0 || strcmp(name, "version") == 0); /* all there is to say is where they are listed */
    if (command == NULL && !listed && *name != 0 && *name != '-') return false;      /* is refused, by name */
    if (speaks) print_help(command);
    return true;
}

/* ----------------------------------------------------------------------------------------------------------------------- run */

/* Before MPI_Init: srun that says nothing of the step to MPI.  Open MPI 4 then aborts, in 25 lines that do not name the flag, and 5 starts
 * every task as if it were alone. */
static plp_status check_launcher(void)
{
#if defined OMPI_MAJOR_VERSION && OMPI_MAJOR_VERSION < 5
    const int alone = 0; /* tasks that can do without */
#else
    const int alone = 1;
#endif
    static const char *const told[] = { "PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_SIZE" }; /* by srun, or by mpirun inside of the step */
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (getenv("SLURM_STEP_ID") == NULL || tasks == NULL || atoi(tasks) <= alone) return PLP_OK;
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        if (getenv(told[i]) != NULL) return PLP_OK;
    return PLP_FAIL(PLP_ERR_USAGE, "Slurm started %.20s task%s and told MPI nothing of it; launch; fix: srun --mpi=pmix, or mpirun", tasks,
                    atoi(tasks) == 1 ? "" : "s");
}

/* srun with a PMI that MPI does not understand starts N programs that each believe to be alone, and would do the work N times. */
static plp_status check_launch(const cli *c)
{
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (tasks == NULL) tasks = getenv("SLURM_NTASKS");
    if (c->size > 1 || tasks == NULL || atoi(tasks) <= 1) return PLP_OK;
    if (getenv("SLURM_STEP_ID") == NULL || getenv("OMPI_COMM_WORLD_SIZE") != NULL)
        return PLP_OK; /* a batch script, or mpirun -np 1 in it */
    return PLP_FAIL(PLP_ERR_USAGE, "Slurm started %.20s tasks and MPI sees 1 rank; launch; fix: srun --mpi=pmix, or mpirun", tasks);
}

static plp_status refuse_description(int argc, char **argv)
{
    if (argc < 3) return PLP_FAIL(PLP_ERR_USAGE, "--describe: its value is missing; command line; fix: give " CLI_FORMS);
    if (argc > 3) return PLP_FAIL(PLP_ERR_USAGE, "unexpected argument %.60s; command line; fix: see polylepis --help", argv[3]);
    return PLP_FAIL(PLP_ERR_USAGE, "--describe %.60s; command line; fix: one of " CLI_FORMS, argv[2]);
}

static plp_status choose_command(int argc, char **argv, const cli_command **command)
{
    if (argc < 2) return PLP_FAIL(PLP_ERR_USAGE, "no command; command line; fix: see polylepis --help");
    if (strcmp(argv[1], "--describe") == 0) return refuse_description(argc, argv);
    const char *name = strcmp(argv[1], "help") == 0 && argc > 2 ? argv[2] : argv[1];
    *command = find_command(name);
    if (*command != NULL) return PLP_OK;
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) names[i] = commands[i]->name;
    const char *nearest = plp_nearest(name, names, COMMANDS);
    if (nearest == NULL) return PLP_FAIL(PLP_ERR_USAGE, "unknown command %.60s; command line; fix: see polylepis --help", name);
    return PLP_FAIL(PLP_ERR_USAGE, "unknown command %.60s; command line; fix: did you mean %s?", name, nearest);
}

/* What each option is before the command line is read. */
enum { COMPARED = 96 };
static char unset[COMPARED][TP_CLAIM];

static void note_defaults(const plp_option_table *tables, int n)
{
    for (int t = 0, k = 0; t < n; t++)
        for (int i = 0; i < tables[t].count && k < COMPARED; i++) plp_option_text(&tables[t].option[i], unset[k++], TP_CLAIM);
}

static plp_status read_command_line(cli *c, int argc, char **argv, const cli_command **command)
{
    plp_option_table tables[CLI_TABLES];
    PLP_TRY(choose_command(argc, argv, command));
    const int n = tables_of(*command, tables), most = (*command)->most;
    note_defaults(tables, n);
    PLP_TRY(plp_options_parse(tables, n, argc - 2, argv + 2, c->words, most < CLI_WORDS ? most : CLI_WORDS, &c->count));
    if (c->count < (*command)->least)
        return PLP_FAIL(PLP_ERR_USAGE, "%d arguments of %d; command line; fix: polylepis %s", c->count, (*command)->least,
                        (*command)->usage);
    if ((*command)->model && !(*command)->model_optional && common.model == NULL)
        return PLP_FAIL(PLP_ERR_USAGE, "--model is missing; command line; fix: polylepis %s", (*command)->usage);
    if ((*command)->serving && common.cache == PLP_CACHE_NONE && (common.cache_block > 0 || common.cache_memory > 0))
        return PLP_FAIL(PLP_ERR_USAGE, "%s without --prefix-cache; command line; fix: give --prefix-cache as well",
                        common.cache_block > 0 ? "--cache-block" : "--cache-memory");
    c->quiet = common.quiet;
    PLP_TRY(cli_diag_directory(common.diag));
    if (c->quiet) plp_log_threshold(PLP_LOG_WARN);
    c->model = (plp_engine_options){
        .model = common.model,
        .device = (plp_device)common.device,
        .compute = (plp_number)common.compute,
        .state = (plp_number)common.state,
        .link = (plp_link)common.link,
        .threads = (int)common.threads,
        .deterministic = common.deterministic,
        .max_batch_tokens = (int)common.batch_tokens,
        .max_slice = (int)common.slice,
        .cache = (plp_cache)common.cache,
        .cache_block = (int)common.cache_block,
        .cache_bytes = (uint64_t)common.cache_memory * 1000000,
        .trust_model = common.trust,
        .allow_nonfinite = common.nonfinite,
    };
    return PLP_OK;
}

/* The same program and libraries everywhere, before anything is read: other ranks' bytes would mean something else. */
static plp_status compare_programs(const cli *c)
{
    tp_claim claims[TP_CLAIMS];
    PLP_TRY(PLP_FAULT_AT("handshake"));
    return tp_handshake(c->group, claims, cli_program_claims(claims));
}

/* Another command on another rank would wait for other collectives, some of them in MPI, where no watchdog looks. */
static plp_status compare_commands(const cli *c, const cli_command *command)
{
    tp_claim claim = { .name = "command" };
    snprintf(claim.text, sizeof claim.text, "%s", command->name);
    return tp_handshake(c->group, &claim, 1);
}

/* A rank's own: what is seen and said there, and what is compared later, as what it comes to. */
static bool may_differ(const char *name)
{
    static const char *const names[] = { "--device", "--threads", "--trust-model", "--diag", "--quiet", "--help" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

/* Another option on another rank leads to other collectives, too, or to other requests: a wait, until a watchdog ends it, or an error that
 * does not name the option. */
static plp_status compare_options(const cli *c, const cli_command *command)
{
    plp_option_table tables[CLI_TABLES];
    tp_claim claims[TP_CLAIMS];
    int count = 0;
    const int n = tables_of(command, tables);
    for (int t = 0, k = 0; t < n; t++)
        for (int i = 0; i < tables[t].count && k < COMPARED; i++, k++) {
            const plp_option *o = &tables[t].option[i];
            tp_claim *claim = &claims[count];
            if (may_differ(o->name)) continue;
            claim->name = o->name;
            plp_option_text(o, claim->text, sizeof claim->text);
            if (claim->text[0] == 0) snprintf(claim->text, sizeof claim->text, "not given");
            const bool number = o->kind == PLP_OPTION_INT || o->kind == PLP_OPTION_REAL; /* one that may stand for another */
            if (number && strcmp(claim->text, unset[k]) == 0) snprintf(claim->text, sizeof claim->text, "default");
            if (++count < TP_CLAIMS) continue;
            PLP_TRY(tp_handshake(c->group, claims, count));
            count = 0;
        }
    return tp_handshake(c->group, claims, count);
}

/* How a rank fared: the lowest such number of all ranks decides.  The rank that an error only heard of has more to say. */
enum { CODES = 256, FINE = INT_MAX };
static int fared(const cli *c, plp_status st)
{
    return st == PLP_OK ? FINE : ((st == PLP_ERR_REMOTE ? c->size : c->rank) + 1) * CODES + plp_status_exit(st);
}

/* Ranks leave together.  Each says how it fared; whoever failed and is not joined by the others within two seconds failed alone: they wait
 * for it somewhere, and MPI_Abort ends them. */
static void join_all(cli *c, plp_status st)
{
    const double patience = plp_seconds() + 2;
    const struct timespec pause = { .tv_nsec = 1000000 };
    const int mine = fared(c, st);
    int all_here = 0;
    MPI_Request request;
    if (c->fared != 0) return;
    tp_stamp(TP_LEAVE, 0);
    MPI_Iallreduce(&mine, &c->fared, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD, &request);
    for (;;) {
        MPI_Test(&request, &all_here, MPI_STATUS_IGNORE);
        if (all_here || (st != PLP_OK && plp_seconds() > patience)) break;
        nanosleep(&pause, NULL);
    }
    if (all_here) return;
    plp_log_failure(st);
    cli_dump(false);
    cli_abort(st);
}

static plp_status flushed(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return PLP_OK;
    return PLP_FAIL(PLP_ERR_IO, "cannot write to standard output; fix: check where it goes");
}

plp_status cli_join(cli *c, plp_status st)
{
    if (st == PLP_OK) st = flushed();
    join_all(c, st);
    return st;
}

static plp_status run(cli *c, int argc, char **argv)
{
    const cli_command *command = NULL;
    PLP_TRY(tp_group_create(&c->group, MPI_COMM_WORLD));
    c->rank = tp_rank(c->group), c->size = tp_size(c->group);
    plp_log_identity(c->rank, c->size, tp_host(c->group));
    PLP_TRY(check_launch(c));
    PLP_TRY(compare_programs(c));
    PLP_TRY(tp_agree(c->group, read_command_line(c, argc, argv, &command)));
    PLP_TRY(compare_commands(c, command));
    PLP_TRY(compare_options(c, command));
    PLP_TRY(tp_agree(c->group, tp_watchdog_start(c->group, (double)common.watchdog, cli_watchdog_ends)));
    PLP_TRY(command->run(c));
    return c->fared == 0 ? flushed() : PLP_OK;
}

/* The lowest rank that failed prints its line, and its code is everybody's. */
static int leave(cli *c, plp_status st)
{
    if (PLP_FAULT_AT("leave") != PLP_OK) st = PLP_ERR_INTERNAL;
    join_all(c, st);
    if (c->fared != FINE && c->fared == fared(c, st)) plp_log_failure(st);
    if (c->fared != FINE) cli_dump(true);
    tp_watchdog_stop();
    tp_group_destroy(&c->group);
    MPI_Finalize();
    return c->fared == FINE ? 0 : c->fared % CODES;
}

int cli_main(int argc, char **argv)
{
    cli c = { .size = 1 };
    int threads;
    const bool answered = answer_without_mpi(argc, argv);
    const plp_status st = answered ? flushed() : check_launcher();
    if (answered && st == PLP_OK) return 0;
    if (st != PLP_OK) {
        const char *task = getenv("SLURM_PROCID");
        if (task == NULL || atoi(task) == 0) plp_log_threshold(PLP_LOG_ERROR), plp_log_failure(st);
        return plp_status_exit(st);
    }
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is a write that fails */
    (void)PLP_FAULT_AT("init");
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &threads) != MPI_SUCCESS) return plp_status_exit(PLP_ERR_USAGE);
    plp_log_threshold(PLP_LOG_INFO);
    return leave(&c, run(&c, argc, argv));
}

/* ---------------------------------------------------------------------------------------------------------------- for commands */
/* A pipe, to its end.  While its other end takes its time, the watchdog is told that nothing is wrong. */
static plp_status read_stream(int fd, const char *path, size_t most, char **text, size_t *bytes)
{
    enum { PATIENCE = 500 /* milliseconds */, PIECE = 1 << 16 };
    plp_status st = PLP_OK;
    char *data = NULL;
    size_t used = 0, room = 0;
    for (int64_t looks = 1;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        tp_stamp(TP_OUTPUT, looks++);
        if (cli_stop_asked() != CLI_GO_ON) PLP_DO(PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal; %s; fix: start again", path));
        if (poll(&p, 1, PATIENCE) <= 0) continue;
        if (used + PIECE >= room) {
            room = 2 * room + 2 * PIECE;
            char *more = realloc(data, room);
            PLP_DO(PLP_ALLOCATED(more));
            data = more;
        }
        const ssize_t got = read(fd, data + used, room - used - 1);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got < 0) PLP_DO(PLP_FAIL_ERRNO("read", path));
        if (got == 0) break;
        used += (size_t)got;
        if (used > most) PLP_DO(PLP_FAIL(PLP_ERR_DATA, "%s: more than the %zu bytes that are read; fix: give less", path, most));
    }
    data[used] = 0;
    *text = data, *bytes = used, data = NULL;
done:
    free(data);
    return st;
}

/* Rank 0. */
static plp_status read_any(const char *path, size_t most, char **text, size_t *bytes)
{
    struct stat info;
    if (strcmp(path, "-") == 0) return read_stream(STDIN_FILENO, "stdin", most, text, bytes);
    if (stat(path, &info) != 0 || !S_ISFIFO(info.st_mode)) return plp_read_file(path, most, text, bytes);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return PLP_FAIL_ERRNO("open", path);
    const plp_status st = read_stream(fd, path, most, text, bytes);
    close(fd);
    return st;
}

plp_status cli_read_input(const cli *c, const char *path, size_t most, char **text, size_t *bytes)
{
    plp_status st = PLP_OK;
    *text = NULL;
    uint64_t size = 0;
    if (c->rank == 0) {
        st = read_any(path, most, text, bytes);
        size = *bytes;
    }
    PLP_DO(tp_agree(c->group, st));
    PLP_DO(tp_broadcast(c->group, &size, sizeof size, 0));
    *bytes = (size_t)size;
    if (c->rank != 0) st = PLP_ALLOCATED(*text = malloc(*bytes + 1));
    PLP_DO(tp_agree(c->group, st));
    PLP_DO(tp_broadcast(c->group, *text, *bytes + 1, 0));
    return PLP_OK;
done:
    free(*text);
    *text = NULL;
    return st;
}

static bool same_file(const struct stat *a, const struct stat *b) { return a->st_dev == b->st_dev && a->st_ino == b->st_ino; }

/* Whether a checkpoint would miss it. */
static bool is_part(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot != NULL && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".json") == 0);
}

static bool stat_parent(const char *path, struct stat *info)
{
    const char *slash = strrchr(path, '/');
    char *parent = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
    const bool yes = parent != NULL && stat(parent, info) == 0;
    free(parent);
    return yes;
}

static bool lies_in(const char *path, const struct stat *directory)
{
    struct stat info;
    return stat_parent(path, &info) && same_file(&info, directory);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

bool cli_same_name(const char *a, const char *b)
{
    struct stat info;
    return strcmp(last_part(a), last_part(b)) == 0 && (strcmp(a, b) == 0 || (stat_parent(a, &info) && lies_in(b, &info)));
}

static plp_status is_input(const char *name)
{
    return PLP_FAIL(PLP_ERR_CREATE, "%s is an input of this command; output; fix: choose another name", name);
}

plp_status cli_not_part(const char *output, const struct stat *input)
{
    struct stat out;
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s.part", output);
    return stat(part, &out) == 0 && same_file(&out, input) ? is_input(part) : PLP_OK;
}

plp_status cli_not_file(const char *output, const struct stat *input)
{
    struct stat out;
    PLP_TRY(cli_not_part(output, input));
    return stat(output, &out) == 0 && same_file(&out, input) ? is_input(output) : PLP_OK;
}

plp_status cli_not_input(const char *output, const char *input)
{
    struct stat in;
    if (output == NULL || input == NULL || stat(input, &in) != 0) return PLP_OK;
    PLP_TRY(cli_not_file(output, &in));
    return S_ISDIR(in.st_mode) && is_part(output) && lies_in(output, &in) ? is_input(output) : PLP_OK;
}

plp_status cli_not_stream(const char *what, const char *path)
{
    if (path == NULL || strcmp(path, "-") != 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_USAGE, "%s -: standard output cannot be it; command line; fix: name a file", what);
}
