#include "cli/bench.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>

int bench_ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bench_times(bench_row *row, double *times, int count)
{
    qsort(times, (size_t)count, sizeof *times, bench_ascending);
    row->us_min = times[0] * 1e6;
    row->us_med = (times[(count - 1) / 2] + times[count / 2]) * 0.5e6;
}

static void print_markdown(const bench *b, const bench_row *r)
{
    if (b->rows == 0)
        printf("| %-30s | %-28s | np | dtype | %10s | %10s | %9s | %8s | %8s | %6s | %s\n|---|---|---|---|---|---|---|---|---|---|---\n",
               "name", "shape", "us_min", "us_med", "tok/s", "GB/s", "GFLOP/s", "floor", "check |");
    printf("| %-30s | %-28s | %2d | %-5s | %10.1f | %10.1f | ", r->name, r->shape, r->np, r->dtype, r->us_min, r->us_med);
    if (r->tokens > 0)
        printf("%9.1f | ", r->tokens / r->us_med * 1e6);
    else
        printf("%9s | ", "");
    printf("%8.1f | %8.1f | ", r->bytes / r->us_med * 1e-3, r->flops / r->us_med * 1e-3);
    if (r->floor_us > 0)
        printf("%4.0f %% | ", 100 * r->floor_us / r->us_med);
    else
        printf("%6s | ", "");
    printf("%s |\n", r->check);
}

static void print_json(const bench_row *r)
{
    printf("{\"name\": \"%s\", \"shape\": \"%s\", \"np\": %d, \"dtype\": \"%s\", \"us_min\": %.3f, \"us_med\": %.3f, \"tokens\": %.0f, "
           "\"bytes\": %.0f, \"flops\": %.0f, \"floor_us\": %.3f, \"good\": %s, \"check\": \"%s\"}\n",
           r->name, r->shape, r->np, r->dtype, r->us_min, r->us_med, r->tokens, r->bytes, r->flops, r->floor_us, r->good ? "true" : "false",
           r->check);
}

static void print_csv(const bench *b, const bench_row *r)
{
    if (b->rows == 0) printf("name,shape,np,dtype,us_min,us_med,tokens,bytes,flops,floor_us,good,check\n");
    printf("%s,%s,%d,%s,%.3f,%.3f,%.0f,%.0f,%.0f,%.3f,%d,%s\n", r->name, r->shape, r->np, r->dtype, r->us_min, r->us_med, r->tokens,
           r->bytes, r->flops, r->floor_us, r->good, r->check);
}

plp_status bench_print(bench *b, bench_row *r)
{
    double bad = !r->good;
    PLP_TRY(tp_max(b->group, &r->us_min));
    PLP_TRY(tp_max(b->group, &r->us_med));
    PLP_TRY(tp_max(b->group, &bad));
    if (bad > 0 && r->good) r->good = false, snprintf(r->check, sizeof r->check, "wrong on another rank");
    b->wrong += !r->good;
    if (tp_rank(b->group) == 0) {
        if (b->format == BENCH_JSON)
            print_json(r);
        else if (b->format == BENCH_CSV)
            print_csv(b, r);
        else
            print_markdown(b, r);
        fflush(stdout);
    }
    b->rows++;
    return PLP_OK;
}
