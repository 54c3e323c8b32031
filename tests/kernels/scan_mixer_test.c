#include "kernel_test.h"

#include <stdlib.h>
#include <string.h>

/* The fused Mamba-1 mixer of decode rows, against float64.
 *
 * What the reference rounds to bf16 is what the kernels store between them or multiply: the normalised row before its scale, the
 * convolution's input and output, z, dt's part of x_proj's sums before the scale of its norm, the gated y.  See mixer_step_test.c for what such a rounding may do. */
enum { WIDTH = 4 };
enum {
    DELTA = 1,
    BIASES = 2,
    NORMS = 4,
    BF16_STATE = 8,
    BARE = 16,
    READY = 32,
    TWIN = 64,
    APART = 128 /* x_proj in one slice, also of few rows */
};

typedef struct {
    int rows, hidden, channels, state, rank, flags, parts;
    plp_dtype ssm_dtype;
    kn_scan_mixer_args a;
    kt_batch batch;
    kt_twin twin; /* TWIN: of both sums */
    kt_ready ready;
    kt_array ahead, next_norm; /* READY: as in mixer_step_test.c */
    kt_array residual, delta, norm, in_proj, in_bias, conv_weight, conv_bias, x_proj, dt_proj, A, dt_bias, D, out_proj, out_bias,
        conv_state, ssm_state, mixed, work;
} step;

static double silu(double v) { return v / (1 + exp(-v)); }
static double bf16(double v) { return kt_round(PLP_BF16, v); }

static step step_make(kt *t, const int *size)
{
    step s = { .rows = size[0], .hidden = size[1], .channels = size[2], .state = size[3], .rank = size[4], .flags = size[5] };
    s.parts = s.rank + 2 * s.state;
    s.ssm_dtype = s.flags & BF16_STATE ? PLP_BF16 : PLP_F32;
    s.batch = kt_decodes(t, s.rows);
    const size_t h = (size_t)s.hidden, I = (size_t)s.channels, rank = (size_t)s.rank, parts = (size_t)s.parts, rows = (size_t)s.rows;
    const int ld = s.hidden + 4;
    const bool biases = s.flags & BIASES, bare = s.flags & BARE;
    s.residual = kt_random(t, PLP_F32, rows * h, 0.3, 2);
    s.delta = kt_nan(t, PLP_F32, (size_t)(s.rows * ld));
    s.norm = kt_random(t, PLP_F32, h, 1, 0.3);
    s.in_proj = kt_random(t, PLP_BF16, 2 * I * h, 0, 1 / sqrt(s.hidden));
    s.in_bias = kt_random(t, PLP_F32, 2 * I, 0, 0.5);
    s.conv_weight = kt_random(t, PLP_F32, I * WIDTH, 0, 0.5);
    s.conv_bias = kt_random(t, PLP_F32, I, 0, 0.5);
    s.x_proj = kt_random(t, PLP_BF16, parts * I, 0, 2 / sqrt(s.channels));
    s.dt_proj = kt_random(t, PLP_BF16, I * rank, 0, 1 / sqrt(s.rank));
    s.A = kt_nan(t, PLP_F32, I * (size_t)s.state);
    for (size_t i = 0; i < s.A.n; i++) s.A.v[i] = -kt_uniform(t, 0.1, 16);
    kt_put(t, &s.A);
    s.dt_bias = kt_random(t, PLP_F32, I, -1, 2);
    s.D = kt_random(t, PLP_F32, I, 1, 0.5);
    s.out_proj = kt_random(t, PLP_BF16, h * I, 0, 0.25 / sqrt(s.channels)); /* y is about 4 */
    s.out_bias = kt_random(t, PLP_F32, h, 0, 1);
    s.conv_state = kt_state(t, &s.batch, PLP_BF16, (WIDTH - 1) * I);
    s.ssm_state = kt_state(t, &s.batch, s.ssm_dtype, I * (size_t)s.state);
    const int slices = s.rows > KN_MIXER_ROWS || s.flags & APART ? 1 : KN_MIXER_SLICES;
    s.mixed = kt_nan(t, PLP_F32, rows * (size_t)slices * parts);
    s.a = (kn_scan_mixer_args){ .rows = s.rows,
                                .hidden = s.hidden,
                                .channels = s.channels,
                                .most_channels = s.channels,
                                .state = s.state,
                                .width = WIDTH,
                                .dt_rank = s.rank,
                                .slices = slices,
                                .residual = s.residual.p,
                                .delta = s.flags & DELTA ? s.delta.p : NULL,
                                .ld_delta = ld,
                                .norm_weight = s.norm.p,
                                .norm_eps = 1e-5,
                                .mixer_eps = s.flags & NORMS ? 1e-3 : 0,
                                .in_proj = s.in_proj.p,
                                .in_bias = biases ? s.in_bias.p : NULL,
                                .conv_weight = s.conv_weight.p,
                                .conv_bias = bare ? NULL : s.conv_bias.p,
                                .x_proj = s.x_proj.p,
                                .dt_proj = s.dt_proj.p,
                                .A = s.A.p,
                                .dt_bias = bare ? NULL : s.dt_bias.p,
                                .D = bare ? NULL : s.D.p,
                                .out_proj = s.out_proj.p,
                                .out_bias = biases ? s.out_bias.p : NULL,
                                .w_dtype = PLP_BF16,
                                .conv_state = s.conv_state.p,
                                .ssm_state = s.ssm_state.p,
                                .conv_dtype = PLP_BF16,
                                .ssm_dtype = s.ssm_dtype,
                                .mixed = s.mixed.p };
    s.ahead = s.residual;
    s.next_norm = kt_random(t, PLP_F32, h, 1, 0.3);
    if (s.flags & READY) s.ahead = kt_random(t, PLP_F32, rows * h, 0.1, 1);
    s.ready = kt_ready_make(t, slices == 1 ? KN_MIXER_WIDE : s.rows, &s.ahead, &s.norm);
    if (s.flags & READY) s.a.is_ready = true, s.a.next_norm = s.next_norm.p, s.a.ready = s.ready.r;
    s.work = kt_nan(t, PLP_F32, t->kn->scan_mixer_work(&s.a) / sizeof(float));
    s.a.work = s.work.p;
    return s;
}

