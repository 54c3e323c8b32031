#include "cli/batch_summary.h"

#include "base/error.h"
#include "base/json.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* Whether a file is one: no other has these members. */
static bool is_summary(const char *path)
{
    enum { MOST = 1 << 16 };
    json_object *o = NULL;
    if (plp_json_read(path, MOST, &o) != PLP_OK) return false;
    const bool yes = plp_json_member(o, "finished") != NULL && plp_json_member(o, "ttft_ms") != NULL;
    json_object_put(o);
    return yes;
}

plp_status batch_summary_open(batch_summary *s, const char *path, bool replace)
{
    struct stat info;
    *s = (batch_summary){ .path = path, .part = { .directory = -1, .fd = -1 } };
    if (path == NULL) return PLP_OK;
    const bool there = stat(path, &info) == 0;
    if (!there || S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) {
        PLP_TRY(io_part_create(&s->part, path, true));
        if (!there || replace || is_summary(path)) return PLP_OK;
        return PLP_FAIL(PLP_ERR_CREATE, "%s is there and is no summary; output; fix: choose another name, or ask to replace it (--force)",
                        path);
    }
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
