/* The state space: kn->ssd on the slices and kn->ssm_step on the decode rows of one batch, against the recurrence in float64. */
#include "kernel_test.h"

#include <stdlib.h>
#include <string.h>

enum {
    SKIP = 1,
    LIMITS = 2,
    LARGE_DT = 4,
    ALIGNED = 8,
    EXTREME = 16,
    MANY = 32
}; /* D x is added; dt is clamped; some dt and decays are large; rows 16 bytes apart; dt to 0 and 300, x denormal; so many heads that a GPU takes them
      from a counter, which is nothing to a CPU */

typedef struct {
    int heads, groups, dim, state, chunk, flags, ld_x, ld_bc, ld_dt, ld_y;
    double dt_min, dt_max;
    int *group;
    kt_array x, B, C, dt, A, dt_bias, D, y;
} inputs;

static inputs make(kt *t, int tokens, const int *size)
{
    inputs in = { .heads = size[0], .groups = size[1], .dim = size[2], .state = size[3], .chunk = size[4], .flags = size[7] };
    in.ld_x = in.heads * in.dim + 4, in.ld_bc = in.groups * in.state + 8, in.ld_dt = in.heads + 1, in.ld_y = in.heads * in.dim + 2;
    if (in.flags & ALIGNED) in.ld_x += 4, in.ld_y += 6;
    in.dt_min = in.flags & LIMITS ? 0.3 : 0, in.dt_max = in.flags & LIMITS ? 0.9 : INFINITY;
    in.x = kt_matrix(t, t->act, tokens, in.heads * in.dim, in.ld_x, 1);
    in.B = kt_matrix(t, t->act, tokens, in.groups * in.state, in.ld_bc, 1 / sqrt(in.state));
    in.C = kt_matrix(t, t->act, tokens, in.groups * in.state, in.ld_bc, 1);
    in.dt = kt_matrix(t, t->act, tokens, in.heads, in.ld_dt, 1);
    in.A = kt_random(t, PLP_F32, (size_t)in.heads, 0, 1);
    for (int i = 0; i < in.heads; i++) in.A.v[i] = -exp(kt_uniform(t, -2, in.flags & LARGE_DT ? 3 : 1));
    kt_put(t, &in.A);
    if (in.flags & LARGE_DT)
        for (int i = 0; i < tokens; i++)
            for (int j = 0; j < in.heads; j++)
                if (kt_below(t, 8) == 0) in.dt.v[i * in.ld_dt + j] = kt_below(t, 2) ? kt_uniform(t, 18, 40) : -30;
    kt_put(t, &in.dt);
    static const double raws[] = { -120, -103, -88, -87, -17, 19.999, 20.001, 87, 88, 89, 300 };
    for (int i = 0; i < tokens && in.flags & EXTREME; i++) {
        for (int j = 0; j < in.heads; j++) in.dt.v[i * in.ld_dt + j] = raws[kt_below(t, sizeof raws / sizeof *raws)];
        for (int k = 0; k < in.heads * in.dim; k += 3) in.x.v[i * in.ld_x + k] *= 1e-39;
    }
    if (in.flags & EXTREME) kt_put(t, &in.x), kt_put(t, &in.dt);
    in.dt_bias = kt_random(t, PLP_F32, (size_t)in.heads, -1, 1);
    in.D = kt_random(t, PLP_F32, (size_t)in.heads, 1, 0.5);
    in.y = kt_nan(t, t->act, (size_t)tokens * (size_t)in.ld_y);
    in.group = kt_host(t, (size_t)in.heads * sizeof *in.group);
    /* A rank that starts in the middle of a group: the first group has fewer heads than the others. */
    const int per_group = (in.heads + in.groups - 1) / in.groups, missing = in.groups > 1 ? per_group / 2 : 0;
    for (int i = 0; i < in.heads; i++) in.group[i] = (i + missing) / per_group < in.groups ? (i + missing) / per_group : in.groups - 1;
    return in;
}

