#include "io/line_file.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    const char *path;
    int fd;
    bool fresh; /* ours: it was not there */
    off_t end;  /* before we wrote        */
    off_t put;  /* bytes that we wrote    */
} line_file;

static plp_status open_file(line_file *f)
{
    const int flags = O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC;
    f->fd = open(f->path, flags | O_EXCL, 0666);
    f->fresh = f->fd >= 0;
    if (!f->fresh && errno == EEXIST) f->fd = open(f->path, flags, 0666);
    if (f->fd < 0)
        return PLP_FAIL(plp_create_status(errno), "cannot write %s: %s; output; fix: choose another file", f->path, strerror(errno));
    f->end = lseek(f->fd, 0, SEEK_END);
    return PLP_OK;
}

static plp_status put(line_file *f, const char *data, size_t bytes)
{
    const ssize_t n = write(f->fd, data, bytes);
    if (n > 0) f->put += n;
    if (n == (ssize_t)bytes) return PLP_OK;
    if (n >= 0) errno = ENOSPC; /* some of it had room */
    return PLP_FAIL_ERRNO("write", f->path);
}

static plp_status put_line(line_file *f, const char *line, size_t bytes)
{
    char last = '\n';
    if (f->end > 0 && pread(f->fd, &last, 1, f->end - 1) != 1) return PLP_FAIL_ERRNO("read", f->path);
    if (last != '\n') PLP_TRY(put(f, "\n", 1)); /* edited by hand */
    PLP_TRY(put(f, line, bytes));
    return fsync(f->fd) == 0 ? PLP_OK : PLP_FAIL_ERRNO("write", f->path);
}

/* Who reads the file next would take a part of a line for damage.  What another job has put behind it stays. */
static void take_back(const line_file *f)
{
    struct stat info;
    if (fstat(f->fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size != f->end + f->put) return;
    if (f->fresh)
        unlink(f->path);
    else if (f->put > 0)
        (void)!ftruncate(f->fd, f->end); /* there is nobody left to tell */
}

plp_status io_line_append(const char *path, const char *line, size_t bytes)
{
    line_file f = { .path = path };
    PLP_TRY(open_file(&f));
    plp_status st = put_line(&f, line, bytes);
    if (st != PLP_OK) take_back(&f);
    if (close(f.fd) != 0 && st == PLP_OK) st = PLP_FAIL_ERRNO("write", path);
    return st;
}
