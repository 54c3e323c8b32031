/* src/cli/describe.h -- commands and options for programs that are not ours: `polylepis --describe bash|zsh|man`.
 *
 * From the tables that the command line is read with, so that completion and manual page name what the program takes, and nothing else. */
#ifndef CLI_DESCRIBE_H
#define CLI_DESCRIBE_H

#include "cli/cli.h"

enum { CLI_TABLES = 5 };

typedef struct {
    const cli_command *command;
    plp_option_table tables[CLI_TABLES]; /* what the command takes; those that several share point to the same options */
    int count;
} cli_description;

/* "bash" or "zsh", a completion script; "man", the part of polylepis(1) that lists options. */
#define CLI_FORMS "bash|zsh|man"
bool cli_describes(const char *form);
/* Prints to stdout; nothing in another form. */
void cli_describe(const char *form, const cli_description *commands, int n);

#endif
