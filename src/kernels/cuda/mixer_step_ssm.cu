/* src/kernels/cuda/mixer_step_ssm.cu -- the second kernel of a mixer's decode step: the state update, the D term and the gate.
 *
 * One block per (head, row), or few rows: 8 warps x 8 rows of the (64, state) matrix; a lane owns state / 32 neighbouring columns of each row.  The
 * whole state is asked for before the wait.  Writes v * weight (bf16, not yet normalised) and the head's sum of v^2 (no atomics: the same
 * bits in every run). */
#include "kernels/cuda/mixer_step.cuh"

namespace {

struct ssm_args {
    void *state; /* (slots, heads, 64, state) */
    step_batch batch;
    step_work work;
    const int *group;             /* (heads) */
    const float *A, *D, *weight;  /* (heads), (heads) or NULL, (inner) or NULL */
    int groups, rows_each;
    bool swapped; /* v as `out` multiplies it: mma_swapped */
};

/* The 8 sums over 32 lanes in 9 shuffles: halve the list while halving the lanes.  Lane l returns sum l / 4. */
__device__ __forceinline__ float sum_rows(float (&y)[8], int lane)
{
#pragma unroll
    for (int half = 4, bit = 16; half > 0; half /= 2, bit /= 2)
#pragma unroll
        for (int j = 0; j < half; j++) {
            const float give = lane & bit ? y[j] : y[j + half], keep = lane & bit ? y[j + half] : y[j];
            y[j] = keep + __shfl_xor_sync(~0u, give, bit);
        }
    y[0] += __shfl_xor_sync(~0u, y[0], 2);
    return y[0] + __shfl_xor_sync(~0u, y[0], 1);
}

template <class T, int V, bool MANY> __global__ void __launch_bounds__(STEP_THREADS, 4) mixer_ssm_kernel(const __grid_constant__ ssm_args a)
{
#if STEP_CODE
    constexpr int N = 32 * V;
    __shared__ float part[2][STEP_WARPS];
    const int h = blockIdx.x, heads = gridDim.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    dependents_start();
    const int inner = heads * STEP_DIM, p = h * STEP_DIM + warp * 8 + lane / 4; /* the channel this lane finishes */
    const auto row = [&](int slot) { return (T *)a.state + (((size_t)slot * heads + h) * STEP_DIM + warp * 8) * N + lane * V; };
    float s[8][V];
    const auto fetch = [&](int slot, bool fresh) { /* fresh: no initial state, the slot is dirty and must not be read */
        const T *from = row(slot);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (fresh) {
#pragma unroll
                for (int k = 0; k < V; k++) s[j][k] = 0;
            } else {
                state_load<V>(from + j * N, s[j]);
            }
        }
    };
    const int first = MANY ? blockIdx.y * a.rows_each : blockIdx.y, end = MANY ? first + a.rows_each : first + 1;
    int m = first;
    T *to = row(a.batch.dst[m]);
    fetch(a.batch.src[m], a.batch.past[m] <= 0);
    const float A = a.A[h], D = a.D ? a.D[h] : 0.f, weight = a.weight ? a.weight[p] : 1.f;
    const int group = a.group[h];
    dependency_wait();

#pragma unroll 1
    for (; m < end; m++) {
        const bf16 *xbc = a.work.xbc + (size_t)m * (inner + 2 * a.groups * N);
        const float dt = __ldcg(a.work.dt + (size_t)m * heads + h), decay = __expf(dt * A);
        float B[V], C[V], y[8];
        state_load<V>(xbc + inner + group * N + lane * V, B);
        state_load<V>(xbc + inner + (a.groups + group) * N + lane * V, C);
        const uint4 xu = __ldcg((const uint4 *)(xbc + h * STEP_DIM + warp * 8));
        const float x_p = load_bf16(xbc + p), z_p = load_bf16(a.work.z + (size_t)m * inner + p);
        const float2 x01 = unpack(xu.x), x23 = unpack(xu.y), x45 = unpack(xu.z), x67 = unpack(xu.w);
        const float x[8] = { x01.x, x01.y, x23.x, x23.y, x45.x, x45.y, x67.x, x67.y };
        const int next = m + 1 < end ? m + 1 : m, next_slot = MANY ? a.batch.src[next] : 0, next_dst = MANY ? a.batch.dst[next] : 0;
        const bool next_fresh = MANY && a.batch.past[next] <= 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float dtx = dt * x[j];
            y[j] = 0;
#pragma unroll
            for (int k = 0; k < V; k++) {
                s[j][k] = decay * s[j][k] + dtx * B[k];
                y[j] += s[j][k] * C[k];
            }
            state_store<V>(to + j * N, s[j]);
        }
        if (MANY && next != m) {
            fetch(next_slot, next_fresh);
            to = row(next_dst);
        }
        const float v = (sum_rows(y, lane) + D * x_p) * kn_silu(z_p);
        if (lane % 4 == 0) a.work.v[(size_t)m * inner + (a.swapped ? mma_swapped(p) : p)] = __float2bfloat16(v * weight);
        float square = v * v;
        square += __shfl_xor_sync(~0u, square, 4);
        square += __shfl_xor_sync(~0u, square, 8);
        square += __shfl_xor_sync(~0u, square, 16);
        float *parts = part[(m - first) & 1]; /* two, so that one barrier a row is enough */
        if (lane == 0) parts[warp] = square;
        __syncthreads();
        if (threadIdx.x == 0) {
            float t = 0;
            for (int w = 0; w < STEP_WARPS; w++) t += parts[w];
            a.work.squares[(size_t)m * heads + h] = t;
        }
    }
#endif
}

template <class T, int V> plp_status launch(kn_context *c, dim3 grid, const ssm_args &a)
{
    return a.rows_each > 1 ? step_launch<mixer_ssm_kernel<T, V, true>>(c, grid, 0, a) : step_launch<mixer_ssm_kernel<T, V, false>>(c, grid, 0, a);
}

} // namespace

bool mixer_step_ssm_knows(const kn_mixer_step_args *a)
{
    return a->dim == STEP_DIM && (a->state == 64 || a->state == 128) && (a->ssm_dtype == PLP_F32 || a->ssm_dtype == PLP_BF16) && step_aligned(a->ssm_state);
}

plp_status mixer_step_ssm(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w)
{
    /* Two blocks a multiprocessor beside `in` would keep `out` from starting early: 2 and 3 rows are cheaper one after the other. */
    const int each = a->rows <= 3 && a->rows * a->heads > c->sms ? a->rows : 1;
    const ssm_args s = { a->ssm_state, *b, *w, a->group, a->A, a->D, a->gate_weight, a->groups, each, a->rows <= STEP_ROWS };
    const dim3 grid(a->heads, a->rows / each);
    if (a->state == 128) return a->ssm_dtype == PLP_F32 ? launch<float, 4>(c, grid, s) : launch<bf16, 4>(c, grid, s);
    return a->ssm_dtype == PLP_F32 ? launch<float, 2>(c, grid, s) : launch<bf16, 2>(c, grid, s);
}
