/* src/kernels/cuda/mixer_step_ssm.cu -- the second kernel of a mixer's decode step: the state update, the D term and the gate.
 *
 * One block per (head, row), but for many of both (ssm_sweep.cuh): 8 warps x 8 rows of the (64, state) matrix; a lane owns state / 32 neighbouring columns of each row.  The whole
 * state is asked for before the wait.  Where `in` tells x, B, C, dt and then z (up to STEP_ROWS rows), the states move while it streams z, and
 * the end of `in` is not waited for; else it is.  Writes v * weight (bf16, not yet normalised) and sums of v^2, of 8 channels or of the
 * head (no atomics: the same bits in every run). */
#include "kernels/cuda/mixer_step.cuh"
#include "kernels/cuda/ssm_sweep.cuh"

namespace {

/* Rows of a block at most.  Room for more than it is given (see mixer_step_ssm), so that at 8 rows no block of the next layer fits beside `in` and
 * `out`, whose states would come between (1.3 % of a step of Codestral). */
enum { SSM_HELD = STEP_ROWS };

struct ssm_args {
    void *state; /* (slots, heads, 64, state) */
    step_batch batch;
    step_work work;
    const int *group;             /* (heads) */
    const float *A, *D, *weight;  /* (heads), (heads) or NULL, (inner) or NULL */
    int groups, rows_each;
    step_told told; /* TOLD */
};

/* TOLD: grid (rows / rows_each, heads), so that heads end in the order of z; else (heads, rows). */
template <class T, int V, bool TOLD> __global__ void __launch_bounds__(STEP_THREADS, 4) mixer_ssm_kernel(const __grid_constant__ ssm_args a)
{
#if STEP_CODE
    constexpr int N = 32 * V, WORDS = 2 * N + STEP_DIM + 1; /* B, C, x, dt */
    __shared__ __align__(16) float in[2][TOLD ? (WORDS + 3) / 4 * 4 : 1]; /* two, so that no row waits for the last one's readers */
    __shared__ float held[SSM_HELD][STEP_DIM], parts[STEP_WARPS];
    const int h = TOLD ? blockIdx.y : blockIdx.x, heads = TOLD ? gridDim.y : gridDim.x, first = TOLD ? blockIdx.x * a.rows_each : blockIdx.y;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    dependents_start();
    const int inner = heads * STEP_DIM, own = warp * 8 + lane / 4, p = h * STEP_DIM + own; /* the channel this lane finishes */
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
    T *to = row(a.batch.dst[first]);
    fetch(a.batch.src[first], a.batch.past[first] <= 0);
    const float A = a.A[h], D = a.D ? a.D[h] : 0.f, weight = a.weight ? a.weight[p] : 1.f;
    const int group = a.group[h], channels = inner + 2 * a.groups * N, end = first + (TOLD ? a.rows_each : 1);
    const auto gate = [&](int m, float y, float z) {
        const float v = y * kn_silu(z);
        float square = v * v;
        square += __shfl_xor_sync(~0u, square, 4);
        square += __shfl_xor_sync(~0u, square, 8);
        square += __shfl_xor_sync(~0u, square, 16);
        if (lane % 4 == 0) a.work.v[(size_t)m * inner + (TOLD ? mma_swapped(p) : p)] = __float2bfloat16(v * weight);
        if (lane == 0) (TOLD ? a.work.squares[((size_t)m * inner + p) / 8] : parts[warp]) = square;
    };
    if (!TOLD) dependency_wait();

#pragma unroll 1
    for (int m = first; m < end; m++) {
        float dt, B[V], C[V], x[8], x_p, z_p = 0;
        if constexpr (TOLD) {
            const uint32_t *told = a.told.in + (size_t)m * (channels + heads);
            float *words = in[m & 1];
            /* One thread looks, at what comes last; then all look at all. */
            if (threadIdx.x == 0)
                while (!(step_look(told + channels + h) & 1)) __nanosleep(50);
            __syncthreads();
#pragma unroll
            for (int i = threadIdx.x; i < WORDS; i += STEP_THREADS) {
                const int at = i < N ? inner + group * N + i : i < 2 * N ? inner + (a.groups + group) * N + i - N : i < WORDS - 1 ? h * STEP_DIM + i - 2 * N : channels + h;
                const uint32_t word = step_wait(told + at);
                words[i] = i < WORDS - 1 ? step_bf16(word) : __uint_as_float(word);
            }
            __syncthreads();
            dt = words[WORDS - 1];
#pragma unroll
            for (int k = 0; k < V; k++) B[k] = words[lane * V + k], C[k] = words[N + lane * V + k];
#pragma unroll
            for (int j = 0; j < 8; j++) x[j] = words[2 * N + warp * 8 + j];
            x_p = words[2 * N + own];
        } else {
            const bf16 *xbc = a.work.xbc + (size_t)m * channels;
            dt = __ldcg(a.work.dt + (size_t)m * heads + h);
            state_load<V>(xbc + inner + group * N + lane * V, B);
            state_load<V>(xbc + inner + (a.groups + group) * N + lane * V, C);
            state_load<8>(xbc + h * STEP_DIM + warp * 8, x);
            x_p = load_bf16(xbc + p), z_p = load_bf16(a.work.z + (size_t)m * inner + p);
        }
        const int next = TOLD && m + 1 < end ? m + 1 : m, next_slot = TOLD ? a.batch.src[next] : 0, next_dst = TOLD ? a.batch.dst[next] : 0;
        const bool next_fresh = TOLD && a.batch.past[next] <= 0;
        const float decay = __expf(dt * A);
        float y[8];
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
        if (TOLD && next != m) {
            fetch(next_slot, next_fresh);
            to = row(next_dst);
        }
        const float y_p = step_sum_lanes<8, 32>(y, lane) + D * x_p;
        if constexpr (TOLD) {
            if (lane % 4 == 0) held[m - first][own] = y_p;
        } else {
            gate(m, y_p, z_p);
            __syncthreads();
            if (threadIdx.x == 0) {
                float t = 0;
                for (int w = 0; w < STEP_WARPS; w++) t += parts[w];
                a.work.squares[(size_t)m * heads + h] = t;
            }
        }
    }
    if constexpr (TOLD) {
        __syncwarp();
        for (int m = first; m < end; m++) gate(m, held[m - first][own], step_bf16(step_wait(a.told.z + (size_t)m * inner + p)));
    }
#endif
}

template <class T, int V> plp_status launch(kn_context *c, const kn_mixer_step_args *a, const ssm_args &s)
{
    if (s.told.in == NULL) return step_launch<mixer_ssm_kernel<T, V, false>>(c, dim3(a->heads, a->rows), 0, s);
    return step_launch<mixer_ssm_kernel<T, V, true>>(c, dim3(a->rows / s.rows_each, a->heads), 0, s);
}

} // namespace

