/* The selective scan: kn->scan on the slices and kn->scan_step on the decode rows of one batch, against the recurrence in float64; and
 * kn->rms. */
#include "kernel_test.h"

#include <string.h>

enum { SKIP = 1, BIAS = 2, LARGE_DT = 4 }; /* D x is added; dt has a bias; some dt and decays are extreme */

typedef struct {
    int channels, state, flags, ld_x, ld_z, ld_dt, ld_bc, ld_y;
    kt_array x, z, dt, B, C, A, dt_bias, D, y;
    void *work;
} inputs;

static inputs make(kt *t, int tokens, const int *size)
{
    inputs in = { .channels = size[0], .state = size[1], .flags = size[4] };
    const int pad = size[6];
    in.ld_x = in.channels + pad, in.ld_z = in.channels + 2 * pad, in.ld_dt = in.channels + 3 * pad, in.ld_y = in.channels + 4 * pad;
    in.ld_bc = in.state + pad;
    in.x = kt_matrix(t, t->act, tokens, in.channels, in.ld_x, 1);
    in.z = kt_matrix(t, t->act, tokens, in.channels, in.ld_z, 2);
    in.dt = kt_matrix(t, t->act, tokens, in.channels, in.ld_dt, 1);
    in.B = kt_matrix(t, t->act, tokens, in.state, in.ld_bc, 1 / sqrt(in.state));
    in.C = kt_matrix(t, t->act, tokens, in.state, in.ld_bc, 1);
    in.A = kt_random(t, PLP_F32, (size_t)(in.channels * in.state), 0, 1);
    for (size_t i = 0; i < in.A.n; i++) in.A.v[i] = -exp(kt_uniform(t, -3, in.flags & LARGE_DT ? 3 : 2));
    kt_put(t, &in.A);
    for (int i = 0; i < tokens && in.flags & LARGE_DT; i++)
        for (int j = 0; j < in.channels; j++)
            if (kt_below(t, 8) == 0) in.dt.v[i * in.ld_dt + j] = kt_below(t, 2) ? kt_uniform(t, 18, 40) : -100;
    kt_put(t, &in.dt);
    in.dt_bias = kt_random(t, PLP_F32, (size_t)in.channels, -1, 1);
    in.D = kt_random(t, PLP_F32, (size_t)in.channels, 1, 0.5);
    in.y = kt_nan(t, t->act, (size_t)tokens * (size_t)in.ld_y);
    const size_t work = t->kn->scan_work ? t->kn->scan_work(&(kn_scan_args){ .channels = in.channels, .state = in.state }) : 0;
    in.work = work ? kt_nan(t, PLP_F32, work / sizeof(float)).p : NULL;
    return in;
}

static kn_scan_args arguments(const inputs *in, const kt_array *h)
{
    return (kn_scan_args){ .channels = in->channels,
                           .state = in->state,
                           .x = in->x.p,
                           .z = in->z.p,
                           .dt = in->dt.p,
                           .B = in->B.p,
                           .C = in->C.p,
                           .ld_x = in->ld_x,
                           .ld_z = in->ld_z,
                           .ld_dt = in->ld_dt,
                           .ld_bc = in->ld_bc,
                           .A = in->A.p,
                           .dt_bias = in->flags & BIAS ? in->dt_bias.p : NULL,
                           .D = in->flags & SKIP ? in->D.p : NULL,
                           .h = h->p,
                           .state_dtype = h->dtype,
                           .y = in->y.p,
                           .ld_y = in->ld_y,
                           .work = in->work };
}

/* One token of one channel; h (state). */
static double reference(const inputs *in, int row, int channel, double *h)
{
    const double raw = in->dt.v[row * in->ld_dt + channel] + (in->flags & BIAS ? in->dt_bias.v[channel] : 0);
    const double dt = raw > 20 ? raw : log1p(exp(raw)), x = in->x.v[row * in->ld_x + channel], z = in->z.v[row * in->ld_z + channel];
    double sum = in->flags & SKIP ? in->D.v[channel] * x : 0;
    for (int n = 0; n < in->state; n++) {
        h[n] = exp(dt * in->A.v[channel * in->state + n]) * h[n] + dt * x * in->B.v[row * in->ld_bc + n];
        sum += h[n] * in->C.v[row * in->ld_bc + n];
    }
    return sum * z / (1 + exp(-z));
}

