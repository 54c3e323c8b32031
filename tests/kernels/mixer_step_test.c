#include "kernel_test.h"

#include <stdlib.h>
#include <string.h>

/* The fused mixer of decode rows, and the fused norm and head, against float64.
 *
 * What the reference rounds to bf16 is what the kernels store between them: the normalised row before its scale, the convolution's input
 * and output, z, the gated y before its scale.  A float32 sum may fall on the other side of such a rounding, 2^-8 of one value among
 * hundreds; what depends on that value alone (an element of a state) moves as much, a sum over all of them hardly.  A wrong weight, slot,
 * group or sign is hundreds of times that. */
enum { DIM = 64, WIDTH = 4 };
enum {
    DELTA = 1,
    FOLD = 2,
    BIASES = 4,
    LIMITS = 8,
    BF16_STATE = 16,
    MID_GROUP = 32,
    NO_NORM = 64,
    UNEVEN = 128,
    BARE = 256,
    READY = 512,
    TWIN = 1024,
    SPAN = 2048
};

typedef struct {
    int rows, hidden, heads, groups, state, norm_groups, flags, inner, channels, width;
    plp_dtype ssm_dtype;
    kn_mixer_step_args a;
    kt_batch batch;
    kt_twin twin; /* TWIN */
    kt_ready ready;
    kt_array ahead, next_norm; /* READY: the norm reads what was made of `ahead`, not the residual */
    kt_array residual, delta, norm, in_proj, in_bias, conv_weight, conv_bias, A, dt_bias, D, gate, out_proj, out_bias, conv_state,
        ssm_state, work;
    int *group, *first;
} step;

static double silu(double v) { return v / (1 + exp(-v)); }
static double bf16(double v) { return kt_round(PLP_BF16, v); }