static kn_ssm_args arguments(kt *t, const inputs *in, const kt_array *h)
{
    return (kn_ssm_args){ .heads = in->heads,
                          .groups = in->groups,
                          .dim = in->dim,
                          .state = in->state,
                          .chunk = in->chunk,
                          .group = kt_upload(t, in->group, (size_t)in->heads * sizeof *in->group),
                          .host_group = in->group,
                          .x = in->x.p,
                          .B = in->B.p,
                          .C = in->C.p,
                          .dt = in->dt.p,
                          .ld_x = in->ld_x,
                          .ld_bc = in->ld_bc,
                          .ld_dt = in->ld_dt,
                          .A = in->A.p,
                          .dt_bias = in->dt_bias.p,
                          .D = in->flags & SKIP ? in->D.p : NULL,
                          .dt_min = (float)in->dt_min,
                          .dt_max = (float)in->dt_max,
                          .h = h->p,
                          .state_dtype = h->dtype,
                          .y = in->y.p,
                          .ld_y = in->ld_y };
}

/* One token of one head. */
static void reference(const inputs *in, int row, int head, double *h, double *y)
{
    const double raw = in->dt.v[row * in->ld_dt + head] + in->dt_bias.v[head], plus = raw > 20 ? raw : log1p(exp(raw));
    const double dt = plus < in->dt_min ? in->dt_min : plus > in->dt_max ? in->dt_max : plus;
    const double *x = in->x.v + row * in->ld_x + head * in->dim, *B = in->B.v + row * in->ld_bc + in->group[head] * in->state;
    const double *C = in->C.v + row * in->ld_bc + in->group[head] * in->state;
    for (int p = 0; p < in->dim; p++) {
        double sum = 0;
        for (int n = 0; n < in->state; n++) {
            double *e = h + p * in->state + n;
            *e = exp(dt * in->A.v[head]) * *e + dt * x[p] * B[n];
            sum += *e * C[n];
        }
        y[row * in->ld_y + head * in->dim + p] = sum + (in->flags & SKIP ? in->D.v[head] * x[p] : 0);
    }
}

static bool on_tensor_cores(const kt *t, const inputs *in, const kt_batch *b)
{
    return b->b.seqs > b->b.decodes && t->kn != kn_cpu() && t->act == PLP_BF16 && in->dim == 64 && (in->state == 64 || in->state == 128) &&
           in->flags & ALIGNED;
}

static void run(kt *t, const int *size)
{
    const int blocks = size[6], block = blocks * size[4];
    if (size[7] & MANY && t->kn == kn_cpu()) return;
    kt_batch b = kt_ragged(t, size[5]);
    const inputs in = make(t, b.b.tokens, size);
    const size_t head = (size_t)(in.dim * in.state), slot = (size_t)in.heads * head;

    int *snap_start = kt_host(t, (size_t)(b.b.seqs + 1) * sizeof *snap_start),
        *snap_slot = kt_host(t, (size_t)b.b.tokens * sizeof *snap_slot);
    for (int s = 0, n = 0; s < b.b.seqs; s++) {
        const int64_t end = b.past[s] + b.start[s + 1] - b.start[s];
        for (int64_t at = block ? b.past[s] / block + 1 : 0; block && s >= b.b.decodes && at * block <= end; at++, n++)
            snap_slot[n] = n % 3 == 1 ? -1 : b.slots++; /* slots behind the others */
        snap_start[s + 1] = n;
    }
    const kt_array h = kt_state(t, &b, (plp_dtype)size[8], slot);
    kn_ssm_args a = arguments(t, &in, &h);
    a.block = block, a.snap_start = snap_start, a.snap_slot = snap_slot;
    if (!kt_ok(t, t->kn->ssd(t->c, &a, &b.b)) || !kt_ok(t, t->kn->ssm_step(t->c, &a, &b.b))) return;

    double *want = kt_host(t, h.n * sizeof *want), *y = kt_host(t, in.y.n * sizeof *y), *state = kt_host(t, head * sizeof *state);
    memcpy(want, h.v, h.n * sizeof *want);
    memcpy(y, in.y.v, in.y.n * sizeof *y);
    for (int s = 0; s < b.b.seqs; s++)
        for (int j = 0; j < in.heads; j++) {
            int snap = snap_start[s];
            if (b.past[s] > 0)
                memcpy(state, h.v + (size_t)b.src[s] * slot + (size_t)j * head, head * sizeof *state);
            else
                memset(state, 0, head * sizeof *state);
            for (int row = b.start[s]; row < b.start[s + 1]; row++) {
                reference(&in, row, j, state, y);
                if (block == 0 || s < b.b.decodes || (b.past[s] + row + 1 - b.start[s]) % block) continue;
                const int to = snap_slot[snap++];
                if (to >= 0) memcpy(want + (size_t)to * slot + (size_t)j * head, state, head * sizeof *state);
            }
            memcpy(want + (size_t)b.dst[s] * slot + (size_t)j * head, state, head * sizeof *state);
        }
    if (on_tensor_cores(t, &in, &b)) { /* what they multiply is bf16: dt and decay in x or in C B^T, and the state before C */
        kt_expect_blocks(t, "y", &in.y, y, (size_t)in.ld_y, 1e-2);
        kt_expect_blocks(t, "h", &h, want, head, 4e-3);
        return;
    }
    kt_expect(t, "y", &in.y, y);
    kt_expect(t, "h", &h, want);
}

