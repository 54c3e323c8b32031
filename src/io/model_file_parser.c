#define _GNU_SOURCE /* dladdr1 */
#include "io/model_file_internal.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "io/confine.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PARSER "libexec/polylepis/polylepis-parser"
enum { SECONDS = 60 /* of waiting: a network file system may be slow, the parser has its own limit */, LEVELS = 3 };

/* ---------------------------------------------------------------------------------------------------------------- where it is */

/* The file that holds this code: the program, or libpolylepis.so in somebody else's program. */
static bool find_self(char path[PATH_MAX])
{
    Dl_info info;
    struct link_map *map = NULL;
    if (dladdr1((const void *)&io_parser_read, &info, (void **)&map, RTLD_DL_LINKMAP) == 0 || map == NULL) return false;
    return realpath(*map->l_name != 0 ? map->l_name : "/proc/self/exe", path) != NULL; /* the program itself has no name there */
}

/* A program that somebody else could have put there, or could change, is not started. */
static bool is_ours(const char *program, const struct stat *self)
{
    struct stat info;
    return stat(program, &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & S_IWOTH) == 0 &&
           (info.st_uid == 0 || info.st_uid == geteuid() || info.st_uid == self->st_uid);
}

/* In libexec beside us or above us: bin/ and lib/ of an installation, lib/TRIPLET/, and the folders of a build. */
static plp_status find_program(const char *path, char program[PATH_MAX])
{
    char at[PATH_MAX];
    struct stat self;
    if (!find_self(at) || stat(at, &self) != 0) return PLP_FAIL(PLP_ERR_INTERNAL, "cannot find out where this program is");
    for (int level = 0; level <= LEVELS; level++) {
        char *slash = strrchr(at, '/');
        if (slash == NULL) break;
        *slash = 0;
        if (snprintf(program, PATH_MAX, "%s/" PARSER, at) < PATH_MAX && is_ours(program, &self)) return PLP_OK;
    }
    find_self(at);
    return PLP_FAIL(PLP_ERR_INPUT,
                    "%s: " PARSER ", which parses model files, is not found from %s; fix: install the program as a whole, or --trust-model",
                    path, at);
}

/* ------------------------------------------------------------------------------------------------------------------ starting it */

/* Descriptors that the child's 0, 1 and 2 cannot overwrite on their way. */
static int above(int fd)
{
    const int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return moved;
}

