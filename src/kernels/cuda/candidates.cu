/* src/kernels/cuda/candidates.cu -- kn->candidates in two launches: slices of a row on blocks of their own, then one block a row puts the
 * slices together.  Order is by a 64-bit key, logit above and inverted column below, so that equal logits fall to the lower id.  Slices
 * are fixed, so are the sums' orders: a row's result depends on nothing but the row.  Of a row that is drawn alone, neither sums nor lists. */
#include "kernels/cuda/common.cuh"

#include "kernels/choose.h"
#include "kernels/gumbel.h"

namespace
{

typedef unsigned long long key;
constexpr int SLICE = 2048, THREADS = 512;
constexpr int BATCH = 256; /* rows that share the work space; more take turns */

struct partial { /* of one slice */
    float raw_max, raw_sum, max, sum, drawn_p;
    int finite;
    key drawn;
    key top[KN_CANDIDATES];
};
struct candidates_args {
    kn_candidates_args a;
    partial *work; /* (rows, slices) */
    int slices, first_row;
};

__device__ __forceinline__ key key_of(float v, int column)
{
    const unsigned bits = __float_as_uint(v + 0.f); /* -0 becomes 0 */
    return (key)(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | (unsigned)~column;
}
__device__ __forceinline__ float key_value(key k)
{
    const unsigned bits = (unsigned)(k >> 32);
    return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}
__device__ __forceinline__ int key_column(key k) { return (int)~(unsigned)k; }

__device__ __forceinline__ key warp_max(key v)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2) {
        const key other = __shfl_xor_sync(~0u, v, o);
        v = other > v ? other : v;
    }
    return v;
}
__device__ __forceinline__ key block_max(key v, key *shared)
{
    const int lane = threadIdx.x % 32;
    v = warp_max(v);
    __syncthreads();
    if (lane == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(lane < (int)blockDim.x / 32 ? shared[lane] : 0);
}

/* ---- lists of 64 keys in falling order, each the business of one warp */
constexpr int LIST = KN_CANDIDATES, LISTS = SLICE / LIST;
static_assert(LIST == 64, "a warp sorts two keys a lane");

/* One step of a bitonic sort: pairs `step` apart, falling where bit `size` of the position is clear. */
__device__ __forceinline__ void sort_step(key *v, int size, int step)
{
    const int lane = threadIdx.x % 32, i = 2 * lane - (lane & (step - 1)), j = i + step;
    const key a = v[i], b = v[j];
    if ((a < b) == ((i & size) == 0)) {
        v[i] = b;
        v[j] = a;
    }
    __syncwarp();
}
__device__ __forceinline__ void sort_list(key *v)
{
    __syncwarp();
    for (int size = 2; size <= LIST; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) sort_step(v, size, step);
}
/* The best LIST of LISTS sorted lists, to the first. */
__device__ __forceinline__ void best_list(key *v)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int half = LISTS / 2; half > 0; half /= 2) {
        __syncthreads();
        for (int l = warp; l < half; l += THREADS / 32) {
            key *mine = v + l * LIST, *other = mine + half * LIST;
            for (int i = lane; i < LIST; i += 32) mine[i] = max(mine[i], other[LIST - 1 - i]); /* the best of both, rising then falling */
            __syncwarp();
            for (int step = LIST / 2; step > 0; step /= 2) sort_step(mine, LIST, step);
        }
    }
    __syncthreads();
}

__device__ __forceinline__ bool is_listed(const kn_candidates_args &a, const kn_sample_row &r) { return !a.drawn_alone || kn_filters(&r); }

/* The highest p + noise of a slice's columns, at every thread; without noise where the row is greedy.  As on the CPU, what cannot have it is
 * spared the noise's logarithms: from the second column of a thread on, what stays below its warp's best. */
__device__ __forceinline__ key draw(const kn_sample_row &r, const float *p, int count, int from, int first, key *shared)
{
    key drawn = 0;
    float best = -INFINITY;
#pragma unroll 1
    for (int base = 0; base < count; base += THREADS) {
        const int i = base + threadIdx.x;
        if (i < count && !(r.inv_temperature > 0.f)) drawn = max(drawn, key_of(p[i], from + i));
        if (i < count && r.inv_temperature > 0.f) {
            const float u = kn_noise_u(r.seed, r.position, first + from + i);
            if (!(p[i] + kn_noise_below(u) < best)) drawn = max(drawn, key_of(p[i] + kn_noise_of(u), from + i));
        }
        if (base == 0) best = key_value(warp_max(drawn)); /* of a warp without columns: not a number, and it has none later */
    }
    return block_max(drawn, shared);
}

