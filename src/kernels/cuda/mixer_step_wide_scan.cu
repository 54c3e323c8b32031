/* src/kernels/cuda/mixer_step_wide_scan.cu -- Mamba-1's selective scan of 9 to 64 decode rows, from x_proj's sums to the gated y: RMSNorms of dt, B
 * and C, dt_proj, softplus, the states, D, the gate.  On several ranks of fewer rows, too.
 *
 * A block has 64 channels of 8 or 16 rows: 4 neighbouring lanes have a channel, and a quarter of its states each.  Before it waits for the kernels
 * before, it asks for its part of dt_proj and for the states of its first rows; the others follow as those are used. */
#include "kernels/cuda/mixer_step_wide.cuh"

namespace {

enum {
    LANES = 4,            /* of a channel                                                                */
    SHORT = 8, LONG = 16, /* rows of a block: more blocks move states sooner, but each one reads dt_proj */
    RESIDENT = 4          /* blocks of a multiprocessor */
};

struct scan_args {
    const bf16 *dt_proj;      /* (channels, rank)        */
    const float *mixed;       /* (m, rank + 2 N)         */
    const float *A;           /* (channels, N)           */
    const float *dt_bias, *D; /* (channels) or NULL      */
    void *state;              /* (slots, channels, N)    */
    step_batch batch;
    step_work work;
    int m, channels, rank, pitch; /* bytes between rows of dt_proj, and of its operand, in shared memory */
    float eps;                    /* 0: no norms */
};
template <int N, int ROWS> struct scan_shared {
    uint64_t bar;
    int src[ROWS], dst[ROWS]; /* src -1: no initial state, the slot is dirty */
    float scale[ROWS];        /* of dt's norm */
    __align__(16) float bc[ROWS][2 * N];
    __align__(16) bf16 x[ROWS][STEP_DIM], z[ROWS][STEP_DIM]; /* x: in the end v */
};

/* The threads of a row, neighbours: mixed, in float32, to dt_proj's operand (bf16, before its norm's scale, in the order of mma_swapped), and B and
 * C, normed. */
template <int N, int ROWS> __device__ __forceinline__ void take_row(const scan_args &a, scan_shared<N, ROWS> &sh, unsigned char *operand, int rows)
{
    constexpr int OF_ROW = STEP_THREADS / ROWS, AT_ONCE = ROWS == 8 ? 5 : 3; /* lanes; loads of one in flight */
    const int row = threadIdx.x / OF_ROW, lane = threadIdx.x % OF_ROW, parts = a.rank + 2 * N;
    const float *from = a.mixed + (size_t)(blockIdx.y * ROWS + min(row, rows - 1)) * parts;
    bf16 *to = (bf16 *)(operand + row * a.pitch);
    float squares[3] = { 0, 0, 0 };
#pragma unroll 1
    for (int k0 = 2 * lane; k0 < parts; k0 += AT_ONCE * 2 * OF_ROW) {
        float2 v[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (k0 + i * 2 * OF_ROW < parts) v[i] = __ldcg((const float2 *)(from + k0 + i * 2 * OF_ROW));
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int k = k0 + i * 2 * OF_ROW;
            if (k >= parts) break;
            const float square = v[i].x * v[i].x + v[i].y * v[i].y;
            if (k < a.rank) *(uint32_t *)(to + mma_swapped(k)) = kn_pack_bf16(v[i].x, v[i].y);
            else *(float2 *)&sh.bc[row][k - a.rank] = v[i];
            squares[0] += k < a.rank ? square : 0.f;
            squares[1] += k >= a.rank && k < a.rank + N ? square : 0.f;
            squares[2] += k >= a.rank + N ? square : 0.f;
        }
    }
    if (a.eps > 0) {
#pragma unroll
        for (int i = 0; i < 3; i++) {
            for (int o = OF_ROW / 2; o > 0; o /= 2) squares[i] += __shfl_xor_sync(~0u, squares[i], o);
            squares[i] = rsqrtf(squares[i] / (i ? N : a.rank) + a.eps);
        }
        __syncwarp();
        for (int k = lane; k < 2 * N; k += OF_ROW) sh.bc[row][k] *= squares[k < N ? 1 : 2];
    }
    if (lane == 0) sh.scale[row] = a.eps > 0 ? squares[0] : 1.f;
}

template <class T, int V, int ROWS, int AHEAD> __global__ void __launch_bounds__(STEP_THREADS, RESIDENT) wide_scan_kernel(const __grid_constant__ scan_args a)
{
#if STEP_CODE
    constexpr int N = LANES * V, TILES = ROWS / 8, VECTORS = ROWS * STEP_DIM / 8; /* of 16 bytes, of x and of z */
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ scan_shared<N, ROWS> sh;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, own = threadIdx.x / LANES;
    const int channel0 = blockIdx.x * STEP_DIM, channel = channel0 + own, row0 = blockIdx.y * ROWS, rows = min(ROWS, a.m - row0);
    unsigned char *operand = smem + STEP_DIM * a.pitch;
    const uint32_t bar = kn_shared(&sh.bar);
    if (threadIdx.x == 0) {
        kn_bar_init(bar, 1);
        kn_bar_init_done();
        kn_fence_async();
    }
    if (threadIdx.x < ROWS) {
        const int row = row0 + min((int)threadIdx.x, rows - 1);
        sh.src[threadIdx.x] = a.batch.past[row] > 0 ? a.batch.src[row] : -1;
        sh.dst[threadIdx.x] = a.batch.dst[row];
    }
    __syncthreads();
    dependents_start();
    if (warp == 0) {
        if (lane == 0) kn_bar_expect(bar, STEP_DIM * a.rank * 2);
        __syncwarp();
        for (int i = lane; i < STEP_DIM; i += 32)
            kn_bulk_load(kn_shared(smem + i * a.pitch), a.dt_proj + (size_t)(channel0 + i) * a.rank, a.rank * 2, bar);
    }
    float s[AHEAD][V], A[V];
    const auto place = [&](int slot) { return (T *)a.state + ((size_t)slot * a.channels + channel) * N + q * V; };
    const auto fetch = [&](float (&h)[V], int n) {
        if (sh.src[n] >= 0) {
            state_load<V>(place(sh.src[n]), h);
        } else {
#pragma unroll
            for (int k = 0; k < V; k++) h[k] = 0;
        }
    };
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
        if (j < rows) fetch(s[j], j);
    state_load<V>(a.A + (size_t)channel * N + q * V, A);
    const float D = a.D ? a.D[channel] : 0.f, bias = a.dt_bias ? a.dt_bias[channel] : 0.f;
    dependency_wait();

    const int n16 = threadIdx.x % VECTORS / 8, at16 = threadIdx.x % 8 * 8;
    {
        const bool x = threadIdx.x < VECTORS, z = !x && threadIdx.x < 2 * VECTORS;
        uint4 v = make_uint4(0, 0, 0, 0);
        if ((x || z) && n16 < rows) v = __ldcg((const uint4 *)((x ? a.work.xbc : a.work.z) + (size_t)(row0 + n16) * a.channels + channel0 + at16));
        take_row<N, ROWS>(a, sh, operand, rows);
        if (x || z) *(uint4 *)(x ? &sh.x[n16][at16] : &sh.z[n16][at16]) = v;
    }
    __syncthreads();
    kn_bar_wait(bar, 0);

    float dt[TILES][2]; /* of this lane's channel and rows 8 t + 2 q and + 1 */
    {
        float acc[TILES][2][4] = {};
        const uint32_t w = kn_shared(smem) + own * a.pitch + q * 16, x = kn_shared(operand) + g * a.pitch + q * 16;
#pragma unroll 4
        for (int k = 0; k < a.rank; k += 32) {
            const uint4 none = make_uint4(0, 0, 0, 0);
            const bool has = k + q * 8 < a.rank;
            const uint4 weights = has ? load_shared16(w + 2 * k) : none;
#pragma unroll
            for (int t = 0; t < TILES; t++) mma32(acc[t], weights, has ? load_shared16(x + t * 8 * a.pitch + 2 * k) : none);
        }
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < 2; i++) dt[t][i] = kn_softplus(mma_sum(acc[t], i) * sh.scale[t * 8 + 2 * q + i] + bias);
    }

#pragma unroll
    for (int k = 0; k < V; k++) A[k] *= 1.4426950408889634f;
    float y = 0; /* of every fourth row: this lane gates it */
#pragma unroll
    for (int n = 0; n < ROWS; n++) {
        float(&h)[V] = s[n % AHEAD];
        if (n < rows) {
            const float step = __shfl_sync(~0u, dt[n / 8][n % 2], (lane & ~3) + n % 8 / 2), x = __bfloat162float(sh.x[n][own]), in = step * x;
            float sum = 0;
#pragma unroll
            for (int k = 0; k < V; k++) {
                h[k] = kn_exp2(step * A[k]) * h[k] + in * sh.bc[n][q * V + k];
                sum += h[k] * sh.bc[n][N + q * V + k];
            }
            state_store<V>(place(sh.dst[n]), h);
            if (n + AHEAD < rows) fetch(h, n + AHEAD);
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            if (q == n % LANES) y = sum + D * x;
        }
        if (n % LANES == LANES - 1) __syncwarp(); /* x of these rows has been read */
        const int mine = n - LANES + 1 + q;
        if (n % LANES == LANES - 1 && mine < rows) sh.x[mine][own] = __float2bfloat16(y * kn_silu(__bfloat162float(sh.z[mine][own])));
    }
    __syncthreads();
    if (threadIdx.x < VECTORS && n16 < rows) *(uint4 *)(a.work.v + (size_t)(row0 + n16) * a.channels + channel0 + at16) = *(const uint4 *)&sh.x[n16][at16];
#endif
}

