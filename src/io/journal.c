#include "io/journal.h"

#include "io/jsonl.h"

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/json.h"
#include "base/json_out.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SYNC_RECORDS = 64, PREFIX = 96, WINDOW = 1 << 18, MOST_DIFFERENCES = 4, SHOWN = 20 };
static const int64_t MOST_LINES = (int64_t)1 << 36; /* whose offsets are a number of bytes that can be asked for */
static const double SYNC_SECONDS = 1;

struct io_journal {
    char *path;                     /* OUT as it was given                   */
    char *name, *part, *lock, *tmp; /* in the directory                      */
    int dir, fd, lock_fd;           /* fd: of OUT.part                       */
    bool replace, exists;           /* OUT was there at the start            */
    int64_t most;                   /* lines of the input; MOST_LINES where that is not known */
    int64_t end;                    /* bytes of OUT.part                     */
    int64_t *at;                    /* (room) offset of a line's record, 0: none.  [0]: of the record that the end has begun */
    size_t room;
    int unsynced; /* records                               */
    double synced;
    bool broken;  /* a sync failed                         */
    char *window; /* of OUT.part, for reading records back */
    size_t window_room, window_used;
    int64_t window_at;
};

/* --------------------------------------------------------------------------------------------------------------------- create */
static plp_status cannot(const char *doing, const char *path)
{
    const int e = errno;
    return PLP_FAIL(plp_create_status(e), "cannot %s %s: %s; output; fix: choose a directory that can be written", doing, path,
                    strerror(e));
}

static char *joined(const char *name, const char *suffix)
{
    const size_t room = strlen(name) + strlen(suffix) + 1;
    char *text = malloc(room);
    if (text != NULL) snprintf(text, room, "%s%s", name, suffix);
    return text;
}

static plp_status open_directory(io_journal *j)
{
    const char *slash = strrchr(j->path, '/');
    char *directory = strdup(slash == NULL ? "." : slash == j->path ? "/" : j->path);
    PLP_TRY(PLP_ALLOCATED(directory));
    if (slash != NULL && slash != j->path) directory[slash - j->path] = 0;
    j->dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const plp_status st = j->dir < 0 ? cannot("open the directory of", j->path) : PLP_OK;
    free(directory);
    PLP_TRY(st);
    PLP_TRY(PLP_ALLOCATED(j->name = strdup(slash == NULL ? j->path : slash + 1)));
    PLP_TRY(PLP_ALLOCATED(j->part = joined(j->name, ".part")));
    PLP_TRY(PLP_ALLOCATED(j->lock = joined(j->name, ".lock")));
    return PLP_ALLOCATED(j->tmp = joined(j->name, ".tmp"));
}

/* Who holds the lock, as the lock file says it. */
typedef struct {
    char host[256], job[64];
    long pid, restart; /* of the Slurm job: a job that was started again has no other self that runs */
    long long since;
} owner;

static owner myself(void)
{
    owner o = { .job = "-", .pid = (long)getpid(), .since = (long long)time(NULL) };
    const char *job = getenv("SLURM_JOB_ID"), *restart = getenv("SLURM_RESTART_COUNT");
    if (gethostname(o.host, sizeof o.host - 1) != 0 || o.host[0] == 0) strcpy(o.host, "unknown");
    if (job != NULL && job[0] != 0) snprintf(o.job, sizeof o.job, "%s", job);
    if (restart != NULL) o.restart = atol(restart);
    return o;
}

static bool read_owner(int fd, owner *o)
{
    char text[512];
    const ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0) return false;
    text[n] = 0;
    return sscanf(text, "%255s %ld %63s %ld %lld", o->host, &o->pid, o->job, &o->restart, &o->since) == 5;
}

/* Whether the lock file that could be opened is nobody's.  A dead process of this host has lost its fcntl lock; where the file system has
 * none, its pid tells.  Of another host nothing is known, unless it ran the same Slurm job before. */
static bool is_free(int fd, const owner *me, owner *other)
{
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    const bool locked = fcntl(fd, F_SETLK, &whole) == 0;
    if (!read_owner(fd, other)) {
        *other = (owner){ .host = "unknown", .job = "-" };
        return locked; /* nobody's yet, or its owner is just writing */
    }
    if (!locked && (errno == EACCES || errno == EAGAIN)) return false;
    if (strcmp(other->host, me->host) == 0) return locked || (kill((pid_t)other->pid, 0) != 0 && errno == ESRCH);
    return strcmp(other->job, "-") != 0 && strcmp(other->job, me->job) == 0 && other->restart < me->restart;
}

