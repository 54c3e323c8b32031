/* kn->ssd_conv against kn->conv and kn->ssd, to the bit: those answer to float64 in files of their own. */
#include "kernel_test.h"

#include <string.h>

enum { DIM = 64, CHUNK = 64, WIDTH = 4, PAD = 8 };
enum { BIAS = 1, SKIP = 2, SICK = 4 }; /* flags: the convolution has a bias; D x is added; the input of every third sequence is NaN */

/* Slices that begin anywhere in a chunk, among its last three rows too, so that the next chunk's window reaches before them; with less past
 * than a window holds; shorter than it; beside decode rows; and long ones, that are cut up. */
enum { SHORT, CHUNKS, LONG, TWO, MANY, WIDE };
static kt_batch batch(kt *t, int pattern)
{
    static const struct {
        int decodes, seqs, length[20];
        int64_t past[20];
    } mix[] = {
        [SHORT] = { 3, 14, { 1, 1, 1, 1, 2, 3, 1, 2, 3, 5, 4, 1, 70, 66 }, { 9, 0, 2, 0, 0, 0, 1, 2, 1, 62, 63, 127, 61, 126 } },
        [CHUNKS] = { 1, 8, { 1, 63, 64, 65, 130, 129, 128, 200 }, { 5, 0, 64, 1, 63, 62, 61, 2 } },
        [LONG] = { 2, 3, { 1, 1, 1000 }, { 0, 7, 63 } },
        [TWO] = { 0, 2, { 700, 300 }, { 0, ((int64_t)1 << 20) + 62 } },
        [MANY] = { 0,
                   16,
                   { 65, 64, 63, 1, 2, 3, 33, 127, 128, 129, 64, 64, 3, 2, 1, 90 },
                   { 1, 2, 3, 1, 2, 0, 62, 63, 0, 61, 2, 125, 64, 0, 0, 1 } },
        [WIDE] = { 1, 3, { 1, 1600, 70 }, { 5, 126, 1 } },
    };
    return kt_sequences(t, mix[pattern].decodes, mix[pattern].seqs, mix[pattern].length, mix[pattern].past);
}

/* What one way of computing reads and writes. */
typedef struct {
    kt_array out, y, conv_state, h;
    kn_conv_args conv;
    kn_ssm_args ssm;
} way;

typedef struct {
    kt_batch b;
    int heads, channels, ld_out, ld_y;
    size_t conv_slot, slot; /* elements of a slot of the states */
    int flags, *snap_start, *snap_slot, snaps;
    way apart;
} setup;

static bool is_sick(const setup *s, int seq) { return s->flags & SICK && seq % 3 == 1; }

static kt_array copy_of(kt *t, const kt_array *a)
{
    kt_array copy = kt_nan(t, a->dtype, a->n);
    memcpy(copy.v, a->v, a->n * sizeof *a->v);
    kt_put(t, &copy);
    return copy;
}

static void point(const setup *s, way *w)
{
    const size_t size = plp_dtype_size(w->out.dtype), inner = (size_t)(s->heads * DIM), bc = (size_t)(w->ssm.groups * w->ssm.state);
    w->conv.out = w->out.p, w->conv.state = w->conv_state.p;
    w->ssm.x = w->out.p, w->ssm.B = (char *)w->out.p + inner * size, w->ssm.C = (char *)w->out.p + (inner + bc) * size;
    w->ssm.h = w->h.p, w->ssm.y = w->y.p;
}

static way again(kt *t, const setup *s)
{
    way w = s->apart;
    w.out = copy_of(t, &w.out), w.y = copy_of(t, &w.y), w.conv_state = copy_of(t, &w.conv_state), w.h = copy_of(t, &w.h);
    point(s, &w);
    return w;
}

