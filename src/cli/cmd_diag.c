/* polylepis diag: where the flight recorders of the ranks part. */
#include "cli/commands.h"

#include "base/error.h"
#include "tp/flight.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_rank(const void *a, const void *b)
{
    const tp_flight *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* Every polylepis-diag.* of the directory; *all is the caller's. */
static plp_status read_all(const char *directory, tp_flight **all, int *count)
{
    plp_status st = PLP_OK;
    char path[PATH_MAX];
    DIR *d = opendir(directory);
    if (d == NULL) return PLP_FAIL_ERRNO("open", directory);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strncmp(e->d_name, "polylepis-diag.", 15) != 0) continue;
        tp_flight *grown = realloc(*all, (size_t)(*count + 1) * sizeof *grown);
        PLP_DO(PLP_ALLOCATED(grown));
        *all = grown;
        snprintf(path, sizeof path, "%.3000s/%s", directory, e->d_name);
        PLP_DO(tp_flight_read(path, *all + *count));
        ++*count;
    }
    if (*count == 0) st = PLP_FAIL(PLP_ERR_INPUT, "%s: no polylepis-diag.RANK; fix: give the directory that --diag named", directory);
done:
    closedir(d);
    return st;
}

static void print_record(const tp_flight_row *r)
{
    if (r == NULL)
        printf("none\n");
    else
        printf("%s of %lld bytes, %s\n", tp_op_name(r->op), (long long)r->bytes, r->done ? "done" : "not done");
}

static void print(const tp_flight *all, int count)
{
    printf("%-6s %-12s %-12s %s\n", "rank", "records", "last", "where");
    for (int i = 0; i < count; i++)
        printf("%-6d %-12d %-12lld %s\n", all[i].rank, all[i].rows, all[i].rows ? (long long)all[i].row[all[i].rows - 1].seq : 0LL,
               all[i].where);
    if (count < all[0].size) printf("%d of %d ranks: the others wrote nothing\n", count, all[0].size);
    const int64_t seq = tp_flight_difference(all, count);
    if (seq == 0) {
        const tp_flight_row *end = all[0].rows > 0 ? &all[0].row[all[0].rows - 1] : NULL;
        printf("no difference: these ranks did the same%s\n", end != NULL && !end->done ? ", and all are in the last collective:" : "");
        if (end != NULL && !end->done) print_record(end);
        return;
    }
    printf("first difference: collective %lld\n", (long long)seq);
    for (int i = 0; i < count; i++) {
        printf("  rank %-4d ", all[i].rank);
        print_record(tp_flight_find(&all[i], seq));
    }
}

/* Rank 0 does it; the others wait for it on their way out. */
static plp_status run(cli *c)
{
    tp_flight *all = NULL;
    int count = 0;
    if (c->rank != 0) return PLP_OK;
    const plp_status st = read_all(c->words[0], &all, &count);
    if (st == PLP_OK) {
        qsort(all, (size_t)count, sizeof *all, by_rank);
        print(all, count);
    }
    free(all);
    return st;
}

const cli_command cli_diag = {
    .name = "diag",
    .summary = "Show where the ranks' collectives part, from what --diag left behind.",
    .usage = "diag DIR",
    .examples = "  mpirun -np 8 polylepis generate -m model.h5 -p hello --diag diag || polylepis diag diag\n",
    .least = 1,
    .most = 1,
    .run = run,
};
