/* A thread walks down the states of its heads, four channels at a time, so that B and C are read from the first cache once for four, and
 * the sums across a vector are taken together.  16-bit states are widened and rounded in registers, 32 numbers at a time: a word of two is
 * split by a shift and a mask, and B and C are laid out to match. */
#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/ssm_cpu.h"
#include "kernels/cpu/ssm_step_cpu.h"

enum { LANES = KN_SSM_LANES, ROWS = KN_SSM_ROWS, HEADS = 16, STEP = KN_SSM_MOST }; /* HEADS: whose dt are computed together */
typedef kn_ssm_lanes lanes;
typedef uint32_t words __attribute__((vector_size(LANES * sizeof(uint32_t))));

/* A NaN becomes the plain one, whose lower half is zero. */
KN_INLINE float plain_nan(float v) { return v == v ? v : NAN; }

/* bits of float32, rounded to bf16 in their upper halves; the lower halves are left over.  A NaN stays one if its lower half is zero, as it
 * is in what plain ones and widened bf16 are multiplied and added to: arithmetic makes no other. */
KN_INLINE void round_up(words *bits) { *bits += 0x7fffu + (*bits >> 16 & 1u); }

/* h = decay old + dtx B, and the sums of h C, for `rows` channels of a stretch of `n` numbers; h may be old. */
KN_INLINE void advance_f32(int rows, float *h, const float *old, int64_t ld, float decay, const float *dtx, const float *B, const float *C,
                           int n, float *sum)
{
    lanes s[ROWS] = { { 0 } };
    float rest[ROWS] = { 0 };
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes b, c;
        memcpy(&b, B + i, sizeof b);
        memcpy(&c, C + i, sizeof c);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            lanes v;
            memcpy(&v, old + r * ld + i, sizeof v);
            v = decay * v + dtx[r] * b;
            memcpy(h + r * ld + i, &v, sizeof v);
            s[r] += v * c;
        }
    }
    for (; i < n; i++)
        for (int r = 0; r < rows; r++) {
            const float v = decay * old[r * ld + i] + dtx[r] * B[i];
            h[r * ld + i] = v;
            rest[r] += v * C[i];
        }
    kn_ssm_sums(s, sum);
    for (int r = 0; r < rows; r++) sum[r] += rest[r];
}

/* The same.  B and C: of every 2 LANES numbers the even ones, then the odd ones.  Their NaN, and those of decay and dtx, are plain. */
KN_INLINE void advance_bf16(int rows, uint16_t *h, const uint16_t *old, int64_t ld, float decay, const float *dtx, const float *B,
                            const float *C, int n, float *sum)
{
    lanes s[ROWS] = { { 0 } };
    float rest[ROWS] = { 0 };
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        lanes b[2], c[2];
        memcpy(b, B + i, sizeof b);
        memcpy(c, C + i, sizeof c);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            words w;
            memcpy(&w, old + r * ld + i, sizeof w);
            words even = w << 16, odd = w & 0xffff0000u;
            const lanes v0 = decay * (lanes)even + dtx[r] * b[0], v1 = decay * (lanes)odd + dtx[r] * b[1];
            s[r] += v0 * c[0];
            s[r] += v1 * c[1];
            even = (words)v0, odd = (words)v1;
            round_up(&even);
            round_up(&odd);
            w = even >> 16 | (odd & 0xffff0000u);
            memcpy(h + r * ld + i, &w, sizeof w);
        }
    }
    for (; i < n; i++)
        for (int r = 0; r < rows; r++) {
            const float v = decay * plp_bf16_to_f32(old[r * ld + i]) + dtx[r] * B[i];
            h[r * ld + i] = plp_f32_to_bf16(v);
            rest[r] += v * C[i];
        }
    kn_ssm_sums(s, sum);
    for (int r = 0; r < rows; r++) sum[r] += rest[r];
}

/* The same for any type that neither form knows: through a copy in float32. */
KN_INLINE void advance_other(int rows, plp_dtype dtype, char *h, const char *old, int64_t ld, float decay, const float *dtx, const float *B,
                             const float *C, int n, float *sum)
{
    float v[ROWS * STEP];
    const size_t row = (size_t)ld * plp_dtype_size(dtype);
    for (int r = 0; r < rows; r++) kn_widen(v + r * STEP, old + (size_t)r * row, dtype, n);
    advance_f32(rows, v, v, STEP, decay, dtx, B, C, n, sum);
    for (int r = 0; r < rows; r++) kn_narrow(h + (size_t)r * row, dtype, v + r * STEP, n);
}

KN_INLINE void advance(int rows, plp_dtype dtype, char *h, const char *old, int64_t ld, float decay, const float *dtx, const float *B,
                       const float *C, int n, float *sum)
{
    if (dtype == PLP_F32)
        advance_f32(rows, (float *)h, (const float *)old, ld, decay, dtx, B, C, n, sum);
    else if (dtype == PLP_BF16)
        advance_bf16(rows, (uint16_t *)h, (const uint16_t *)old, ld, decay, dtx, B, C, n, sum);
    else
        advance_other(rows, dtype, h, old, ld, decay, dtx, B, C, n, sum);
}