static setup make(kt *t, const int *size)
{
    const int groups = size[1], state = size[2], block = size[4] * CHUNK, flags = size[5];
    setup s = { .b = batch(t, size[3]), .heads = size[0], .flags = flags };
    const int inner = s.heads * DIM, tokens = s.b.b.tokens;
    s.channels = inner + 2 * groups * state, s.ld_out = s.channels + PAD, s.ld_y = inner + PAD;
    s.conv_slot = (size_t)((WIDTH - 1) * s.channels), s.slot = (size_t)(inner * state);
    s.snap_start = kt_host(t, (size_t)(s.b.b.seqs + 1) * sizeof *s.snap_start);
    s.snap_slot = kt_host(t, (size_t)tokens * sizeof *s.snap_slot);
    for (int i = 0; i < s.b.b.seqs; i++) {
        const int64_t end = s.b.past[i] + s.b.start[i + 1] - s.b.start[i];
        for (int64_t at = block ? s.b.past[i] / block + 1 : 0; block && i >= s.b.b.decodes && at * block <= end; at++, s.snaps++)
            s.snap_slot[s.snaps] = s.snaps % 3 == 1 ? -1 : s.b.slots++; /* slots behind the others */
        s.snap_start[i + 1] = s.snaps;
    }
    kt_array in = kt_matrix(t, t->act, tokens, s.channels, s.channels + PAD, 1);
    const kt_array dt = kt_matrix(t, t->act, tokens, s.heads, s.heads + 3, 1);
    for (int i = 0; i < s.b.b.seqs; i++)
        for (int j = s.b.start[i] * (s.channels + PAD); is_sick(&s, i) && j < s.b.start[i + 1] * (s.channels + PAD); j++) in.v[j] = NAN;
    kt_put(t, &in);
    const kt_array weight = kt_random(t, PLP_F32, (size_t)(s.channels * WIDTH), 0, 0.5);
    const kt_array bias = kt_random(t, PLP_F32, (size_t)s.channels, 0, 1), D = kt_random(t, PLP_F32, (size_t)s.heads, 1, 0.5);
    const kt_array dt_bias = kt_random(t, PLP_F32, (size_t)s.heads, -1, 1);
    kt_array A = kt_random(t, PLP_F32, (size_t)s.heads, 0, 1);
    for (int i = 0; i < s.heads; i++) A.v[i] = -exp(kt_uniform(t, -2, 1));
    kt_put(t, &A);
    int *group = kt_host(t, (size_t)s.heads * sizeof *group); /* a rank that starts in the middle of a group */
    const int per_group = (s.heads + groups - 1) / groups, missing = groups > 1 ? per_group / 2 : 0;
    for (int i = 0; i < s.heads; i++) group[i] = (i + missing) / per_group < groups ? (i + missing) / per_group : groups - 1;

    way *w = &s.apart;
    w->out = kt_nan(t, t->act, (size_t)(tokens * s.ld_out)), w->y = kt_nan(t, t->act, (size_t)(tokens * s.ld_y));
    w->conv_state = kt_state(t, &s.b, (plp_dtype)size[6], s.conv_slot), w->h = kt_state(t, &s.b, (plp_dtype)size[7], s.slot);
    w->conv = (kn_conv_args){ .channels = s.channels,
                              .width = WIDTH,
                              .in = in.p,
                              .ld_in = s.channels + PAD,
                              .weight = weight.p,
                              .bias = flags & BIAS ? bias.p : NULL,
                              .state_dtype = (plp_dtype)size[6],
                              .ld_out = s.ld_out,
                              .block = block,
                              .snap_start = s.snap_start,
                              .snap_slot = s.snap_slot };
    w->ssm = (kn_ssm_args){ .heads = s.heads,
                            .groups = groups,
                            .dim = DIM,
                            .state = state,
                            .chunk = CHUNK,
                            .group = kt_upload(t, group, (size_t)s.heads * sizeof *group),
                            .host_group = group,
                            .dt = dt.p,
                            .ld_x = s.ld_out,
                            .ld_bc = s.ld_out,
                            .ld_dt = s.heads + 3,
                            .A = A.p,
                            .dt_bias = dt_bias.p,
                            .D = flags & SKIP ? D.p : NULL,
                            .dt_max = INFINITY,
                            .state_dtype = (plp_dtype)size[7],
                            .ld_y = s.ld_y,
                            .block = block,
                            .snap_start = s.snap_start,
                            .snap_slot = s.snap_slot };
    point(&s, w);
    return s;
}

static char *bytes_of(kt *t, const kt_array *a)
{
    const size_t bytes = a->n * plp_dtype_size(a->dtype);
    char *there = kt_host(t, bytes);
    kt_ok(t, t->kn->to_host(t->c, there, a->p, bytes));
    kt_ok(t, t->kn->sync(t->c));
    return there;
}

