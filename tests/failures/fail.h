/* tests/failures/fail.h -- the n-th allocation, or the n-th call to the system, fails: of the product's own code, whose calls the linker
 * sends here (--wrap, see CMakeLists.txt).  What fails inside MPI, HDF5 and json-c is not among it, but calls of json-c that make or fill an
 * object are: they fail when memory runs out. */
#ifndef FAILURES_FAIL_H
#define FAILURES_FAIL_H

#include <stdbool.h>

typedef enum {
    FAIL_NOTHING,
    FAIL_MEMORY, /* an allocation gives nothing                                                                   */
    FAIL_ERROR,  /* a call that can end with `error` does so; close has closed all the same                       */
    FAIL_SHORT   /* read and write do half of what they could                                                     */
} fail_kind;

typedef struct {
    fail_kind kind;
    int error; /* EIO, ENOSPC, EINTR */
    long n;    /* from 1 */
    bool on;   /* and all after the n-th: memory and disks that are full stay so */
} fail_plan;

/* Counts from here on.  Calls of other threads count as well. */
void fail_begin(const fail_plan *p);
/* The function that failed first, or NULL: there was no n-th. */
const char *fail_end(void);

/* What may be lost when the power goes: told of every call that changes a file or a directory, after it was made.  A file: fd, name NULL;
 * what happened to a name of a directory: its fd, and the name.  NULL: off.  Calls that `seen` makes are not told. */
typedef void fail_seen(const char *call, int fd, const char *name);
void fail_watch(fail_seen *seen);

#endif