static void run(kt *t, const int *size)
{
    const int block = size[3];
    kt_batch b = kt_ragged(t, size[2]);
    const inputs in = make(t, b.b.tokens, size);
    const size_t row_of = (size_t)in.state, slot = (size_t)in.channels * row_of;
    int *snap_start = kt_host(t, (size_t)(b.b.seqs + 1) * sizeof *snap_start),
        *snap_slot = kt_host(t, (size_t)b.b.tokens * sizeof *snap_slot);
    for (int s = 0, n = 0; s < b.b.seqs; s++) {
        const int64_t end = b.past[s] + b.start[s + 1] - b.start[s];
        for (int64_t at = block ? b.past[s] / block + 1 : 0; block && s >= b.b.decodes && at * block <= end; at++, n++)
            snap_slot[n] = n % 3 == 1 ? -1 : b.slots++; /* slots behind the others */
        snap_start[s + 1] = n;
    }
    const kt_array h = kt_state(t, &b, (plp_dtype)size[5], slot);
    kn_scan_args a = arguments(&in, &h);
    a.block = block, a.snap_start = snap_start, a.snap_slot = snap_slot;
    if (!kt_ok(t, t->kn->scan(t->c, &a, &b.b)) || !kt_ok(t, t->kn->scan_step(t->c, &a, &b.b))) return;

    double *want = kt_host(t, h.n * sizeof *want), *y = kt_host(t, in.y.n * sizeof *y), *state = kt_host(t, row_of * sizeof *state);
    memcpy(want, h.v, h.n * sizeof *want);
    memcpy(y, in.y.v, in.y.n * sizeof *y);
    for (int s = 0; s < b.b.seqs; s++)
        for (int j = 0; j < in.channels; j++) {
            const size_t at = (size_t)j * row_of;
            int snap = snap_start[s];
            if (b.past[s] > 0)
                memcpy(state, h.v + (size_t)b.src[s] * slot + at, row_of * sizeof *state);
            else
                memset(state, 0, row_of * sizeof *state);
            for (int row = b.start[s]; row < b.start[s + 1]; row++) {
                y[row * in.ld_y + j] = reference(&in, row, j, state);
                if (block == 0 || s < b.b.decodes || (b.past[s] + row + 1 - b.start[s]) % block) continue;
                const int to = snap_slot[snap++];
                if (to >= 0) memcpy(want + (size_t)to * slot + at, state, row_of * sizeof *state);
            }
            memcpy(want + (size_t)b.dst[s] * slot + at, state, row_of * sizeof *state);
        }
    kt_expect(t, "y", &in.y, y);
    kt_expect(t, "h", &h, want);
}

/* The same from a row on. */
static kn_scan_args arguments_from(kt *t, const inputs *in, const kt_array *h, int row)
{
    kn_scan_args a = arguments(in, h);
    const size_t size = plp_dtype_size(t->act), at = (size_t)row;
    a.x = (const char *)a.x + at * (size_t)in->ld_x * size;
    a.z = (const char *)a.z + at * (size_t)in->ld_z * size;
    a.dt = (const char *)a.dt + at * (size_t)in->ld_dt * size;
    a.B = (const char *)a.B + at * (size_t)in->ld_bc * size;
    a.C = (const char *)a.C + at * (size_t)in->ld_bc * size;
    a.y = (char *)a.y + at * (size_t)in->ld_y * size;
    return a;
}

/* Rows [from, to) of two y are the same, to the bit. */
static void expect_same(kt *t, const char *what, const inputs *in, const kt_array *y, int from, int to)
{
    const size_t size = plp_dtype_size(t->act), bytes = y->n * size, columns = (size_t)in->channels * size;
    char *first = kt_host(t, bytes), *second = kt_host(t, bytes);
    kt_ok(t, t->kn->to_host(t->c, first, in->y.p, bytes));
    kt_ok(t, t->kn->to_host(t->c, second, y->p, bytes));
    kt_ok(t, t->kn->sync(t->c));
    for (int row = from; row < to; row++) {
        const size_t at = (size_t)row * (size_t)in->ld_y * size;
        if (memcmp(first + at, second + at, columns) != 0) kt_fail(t, "row %d of y %s", row, what);
    }
}

