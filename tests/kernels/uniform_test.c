#include "kernel_test.h"

/* Vigna's splitmix64, as published: state, then finaliser. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* A slice of a matrix `stride` wide, from element `first` on. */
static void run(kt *t, const int *size)
{
    const int rows = size[0], columns = size[1], stride = size[2], first = size[3];
    const plp_dtype dtype = (plp_dtype)size[4];
    const size_t n = (size_t)rows * (size_t)columns;
    const uint64_t key = UINT64_C(0xfffffffffffff000) + t->seed % 4096; /* indices pass the end of 64 bits */
    const float middle = -4.6f, half = 2.3f;
    const kt_array out = kt_nan(t, dtype, n);
    double *want = kt_host(t, n * sizeof *want);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            uint64_t state = key + (uint64_t)first + (uint64_t)i * (uint64_t)stride + (uint64_t)j;
            const double u = (double)(int32_t)(next(&state) >> 32) / 2147483648.0;
            want[i * columns + j] = kt_round(dtype, (double)middle + (double)half * u);
        }
    const kn_uniform_args a = { .rows = rows,
                                .columns = columns,
                                .first = first,
                                .stride = stride,
                                .key = key,
                                .middle = middle,
                                .half = half,
                                .dtype = dtype,
                                .out = out.p };
    if (kt_ok(t, t->kn->uniform(t->c, &a))) kt_expect(t, "out", &out, want);
}

/* In float32, what a checkpoint of 16 bits holds: the very numbers that a slice of its type has. */
static void run_stored(kt *t, const int *size)
{
    const int rows = size[0], columns = size[1];
    const plp_dtype stored = (plp_dtype)size[2];
    const size_t n = (size_t)rows * (size_t)columns;
    const kt_array narrow = kt_nan(t, stored, n), wide = kt_nan(t, PLP_F32, n);
    uint16_t *held = kt_host(t, n * sizeof *held);
    float *want = kt_host(t, n * sizeof *want);
    kn_uniform_args a = { .rows = rows, .columns = columns, .stride = columns, .key = t->seed, .half = 0.05f, .stored = stored };
    a.dtype = stored, a.out = narrow.p;
    if (!kt_ok(t, t->kn->uniform(t->c, &a))) return;
    a.dtype = PLP_F32, a.out = wide.p;
    if (!kt_ok(t, t->kn->uniform(t->c, &a)) || !kt_ok(t, t->kn->to_host(t->c, held, narrow.p, n * sizeof *held))) return;
    const float *got = kt_fetch(t, &wide);
    plp_convert(want, PLP_F32, held, stored, n);
    kt_expect_same(t, "in float32", got, want, (int)n);
}

const kt_case kt_uniform_rows[] = {
    /* name             run rows columns stride first dtype   rtol  atol: a number near 0 is a difference of two near the middle */
    { "uniform.f32", run, { 33, 300, 300, 0, PLP_F32 }, 2e-7, 3e-7 },
    { "uniform.columns", run, { 2000, 7, 501, 33, PLP_F32 }, 2e-7, 3e-7 },
    { "uniform.bf16", run, { 5, 1025, 1025, 4100, PLP_BF16 }, 2e-7, 3e-7 },
    { "uniform.f16", run, { 1, 513, 513, 77, PLP_F16 }, 2e-7, 3e-7 },
    { "uniform.none", run, { 0, 5, 5, 0, PLP_F32 }, 0, 0 },
    { "uniform.stored.bf16", run_stored, { 31, 300, PLP_BF16 }, 0, 0 },
    { "uniform.stored.f16", run_stored, { 3, 1025, PLP_F16 }, 0, 0 },
    { 0 }
};
