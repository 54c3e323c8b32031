/* src/cli/commands.h -- the table of commands: cmd_NAME.c defines cli_NAME. */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "cli/cli.h"

extern const cli_command cli_generate, cli_run_batch, cli_logits, cli_perplexity, cli_convert, cli_inspect, cli_verify, cli_bench, cli_diag;

#endif
