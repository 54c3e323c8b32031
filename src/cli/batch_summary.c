#include "cli/batch_summary.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

plp_status batch_summary_open(batch_summary *s, const char *path)
{
    struct stat info;
    *s = (batch_summary){ .path = path, .part = { .directory = -1, .fd = -1 } };
    if (path == NULL) return PLP_OK;
    if (stat(path, &info) != 0 || S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) return io_part_create(&s->part, path, true);
    if ((s->stream = fopen(path, "w")) != NULL) return PLP_OK;
    return PLP_FAIL(plp_create_status(errno), "cannot create %s: %s; output; fix: choose a file that can be written", path,
                    strerror(errno));
}

plp_status batch_summary_write(batch_summary *s, const char *text)
{
    if (s->path == NULL) return PLP_OK;
    const int written = s->stream != NULL ? fprintf(s->stream, "%s\n", text) : dprintf(s->part.fd, "%s\n", text);
    if (written < 0 || (s->stream != NULL && fflush(s->stream) != 0)) return PLP_FAIL_ERRNO("write", s->path);
    if ((size_t)written != strlen(text) + 1)
        return PLP_FAIL(PLP_ERR_IO, "cannot write %s; fix: check the disk and its free space", s->path);
    return s->stream != NULL ? PLP_OK : io_part_finish(&s->part);
}

void batch_summary_close(batch_summary *s)
{
    if (s->stream != NULL) fclose(s->stream);
    io_part_discard(&s->part);
    *s = (batch_summary){ .part = { .directory = -1, .fd = -1 } };
}
