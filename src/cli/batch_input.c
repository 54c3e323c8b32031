#include "cli/batch_input.h"

#include "cli/id_set.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct batch_input {
    const char *path; /* borrowed */
    int fd;
    size_t most;
    bool stream, duplicates;
    struct stat info;
    char digest[65];
    int64_t lines;
    io_lines *reader;
    cli_id_set ids;
};

static plp_status rewind_input(batch_input *in)
{
    io_lines_destroy(&in->reader);
    cli_id_set_free(&in->ids);
    if (!in->stream && lseek(in->fd, 0, SEEK_SET) != 0) return PLP_FAIL_ERRNO("read", in->path);
    return io_lines_create(&in->reader, in->fd, in->most, in->path);
}

plp_status batch_input_create(batch_input **out, const char *path, size_t most, bool duplicates)
{
    plp_status st = PLP_OK;
    batch_input *in = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(in = calloc(1, sizeof *in)));
    in->path = path, in->most = most, in->duplicates = duplicates, in->lines = -1;
    in->fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (in->fd < 0 || fstat(in->fd, &in->info) != 0) {
        st = PLP_FAIL_ERRNO("open", path);
        goto done;
    }
    if (S_ISDIR(in->info.st_mode)) {
        st = PLP_FAIL(PLP_ERR_DATA, "%s is a directory; input; fix: give a file of one JSON object a line", path);
        goto done;
    }
    in->stream = !S_ISREG(in->info.st_mode) || in->fd == STDIN_FILENO;
    if (!in->stream) PLP_DO(io_lines_measure(in->fd, path, in->digest, &in->lines));
    PLP_DO(rewind_input(in));
    *out = in, in = NULL;
done:
    batch_input_destroy(&in);
    return st;
}

void batch_input_destroy(batch_input **out)
{
    batch_input *in = *out;
    if (in == NULL) return;
    io_lines_destroy(&in->reader);
    if (in->fd > STDIN_FILENO) close(in->fd);
    cli_id_set_free(&in->ids);
    free(in);
    *out = NULL;
}

const char *batch_input_digest(const batch_input *in) { return in->stream ? NULL : in->digest; }
int64_t batch_input_lines(const batch_input *in) { return in->lines; }
const struct stat *batch_input_stat(const batch_input *in) { return &in->info; }

plp_status batch_input_ready(batch_input *in, int patience, bool *ready)
{
    *ready = true;
    return in->stream ? io_lines_ready(in->reader, patience, ready) : PLP_OK;
}

plp_status batch_input_next(batch_input *in, const batch_defaults *defaults, io_line *line, batch_request *r, plp_status *bad, bool *more)
{
    bool again = false;
    *r = (batch_request){ 0 };
    *bad = PLP_OK;
    PLP_TRY(io_lines_next(in->reader, line, more));
    if (!*more) return PLP_OK;
    if (line->text == NULL) {
        r->line = line->number;
        *bad = PLP_FAIL(PLP_ERR_DATA, "line %lld: %zu bytes, at most %zu are read; fix: --max-line-mib", (long long)line->number,
                        line->bytes, in->most);
        return PLP_OK;
    }
    *bad = batch_request_read(r, line->text, line->bytes, line->number, defaults);
    if (*bad == PLP_ERR_MEMORY) return *bad;
    if (r->id != NULL && !in->duplicates) PLP_TRY(cli_id_set_add(&in->ids, r->id, &again));
    if (again && *bad == PLP_OK)
        *bad = PLP_FAIL(PLP_ERR_DATA, "line %lld: id %.100s comes again; fix: give every line its own, or use --dup allow",
                        (long long)line->number, r->id);
    return PLP_OK;
}

plp_status batch_input_check(batch_input *in, const batch_defaults *defaults)
{
    for (;;) {
        io_line line;
        batch_request r;
        plp_status bad;
        bool more;
        PLP_TRY(batch_input_next(in, defaults, &line, &r, &bad, &more));
        batch_request_free(&r);
        if (bad != PLP_OK) return bad;
        if (!more) return rewind_input(in);
    }
}

plp_status batch_input_end(batch_input *in)
{
    char digest[65];
    if (in->stream) return PLP_OK;
    io_lines_digest(in->reader, digest);
    if (strcmp(digest, in->digest) == 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_DISAGREE, "%s has changed since the job began; input; fix: start anew with --force", in->path);
}