static step step_make(kt *t, const int *size)
{
    step s = {
        .rows = size[0], .hidden = size[1], .heads = size[2], .groups = size[3], .state = size[4], .norm_groups = size[5], .flags = size[6]
    };
    s.inner = s.heads * DIM;
    s.channels = s.inner + 2 * s.groups * s.state;
    s.width = s.inner + s.channels + s.heads; /* rows of in_proj */
    s.ssm_dtype = s.flags & BF16_STATE ? PLP_BF16 : PLP_F32;
    s.batch = kt_decodes(t, s.rows);
    const size_t h = (size_t)s.hidden, inner = (size_t)s.inner, channels = (size_t)s.channels, heads = (size_t)s.heads,
                 width = (size_t)s.width;
    const int ld = s.hidden + 4;
    s.residual = kt_random(t, PLP_F32, (size_t)s.rows * h, 0.3, 2);
    s.delta = kt_nan(t, PLP_F32, (size_t)(s.rows * ld));
    s.norm = kt_random(t, PLP_F32, h, 1, 0.3);
    s.in_proj = kt_random(t, PLP_BF16, width * h, 0, 1 / sqrt(s.hidden));
    s.in_bias = kt_random(t, PLP_F32, width, 0, 0.5);
    s.conv_weight = kt_random(t, PLP_F32, channels * WIDTH, 0, 0.5);
    s.conv_bias = kt_random(t, PLP_F32, channels, 0, 0.5);
    s.A = kt_nan(t, PLP_F32, heads);
    for (size_t i = 0; i < heads; i++) s.A.v[i] = -kt_uniform(t, 0.5, 8);
    kt_put(t, &s.A);
    s.dt_bias = kt_random(t, PLP_F32, heads, -1, 2);
    s.D = kt_random(t, PLP_F32, heads, 1, 0.5);
    s.gate = kt_random(t, PLP_F32, inner, 1, 0.3);
    s.out_proj = kt_random(t, PLP_BF16, h * inner, 0, 1 / sqrt(s.inner));
    s.out_bias = kt_random(t, PLP_F32, h, 0, 1);
    s.conv_state = kt_state(t, &s.batch, PLP_BF16, (WIDTH - 1) * channels);
    s.ssm_state = kt_state(t, &s.batch, s.ssm_dtype, inner * (size_t)s.state);
    s.group = kt_host(t, heads * sizeof *s.group);
    for (int i = 0; i < s.heads; i++) /* MID_GROUP: this rank's heads begin inside the first group, as head 2 of 3 ranks' would */
        s.group[i] = s.flags & MID_GROUP ? (i + s.heads / (2 * s.groups)) * s.groups / (s.heads + s.heads / (2 * s.groups))
                                         : i * s.groups / s.heads;
    s.first = kt_host(t, (size_t)(s.norm_groups + 1) * sizeof *s.first);
    for (int g = 0; g <= s.norm_groups; g++) s.first[g] = g * s.heads / s.norm_groups * DIM;
    for (int g = 1; g < s.norm_groups && s.flags & UNEVEN; g++) s.first[g] = (g * s.heads / (s.norm_groups + 1) + 1) * DIM;
    const bool biases = s.flags & BIASES, limits = s.flags & LIMITS, bare = s.flags & BARE;
    s.a = (kn_mixer_step_args){ .rows = s.rows,
                                .hidden = s.hidden,
                                .heads = s.heads,
                                .groups = s.groups,
                                .dim = DIM,
                                .state = s.state,
                                .width = WIDTH,
                                .residual = s.residual.p,
                                .delta = s.flags & DELTA ? s.delta.p : NULL,
                                .ld_delta = ld,
                                .fold = s.flags & FOLD,
                                .norm_weight = s.norm.p,
                                .norm_eps = 1e-5,
                                .in_proj = s.in_proj.p,
                                .in_bias = biases ? s.in_bias.p : NULL,
                                .conv_weight = s.conv_weight.p,
                                .conv_bias = bare ? NULL : s.conv_bias.p,
                                .A = s.A.p,
                                .dt_bias = s.dt_bias.p,
                                .D = bare ? NULL : s.D.p,
                                .dt_min = limits ? 0.1f : 0,
                                .dt_max = limits ? 0.5f : INFINITY,
                                .gate_weight = s.flags & NO_NORM ? NULL : s.gate.p,
                                .gate_first = s.first,
                                .gate_groups = s.norm_groups,
                                .gate_width = (s.flags & FOLD ? 2.0 : 1.0) * s.inner / s.norm_groups,
                                .gate_eps = 1e-5,
                                .out_proj = s.out_proj.p,
                                .out_bias = biases ? s.out_bias.p : NULL,
                                .w_dtype = PLP_BF16,
                                .group = kt_upload(t, s.group, heads * sizeof *s.group),
                                .conv_state = s.conv_state.p,
                                .ssm_state = s.ssm_state.p,
                                .conv_dtype = PLP_BF16,
                                .ssm_dtype = s.ssm_dtype };
    s.ahead = s.residual;
    s.next_norm = kt_random(t, PLP_F32, h, 1, 0.3);
    if (s.flags & READY) s.ahead = kt_random(t, PLP_F32, (size_t)s.rows * h, 0.1, 1);
    s.ready = kt_ready_make(t, s.rows, &s.ahead, &s.norm);
    if (s.flags & READY) s.a.is_ready = true, s.a.next_norm = s.next_norm.p, s.a.ready = s.ready.r;
    s.work = kt_nan(t, PLP_F32, t->kn->mixer_step_work(&s.a) / sizeof(float));
    s.a.work = s.work.p;
    return s;
}

