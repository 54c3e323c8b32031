#include "failures/fail.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static fail_plan plan;
static atomic_long count;
static _Atomic(const char *) failed;

void fail_begin(const fail_plan *p)
{
    plan = *p;
    atomic_store(&count, 0);
    atomic_store(&failed, NULL);
}

const char *fail_end(void)
{
    plan.kind = FAIL_NOTHING;
    return failed;
}

static bool is_turn(const char *name)
{
    const long k = atomic_fetch_add(&count, 1) + 1;
    if (k != plan.n && !(plan.on && k > plan.n)) return false;
    const char *nobody = NULL;
    atomic_compare_exchange_strong(&failed, &nobody, name);
    return true;
}

static bool no_memory(const char *name)
{
    if (plan.kind != FAIL_MEMORY || !is_turn(name)) return false;
    errno = ENOMEM;
    return true;
}

/* What a call may end with. */
enum { IO = 1, SPACE = 2, INTERRUPT = 4 };

static bool fails(const char *name, int possible)
{
    const int error = plan.error == EIO ? IO : plan.error == ENOSPC ? SPACE : INTERRUPT;
    if (plan.kind != FAIL_ERROR || !(possible & error) || !is_turn(name)) return false;
    errno = plan.error;
    return true;
}

static size_t shorter(const char *name, size_t bytes) { return plan.kind == FAIL_SHORT && bytes > 1 && is_turn(name) ? bytes / 2 : bytes; }

static fail_seen *watcher;
void fail_watch(fail_seen *seen) { watcher = seen; }

static void tell(const char *call, int fd, const char *name)
{
    fail_seen *const seen = watcher;
    if (seen == NULL) return;
    const int e = errno;
    watcher = NULL;
    seen(call, fd, name);
    watcher = seen;
    errno = e;
}

/* The linker's names are not ours to choose. */
#define WRAP(type, name, parameters)                                                                                                       \
    type __real_##name parameters;                                                                                                         \
    type __wrap_##name parameters;                                                                                                         \
    type __wrap_##name parameters