/* A sequence in slices of any length is the sequence at once, to the bit, where the context promises it. */
static void run_slices(kt *t, const int *size)
{
    const int tokens = size[2];
    const int64_t none = 0;
    if (!t->deterministic) return;
    kt_batch whole = kt_sequences(t, 0, 1, &tokens, &none);
    const inputs in = make(t, tokens, size);
    const kt_array h = kt_state(t, &whole, PLP_F32, (size_t)(in.channels * in.state));
    kn_scan_args a = arguments(&in, &h);
    if (!kt_ok(t, t->kn->scan(t->c, &a, &whole.b))) return;

    inputs again = in;
    again.y = kt_nan(t, t->act, in.y.n);
    for (int done = 0, n = 0; done < tokens; done += n) {
        n = 1 + done % 90 < tokens - done ? 1 + done % 90 : tokens - done;
        const int64_t past = done;
        kt_batch b = kt_sequences(t, 0, 1, &n, &past);
        const int other = whole.dst[0] == 0 ? 1 : 0;
        b.b.src_slot = b.b.dst_slot = kt_upload(t, &other, sizeof other);
        const kn_scan_args part = arguments_from(t, &again, &h, done);
        if (!kt_ok(t, t->kn->scan(t->c, &part, &b.b))) return;
    }
    expect_same(t, "in slices differs from the sequence at once", &in, &again.y, 0, tokens);
}

/* A sequence alone is the same as among others, to the bit, where the context promises it. */
static void run_alone(kt *t, const int *size)
{
    enum { SEQS = 4, WHICH = 2 };
    const int tokens[SEQS] = { size[2], 1, size[2] + 19, 40 };
    const int64_t past[SEQS] = { 0, 3, 5, 0 };
    if (!t->deterministic) return;
    kt_batch together = kt_sequences(t, 0, SEQS, tokens, past);
    const inputs in = make(t, together.b.tokens, size);
    const kt_array h = kt_state(t, &together, PLP_F32, (size_t)(in.channels * in.state));
    const int first = together.start[WHICH], last = together.start[WHICH + 1], src = together.src[WHICH], dst = together.dst[WHICH];
    const size_t slot = (size_t)(in.channels * in.state);
    float *states[2];
    inputs again = in;
    again.y = kt_nan(t, t->act, in.y.n);

    kt_batch alone = kt_sequences(t, 0, 1, &tokens[WHICH], &past[WHICH]);
    alone.b.src_slot = kt_upload(t, &src, sizeof src), alone.b.dst_slot = kt_upload(t, &dst, sizeof dst);
    const kn_scan_args all = arguments(&in, &h), one = arguments_from(t, &again, &h, first);
    for (int i = 0; i < 2; i++) {
        if (!kt_ok(t, t->kn->scan(t->c, i == 0 ? &all : &one, i == 0 ? &together.b : &alone.b))) return;
        states[i] = kt_host(t, slot * sizeof(float));
        kt_ok(t, t->kn->to_host(t->c, states[i], (const float *)h.p + (size_t)dst * slot, slot * sizeof(float)));
        kt_ok(t, t->kn->sync(t->c));
    }
    expect_same(t, "alone differs from the same among others", &in, &again.y, first, last);
    kt_expect_same(t, "the state, alone and among others", states[1], states[0], (int)slot);
}

/* rtol 1e-5 of what is summed, and sums of `state` products cancel to about atol: 4e-5 where a channel remembers hundreds of tokens and is
 * gated by 4 and more (a GPU's exponentials are two units in the last place off, on one side, at each); 5e-5 where dt reaches 40 and y hundreds. */