/* One row of the batch: updates the states in conv and ssm (mirrors of the backend's), writes the mixer's output and sum(v^2). */
static void reference(const step *s, int r, double *conv, double *ssm, double *out, double *squares, double *p, double *v)
{
    const int H = s->hidden, I = s->inner, C = s->channels, N = s->state, src = s->batch.src[r], dst = s->batch.dst[r];
    const bool fresh = s->batch.past[r] == 0;
    const double *res = s->ahead.v + (size_t)r * (size_t)H;
    double mean = 0;
    double *normed = out; /* until the output is computed */
    for (int k = 0; k < H; k++) {
        mean += res[k] * res[k] / H;
        normed[k] = bf16(res[k] * s->norm.v[k]);
    }
    for (int i = 0; i < s->width; i++) {
        double sum = 0;
        for (int k = 0; k < H; k++) sum += s->in_proj.v[(size_t)i * (size_t)H + (size_t)k] * normed[k];
        p[i] = sum / sqrt(mean + s->a.norm_eps) + (s->a.in_bias ? s->in_bias.v[i] : 0);
    }
    const double *old = conv + (size_t)src * 3 * (size_t)C;
    double *next = conv + (size_t)dst * 3 * (size_t)C;
    for (int c = 0; c < C; c++) {
        const double *w = s->conv_weight.v + (size_t)c * WIDTH;
        const double x[WIDTH] = { fresh ? 0 : old[c], fresh ? 0 : old[C + c], fresh ? 0 : old[2 * C + c], bf16(p[I + c]) };
        double o = s->a.conv_bias ? s->conv_bias.v[c] : 0;
        for (int k = 0; k < WIDTH; k++) o += w[k] * x[k];
        for (int k = 0; k < WIDTH - 1; k++) next[k * C + c] = x[k + 1];
        p[I + c] = bf16(silu(o));
    }
    for (int h = 0; h < s->heads; h++) {
        const double raw = p[I + C + h] + s->dt_bias.v[h], soft = raw > 20 ? raw : log1p(exp(raw));
        const double dt = fmin(fmax(soft, s->a.dt_min), s->a.dt_max), decay = exp(dt * s->A.v[h]);
        const double *B = p + 2 * I + s->group[h] * N, *Cs = B + s->groups * N;
        for (int j = h * DIM; j < (h + 1) * DIM; j++) {
            const double *from = ssm + ((size_t)src * (size_t)I + (size_t)j) * (size_t)N, x = p[I + j];
            double *to = ssm + ((size_t)dst * (size_t)I + (size_t)j) * (size_t)N, y = s->a.D ? s->D.v[h] * x : 0;
            for (int k = 0; k < N; k++) {
                to[k] = (fresh ? 0 : decay * from[k]) + dt * x * B[k];
                y += to[k] * Cs[k];
            }
            v[j] = y * silu(bf16(p[j]));
        }
    }
    *squares = 0;
    for (int g = 0; g < s->norm_groups; g++) {
        double sum = 0;
        for (int j = s->first[g]; j < s->first[g + 1]; j++) sum += v[j] * v[j];
        *squares += sum;
        const bool norm = s->a.gate_weight != NULL;
        if (s->flags & SPAN) sum *= 2; /* the twin's part of the group */
        const double scale = norm && !s->a.fold             ? 1 / sqrt(sum / s->a.gate_width + s->a.gate_eps)
                             : s->a.fold && s->flags & TWIN ? 1 / sqrt(2 * sum / s->a.gate_width + s->a.gate_eps)
                                                            : 1;
        for (int j = s->first[g]; j < s->first[g + 1]; j++) v[j] = scale * bf16(v[j] * (norm ? s->gate.v[j] : 1));
    }
    for (int k = 0; k < H; k++) {
        double sum = 0;
        for (int j = 0; j < I; j++) sum += s->out_proj.v[(size_t)k * (size_t)I + (size_t)j] * v[j];
        out[k] = (s->flags & TWIN ? 2 : 1) * sum + (s->a.out_bias ? s->out_bias.v[k] : 0);
    }
}

static void meet_twin(kt *t, step *s)
{
    kt_twin_make(t, &s->twin);
    s->a.exchange = &s->twin.x;
    s->a.most_heads = s->heads;
    if (s->flags & SPAN) s->a.all_groups = s->norm_groups + 3, s->a.group_first = 1; /* and others that neither has */
}

