/* src/kernels/cuda/mixer_step_wide_out.cu -- the gate's group norm and out_proj of 9 to 64 decode rows, as in mixer_step_out.cu.
 *
 * hidden is small, so that a band of rows for every multiprocessor would read more of v than of the weights: a few blocks share a band, each
 * with a part of the columns, and the last of them to end adds the parts up, always in the same order.  A stage is one head: the sums are kept in units
 * of their norm group's scale, and rescaled where the group changes. */
#include "kernels/cuda/mixer_step_wide.cuh"

namespace {

enum { AT_ONCE = 4 /* outputs of a thread */, OUT_GROUPS = 2, OUT_THREADS = OUT_GROUPS * 128, OUT_BAND = OUT_GROUPS * 64 };
static_assert((int)STEP_DIM == (int)WIDE_COLUMNS, "a stage is a head");

struct out_args {
    wide_args product;
    const float *bias, *squares; /* (rows) or NULL, (m, heads) */
    wide_work work;
    float *out; /* (m, ld): the residual, or this rank's partial sum */
    int64_t ld;
    bool add, scale, fold; /* as in mixer_step_out.cu */
    int bands, parts, heads, groups;
    int span; /* the most norm groups that a part has heads of */
    float width, eps;
    short first[STEP_GROUPS + 1]; /* the norm groups' first heads */
};
struct out_shared {
    wide_barriers bars;
    unsigned char group[STEP_HEADS];
    bool last;
};

/* rstd (groups, N) of the norm groups that this block's heads are in: `lanes` neighbours a row and group, the same order in every run. */
template <int N> __device__ __forceinline__ void statistics(const out_args &a, const out_shared &sh, const wide_piece &p, float *rstd, bool sums)
{
    const int g0 = sh.group[p.first], count = sh.group[p.first + p.count - 1] - g0 + 1, m = a.product.m;
    int lanes = 32;
    while (lanes > 1 && N * count * lanes > OUT_THREADS) lanes /= 2; /* not by m: rows must not depend on each other */
    const int lane = threadIdx.x % lanes, pairs = m * count, turns = (pairs * lanes + OUT_THREADS - 1) / OUT_THREADS;
    for (int turn = 0; turn < turns; turn++) {
        const int pair = (turn * OUT_THREADS + threadIdx.x) / lanes, n = pair % m, g = g0 + pair / m;
        const bool has = pair < pairs;
        const int end = has ? a.first[g + 1] : 0;
        float t = 0;
#pragma unroll 8
        for (int h = has ? a.first[g] + lane : 0; h < end; h += lanes) t += __ldcg(a.squares + (size_t)n * a.heads + h);
        for (int o = lanes / 2; o > 0; o /= 2) t += __shfl_xor_sync(~0u, t, o);
        if (!has || lane > 0) continue;
        rstd[(g - g0) * N + n] = a.scale ? rsqrtf(t / a.width + a.eps) : 1.f;
        if (sums) a.out[n * a.ld + a.product.rows] = t;
    }
    for (int i = threadIdx.x; i < (N - m) * count; i += OUT_THREADS) rstd[i / (N - m) * N + m + i % (N - m)] = 1;
}

template <int N> __global__ void __launch_bounds__(OUT_THREADS + 32) wide_out_kernel(const __grid_constant__ out_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ unsigned char smem[];
    __shared__ out_shared sh;
    unsigned char *ring = wide_ring(smem);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, m = a.product.m, rows = a.product.rows;
    const int band = blockIdx.x % a.bands, part = blockIdx.x / a.bands;
    const wide_piece p(a.product, band, a.bands, part, a.parts);
    wide_start(&sh.bars, a.product.slots, OUT_GROUPS * 4);
    dependents_start();
    if (warp == OUT_THREADS / 32) {
        if (lane == 0) wide_fetch<N>(a.product, p, ring, &sh.bars);
        return;
    }
    for (int h = threadIdx.x; h < a.heads; h += OUT_THREADS) {
        int group = 0;
        while (group + 1 < a.groups && a.first[group + 1] <= h) group++;
        sh.group[h] = (unsigned char)group;
    }
    wide_sync(OUT_THREADS);
    dependency_wait();
    float *rstd = (float *)(ring + a.product.slots * wide_stage(a.product.box, N));
    statistics<N>(a, sh, p, rstd, a.fold && blockIdx.x == 0);
    wide_sync(OUT_THREADS);

    float sum[N / 2];
    wide_place at;
    const int g0 = sh.group[p.first];
    int group = sh.group[p.chunk(0)];
    while (at.stage < p.count) {
        int end = at.stage + 1;
        while (end < p.count && sh.group[p.chunk(end)] == group) end++;
        wide_multiply<N>(a.product, ring, &sh.bars, at, end, at.stage > 0, sum);
        const int next = end < p.count ? sh.group[p.chunk(end)] : -1;
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float2 s = *(const float2 *)(rstd + (group - g0) * N + j * 8 + 2 * q);
            if (next >= 0) {
                const float2 t = *(const float2 *)(rstd + (next - g0) * N + j * 8 + 2 * q);
                s.x = __fdividef(s.x, t.x), s.y = __fdividef(s.y, t.y);
            }
            sum[4 * j] *= s.x, sum[4 * j + 1] *= s.y, sum[4 * j + 2] *= s.x, sum[4 * j + 3] *= s.y;
        }
        group = next;
    }
    const int m0 = warp * 16 + g;
    float *to = a.work.parts + (size_t)part * m * rows + p.row0 + m0;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int n = j * 8 + 2 * q + c % 2, r = c / 2 * 8;
            if (n < m && m0 + r < p.rows) __stcg(to + (size_t)n * rows + r, sum[4 * j + c]);
        }
    __threadfence();
    wide_sync(OUT_THREADS);
    if (threadIdx.x == 0) sh.last = atomicAdd(a.work.ended + band, 1) == (unsigned)a.parts - 1;
    wide_sync(OUT_THREADS);
    if (!sh.last) return;
    __threadfence();
    const int packs = p.rows / 4; /* bands and hidden are multiples of 8 rows */
    for (int i0 = threadIdx.x; i0 < packs * m; i0 += OUT_THREADS * AT_ONCE) {
        float4 part[AT_ONCE][WIDE_PARTS], old[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) { /* all loads before the first store */
            const int i = i0 + u * OUT_THREADS, n = i / packs, r = p.row0 + i % packs * 4;
            const bool has = i < packs * m;
#pragma unroll
            for (int s = 0; s < WIDE_PARTS; s++)
                part[u][s] = has && s < a.parts ? __ldcg((const float4 *)(a.work.parts + ((size_t)s * m + n) * rows + r)) : make_float4(0, 0, 0, 0);
            old[u] = has && a.add ? __ldcg((const float4 *)(a.out + n * a.ld + r)) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const int i = i0 + u * OUT_THREADS, n = i / packs, r = p.row0 + i % packs * 4;
            if (i >= packs * m) break;
            float4 t = part[u][0], v = old[u];
#pragma unroll
            for (int s = 1; s < WIDE_PARTS; s++) t.x += part[u][s].x, t.y += part[u][s].y, t.z += part[u][s].z, t.w += part[u][s].w;
            if (a.bias) {
                const float4 b = __ldg((const float4 *)(a.bias + r));
                t.x += b.x, t.y += b.y, t.z += b.z, t.w += b.w;
            }
            v.x += t.x, v.y += t.y, v.z += t.z, v.w += t.w;
            *(float4 *)(a.out + n * a.ld + r) = v;
        }
    }