static plp_status write_all(int fd, const char *data, size_t bytes, const char *path)
{
    while (bytes > 0) {
        const ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return PLP_FAIL(PLP_ERR_IO, "cannot write %zu bytes: %s; %s; fix: make room and start again, what is done is kept", bytes,
                            strerror(errno), path);
        data += n, bytes -= (size_t)n;
    }
    return PLP_OK;
}

static plp_status sign(int fd, const owner *me, const char *path)
{
    char text[512];
    const int n = snprintf(text, sizeof text, "%s %ld %s %ld %lld\n", me->host, me->pid, me->job, me->restart, me->since);
    if (ftruncate(fd, 0) != 0 || lseek(fd, 0, SEEK_SET) != 0) return cannot("write the lock of", path);
    return write_all(fd, text, (size_t)n, path);
}

static plp_status take_lock(io_journal *j, bool break_lock)
{
    const owner me = myself();
    for (;;) {
        struct stat mine, there;
        owner other;
        j->lock_fd = openat(j->dir, j->lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (j->lock_fd < 0) return cannot("create the lock of", j->path);
        if (fstat(j->lock_fd, &mine) != 0 || !S_ISREG(mine.st_mode) || mine.st_nlink > 1)
            return PLP_FAIL(PLP_ERR_CREATE, "%s.lock is no file of its own; fix: delete it, or choose another output", j->path);
        if (!is_free(j->lock_fd, &me, &other) && !(break_lock && strcmp(other.host, me.host) != 0))
            return PLP_FAIL(PLP_ERR_CREATE,
                            "%s is written by pid %ld on %s (job %s) since %lld s; %s.lock; fix: wait for it, or --break-lock if that job "
                            "of another host is gone",
                            j->path, other.pid, other.host, other.job, other.since > 0 ? me.since - other.since : 0, j->path);
        /* Its last owner may have taken the file away between our opening and locking it. */
        if (fstat(j->lock_fd, &mine) == 0 && fstatat(j->dir, j->lock, &there, AT_SYMLINK_NOFOLLOW) == 0 && mine.st_ino == there.st_ino)
            return sign(j->lock_fd, &me, j->path);
        close(j->lock_fd);
        j->lock_fd = -1;
    }
}

static plp_status check_output(io_journal *j)
{
    struct stat out, part;
    if (fstatat(j->dir, j->name, &out, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT && j->name[0] != 0) return PLP_OK;
        return cannot("create", j->path);
    }
    j->exists = true;
    if (!S_ISREG(out.st_mode)) return PLP_FAIL(PLP_ERR_CREATE, "%s is no regular file; output; fix: choose another name", j->path);
    if (j->replace || fstatat(j->dir, j->part, &part, AT_SYMLINK_NOFOLLOW) == 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_CREATE, "%s exists; output; fix: delete it, choose another name, or ask to replace it (--force)", j->path);
}

plp_status io_journal_create(io_journal **out, const char *path, bool replace, bool break_lock)
{
    plp_status st = PLP_OK;
    io_journal *j = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(j = calloc(1, sizeof *j)));
    j->dir = j->fd = j->lock_fd = -1;
    j->replace = replace;
    PLP_DO(PLP_ALLOCATED(j->path = strdup(path)));
    PLP_DO(open_directory(j));
    PLP_DO(check_output(j));
    st = take_lock(j, break_lock);
    if (st != PLP_OK && j->lock_fd >= 0) close(j->lock_fd), j->lock_fd = -1; /* not ours: it stays */
    if (st != PLP_OK) goto done;
    *out = j, j = NULL;
done:
    io_journal_close(&j);
    return st;
}

void io_journal_close(io_journal **out)
{
    io_journal *j = *out;
    if (j == NULL) return;
    if (j->fd >= 0) close(j->fd);
    if (j->lock_fd >= 0) { /* first the name, then the lock: who opens it in between looks again */
        unlinkat(j->dir, j->lock, 0);
        close(j->lock_fd);
    }
    if (j->dir >= 0) close(j->dir);
    free(j->path);
    free(j->name);
    free(j->part);
    free(j->lock);
    free(j->tmp);
    free(j->at);
    free(j->window);
    free(j);
    *out = NULL;
}

/* -------------------------------------------------------------------------------------------------------------------- records */
static int write_prefix(char prefix[PREFIX], int64_t line, bool failed, uint32_t crc)
{
    return snprintf(prefix, PREFIX, "{\"line\":%" PRId64 ",\"failed\":%d,\"crc32c\":\"%08" PRIx32 "\",\"result\":", line, failed, crc);
}

