#include "kernel_test.h"

enum { DELTA = 1, BIAS = 2, SUMSQ = 4, MAP = 8, NORM = 16, ALL = 31, ALIGNED = 32, PICKED = 64, PARTS = 128, COPIES = 256, WHOLE = 512 };

static void run(kt *t, const int *size)
{
    const int tokens = size[0], hidden = size[1], parts = size[2], outs = parts & MAP ? size[4] : tokens,
              ld = hidden + (parts & ALIGNED ? 8 : 3), ld_sumsq = 2;
    const plp_dtype dtype = (plp_dtype)size[3];
    const bool picked = parts & PICKED;
    const int sums = parts & PARTS ? 3 : 1; /* arrays that delta is the sum of */
    const size_t n = (size_t)tokens * (size_t)hidden;
    if (picked && t->kn->pick == NULL) return;
    const double eps = 1e-5, width = 3 * hidden, sumsq_eps = 1e-3;
    const kt_array residual = kt_random(t, PLP_F32, n, 0, 1), delta = kt_matrix(t, dtype, sums * tokens, hidden, ld, 1);
    const kt_array bias = kt_random(t, PLP_F32, (size_t)hidden, 0, 1), weight = kt_random(t, PLP_F32, (size_t)hidden, 1, 0.2);
    const kt_array out = kt_nan(t, t->act, (size_t)outs * (size_t)hidden);
    const kt_array copy[2] = { kt_nan(t, t->act, out.n), kt_nan(t, t->act, out.n) }, rows = kt_nan(t, PLP_F32, n);
    kt_array sumsq = kt_matrix(t, PLP_F32, sums * tokens, 1, ld_sumsq, 1);
    for (int i = 0; i < sums * tokens; i++) sumsq.v[i * ld_sumsq] = kt_uniform(t, 0.1, 2) * width;
    kt_put(t, &sumsq);
    int *map = kt_host(t, (size_t)outs * sizeof *map);
    for (int i = 0; i < outs; i++) map[i] = picked ? (i + 1) * tokens / outs - 1 : parts & MAP ? kt_below(t, tokens) : i;
    const kn_add_norm_args a = {
        .tokens = tokens,
        .hidden = hidden,
        .outs = outs,
        .residual = residual.p,
        .delta = parts & DELTA ? delta.p : NULL,
        .delta_dtype = dtype,
        .ld_delta = ld,
        .bias = parts & BIAS ? bias.p : NULL,
        .sumsq = parts & SUMSQ ? sumsq.p : NULL,
        .ld_sumsq = ld_sumsq,
        .sumsq_width = width,
        .sumsq_eps = sumsq_eps,
        .parts = sums,
        .ld_parts = tokens * ld,
        .ld_sumsq_parts = tokens * ld_sumsq,
        .map = parts & MAP ? kt_upload(t, map, (size_t)outs * sizeof *map) : NULL,
        .picked = picked,
        .weight = weight.p,
        .eps = eps,
        .out = parts & NORM ? out.p : NULL,
        .copies = parts & COPIES ? 2 : 0,
        .copy = { copy[0].p, copy[1].p },
        .residual_copy = { NULL, parts & WHOLE ? rows.p : NULL },
    };
    if (!kt_ok(t, t->kn->add_norm(t->c, &a))) return;

    double *r = kt_host(t, n * sizeof *r), *want = kt_host(t, out.n * sizeof *want);
    for (size_t i = 0; i < n; i++) r[i] = residual.v[i];
    for (int i = 0; i < (picked ? outs : tokens) && parts & DELTA; i++)
        for (int j = 0; j < hidden; j++) {
            double sum = 0, squares = 0;
            for (int p = 0; p < sums; p++) sum += delta.v[(p * tokens + i) * ld + j], squares += sumsq.v[(p * tokens + i) * ld_sumsq];
            const double scale = parts & SUMSQ ? 1 / sqrt(squares / width + sumsq_eps) : 1;
            r[(picked ? map[i] : i) * hidden + j] += scale * sum + (parts & BIAS ? bias.v[j] : 0);
        }
    for (int i = 0; i < outs; i++) {
        double sum = 0;
        for (int j = 0; j < hidden; j++) sum += r[map[i] * hidden + j] * r[map[i] * hidden + j];
        for (int j = 0; j < hidden; j++)
            want[i * hidden + j] = parts & NORM ? r[map[i] * hidden + j] / sqrt(sum / hidden + eps) * weight.v[j] : NAN;
    }
    kt_expect(t, "residual", &residual, r);
    kt_expect(t, "out", &out, want);
    for (int i = 0; i < 2 && parts & COPIES; i++) kt_expect(t, "copy", &copy[i], want);
    if (parts & WHOLE) kt_expect(t, "residual's copy", &rows, r);
}

