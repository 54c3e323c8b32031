/* src/io/line_file.h -- a line at the end of a file that several jobs may add to: the whole of it, or none. */
#ifndef IO_LINE_FILE_H
#define IO_LINE_FILE_H

#include "polylepis/status.h"

#include <stddef.h>

/* `line` ends with its \n; so does, afterwards, what was there before.  Makes the file where there is none; PLP_ERR_CREATE, PLP_ERR_PERM.
 * After a failure the file is as it was, or gone, unless somebody else has written to it meanwhile. */
plp_status io_line_append(const char *path, const char *line, size_t bytes);

#endif
