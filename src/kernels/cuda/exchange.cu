/* src/kernels/cuda/exchange.cu -- kn->exchange_sum and kn->exchange_gather, and kn->add_norm of parts that neighbouring devices hold: one flight over the link,
 * then the row is in registers, where the residual add and the norm find it. */
#include "kernels/cuda/exchange.cuh"

namespace
{

constexpr int THREADS = 512, LINES = 8; /* lines of 8 bytes that a thread keeps of a row */

template <class T> __global__ void __launch_bounds__(THREADS) sum_kernel(const __grid_constant__ kn_exchange x, T *data, int64_t count, bool aligned)
{
    typedef exchange_line<T> line;
    const exchange_turn turn(x);
    const int64_t lines = (count + line::N - 1) / line::N, first = (int64_t)blockIdx.x * THREADS + threadIdx.x, step = (int64_t)gridDim.x * THREADS;
    const auto whole = [&](int64_t i) { return aligned && (i + 1) * line::N <= count; };
    const auto load = [&](int64_t i) {
        line l;
        if (whole(i)) return line(__ldcg((const uint2 *)(data + i * line::N)));
#pragma unroll
        for (int k = 0; k < line::N; k++)
            if (i * line::N + k < count) l.v[k] = data[i * line::N + k];
        return l;
    };
    for (int64_t i = first; i < lines; i += step) turn.send(2 * i, load(i).bits);
    __syncthreads();
    if (threadIdx.x == 0) turn.leave();
    for (int64_t i = first; i < lines; i += step) {
        line l = load(i);
        float sum[line::N];
        exchange_sum(turn, 2 * i, l, sum);
#pragma unroll
        for (int k = 0; k < line::N; k++) l.v[k] = kn_as<T>(sum[k]);
        if (whole(i)) {
            *(uint2 *)(data + i * line::N) = l.bits;
            continue;
        }
#pragma unroll
        for (int k = 0; k < line::N; k++)
            if (i * line::N + k < count) data[i * line::N + k] = l.v[k];
    }
}

struct gather_args {
    kn_exchange x;
    const uint32_t *mine;
    uint32_t *all;
    int64_t count;
};
__global__ void __launch_bounds__(THREADS) gather_kernel(const __grid_constant__ gather_args a)
{
    kn_early_begin();
    const exchange_turn turn(a.x);
    const int64_t first = (int64_t)blockIdx.x * THREADS + threadIdx.x, step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = first; i < a.count; i += step) turn.send(i, a.mine[i]);
    __syncthreads();
    if (threadIdx.x == 0) turn.leave();
    for (int64_t i = first; i < a.count; i += step)
        for (int r = 0; r < a.x.size; r++) a.all[r * a.count + i] = r == a.x.rank ? a.mine[i] : turn.receive(r, i);
}

/* Words of a row's message: its lines, and one for the sum of squares. */
__host__ __device__ __forceinline__ int64_t row_words(int64_t lines) { return 2 * lines + 2; }

