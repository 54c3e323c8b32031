#include "kernel_test.h"

#include <string.h>

enum { ROUND = 1, BIAS = 2, PAD = 4, WIDE = 8 }; /* WIDE: y is float32 whatever the activations are */

/* Packs the weights of a product where the backend does; whether it did. */
static bool packs(kt *t, kn_linear_args *a)
{
    return t->kn->pack && kt_ok(t, t->kn->pack(t->c, (void *)a->w, a->n, a->k, a->w_dtype, &a->packed)) && a->packed;
}

static void run(kt *t, const int *size)
{
    const int rows = size[0], n = size[1], k = size[2], flags = size[4], ldx = k + (flags & PAD ? 5 : 0), ldy = n + (flags & PAD ? 3 : 0);
    const plp_dtype dtype = (plp_dtype)size[3], y_dtype = flags & WIDE ? PLP_F32 : t->act;
    if (t->act != PLP_F32 && dtype != t->act) return; /* 16-bit activations meet weights of their own type */
    if (t->act == PLP_F32 && t->kn != kn_cpu() && dtype != PLP_F32) return;
    const kt_array x = kt_matrix(t, t->act, rows, k, ldx, 1), w = kt_random(t, dtype, (size_t)n * (size_t)k, 0, 1 / sqrt(k));
    const kt_array bias = kt_random(t, PLP_F32, (size_t)n, 0, 1);
    kt_array y = kt_nan(t, y_dtype, (size_t)rows * (size_t)ldy);
    kn_linear_args a = { .rows = rows,
                         .n = n,
                         .k = k,
                         .x = x.p,
                         .x_dtype = t->act,
                         .ldx = ldx,
                         .w = w.p,
                         .w_dtype = dtype,
                         .bias = flags & BIAS ? bias.p : NULL,
                         .y = y.p,
                         .y_dtype = y_dtype,
                         .ldy = ldy,
                         .round_x = flags & ROUND };
    if (!kt_ok(t, t->kn->linear(t->c, &a))) return;
    double *want = kt_host(t, y.n * sizeof *want);
    memcpy(want, y.v, y.n * sizeof *want); /* NaN between the rows */
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < n; j++) {
            double sum = flags & BIAS ? bias.v[j] : 0;
            for (int i = 0; i < k; i++)
                sum += w.v[(size_t)j * (size_t)k + (size_t)i] * kt_round(flags & ROUND ? dtype : PLP_F32, x.v[r * ldx + i]);
            want[r * ldy + j] = sum;
        }
    kt_expect(t, "y", &y, want);
    if (!packs(t, &a)) return;
    y = kt_nan(t, y_dtype, y.n);
    a.y = y.p;
    if (kt_ok(t, t->kn->linear(t->c, &a))) kt_expect(t, "y of packed weights", &y, want);
}

/* Every way that rows and panels can be left over. */
static void run_ragged(kt *t, const int *size)
{
    static const int rows[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33 }, n[] = { 1, 15, 16, 17, 33, 79, 143 }, k[] = { 1, 2, 3, 31, 66 };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t j = 0; j < sizeof n / sizeof *n; j++)
            for (size_t i = 0; i < sizeof k / sizeof *k; i++) run(t, (const int[]){ rows[r], n[j], k[i], size[0], size[1] });
}

/* A row of y is the same, to the bit, whatever rows are computed with it: with the weights as a model has them. */
static void run_alone(kt *t, const int *size)
{
    const int rows = size[0], n = size[1], k = size[2];
    const plp_dtype dtype = (plp_dtype)size[3];
    if (!t->deterministic) return;
    if (t->act != PLP_F32 && dtype != t->act) return;
    if (t->act == PLP_F32 && t->kn != kn_cpu() && dtype != PLP_F32) return;
    const kt_array x = kt_random(t, t->act, (size_t)rows * (size_t)k, 0, 1), w = kt_random(t, dtype, (size_t)n * (size_t)k, 0, 1 / sqrt(k));
    const size_t count = (size_t)rows * (size_t)n, bytes = count * sizeof(float);
    const kt_array together = kt_nan(t, PLP_F32, count), alone = kt_nan(t, PLP_F32, count);
    kn_linear_args a = { .rows = rows,
                         .n = n,
                         .k = k,
                         .x = x.p,
                         .x_dtype = t->act,
                         .ldx = k,
                         .w = w.p,
                         .w_dtype = dtype,
                         .y = together.p,
                         .y_dtype = PLP_F32,
                         .ldy = n,
                         .round_x = size[4] };
    packs(t, &a);
    if (!kt_ok(t, t->kn->linear(t->c, &a))) return;
    for (int r = 0, step; r < rows; r += step) { /* 1 row, 2 rows, 3 rows, ... */
        step = r % 7 + 1 < rows - r ? r % 7 + 1 : rows - r;
        a.rows = step;
        a.x = (const char *)x.p + (size_t)r * (size_t)k * plp_dtype_size(t->act);
        a.y = (float *)alone.p + (size_t)r * (size_t)n;
        if (!kt_ok(t, t->kn->linear(t->c, &a))) return;
    }
    float *got = kt_host(t, bytes), *want = kt_host(t, bytes);
    kt_ok(t, t->kn->to_host(t->c, got, alone.p, bytes));
    kt_ok(t, t->kn->to_host(t->c, want, together.p, bytes));
    kt_ok(t, t->kn->sync(t->c));
    for (size_t i = 0; i < count; i++)
        if (isnan(got[i]) || got[i] != want[i]) kt_fail(t, "y[%zu] alone is %.9g, together %.9g", i, got[i], want[i]);
}