static uint32_t sum_of(int64_t line, bool failed, const char *result, size_t bytes)
{
    char head[32];
    const int n = snprintf(head, sizeof head, "%" PRId64 " %d", line, failed);
    return plp_crc32c(plp_crc32c(0, head, (size_t)n), result, bytes);
}

/* What a whole record says; false for a damaged one.  Its head alone is scanned: sscanf looks for the end of all that it is given, and a window
 * of the file has none. */
static bool read_record(const io_journal *j, const char *text, size_t bytes, int64_t *line, bool *failed, const char **result,
                        size_t *result_bytes)
{
    char prefix[PREFIX], head[PREFIX] = "";
    int flag;
    uint32_t crc;
    memcpy(head, text, bytes < PREFIX - 1 ? bytes : PREFIX - 1);
    if (sscanf(head, "{\"line\":%" SCNd64 ",\"failed\":%d,\"crc32c\":\"%8" SCNx32 "\"", line, &flag, &crc) != 3) return false;
    if (*line < 0 || *line > j->most) return false;
    *failed = flag != 0;
    const size_t n = (size_t)write_prefix(prefix, *line, *failed, crc);
    if (bytes <= n || memcmp(text, prefix, n) != 0 || text[bytes - 1] != '}') return false;
    *result = text + n, *result_bytes = bytes - n - 1;
    return sum_of(*line, *failed, *result, *result_bytes) == crc;
}

static plp_status note(io_journal *j, int64_t line, int64_t offset)
{
    if ((uint64_t)line >= j->room) {
        size_t room = j->room == 0 ? 1024 : j->room;
        while (room <= (uint64_t)line) room *= 2;
        int64_t *at = realloc(j->at, room * sizeof *at);
        PLP_TRY(PLP_ALLOCATED(at));
        memset(at + j->room, 0, (room - j->room) * sizeof *at);
        j->at = at, j->room = room;
    }
    j->at[line] = offset;
    return PLP_OK;
}

bool io_journal_has(const io_journal *j, int64_t line) { return (uint64_t)line < j->room && j->at[line] != 0; }

/* ---------------------------------------------------------------------------------------------------------------------- begin */
static plp_status sync_with(io_journal *j, int (*sync)(int), int fd, const char *what)
{
    if (!j->broken && sync(fd) == 0) return PLP_OK;
    j->broken = true;
    return PLP_FAIL(PLP_ERR_IO, "cannot sync %s: %s; %s; fix: check the file system and start again", what, strerror(errno), j->path);
}

static plp_status start(io_journal *j, const char *header)
{
    if (ftruncate(j->fd, 0) != 0) return cannot("write", j->path);
    PLP_TRY(write_all(j->fd, header, strlen(header), j->path));
    PLP_TRY(sync_with(j, fsync, j->fd, j->part));
    j->end = (int64_t)strlen(header);
    return PLP_OK;
}

/* OUT.part gets its name when its header is on the disk: what has the name is a journal, whenever the power goes. */
static plp_status create_part(io_journal *j, const char *header)
{
    plp_status st = PLP_OK;
    unlinkat(j->dir, j->tmp, 0); /* of a start that was killed here */
    j->fd = openat(j->dir, j->tmp, O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (j->fd < 0) return cannot("create the journal of", j->path);
    PLP_DO(start(j, header));
    if (renameat(j->dir, j->tmp, j->dir, j->part) != 0) st = cannot("create the journal of", j->path);
done:
    if (st != PLP_OK) unlinkat(j->dir, j->tmp, 0);
    return st == PLP_OK ? sync_with(j, fsync, j->dir, "the directory") : st;
}

/* As they are written: 1.0 comes back as 1. */
static bool same(json_object *a, json_object *b) { return strcmp(json_object_to_json_string(a), json_object_to_json_string(b)) == 0; }

/* The beginning of a value; a string without its quotes, of which one would be cut off. */
static const char *shown(json_object *value)
{
    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : json_object_to_json_string(value);
}

/* Where two values are shown from: their beginnings, which of long ones may be alike, or a little before they part. */
static size_t shown_from(const char *a, const char *b)
{
    size_t same = 0;
    while (a[same] != 0 && a[same] == b[same]) same++;
    return same < SHOWN ? 0 : same - SHOWN / 4;
}

/* One line with the members of two headers that differ, both values. */
static plp_status differ(const io_journal *j, json_object *was, json_object *is)
{
    char text[400] = "";
    size_t used = 0;
    int count = 0;
    bool alike = false;                    /* their beginnings, as a damaged digest's */
    for (int pass = 0; pass < 2; pass++) { /* what is there now; then what is not there any more */
        json_object_object_foreach(pass == 0 ? is : was, key, value)
        {
            json_object *other = NULL;
            const bool both = json_object_object_get_ex(pass == 0 ? was : is, key, &other);
            if (pass == 0 ? both && same(value, other) : both) continue;
            if (count++ >= MOST_DIFFERENCES) continue;
            json_object *old = pass == 0 ? other : value, *new = pass == 0 ? value : NULL;
            const char *a = shown(new), *b = shown(old);
            if (strcmp(a, b) == 0) a = json_object_to_json_string(new), b = json_object_to_json_string(old); /* 1 and "1" */
            const size_t from = shown_from(a, b);
            const char *cut = from > 0 ? "..." : "";
            alike |= from > 0;
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%.24s %s%.*s, was %s%.*s", count > 1 ? "; " : "", key, cut, SHOWN,
                                     a + from, cut, SHOWN, b + from);
        }
    }
    if (count == 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_CONFIG, "%s.part is of another job: %s%s; fix: start as before, or anew with --force%s", j->path, text,
                    count > MOST_DIFFERENCES ? "; ..." : "", alike ? ", also where nothing has changed but its damaged first line" : "");
}