const kt_case kt_scan_rows[] = {
    /* name              run  channels state pattern block flags dtype pad  rtol  atol */
    { "scan.one", run, { 1, 1, KT_ONE, 0, 0, PLP_F32, 0 }, 1e-5, 1e-6 },
    { "scan.decode", run, { 1536, 16, KT_DECODE, 0, SKIP | BIAS, PLP_F32, 0 }, 1e-5, 1e-5 },
    { "scan.decode.bf16", run, { 264, 16, KT_DECODE, 0, SKIP | BIAS, PLP_BF16, 8 }, 1e-5, 1e-5 },
    { "scan.decode.f16", run, { 77, 8, KT_DECODE, 0, BIAS, PLP_F16, 3 }, 1e-5, 1e-5 },
    { "scan.decode.32", run, { 130, 32, KT_DECODE, 0, SKIP, PLP_F32, 8 }, 1e-5, 1e-5 },
    { "scan.decode.odd", run, { 33, 7, KT_DECODE, 0, SKIP | BIAS | LARGE_DT, PLP_F32, 1 }, 5e-5, 5e-5 },
    { "scan.decode.wide", run, { 9, 256, KT_DECODE, 0, SKIP, PLP_F32, 0 }, 1e-5, 1e-5 },
    { "scan.short", run, { 200, 16, KT_SHORT, 0, SKIP | BIAS, PLP_F32, 8 }, 1e-5, 1e-5 },
    { "scan.short.large_dt", run, { 65, 16, KT_SHORT, 0, SKIP | BIAS | LARGE_DT, PLP_F32, 1 }, 5e-5, 5e-5 },
    { "scan.short.f16", run, { 40, 9, KT_SHORT, 0, BIAS, PLP_F16, 0 }, 1e-5, 1e-5 },
    { "scan.tiles", run, { 150, 8, KT_TILES, 0, SKIP | BIAS, PLP_F32, 2 }, 1e-5, 1e-5 },
    { "scan.tiles.bf16", run, { 48, 16, KT_TILES, 0, SKIP, PLP_BF16, 0 }, 1e-5, 1e-5 },
    { "scan.long", run, { 96, 16, KT_LONG, 0, SKIP | BIAS, PLP_F32, 0 }, 1e-5, 1e-5 },
    { "scan.long.32", run, { 31, 32, KT_LONG, 0, SKIP | BIAS, PLP_F32, 5 }, 1e-5, 1e-5 },
    { "scan.long.large_dt", run, { 64, 16, KT_LONG, 0, SKIP | BIAS | LARGE_DT, PLP_F32, 0 }, 5e-5, 5e-5 },
    { "scan.long.wide", run, { 5, 256, KT_LONG, 0, SKIP, PLP_F32, 1 }, 1e-5, 2e-5 },
    { "scan.snapshots", run, { 70, 16, KT_SHORT, 16, SKIP | BIAS, PLP_F32, 0 }, 1e-5, 1e-5 },
    { "scan.snapshots.long", run, { 33, 16, KT_LONG, 64, SKIP | BIAS, PLP_F32, 1 }, 1e-5, 1e-5 },
    { "scan.snapshots.odd", run, { 17, 12, KT_LONG, 50, BIAS, PLP_BF16, 0 }, 1e-5, 1e-5 },
    /* rows in pairs, which 16-bit values of 8, 16 and 32 states are read in on a GPU: few channels, and more than its multiprocessors have blocks for */
    { "scan.pairs.8", run, { 130, 8, KT_LONG, 64, SKIP | BIAS, PLP_F32, 2 }, 1e-5, 4e-5 },
    { "scan.pairs.32", run, { 34, 32, KT_LONG, 50, SKIP | BIAS, PLP_BF16, 4 }, 1e-5, 1e-5 },
    { "scan.pairs.large_dt", run, { 62, 32, KT_SHORT, 0, BIAS | LARGE_DT, PLP_F32, 2 }, 5e-5, 5e-5 },
    { "scan.pairs.many", run, { 4250, 16, KT_SHORT, 16, SKIP | BIAS, PLP_F32, 2 }, 1e-5, 1e-5 },
    { "scan.pairs.many.8", run, { 4290, 8, KT_SHORT, 0, BIAS, PLP_F16, 0 }, 1e-5, 1e-5 },
    { "scan.pairs.many.32", run, { 4226, 32, KT_SHORT, 0, SKIP, PLP_F32, 6 }, 1e-5, 1e-5 },
    /*                           channels state tokens - flags - pad */
    { "scan.slices", run_slices, { 96, 16, 700, 0, SKIP | BIAS, 0, 0 }, 0, 0 },
    { "scan.slices.odd", run_slices, { 19, 13, 300, 0, SKIP, 0, 3 }, 0, 0 },
    { "scan.slices.many", run_slices, { 4250, 16, 300, 0, SKIP | BIAS, 0, 2 }, 0, 0 },
    /* as many channels as make one sequence half as large blocks as four on 132 multiprocessors */
    { "scan.alone.8", run_alone, { 2112, 8, 150, 0, SKIP | BIAS, 0, 0 }, 0, 0 },
    { "scan.alone.16", run_alone, { 2112, 16, 150, 0, SKIP | BIAS, 0, 2 }, 0, 0 },
    { "scan.alone.32", run_alone, { 2112, 32, 90, 0, SKIP, 0, 0 }, 0, 0 },
    { "scan.alone.odd", run_alone, { 131, 13, 90, 0, SKIP | BIAS, 0, 1 }, 0, 0 },
    { 0 }
};