static void run(kt *t, const int *size)
{
    if (!t->kn->mixer_step) return;                /* optional */
    if (size[0] > 8 && t->act != PLP_BF16) return; /* few rows show what other types get */
    step s = step_make(t, size);
    if (s.flags & TWIN) meet_twin(t, &s);
    const bool to_delta = s.flags & DELTA, expected = t->act == PLP_BF16;
    bool done = !expected;
    const bool known = t->kn->mixer_step_knows(t->c, &s.a, &s.batch.b);
    if (!kt_ok(t, t->kn->mixer_step(t->c, &s.a, &s.batch.b, &done))) return;
    if (known != expected) kt_fail(t, "known is %d", known);
    if (done != expected) {
        kt_fail(t, "done is %d", done);
        return;
    }
    kt_array *out = to_delta ? &s.delta : &s.residual;
    const int ld = to_delta ? (int)s.a.ld_delta : s.hidden;
    const size_t row = (size_t)s.hidden * sizeof(double);
    double *p = kt_host(t, (size_t)s.width * sizeof *p), *v = kt_host(t, (size_t)s.inner * sizeof *v), *mixed = kt_host(t, row);
    double *want = kt_host(t, out->n * sizeof *want), *conv = kt_host(t, s.conv_state.n * sizeof *conv),
           *ssm = kt_host(t, s.ssm_state.n * sizeof *ssm);
    memcpy(want, out->v, out->n * sizeof *want);
    memcpy(conv, s.conv_state.v, s.conv_state.n * sizeof *conv);
    memcpy(ssm, s.ssm_state.v, s.ssm_state.n * sizeof *ssm);
    const float *got = kt_fetch(t, out);
    const double limit = s.rows > 8 ? 0x1p-8 : 2e-3; /* of many rows, one is ruled by a single v, and that by its rounding */
    for (int r = 0; r < s.rows && done; r++) {
        double squares, *w = want + (size_t)r * (size_t)ld;
        reference(&s, r, conv, ssm, mixed, &squares, p, v);
        for (int k = 0; k < s.hidden; k++) w[k] = mixed[k] + (to_delta ? 0 : w[k]);
        if (s.a.fold && to_delta) w[s.hidden] = squares;
        kt_expect_norm(t, "a row", got + (size_t)r * (size_t)ld, w, s.hidden, limit);
    }
    kt_expect(t, "out", out, want);
    kt_expect(t, "conv state", &s.conv_state, conv);
    kt_expect(t, "ssm state", &s.ssm_state, ssm);
    if (to_delta) kt_expect(t, "residual", &s.residual, s.residual.v);
    if (done && s.flags & TWIN) kt_expect_twin(t, &s.twin, 1);
    if (done && !to_delta && s.flags & READY) kt_expect_ready(t, s.rows, &s.ready, got, &s.next_norm);
}

/* Sizes it does not know are left to the other kernels, untouched. */
static void run_unknown(kt *t, const int *size)
{
    if (!t->kn->mixer_step) return;
    step s = step_make(t, size);
    kn_mixer_step_args odd[8];
    int n = 0;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) odd[i] = s.a;
    odd[n++].rows = 9;
    odd[n++].dim = 32;
    odd[n++].state = 96;
    odd[n++].width = 3;
    odd[n++].hidden = 192;
    odd[n++].conv_dtype = PLP_F32;
    odd[n++].ssm_dtype = PLP_F16;
    odd[n++].w_dtype = PLP_F32;
    for (int i = 0; i < n; i++) {
        bool done = true;
        kt_ok(t, t->kn->mixer_step(t->c, &odd[i], &s.batch.b, &done));
        if (done || t->kn->mixer_step_knows(t->c, &odd[i], &s.batch.b)) kt_fail(t, "done for odd size %d", i);
    }
    kt_expect(t, "residual", &s.residual, s.residual.v);
    kt_expect(t, "ssm state", &s.ssm_state, s.ssm_state.v);
}

/* ------------------------------------------------------------------------------------------- the same bits however it is launched */
enum { LAYERS = 5, STEPS = 3, AGAIN = 12, OFTEN = 60 };

/* All layers over rows first .. first + rows of the batch, STEPS times, from the states as they were made. */
static bool chain(kt *t, step *s, int layers, int first, int rows, kt_array *residual)
{
    kt_put(t, residual);
    for (int l = 0; l < layers; l++) {
        kt_put(t, &s[l].conv_state);
        kt_put(t, &s[l].ssm_state);
    }
    for (int n = 0; n < STEPS; n++) {
        kt_ok(t, t->kn->fill(t->c, s->work.p, 0xff, s->work.n * sizeof(float))); /* NaN; and no layer follows itself */
        for (int l = 0; l < layers; l++) {
            kn_mixer_step_args a = s[l].a;
            kn_batch b = s->batch.b;
            bool done = false;
            a.rows = b.tokens = b.seqs = b.decodes = rows;
            b.src_slot += first;
            b.dst_slot += first;
            b.past += first;
            a.residual = (float *)residual->p + first * s->hidden;
            a.work = s->work.p;
            a.is_ready = rows >= KN_READY_ROWS && l > 0; /* the step's first norm finds nothing */
            a.next_norm = s[(l + 1) % layers].norm.p;
            a.ready = s->ready.r;
            if (!kt_ok(t, t->kn->mixer_step(t->c, &a, &b, &done)) || !done) return false;
        }
    }
    return true;
}

/* A race would show as a difference between kernels that overlap and kernels that follow each other; and a row knows nothing of others.
 * One layer, often: its weights come from L2, so soon that a refill overtook reads of what it replaces, once in about a hundred steps. */
