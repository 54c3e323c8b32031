#include "kernel_test.h"

enum { DELTA = 1, BIAS = 2, SUMSQ = 4, MAP = 8, NORM = 16, ALL = 31, ALIGNED = 32 };

static void run(kt *t, const int *size)
{
    const int tokens = size[0], hidden = size[1], parts = size[2], outs = parts & MAP ? size[4] : tokens,
              ld = hidden + (parts & ALIGNED ? 8 : 3), ld_sumsq = 2;
    const plp_dtype dtype = (plp_dtype)size[3];
    const size_t n = (size_t)tokens * (size_t)hidden;
    const double eps = 1e-5, width = 3 * hidden, sumsq_eps = 1e-3;
    const kt_array residual = kt_random(t, PLP_F32, n, 0, 1), delta = kt_matrix(t, dtype, tokens, hidden, ld, 1);
    const kt_array bias = kt_random(t, PLP_F32, (size_t)hidden, 0, 1), weight = kt_random(t, PLP_F32, (size_t)hidden, 1, 0.2);
    const kt_array out = kt_nan(t, t->act, (size_t)outs * (size_t)hidden);
    kt_array sumsq = kt_matrix(t, PLP_F32, tokens, 1, ld_sumsq, 1);
    for (int i = 0; i < tokens; i++) sumsq.v[i * ld_sumsq] = kt_uniform(t, 0.1, 2) * width;
    kt_put(t, &sumsq);
    int *map = kt_host(t, (size_t)outs * sizeof *map);
    for (int i = 0; i < outs; i++) map[i] = parts & MAP ? kt_below(t, tokens) : i;
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
        .map = parts & MAP ? kt_upload(t, map, (size_t)outs * sizeof *map) : NULL,
        .weight = weight.p,
        .eps = eps,
        .out = parts & NORM ? out.p : NULL,
    };
    if (!kt_ok(t, t->kn->add_norm(t->c, &a))) return;

    double *r = kt_host(t, n * sizeof *r), *want = kt_host(t, out.n * sizeof *want);
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < hidden; j++) {
            const double scale = parts & SUMSQ ? 1 / sqrt(sumsq.v[i * ld_sumsq] / width + sumsq_eps) : 1;
            r[i * hidden + j] = residual.v[i * hidden + j];
            if (parts & DELTA) r[i * hidden + j] += scale * delta.v[i * ld + j] + (parts & BIAS ? bias.v[j] : 0);
        }
    for (int i = 0; i < outs; i++) {
        double sum = 0;
        for (int j = 0; j < hidden; j++) sum += r[map[i] * hidden + j] * r[map[i] * hidden + j];
        for (int j = 0; j < hidden; j++)
            want[i * hidden + j] = parts & NORM ? r[map[i] * hidden + j] / sqrt(sum / hidden + eps) * weight.v[j] : NAN;
    }
    kt_expect(t, "residual", &residual, r);
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
    { "add_norm.none", run, { 0, 768, ALL, PLP_F32, 0 }, 0, 0 },
    { 0 }
};
