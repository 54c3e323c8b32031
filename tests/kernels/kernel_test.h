/* tests/kernels/kernel_test.h -- one table of rows for every backend: a row makes seeded inputs, runs an operation through the backend's
 * table, and compares all memory the operation could reach with a float64 reference of its own.
 *
 * To add a row: a line in the table of its file.  To add an operation: a file with a run function and a table, named in test_kernels.c.
 * Outputs start as NaN, and so does everything that must not be read.  In an expectation NaN means "still untouched". */
#ifndef TESTS_KERNELS_KERNEL_TEST_H
#define TESTS_KERNELS_KERNEL_TEST_H

#include "kernels/kernels.h"

#include <math.h>
#include <stdbool.h>

typedef struct kt kt;

typedef struct {
    const char *name;
    void (*run)(kt *t, const int *size);
    int size[10];
    double rtol, atol; /* of float32 results; what is stored in 16 bits gets its rounding on top */
} kt_case;

struct kt {
    const kn_backend *kn;
    kn_context *c;
    plp_dtype act;
    bool deterministic;  /* results of a row may not depend on the rows beside it, and do not */
    const char *variant; /* which path of the backend, for messages */
    const kt_case *row;
    uint64_t seed, random;
    int failures;
    struct kt_block *blocks; /* what the row allocated */
};

/* ---- random numbers, a function of the row's name alone */
double kt_uniform(kt *t, double low, double high);
double kt_normal(kt *t);
int kt_below(kt *t, int n); /* 0 .. n - 1 */

/* ---- arrays in the backend's memory, mirrored as float64; freed after the row */
typedef struct {
    plp_dtype dtype;
    size_t n;
    double *v; /* what the backend's memory holds, exactly */
    void *p;   /* the backend's memory */
} kt_array;

kt_array kt_nan(kt *t, plp_dtype dtype, size_t n);
kt_array kt_random(kt *t, plp_dtype dtype, size_t n, double mean, double deviation); /* normal, rounded to dtype */
/* A matrix of `rows` by `columns` whose rows are `ld` apart; NaN between them. */
kt_array kt_matrix(kt *t, plp_dtype dtype, int rows, int columns, int ld, double deviation);
double kt_round(plp_dtype dtype, double v);
void kt_put(kt *t, kt_array *a); /* v to the backend, rounding v on the way */
void *kt_upload(kt *t, const void *host, size_t bytes);
void *kt_host(kt *t, size_t bytes); /* zeroed host memory, freed after the row */

/* ---- verdicts */
/* Fails the row unless the status is PLP_OK. */
bool kt_ok(kt *t, plp_status status);
void kt_fail(kt *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* |got - want| <= atol + rtol |want|, plus the rounding of 16-bit storage; NaN passes only where NaN is wanted. */
bool kt_near(const kt *t, plp_dtype stored, double got, double want);
/* The backend's memory against want (a->n values). */
void kt_expect(kt *t, const char *what, const kt_array *a, const double *want);
/* The same by blocks of `block` values: ||got - want|| <= limit ||want|| in each, for results whose error is a share of what was summed. */
void kt_expect_blocks(kt *t, const char *what, const kt_array *a, const double *want, size_t block, double limit);

/* A copy of a float32 array. */
float *kt_fetch(kt *t, const kt_array *a);
/* |got - want| <= limit |want| over n values together: sharper than any single value's tolerance. */
void kt_expect_norm(kt *t, const char *what, const float *got, const double *want, int n, double limit);
/* The same bits, and none of them NaN. */
void kt_expect_same(kt *t, const char *what, const float *got, const float *want, int n);

/* ---- batches */
typedef struct {
    kn_batch b;                   /* what the kernels get; its pointers without host_ are the backend's */
    int slots;                    /* of the states; those that no sequence uses stay untouched */
    const int *start, *src, *dst; /* host copies */
    const int64_t *past;
} kt_batch;

/* A named mix of decode rows and slices (see kernel_test.c), some with a past, some reading a slot that others read too, some in place. */
enum { KT_ONE, KT_DECODE, KT_SHORT, KT_TILES, KT_LONG, KT_CUT, KT_PATTERNS };
kt_batch kt_ragged(kt *t, int pattern);
kt_batch kt_sequences(kt *t, int decodes, int seqs, const int *length, const int64_t *past);

/* Decode rows, scattered slots; the third row and every fourth after it start from nothing, in a dirty slot. */
kt_batch kt_decodes(kt *t, int rows);

/* A state (slots, elements): values in the source slots of sequences with a past, NaN elsewhere. */
kt_array kt_state(kt *t, const kt_batch *b, plp_dtype dtype, size_t elements);

/* What a fused mixer finds ready for its norm, made of a residual and the norm's weight, and then leaves for the next one. */
typedef struct {
    kt_array x, squares;
    kn_ready r;
} kt_ready;
kt_ready kt_ready_make(kt *t, int step, const kt_array *residual, const kt_array *norm); /* step: rows of the step */
/* It is that of `residual`, as fetched, and of this norm. */
void kt_expect_ready(kt *t, int step, const kt_ready *ready, const float *residual, const kt_array *norm);

/* An exchange with another rank just like this one, for it is this one: what it sends arrives as the other's. */
typedef struct {
    kt_array inbox, count;
    kn_exchange x;
} kt_twin;
void kt_twin_make(kt *t, kt_twin *twin);
/* So many exchanges are done, and all blocks have left them. */
void kt_expect_twin(kt *t, const kt_twin *twin, uint32_t exchanges);

/* Frees what the row allocated. */
void kt_end_row(kt *t);

extern const kt_case kt_uniform_rows[], kt_embed_rows[], kt_add_norm_rows[], kt_linear_rows[], kt_conv_rows[], kt_ssm_rows[],
    kt_ssd_conv_rows[], kt_gated_norm_rows[], kt_candidates_rows[], kt_scan_rows[], kt_rms_rows[], kt_mixer_step_rows[],
    kt_scan_mixer_rows[];

#endif
