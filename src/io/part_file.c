#include "io/part_file.h"

#include "io/journal.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* The parts that are being written: what a signal handler can look at. */
enum { PLACES = 8 };
static struct {
    volatile sig_atomic_t used;
    int directory;
    char name[NAME_MAX + 1];
} places[PLACES];

static void note_part(io_part *p)
{
    const size_t bytes = strlen(p->part_name) + 1;
    for (int i = 0; i < PLACES && bytes <= sizeof places[i].name; i++) {
        if (places[i].used) continue;
        places[i].directory = p->directory;
        memcpy(places[i].name, p->part_name, bytes);
        atomic_signal_fence(memory_order_release);
        places[i].used = 1;
        p->place = i + 1;
        return;
    }
}

static void forget_part(io_part *p)
{
    if (p->place > 0) places[p->place - 1].used = 0;
    p->place = 0;
}

void io_part_abandon(void)
{
    for (int i = 0; i < PLACES; i++)
        if (places[i].used) unlinkat(places[i].directory, places[i].name, 0);
}

static plp_status open_directory(io_part *p)
{
    char *directory = strdup(p->path);
    PLP_TRY(PLP_ALLOCATED(directory));
    char *slash = strrchr(directory, '/');
    if (slash != NULL) slash[slash == directory] = 0; /* "/name" is in "/" */
    const char *opened = slash != NULL ? directory : ".";
    plp_status st = PLP_OK;
    p->directory = open(opened, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->directory < 0)
        st = PLP_FAIL(plp_create_status(errno), "cannot create %s: directory %s: %s; fix: create it, or check its permissions", p->path,
                      opened, strerror(errno));
    free(directory);
    return st;
}

static plp_status check_target(const io_part *p)
{
    struct stat info;
    if (*p->name == 0) return PLP_FAIL(PLP_ERR_CREATE, "%s names no file; fix: add one", p->path);
    if (fstatat(p->directory, p->name, &info, AT_SYMLINK_NOFOLLOW) != 0) return PLP_OK; /* creating will say what else is wrong */
    if (!S_ISREG(info.st_mode)) return PLP_FAIL(PLP_ERR_CREATE, "%s is not a regular file; fix: choose another name", p->path);
    if (!p->replace)
        return PLP_FAIL(PLP_ERR_CREATE, "%s exists; fix: delete it, choose another name, or ask to replace it (--force)", p->path);
    return PLP_OK;
}

/* What a batch job goes on from is of worth, unlike what any other command has left. */
static bool is_journal(int fd)
{
    char begins[sizeof IO_JOURNAL_BEGINS - 1];
    return pread(fd, begins, sizeof begins, 0) == (ssize_t)sizeof begins && memcmp(begins, IO_JOURNAL_BEGINS, sizeof begins) == 0;
}

/* The part belongs to whoever holds its lock.  One without a lock is left over from a conversion that was killed. */
static plp_status open_part(io_part *p)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        p->fd = openat(p->directory, p->part_name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        const bool fresh = p->fd >= 0;
        struct stat info;
        if (!fresh && errno == EEXIST) p->fd = openat(p->directory, p->part_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (p->fd < 0)
            return PLP_FAIL(plp_create_status(errno), "cannot create %s: %s; fix: check the directory's permissions and space", p->part,
                            strerror(errno));
        p->mine = fresh;
        if (fstat(p->fd, &info) != 0 || !S_ISREG(info.st_mode))
            return PLP_FAIL(PLP_ERR_CREATE, "%s is not a regular file; fix: remove it", p->part);
        if (flock(p->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
            return PLP_FAIL(PLP_ERR_CREATE, "%s is being written by another process; fix: wait for it", p->part);
        if (fresh) {
            note_part(p);
            return PLP_OK;
        }
        if (is_journal(p->fd))
            return PLP_FAIL(PLP_ERR_CREATE,
                            "%s is a batch job that has not finished; output; fix: finish it, delete it, or choose another name", p->part);
        unlinkat(p->directory, p->part_name, 0);
        close(p->fd);
        p->fd = -1;
    }
    return PLP_FAIL(PLP_ERR_CREATE, "%s cannot be removed; fix: remove it", p->part);
}

/* Under its own name at last; where nothing may be replaced, in one step that cannot. */
static plp_status publish(io_part *p)
{
    forget_part(p); /* first: behind the rename the part's name may be another process's */
    if (!p->replace && linkat(p->directory, p->part_name, p->directory, p->name, 0) == 0) {
        p->mine = unlinkat(p->directory, p->part_name, 0) != 0; /* it is tried again */
        return PLP_OK;
    }
    PLP_TRY(check_target(p)); /* it may exist by now, or this file system has no hard links */
    if (renameat(p->directory, p->part_name, p->directory, p->name) != 0)
        return PLP_FAIL(plp_create_status(errno), "cannot rename %s to %s: %s; fix: check the directory's permissions", p->part, p->name,
                        strerror(errno));
    p->mine = false;
    return PLP_OK;
}

plp_status io_part_create(io_part *p, const char *path, bool replace)
{
    *p = (io_part){ .directory = -1, .fd = -1, .replace = replace };
    PLP_TRY(PLP_ALLOCATED(p->path = strdup(path)));
    PLP_TRY(PLP_ALLOCATED(p->part = malloc(strlen(path) + sizeof ".part")));
    strcat(strcpy(p->part, path), ".part");
    const char *slash = strrchr(path, '/');
    const size_t start = slash == NULL ? 0 : (size_t)(slash - path) + 1;
    p->name = p->path + start, p->part_name = p->part + start;
    const mode_t mask = umask(077); /* there is no other way to ask */
    umask(mask);
    p->mode = 0666 & ~mask;
    PLP_TRY(open_directory(p));
    PLP_TRY(check_target(p));
    PLP_TRY(open_part(p));
    snprintf(p->fd_name, sizeof p->fd_name, "/proc/self/fd/%d", p->fd);
    return PLP_OK;
}

plp_status io_part_finish(io_part *p)
{
    /* After a failed fsync the pages may be gone and a second one would succeed: the file is given up. */
    if (fchmod(p->fd, p->mode) != 0 || fsync(p->fd) != 0)
        return PLP_FAIL(PLP_ERR_IO, "cannot complete %s: %s; fix: check the disk and its free space", p->part, strerror(errno));
    PLP_TRY(publish(p));
    if (fsync(p->directory) != 0)
        return PLP_FAIL(PLP_ERR_IO, "cannot sync the directory of %s: %s; fix: check the disk", p->path, strerror(errno));
    return PLP_OK;
}

void io_part_discard(io_part *p)
{
    forget_part(p);
    if (p->mine) unlinkat(p->directory, p->part_name, 0);
    if (p->fd >= 0) close(p->fd);
    if (p->directory >= 0) close(p->directory);
    free(p->part);
    free(p->path);
    *p = (io_part){ .directory = -1, .fd = -1 };
}