#endif
}

/* Blocks for a band: the split for which a block reads the least, w and x and the parts together.  False if no split has a band small enough. */
struct out_split {
    int bands, parts, box;
};
bool split_of(const kn_mixer_step_args *a, int sms, out_split *s)
{
    const int n = wide_columns(a->rows);
    double best = 0;
    for (int parts = 1; parts <= WIDE_PARTS && parts <= a->heads; parts++) {
        const int most = sms / parts < WIDE_TILES ? sms / parts : (int)WIDE_TILES, units = a->hidden / 8;
        const int bands = most < units ? most : units, box = bands > 0 ? wide_box(a->hidden, bands) : 0;
        if (bands == 0 || box > OUT_BAND) continue;
        const double columns = (double)kn_ceil(a->heads, parts) * STEP_DIM, bytes = (box + n) * columns * 2 + (parts > 1 ? box * n * 8.0 : 0);
        if (best > 0 && bytes >= best) continue;
        best = bytes;
        *s = { bands, parts, box };
    }
    return best > 0;
}
/* The most norm groups that a part has heads of. */
int span_of(const out_args &o)
{
    int most = 1;
    for (int part = 0; part < o.parts; part++) {
        const int from = o.heads * part / o.parts, to = o.heads * (part + 1) / o.parts;
        int count = 0;
        for (int g = 0; g < o.groups; g++) count += o.first[g] < to && o.first[g + 1] > from;
        most = count > most ? count : most;
    }
    return most;
}

} // namespace

bool mixer_step_wide_out_knows(const kn_mixer_step_args *a, int sms)
{
    out_split s;
    return a->hidden % 8 == 0 && split_of(a, sms, &s) && (a->delta == NULL || (step_aligned(a->delta) && a->ld_delta % 4 == 0)) &&
           (a->out_bias == NULL || step_aligned(a->out_bias));
}

plp_status mixer_step_wide_out(kn_context *c, const kn_mixer_step_args *a, const step_work *w, const wide_work *x)
{
    plp_status st = PLP_OK;
    out_split s;
    int available;
    split_of(a, c->sms, &s);
    const int inner = step_inner(a);
    const bool norm = a->gate_weight != NULL, add = a->delta == NULL;
    out_args o = { { {}, {}, a->hidden, a->rows, s.box, a->heads, 0 }, a->out_bias, w->squares, *x, add ? a->residual : a->delta,
                   add ? a->hidden : a->ld_delta, add, norm && !a->fold, a->fold, s.bands, s.parts, a->heads, norm ? a->gate_groups : 1, 1,
                   (float)a->gate_width, (float)a->gate_eps, {} };
    o.first[1] = (short)a->heads;
    for (int g = 0; norm && g <= a->gate_groups; g++) o.first[g] = (short)(a->gate_first[g] / STEP_DIM);
    o.span = span_of(o);
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->options.device)));
    wide_by_rows(a->rows, [&](auto n) {
        constexpr int N = decltype(n)::value;
        st = kn_tensor_map(&o.product.w, a->out_proj, a->hidden, inner, inner, s.box);
        if (st == PLP_OK) st = kn_tensor_map(&o.product.x, w->v, a->rows, inner, inner, N);
        if (st != PLP_OK) return;
        const int scales = o.span * N * (int)sizeof(float);
        o.product.slots = wide_slots(s.box, N, OUT_GROUPS, (int)sizeof(out_shared) + scales, available);
        st = step_launch<wide_out_kernel<N>>(c, dim3(s.bands * s.parts), wide_bytes(s.box, N, OUT_GROUPS, o.product.slots) + scales, o, OUT_THREADS + 32);
    });
    return st;
}
