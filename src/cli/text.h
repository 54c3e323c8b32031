/* src/cli/text.h -- a text that grows as its pieces come. */
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include "polylepis/status.h"

#include <stddef.h>

/* {0} is the empty one; free(bytes) when done. */
typedef struct {
    char *bytes; /* NULL where it is empty; no NUL behind them */
    size_t used, room;
} cli_text;

plp_status cli_text_add(cli_text *t, const char *piece, size_t bytes);

#endif
