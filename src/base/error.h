/* src/base/error.h -- a code, a message, one way out.
 *
 * PLP_FAIL keeps "what; where; fix: how" for this thread and yields the code.  A message names the thing and both numbers, in one line:
 *     return PLP_FAIL(PLP_ERR_SHAPE, "%s: rows %lld of %lld; fix: convert the checkpoint again", name, got, want);
 * Bytes that come from files may be passed with %s: control characters are escaped, and 1000 bytes are kept. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "polylepis/status.h"

#define PLP_FAIL(code, ...) plp_fail((code), __FILE__, __LINE__, __VA_ARGS__)

/* Leave at once, keeping the status / leave through `done:`, which frees what the function holds (needs a local `plp_status st`). */
#define PLP_TRY(expr)                                                                                                                      \
    do {                                                                                                                                   \
        plp_status st_ = (expr);                                                                                                           \
        if (st_ != PLP_OK) return st_;                                                                                                     \
    } while (0)
#define PLP_DO(expr)                                                                                                                       \
    do {                                                                                                                                   \
        if ((st = (expr)) != PLP_OK) goto done;                                                                                            \
    } while (0)

plp_status plp_fail(plp_status code, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* PLP_ERR_MEMORY unless `pointer` is set: PLP_TRY(PLP_ALLOCATED(p = calloc(n, sizeof *p))). */
#define PLP_ALLOCATED(pointer)                                                                                                             \
    ((pointer) != NULL                                                                                                                     \
         ? PLP_OK                                                                                                                          \
         : PLP_FAIL(PLP_ERR_MEMORY, "host memory exhausted (" #pointer "); fix: a smaller batch, more ranks, or a wider ulimit -v"))

/* PLP_ERR_USAGE unless a function of the public API was given what it needs: PLP_TRY(PLP_GIVEN(e, "engine")). */
#define PLP_GIVEN(pointer, name)                                                                                                           \
    ((pointer) != NULL ? PLP_OK : PLP_FAIL(PLP_ERR_USAGE, "%s is NULL; %s; fix: give what polylepis(3) says", (name), __func__))

/* Where the last failure of this thread was raised, "file:line"; for debug output only. */
const char *plp_last_error_site(void);

/* Control characters, and bytes that are not UTF-8, become '?', in place. */
void plp_escape_control(char *text);

/* errno as a status: PLP_ERR_INPUT, _PERM, _MEMORY or _IO, for a failed open or read of `what`. */
plp_status plp_fail_errno(const char *file, int line, const char *doing, const char *what);
#define PLP_FAIL_ERRNO(doing, what) plp_fail_errno(__FILE__, __LINE__, (doing), (what))

/* errno of an output that cannot be made: PLP_ERR_PERM where permission is missing or the file system is read-only, else PLP_ERR_CREATE. */
plp_status plp_create_status(int error);

#endif