static void run_same(kt *t, const int *size)
{
    if (!t->kn->mixer_step || t->act != PLP_BF16) return;
    step s[LAYERS];
    const int layers = size[7] ? size[7] : LAYERS, often = layers == 1 ? OFTEN : AGAIN;
    for (int l = 0; l < layers; l++) s[l] = step_make(t, size);
    for (int l = 1; l < layers; l++) { /* states for the batch that all layers share */
        s[l].conv_state = kt_state(t, &s->batch, PLP_BF16, s[l].conv_state.n / (size_t)s->batch.slots);
        s[l].ssm_state = kt_state(t, &s->batch, s[l].ssm_dtype, s[l].ssm_state.n / (size_t)s->batch.slots);
        s[l].a.conv_state = s[l].conv_state.p;
        s[l].a.ssm_state = s[l].ssm_state.p;
    }
    const int n = s->rows * s->hidden;
    if (!chain(t, s, layers, 0, s->rows, &s->residual)) return;
    const float *together = kt_fetch(t, &s->residual);
    for (int again = 0; again < often; again++) {
        setenv("PLP_PDL", again % 2 ? "1" : "0", 1);
        if (chain(t, s, layers, 0, s->rows, &s->residual))
            kt_expect_same(t, again % 2 ? "again" : "one after the other", kt_fetch(t, &s->residual), together, n);
        unsetenv("PLP_PDL");
    }
    /* Kernels for few rows and for many sum in different orders; of the latter, those for the same power of two of rows sum alike (of states, those
     * of 128 in float32 always).  From KN_READY_ROWS on the norm's squares are added up by blocks of the mixer before. */
    int alone = s->rows >= KN_READY_ROWS ? KN_READY_ROWS : 1;
    if (s->rows > 8)
        for (alone = 9; 2 * (alone - 1) < s->rows;) alone = 2 * (alone - 1) + 1;
    const int others = s->rows - alone, stride = s->rows > 8 && others > 0 ? others : 1; /* of many: from the first and from the last */
    for (int r = 0; r <= others; r += stride)
        if (chain(t, s, layers, r, alone, &s->residual))
            kt_expect_same(t, "with fewer", kt_fetch(t, &s->residual) + r * s->hidden, together + r * s->hidden, alone * s->hidden);
}

/* ------------------------------------------------------------------------------------------------------------- norm and lm_head */
static void run_head(kt *t, const int *size)
{
    if (!t->kn->norm_linear) return;
    const int rows = size[0], hidden = size[1], n = size[2], held = rows + 3, ld = n + 2;
    const bool mapped = size[3], ready = size[4], expected = t->act == PLP_BF16;
    const kt_array residual = kt_random(t, PLP_F32, (size_t)(held * hidden), 0.3, 2),
                   w = kt_random(t, PLP_BF16, (size_t)n * (size_t)hidden, 0, 1 / sqrt(hidden));
    const kt_array y = kt_nan(t, PLP_F32, (size_t)(rows * ld));
    const kt_array norm = kt_random(t, PLP_F32, (size_t)hidden, 1, 0.3);
    const kt_array ahead = ready ? kt_random(t, PLP_F32, residual.n, 0.1, 1) : residual; /* what is ready was made of it */
    int *map = kt_host(t, (size_t)rows * sizeof *map);
    bool done = !expected;
    for (int r = 0; r < rows; r++) map[r] = mapped ? kt_below(t, held) : r;
    const kn_norm_linear_args a = { .rows = rows,
                                    .n = n,
                                    .hidden = hidden,
                                    .residual = residual.p,
                                    .map = mapped ? kt_upload(t, map, (size_t)rows * sizeof *map) : NULL,
                                    .weight = norm.p,
                                    .ready = ready ? kt_ready_make(t, rows, &ahead, &norm).r : (kn_ready){ 0 },
                                    .eps = 1e-5,
                                    .w = w.p,
                                    .w_dtype = PLP_BF16,
                                    .y = y.p,
                                    .ld_y = ld };
    if (!kt_ok(t, t->kn->norm_linear(t->c, &a, &done))) return;
    if (done != expected) kt_fail(t, "done is %d", done);
    double *want = kt_host(t, y.n * sizeof *want);
    memcpy(want, y.v, y.n * sizeof *want);
    for (int r = 0; r < rows && done; r++) {
        const double *res = ahead.v + (size_t)map[r] * (size_t)hidden;
        double mean = 0;
        for (int k = 0; k < hidden; k++) mean += res[k] * res[k] / hidden;
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int k = 0; k < hidden; k++) sum += w.v[(size_t)i * (size_t)hidden + (size_t)k] * bf16(res[k] * norm.v[k]);
            want[r * ld + i] = sum / sqrt(mean + a.eps);
        }
    }
    kt_expect(t, "y", &y, want);
}