static double dot(const double *a, const double *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One row up to x_proj: its sums into mixed, z and x into p; updates conv, the mirror of the backend's state. */
static void reference_begin(const step *s, int r, double *conv, double *p, double *mixed)
{
    const int H = s->hidden, I = s->channels, src = s->batch.src[r], dst = s->batch.dst[r];
    const bool fresh = s->batch.past[r] == 0;
    const double *res = s->ahead.v + (size_t)r * (size_t)H, mean = dot(res, res, H) / H;
    double *row = p + 2 * I; /* what in_proj multiplies */
    for (int k = 0; k < H; k++) row[k] = bf16(res[k] * s->norm.v[k]);
    for (int i = 0; i < 2 * I; i++)
        p[i] = dot(s->in_proj.v + (size_t)i * (size_t)H, row, H) / sqrt(mean + s->a.norm_eps) + (s->a.in_bias ? s->in_bias.v[i] : 0);
    const double *old = conv + (size_t)src * 3 * (size_t)I;
    double *next = conv + (size_t)dst * 3 * (size_t)I;
    for (int c = 0; c < I; c++) {
        const double *w = s->conv_weight.v + (size_t)c * WIDTH;
        const double x[WIDTH] = { fresh ? 0 : old[c], fresh ? 0 : old[I + c], fresh ? 0 : old[2 * I + c], bf16(p[I + c]) };
        for (int k = 0; k < WIDTH - 1; k++) next[k * I + c] = x[k + 1];
        p[I + c] = bf16(silu((s->a.conv_bias ? s->conv_bias.v[c] : 0) + dot(w, x, WIDTH)));
        p[c] = bf16(p[c]);
    }
    for (int i = 0; i < s->parts; i++) mixed[i] = (s->flags & TWIN ? 2 : 1) * dot(s->x_proj.v + (size_t)i * (size_t)I, p + I, I);
}

/* The rest, from x_proj's sums: updates ssm, writes the mixer's output. */
static void reference_end(const step *s, int r, double *ssm, const double *p, double *mixed, double *out)
{
    const int I = s->channels, N = s->state, R = s->rank, src = s->batch.src[r], dst = s->batch.dst[r];
    const int width[3] = { R, N, N };
    double *v = out + s->hidden; /* the gated y */
    for (int k = 0, at = 0; k < 3; at += width[k++]) {
        const double scale = s->a.mixer_eps > 0 ? 1 / sqrt(dot(mixed + at, mixed + at, width[k]) / width[k] + s->a.mixer_eps) : 1;
        for (int j = at; j < at + width[k]; j++) mixed[j] = scale * (k == 0 ? bf16(mixed[j]) : mixed[j]);
    }
    for (int c = 0; c < I; c++) {
        const double raw = dot(s->dt_proj.v + (size_t)c * (size_t)R, mixed, R) + (s->a.dt_bias ? s->dt_bias.v[c] : 0);
        const double dt = raw > 20 ? raw : log1p(exp(raw)), x = p[I + c];
        const double *A = s->A.v + (size_t)c * (size_t)N, *B = mixed + R, *C = B + N;
        const double *from = ssm + ((size_t)src * (size_t)I + (size_t)c) * (size_t)N;
        double *to = ssm + ((size_t)dst * (size_t)I + (size_t)c) * (size_t)N, y = s->a.D ? s->D.v[c] * x : 0;
        for (int n = 0; n < N; n++) {
            to[n] = (s->batch.past[r] == 0 ? 0 : exp(dt * A[n]) * from[n]) + dt * x * B[n];
            y += to[n] * C[n];
        }
        v[c] = bf16(y * silu(p[c]));
    }
    for (int k = 0; k < s->hidden; k++)
        out[k] = (s->flags & TWIN ? 2 : 1) * dot(s->out_proj.v + (size_t)k * (size_t)I, v, I) + (s->a.out_bias ? s->out_bias.v[k] : 0);
}

/* between: with x_proj's sums in `mixed`, for a caller who adds them up over ranks; else `end` may have taken them from elsewhere. */
static void run_once(kt *t, const int *size, bool between)
{
    const bool expected = t->act == PLP_BF16;
    step s = step_make(t, size);
    const int slices = s.a.slices;
    bool done = !expected;
    s.a.between = between;
    if (s.flags & TWIN) kt_twin_make(t, &s.twin), s.a.exchange = s.a.mixed_exchange = &s.twin.x;
    if (!kt_ok(t, t->kn->scan_mixer_begin(t->c, &s.a, &s.batch.b, &done))) return;
    if (done != expected) {
        kt_fail(t, "done is %d", done);
        return;
    }
    if (done) kt_ok(t, t->kn->scan_mixer_end(t->c, &s.a, &s.batch.b));
    kt_array *out = s.flags & DELTA ? &s.delta : &s.residual;
    const int ld = s.flags & DELTA ? (int)s.a.ld_delta : s.hidden;
    double *p = kt_host(t, (size_t)(2 * s.channels + s.hidden) * sizeof *p),
           *row = kt_host(t, (size_t)(s.hidden + s.channels) * sizeof *row);
    double *want = kt_host(t, out->n * sizeof *want), *conv = kt_host(t, s.conv_state.n * sizeof *conv),
           *ssm = kt_host(t, s.ssm_state.n * sizeof *ssm), *mixed = kt_host(t, (size_t)s.parts * sizeof *mixed);
    memcpy(want, out->v, out->n * sizeof *want);
    memcpy(conv, s.conv_state.v, s.conv_state.n * sizeof *conv);
    memcpy(ssm, s.ssm_state.v, s.ssm_state.n * sizeof *ssm);
    const float *got = kt_fetch(t, out), *sums = kt_fetch(t, &s.mixed);
    for (int r = 0; r < s.rows && done; r++) {
        double *w = want + (size_t)r * (size_t)ld;
        reference_begin(&s, r, conv, p, mixed);
        for (int i = 0; between && i < s.parts; i++) {
            double sum = 0;
            for (int k = 0; k < slices; k++) sum += sums[(r * slices + k) * s.parts + i];
            if (!kt_near(t, PLP_F32, sum, mixed[i])) kt_fail(t, "x_proj[%d][%d] is %.9g, not %.9g", r, i, sum, mixed[i]);
        }
        reference_end(&s, r, ssm, p, mixed, row);
        for (int k = 0; k < s.hidden; k++) w[k] = row[k] + (s.flags & DELTA ? 0 : w[k]);
        kt_expect_norm(t, "a row", got + (size_t)r * (size_t)ld, w, s.hidden,
                       s.rows > KN_MIXER_ROWS ? 0x1p-8 : 2e-3); /* as in mixer_step_test.c */
    }
    kt_expect(t, "out", out, want);
    kt_expect(t, "conv state", &s.conv_state, conv);
    kt_expect(t, "ssm state", &s.ssm_state, ssm);
    if (done && s.flags & TWIN) kt_expect_twin(t, &s.twin, 2);
    if (done && s.flags & READY && !(s.flags & DELTA)) kt_expect_ready(t, KN_MIXER_WIDE, &s.ready, got, &s.next_norm);
    if (s.flags & DELTA) kt_expect(t, "residual", &s.residual, s.residual.v);
}

static void run(kt *t, const int *size)
{
    enum { SMALL = 1024 };
    if (!t->kn->scan_mixer_begin) return; /* optional */
    if (t->act != PLP_BF16 && (size[2] > SMALL || size[0] > KN_MIXER_ROWS))
        return; /* the small rows show that it leaves other types alone */
    if (!(size[5] & TWIN)) run_once(t, size, true);
    run_once(t, size, false);
}

/* Sizes it does not know are left to the other kernels, untouched. */
static void run_unknown(kt *t, const int *size)
{
    if (!t->kn->scan_mixer_begin) return;
    step s = step_make(t, size);
    kn_scan_mixer_args odd[11];
    int n = 0;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) odd[i] = s.a;
    odd[n++].rows = 9;
    odd[n].slices = 1, odd[n++].hidden = 200;
    odd[n++].channels = 32;
    odd[n].channels = 4096, odd[n++].most_channels = 4096; /* more slices than there are */
    odd[n++].most_channels = 4096;
    odd[n++].state = 12;
    odd[n++].dt_rank = 12;
    odd[n++].width = 3;
    odd[n++].hidden = 192;
    odd[n++].conv_dtype = PLP_F32;
    odd[n++].ssm_dtype = PLP_F16;
    for (int i = 0; i < n; i++) {
        bool done = true;
        kt_ok(t, t->kn->scan_mixer_begin(t->c, &odd[i], &s.batch.b, &done));
        if (done) kt_fail(t, "done for odd size %d", i);
    }
    kt_expect(t, "residual", &s.residual, s.residual.v);
    kt_expect(t, "conv state", &s.conv_state, s.conv_state.v);
    kt_expect(t, "mixed", &s.mixed, s.mixed.v);
}