/* rtol 1e-5, atol 1e-5: float32 sums of up to 2560 products of size 1 / sqrt(k). */
const kt_case kt_linear_rows[] = {
    /* name                  run  rows n k dtype flags                   rtol  atol */
    { "linear.one", run, { 1, 1, 1, PLP_F32, 0 }, 1e-6, 0 },
    { "linear.f32.gemv", run, { 1, 257, 768, PLP_F32, BIAS }, 1e-5, 1e-5 },
    { "linear.f32.few", run, { 5, 63, 65, PLP_F32, PAD }, 1e-5, 1e-5 },
    { "linear.f32.many", run, { 65, 130, 257, PLP_F32, BIAS | PAD }, 1e-5, 1e-5 },
    { "linear.bf16.gemv", run, { 1, 255, 768, PLP_BF16, ROUND }, 1e-5, 1e-5 },
    { "linear.bf16.few", run, { 8, 64, 1537, PLP_BF16, ROUND | BIAS | PAD | WIDE }, 1e-5, 1e-5 },
    { "linear.bf16.many", run, { 257, 96, 96, PLP_BF16, ROUND | PAD }, 1e-5, 1e-5 },
    { "linear.bf16.deep", run, { 63, 17, 2560, PLP_BF16, ROUND }, 1e-5, 1e-5 },
    { "linear.bf16.odd", run, { 15, 3, 31, PLP_BF16, ROUND | BIAS | PAD }, 1e-5, 1e-5 },
    { "linear.bf16.wide_x", run, { 4, 67, 200, PLP_BF16, BIAS | PAD }, 1e-5, 1e-5 },
    { "linear.bf16.wide_x.many", run, { 64, 67, 1100, PLP_BF16, 0 }, 1e-5, 1e-5 },
    { "linear.f16.gemv", run, { 1, 255, 768, PLP_F16, ROUND | WIDE }, 1e-5, 1e-5 },
    { "linear.f16.many", run, { 65, 100, 333, PLP_F16, ROUND | BIAS | PAD }, 1e-5, 1e-5 },
    { "linear.f16.wide_x", run, { 16, 33, 1025, PLP_F16, PAD }, 1e-5, 1e-5 },
    { "linear.bf16.aligned", run, { 300, 1024, 1536, PLP_BF16, ROUND | BIAS }, 1e-5, 1e-5 },
    { "linear.bf16.stream", run, { 3, 1000, 2064, PLP_BF16, ROUND | BIAS | WIDE }, 1e-5, 1e-5 },
    { "linear.f32.ragged", run_ragged, { PLP_F32, BIAS | PAD }, 1e-5, 1e-5 },
    { "linear.bf16.ragged", run_ragged, { PLP_BF16, ROUND | PAD }, 1e-5, 1e-5 },
    { "linear.bf16.wide_x.ragged", run_ragged, { PLP_BF16, BIAS }, 1e-5, 1e-5 },
    { "linear.f16.ragged", run_ragged, { PLP_F16, ROUND | BIAS | PAD }, 1e-5, 1e-5 },
    { "linear.bf16.in_proj", run, { 33, 1152, 256, PLP_BF16, ROUND }, 1e-5, 1e-5 },
    { "linear.bf16.odd_blocks", run, { 7, 47, 2049, PLP_BF16, ROUND | BIAS }, 1e-5, 1e-5 }, /* half a pair behind blocks of k */
    { "linear.no_rows", run, { 0, 3, 5, PLP_F32, BIAS }, 0, 0 },
    { "linear.no_columns", run, { 3, 0, 5, PLP_F32, 0 }, 0, 0 },
    { "linear.alone.bf16", run_alone, { 67, 131, 1536, PLP_BF16, 1 }, 0, 0 },
    { "linear.alone.bf16.aligned", run_alone, { 600, 1024, 2048, PLP_BF16, 1 }, 0, 0 },
    { "linear.alone.bf16.odd", run_alone, { 40, 37, 77, PLP_BF16, 1 }, 0, 0 },
    { "linear.alone.wide_x", run_alone, { 40, 66, 1540, PLP_BF16, 0 }, 0, 0 },
    { "linear.alone.f16", run_alone, { 33, 35, 500, PLP_F16, 1 }, 0, 0 },
    { "linear.alone.f32", run_alone, { 33, 35, 2500, PLP_F32, 0 }, 0, 0 },
    { "linear.alone.bf16.narrow", run_alone, { 41, 1147, 256, PLP_BF16, 1 }, 0, 0 },
    { "linear.alone.wide_x.odd", run_alone, { 41, 157, 1541, PLP_BF16, 0 }, 0, 0 },
    { "linear.alone.f32.panels", run_alone, { 33, 176, 1100, PLP_F32, 0 }, 0, 0 },
    { 0 }
};