static void run_pick(kt *t, const int *size)
{
    const int rows = size[0], columns = size[1], all = size[2], ld_in = columns + size[3], ld_out = columns + size[4];
    if (t->kn->pick == NULL) return;
    const kt_array in = kt_matrix(t, t->act, all, columns, ld_in, 1), out = kt_nan(t, t->act, (size_t)(rows * ld_out));
    int *map = kt_host(t, (size_t)(rows + 1) * sizeof *map);
    for (int i = 0; i < rows; i++) map[i] = kt_below(t, all);
    const kn_pick_args a = { .rows = rows,
                             .columns = columns,
                             .map = kt_upload(t, map, (size_t)(rows + 1) * sizeof *map),
                             .in = in.p,
                             .ld_in = ld_in,
                             .out = out.p,
                             .ld_out = ld_out };
    if (!kt_ok(t, t->kn->pick(t->c, &a))) return;
    double *want = kt_host(t, (out.n + 1) * sizeof *want);
    for (size_t i = 0; i < out.n; i++) want[i] = NAN;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) want[i * ld_out + j] = in.v[map[i] * ld_in + j];
    kt_expect(t, "out", &out, want);
}

const kt_case kt_add_norm_rows[] = {
    /* name                run  tokens hidden parts dtype outs          rtol  atol */
    { "add_norm.norm", run, { 16, 768, NORM }, 1e-5, 1e-6 },
    { "add_norm.add", run, { 17, 63, DELTA }, 1e-5, 1e-6 },
    { "add_norm.both", run, { 65, 2560, DELTA | NORM, PLP_BF16 }, 1e-5, 1e-6 },
    { "add_norm.bias", run, { 1, 64, DELTA | BIAS | NORM, PLP_F16 }, 1e-5, 1e-6 },
    { "add_norm.folded", run, { 15, 257, DELTA | BIAS | SUMSQ | NORM, PLP_F32 }, 1e-5, 1e-6 },
    { "add_norm.all", run, { 63, 768, ALL, PLP_F32, 5 }, 1e-5, 1e-6 },
    { "add_norm.aligned", run, { 5, 4096, ALL | ALIGNED, PLP_F32, 7 }, 1e-5, 1e-6 },
    { "add_norm.aligned.bf16", run, { 3, 2560, DELTA | NORM | ALIGNED, PLP_BF16 }, 1e-5, 1e-6 },
    { "add_norm.wide", run, { 2, 20484, DELTA | BIAS | NORM | ALIGNED, PLP_F16 }, 1e-5, 1e-6 },
    { "add_norm.picked", run, { 63, 768, ALL | PICKED, PLP_F32, 5 }, 1e-5, 1e-6 },
    { "add_norm.picked.aligned", run, { 1030, 2560, DELTA | MAP | NORM | ALIGNED | PICKED, PLP_BF16, 33 }, 1e-5, 1e-6 },
    { "add_norm.picked.last", run, { 17, 63, DELTA | MAP | SUMSQ | NORM | PICKED, PLP_F16, 1 }, 1e-5, 1e-6 },
    { "add_norm.copies", run, { 9, 768, DELTA | NORM | ALIGNED | COPIES | WHOLE, PLP_F32 }, 1e-5, 1e-6 },
    { "add_norm.parts", run, { 33, 768, DELTA | NORM | ALIGNED | PARTS | COPIES, PLP_BF16 }, 1e-5, 1e-6 },
    { "add_norm.parts.all", run, { 17, 4096, DELTA | BIAS | SUMSQ | NORM | ALIGNED | PARTS | COPIES | WHOLE, PLP_F32 }, 1e-5, 1e-6 },
    { "add_norm.parts.odd", run, { 5, 2564, DELTA | SUMSQ | NORM | ALIGNED | PARTS | COPIES | WHOLE, PLP_F16 }, 1e-5, 1e-6 },
    { "pick.rows", run_pick, { 9, 256, 40, 0, 0 }, 0, 0 },
    { "pick.odd", run_pick, { 33, 77, 5, 3, 1 }, 0, 0 },
    { "pick.none", run_pick, { 0, 64, 3, 0, 8 }, 0, 0 },
    { "add_norm.none", run, { 0, 768, ALL, PLP_F32, 0 }, 0, 0 },
    { 0 }
};