/* ------------------------------------------------------------------------------------------- the same bits however it is launched */
enum { LAYERS = 3, STEPS = 3, AGAIN = 40 /* what went wrong once in 60 runs shows in most rows */ };

/* All layers over rows first .. first + rows of the batch, STEPS times, from the states as they were made. */
static bool chain(kt *t, step *s, int first, int rows, kt_array *residual)
{
    kt_put(t, residual);
    for (int l = 0; l < LAYERS; l++) {
        kt_put(t, &s[l].conv_state);
        kt_put(t, &s[l].ssm_state);
    }
    for (int n = 0; n < STEPS; n++) {
        kt_ok(t, t->kn->fill(t->c, s->work.p, 0xff, s->work.n * sizeof(float))); /* NaN; and no layer follows itself */
        for (int l = 0; l < LAYERS; l++) {
            kn_scan_mixer_args a = s[l].a;
            kn_batch b = s->batch.b;
            bool done = false;
            a.rows = b.tokens = b.seqs = b.decodes = rows;
            b.src_slot += first;
            b.dst_slot += first;
            b.past += first;
            a.residual = (float *)residual->p + first * s->hidden;
            a.mixed = s->mixed.p;
            a.work = s->work.p;
            a.is_ready = a.slices == 1 && l > 0; /* the step's first norm finds nothing */
            a.next_norm = s[(l + 1) % LAYERS].norm.p;
            a.ready = s->ready.r;
            if (!kt_ok(t, t->kn->scan_mixer_begin(t->c, &a, &b, &done)) || !done) return false;
            if (!kt_ok(t, t->kn->scan_mixer_end(t->c, &a, &b))) return false;
        }
    }
    return true;
}

