/* src/cli/batch_input.h -- rank 0's side of the input of a batch job: which line comes next, and what is wrong with it at first sight. */
#ifndef CLI_BATCH_INPUT_H
#define CLI_BATCH_INPUT_H

#include "cli/batch_request.h"

#include "io/jsonl.h"

#include <sys/stat.h>

typedef struct batch_input batch_input;

/* path: "-" is stdin.  most: bytes of a line.  duplicates: an id may come again. */
plp_status batch_input_create(batch_input **in, const char *path, size_t most, bool duplicates);
void batch_input_destroy(batch_input **in);
/* 64 hex digits, and the number of lines; NULL and -1 of a stream, which cannot be read twice. */
const char *batch_input_digest(const batch_input *in);
int64_t batch_input_lines(const batch_input *in);
/* The input must not be written. */
const struct stat *batch_input_stat(const batch_input *in);

/* Whether the next line, or the end, is there; always of a file.  patience: as in io_lines_ready. */
plp_status batch_input_ready(batch_input *in, int patience, bool *ready);
/* *line: the next one, borrowed until the call after this.  *bad: what the line gets instead of an answer, its message being the last
 * error; *r is to be freed then. */
plp_status batch_input_next(batch_input *in, const batch_defaults *defaults, io_line *line, batch_request *r, plp_status *bad, bool *more);
/* Reads every line, and fails at the first one that is bad; then begins anew.  Not of a stream. */
plp_status batch_input_check(batch_input *in, const batch_defaults *defaults);
/* After the last line: PLP_ERR_DISAGREE when the file has changed since the start. */
plp_status batch_input_end(batch_input *in);

#endif