size_t shared_of(int rank, int rows) { return (size_t)(STEP_DIM + rows) * step_odd_pitch(rank * 2); }

template <class T, int ROWS> plp_status launch(kn_context *c, const kn_scan_mixer_args *a, const scan_args &s)
{
    const dim3 grid(a->channels / STEP_DIM, (unsigned)kn_ceil(a->rows, ROWS));
    const size_t shared = shared_of(a->dt_rank, ROWS);
    if (a->state == 8) return step_launch<wide_scan_kernel<T, 2, ROWS, 8>>(c, grid, shared, s);
    if (a->state == 16) return step_launch<wide_scan_kernel<T, 4, ROWS, 4>>(c, grid, shared, s);
    return step_launch<wide_scan_kernel<T, 8, ROWS, 2>>(c, grid, shared, s);
}
template <class T> plp_status launch(kn_context *c, const kn_scan_mixer_args *a, const scan_args &s)
{
    const bool at_once = a->channels / STEP_DIM * kn_ceil(a->rows, SHORT) <= RESIDENT * c->sms; /* the same but for the order in which squares of a long dt are added */
    return at_once ? launch<T, SHORT>(c, a, s) : launch<T, LONG>(c, a, s);
}

} // namespace

bool mixer_step_wide_scan_knows(const kn_scan_mixer_args *a)
{
    enum { ROOM = 128 * 1024 };
    const bool state = a->state == 8 || a->state == 16 || a->state == 32, type = a->ssm_dtype == PLP_F32 || a->ssm_dtype == PLP_BF16;
    return state && type && a->dt_rank >= 8 && a->dt_rank % 8 == 0 && shared_of(a->dt_rank, LONG) <= ROOM && step_aligned(a->dt_proj) && step_aligned(a->A) &&
           step_aligned(a->ssm_state) && step_aligned(a->mixed);
}

plp_status mixer_step_wide_scan(kn_context *c, const kn_scan_mixer_args *a, const step_batch *b, const step_work *w)
{
    const scan_args s = { (const bf16 *)a->dt_proj, a->mixed, a->A, a->dt_bias, a->D, a->ssm_state, *b, *w, a->rows, a->channels, a->dt_rank,
                          step_odd_pitch(a->dt_rank * 2), (float)a->mixer_eps };
    return a->ssm_dtype == PLP_F32 ? launch<float>(c, a, s) : launch<bf16>(c, a, s);
}
