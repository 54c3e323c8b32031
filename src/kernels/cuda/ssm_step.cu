/* src/kernels/cuda/ssm_step.cu -- kn->ssm_step: one token of the state space for every decode row.
 *
 * The state is read and written once and is nearly all of the traffic, so everything serves its 16-byte accesses: L neighbouring lanes hold
 * one row of it (V values each), a thread has R rows, and all its loads are in flight before the first is used. */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ssm_sweep.cuh"

namespace
{

struct step_args {
    kn_ssm_args a;
    kn_batch b;
    int lanes, parts;
};

/* grid: (heads * parts, decode rows); part p of a head is THREADS / lanes * R of its rows.  Loads are in the order in which their addresses
 * become known, those of the state last, as nothing may wait between them. */
template <class T, class S, int V, int R, int THREADS, int BLOCKS>
__global__ void __launch_bounds__(THREADS, BLOCKS) ssm_step_kernel(const __grid_constant__ step_args s)
{
    const kn_ssm_args &a = s.a;
    const kn_batch &b = s.b;
    const int lanes = s.lanes, parts = s.parts;
    kn_early_begin();
    const int teams = THREADS / lanes, lane = threadIdx.x % lanes, t = blockIdx.y;
    const int head = blockIdx.x / parts, p0 = blockIdx.x % parts * teams * R + threadIdx.x / lanes;
    const int tile = a.dim * a.state, column = lane * V, group = a.group[head];
    const int64_t past = b.past[t], src_slot = b.src_slot[t], dst_slot = b.dst_slot[t];
    const float raw = kn_float(((const T *)a.dt)[t * a.ld_dt + head]);
    const T *x = (const T *)a.x + t * a.ld_x + (int64_t)head * a.dim;
    float xs[R], B[V], C[V];
#pragma unroll
    for (int k = 0; k < R; k++) xs[k] = p0 + k * teams < a.dim ? kn_float(x[p0 + k * teams]) : 0.f;
    const int64_t bc = t * a.ld_bc + (int64_t)group * a.state + column;
    kn_load<V>((const T *)a.B + bc, B);
    kn_load<V>((const T *)a.C + bc, C);
    const S *src = (const S *)a.h + (src_slot * a.heads + head) * tile + column;
    S *dst = (S *)a.h + (dst_slot * a.heads + head) * tile + column;
    uint4 h[R]; /* as they lie in memory: the compiler would give every 16-bit value a register of its own */
#pragma unroll
    for (int k = 0; k < R; k++) {
        const int p = p0 + k * teams;
        h[k] = past > 0 && p < a.dim ? __ldcg((const uint4 *)(src + p * a.state)) : make_uint4(0, 0, 0, 0);
    }
    const kn_ssm_scalars w = kn_ssm_scalars_of(a, raw, head);
#pragma unroll
    for (int j = 0; j < V; j++) B[j] *= w.dt;
    float sum[R] = {};
#pragma unroll
    for (int k = 0; k < R; k++) {
        const int p = p0 + k * teams;
        asm volatile("" ::: "memory"); /* row after row: 16-bit states must not all be widened at once, which costs registers */
        float v[V];
        kn_load<V>((const S *)&h[k], v);
#pragma unroll
        for (int j = 0; j < V; j++) {
            v[j] = w.decay * v[j] + xs[k] * B[j];
            sum[k] += v[j] * C[j];
        }
        kn_store<V>((S *)&h[k], v);
        if (p < a.dim) __stwt((uint4 *)(dst + p * a.state), h[k]); /* through L2: nobody reads it again within the step */
    }
    for (int o = lanes / 2; o > 0; o /= 2)
#pragma unroll
        for (int k = 0; k < R; k++) sum[k] += __shfl_xor_sync(~0u, sum[k], o);
    T *y = (T *)a.y + t * a.ld_y + (int64_t)head * a.dim;
#pragma unroll
    for (int k = 0; k < R; k++)
        if (p0 + k * teams < a.dim && lane == 0) y[p0 + k * teams] = kn_as<T>(sum[k] + w.skip * xs[k]);
}

/* Any state size: a warp takes a row, its lanes every 32nd value. */
constexpr int ANY_THREADS = 256;
template <class T> __global__ void __launch_bounds__(ANY_THREADS) ssm_step_any_kernel(kn_ssm_args a, kn_batch b)
{
    const int head = blockIdx.x, t = blockIdx.y, lane = threadIdx.x % 32;
    const bool known = b.past[t] > 0;
    const kn_ssm_scalars w = kn_ssm_scalars_of(a, kn_float(((const T *)a.dt)[t * a.ld_dt + head]), head);
    const T *B = (const T *)a.B + t * a.ld_bc + (int64_t)a.group[head] * a.state;
    const T *C = (const T *)a.C + t * a.ld_bc + (int64_t)a.group[head] * a.state;
    for (int p = threadIdx.x / 32; p < a.dim; p += ANY_THREADS / 32) {
        const float x = kn_float(((const T *)a.x)[t * a.ld_x + (int64_t)head * a.dim + p]);
        const int64_t src = (((int64_t)b.src_slot[t] * a.heads + head) * a.dim + p) * a.state;
        const int64_t dst = (((int64_t)b.dst_slot[t] * a.heads + head) * a.dim + p) * a.state;
        float sum = 0.f;
        for (int n = lane; n < a.state; n += 32) {
            const float v = (known ? w.decay * kn_load_any(a.h, a.state_dtype, src + n) : 0.f) + w.dt * x * kn_float(B[n]);
            kn_store_any(a.h, a.state_dtype, dst + n, v);
            sum += v * kn_float(C[n]);
        }
        sum = kn_warp_sum(sum);
        if (lane == 0) ((T *)a.y)[t * a.ld_y + (int64_t)head * a.dim + p] = kn_as<T>(sum + w.skip * x);
    }
}

} // namespace

