/* The command line, one argument a line, and the environment, in lines that begin with $: the tables of all commands.  A number that is
 * accepted is in its range. */
#include "fuzz.h"

static const char *environment(const char *name);
#define getenv (char *)(uintptr_t)environment
#include "cli/abort.h"
#define cli_diag_directory(path) ((void)(path), PLP_OK) /* it would be made */
#include "cli/cli.c"

enum { MOST_ARGUMENTS = 24, MOST_OPTIONS = 400 };
static char *argument[MOST_ARGUMENTS + 1], *variable[MOST_ARGUMENTS];
static int arguments, variables;

static const char *environment(const char *name)
{
    const size_t n = strlen(name);
    for (int i = 0; i < variables; i++)
        if (strncmp(variable[i] + 1, name, n) == 0 && variable[i][1 + n] == '=') return variable[i] + n + 2;
    return strcmp(name, "OMPI_COMM_WORLD_RANK") == 0 ? "1" : NULL; /* help is for rank 0 to print */
}

/* ------------------------------------------------------------------------- the values' storage, as it is before the first command line */
static size_t size_of(plp_option_kind kind)
{
    static const size_t sizes[] = {
        [PLP_OPTION_FLAG] = sizeof(bool),         [PLP_OPTION_INT] = sizeof(int64_t),     [PLP_OPTION_REAL] = sizeof(double),
        [PLP_OPTION_TEXT] = sizeof(const char *), [PLP_OPTION_TEXTS] = sizeof(plp_texts), [PLP_OPTION_INTS] = sizeof(plp_ints),
        [PLP_OPTION_CHOICE] = sizeof(int)
    };
    return sizes[kind];
}
static struct {
    const plp_option *option;
    char value[sizeof(plp_texts)];
} was[MOST_OPTIONS];
static int options_known;

static void keep(const plp_option *o)
{
    for (int i = 0; i < options_known; i++)
        if (was[i].option == o) return; /* an option of several commands */
    CHECK(options_known < MOST_OPTIONS, "more than %d options", MOST_OPTIONS);
    was[options_known].option = o;
    memcpy(was[options_known++].value, o->value, size_of(o->kind));
}
static void keep_all(void)
{
    for (int c = 0; c < COMMANDS; c++) {
        plp_option_table tables[CLI_TABLES];
        const int n = tables_of(commands[c], tables);
        for (int t = 0; t < n; t++)
            for (int i = 0; i < tables[t].count; i++) keep(&tables[t].option[i]);
    }
}
static void restore(int i)
{
    const plp_option *o = was[i].option;
    if (o->kind == PLP_OPTION_INTS) free(((plp_ints *)o->value)->item);
    memcpy(o->value, was[i].value, size_of(o->kind));
}
static bool inside(double value, const plp_option *o) { return value >= o->least && value <= o->most; }
static void check(int index)
{
    const plp_option *o = was[index].option;
    const plp_ints *ints = o->value;
    const plp_texts *texts = o->value;
    if (memcmp(was[index].value, o->value, size_of(o->kind)) == 0) return;
    switch (o->kind) {
    case PLP_OPTION_FLAG: CHECK(*(char *)o->value == 1, "%s", o->name); break;
    case PLP_OPTION_INT: CHECK(inside((double)*(int64_t *)o->value, o), "%s %lld", o->name, (long long)*(int64_t *)o->value); break;
    case PLP_OPTION_REAL: CHECK(inside(*(double *)o->value, o), "%s %g", o->name, *(double *)o->value); break;
    case PLP_OPTION_TEXT: CHECK((double)strlen(*(const char **)o->value) >= o->least, "%s", o->name); break;
    case PLP_OPTION_TEXTS:
        for (int i = 0; i < texts->count; i++) CHECK((double)strlen(texts->item[i]) >= o->least, "%s", o->name);
        break;
    case PLP_OPTION_INTS:
        for (int i = 0; i < ints->count; i++) CHECK(inside(ints->item[i], o), "%s %d", o->name, ints->item[i]);
        break;
    case PLP_OPTION_CHOICE: CHECK(*(int *)o->value >= 0 && *(int *)o->value < (int)strlen(o->argument), "%s", o->name); break;
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    keep_all();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static char name[] = "polylepis";
    fuzz_input in = { data, data + bytes };
    const cli_command *command = NULL;
    cli c = { .size = 1 };
    arguments = variables = 0;
    argument[arguments++] = name;
    while (in.at < in.end && arguments < MOST_ARGUMENTS && variables < MOST_ARGUMENTS) {
        char *text = fuzz_text(&in, '\n');
        if (text[0] == '$')
            variable[variables++] = text;
        else
            argument[arguments++] = text;
    }
    argument[arguments] = NULL;
    if (!answer_without_mpi(arguments, argument) && fuzz_answer(check_launch(&c)) &&
        fuzz_answer(read_command_line(&c, arguments, argument, &command))) {
        CHECK(c.count >= command->least && c.count <= command->most && c.count <= CLI_WORDS, "%d words", c.count);
        for (int i = 0; i < options_known; i++) check(i);
    }
    for (int i = 0; i < options_known; i++) restore(i);
    plp_log_threshold(PLP_LOG_ERROR); /* --quiet changes it */
    for (int i = 1; i < arguments; i++) free(argument[i]);
    for (int i = 0; i < variables; i++) free(variable[i]);
    return 0;
}
