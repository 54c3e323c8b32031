/* src/io/part_file.h -- a file that appears under its name complete or not at all: written as NAME.part, renamed at the end.
 *
 * Nobody else reads the part (mode 0600), it is made anew and locked, no link is followed to it, and all names are looked up in a directory
 * that is held open: what somebody plants at the target, at the part or in the directory's place leads nowhere. */
#ifndef IO_PART_FILE_H
#define IO_PART_FILE_H

#include "polylepis/status.h"

#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    char *path, *part; /* as given; with ".part" behind it */
    const char *name;  /* the last component of path, and of part */
    const char *part_name;
    int directory, fd; /* of the directory that holds both; of the part */
    bool mine;         /* the part is ours to delete */
    int place;         /* from 1, among those of io_part_abandon; 0: none */
    bool replace;
    mode_t mode;      /* of the finished file */
    char fd_name[32]; /* of the part for libraries that open by name: it leads to fd's file, whatever has become of `part` */
} io_part;

/* PLP_ERR_CREATE when the target exists (unless `replace`), its directory is missing, or another process is writing it; PLP_ERR_PERM when it
 * may not be written.  A part that a killed process left is replaced; the journal of a batch job (io/journal.h) is not: PLP_ERR_CREATE.
 * io_part_discard is due in any case. */
plp_status io_part_create(io_part *p, const char *path, bool replace);
/* fsync, rename, fsync of the directory. */
plp_status io_part_finish(io_part *p);
/* After a finish only memory is left to give back; else nothing stays behind. */
void io_part_discard(io_part *p);
/* Deletes the parts of this process that are not finished, where it is about to leave without a way back.  May be called by a signal handler. */
void io_part_abandon(void);

#endif
