/* src/cli/cli.h -- the program: one command a file, and one way in and out for all of them.
 *
 * A command returns a status and prints no error of its own.  cli_main sees to it that all ranks leave with the same exit code, that one
 * of them prints one line, and that a rank that failed alone ends the others, which may wait for it in a collective. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/options.h"
#include "polylepis/engine.h"
#include "tp/handshake.h"
#include "tp/tp.h"

#include <sys/stat.h>

enum { CLI_WORDS = 4 };

typedef struct {
    tp_group *group; /* all ranks */
    int rank, size;
    const char *words[CLI_WORDS]; /* arguments that are no options */
    int count;
    bool quiet;
    plp_engine_options model; /* of commands that open a model */
    int fared;                /* the worst of all ranks, once they have told each other; else 0 */
} cli;

typedef struct {
    const char *name, *summary;
    const char *usage;         /* "generate --model M --prompt TEXT [options]"          */
    const char *examples;      /* for --help, whole lines                               */
    bool model;                /* takes the options that open a model, --model required */
    bool model_optional;       /* ... but does without --model, too                    */
    bool serving;              /* takes those of the engine: slices, prefix cache      */
    bool sampling;             /* takes the options of a request (cli/sampling.h)      */
    int least, most;           /* words                                                 */
    const plp_option *options; /* values in static storage: the command line is read once */
    int option_count;
    plp_status (*run)(cli *c);
} cli_command;

int cli_main(int argc, char **argv);

/* Collective.  Before a command frees what ranks share, where GPUs may wait for each other: tells the others how this rank fared, st or what
 * its standard output says.  Does not return if it failed alone. */
plp_status cli_join(cli *c, plp_status st);

/* Collective.  A whole file, pipe, or "-", standard input, read by rank 0 alone: a file that only some ranks can see must not hang the others.
 * NUL behind it; *text is the caller's to free. */
plp_status cli_read_input(const cli *c, const char *path, size_t most, char **text, size_t *bytes);

/* PLP_ERR_CREATE where a file that is to be written, or its NAME.part, is `input`, or weights or JSON in it if that is a directory.  NULLs
 * are accepted. */
plp_status cli_not_input(const char *output, const char *input);
/* The same where the input is known by its stat alone, as standard input is; and of NAME.part alone, where NAME may be the input. */
plp_status cli_not_file(const char *output, const struct stat *input);
plp_status cli_not_part(const char *output, const struct stat *input);

/* Whether two names, of files that need not exist yet, are one. */
bool cli_same_name(const char *a, const char *b);

/* PLP_ERR_USAGE for "-" where a file is written, which takes its name when it is complete: elsewhere it is standard output.  NULL is
 * accepted. */
plp_status cli_not_stream(const char *what, const char *path);

/* What must be the same on all ranks before they begin: build and libraries.  Their number. */
int cli_program_claims(tp_claim *claims);

/* NCCL's, "2.28.3"; empty in a build without. */
void cli_nccl_version(char *text, size_t size);

/* --version: the program's and of what it was built with and finds. */
void cli_print_version(void);

#endif
