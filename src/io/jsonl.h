/* src/io/jsonl.h -- the lines of a file or stream, one at a time: memory is that of the longest line, at most twice the limit.
 *
 * Lines end with LF or CR LF; the last may end with the file.  A byte order mark before the first is skipped.  What is in the lines is
 * not looked at. */
#ifndef IO_JSONL_H
#define IO_JSONL_H

#include "polylepis/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct io_lines io_lines;

typedef struct {
    int64_t number;   /* from 1 */
    int64_t offset;   /* of its first byte in the file */
    int64_t next;     /* ... and of the byte behind its end */
    const char *text; /* NUL-terminated, without its end; valid until the next call.  NULL: longer than the limit */
    size_t bytes;     /* of a line that is too long as well */
    bool ended;       /* by a LF, not by the end of the file */
} io_line;

/* fd: at its beginning; borrowed.  most: bytes of a line.  `where` names the file in messages, and is copied. */
plp_status io_lines_create(io_lines **l, int fd, size_t most, const char *where);
void io_lines_destroy(io_lines **l);
/* Whether io_lines_next would find a line, or the end, without waiting for whoever writes a stream.  patience: the milliseconds that this call
 * waits for them, less where a signal comes. */
plp_status io_lines_ready(io_lines *l, int patience, bool *ready);
/* *more: whether there was one. */
plp_status io_lines_next(io_lines *l, io_line *line, bool *more);
/* SHA-256 of all that was read, 64 hex digits; after the last line. */
void io_lines_digest(io_lines *l, char hex[65]);

/* The digest and the number of lines of a whole file, by reading it. */
plp_status io_lines_measure(int fd, const char *where, char hex[65], int64_t *lines);

/* Called before every piece that is read, every record that is written, and twice a second while a stream has nothing to read: a batch job
 * tells its watchdog that it is at work.  NULL: nobody asks. */
extern void (*io_alive)(void);

#endif