plp_status kn_ssm_step_cuda(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    if (b->decodes == 0 || a->heads == 0) return PLP_OK;
    const plp_dtype act = c->options.act;
    const ssm_sweep_args sweep = { b->decodes, a->heads, a->h, b->src_slot, b->dst_slot, b->past, a->group, a->x, a->B, a->C, a->dt,
                                   a->ld_x, a->ld_bc, a->ld_dt, a->A, a->D, a->dt_bias, a->dt_min, a->dt_max, a->y, a->ld_y, NULL, NULL, NULL };
    if (ssm_sweep_knows(c, &sweep, a->dim, a->state, act, a->state_dtype)) return ssm_sweep(c, &sweep, a->state, act, a->state_dtype);
    kn_by_type(act, [&](auto t) {
        kn_by_type(a->state_dtype, [&](auto s) {
            using T = decltype(t);
            using S = decltype(s);
            constexpr int V = 16 / sizeof(S);
            const int lanes = a->state / V;
            const size_t reach = V * sizeof(T) < 16 ? V * sizeof(T) : 16;
            const bool wide = a->state % V == 0 && lanes >= 1 && lanes <= 32 && (lanes & (lanes - 1)) == 0 && (uintptr_t)a->h % 16 == 0 &&
                              kn_aligned(a->B, a->ld_bc, act, reach) && kn_aligned(a->C, a->ld_bc, act, reach) && V * sizeof(T) <= 16;
            if (!wide) {
                ssm_step_any_kernel<T><<<dim3(a->heads, b->decodes), ANY_THREADS, 0, c->stream>>>(*a, *b);
                return;
            }
            constexpr int R = 4, THREADS = 128, BLOCKS = 8; /* the best of those tried on an H200 */
            const int parts = (int)kn_ceil(a->dim, THREADS / lanes * R);
            const step_args step = { *a, *b, lanes, parts };
            kn_early_launch(c, ssm_step_kernel<T, S, V, R, THREADS, BLOCKS>, dim3(a->heads * parts, b->decodes), THREADS, step);
        });
    });
    return KN_LAUNCHED();
}