typedef struct {
    const char *what;
    plp_dtype dtype;
    const char *one, *other;
} pair;
static pair fetch(kt *t, const char *what, const kt_array *one, const kt_array *other)
{
    return (pair){ what, one->dtype, bytes_of(t, one), bytes_of(t, other) };
}
/* `n` elements from `at` on are the same bits; unless `any`, they are finite. */
static void expect(kt *t, const pair *p, size_t at, size_t n, bool any)
{
    const size_t size = plp_dtype_size(p->dtype);
    for (size_t i = at; i < at + n; i++) {
        float one, other;
        plp_convert(&one, PLP_F32, p->one + i * size, p->dtype, 1);
        plp_convert(&other, PLP_F32, p->other + i * size, p->dtype, 1);
        const bool same = memcmp(p->one + i * size, p->other + i * size, size) == 0;
        if (!same || (!any && !isfinite(one))) kt_fail(t, "%s[%zu] is %.9g, apart %.9g", p->what, i, other, one);
    }
}

static bool known(kt *t, const way *w, const kn_batch *b) { return t->kn->ssd_conv && t->kn->ssd_conv_knows(t->c, &w->conv, &w->ssm, b); }

static void run(kt *t, const int *size)
{
    const bool expected = t->kn != kn_cpu() && t->act == PLP_BF16;
    if (!expected && size[3] == WIDE) return; /* much to make for little: other rows ask whether it is known */
    const setup s = make(t, size);
    const kn_batch *b = &s.b.b;
    const way *one = &s.apart, two = again(t, &s);
    if (known(t, &two, b) != expected) kt_fail(t, "known is %d", !expected);
    if (!expected) return;
    if (!kt_ok(t, t->kn->conv(t->c, &one->conv, b)) || !kt_ok(t, t->kn->ssd(t->c, &one->ssm, b))) return;
    if (!kt_ok(t, t->kn->ssm_step(t->c, &one->ssm, b))) return;
    if (!kt_ok(t, t->kn->ssd_conv(t->c, &two.conv, &two.ssm, b)) || !kt_ok(t, t->kn->ssm_step(t->c, &two.ssm, b))) return;

    const size_t inner = (size_t)(s.heads * DIM), channels = (size_t)s.channels;
    const pair y = fetch(t, "y", &one->y, &two.y), h = fetch(t, "h", &one->h, &two.h), out = fetch(t, "out", &one->out, &two.out);
    const pair window = fetch(t, "window", &one->conv_state, &two.conv_state);
    bool *skip = kt_host(t, (size_t)s.b.slots); /* slots that a sick sequence has written */
    for (int i = 0; i < b->seqs; i++) {
        if (is_sick(&s, i)) skip[s.b.dst[i]] = true;
        for (int j = s.snap_start[i]; is_sick(&s, i) && j < s.snap_start[i + 1]; j++)
            if (s.snap_slot[j] >= 0) skip[s.snap_slot[j]] = true;
    }
    bool *written = kt_host(t, (size_t)s.b.slots);
    for (int i = 0; i < b->seqs + s.snaps; i++) {
        const int to = i < b->seqs ? s.b.dst[i] : s.snap_slot[i - b->seqs];
        if (to >= 0) written[to] = true;
    }
    for (int i = 0; i < s.b.slots; i++) {
        if (skip[i]) continue;
        expect(t, &h, (size_t)i * s.slot, s.slot, !written[i]);
        expect(t, &window, (size_t)i * s.conv_slot, s.conv_slot, !written[i]);
    }
    for (int i = 0; i < b->seqs; i++)
        for (int row = s.b.start[i]; row < s.b.start[i + 1]; row++) {
            const size_t at = (size_t)(row * s.ld_out), size_of = plp_dtype_size(out.dtype);
            expect(t, &out, at + channels, PAD, true);
            expect(t, &y, (size_t)(row * s.ld_y) + inner, PAD, true);
            if (is_sick(&s, i)) continue;
            expect(t, &y, (size_t)(row * s.ld_y), inner, false);
            expect(t, &out, at + inner, channels - inner, false);
            if (row < b->decodes) expect(t, &out, at, inner, false);
            for (size_t j = at; row >= b->decodes && j < at + inner; j++) { /* left as it was: not a number */
                float x;
                plp_convert(&x, PLP_F32, out.other + j * size_of, out.dtype, 1);
                if (!isnan(x)) kt_fail(t, "out[%zu] of x is %.9g, and should be untouched", j, x);
            }
        }
}