/* A race would show as a difference between kernels that overlap and kernels that follow each other; and a row knows nothing of others. */
static void run_same(kt *t, const int *size)
{
    if (!t->kn->scan_mixer_begin || t->act != PLP_BF16) return;
    step s[LAYERS];
    for (int l = 0; l < LAYERS; l++) s[l] = step_make(t, size);
    for (int l = 1; l < LAYERS; l++) { /* states for the batch that all layers share */
        s[l].conv_state = kt_state(t, &s->batch, PLP_BF16, s[l].conv_state.n / (size_t)s->batch.slots);
        s[l].ssm_state = kt_state(t, &s->batch, s[l].ssm_dtype, s[l].ssm_state.n / (size_t)s->batch.slots);
        s[l].a.conv_state = s[l].conv_state.p;
        s[l].a.ssm_state = s[l].ssm_state.p;
    }
    const int n = s->rows * s->hidden;
    if (!chain(t, s, 0, s->rows, &s->residual)) {
        kt_fail(t, "not done");
        return;
    }
    const float *together = kt_fetch(t, &s->residual);
    for (int again = 0; again < AGAIN; again++) {
        setenv("PLP_PDL", again % 2 ? "1" : "0", 1);
        if (chain(t, s, 0, s->rows, &s->residual))
            kt_expect_same(t, again % 2 ? "again" : "one after the other", kt_fetch(t, &s->residual), together, n);
        unsetenv("PLP_PDL");
    }
    int alone = 1; /* in one slice, as more rows in mixer_step_test.c */
    if (s->rows > KN_MIXER_ROWS)
        for (alone = KN_MIXER_ROWS + 1; 2 * (alone - 1) < s->rows;) alone = 2 * (alone - 1) + 1;
    const int others = s->rows - alone, stride = alone > 1 && others > 0 ? others : 1;
    for (int r = 0; r <= others; r += stride)
        if (chain(t, s, r, alone, &s->residual))
            kt_expect_same(t, "with fewer", kt_fetch(t, &s->residual) + r * s->hidden, together + r * s->hidden, alone * s->hidden);
}