/* Behind `done`: where a slice may end, which is where chunks do and where the backend says. */
static int next_cut(kt *t, int done, int tokens, int chunk)
{
    const int grain = t->kn->grain > 0 && t->kn->grain < chunk ? t->kn->grain : chunk, to = done + 1 + kt_below(t, 3 * chunk);
    int cut = to / chunk * chunk + to % chunk / grain * grain;
    if (cut <= done) cut = done % chunk + grain < chunk ? done + grain : (done / chunk + 1) * chunk;
    return cut < tokens ? cut : tokens;
}

/* A sequence in slices is the sequence at once, to the bit. */
static void run_slices(kt *t, const int *size)
{
    const int tokens = size[5], chunk = size[4];
    if (!t->deterministic) return;
    const int64_t none = 0;
    kt_batch whole = kt_sequences(t, 0, 1, &tokens, &none);
    const inputs in = make(t, tokens, size);
    const size_t slot = (size_t)(in.heads * in.dim * in.state);
    const kt_array h = kt_state(t, &whole, PLP_F32, slot);
    kn_ssm_args a = arguments(t, &in, &h);
    if (!kt_ok(t, t->kn->ssd(t->c, &a, &whole.b))) return;

    inputs again = in;
    again.y = kt_nan(t, t->act, in.y.n);
    for (int done = 0, n = 0; done < tokens; done += n) {
        n = next_cut(t, done, tokens, chunk) - done;
        const int64_t past = done;
        kt_batch b = kt_sequences(t, 0, 1, &n, &past);
        const int other = whole.dst[0] == 0 ? 1 : 0;
        b.b.src_slot = b.b.dst_slot = kt_upload(t, &other, sizeof other);
        kn_ssm_args part = arguments(t, &again, &h);
        const size_t size_of = plp_dtype_size(t->act), row = (size_t)done;
        part.x = (const char *)part.x + row * (size_t)in.ld_x * size_of;
        part.B = (const char *)part.B + row * (size_t)in.ld_bc * size_of;
        part.C = (const char *)part.C + row * (size_t)in.ld_bc * size_of;
        part.dt = (const char *)part.dt + row * (size_t)in.ld_dt * size_of;
        part.y = (char *)part.y + row * (size_t)in.ld_y * size_of;
        if (!kt_ok(t, t->kn->ssd(t->c, &part, &b.b))) return;
    }
    const size_t bytes = in.y.n * plp_dtype_size(t->act);
    char *first = kt_host(t, bytes), *second = kt_host(t, bytes);
    kt_ok(t, t->kn->to_host(t->c, first, in.y.p, bytes));
    kt_ok(t, t->kn->to_host(t->c, second, again.y.p, bytes));
    kt_ok(t, t->kn->sync(t->c));
    for (int row = 0; row < tokens; row++) {
        const size_t at = (size_t)row * (size_t)in.ld_y * plp_dtype_size(t->act), n = (size_t)(in.heads * in.dim) * plp_dtype_size(t->act);
        if (memcmp(first + at, second + at, n) != 0) kt_fail(t, "row %d of y in slices differs from the sequence at once", row);
    }
}

/* A long sequence, in slices and in single steps, whose heads forget at 1e-1 to 1e-6 a token: what float32 leaves of the state.  (dt differs
 * from token to token, as it does in models: of one that is always 1e-6, float32's exp(-1e-6) makes one that is off by up to 3 %.) */
