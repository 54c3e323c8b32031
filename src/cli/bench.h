/* src/cli/bench.h -- `polylepis bench`: what is timed, and the table that comes of it. */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "model/model.h"

typedef struct {
    char name[48], shape[64];
    int np;
    const char *dtype;
    double us_min, us_med;
    double tokens;   /* per step; 0: not a row of tokens                                        */
    double bytes;    /* moved by this rank per step, at least                                   */
    double flops;    /* done by this rank per step                                              */
    double floor_us; /* what bytes and flops take at the rates measured in this run; 0: unknown */
    char check[48];  /* what was checked in the same run: "ok", or what is wrong                */
    bool good;
} bench_row;

typedef enum { BENCH_MARKDOWN, BENCH_JSON, BENCH_CSV } bench_format;

typedef struct {
    tp_group *group;
    const char *shape;
    model_config config;
    model_options options; /* counts are set for each row */
    const int *batches, *tokens;
    int batch_count, token_count;
    int repeats;
    double read_rate; /* bytes a second of this rank, measured while all ranks measure */
    double flop_rate; /* of the matrix product                                         */
    bench_format format;
    int rows; /* printed so far */
    int wrong;
} bench;

/* Requests: as long as chance says, at once or `rate` a second. */
typedef struct {
    int64_t least, most;
} bench_lengths;
typedef struct {
    int prompts;
    double rate; /* of a Poisson process; 0: all at once */
    bench_lengths input, output;
    int slice; /* most tokens of a prompt in a step; 0: what has room */
} bench_mix;

/* Collective.  Each prints its rows as they are done. */
plp_status bench_rates(bench *b);
plp_status bench_decode(bench *b);
plp_status bench_prefill(bench *b);
plp_status bench_kernels(bench *b);
plp_status bench_collectives(bench *b);
plp_status bench_load(bench *b, const char *path, bool trust);
/* Prints a report for each of the batches, which are how many requests run at a time. */
plp_status bench_throughput(bench *b, const bench_mix *mix);

/* Collective.  Medians and minima are the slowest rank's.  Rank 0 prints. */
plp_status bench_print(bench *b, bench_row *row);
/* Of a list of counts. */
int bench_largest(const int *list, int count);
/* Of two doubles, for qsort. */
int bench_ascending(const void *a, const void *b);
/* Sorts `times` (seconds) and fills the row's times. */
void bench_times(bench_row *row, double *times, int count);

#endif
