#include "kernel_test.h"

#include <string.h>

static void run(kt *t, const int *size)
{
    const int tokens = size[0], channels = size[1], groups = size[2], mode = size[3], in_place = size[4];
    const int pad = size[5], ld_sums = groups + 1; /* pad: the distance of rows lets wide accesses through, and groups begin on it */
    const int ld_y = channels + (pad ? pad : 2), ld_z = channels + (pad ? 2 * pad : 5),
              ld_out = in_place ? ld_y : channels + (pad ? pad : 1);
    const double width = 1.5 * channels / groups, eps = 1e-5;
    int *first = kt_host(t, (size_t)(groups + 1) * sizeof *first);
    for (int g = 1; g <= groups; g++)
        first[g] = g == groups ? channels
                   : pad       ? channels * g / groups / pad * pad
                               : channels * g / groups - g % 2; /* uneven: a rank cuts groups anywhere */
    const kt_array y = kt_matrix(t, t->act, tokens, channels, ld_y, 1), z = kt_matrix(t, t->act, tokens, channels, ld_z, 2);
    const kt_array weight = kt_random(t, PLP_F32, (size_t)channels, 1, 0.3),
                   out = in_place ? y : kt_nan(t, t->act, (size_t)(tokens * ld_out));
    kt_array sums = kt_nan(t, PLP_F32, (size_t)(tokens * ld_sums));
    for (int i = 0; i < tokens && mode == KN_NORM_APPLY; i++)
        for (int g = 0; g < groups; g++) sums.v[i * ld_sums + g] = kt_uniform(t, 0.1, 3) * width;
    kt_put(t, &sums);
    const kn_gated_norm_args a = { .tokens = tokens,
                                   .channels = channels,
                                   .groups = groups,
                                   .mode = (kn_norm_mode)mode,
                                   .first = kt_upload(t, first, (size_t)(groups + 1) * sizeof *first),
                                   .width = width,
                                   .eps = eps,
                                   .y = y.p,
                                   .z = z.p,
                                   .ld_y = ld_y,
                                   .ld_z = ld_z,
                                   .weight = weight.p,
                                   .sums = sums.p,
                                   .ld_sums = ld_sums,
                                   .out = mode == KN_NORM_SUMS ? NULL : out.p,
                                   .ld_out = ld_out };
    if (!kt_ok(t, t->kn->gated_norm(t->c, &a))) return;

    double *want = kt_host(t, out.n * sizeof *want), *want_sums = kt_host(t, sums.n * sizeof *want_sums);
    memcpy(want, out.v, out.n * sizeof *want);
    memcpy(want_sums, sums.v, sums.n * sizeof *want_sums);
    for (int i = 0; i < tokens; i++)
        for (int g = 0; g < groups; g++) {
            double sum = 0;
            for (int j = first[g]; j < first[g + 1]; j++) {
                const double gate = z.v[i * ld_z + j], v = y.v[i * ld_y + j] * gate / (1 + exp(-gate));
                sum += v * v;
                if (mode != KN_NORM_SUMS) want[i * ld_out + j] = v * (mode == KN_NORM_NONE ? 1 : weight.v[j]);
            }
            if (mode == KN_NORM_SUMS || mode == KN_NORM_FOLD) want_sums[i * ld_sums + g] = sum;
            const double total = mode == KN_NORM_APPLY ? sums.v[i * ld_sums + g] : sum;
            for (int j = first[g]; j < first[g + 1] && (mode == KN_NORM_LOCAL || mode == KN_NORM_APPLY); j++)
                want[i * ld_out + j] /= sqrt(total / width + eps);
        }
    kt_expect(t, "out", &out, want);
    kt_expect(t, "sums", &sums, want_sums);
}

const kt_case kt_gated_norm_rows[] = {
    /* name               run  tokens channels groups mode in_place pad    rtol  atol */
    { "gated_norm.local", run, { 16, 1536, 1, KN_NORM_LOCAL }, 1e-5, 1e-6 },
    { "gated_norm.local.groups", run, { 65, 130, 4, KN_NORM_LOCAL, 1 }, 1e-5, 1e-6 },
    { "gated_norm.local.one", run, { 1, 5, 1, KN_NORM_LOCAL }, 1e-5, 1e-6 },
    { "gated_norm.sums", run, { 17, 257, 3, KN_NORM_SUMS }, 1e-5, 1e-6 },
    { "gated_norm.apply", run, { 15, 255, 3, KN_NORM_APPLY, 1 }, 1e-5, 1e-6 },
    { "gated_norm.apply.one", run, { 63, 768, 1, KN_NORM_APPLY }, 1e-5, 1e-6 },
    { "gated_norm.fold", run, { 64, 511, 1, KN_NORM_FOLD }, 1e-5, 1e-6 },
    { "gated_norm.fold.in_place", run, { 2, 64, 1, KN_NORM_FOLD, 1 }, 1e-5, 1e-6 },
    { "gated_norm.plain", run, { 33, 100, 1, KN_NORM_NONE }, 1e-5, 1e-6 },
    { "gated_norm.plain.in_place", run, { 5, 1025, 1, KN_NORM_NONE, 1 }, 1e-5, 1e-6 },
    { "gated_norm.local.aligned", run, { 9, 2048, 4, KN_NORM_LOCAL, 0, 8 }, 1e-5, 1e-6 },
    { "gated_norm.apply.aligned", run, { 3, 5120, 3, KN_NORM_APPLY, 1, 16 }, 1e-5, 1e-6 },
    { "gated_norm.fold.aligned", run, { 2, 40960, 1, KN_NORM_FOLD, 0, 8 }, 1e-5, 1e-6 },
    { "gated_norm.none", run, { 0, 100, 2, KN_NORM_LOCAL }, 0, 0 },
    { 0 }
};