/* v for advance_bf16. */
KN_INLINE void split(float *restrict to, const float *restrict v, int n)
{
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        for (int j = 0; j < LANES; j++) to[i + j] = plain_nan(v[i + 2 * j]), to[i + LANES + j] = plain_nan(v[i + 2 * j + 1]);
    for (; i < n; i++) to[i] = v[i];
}

/* A head over numbers [n, n + m) of its states, of which B and C are. */
KN_INLINE void channels(const kn_ssm_head *p, plp_dtype dtype, int n, int m, const float *B, const float *C)
{
    const size_t size = plp_dtype_size(dtype), row = (size_t)p->state * size;
    const char *old = p->old + (size_t)n * size;
    const float *x = p->x;
    char *h = p->h + (size_t)n * size;
    float *y = p->y, sum[ROWS], dtx[ROWS];
    int at = 0;
    for (; at + ROWS <= p->dim; at += ROWS, old += ROWS * row, h += ROWS * row) {
        for (int r = 0; r < ROWS; r++) dtx[r] = plain_nan(p->dt * x[at + r]);
        advance(ROWS, dtype, h, old, p->state, p->decay, dtx, B, C, m, sum);
        for (int r = 0; r < ROWS; r++) y[at + r] = sum[r] + (n > 0 ? y[at + r] : p->D * x[at + r]);
    }
    for (; at < p->dim; at++, old += row, h += row) {
        dtx[0] = plain_nan(p->dt * x[at]);
        advance(1, dtype, h, old, p->state, p->decay, dtx, B, C, m, sum);
        y[at] = sum[0] + (n > 0 ? y[at] : p->D * x[at]);
    }
}

KN_INLINE void advance_head(const kn_ssm_head *p, plp_dtype dtype)
{
    for (int n = 0; n < p->state; n += STEP) {
        const int m = p->state - n < STEP ? p->state - n : STEP;
        float B[STEP], C[STEP];
        if (dtype == PLP_BF16) split(B, p->B + n, m), split(C, p->C + n, m);
        channels(p, dtype, n, m, dtype == PLP_BF16 ? B : p->B + n, dtype == PLP_BF16 ? C : p->C + n);
    }
}

/* One token of one sequence for heads [first, first + count), count <= HEADS; reads `source` unless it is NULL (no initial state), writes
 * `target`, which may be it.  own: the processor's own form for these states, or NULL. */
KN_CLONES static void step(const kn_ssm_args *a, void (*own)(const kn_ssm_head *), int row, int first, int count, const char *source,
                           char *target)
{
    float dt[HEADS] = { 0 }, decay[HEADS] = { 0 };
    const size_t bytes = kn_head_bytes(a);
    for (int j = 0; j < count; j++) dt[j] = kn_dt_raw(a, row, first + j), decay[j] = a->A[first + j];
    for (int j = 0; j < HEADS; j++) {
        dt[j] = kn_dt(a, dt[j]);
        decay[j] = plain_nan(kn_expf(dt[j] * decay[j]));
    }
    if (!source) memset(target, 0, (size_t)count * bytes);
    for (int j = 0; j < count; j++) {
        const int head = first + j, in_group = a->group[head] * a->state;
        const kn_ssm_head p = { .dim = a->dim,
                                .state = a->state,
                                .dt = dt[j],
                                .decay = decay[j],
                                .D = a->D ? a->D[head] : 0,
                                .x = (const float *)a->x + row * a->ld_x + head * a->dim,
                                .B = (const float *)a->B + row * a->ld_bc + in_group,
                                .C = (const float *)a->C + row * a->ld_bc + in_group,
                                .old = (source ? source : target) + (size_t)j * bytes,
                                .h = target + (size_t)j * bytes,
                                .y = (float *)a->y + row * a->ld_y + head * a->dim };
        if (own)
            own(&p);
        else if (a->state_dtype == PLP_F32)
            advance_head(&p, PLP_F32);
        else if (a->state_dtype == PLP_BF16)
            advance_head(&p, PLP_BF16);
        else
            advance_head(&p, a->state_dtype);
    }
}

plp_status kn_ssm_step_cpu(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    const int tasks = b->decodes * a->heads, threads = kn_threads(c, 4.0 * tasks * a->dim * a->state);
    void (*own)(const kn_ssm_head *) = NULL;
#if defined(__x86_64__)
    if (c->level >= KN_AVX512_BF16 && a->state_dtype == PLP_BF16 && a->dim % ROWS == 0 && a->state % (2 * LANES) == 0 &&
        a->state <= KN_SSM_MOST)
        own = kn_ssm_head_avx512;
#endif
    KN_EACH(c, threads, i, threads, {
        const int last = (int)((int64_t)tasks * (i + 1) / threads);
        for (int task = (int)((int64_t)tasks * i / threads), heads; task < last; task += heads) {
            const int s = task / a->heads, head = task % a->heads, left = last - task < a->heads - head ? last - task : a->heads - head;
            heads = left < HEADS ? left : HEADS;
            step(a, own, b->start[s], head, heads, b->past[s] > 0 ? kn_head_state(a, b->src_slot[s], head) : NULL,
                 kn_head_state(a, b->dst_slot[s], head));
        }
    });
    return PLP_OK;
}