/* What it does not know, the two kernels must be left to compute. */
static void run_unknown(kt *t, const int *size)
{
    const setup s = make(t, size);
    const kn_batch *b = &s.b.b, decode = kt_decodes(t, 5).b;
    if (t->kn == kn_cpu() || t->act != PLP_BF16) return;
    way w[8];
    for (int i = 0; i < 8; i++) w[i] = s.apart;
    if (!known(t, &w[0], b)) kt_fail(t, "not known as it is");
    if (known(t, &w[0], &decode)) kt_fail(t, "known for decode rows alone");
    w[1].conv.width = 3;
    w[2].ssm.x = w[2].ssm.B;
    w[3].conv.in = (const char *)w[3].conv.in + 2;
    w[4].conv.ld_in += 2;
    w[5].ssm.dim = 32;
    w[6].ssm.state = 96;
    w[7].conv.weight++;
    for (int i = 1; i < 8; i++)
        if (known(t, &w[i], b)) kt_fail(t, "known for odd arguments %d", i);
}

const kt_case kt_ssd_conv_rows[] = {
    /* name             run  heads groups state batch blocks flags conv, ssm dtype */
    { "ssd_conv.short", run, { 5, 2, 128, SHORT, 0, BIAS | SKIP, PLP_BF16, PLP_F32 }, 0, 0 },
    { "ssd_conv.short.narrow", run, { 7, 3, 64, SHORT, 1, 0, PLP_F32, PLP_F32 }, 0, 0 },
    { "ssd_conv.chunks", run, { 4, 1, 128, CHUNKS, 1, BIAS, PLP_BF16, PLP_BF16 }, 0, 0 },
    { "ssd_conv.chunks.narrow", run, { 3, 1, 64, CHUNKS, 2, BIAS | SKIP, PLP_F16, PLP_F16 }, 0, 0 },
    { "ssd_conv.chunks.f32", run, { 6, 2, 128, CHUNKS, 1, BIAS | SKIP, PLP_F32, PLP_F32 }, 0, 0 },
    { "ssd_conv.long", run, { 6, 2, 128, LONG, 1, BIAS | SKIP, PLP_F32, PLP_F32 }, 0, 0 },
    { "ssd_conv.long.one", run, { 1, 1, 128, LONG, 0, BIAS, PLP_BF16, PLP_F32 }, 0, 0 },
    { "ssd_conv.long.narrow", run, { 2, 1, 64, LONG, 4, SKIP, PLP_BF16, PLP_F32 }, 0, 0 },
    { "ssd_conv.two", run, { 4, 2, 128, TWO, 0, BIAS | SKIP, PLP_BF16, PLP_BF16 }, 0, 0 },
    { "ssd_conv.two.wide", run, { 32, 2, 64, TWO, 3, 0, PLP_F16, PLP_F32 }, 0, 0 },
    { "ssd_conv.many", run, { 16, 4, 128, MANY, 1, BIAS | SKIP, PLP_F32, PLP_F32 }, 0, 0 },
    { "ssd_conv.many.odd", run, { 9, 2, 64, MANY, 0, BIAS, PLP_BF16, PLP_F32 }, 0, 0 },
    { "ssd_conv.wide", run, { 37, 1, 64, WIDE, 2, BIAS | SKIP, PLP_BF16, PLP_F32 }, 0, 0 }, /* two heads a block, and cut up */
    { "ssd_conv.wide.128", run, { 40, 2, 128, WIDE, 0, BIAS, PLP_F32, PLP_BF16 }, 0, 0 },
    { "ssd_conv.sick", run, { 5, 2, 128, SHORT, 0, BIAS | SKIP | SICK, PLP_BF16, PLP_F32 }, 0, 0 },
    { "ssd_conv.sick.chunks", run, { 4, 1, 64, CHUNKS, 1, SKIP | SICK, PLP_BF16, PLP_F32 }, 0, 0 },
    { "ssd_conv.sick.many", run, { 6, 2, 128, MANY, 0, BIAS | SICK, PLP_F32, PLP_BF16 }, 0, 0 },
    { "ssd_conv.unknown", run_unknown, { 4, 2, 128, SHORT, 0, BIAS | SKIP, PLP_BF16, PLP_F32 }, 0, 0 },
    { 0 }
};
