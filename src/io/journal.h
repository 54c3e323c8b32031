/* src/io/journal.h -- an output of many lines that survives any end of the program: what was finished is neither lost nor done again.
 *
 * While the job runs OUT.part is its journal: a header line that says what the job is, then one record for each finished line of the
 * input, as they come,
 *     {"line":7,"failed":0,"crc32c":"9ae0daaf","result":{...}}
 * synced every 64 records or every second.  OUT.lock says who writes.  At the end the results go to OUT.tmp, which is synced and renamed to
 * OUT: a reader that sees OUT sees all of it.  A record of line 0 says that the end has begun.  A job that finds OUT.part goes on with it
 * when its header is the same; records behind a damaged one are dropped, and their lines done again.
 *
 * All names are in one directory, which is held open; symbolic links are not followed.  A failed sync is final: what it should have
 * written may be gone, and a second one would not say so. */
#ifndef IO_JOURNAL_H
#define IO_JOURNAL_H

#include "polylepis/status.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct io_journal io_journal;

/* The first member of a header is "format", and its value begins so: the start of the file says what it is. */
#define IO_JOURNAL_FORMAT "polylepis run-batch"
#define IO_JOURNAL_BEGINS "{\"format\":\"" IO_JOURNAL_FORMAT

/* Takes the lock.  replace: an OUT and an OUT.part that are there are of no worth.  break_lock: so is the lock of another host.
 * PLP_ERR_CREATE: OUT exists and no OUT.part, it is locked, or cannot be made; PLP_ERR_PERM. */
plp_status io_journal_create(io_journal **j, const char *path, bool replace, bool break_lock);

typedef struct {
    int64_t done, failed; /* lines that an earlier start has finished; ... with an error */
    int64_t dropped;      /* bytes of damaged records at the end                         */
} io_journal_found;
/* Starts, or goes on.  header: a flat object, borrowed; without `resumable` a journal that is there is refused.  lines: of the input, or -1;
 * a record of a line beyond them is damaged.  PLP_ERR_CONFIG lists the members that differ. */
plp_status io_journal_begin(io_journal *j, json_object *header, bool resumable, int64_t lines, io_journal_found *found);

/* line: from 1. */
bool io_journal_has(const io_journal *j, int64_t line);
plp_status io_journal_append(io_journal *j, int64_t line, bool failed, const char *result, size_t bytes);
/* Now, or when 64 records or a second have gathered: to be called now and then. */
plp_status io_journal_sync(io_journal *j, bool now);
/* Writes OUT: lines 1 to `lines`, of which none may be missing, or all as they were finished; and takes OUT.part away. */
plp_status io_journal_finish(io_journal *j, int64_t lines, bool in_order);
/* Releases the lock.  OUT.part stays unless it was finished. */
void io_journal_close(io_journal **j);

#endif