static void run_rms(kt *t, const int *size)
{
    const int tokens = size[0], segments = size[1], *width = size + 2, ld_pad = size[6], weighted = size[7];
    const double eps = size[8] * 1e-6;
    int columns = 0;
    for (int k = 0; k < segments; k++) columns += width[k];
    const int ld_in = columns + ld_pad, ld_out = columns + 2 * ld_pad;
    const kt_array in = kt_matrix(t, PLP_F32, tokens, columns, ld_in, 0.01), weight = kt_random(t, PLP_F32, (size_t)columns, 1, 0.3);
    const kt_array out = kt_nan(t, t->act, (size_t)(tokens * ld_out));
    kn_rms_args a = { .tokens = tokens,
                      .segments = segments,
                      .eps = eps,
                      .weight = weighted ? weight.p : NULL,
                      .in = in.p,
                      .ld_in = ld_in,
                      .out = out.p,
                      .ld_out = ld_out };
    for (int k = 0; k < segments; k++) a.width[k] = width[k];
    if (!kt_ok(t, t->kn->rms(t->c, &a))) return;
    double *want = kt_host(t, out.n * sizeof *want);
    memcpy(want, out.v, out.n * sizeof *want);
    for (int i = 0; i < tokens; i++)
        for (int k = 0, at = 0; k < segments; at += width[k++]) {
            double sum = 0;
            for (int j = at; j < at + width[k]; j++) sum += in.v[i * ld_in + j] * in.v[i * ld_in + j];
            const double scale = eps > 0 ? 1 / sqrt(sum / width[k] + eps) : 1;
            for (int j = at; j < at + width[k]; j++)
                want[i * ld_out + j] = in.v[i * ld_in + j] * scale * (eps > 0 && weighted ? weight.v[j] : 1);
        }
    kt_expect(t, "out", &out, want);
}

/* Values of 0.01, so that eps, in millionths, weighs 1 % and more. */
const kt_case kt_rms_rows[] = {
    /* name           run   tokens segments widths pad weighted eps   rtol  atol */
    { "rms.falcon", run_rms, { 37, 3, 256, 16, 16, 0, 0, 0, 1 }, 1e-5, 1e-7 },
    { "rms.jamba", run_rms, { 5, 3, 48, 16, 16, 0, 5, 1, 10 }, 1e-5, 1e-7 },
    { "rms.odd", run_rms, { 9, 4, 1, 7, 300, 33, 1, 1, 1 }, 1e-5, 1e-7 },
    { "rms.one", run_rms, { 1, 1, 5, 0, 0, 0, 0, 0, 1 }, 1e-5, 1e-7 },
    { "rms.plain", run_rms, { 70, 3, 4, 16, 16, 0, 2, 1, 0 }, 1e-6, 1e-7 },
    { "rms.none", run_rms, { 0, 3, 4, 16, 16, 0, 0, 0, 1 }, 0, 0 },
    { 0 }
};