/* In a context sized for a Mamba-1 model, whose heads are single channels, it is known as in any other. */
static void run_context(kt *t, const int *size)
{
    if (!t->kn->scan_mixer_begin || t->act != PLP_BF16) return;
    step s = step_make(t, size);
    const kn_options options = { .act = t->act,
                                 .max_tokens = s.rows,
                                 .max_k = s.channels,
                                 .max_n = 2 * s.channels,
                                 .max_heads = s.channels,
                                 .max_dim = 1,
                                 .max_state = s.state };
    kn_context *own = NULL;
    bool done = false;
    kt_ok(t, t->kn->sync(t->c));
    if (!kt_ok(t, t->kn->create(&own, &options))) return;
    kt_ok(t, t->kn->scan_mixer_begin(own, &s.a, &s.batch.b, &done));
    if (done)
        kt_ok(t, t->kn->scan_mixer_end(own, &s.a, &s.batch.b));
    else
        kt_fail(t, "not done");
    kt_ok(t, t->kn->sync(own));
    t->kn->destroy(&own);
}

/* Two ranks, of which the second has half as many channels, add up x_proj through an exchange, several steps long.  Here they share a device
 * and take turns: `begin` sends, and only `end` waits for what the other one sent. */
static void run_ranks(kt *t, const int *size)
{
    enum { RANKS = 2 };
    if (!t->kn->scan_mixer_begin || t->act != PLP_BF16) return;
    step s[RANKS];
    kn_exchange x[RANKS];
    kt_array inbox[RANKS], count[RANKS];
    kn_context *c[RANKS] = { 0 };
    double *conv[RANKS], *ssm[RANKS], *want[RANKS], *p[RANKS], *mixed[RANKS];
    const size_t words = (size_t)(size[0] * KN_MIXER_SLICES * (size[4] + 2 * size[3]));
    for (int r = 0; r < RANKS; r++) {
        const int own[] = { size[0], size[1], size[2] / (1 + r), size[3], size[4], size[5] };
        s[r] = step_make(t, own);
        inbox[r] = kt_nan(t, PLP_F32, 2 * 2 * RANKS * words);
        count[r] = kt_nan(t, PLP_F32, 2);
        kt_ok(t, t->kn->fill(t->c, inbox[r].p, 0, inbox[r].n * sizeof(float)));
        kt_ok(t, t->kn->fill(t->c, count[r].p, 0, count[r].n * sizeof(float)));
        x[r] = (kn_exchange){ .rank = r, .size = RANKS, .words = (int64_t)words, .count = count[r].p };
        s[r].a.most_channels = size[2];
        s[r].a.mixed_exchange = &x[r];
        conv[r] = memcpy(kt_host(t, s[r].conv_state.n * sizeof(double)), s[r].conv_state.v, s[r].conv_state.n * sizeof(double));
        ssm[r] = memcpy(kt_host(t, s[r].ssm_state.n * sizeof(double)), s[r].ssm_state.v, s[r].ssm_state.n * sizeof(double));
        want[r] = memcpy(kt_host(t, s[r].delta.n * sizeof(double)), s[r].delta.v, s[r].delta.n * sizeof(double));
        p[r] = kt_host(t, (size_t)(2 * own[2] + s[r].hidden) * sizeof(double));
        mixed[r] = kt_host(t, (size_t)s[r].parts * sizeof(double));
    }
    double *sum = kt_host(t, (size_t)s->parts * sizeof *sum), *row = kt_host(t, (size_t)(s->hidden + s->channels) * sizeof *row);
    kt_ok(t, t->kn->sync(t->c));
    for (int r = 0; r < RANKS; r++) {
        const kn_options o = { .act = t->act,
                               .max_tokens = s->rows,
                               .max_k = size[2],
                               .max_n = 2 * size[2],
                               .max_heads = size[2],
                               .max_dim = 1,
                               .max_state = s->state };
        for (int q = 0; q < RANKS; q++) x[r].inbox[q] = inbox[q].p;
        if (!kt_ok(t, t->kn->create(&c[r], &o))) return;
    }
    for (int n = 0; n < STEPS; n++) { /* the same step: each is another exchange */
        for (int r = 0; r < RANKS; r++) {
            kt_put(t, &s[r].conv_state);
            kt_put(t, &s[r].ssm_state);
        }
        kt_ok(t, t->kn->sync(t->c));
        for (int r = 0; r < RANKS; r++) {
            bool done = false;
            if (!kt_ok(t, t->kn->scan_mixer_begin(c[r], &s[r].a, &s[r].batch.b, &done)) || !done) {
                kt_fail(t, "not done");
                return;
            }
            kt_ok(t, t->kn->sync(c[r]));
        }
        for (int r = 0; r < RANKS; r++) {
            kt_ok(t, t->kn->scan_mixer_end(c[r], &s[r].a, &s[r].batch.b));
            kt_ok(t, t->kn->sync(c[r]));
        }
    }
    for (int i = 0; i < s->rows; i++) {
        for (int r = 0; r < RANKS; r++) reference_begin(&s[r], i, conv[r], p[r], mixed[r]);
        for (int k = 0; k < s->parts; k++) sum[k] = mixed[0][k] + mixed[1][k];
        for (int r = 0; r < RANKS; r++) {
            memcpy(mixed[r], sum, (size_t)s->parts * sizeof *sum);
            reference_end(&s[r], i, ssm[r], p[r], mixed[r], row);
            memcpy(want[r] + (size_t)i * (size_t)s[r].a.ld_delta, row, (size_t)s->hidden * sizeof *row);
        }
    }
    for (int r = 0; r < RANKS; r++) {
        const float *got = kt_fetch(t, &s[r].delta);
        const size_t ld = (size_t)s[r].a.ld_delta;
        for (int i = 0; i < s->rows; i++) kt_expect_norm(t, "a row", got + (size_t)i * ld, want[r] + (size_t)i * ld, s->hidden, 2e-3);
        kt_expect(t, "delta", &s[r].delta, want[r]);
        kt_expect(t, "conv state", &s[r].conv_state, conv[r]);
        kt_expect(t, "ssm state", &s[r].ssm_state, ssm[r]);
        t->kn->destroy(&c[r]);
    }
}