/* One without its end is not ours, or it would be the expected one cut off: records would be glued to it. */
static plp_status check_header(const io_journal *j, const io_line *l, json_object *header)
{
    json_object *was = NULL;
    plp_status st = plp_json_parse(l->text, l->bytes, j->part, &was);
    if (!l->ended || st != PLP_OK || !json_object_is_type(was, json_type_object))
        st = PLP_FAIL(PLP_ERR_CONFIG, "%s.part is no journal; fix: delete it, or choose another output", j->path);
    else
        st = differ(j, was, header);
    json_object_put(was);
    return st;
}

/* Reads what an earlier start has left.  *whole: up to where it is good; 0: not even the header, which was being written. */
static plp_status scan(io_journal *j, json_object *header, const char *expected, io_journal_found *found, int64_t *whole)
{
    plp_status st = PLP_OK;
    io_lines *lines = NULL;
    io_line l;
    bool more;
    PLP_DO(io_lines_create(&lines, j->fd, SIZE_MAX / 2, j->part));
    PLP_DO(io_lines_next(lines, &l, &more));
    if (!more || (!l.ended && strncmp(expected, l.text, l.bytes) == 0)) goto done;
    PLP_DO(check_header(j, &l, header));
    for (*whole = l.next;; *whole = l.next) {
        int64_t line;
        bool failed;
        const char *result;
        size_t bytes;
        PLP_DO(io_lines_next(lines, &l, &more));
        if (!more || !l.ended || !read_record(j, l.text, l.bytes, &line, &failed, &result, &bytes)) break;
        if (line > 0 && !io_journal_has(j, line)) found->done++, found->failed += failed;
        PLP_DO(note(j, line, l.offset));
    }
done:
    io_lines_destroy(&lines);
    return st;
}

