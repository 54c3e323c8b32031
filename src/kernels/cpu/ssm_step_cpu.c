/* A thread walks down the states of its heads, four channels at a time, so that B and C are read from the first cache once for four, and
 * the sums across a vector are taken together.  16-bit states are widened and rounded in registers, 32 numbers at a time: a word of two is
 * split by a shift and a mask, and B and C are laid out to match. */
#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/ssm_cpu.h"

enum { LANES = 16, ROWS = 4, HEADS = 16, STEP = 256 }; /* heads whose dt are computed together; numbers of a channel's state, likewise */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t words __attribute__((vector_size(LANES * sizeof(uint32_t))));

/* Of each of four vectors the sum, by halves: as the compiler would end a sum, it is as many dependent additions as there are lanes. */
KN_INLINE void sums_of(const lanes s[ROWS], float *sum)
{
    const lanes a = __builtin_shufflevector(s[0], s[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                    __builtin_shufflevector(s[0], s[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const lanes b = __builtin_shufflevector(s[2], s[3], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                    __builtin_shufflevector(s[2], s[3], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    lanes c = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
              __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    c += __builtin_shufflevector(c, c, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    c += __builtin_shufflevector(c, c, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    for (int r = 0; r < ROWS; r++) sum[r] = c[r * LANES / ROWS];
}

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
    sums_of(s, sum);
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
    sums_of(s, sum);
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

/* A head's channels over numbers [n, n + m) of their states. */
KN_INLINE void channels(const kn_ssm_args *a, plp_dtype dtype, int n, int m, const float *x, float *y, const char *source, char *target,
                        float dt, float decay, float D, const float *B, const float *C)
{
    const size_t size = plp_dtype_size(dtype), at = (size_t)n * size, row = (size_t)a->state * size;
    int p = 0;
    float sum[ROWS], dtx[ROWS];
    for (; p + ROWS <= a->dim; p += ROWS) {
        for (int r = 0; r < ROWS; r++) dtx[r] = plain_nan(dt * x[p + r]);
        advance(ROWS, dtype, target + (size_t)p * row + at, source + (size_t)p * row + at, a->state, decay, dtx, B, C, m, sum);
        for (int r = 0; r < ROWS; r++) y[p + r] = sum[r] + (n > 0 ? y[p + r] : D * x[p + r]);
    }
    for (; p < a->dim; p++) {
        dtx[0] = plain_nan(dt * x[p]);
        advance(1, dtype, target + (size_t)p * row + at, source + (size_t)p * row + at, a->state, decay, dtx, B, C, m, sum);
        y[p] = sum[0] + (n > 0 ? y[p] : D * x[p]);
    }
}

/* One token of one sequence for heads [first, first + count), count <= HEADS; reads `source` unless it is NULL (no initial state), writes
 * `target`, which may be it. */
KN_CLONES static void step(const kn_ssm_args *a, int row, int first, int count, const char *source, char *target)
{
    float dt[HEADS] = { 0 }, decay[HEADS] = { 0 }, even_odd[2][STEP];
    const size_t bytes = kn_head_bytes(a);
    for (int j = 0; j < count; j++) dt[j] = kn_dt_raw(a, row, first + j), decay[j] = a->A[first + j];
    for (int j = 0; j < HEADS; j++) {
        dt[j] = kn_dt(a, dt[j]);
        decay[j] = plain_nan(kn_expf(dt[j] * decay[j]));
    }
    if (!source) memset(target, 0, (size_t)count * bytes);
    for (int j = 0, split_for = -1; j < count; j++, target += bytes) {
        const int head = first + j, group = a->group[head];
        const char *from = source ? source + (size_t)j * bytes : target;
        const float *x = (const float *)a->x + row * a->ld_x + head * a->dim;
        const float D = a->D ? a->D[head] : 0;
        float *y = (float *)a->y + row * a->ld_y + head * a->dim;
        for (int n = 0; n < a->state; n += STEP) {
            const int m = a->state - n < STEP ? a->state - n : STEP;
            const float *B = (const float *)a->B + row * a->ld_bc + group * a->state + n;
            const float *C = (const float *)a->C + row * a->ld_bc + group * a->state + n;
            if (a->state_dtype == PLP_F32)
                channels(a, PLP_F32, n, m, x, y, from, target, dt[j], decay[j], D, B, C);
            else if (a->state_dtype == PLP_BF16) {
                if (split_for != group || a->state > STEP) split(even_odd[0], B, m), split(even_odd[1], C, m);
                split_for = group;
                channels(a, PLP_BF16, n, m, x, y, from, target, dt[j], decay[j], D, even_odd[0], even_odd[1]);
            } else
                channels(a, a->state_dtype, n, m, x, y, from, target, dt[j], decay[j], D, B, C);
        }
    }
}

plp_status kn_ssm_step_cpu(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    const int tasks = b->decodes * a->heads, threads = kn_threads(c, 4.0 * tasks * a->dim * a->state);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int count = omp_get_num_threads(), me = omp_get_thread_num(), last = (int)((int64_t)tasks * (me + 1) / count);
        for (int task = (int)((int64_t)tasks * me / count), heads; task < last; task += heads) {
            const int s = task / a->heads, head = task % a->heads, left = last - task < a->heads - head ? last - task : a->heads - head;
            heads = left < HEADS ? left : HEADS;
            step(a, b->start[s], head, heads, b->past[s] > 0 ? kn_head_state(a, b->src_slot[s], head) : NULL,
                 kn_head_state(a, b->dst_slot[s], head));
        }
    }
    return PLP_OK;
}