#define STEP 8e-3, 1e-2 /* as in mixer_step_test.c */
#define WIDE 8e-3, 1e-1
const kt_case kt_scan_mixer_rows[] = {
    /* name                  run rows hidden channels state rank flags */
    { "scan_mixer.256", run, { 1, 256, 512, 16, 16, 0 }, STEP },
    { "scan_mixer.512", run, { 8, 512, 1024, 16, 32, BIASES | NORMS }, STEP },
    { "scan_mixer.130m", run, { 2, 768, 1536, 16, 48, 0 }, STEP },
    { "scan_mixer.130m.half", run, { 3, 768, 768, 16, 48, DELTA }, STEP },
    { "scan_mixer.1024.uneven", run, { 5, 1024, 832, 8, 64, NORMS | DELTA }, STEP },
    { "scan_mixer.1024.deep", run, { 3, 1024, 4096, 16, 256, NORMS }, STEP },      /* x_proj among the tiles of z */
    { "scan_mixer.1024.falcon", run, { 1, 1024, 8192, 16, 256, NORMS }, STEP },    /* falcon-mamba-7b's, but for hidden */
    { "scan_mixer.1024.eight", run, { 8, 1024, 3008, 32, 40, BF16_STATE }, STEP }, /* a last slice in part */
    { "scan_mixer.1536", run, { 4, 1536, 3072, 32, 96, BF16_STATE | BIASES }, STEP },
    { "scan_mixer.2048", run, { 7, 2048, 576, 16, 128, BARE | BIASES }, STEP },
    { "scan_mixer.2560", run, { 6, 2560, 1280, 8, 160, BF16_STATE }, STEP },
    { "scan_mixer.3072", run, { 5, 3072, 640, 16, 192, BARE }, STEP },
    { "scan_mixer.4096", run, { 8, 4096, 1088, 16, 256, NORMS | DELTA | BIASES }, STEP },
    { "scan_mixer.4096.tall", run, { 2, 4096, 3712, 16, 16, 0 }, STEP }, /* tiles that multiprocessors do not divide */
    { "scan_mixer.least", run, { 1, 256, 64, 8, 8, BARE | NORMS }, STEP },
    { "scan_mixer.wide.9", run, { 9, 256, 512, 16, 16, 0 }, WIDE },
    { "scan_mixer.wide.16", run, { 16, 768, 1536, 16, 48, BIASES }, WIDE },
    { "scan_mixer.wide.17", run, { 17, 1024, 832, 8, 64, NORMS | READY }, WIDE },
    { "scan_mixer.wide.32", run, { 32, 768, 768, 16, 48, DELTA | NORMS }, WIDE },
    { "scan_mixer.wide.33", run, { 33, 512, 3008, 32, 40, BF16_STATE | READY | BIASES }, WIDE },
    { "scan_mixer.wide.50", run, { 50, 2560, 640, 16, 160, BF16_STATE }, WIDE },
    { "scan_mixer.wide.61", run, { 61, 192, 576, 8, 8, BARE | NORMS | BIASES }, WIDE },
    { "scan_mixer.wide.64", run, { 64, 1024, 1088, 16, 256, NORMS | READY }, WIDE },
    { "scan_mixer.wide.40.falcon", run, { 40, 512, 8192, 16, 256, NORMS }, WIDE },
    { "scan_mixer.wide.long.8", run, { 61, 192, 4416, 8, 8, BARE | READY }, WIDE }, /* so many blocks that each takes more rows */
    { "scan_mixer.wide.long.32", run, { 64, 256, 4352, 32, 40, BF16_STATE | NORMS }, WIDE },
    { "scan_mixer.wide.least", run, { 12, 64, 64, 8, 8, READY }, WIDE },
    { "scan_mixer.wide.twin.9", run, { 9, 320, 320, 16, 24, TWIN }, WIDE },
    { "scan_mixer.wide.twin.30", run, { 30, 1024, 2048, 32, 64, TWIN | NORMS | READY | BIASES }, WIDE },
    { "scan_mixer.wide.twin.64", run, { 64, 2048, 1088, 16, 128, TWIN | NORMS | BF16_STATE }, WIDE },
    { "scan_mixer.wide.few.1", run, { 1, 512, 576, 16, 40, APART | NORMS }, STEP },
    { "scan_mixer.wide.few.5", run, { 5, 1024, 2048, 16, 64, APART | READY | BIASES }, STEP },
    { "scan_mixer.wide.few.twin", run, { 8, 2048, 1088, 8, 128, APART | TWIN | READY | NORMS | BF16_STATE }, STEP },
    { "scan_mixer.wide.same.few", run_same, { 7, 1024, 1088, 16, 64, APART | NORMS }, 0, 0 },
    { "scan_mixer.wide.same", run_same, { 35, 1024, 1088, 16, 64, NORMS }, 0, 0 },
    { "scan_mixer.wide.same.64", run_same, { 64, 512, 2048, 32, 48, BF16_STATE }, 0, 0 },
    { "scan_mixer.wide.same.long", run_same, { 64, 256, 4352, 16, 48, NORMS }, 0, 0 },
    { "scan_mixer.ranks", run_ranks, { 1, 1024, 4096, 16, 64, NORMS | DELTA }, STEP },
    { "scan_mixer.ranks.one_slice", run_ranks, { 5, 512, 256, 8, 40, DELTA | BIASES | BF16_STATE }, STEP },
    { "scan_mixer.ranks.all_slices", run_ranks, { 8, 256, 2048, 32, 16, NORMS | DELTA }, STEP },
    { "scan_mixer.unknown", run_unknown, { 8, 256, 512, 16, 16, 0 }, 0, 0 },
    { "scan_mixer.context", run_context, { 2, 768, 1536, 16, 48, 0 }, 0, 0 },
    { "scan_mixer.same", run_same, { 3, 1024, 8192, 16, 64, NORMS }, 0, 0 },
    { "scan_mixer.same.tall", run_same, { 3, 2048, 6144, 16, 64, NORMS }, 0, 0 },
    { "scan_mixer.same.small", run_same, { 3, 256, 512, 16, 16, BF16_STATE }, 0, 0 },
    { 0 }
};