static void run_long(kt *t, const int *size)
{
    enum { SLICE = 1000 };
    const int total = getenv("PLP_TEST_LONG") ? 1000000 : size[5], decodes = 50;
    if (t->act != PLP_F32) return; /* 16-bit inputs err by more than what is measured here */
    const inputs in = make(t, SLICE, size);
    const size_t head = (size_t)(in.dim * in.state), slot = (size_t)in.heads * head;
    for (int j = 0; j < in.heads; j++) {
        in.A.v[j] = -1, in.dt_bias.v[j] = 0;
        for (int i = 0; i < SLICE; i++) in.dt.v[i * in.ld_dt + j] = log(expm1(pow(10, -1 - j) * exp(0.5 * kt_normal(t))));
    }
    kt_put(t, (kt_array *)&in.A), kt_put(t, (kt_array *)&in.dt), kt_put(t, (kt_array *)&in.dt_bias);
    double *want = kt_host(t, slot * sizeof *want);
    kt_batch b = kt_sequences(t, 0, 1, (const int[]){ SLICE }, (const int64_t[]){ 0 });
    kt_array h = kt_nan(t, PLP_F32, (size_t)b.slots * slot);
    double *all = kt_host(t, h.n * sizeof *all);
    const kn_ssm_args a = arguments(t, &in, &h);
    double *y = kt_host(t, in.y.n * sizeof *y);
    for (int64_t done = 0; done < total;) {
        const bool one = done % (10 * SLICE) >= 10 * SLICE - decodes; /* the last tokens of every tenth slice come singly */
        const int n = one ? 1 : done % (10 * SLICE) == 9 * SLICE ? SLICE - decodes : SLICE;
        const int to = b.dst[0];
        kt_batch part = kt_sequences(t, one, 1, &n, &done);
        part.b.src_slot = part.b.dst_slot = kt_upload(t, &to, sizeof to);
        if (!kt_ok(t, one ? t->kn->ssm_step(t->c, &a, &part.b) : t->kn->ssd(t->c, &a, &part.b))) return;
        for (int row = 0; row < n; row++)
            for (int j = 0; j < in.heads; j++) reference(&in, row, j, want + (size_t)j * head, y);
        done += n;
    }
    memcpy(all, h.v, h.n * sizeof *all);
    memcpy(all + (size_t)b.dst[0] * slot, want, slot * sizeof *want);
    kt_expect_blocks(t, "h", &h, all, head, 1e-3);
}