/* Nothing of our environment but what the loader needs, and sanitizers where there are some. */
static void choose_environment(char *environment[4])
{
    static const char *const names[] = { "LD_LIBRARY_PATH=",
#ifdef PLP_SANITIZED
                                         "ASAN_OPTIONS=", "UBSAN_OPTIONS="
#endif
    };
    int n = 0;
    for (char **e = environ; *e != NULL; e++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (n < 3 && strncmp(*e, names[i], strlen(names[i])) == 0) environment[n++] = *e;
    environment[n] = NULL;
}

/* spawn, not fork: a process with MPI or CUDA must not be copied. */
static int spawn(const char *program, const char *path, int in, int out, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t how;
    sigset_t none, all;
    char *const arguments[] = { "polylepis-parser", (char *)path, NULL };
    char *environment[4];
    choose_environment(environment);
    sigemptyset(&none);
    sigfillset(&all);
    int e = posix_spawn_file_actions_init(&actions);
    if (e != 0) return e;
    if ((e = posix_spawnattr_init(&how)) == 0) {
        e = e != 0 ? e : posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
        e = e != 0 ? e : posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        e = e != 0 ? e : posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
        e = e != 0 ? e : posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        e = e != 0 ? e : posix_spawnattr_setsigmask(&how, &none);
        e = e != 0 ? e : posix_spawnattr_setsigdefault(&how, &all);
        e = e != 0 ? e : posix_spawn(pid, program, &actions, &how, arguments, environment);
        posix_spawnattr_destroy(&how);
    }
    posix_spawn_file_actions_destroy(&actions);
    return e;
}

/* ------------------------------------------------------------------------------------------------------------------ hearing it */

/* All that comes until the other end is closed, or the deadline.  false: it is late, says too much, or (*st) hearing it failed here. */
static bool hear(const char *path, int from, double deadline, uint8_t **table, size_t *bytes, plp_status *st)
{
    size_t room = 0;
    for (;;) {
        const double left = deadline - plp_seconds();
        struct pollfd wait = { .fd = from, .events = POLLIN };
        if (left <= 0 || *bytes > IO_MOST_TABLE) return false;
        if (poll(&wait, 1, 1 + (int)(1000 * left)) < 1) continue;
        if (*bytes == room) {
            uint8_t *larger = realloc(*table, room = room == 0 ? 65536 : 2 * room);
            *st = PLP_ALLOCATED(larger);
            if (larger == NULL) return false;
            *table = larger;
        }
        const ssize_t got = read(from, *table + *bytes, room - *bytes);
        if (got == 0) return true;
        if (got < 0 && errno != EINTR && errno != EAGAIN) {
            *st = PLP_FAIL_ERRNO("hear the parser of", path);
            return false;
        }
        if (got > 0) *bytes += (size_t)got;
    }
}

/* Its end, at the deadline by force.  -1: somebody else in this process has waited for it. */
static int await_end(pid_t pid, double deadline)
{
    const struct timespec pause = { .tv_nsec = 100000 };
    int status = -1;
    for (;;) {
        const pid_t ended = waitpid(pid, &status, WNOHANG);
        if (ended == pid) return status;
        if (ended < 0 && errno != EINTR) return -1;
        if (plp_seconds() > deadline) kill(pid, SIGKILL);
        nanosleep(&pause, NULL);
    }
}

static plp_status judge(const char *path, int status, bool heard, double seconds)
{
    char why[120];
    if (status == -1 ? heard : WIFEXITED(status) && WEXITSTATUS(status) == 0 && heard) return PLP_OK;
    if (status != -1 && WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
        snprintf(why, sizeof why, "the parser needed more than %d s", IO_PARSER_SECONDS);
    else if (status != -1 && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        snprintf(why, sizeof why, "the parser tried what it must not and was killed");
    else if (!heard)
        snprintf(why, sizeof why, "the parser said too much, or nothing for %.0f s", seconds);
    else if (status != -1 && WIFSIGNALED(status))
        snprintf(why, sizeof why, "the parser crashed (signal %d, %s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(why, sizeof why, "the parser ended with status %d", status == -1 ? -1 : WEXITSTATUS(status));
    return PLP_FAIL(PLP_ERR_DATA,
                    "%s: could not be parsed safely: %s; fix: convert the checkpoint again, and trust nobody who sent this file", path,
                    why);
}

plp_status io_parser_run(const char *program, const char *path, int fd, double seconds, uint8_t **table, size_t *bytes)
{
    plp_status st = PLP_OK;
    int ends[2] = { -1, -1 }, in = -1;
    pid_t pid;
    *table = NULL, *bytes = 0;
    if (pipe(ends) != 0) return PLP_FAIL_ERRNO("make a pipe to parse", path);
    ends[0] = above(ends[0]), ends[1] = above(ends[1]), in = above(dup(fd));
    const double deadline = plp_seconds() + seconds;
    int e = ends[0] < 0 || ends[1] < 0 || in < 0 ? EMFILE : spawn(program, path, in, ends[1], &pid);
    if (in >= 0) close(in);
    if (ends[1] >= 0) close(ends[1]);
    if (e == 0) {
        const bool heard = hear(path, ends[0], deadline, table, bytes, &st);
        if (!heard) kill(pid, SIGKILL);
        const int ended = await_end(pid, deadline);
        if (st == PLP_OK) st = judge(path, ended, heard, seconds);
    } else
        st = PLP_FAIL(PLP_ERR_IO, "%s: cannot start %s: %s; fix: check its permissions, or --trust-model", path, program, strerror(e));
    if (ends[0] >= 0) close(ends[0]);
    if (st != PLP_OK) {
        free(*table);
        *table = NULL, *bytes = 0;
    }
    return st;
}

/* ---------------------------------------------------------------------------------------------------------------------- reading */
static void warn_of(int confined)
{
    static bool warned;
    if (confined == IO_CONFINED || warned || plp_log_rank() != 0) return;
    warned = true;
    plp_log(
        PLP_LOG_WARN,
        "this kernel has no %s%s%s: model files are parsed in a process of its own with limits, but confined less than SECURITY.md says",
        confined & IO_CONFINED_FILES ? "" : "Landlock", confined == 0 ? " and no " : "",
        confined & IO_CONFINED_CALLS ? "" : "seccomp filters");
}

plp_status io_parser_read(const char *path, int fd, io_contents *contents)
{
    char program[PATH_MAX];
    uint8_t *table = NULL;
    size_t bytes = 0;
    int confined = IO_CONFINED;
    PLP_TRY(find_program(path, program));
    PLP_TRY(io_parser_run(program, path, fd, SECONDS, &table, &bytes));
    const plp_status st = io_table_read(table, bytes, path, &confined, contents);
    free(table);
    warn_of(confined);
    return st;
}
