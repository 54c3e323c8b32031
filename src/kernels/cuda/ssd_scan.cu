/* src/kernels/cuda/ssd_scan.cu -- the prefill of the state space as a plain scan in float32, for every size, type and GPU.
 *
 * A warp keeps four rows of a head's state in registers and walks down the slice; tokens are staged through shared memory.  Row for row
 * it computes what kn->ssm_step computes, whatever the chunks: its results do not depend on how a prompt was cut. */
#include "kernels/cuda/ssd.cuh"

namespace
{

constexpr int THREADS = 256, ROWS = 4, STAGE = 16, TILE = THREADS / 32 * ROWS; /* rows of the state: of a warp, of a block */

/* The sums of four values over the warp; lane l gets the one of number l / 8. */
__device__ __forceinline__ float sum4(const float (&v)[4])
{
    const int lane = threadIdx.x % 32;
    const bool high = lane & 16, upper = lane & 8;
    const float a = (high ? v[2] : v[0]) + __shfl_xor_sync(~0u, high ? v[0] : v[2], 16);
    const float b = (high ? v[3] : v[1]) + __shfl_xor_sync(~0u, high ? v[1] : v[3], 16);
    float s = (upper ? b : a) + __shfl_xor_sync(~0u, upper ? a : b, 8);
#pragma unroll
    for (int o = 4; o > 0; o /= 2) s += __shfl_xor_sync(~0u, s, o);
    return s;
}

/* grid: (heads * tiles of dim, prefill sequences).  NL: columns of the state a lane holds, every 32nd one. */
template <class T, int NL>
__global__ void __launch_bounds__(THREADS) scan_kernel(kn_ssm_args a, kn_batch b, const int *snap_start, const int *snap_slot)
{
    __shared__ float Bs[STAGE][NL * 32], Cs[STAGE][NL * 32], xs[STAGE][TILE], dts[STAGE], decays[STAGE];
    const int tiles = (a.dim + TILE - 1) / TILE, head = blockIdx.x / tiles, p0 = blockIdx.x % tiles * TILE;
    const int s = b.decodes + blockIdx.y, lane = threadIdx.x % 32, row = threadIdx.x / 32 * ROWS; /* of the tile */
    const int64_t from = b.start[s], to = b.start[s + 1], past = b.past[s], size = (int64_t)a.dim * a.state;
    const float skip = a.D != NULL ? a.D[head] : 0.f;
    float h[ROWS][NL];

    const auto each = [&](auto f) { /* f(value, offset within the head's state) for what exists of this lane's part */
#pragma unroll
                                    for (int r = 0; r < ROWS; r++)
#pragma unroll
                                        for (int j = 0; j < NL; j++)
                                            if (p0 + row + r < a.dim && lane + 32 * j < a.state)
                                                f(h[r][j], (int64_t)(p0 + row + r) * a.state + lane + 32 * j);
    };
    const auto keep = [&](int slot) {
        each([&](float &v, int64_t i) { kn_store_any(a.h, a.state_dtype, ((int64_t)slot * a.heads + head) * size + i, v); });
    };
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < NL; j++) h[r][j] = 0.f;
    if (past > 0) {
        const int64_t slot = b.src_slot[s];
        each([&](float &v, int64_t i) { v = kn_load_any(a.h, a.state_dtype, (slot * a.heads + head) * size + i); });
    }
    int until = a.block > 0 ? a.block - (int)(past % a.block) : -1, snap = a.block > 0 ? snap_start[s] : 0;

    for (int64_t t0 = from; t0 < to; t0 += STAGE) {
        const int count = (int)(to - t0 < STAGE ? to - t0 : STAGE);
        __syncthreads(); /* the last stage was read */
        for (int i = threadIdx.x; i < STAGE * NL * 32; i += THREADS) {
            const int t = i / (NL * 32), n = i % (NL * 32);
            const int64_t at = (t0 + t) * a.ld_bc + (int64_t)a.group[head] * a.state + n;
            const bool inside = t < count && n < a.state;
            Bs[t][n] = inside ? kn_float(((const T *)a.B)[at]) : 0.f;
            Cs[t][n] = inside ? kn_float(((const T *)a.C)[at]) : 0.f;
        }
        for (int i = threadIdx.x; i < STAGE * TILE; i += THREADS) {
            const int t = i / TILE, p = p0 + i % TILE;
            xs[t][i % TILE] = t < count && p < a.dim ? kn_float(((const T *)a.x)[(t0 + t) * a.ld_x + (int64_t)head * a.dim + p]) : 0.f;
        }
        if (threadIdx.x < count) {
            const kn_ssm_scalars w = kn_ssm_scalars_of(a, kn_float(((const T *)a.dt)[(t0 + threadIdx.x) * a.ld_dt + head]), head);
            dts[threadIdx.x] = w.dt;
            decays[threadIdx.x] = w.decay;
        }
        __syncthreads();
        for (int t = 0; t < count; t++) {
            const float dt = dts[t], decay = decays[t];
            float sum[ROWS] = {};
#pragma unroll
            for (int j = 0; j < NL; j++) {
                const float B = Bs[t][lane + 32 * j], C = Cs[t][lane + 32 * j];
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    h[r][j] = decay * h[r][j] + dt * xs[t][row + r] * B;
                    sum[r] += h[r][j] * C;
                }
            }
            const float y = sum4(sum);
            const int mine = row + lane / 8;
            if (lane % 8 == 0 && p0 + mine < a.dim)
                ((T *)a.y)[(t0 + t) * a.ld_y + (int64_t)head * a.dim + p0 + mine] = kn_as<T>(y + skip * xs[t][mine]);
            if (--until == 0) {
                const int slot = snap_slot[snap++];
                if (slot >= 0) keep(slot);
                until = a.block;
            }
        }
    }
    keep(b.dst_slot[s]);
}

} // namespace

plp_status kn_ssd_scan_run(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    if (a->state > KN_MOST_STATE) return PLP_FAIL(PLP_ERR_INTERNAL, "ssd: state %d of at most %d", a->state, KN_MOST_STATE);
    const dim3 grid(a->heads * (int)kn_ceil(a->dim, TILE), b->seqs - b->decodes);
    const int *snap_start = c->ssd->snap_start, *snap_slot = c->ssd->snap_slot;
    kn_by_type(c->options.act, [&](auto t) {
        using T = decltype(t);
        if (a->state <= 32)
            scan_kernel<T, 1><<<grid, THREADS, 0, c->stream>>>(*a, *b, snap_start, snap_slot);
        else if (a->state <= 128)
            scan_kernel<T, 4><<<grid, THREADS, 0, c->stream>>>(*a, *b, snap_start, snap_slot);
        else
            scan_kernel<T, 8><<<grid, THREADS, 0, c->stream>>>(*a, *b, snap_start, snap_slot);
    });
    return KN_LAUNCHED();
}