static plp_status resume(io_journal *j, json_object *header, const char *expected, io_journal_found *found)
{
    struct stat info;
    int64_t whole = 0;
    if (fstat(j->fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_nlink != 1)
        return PLP_FAIL(PLP_ERR_CREATE, "%s.part is no file of its own; fix: delete it, or choose another output", j->path);
    PLP_TRY(scan(j, header, expected, found, &whole));
    if (j->exists && !io_journal_has(j, 0))
        return PLP_FAIL(PLP_ERR_CREATE, "%s exists, and so does the journal of a job that has not finished; fix: move one of them away",
                        j->path);
    if (whole == 0) return start(j, expected);
    found->dropped = (int64_t)info.st_size - whole;
    if (found->dropped > 0 && ftruncate(j->fd, whole) != 0) return cannot("shorten the journal of", j->path);
    j->end = whole;
    return PLP_OK;
}

plp_status io_journal_begin(io_journal *j, json_object *header, bool resumable, int64_t lines, io_journal_found *found)
{
    plp_status st = PLP_OK;
    char *text = NULL, *expected = NULL;
    *found = (io_journal_found){ 0 };
    j->synced = plp_seconds();
    j->most = lines >= 0 ? lines : MOST_LINES;
    text = plp_json_text(header, JSON_C_TO_STRING_PLAIN);
    PLP_DO(PLP_ALLOCATED(text));
    PLP_DO(PLP_ALLOCATED(expected = joined(text, "\n")));
    if (j->replace) unlinkat(j->dir, j->part, 0);
    j->fd = openat(j->dir, j->part, O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
    if (j->fd >= 0) {
        if (resumable)
            st = resume(j, header, expected, found);
        else
            st = PLP_FAIL(PLP_ERR_CONFIG, "%s.part exists, and a job that reads a stream cannot be resumed; fix: use --force", j->path);
        goto done;
    }
    if (errno != ENOENT) st = cannot("open the journal of", j->path);
    if (st != PLP_OK) goto done;
    st = create_part(j, expected);
done:
    free(text);
    free(expected);
    return st;
}

/* --------------------------------------------------------------------------------------------------------------------- append */
plp_status io_journal_append(io_journal *j, int64_t line, bool failed, const char *result, size_t bytes)
{
    plp_status st = PLP_OK;
    char *record = NULL;
    if (io_alive != NULL) io_alive();
    PLP_DO(PLP_ALLOCATED(record = malloc(PREFIX + bytes + 2)));
    size_t used = (size_t)write_prefix(record, line, failed, sum_of(line, failed, result, bytes));
    memcpy(record + used, result, bytes);
    used += bytes;
    record[used++] = '}', record[used++] = '\n';
    PLP_DO(PLP_FAULT_AT("journal"));
    PLP_DO(write_all(j->fd, record, used, j->path));
    PLP_DO(note(j, line, j->end));
    j->end += (int64_t)used;
    j->unsynced++;
    st = io_journal_sync(j, false);
done:
    free(record);
    return st;
}

plp_status io_journal_sync(io_journal *j, bool now)
{
    const double time = plp_seconds();
    if (j->unsynced == 0 || (!now && j->unsynced < SYNC_RECORDS && time - j->synced < SYNC_SECONDS)) return PLP_OK;
    j->unsynced = 0, j->synced = time;
    return sync_with(j, fdatasync, j->fd, j->part);
}

/* --------------------------------------------------------------------------------------------------------------------- finish */

static plp_status read_window(io_journal *j, size_t room, int64_t offset)
{
    j->window_at = offset, j->window_used = 0;
    while (j->window_used < room) {
        const ssize_t got = pread(j->fd, j->window + j->window_used, room - j->window_used, (off_t)(offset + (int64_t)j->window_used));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return PLP_FAIL_ERRNO("read the journal of", j->path);
        if (got == 0) break;
        j->window_used += (size_t)got;
    }
    return PLP_OK;
}

/* The record at an offset, out of a window of the file that moves along: most follow each other closely. */
static plp_status fetch(io_journal *j, int64_t offset, const char **text, size_t *bytes)
{
    const bool inside = offset >= j->window_at && offset < j->window_at + (int64_t)j->window_used;
    char *first = j->window + (inside ? offset - j->window_at : 0), *end = NULL;
    if (inside) end = memchr(first, '\n', j->window_used - (size_t)(first - j->window));
    for (size_t room = WINDOW; end == NULL; room *= 2) {
        if (room > j->window_room) {
            char *window = realloc(j->window, room + 1);
            PLP_TRY(PLP_ALLOCATED(window));
            j->window = window, j->window_room = room;
        }
        PLP_TRY(read_window(j, room, offset));
        first = j->window;
        end = memchr(first, '\n', j->window_used);
        if (end == NULL && j->window_used < room)
            return PLP_FAIL(PLP_ERR_IO, "%s.part: a record has lost its end; fix: start again", j->path);
    }
    *text = first, *bytes = (size_t)(end - first);
    return PLP_OK;
}

static plp_status cannot_write_tmp(const io_journal *j)
{
    return PLP_FAIL(PLP_ERR_IO, "cannot write %s.tmp: %s; output; fix: make room and start again, what is done is kept", j->path,
                    strerror(errno));
}

static plp_status put_result(io_journal *j, FILE *out, const char *text, size_t bytes, int64_t wanted)
{
    int64_t line = -1;
    bool failed;
    const char *result;
    size_t count;
    if (!read_record(j, text, bytes, &line, &failed, &result, &count) || (wanted > 0 && line != wanted))
        return PLP_FAIL(PLP_ERR_IO, "%s.part: the record of line %" PRId64 " has changed; fix: start again, it will be computed anew",
                        j->path, wanted);
    if (line == 0) return PLP_OK;
    if (fwrite(result, 1, count, out) != count || fputc('\n', out) == EOF) return cannot_write_tmp(j);
    return PLP_OK;
}

static plp_status put_in_order(io_journal *j, FILE *out, int64_t lines)
{
    for (int64_t line = 1; line <= lines; line++) {
        const char *text = NULL;
        size_t bytes = 0;
        if (io_alive != NULL) io_alive();
        if (!io_journal_has(j, line)) return PLP_FAIL(PLP_ERR_INTERNAL, "%s: line %" PRId64 " has no result", j->path, line);
        PLP_TRY(fetch(j, j->at[line], &text, &bytes));
        PLP_TRY(put_result(j, out, text, bytes, line));
    }
    return PLP_OK;
}

static plp_status put_as_finished(io_journal *j, FILE *out)
{
    plp_status st = PLP_OK;
    io_lines *lines = NULL;
    io_line l;
    bool more;
    if (lseek(j->fd, 0, SEEK_SET) != 0) return PLP_FAIL_ERRNO("read the journal of", j->path);
    PLP_DO(io_lines_create(&lines, j->fd, SIZE_MAX / 2, j->part));
    PLP_DO(io_lines_next(lines, &l, &more)); /* the header */
    for (;;) {
        PLP_DO(io_lines_next(lines, &l, &more));
        if (!more) break;
        PLP_DO(put_result(j, out, l.text, l.bytes, 0));
    }
done:
    io_lines_destroy(&lines);
    return st;
}

/* Writes OUT.tmp, with the mode that OUT is to have. */
static plp_status write_tmp(io_journal *j, int64_t lines, bool in_order)
{
    plp_status st = PLP_OK;
    FILE *out = NULL;
    unlinkat(j->dir, j->tmp, 0); /* of a start that was killed here */
    const int fd = openat(j->dir, j->tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return cannot("create the complete", j->path);
    if ((out = fdopen(fd, "w")) == NULL) {
        close(fd);
        return cannot("write the complete", j->path);
    }
    PLP_DO(in_order ? put_in_order(j, out, lines) : put_as_finished(j, out));
    const mode_t mask = umask(077);
    umask(mask);
    if (fflush(out) != 0 || fchmod(fd, 0666 & ~mask) != 0) {
        st = cannot_write_tmp(j);
        goto done;
    }
    st = sync_with(j, fsync, fd, j->tmp);
done:
    if (fclose(out) != 0 && st == PLP_OK) st = cannot_write_tmp(j);
    if (st != PLP_OK) unlinkat(j->dir, j->tmp, 0); /* what it took may be what was missing */
    return st;
}

static plp_status digest_of(const io_journal *j, const char *name, char hex[65])
{
    int64_t lines;
    const int fd = openat(j->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return PLP_FAIL_ERRNO("open", name);
    const plp_status st = io_lines_measure(fd, name, hex, &lines);
    close(fd);
    return st;
}

/* An earlier start may have come as far as to rename, but no further: then OUT is what OUT.tmp is. */
static plp_status check_same(const io_journal *j)
{
    char ours[65], there[65];
    PLP_TRY(digest_of(j, j->tmp, ours));
    PLP_TRY(digest_of(j, j->name, there));
    if (strcmp(ours, there) == 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_CREATE, "%s exists and holds something else; output; fix: move it away and start again", j->path);
}

plp_status io_journal_finish(io_journal *j, int64_t lines, bool in_order)
{
    struct stat out;
    if (!io_journal_has(j, 0)) PLP_TRY(io_journal_append(j, 0, false, "null", 4));
    PLP_TRY(io_journal_sync(j, true));
    PLP_TRY(PLP_FAULT_AT("finish"));
    PLP_TRY(write_tmp(j, lines, in_order));
    plp_status st = PLP_FAULT_AT("finish");
    if (st == PLP_OK && !j->replace && fstatat(j->dir, j->name, &out, AT_SYMLINK_NOFOLLOW) == 0) st = check_same(j);
    if (st == PLP_OK && renameat(j->dir, j->tmp, j->dir, j->name) != 0) st = cannot("rename the finished", j->path);
    if (st != PLP_OK) unlinkat(j->dir, j->tmp, 0); /* the next start writes another */
    PLP_TRY(st);
    PLP_TRY(sync_with(j, fsync, j->dir, "the directory"));
    PLP_TRY(PLP_FAULT_AT("finish"));
    if (unlinkat(j->dir, j->part, 0) != 0) return cannot("remove the journal of", j->path);
    return PLP_OK;
}
