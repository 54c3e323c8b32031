/* src/cli/batch_output.h -- rank 0's side of the output of a batch job: a file with its journal (io/journal.h), or stdout.
 *
 * On stdout nothing can be resumed.  Records that come before their turn wait in memory, and so that these stay few, no line is taken up
 * that is too far ahead of the first one that has not finished. */
#ifndef CLI_BATCH_OUTPUT_H
#define CLI_BATCH_OUTPUT_H

#include "io/journal.h"

typedef struct batch_output batch_output;

/* path: "-" is stdout.  replace, break_lock: as io_journal_create. */
plp_status batch_output_create(batch_output **o, const char *path, bool in_order, bool replace, bool break_lock);
/* As io_journal_begin; nothing is found on stdout. */
plp_status batch_output_begin(batch_output *o, json_object *header, bool resumable, int64_t lines, io_journal_found *found);
void batch_output_close(batch_output **o);

bool batch_output_resumes(const batch_output *o); /* what is written survives */
bool batch_output_has(const batch_output *o, int64_t line);
/* The last line that may be taken up now. */
int64_t batch_output_most(const batch_output *o);
plp_status batch_output_put(batch_output *o, int64_t line, bool failed, json_object *record);
/* As io_journal_sync and io_journal_finish. */
plp_status batch_output_sync(batch_output *o, bool now);
plp_status batch_output_finish(batch_output *o, int64_t lines);

#endif
