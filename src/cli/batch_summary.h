/* src/cli/batch_summary.h -- the file of a batch job's closing summary.  It takes its name when it is complete, as other outputs do; what an
 * earlier job left stays until then.  What is no regular file, /dev/stderr or a pipe, is written as it is. */
#ifndef CLI_BATCH_SUMMARY_H
#define CLI_BATCH_SUMMARY_H

#include "io/part_file.h"

#include <stdio.h>

typedef struct {
    const char *path; /* borrowed; NULL: nobody wants one */
    io_part part;
    FILE *stream; /* of what is no regular file, or NULL */
} batch_summary;

/* PLP_ERR_CREATE or PLP_ERR_PERM when it cannot be written, and, but for `replace`, where a file is there that no job wrote as its summary: a
 * job that goes on replaces that of its last start.  batch_summary_close is due in any case. */
plp_status batch_summary_open(batch_summary *s, const char *path, bool replace);
plp_status batch_summary_write(batch_summary *s, const char *text);
void batch_summary_close(batch_summary *s);

#endif
