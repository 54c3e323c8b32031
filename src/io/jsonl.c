#include "io/jsonl.h"

#include "base/error.h"
#include "base/sha256.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef PLP_FUZZ
enum { PIECE = 64 }; /* so that small inputs, too, come in many */
#else
enum { PIECE = 1 << 18 };
#endif

void (*io_alive)(void);

struct io_lines {
    int fd;
    size_t most;
    char *where;
    char *data; /* (room) bytes read: data[at, used) are to come */
    size_t at, used, room;
    int64_t offset, number; /* of data[at]; of the last line */
    bool end;
    plp_sha256_stream digest;
};

plp_status io_lines_create(io_lines **out, int fd, size_t most, const char *where)
{
    plp_status st = PLP_OK;
    io_lines *l = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(l = calloc(1, sizeof *l)));
    l->fd = fd, l->most = most;
    plp_sha256_init(&l->digest);
    PLP_DO(PLP_ALLOCATED(l->where = strdup(where)));
    PLP_DO(PLP_ALLOCATED(l->data = malloc(PIECE)));
    l->room = PIECE;
    *out = l, l = NULL;
done:
    io_lines_destroy(&l);
    return st;
}

void io_lines_destroy(io_lines **l)
{
    if (*l == NULL) return;
    free((*l)->where);
    free((*l)->data);
    free(*l);
    *l = NULL;
}

static plp_status read_some(int fd, const char *where, char *data, size_t room, size_t *got)
{
    enum { PATIENCE = 500 }; /* milliseconds */
    ssize_t n;
    if (io_alive != NULL) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        do io_alive();
        while ((n = poll(&p, 1, PATIENCE)) == 0 || (n < 0 && errno == EINTR));
    }
    do n = read(fd, data, room);
    while (n < 0 && errno == EINTR);
    if (n < 0) return PLP_FAIL_ERRNO("read", where);
    *got = (size_t)n;
    return PLP_OK;
}

/* Adds a piece behind data[at, used), which moves to the front. */
static plp_status fill(io_lines *l)
{
    size_t got = 0;
    memmove(l->data, l->data + l->at, l->used - l->at);
    l->used -= l->at, l->at = 0;
    if (l->used + 1 >= l->room) {
        char *data = realloc(l->data, 2 * l->room);
        PLP_TRY(PLP_ALLOCATED(data));
        l->data = data, l->room *= 2;
    }
    PLP_TRY(read_some(l->fd, l->where, l->data + l->used, l->room - 1 - l->used, &got)); /* one is for a NUL */
    plp_sha256_update(&l->digest, l->data + l->used, got);
    l->used += got;
    l->end = got == 0;
    return PLP_OK;
}

static void advance(io_lines *l, size_t bytes) { l->at += bytes, l->offset += (int64_t)bytes; }

static plp_status skip_mark(io_lines *l)
{
    static const char mark[] = "\xef\xbb\xbf";
    while (!l->end && l->used < sizeof mark - 1 && memcmp(l->data, mark, l->used) == 0) PLP_TRY(fill(l));
    if (l->used >= sizeof mark - 1 && memcmp(l->data, mark, sizeof mark - 1) == 0) advance(l, sizeof mark - 1);
    return PLP_OK;
}

plp_status io_lines_ready(io_lines *l, int patience, bool *ready)
{
    for (;;) {
        struct pollfd p = { .fd = l->fd, .events = POLLIN };
        const size_t there = l->used - l->at;
        *ready = l->end || there > l->most + 1 || memchr(l->data + l->at, '\n', there) != NULL;
        if (*ready || poll(&p, 1, patience) <= 0) return PLP_OK;
        PLP_TRY(fill(l));
    }
}

plp_status io_lines_next(io_lines *l, io_line *line, bool *more)
{
    const char *newline = NULL;
    size_t seen = 0, dropped = 0; /* without an end among them; of a line that is too long */
    *line = (io_line){ 0 };
    if (l->number == 0) PLP_TRY(skip_mark(l));
    const int64_t offset = l->offset;
    for (;;) {
        newline = memchr(l->data + l->at + seen, '\n', l->used - l->at - seen);
        seen = newline != NULL ? (size_t)(newline - l->data) - l->at : l->used - l->at;
        if (newline != NULL || l->end) break;
        if (seen > l->most + 1) dropped += seen, advance(l, seen), seen = 0;
        PLP_TRY(fill(l));
    }
    *more = newline != NULL || seen + dropped > 0;
    if (!*more) return PLP_OK;
    char *text = l->data + l->at;
    advance(l, seen + (newline != NULL));
    if (newline != NULL && seen > 0 && text[seen - 1] == '\r') seen--;
    text[seen] = 0;
    *line = (io_line){ ++l->number, offset, l->offset, dropped + seen > l->most ? NULL : text, dropped + seen, newline != NULL };
    return PLP_OK;
}

static void finish_digest(plp_sha256_stream *s, char hex[65])
{
    uint8_t digest[PLP_SHA256_BYTES];
    plp_sha256_final(s, digest);
    plp_sha256_hex(digest, hex);
}

void io_lines_digest(io_lines *l, char hex[65]) { finish_digest(&l->digest, hex); }

plp_status io_lines_measure(int fd, const char *where, char hex[65], int64_t *lines)
{
    plp_status st = PLP_OK;
    plp_sha256_stream digest;
    char *data = NULL, last = '\n';
    size_t got = 0;
    *lines = 0;
    plp_sha256_init(&digest);
    PLP_DO(PLP_ALLOCATED(data = malloc(PIECE)));
    for (;;) {
        PLP_DO(read_some(fd, where, data, PIECE, &got));
        if (got == 0) break;
        plp_sha256_update(&digest, data, got);
        for (const char *p = data; (p = memchr(p, '\n', (size_t)(data + got - p))) != NULL; p++) ++*lines;
        last = data[got - 1];
    }
    *lines += last != '\n';
    finish_digest(&digest, hex);
done:
    free(data);
    return st;
}