/* ------------------------------------------------------------------------------------------------------------------------- memory */
#define MEMORY(type, name, parameters, arguments)                                                                                          \
    WRAP(type, name, parameters) { return no_memory(#name) ? NULL : __real_##name arguments; }

MEMORY(void *, malloc, (size_t bytes), (bytes))
MEMORY(void *, calloc, (size_t n, size_t bytes), (n, bytes))
MEMORY(void *, realloc, (void *p, size_t bytes), (p, bytes))
MEMORY(void *, aligned_alloc, (size_t unit, size_t bytes), (unit, bytes))
MEMORY(char *, strdup, (const char *text), (text))
MEMORY(char *, strndup, (const char *text, size_t most), (text, most))
MEMORY(json_object *, json_object_new_object, (void), ())
MEMORY(json_object *, json_object_new_array, (void), ())
MEMORY(json_object *, json_object_new_string, (const char *text), (text))
MEMORY(json_object *, json_object_new_string_len, (const char *text, int bytes), (text, bytes))
MEMORY(json_object *, json_object_new_int, (int32_t value), (value))
MEMORY(json_object *, json_object_new_int64, (int64_t value), (value))
MEMORY(json_object *, json_object_new_double, (double value), (value))
MEMORY(json_object *, json_object_new_boolean, (json_bool value), (value))
MEMORY(struct json_tokener *, json_tokener_new_ex, (int depth), (depth))
MEMORY(const char *, json_object_to_json_string_ext, (json_object * o, int flags), (o, flags))
WRAP(int, json_object_object_add, (json_object * o, const char *key, json_object *value))
{
    return no_memory("json_object_object_add") ? -1 : __real_json_object_object_add(o, key, value);
}
WRAP(int, json_object_array_add, (json_object * o, json_object *value))
{
    return no_memory("json_object_array_add") ? -1 : __real_json_object_array_add(o, value);
}

/* -------------------------------------------------------------------------------------------------------------------------- files */
#define CALL(name, possible, parameters, arguments)                                                                                        \
    WRAP(int, name, parameters) { return fails(#name, possible) ? -1 : __real_##name arguments; }

static int open_mode(int flags, va_list more) { return flags & O_CREAT ? va_arg(more, int) : 0; }

WRAP(int, open, (const char *path, int flags, ...))
{
    va_list more;
    va_start(more, flags);
    const int mode = open_mode(flags, more);
    va_end(more);
    return fails("open", flags & O_CREAT ? IO | SPACE | INTERRUPT : IO | INTERRUPT) ? -1 : __real_open(path, flags, mode);
}
WRAP(int, openat, (int dir, const char *path, int flags, ...))
{
    va_list more;
    va_start(more, flags);
    const int mode = open_mode(flags, more);
    va_end(more);
    if (fails("openat", flags & O_CREAT ? IO | SPACE | INTERRUPT : IO | INTERRUPT)) return -1;
    const int fd = __real_openat(dir, path, flags, mode);
    if (fd >= 0 && (flags & O_CREAT)) tell("openat", dir, path);
    return fd;
}
WRAP(int, close, (int fd))
{
    const bool fail = fails("close", IO | SPACE | INTERRUPT);
    const int e = errno, result = __real_close(fd);
    if (fail) errno = e;
    return fail ? -1 : result;
}
WRAP(ssize_t, read, (int fd, void *data, size_t bytes))
{
    return fails("read", IO | INTERRUPT) ? -1 : __real_read(fd, data, shorter("read", bytes));
}
WRAP(ssize_t, pread, (int fd, void *data, size_t bytes, off_t at))
{
    return fails("pread", IO | INTERRUPT) ? -1 : __real_pread(fd, data, shorter("pread", bytes), at);
}
WRAP(ssize_t, write, (int fd, const void *data, size_t bytes))
{
    if (fails("write", IO | SPACE | INTERRUPT)) return -1;
    const ssize_t n = __real_write(fd, data, shorter("write", bytes));
    tell("write", fd, NULL);
    return n;
}
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t bytes, off_t at))
{
    if (fails("pwrite", IO | SPACE | INTERRUPT)) return -1;
    const ssize_t n = __real_pwrite(fd, data, shorter("pwrite", bytes), at);
    tell("pwrite", fd, NULL);
    return n;
}
#define CHANGE(name, possible, parameters, arguments, fd, changed)                                                                         \
    WRAP(int, name, parameters)                                                                                                            \
    {                                                                                                                                      \
        if (fails(#name, possible)) return -1;                                                                                             \
        const int result = __real_##name arguments;                                                                                        \
        if (result == 0) tell(#name, fd, changed);                                                                                         \
        return result;                                                                                                                     \
    }
CHANGE(fsync, IO | SPACE | INTERRUPT, (int fd), (fd), fd, NULL)
CHANGE(fdatasync, IO | SPACE | INTERRUPT, (int fd), (fd), fd, NULL)
CHANGE(ftruncate, IO | SPACE | INTERRUPT, (int fd, off_t bytes), (fd, bytes), fd, NULL)
CHANGE(renameat, IO | SPACE, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to)
CHANGE(linkat, IO | SPACE, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), b, to)
CHANGE(unlinkat, IO, (int dir, const char *name, int flags), (dir, name, flags), dir, name)
CALL(rename, IO | SPACE, (const char *from, const char *to), (from, to))
CALL(fstat, IO, (int fd, struct stat *info), (fd, info))
CALL(fchmod, IO, (int fd, mode_t mode), (fd, mode))
WRAP(off_t, lseek, (int fd, off_t at, int from)) { return fails("lseek", IO) ? -1 : __real_lseek(fd, at, from); }
WRAP(int, posix_fallocate, (int fd, off_t at, off_t bytes))
{
    return fails("posix_fallocate", IO | SPACE | INTERRUPT) ? errno : __real_posix_fallocate(fd, at, bytes);
}

/* ------------------------------------------------------------------------------------------------------------------------- streams */
WRAP(FILE *, fopen, (const char *path, const char *mode))
{
    return fails("fopen", *mode == 'r' ? IO : IO | SPACE) ? NULL : __real_fopen(path, mode);
}
WRAP(size_t, fwrite, (const void *data, size_t unit, size_t n, FILE *f))
{
    return fails("fwrite", IO | SPACE) ? 0 : __real_fwrite(data, unit, n, f);
}
WRAP(int, fflush, (FILE * f))
{
    if (fails("fflush", IO | SPACE)) return EOF;
    const int result = __real_fflush(f);
    if (f != NULL) tell("fflush", fileno(f), NULL);
    return result;
}
WRAP(int, fclose, (FILE * f))
{
    const bool fail = fails("fclose", IO | SPACE);
    const int e = errno, result = __real_fclose(f);
    if (fail) errno = e;
    return fail ? EOF : result;
}