__global__ void __launch_bounds__(THREADS) slice_kernel(const __grid_constant__ candidates_args args)
{
    constexpr int EACH = SLICE / THREADS; /* columns of a thread */
    const kn_candidates_args &a = args.a;
    __shared__ float p[SLICE];
    __shared__ key keys[SLICE];
    __shared__ key shared[32];
    __shared__ float sums[32];
    const int t = args.first_row + blockIdx.y, from = blockIdx.x * SLICE, count = min(SLICE, a.valid - from);
    const float *logits = a.logits + t * a.ld + from;
    kn_early_begin();
    float raw[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) raw[k] = k * THREADS + threadIdx.x < count ? logits[k * THREADS + threadIdx.x] : 0.f;
    const kn_sample_row r = a.row[t];
    const float by = r.inv_temperature > 0.f ? r.inv_temperature : 1.f;
    partial *out = args.work + (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    const bool listed = is_listed(a, r);

    key best = 0;
    int finite = 1;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = k * THREADS + threadIdx.x;
        finite &= isfinite(raw[k]) != 0;
        p[i] = raw[k] * by;
        if (listed && i < count) best = max(best, key_of(raw[k], i));
    }
    const float raw_max = listed ? key_value(block_max(best, shared)) : 0.f;
    finite = __syncthreads_and(finite);
    for (int i = threadIdx.x; i < r.penalty_count; i += THREADS) {
        const int column = a.penalty_id[r.penalty_first + i] - a.first - from, hits = a.penalty_hits[r.penalty_first + i];
        if (column < 0 || column >= count) continue;
        float v = logits[column];
        v = v < 0.f ? v * r.repetition : v / r.repetition;
        if (hits > 0) v -= __fadd_rn(r.presence, __fmul_rn(r.frequency, (float)hits)); /* as on the host */
        p[column] = v * by;
    }
    __syncthreads();
    const key drawn = draw(r, p, count, from, a.first, shared);
    if (threadIdx.x == 0) {
        out->drawn = drawn;
        out->drawn_p = p[key_column(drawn) - from];
        out->finite = finite;
    }
    if (!listed) return;

    best = 0;
    float raw_sum = 0.f, sum = 0.f;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const int i = k * THREADS + threadIdx.x;
        keys[i] = i < count ? key_of(p[i], from + i) : 0;
        if (i >= count) continue;
        raw_sum += expf(raw[k] - raw_max);
        best = max(best, keys[i]);
    }
    const float p_max = key_value(block_max(best, shared));
    for (int i = threadIdx.x; i < count; i += THREADS) sum += expf(p[i] - p_max);
    raw_sum = kn_block_sum(raw_sum, sums);
    sum = kn_block_sum(sum, sums);
    for (int l = threadIdx.x / 32; l < LISTS; l += THREADS / 32) sort_list(keys + l * LIST); /* block_sum's barriers lie between */
    best_list(keys);
    if (threadIdx.x < KN_CANDIDATES) out->top[threadIdx.x] = keys[threadIdx.x];
    if (threadIdx.x > 0) return;
    out->raw_max = raw_max;
    out->raw_sum = raw_sum;
    out->max = p_max;
    out->sum = sum;
}

/* max and sum exp(v - max) of the slices, by one warp; slices without columns do not exist. */
__device__ __forceinline__ void merge_sums(float max, float sum, float *out_max, float *out_sum)
{
    float all = max;
#pragma unroll
    for (int o = 16; o > 0; o /= 2) all = fmaxf(all, __shfl_xor_sync(~0u, all, o));
    *out_sum = kn_warp_sum(max > -INFINITY ? sum * expf(max - all) : 0.f);
    *out_max = all;
}