/* rtol 1e-5 of what is summed, and sums of `state` products cancel to about atol; 5e-5 where dt reaches 40 and y hundreds. */
const kt_case kt_ssm_rows[] = {
    /* name             run  heads groups dim state chunk pattern blocks flags dtype       rtol  atol */
    { "ssm.one", run, { 1, 1, 1, 1, 16, KT_ONE, 0, 0 }, 1e-5, 1e-6 },
    { "ssm.decode", run, { 24, 1, 64, 128, 256, KT_DECODE, 0, SKIP }, 1e-5, 1e-5 },
    { "ssm.decode.bf16", run, { 6, 2, 64, 128, 256, KT_DECODE, 0, SKIP, PLP_BF16 }, 1e-5, 1e-5 },
    { "ssm.decode.f16", run, { 5, 1, 33, 16, 256, KT_DECODE, 0, LIMITS, PLP_F16 }, 1e-5, 1e-5 },
    { "ssm.decode.wide", run, { 3, 1, 80, 256, 256, KT_DECODE, 0, SKIP | LARGE_DT }, 5e-5, 5e-5 },
    { "ssm.sweep", run, { 63, 4, 64, 128, 256, KT_DECODE, 0, SKIP | ALIGNED | MANY }, 1e-5, 1e-5 },
    { "ssm.sweep.64", run, { 140, 3, 64, 64, 256, KT_DECODE, 0, LIMITS | ALIGNED | MANY }, 1e-5, 1e-5 },
    { "ssm.sweep.bf16", run, { 140, 1, 64, 128, 256, KT_DECODE, 0, SKIP | LARGE_DT | ALIGNED | MANY, PLP_BF16 }, 5e-5, 5e-5 },
    { "ssm.sweep.bf16.64", run, { 260, 7, 64, 64, 256, KT_DECODE, 0, SKIP | ALIGNED | MANY, PLP_BF16 }, 1e-5, 1e-5 },
    { "ssm.sweep.f16", run, { 70, 5, 64, 128, 256, KT_DECODE, 0, ALIGNED | MANY, PLP_F16 }, 1e-5, 1e-5 },
    { "ssm.sweep.f16.64", run, { 130, 2, 64, 64, 256, KT_DECODE, 0, SKIP | ALIGNED | MANY, PLP_F16 }, 1e-5, 1e-5 },
    { "ssm.short", run, { 24, 1, 64, 128, 16, KT_SHORT, 0, SKIP }, 1e-5, 1e-5 },
    { "ssm.short.odd", run, { 7, 3, 7, 33, 16, KT_SHORT, 0, LIMITS }, 1e-5, 1e-5 },
    { "ssm.short.large_dt", run, { 6, 2, 16, 32, 16, KT_SHORT, 0, SKIP | LARGE_DT }, 5e-5, 5e-5 },
    { "ssm.tiles", run, { 5, 2, 64, 128, 64, KT_TILES, 0, SKIP }, 1e-5, 1e-5 },
    { "ssm.tiles.large_dt", run, { 9, 4, 32, 16, 32, KT_TILES, 0, SKIP | LARGE_DT }, 5e-5, 5e-5 },
    { "ssm.tiles.bf16", run, { 3, 1, 80, 64, 128, KT_TILES, 0, 0, PLP_BF16 }, 1e-5, 1e-5 },
    { "ssm.tiles.f16", run, { 3, 1, 20, 24, 100, KT_TILES, 0, LIMITS, PLP_F16 }, 1e-5, 1e-5 },
    { "ssm.long", run, { 3, 1, 64, 128, 256, KT_LONG, 0, SKIP }, 1e-5, 1e-5 },
    { "ssm.long.chunk17", run, { 2, 1, 15, 17, 17, KT_LONG, 0, SKIP | LIMITS }, 1e-5, 1e-5 },
    { "ssm.snapshots", run, { 5, 2, 32, 64, 16, KT_SHORT, 1, SKIP }, 1e-5, 1e-5 },
    { "ssm.snapshots.long", run, { 3, 1, 32, 16, 64, KT_LONG, 2, SKIP }, 1e-5, 1e-5 },
    { "ssm.snapshots.bf16", run, { 3, 3, 64, 16, 128, KT_LONG, 1, 0, PLP_BF16 }, 1e-5, 1e-5 },
    /*                          heads groups dim state chunk tokens - flags */
    { "ssm.aligned", run, { 5, 2, 64, 128, 64, KT_TILES, 1, SKIP | ALIGNED }, 1e-5, 1e-5 },
    { "ssm.aligned.short", run, { 7, 3, 64, 64, 16, KT_SHORT, 0, ALIGNED }, 1e-5, 1e-5 },
    { "ssm.aligned.long", run, { 6, 1, 64, 128, 128, KT_LONG, 1, SKIP | LIMITS | ALIGNED }, 1e-5, 1e-5 },
    { "ssm.aligned.bf16", run, { 4, 1, 64, 128, 64, KT_LONG, 2, SKIP | ALIGNED, PLP_BF16 }, 1e-5, 1e-5 },
    { "ssm.aligned.f16", run, { 3, 2, 64, 64, 64, KT_TILES, 1, ALIGNED, PLP_F16 }, 1e-5, 1e-5 },
    { "ssm.aligned.cut", run, { 7, 3, 64, 128, 64, KT_CUT, 1, SKIP | ALIGNED }, 1e-5, 1e-5 },
    { "ssm.aligned.cut.large_dt", run, { 4, 2, 64, 64, 64, KT_CUT, 2, SKIP | LARGE_DT | ALIGNED }, 5e-5, 5e-5 },
    { "ssm.extremes", run, { 6, 2, 16, 32, 16, KT_SHORT, 0, SKIP | EXTREME }, 5e-5, 5e-4 },
    { "ssm.extremes.aligned", run, { 4, 2, 64, 64, 64, KT_CUT, 0, EXTREME | ALIGNED }, 5e-5, 5e-4 },
    { "ssm.state.long", run_long, { 6, 1, 2, 4, 64, 30000, 0, 0 }, 0, 0 }, /* a million tokens with PLP_TEST_LONG set */
    { "ssm.slices", run_slices, { 6, 2, 64, 32, 64, 300, 0, SKIP }, 0, 0 },
    { "ssm.slices.aligned", run_slices, { 6, 2, 64, 128, 64, 900, 0, SKIP | ALIGNED }, 0, 0 },
    { "ssm.slices.96", run_slices, { 6, 2, 64, 128, 96, 900, 0, SKIP | ALIGNED }, 0, 0 }, /* chunks that are none of a GPU's */
    { "ssm.slices.odd", run_slices, { 3, 1, 17, 15, 40, 333, 0, SKIP }, 0, 0 },
    { 0 }
};
