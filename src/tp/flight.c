#include "tp/flight.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --------------------------------------------------------------------------------------------------------------------- write */
static void write_rows(FILE *f, const tp_page *page)
{
    const int64_t last = page->seq, first = last >= TP_RECORDS ? last - TP_RECORDS + 1 : 1;
    for (int64_t seq = first; seq <= last; seq++) {
        const tp_record *r = &page->record[seq % TP_RECORDS];
        if (r->seq == seq) /* or its rank is filling it just now */
            fprintf(f, "%lld %s %lld %.9f %.9f\n", (long long)seq, tp_op_name((int)r->op), (long long)r->bytes, 1e-9 * (double)r->issued,
                    1e-9 * (double)r->done);
    }
}

plp_status tp_flight_write(const char *directory, const tp_page *page, const char *host)
{
    char path[PATH_MAX];
    const int rank = page->rank;
    if (snprintf(path, sizeof path, "%s/polylepis-diag.%d", directory, rank) >= (int)sizeof path)
        return PLP_FAIL(PLP_ERR_USAGE, "--diag: a path of more than %d bytes; fix: a shorter one", PATH_MAX);
    unlink(path); /* of an earlier job; whatever else it was, it is not written to */
    const int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) return PLP_FAIL_ERRNO("create", path);
    FILE *f = fdopen(file, "w");
    if (f == NULL) {
        close(file);
        return PLP_FAIL(PLP_ERR_MEMORY, "host memory exhausted (%s)", path);
    }
    fprintf(f, "polylepis diag 1\nrank %d of %d on %s: %s %lld\n", rank, page->size, host, tp_phase_name(page->phase),
            (long long)page->step);
    write_rows(f, page);
    const bool failed = ferror(f) != 0;
    return fclose(f) == 0 && !failed ? PLP_OK : PLP_FAIL_ERRNO("write", path);
}

/* ---------------------------------------------------------------------------------------------------------------------- read */
static int op_of(const char *name)
{
    for (int op = 0; op < TP_OPS; op++)
        if (strcmp(name, tp_op_name(op)) == 0) return op;
    return -1;
}

static bool read_row(const char *line, tp_flight_row *row)
{
    long long seq, bytes;
    char name[16];
    double issued, done;
    if (sscanf(line, "%18lld %15s %18lld %lf %lf", &seq, name, &bytes, &issued, &done) != 5) return false;
    *row = (tp_flight_row){ .seq = seq, .bytes = bytes, .op = op_of(name), .done = done > 0 };
    return row->op >= 0;
}

static plp_status read_lines(FILE *in, const char *path, tp_flight *f)
{
    char line[256] = "";
    int64_t before = 0;
    if (fgets(line, sizeof line, in) == NULL || strcmp(line, "polylepis diag 1\n") != 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s line 1: no flight recorder; fix: give the directory that --diag named", path);
    if (fgets(line, sizeof line, in) == NULL || sscanf(line, "rank %9d of %9d %127[^\n]", &f->rank, &f->size, f->where) != 3)
        return PLP_FAIL(PLP_ERR_DATA, "%s line 2: no rank; fix: give the directory that --diag named", path);
    for (int n = 3; fgets(line, sizeof line, in) != NULL; n++) {
        if (f->rows == TP_RECORDS || !read_row(line, &f->row[f->rows]) || f->row[f->rows].seq <= before)
            return PLP_FAIL(PLP_ERR_DATA, "%s line %d: no record that follows the last; fix: take the file out", path, n);
        before = f->row[f->rows++].seq;
    }
    return ferror(in) ? PLP_FAIL_ERRNO("read", path) : PLP_OK;
}

plp_status tp_flight_read(const char *path, tp_flight *f)
{
    memset(f, 0, sizeof *f);
    FILE *in = fopen(path, "re");
    if (in == NULL) return PLP_FAIL_ERRNO("read", path);
    const plp_status st = read_lines(in, path, f);
    fclose(in);
    return st;
}

/* ------------------------------------------------------------------------------------------------------------------- compare */
const tp_flight_row *tp_flight_find(const tp_flight *f, int64_t seq)
{
    for (int i = 0; i < f->rows; i++)
        if (f->row[i].seq == seq) return &f->row[i];
    return NULL;
}

static bool equal(const tp_flight_row *a, const tp_flight_row *b)
{
    if (a == NULL || b == NULL) return a == b;
    return a->op == b->op && a->done == b->done && (a->bytes == b->bytes || a->op == TP_GATHER_UNEVEN);
}

/* The lowest collective above `seq` that any has, 0 when none: a file may claim any number, and counting up to it would take for ever. */
static int64_t next_after(const tp_flight *all, int count, int64_t seq)
{
    int64_t next = 0;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < all[i].rows; k++)
            if (all[i].row[k].seq > seq && (next == 0 || all[i].row[k].seq < next)) next = all[i].row[k].seq;
    return next;
}

int64_t tp_flight_difference(const tp_flight *all, int count)
{
    int64_t first = 1;
    for (int i = 0; i < count; i++) {
        const int rows = all[i].rows;
        if (rows > 0 && all[i].row[0].seq > first) first = all[i].row[0].seq;
    }
    for (int64_t seq = first - 1; (seq = next_after(all, count, seq)) > 0;)
        for (int i = 1; i < count; i++)
            if (!equal(tp_flight_find(&all[0], seq), tp_flight_find(&all[i], seq))) return seq;
    return 0;
}