bool mixer_step_ssm_knows(const kn_mixer_step_args *a)
{
    return a->dim == STEP_DIM && (a->state == 64 || a->state == 128) && (a->ssm_dtype == PLP_F32 || a->ssm_dtype == PLP_BF16) && step_aligned(a->ssm_state);
}

plp_status mixer_step_ssm(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w, const step_told *told)
{
    if (told == NULL) {
        const int inner = step_inner(a), channels = step_channels(a);
        const bf16 *B = w->xbc + inner;
        const ssm_sweep_args sweep = { a->rows, a->heads, a->ssm_state, b->src, b->dst, b->past, a->group, w->xbc, B, B + a->groups * a->state, w->dt,
                                       channels, channels, a->heads, a->A, a->D, NULL, 0, 0, w->v, inner, w->z, a->gate_weight, w->squares };
        if (ssm_sweep_knows(c, &sweep, a->dim, a->state, PLP_BF16, a->ssm_dtype)) return ssm_sweep(c, &sweep, a->state, PLP_BF16, a->ssm_dtype);
    }
    /* Two blocks a multiprocessor beside `in` would keep `out` from starting early: 2 and 3 rows are cheaper one after the other. */
    const int each = a->rows <= 3 && a->rows * a->heads > c->sms ? a->rows : 1;
    const ssm_args s = { a->ssm_state, *b, *w, a->group, a->A, a->D, a->gate_weight, a->groups, each, told ? *told : step_told{} };
    if (a->state == 128) return a->ssm_dtype == PLP_F32 ? launch<float, 4>(c, a, s) : launch<bf16, 4>(c, a, s);
    return a->ssm_dtype == PLP_F32 ? launch<float, 2>(c, a, s) : launch<bf16, 2>(c, a, s);
}
