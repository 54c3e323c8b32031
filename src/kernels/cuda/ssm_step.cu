/* src/kernels/cuda/ssm_step.cu -- kn->ssm_step: one token of the state space for every decode row.
 *
 * The state is read and written once and is nearly all of the traffic, so everything serves its 16-byte accesses: L neighbouring lanes hold
 * one row of it (V values each), a block holds `rows` rows of one head, and all loads of a thread are in flight before the first is used. */
#include "kernels/cuda/common.cuh"

namespace {

constexpr int THREADS = 256, DEPTH = 8; /* rows of the state that a thread loads before it uses the first */

/* grid: (heads * parts, decode rows); part p of a head is its rows p * rows .. */
template <class T, class S, int V>
__global__ void __launch_bounds__(THREADS) ssm_step_kernel(kn_ssm_args a, kn_batch b, int lanes, int rows)
{
    const int parts = (a.dim + rows - 1) / rows, head = blockIdx.x / parts, part = blockIdx.x % parts, t = blockIdx.y;
    const int lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = THREADS / lanes;
    const int end = min(a.dim, (part + 1) * rows);
    const bool known = b.past[t] > 0;
    const int64_t tile = (int64_t)a.dim * a.state, column = (int64_t)lane * V;
    const S *src = (const S *)a.h + ((int64_t)b.src_slot[t] * a.heads + head) * tile + column;
    S *dst = (S *)a.h + ((int64_t)b.dst_slot[t] * a.heads + head) * tile + column;
    const T *x = (const T *)a.x + t * a.ld_x + (int64_t)head * a.dim;
    T *y = (T *)a.y + t * a.ld_y + (int64_t)head * a.dim;

    for (int base = part * rows; base < end; base += teams * DEPTH) { /* uniform: all lanes take part in the shuffles */
        const int first = base + team;
        kn_pack<S, V> h[DEPTH];
        float xs[DEPTH];
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const int p = first + k * teams;
            if (p >= end) continue;
            if (known) h[k] = *(const kn_pack<S, V> *)(src + (int64_t)p * a.state);
            xs[k] = kn_float(x[p]);
        }
        float B[V], C[V];
        const int64_t bc = t * a.ld_bc + (int64_t)a.group[head] * a.state + column;
        kn_load<V>((const T *)a.B + bc, B);
        kn_load<V>((const T *)a.C + bc, C);
        const kn_ssm_scalars w = kn_ssm_scalars_of(a, kn_float(((const T *)a.dt)[t * a.ld_dt + head]), head);
#pragma unroll
        for (int j = 0; j < V; j++) B[j] *= w.dt;
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const int p = first + k * teams;
            float sum = 0.f;
            if (p < end) {
#pragma unroll
                for (int j = 0; j < V; j++) {
                    const float v = (known ? w.decay * kn_float(h[k].v[j]) : 0.f) + xs[k] * B[j];
                    h[k].v[j] = kn_as<S>(v);
                    sum += v * C[j];
                }
                *(kn_pack<S, V> *)(dst + (int64_t)p * a.state) = h[k];
            }
            for (int o = lanes / 2; o > 0; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
            if (p < end && lane == 0) y[p] = kn_as<T>(sum + w.skip * xs[k]);
        }
    }
}

/* Any state size: a warp takes a row, its lanes every 32nd value. */
template <class T> __global__ void __launch_bounds__(THREADS) ssm_step_any_kernel(kn_ssm_args a, kn_batch b)
{
    const int head = blockIdx.x, t = blockIdx.y, lane = threadIdx.x % 32;
    const bool known = b.past[t] > 0;
    const kn_ssm_scalars w = kn_ssm_scalars_of(a, kn_float(((const T *)a.dt)[t * a.ld_dt + head]), head);
    const T *B = (const T *)a.B + t * a.ld_bc + (int64_t)a.group[head] * a.state;
    const T *C = (const T *)a.C + t * a.ld_bc + (int64_t)a.group[head] * a.state;
    for (int p = threadIdx.x / 32; p < a.dim; p += THREADS / 32) {
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
                ssm_step_any_kernel<T><<<dim3(a->heads, b->decodes), THREADS, 0, c->stream>>>(*a, *b);
                return;
            }
            const int teams = THREADS / lanes;
            int rows = a->dim; /* of the state in a block: fewer where the heads alone do not fill the GPU */
            while (rows > teams && (int64_t)a->heads * b->decodes * kn_ceil(a->dim, rows) < 4 * c->sms) rows = (int)kn_ceil(rows, 2);
            const dim3 grid(a->heads * (int)kn_ceil(a->dim, rows), b->decodes);
            ssm_step_kernel<T, S, V><<<grid, THREADS, 0, c->stream>>>(*a, *b, lanes, rows);
        });
    });
    return KN_LAUNCHED();
}