__global__ void __launch_bounds__(THREADS) merge_kernel(const __grid_constant__ candidates_args args)
{
    const kn_candidates_args &a = args.a;
    const int slices = args.slices;
    __shared__ key keys[SLICE];
    const int t = args.first_row + blockIdx.x;
    const partial *in = args.work + (int64_t)blockIdx.x * slices;
    const float *logits = a.logits + t * a.ld;
    kn_candidates *out = a.out + t;
    kn_early_begin();
    const bool listed = is_listed(a, a.row[t]);
    for (int first = 0; listed && first < slices; first += LISTS - 1) { /* the best so far in list 0, the slices' in the others */
        for (int i = threadIdx.x; i < SLICE; i += THREADS) {
            const int slice = first + i / LIST - 1;
            if (i >= LIST)
                keys[i] = slice < slices ? in[slice].top[i % LIST] : 0;
            else if (first == 0)
                keys[i] = 0;
        }
        best_list(keys);
    }
    const int count = listed ? min(a.valid, (int)KN_CANDIDATES) : 0;
    if (threadIdx.x < count) {
        const int column = key_column(keys[threadIdx.x]);
        out->id[threadIdx.x] = a.first + column;
        out->p[threadIdx.x] = key_value(keys[threadIdx.x]);
        out->raw[threadIdx.x] = logits[column];
    }
    if (threadIdx.x >= 32) return;
    float raw_max = -INFINITY, raw_sum = 0.f, max = -INFINITY, sum = 0.f, drawn_p = -INFINITY;
    key mine = 0;
    int finite = 1;
    for (int s = threadIdx.x; s < slices; s += 32) { /* a lane's slices one after the other, then the lanes */
        if (listed) {
            const float m = fmaxf(max, in[s].max), raw_m = fmaxf(raw_max, in[s].raw_max);
            sum = (sum > 0.f ? sum * expf(max - m) : 0.f) + in[s].sum * expf(in[s].max - m);
            raw_sum = (raw_sum > 0.f ? raw_sum * expf(raw_max - raw_m) : 0.f) + in[s].raw_sum * expf(in[s].raw_max - raw_m);
            max = m;
            raw_max = raw_m;
        }
        if (in[s].drawn > mine) {
            mine = in[s].drawn;
            drawn_p = in[s].drawn_p;
        }
        finite &= in[s].finite;
    }
    const key drawn = warp_max(mine);
    if (mine == drawn && (drawn > 0 || threadIdx.x == 0)) out->drawn_p = drawn_p; /* keys differ, so one lane's does */
    finite = __all_sync(~0u, finite);
    merge_sums(max, sum, &max, &sum);
    merge_sums(raw_max, raw_sum, &raw_max, &raw_sum);
    if (threadIdx.x > 0) return;
    out->raw_max = raw_max;
    out->raw_sum = raw_sum;
    out->max = max;
    out->sum = sum;
    out->count = count;
    out->finite = finite;
    const bool any = a.valid > 0;
    const int column = any ? key_column(drawn) : -1;
    out->drawn_score = any ? key_value(drawn) : -INFINITY;
    out->drawn_id = any ? a.first + column : -1;
    out->drawn_raw = any ? logits[column] : -INFINITY;
}

int64_t slices_of(int columns) { return kn_ceil(columns, SLICE); }

} // namespace

plp_status kn_candidates_create_cuda(kn_context *c)
{
    const int64_t rows = c->options.max_tokens < BATCH ? c->options.max_tokens : BATCH;
    const size_t bytes = (size_t)(rows * slices_of(c->options.max_n)) * sizeof(partial);
    return bytes > 0 ? KN_CUDA(cudaMalloc(&c->candidates, bytes)) : PLP_OK;
}

plp_status kn_candidates_cuda(kn_context *c, const kn_candidates_args *a)
{
    const int slices = (int)slices_of(a->valid);
    if (a->rows == 0) return PLP_OK;
    if (a->valid > c->options.max_n || a->rows > c->options.max_tokens)
        return PLP_FAIL(PLP_ERR_INTERNAL, "candidates: %d rows of %d, work space for %d of %d", a->rows, a->valid, c->options.max_tokens,
                        c->options.max_n);
    for (int row = 0; row < a->rows; row += BATCH) {
        const int rows = a->rows - row < BATCH ? a->rows - row : BATCH;
        const candidates_args args = { *a, (partial *)c->candidates, slices, row };
        if (slices > 0) kn_early_launch(c, slice_kernel, dim3(slices, rows), THREADS, args);
        kn_early_launch(c, merge_kernel, rows, THREADS, args);
    }
    return KN_LAUNCHED();
}