/* A block a row. */
template <class D, class O> __global__ void __launch_bounds__(THREADS) sum_norm_kernel(const kn_add_norm_args a, const __grid_constant__ kn_exchange x)
{
    typedef exchange_line<D> line;
    constexpr int N = line::N;
    __shared__ float shared[32], shared_scale;
    const exchange_turn turn(x);
    const int64_t t = blockIdx.x;
    const int lines = a.hidden / N;
    const int64_t at = t * row_words(lines);
    const D *delta = (const D *)a.delta + t * a.ld_delta;
    float *row = a.residual + t * a.hidden, keep[LINES][N], sum = 0;
    line mine[LINES];
#pragma unroll
    for (int k = 0; k < LINES; k++) {
        const int l = threadIdx.x + k * THREADS;
        if (l >= lines) continue;
        mine[k].bits = __ldcg((const uint2 *)delta + l);
        turn.send(at + 2 * l, mine[k].bits);
    }
    if (a.sumsq != NULL && threadIdx.x == 0) {
        const float part = a.sumsq[t * a.ld_sumsq];
        turn.send(at + 2 * lines, __float_as_uint(part));
        shared_scale = rsqrtf(exchange_sum(turn, at + 2 * lines, part) / (float)a.sumsq_width + (float)a.sumsq_eps);
    }
#pragma unroll
    for (int k = 0; k < LINES; k++) {
        const int l = threadIdx.x + k * THREADS;
        if (l < lines) kn_load<N>(row + l * N, keep[k]);
    }
    __syncthreads();
    if (threadIdx.x == 0) turn.leave();
    const float scale = a.sumsq != NULL ? shared_scale : 1.f;
#pragma unroll
    for (int k = 0; k < LINES; k++) {
        const int l = threadIdx.x + k * THREADS;
        if (l >= lines) continue;
        float part[N];
        exchange_sum(turn, at + 2 * l, mine[k], part);
#pragma unroll
        for (int j = 0; j < N; j++) {
            keep[k][j] += scale * part[j] + (a.bias != NULL ? a.bias[l * N + j] : 0.f);
            sum += keep[k][j] * keep[k][j];
        }
        kn_store<N>(row + l * N, keep[k]);
    }
    if (a.out != NULL) {
        const float rstd = rsqrtf(kn_block_sum(sum, shared) / (float)a.hidden + (float)a.eps);
        O *out = (O *)a.out + t * a.hidden;
#pragma unroll
        for (int k = 0; k < LINES; k++) {
            const int l = threadIdx.x + k * THREADS;
            if (l >= lines) continue;
#pragma unroll
            for (int j = 0; j < N; j++) keep[k][j] *= rstd * a.weight[l * N + j];
            kn_store<N>(out + l * N, keep[k]);
        }
    }
}

} // namespace

plp_status kn_exchange_sum_cuda(kn_context *c, const kn_exchange *x, void *data, int64_t count, plp_dtype dtype)
{
    const int64_t lines = kn_ceil(count * (int64_t)plp_dtype_size(dtype), 8), blocks = kn_ceil(lines, THREADS);
    if (count == 0) return PLP_OK;
    if (2 * lines > x->words) return PLP_FAIL(PLP_ERR_INTERNAL, "exchange of %lld words, at most %lld", (long long)(2 * lines), (long long)x->words);
    kn_by_type(dtype, [&](auto v) {
        typedef decltype(v) T;
        sum_kernel<T><<<(int)(blocks < c->sms ? blocks : c->sms), THREADS, 0, c->stream>>>(*x, (T *)data, count, (uintptr_t)data % 8 == 0);
    });
    return KN_LAUNCHED();
}

plp_status kn_exchange_gather_cuda(kn_context *c, const kn_exchange *x, const void *mine, size_t bytes, void *all)
{
    const int64_t count = (int64_t)(bytes / sizeof(uint32_t)), blocks = kn_ceil(count, THREADS);
    if (count == 0) return PLP_OK;
    if (bytes % sizeof(uint32_t) != 0 || count > x->words) return PLP_FAIL(PLP_ERR_INTERNAL, "exchange of %zu bytes, at most %lld words", bytes, (long long)x->words);
    kn_early_launch(c, gather_kernel, (int)(blocks < c->sms ? blocks : c->sms), THREADS, gather_args{ *x, (const uint32_t *)mine, (uint32_t *)all, count });
    return KN_LAUNCHED();
}

bool kn_exchanges_cuda(const kn_add_norm_args *a)
{
    const int n = 8 / (int)plp_dtype_size(a->delta_dtype);
    return a->hidden % n == 0 && a->hidden / n <= THREADS * LINES && kn_aligned(a->delta, a->ld_delta, a->delta_dtype, 8) &&
           a->tokens * row_words(a->hidden / n) <= a->exchange->words;
}

plp_status kn_sum_norm_cuda(kn_context *c, const kn_add_norm_args *a)
{
    kn_by_type(a->delta_dtype, [&](auto d) {
        kn_by_type(c->options.act, [&](auto o) { sum_norm_kernel<decltype(d), decltype(o)><<<a->tokens, THREADS, 0, c->stream>>>(*a, *a->exchange); });
    });
    return KN_LAUNCHED();
}
