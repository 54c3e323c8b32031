/* src/cli/prompt.h -- from a text to the ids that a model is given. */
#ifndef CLI_PROMPT_H
#define CLI_PROMPT_H

#include "polylepis/engine.h"

#include <stdbool.h>

/* The options --add-bos and --no-add-bos. */
typedef struct {
    bool add, leave_out;
} cli_bos;
plp_status cli_check_bos(const cli_bos *b);
/* *ids is the caller's: plp_free. */
plp_status cli_encode(plp_engine *e, const char *text, size_t bytes, const cli_bos *bos, int **ids, size_t *count);

#endif
