/* src/io/logits_file.h -- logits as an HDF5 file: /<id>/tokens int32 (T) and /<id>/logits float32 (T, V).
 *
 * One process writes.  The file grows under a name of its own beside the target (".part") and takes the target's name when it is
 * complete. */
#ifndef IO_LOGITS_FILE_H
#define IO_LOGITS_FILE_H

#include "polylepis/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct io_logits_writer io_logits_writer;

/* Fails as io_part_create does. */
plp_status io_logits_create(io_logits_writer **w, const char *path, bool replace);
/* PLP_ERR_DATA for an id that is no part of an HDF5 path ([A-Za-z0-9._-]). */
plp_status io_logits_check_id(const char *id);
/* Begins a record.  PLP_ERR_DATA for such an id, and for one that was there before. */
plp_status io_logits_begin(io_logits_writer *w, const char *id, const int *tokens, int64_t count, int64_t vocab);
/* The next `rows` rows of the record, (rows, vocab). */
plp_status io_logits_append(io_logits_writer *w, const float *logits, int64_t rows);
/* All is there: sync and rename.  Frees the writer whatever happens. */
plp_status io_logits_finish(io_logits_writer **w);
/* Gives up; nothing stays behind. */
void io_logits_discard(io_logits_writer **w);

#endif
