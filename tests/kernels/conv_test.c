#include "kernel_test.h"

#include <string.h>

static void run(kt *t, const int *size)
{
    const int channels = size[0], width = size[1], old = width - 1, ld_in = channels + size[4], ld_out = channels + 2 * size[4];
    const plp_dtype dtype = (plp_dtype)size[2];
    kt_batch b = kt_ragged(t, size[3]);
    const kt_array in = kt_matrix(t, t->act, b.b.tokens, channels, ld_in, 1), bias = kt_random(t, PLP_F32, (size_t)channels, 0, 1);
    const kt_array weight = kt_random(t, PLP_F32, (size_t)(channels * width), 0, 0.5),
                   out = kt_nan(t, t->act, (size_t)(b.b.tokens * ld_out));
    const size_t slot = (size_t)(old * channels);
    const int block = size[6];
    int *snap_start = kt_host(t, (size_t)(b.b.seqs + 1) * sizeof *snap_start),
        *snap_slot = kt_host(t, (size_t)b.b.tokens * sizeof *snap_slot);
    for (int s = 0, n = 0; s < b.b.seqs; s++) {
        const int64_t end = b.past[s] + b.start[s + 1] - b.start[s];
        for (int64_t at = block ? b.past[s] / block + 1 : 0; block && s >= b.b.decodes && at * block <= end; at++, n++)
            snap_slot[n] = n % 3 == 1 ? -1 : b.slots++; /* slots behind the others */
        snap_start[s + 1] = n;
    }
    const kt_array state = kt_state(t, &b, dtype, slot);
    const kn_conv_args a = { .channels = channels,
                             .width = width,
                             .in = in.p,
                             .ld_in = ld_in,
                             .weight = weight.p,
                             .bias = size[5] ? bias.p : NULL,
                             .state = state.p,
                             .state_dtype = dtype,
                             .out = out.p,
                             .ld_out = ld_out,
                             .block = block,
                             .snap_start = snap_start,
                             .snap_slot = snap_slot };
    if (!kt_ok(t, t->kn->conv(t->c, &a, &b.b))) return;

    double *want = kt_host(t, out.n * sizeof *want), *want_state = kt_host(t, state.n * sizeof *want_state);
    memcpy(want, out.v, out.n * sizeof *want);
    memcpy(want_state, state.v, state.n * sizeof *want_state);
    for (int s = 0; s < b.b.seqs; s++)
        for (int i = 0; i < channels; i++) {
            const int rows = b.start[s + 1] - b.start[s];
            double *column = kt_host(t, (size_t)(old + rows) * sizeof *column); /* the old window, then the slice */
            for (int j = 0; j < old; j++)
                column[j] = b.past[s] + j < old ? 0 : state.v[(size_t)b.src[s] * slot + (size_t)(j * channels + i)];
            for (int j = 0; j < rows; j++) column[old + j] = in.v[(b.start[s] + j) * ld_in + i];
            for (int j = 0; j < rows; j++) {
                double sum = size[5] ? bias.v[i] : 0;
                for (int k = 0; k < width; k++) sum += weight.v[i * width + k] * column[j + k];
                want[(b.start[s] + j) * ld_out + i] = sum / (1 + exp(-sum));
            }
            for (int j = 0, snap = snap_start[s]; block && s >= b.b.decodes && j < rows; j++) {
                if ((b.past[s] + j + 1) % block != 0) continue;
                const int to = snap_slot[snap++];
                for (int k = 0; k < old && to >= 0; k++)
                    want_state[(size_t)to * slot + (size_t)(k * channels + i)] = kt_round(dtype, column[j + 1 + k]);
            }
            for (int j = 0; j < old; j++)
                want_state[(size_t)b.dst[s] * slot + (size_t)(j * channels + i)] = kt_round(dtype, column[rows + j]);
        }
    kt_expect(t, "out", &out, want);
    kt_expect(t, "state", &state, want_state);
}

const kt_case kt_conv_rows[] = {
    /* name            run  channels width dtype pattern pad bias block  rtol  atol */
    { "conv.one", run, { 1, 2, PLP_F32, KT_ONE, 0, 1 }, 1e-5, 1e-6 },
    { "conv.decode", run, { 1792, 4, PLP_F32, KT_DECODE, 3, 1 }, 1e-5, 1e-6 },
    { "conv.decode.aligned", run, { 1792, 4, PLP_F32, KT_DECODE, 8, 1 }, 1e-5, 1e-6 },
    { "conv.decode.aligned.bf16", run, { 516, 4, PLP_BF16, KT_DECODE, 4, 0 }, 1e-5, 1e-6 },
    { "conv.decode.aligned.f16", run, { 4, 4, PLP_F16, KT_DECODE, 12, 1 }, 1e-5, 1e-6 },
    { "conv.short", run, { 257, 4, PLP_F32, KT_SHORT, 1, 1 }, 1e-5, 1e-6 },
    { "conv.short.bf16", run, { 63, 4, PLP_BF16, KT_SHORT, 0, 0 }, 1e-5, 1e-6 },
    { "conv.short.f16", run, { 65, 3, PLP_F16, KT_SHORT, 0, 1 }, 1e-5, 1e-6 },
    { "conv.width2", run, { 33, 2, PLP_F32, KT_SHORT, 7, 0 }, 1e-5, 1e-6 },
    { "conv.width5", run, { 100, 5, PLP_BF16, KT_DECODE, 0, 1 }, 1e-5, 1e-6 },
    { "conv.width8", run, { 17, 8, PLP_F32, KT_SHORT, 0, 1 }, 1e-5, 2e-6 },
    { "conv.tiles", run, { 300, 4, PLP_F32, KT_TILES, 0, 1 }, 1e-5, 1e-6 },
    { "conv.long.aligned", run, { 264, 4, PLP_F32, KT_LONG, 8, 1 }, 1e-5, 1e-6 },
    { "conv.short.aligned", run, { 1096, 3, PLP_BF16, KT_SHORT, 16, 1 }, 1e-5, 1e-6 },
    { "conv.width8.aligned", run, { 64, 8, PLP_F32, KT_TILES, 8, 0 }, 1e-5, 2e-6 },
    { "conv.snapshots.each",
      run,
      { 37, 4, PLP_F32, KT_SHORT, 3, 1, 1 },
      1e-5,
      1e-6 }, /* more than one launch holds; windows of two slices */
    { "conv.snapshots.aligned", run, { 264, 4, PLP_F32, KT_LONG, 8, 1, 64 }, 1e-5, 1e-6 },
    { "conv.snapshots.bf16", run, { 96, 5, PLP_BF16, KT_TILES, 0, 0, 16 }, 1e-5, 1e-6 },
    { "conv.snapshots.cut", run, { 128, 4, PLP_F16, KT_CUT, 0, 1, 3 }, 1e-5, 1e-6 },
    { "conv.long", run, { 31, 4, PLP_F32, KT_LONG, 2, 1 }, 1e-5, 1e-6 },
    { 0 }
};