#define STEP 8e-3, 1e-2 /* two roundings to bf16 of values about 1, for single values; rows as a whole within 2e-3 */
/* The same, where there are so many values that the largest of all deviations is meant: a flipped rounding of x by a large dt and B in a
 * state. */
#define WIDE 8e-3, 1e-1
const kt_case kt_mixer_step_rows[] = {
    /* name                     run  rows hidden heads groups state norm_groups flags */
    { "mixer_step.256", run, { 1, 256, 8, 1, 64, 1, 0 }, STEP },
    { "mixer_step.512", run, { 8, 512, 16, 2, 64, 2, BIASES }, STEP },
    { "mixer_step.130m", run, { 2, 768, 24, 1, 128, 1, 0 }, STEP },
    { "mixer_step.130m.half", run, { 3, 768, 12, 1, 128, 1, DELTA | FOLD }, STEP },
    { "mixer_step.1024.uneven", run, { 5, 1024, 13, 3, 128, 3, UNEVEN | MID_GROUP }, STEP },
    { "mixer_step.1536", run, { 4, 1536, 10, 2, 64, 5, DELTA | LIMITS | BF16_STATE }, STEP },
    { "mixer_step.2048", run, { 7, 2048, 9, 1, 128, 1, LIMITS | BIASES | BARE }, STEP },
    { "mixer_step.2560", run, { 6, 2560, 20, 1, 128, 1, BF16_STATE }, STEP },
    { "mixer_step.3072", run, { 1, 3072, 5, 5, 64, 5, NO_NORM | DELTA }, STEP },
    { "mixer_step.4096", run, { 8, 4096, 16, 8, 128, 8, 0 }, STEP },
    { "mixer_step.4096.one", run, { 1, 4096, 11, 4, 128, 1, DELTA | FOLD | MID_GROUP | BF16_STATE }, STEP },
    { "mixer_step.one_head", run, { 8, 256, 1, 1, 64, 1, BARE }, STEP },
    { "mixer_step.many_heads", run, { 8, 256, 256, 1, 64, 32, 0 }, STEP },
    { "mixer_step.ready.1024", run, { 3, 1024, 16, 2, 128, 2, READY }, STEP },
    { "mixer_step.ready.delta", run, { 4, 768, 12, 1, 128, 1, DELTA | FOLD | READY }, STEP },
    { "mixer_step.ready.2560", run, { 5, 2560, 20, 1, 128, 1, BIASES | READY }, STEP },
    { "mixer_step.ready.4096", run, { 8, 4096, 16, 8, 128, 8, READY }, STEP },
    { "mixer_step.twin.1", run, { 1, 2560, 9, 1, 128, 1, TWIN | FOLD }, STEP },
    { "mixer_step.twin.8", run, { 8, 1024, 16, 2, 128, 2, TWIN | READY | BIASES }, STEP },
    { "mixer_step.twin.span", run, { 7, 1536, 10, 2, 64, 5, TWIN | SPAN | UNEVEN }, STEP },
    { "mixer_step.twin.span.one", run, { 1, 4096, 11, 4, 128, 1, TWIN | SPAN | MID_GROUP }, STEP },
    { "mixer_step.wide.twin.9", run, { 9, 320, 5, 5, 64, 5, TWIN | NO_NORM }, WIDE },
    { "mixer_step.wide.twin.20", run, { 20, 768, 12, 1, 128, 1, TWIN | FOLD | READY | BIASES }, WIDE },
    { "mixer_step.wide.twin.64", run, { 64, 4096, 8, 2, 128, 4, TWIN | READY }, WIDE },
    { "mixer_step.wide.9", run, { 9, 256, 8, 1, 64, 1, 0 }, WIDE },
    { "mixer_step.wide.16", run, { 16, 768, 12, 1, 128, 1, BIASES }, WIDE },
    { "mixer_step.wide.17", run, { 17, 1024, 13, 3, 128, 3, UNEVEN | MID_GROUP | LIMITS }, WIDE },
    { "mixer_step.wide.32", run, { 32, 768, 12, 1, 128, 1, DELTA | FOLD }, WIDE },
    { "mixer_step.wide.33", run, { 33, 1536, 10, 2, 64, 5, DELTA | LIMITS | BF16_STATE }, WIDE },
    { "mixer_step.wide.50", run, { 50, 2560, 6, 1, 128, 1, BF16_STATE }, WIDE },
    { "mixer_step.wide.64", run, { 64, 2048, 6, 2, 128, 3, 0 }, WIDE },
    { "mixer_step.wide.ready.10", run, { 10, 192, 6, 1, 64, 1, READY | BIASES }, WIDE },
    { "mixer_step.wide.ready.19", run, { 19, 1024, 13, 1, 128, 1, READY | UNEVEN }, WIDE },
    { "mixer_step.wide.ready.64", run, { 64, 4096, 8, 2, 128, 4, READY | BF16_STATE }, WIDE },
    { "mixer_step.wide.ready.delta", run, { 40, 768, 12, 1, 128, 1, READY | DELTA | FOLD }, WIDE },
    { "mixer_step.wide.61", run, { 61, 192, 9, 1, 128, 1, LIMITS | BIASES | BARE }, WIDE },
    { "mixer_step.wide.63", run, { 63, 320, 5, 5, 64, 5, NO_NORM | DELTA }, WIDE },
    { "mixer_step.wide.tall", run, { 20, 256, 4, 110, 128, 1, BIASES }, WIDE }, /* rows of in_proj for 4 warpgroups */
    { "mixer_step.wide.one_head", run, { 40, 256, 1, 1, 64, 1, BARE }, WIDE },
    { "mixer_step.wide.many_heads", run, { 9, 256, 130, 1, 64, 10, BF16_STATE }, WIDE },
    { "mixer_step.wide.sweep", run, { 64, 256, 17, 3, 128, 5, UNEVEN | LIMITS }, WIDE },
    { "mixer_step.wide.sweep.64", run, { 64, 256, 35, 2, 64, 5, BARE | NO_NORM }, WIDE },
    { "mixer_step.wide.sweep.bf16", run, { 64, 256, 35, 1, 128, 1, BF16_STATE | DELTA | FOLD }, WIDE },
    { "mixer_step.wide.sweep.bf16.64", run, { 64, 256, 70, 1, 64, 10, BF16_STATE }, WIDE },
    { "mixer_step.wide.same", run_same, { 35, 1024, 4, 2, 64, 2, 0 }, 0, 0 },
    { "mixer_step.wide.same.sweep", run_same, { 64, 256, 17, 1, 128, 1, 0 }, 0, 0 },
    { "mixer_step.wide.same.64", run_same, { 64, 512, 5, 1, 128, 5, BF16_STATE }, 0, 0 },
    { "mixer_step.unknown", run_unknown, { 8, 256, 4, 1, 64, 1, 0 }, 0, 0 },
    { "mixer_step.same", run_same, { 8, 1024, 16, 2, 128, 2, 0 }, 0, 0 },
    { "mixer_step.same.l2", run_same, { 8, 4096, 16, 8, 128, 8, 0, 1 }, 0, 0 },
    { "mixer_step.same.l2.one", run_same, { 1, 2560, 40, 1, 128, 1, 0, 1 }, 0, 0 },
    { "mixer_step.same.two", run_same, { 2, 1024, 16, 2, 128, 2, 0 }, 0, 0 },
    { "mixer_step.same.wide", run_same, { 3, 4096, 8, 1, 128, 1, BF16_STATE }, 0, 0 },
    { "norm_linear.256", run_head, { 1, 256, 1, false }, 1e-3, 1e-3 },
    { "norm_linear.768", run_head, { 8, 768, 2777, true }, 1e-3, 1e-3 },
    { "norm_linear.2560", run_head, { 3, 2560, 1003, true }, 1e-3, 1e-3 },
    { "norm_linear.4096", run_head, { 5, 4096, 1100, false }, 1e-3, 1e-3 },
    { "norm_linear.ready.3", run_head, { 3, 1024, 777, true, true }, 1e-3, 1e-3 },
    { "norm_linear.ready.8", run_head, { 8, 2560, 1003, false, true }, 1e-3, 1e-3 },
    { 0 }
};
