/* src/kernels/cuda/scan.cu -- kn->scan and kn->scan_step: Mamba-1's selective scan.
 *
 * The decays differ from element to element of the state, so there is no matrix form: every element costs an exponential a token, and the
 * unit that computes those is what a prefill keeps busy.  Here is the form for any shape, and the step of decode rows; scan_fed.cu has the
 * form for 16-bit values and common numbers of states.  A channel's states lie in the registers of neighbouring threads, which walk down
 * the rows together and share what is done once a token: each computes dt and the gate of some tokens, and holds the sums of those. */
#include "kernels/cuda/scan.cuh"

namespace {

constexpr int THREADS = 128, STEP_THREADS = 256;
constexpr int AHEAD = 8;     /* tokens that a thread loads, and computes without a branch, together */
constexpr int RESIDENT = 4;  /* blocks that a multiprocessor holds at once */
constexpr int SHORTEST = 64; /* pieces are multiples of so many tokens */
constexpr int FEWEST = 4;    /* pieces: all but the last are computed twice, which fewer do not make up for */
constexpr int FILL = 132 * RESIDENT * THREADS; /* threads that a large GPU holds: there is work space for so many */

/* The sums of y[AHEAD] over neighbouring LANES lanes: halve the list while halving the lanes.  Lane l is left with the sums of tokens
 * l AHEAD / LANES and so on, in y[0] and so on.  Which lane that is does not change how they round: a + b = b + a. */
template <int LANES> __device__ __forceinline__ void sum_lanes(float (&y)[AHEAD], int lane)
{
#pragma unroll
    for (int bit = LANES / 2, half = AHEAD / 2; bit > 0; bit /= 2, half /= 2)
#pragma unroll
        for (int j = 0; j < half; j++) {
            const float give = lane & bit ? y[j] : y[j + half], keep = lane & bit ? y[j + half] : y[j];
            y[j] = keep + __shfl_xor_sync(~0u, give, bit);
        }
}

/* grid: (channels / (THREADS / LANES), pieces of the longest slice, prefill sequences).  A channel's states are in LANES threads, NP values
 * each: neighbours where few threads share them, or for any number of states every 32nd. */
template <class T, int NP, int LANES, int PASS>
__global__ void __launch_bounds__(THREADS, RESIDENT)
    scan_kernel(kn_scan_args a, kn_batch b, scan_pieces cut, const int *snap_start, const int *snap_slot)
{
    constexpr bool ANY = LANES == 32;
    constexpr int WIDTH = NP * LANES, STAGE = WIDTH > 128 ? 16 : 32; /* tokens whose B and C lie in shared memory */
    constexpr int OWN = ANY ? AHEAD : AHEAD / LANES;                 /* tokens of AHEAD that a lane prepares and finishes */
    constexpr int EACH = STAGE * WIDTH / THREADS;                    /* values of B, and of C, that a thread fetches for a stage */
    __shared__ alignas(16) float Bs[STAGE][WIDTH], Cs[PASS == 2 ? STAGE : 1][WIDTH];
    const int lane = threadIdx.x % LANES, channel = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    const bool valid = channel < a.channels;
    const int c = valid ? channel : a.channels - 1; /* where a thread without a channel reads: it takes part in barriers and shuffles */
    scan_place p;
    if (!scan_find<PASS>(b, cut, p)) return;
    const int first = p.first, last = p.last;
    const int64_t row0 = p.row0;
    const auto number = [&](int j) { return ANY ? lane + LANES * j : lane * NP + j; }; /* of this lane's j-th state */
    float h[NP], A[NP];
    scan_begin<PASS>(a, b, cut, p, c, valid, number, A, h);
    const float bias = a.dt_bias != NULL ? a.dt_bias[c] : 0.f, skip = a.D != NULL ? a.D[c] : 0.f;
    const T *dts = (const T *)a.dt + row0 * a.ld_dt + c, *xs = (const T *)a.x + row0 * a.ld_x + c, *zs = (const T *)a.z + row0 * a.ld_z + c;
    T *ys = (T *)a.y + row0 * a.ld_y + c;
    scan_snaps snaps = PASS == 2 ? scan_snaps_of(a, p, snap_start) : scan_snaps{ -1, 0 };
    float total = 0.f; /* of dt, over the tokens that this lane prepares */

    /* What is fetched ahead of its use: a stage of B and C where a thread's share is small, and the next AHEAD tokens. */
    T B_raw[ANY ? 1 : EACH], C_raw[ANY ? 1 : EACH], dt_raw[OWN], x_raw[OWN], z_raw[OWN];
    const auto fetch_stage = [&](int t0) {
#pragma unroll
        for (int k = 0; k < (ANY ? 0 : EACH); k++) {
            const int i = threadIdx.x + k * THREADS, t = i / WIDTH, n = i % WIDTH;
            const int64_t at = (row0 + min(t0 + t, last - 1)) * a.ld_bc + n;
            B_raw[k] = ((const T *)a.B)[at]; /* all of WIDTH exist here */
            if (PASS == 2) C_raw[k] = ((const T *)a.C)[at];
        }
    };
    const auto fetch_tokens = [&](int t0) {
#pragma unroll
        for (int k = 0; k < OWN; k++) {
            const int64_t t = min(t0 + (ANY ? k : lane * OWN + k), last - 1);
            dt_raw[k] = dts[t * a.ld_dt];
            x_raw[k] = xs[t * a.ld_x];
            if (PASS == 2) z_raw[k] = zs[t * a.ld_z];
        }
    };
    fetch_stage(first);
    fetch_tokens(first);
    for (int t0 = first; t0 < last; t0 += STAGE) {
        const int count = min(STAGE, last - t0);
        __syncthreads(); /* the last stage was read */
        if constexpr (ANY) {
            for (int i = threadIdx.x; i < STAGE * WIDTH; i += THREADS) {
                const int t = i / WIDTH, n = i % WIDTH;
                const bool inside = t < count && n < a.state;
                const int64_t at = (row0 + t0 + t) * a.ld_bc + n;
                Bs[t][n] = inside ? kn_float(((const T *)a.B)[at]) : 0.f;
                if (PASS == 2) Cs[t][n] = inside ? kn_float(((const T *)a.C)[at]) : 0.f;
            }
        } else {
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                const int i = threadIdx.x + k * THREADS;
                Bs[i / WIDTH][i % WIDTH] = kn_float(B_raw[k]);
                if (PASS == 2) Cs[i / WIDTH][i % WIDTH] = kn_float(C_raw[k]);
            }
            if (t0 + STAGE < last) fetch_stage(t0 + STAGE);
        }
        __syncthreads();
        for (int u0 = 0; u0 < count; u0 += AHEAD) {
            float dt[OWN], x[OWN], in[OWN], gate[OWN], y[AHEAD] = {};
#pragma unroll
            for (int k = 0; k < OWN; k++) {
                dt[k] = scan_softplus(kn_float(dt_raw[k]) + bias);
                x[k] = kn_float(x_raw[k]);
                in[k] = dt[k] * x[k];
                if (PASS == 2) gate[k] = kn_silu(kn_float(z_raw[k]));
                if (PASS == 1 && u0 + (ANY ? k : lane * OWN + k) < count) total += dt[k];
            }
            if (t0 + u0 + AHEAD < last) fetch_tokens(t0 + u0 + AHEAD);
            const auto token = [&](int u) { /* products and sums are spelt out: they must round alike wherever this is unrolled */
                const float step = ANY ? dt[u % OWN] : __shfl_sync(~0u, dt[u % OWN], u / OWN, LANES);
                const float moved = ANY ? in[u % OWN] : __shfl_sync(~0u, in[u % OWN], u / OWN, LANES);
                float B[NP], C[NP];
                if constexpr (ANY) {
#pragma unroll
                    for (int j = 0; j < NP; j++) {
                        B[j] = Bs[u0 + u][number(j)];
                        if (PASS == 2) C[j] = Cs[u0 + u][number(j)];
                    }
                } else {
                    kn_load<NP>(&Bs[u0 + u][lane * NP], B);
                    if (PASS == 2) kn_load<NP>(&Cs[u0 + u][lane * NP], C);
                }
#pragma unroll
                for (int j = 0; j < NP; j++) {
                    h[j] = __fmaf_rn(kn_exp2(__fmul_rn(step, A[j])), h[j], __fmul_rn(moved, B[j]));
                    if (PASS == 2) y[u] = __fmaf_rn(h[j], C[j], y[u]);
                }
            };
            if (u0 + AHEAD <= count && (snaps.until < 0 || snaps.until > AHEAD)) {
#pragma unroll
                for (int u = 0; u < AHEAD; u++) token(u);
                if (snaps.until > 0) snaps.until -= AHEAD;
            } else {
#pragma unroll
                for (int u = 0; u < AHEAD; u++) {
                    if (u0 + u >= count) break;
                    token(u);
                    if (snaps.until < 0 || --snaps.until > 0) continue;
                    const int slot = snap_slot[snaps.snap++];
                    snaps.until = a.block;
                    if (slot >= 0) scan_keep(a, slot, c, valid, number, h);
                }
            }
            if (PASS == 1) continue;
            if (ANY) {
#pragma unroll
                for (int u = 0; u < AHEAD; u++) y[u] = kn_warp_sum(y[u]);
            } else {
                sum_lanes<LANES>(y, lane);
            }
#pragma unroll
            for (int k = 0; k < OWN; k++) {
                const int u = u0 + (ANY ? k : lane * OWN + k);
                if (valid && u < count && (!ANY || lane == 0))
                    ys[(int64_t)(t0 + u) * a.ld_y] = kn_as<T>(__fmaf_rn(skip, x[k], y[k]) * gate[k]);
            }
        }
    }
    if (PASS == 2) {
        if (last == p.rows) scan_keep(a, b.dst_slot[p.s], c, valid, number, h);
        return;
    }
    if (!ANY)
        for (int o = LANES / 2; o > 0; o /= 2) total += __shfl_xor_sync(~0u, total, o);
    float *to = scan_piece_at(cut, a, p.piece);
    scan_leave(a, to, c, valid, number, h);
    if (valid && lane == 0) to[(int64_t)a.state * a.channels + c] = total;
}

/* One token of every decode row.  The state is read and written once and is nearly all of the traffic: `lanes` neighbours hold one
 * channel's, V values each, so that a warp moves 512 neighbouring bytes.  grid: (threads for the channels, decode rows) */
template <class T, class S, int V>
__global__ void __launch_bounds__(STEP_THREADS) scan_step_kernel(kn_scan_args a, kn_batch b, int lanes)
{
    const int t = blockIdx.y, i = blockIdx.x * STEP_THREADS + threadIdx.x, lane = i % lanes;
    const bool valid = i / lanes < a.channels, known = b.past[t] > 0;
    const int c = valid ? i / lanes : a.channels - 1;
    const int64_t tile = (int64_t)a.channels * a.state, place = (int64_t)c * a.state + lane * V;
    kn_pack<S, V> h;
    if (known) h = *(const kn_pack<S, V> *)((const S *)a.h + b.src_slot[t] * tile + place);
    float A[V], B[V], C[V], sum = 0.f;
    kn_load<V>(a.A + place, A);
    kn_load<V>((const T *)a.B + t * a.ld_bc + lane * V, B);
    kn_load<V>((const T *)a.C + t * a.ld_bc + lane * V, C);
    const float x = kn_float(((const T *)a.x)[t * a.ld_x + c]), z = kn_float(((const T *)a.z)[t * a.ld_z + c]);
    const float dt = scan_softplus(kn_float(((const T *)a.dt)[t * a.ld_dt + c]) + (a.dt_bias != NULL ? a.dt_bias[c] : 0.f));
#pragma unroll
    for (int j = 0; j < V; j++) {
        const float v = (known ? kn_exp2(dt * A[j] * SCAN_LOG2E) * kn_float(h.v[j]) : 0.f) + dt * x * B[j];
        h.v[j] = kn_as<S>(v);
        sum += v * C[j];
    }
    if (valid) *(kn_pack<S, V> *)((S *)a.h + b.dst_slot[t] * tile + place) = h;
    for (int o = lanes / 2; o > 0; o /= 2) sum += __shfl_xor_sync(~0u, sum, o);
    if (valid && lane == 0) ((T *)a.y)[t * a.ld_y + c] = kn_as<T>((sum + (a.D != NULL ? a.D[c] * x : 0.f)) * kn_silu(z));
}

/* Any state size: a warp takes a channel, its lanes every 32nd value. */
template <class T> __global__ void __launch_bounds__(STEP_THREADS) scan_step_any_kernel(kn_scan_args a, kn_batch b)
{
    const int t = blockIdx.y, c = (blockIdx.x * STEP_THREADS + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (c >= a.channels) return; /* whole warps leave */
    const bool known = b.past[t] > 0;
    const int64_t tile = (int64_t)a.channels * a.state, place = (int64_t)c * a.state;
    const float x = kn_float(((const T *)a.x)[t * a.ld_x + c]), z = kn_float(((const T *)a.z)[t * a.ld_z + c]);
    const float dt = scan_softplus(kn_float(((const T *)a.dt)[t * a.ld_dt + c]) + (a.dt_bias != NULL ? a.dt_bias[c] : 0.f));
    float sum = 0.f;
    for (int n = lane; n < a.state; n += 32) {
        const float old = known ? kn_load_any(a.h, a.state_dtype, b.src_slot[t] * tile + place + n) : 0.f;
        const float v = kn_exp2(dt * a.A[place + n] * SCAN_LOG2E) * old + dt * x * kn_float(((const T *)a.B)[t * a.ld_bc + n]);
        kn_store_any(a.h, a.state_dtype, b.dst_slot[t] * tile + place + n, v);
        sum += v * kn_float(((const T *)a.C)[t * a.ld_bc + n]);
    }
    sum = kn_warp_sum(sum);
    if (lane == 0) ((T *)a.y)[t * a.ld_y + c] = kn_as<T>((sum + (a.D != NULL ? a.D[c] * x : 0.f)) * kn_silu(z));
}

/* Pieces that there is room for. */
int room(const kn_scan_args *a) { return (int)kn_ceil(FILL, a->channels); }

template <class T, int NP, int LANES>
void launch(kn_context *c, const kn_scan_args *a, const kn_batch *b, scan_pieces cut, const int *snap_start, const int *snap_slot)
{
    const unsigned blocks = (unsigned)kn_ceil(a->channels, THREADS / LANES);
    const int count = scan_cut(c, a, b, (int)(c->sms * RESIDENT / blocks), &cut.length);
    const dim3 grid(blocks, count, b->seqs - b->decodes), before(blocks, count - 1, grid.z);
    if (count > 1) scan_kernel<T, NP, LANES, 1><<<before, THREADS, 0, c->stream>>>(*a, *b, cut, snap_start, snap_slot);
    scan_kernel<T, NP, LANES, 2><<<grid, THREADS, 0, c->stream>>>(*a, *b, cut, snap_start, snap_slot);
}

} // namespace

/* All pieces run at once, for the last of a second round would leave the GPU idle as long as they take. */
int scan_cut(const kn_context *c, const kn_scan_args *a, const kn_batch *b, int fit, int *length)
{
    const int seqs = b->seqs - b->decodes, left = room(a) - seqs, most = fit < left ? fit : left;
    const int *start = b->host_start + b->decodes;
    int longest = 1;
    for (int s = 0; s < seqs; s++) longest = start[s + 1] - start[s] > longest ? start[s + 1] - start[s] : longest;
    *length = longest;
    if (c->options.deterministic || a->work == NULL || FEWEST * seqs > most) return 1;
    for (int n = (int)kn_ceil(kn_ceil(start[seqs] - start[0], most), SHORTEST) * SHORTEST; n < longest; n += SHORTEST) {
        int64_t pieces = 0;
        for (int s = 0; s < seqs; s++) pieces += kn_ceil(start[s + 1] - start[s], n);
        if (pieces > most) continue;
        *length = n;
        break;
    }
    return (int)kn_ceil(longest, *length);
}

size_t kn_scan_work_cuda(const kn_scan_args *a) { return (size_t)room(a) * (a->state + 1) * a->channels * sizeof(float); }

plp_status kn_scan_cuda(kn_context *c, const kn_scan_args *a, const kn_batch *b)
{
    if (b->seqs == b->decodes || b->tokens == b->decodes || a->channels == 0) return PLP_OK;
    if (a->state > KN_MOST_STATE) return PLP_FAIL(PLP_ERR_INTERNAL, "scan: state %d of at most %d", a->state, KN_MOST_STATE);
    if (a->block > 0) { /* where states are to be kept is uploaded as for kn->ssd */
        kn_ssm_args snaps = {};
        snaps.block = a->block, snaps.snap_start = a->snap_start, snaps.snap_slot = a->snap_slot;
        PLP_TRY(kn_ssd_tables(c, &snaps, b, false));
    }
    const scan_pieces cut = { 0, room(a) - (b->seqs - b->decodes), (float *)a->work };
    const int *snap_start = a->block > 0 ? c->ssd->snap_start : NULL, *snap_slot = a->block > 0 ? c->ssd->snap_slot : NULL;
    if (scan_fed_takes(c, a)) return scan_fed_run(c, a, b, cut, snap_start, snap_slot);
    kn_by_type(c->options.act, [&](auto t) {
        using T = decltype(t);
        if (a->state == 8) launch<T, 4, 2>(c, a, b, cut, snap_start, snap_slot);
        else if (a->state == 16) launch<T, 4, 4>(c, a, b, cut, snap_start, snap_slot);
        else if (a->state == 32) launch<T, 4, 8>(c, a, b, cut, snap_start, snap_slot);
        else if (a->state <= 32) launch<T, 1, 32>(c, a, b, cut, snap_start, snap_slot);
        else if (a->state <= 64) launch<T, 2, 32>(c, a, b, cut, snap_start, snap_slot);
        else if (a->state <= 128) launch<T, 4, 32>(c, a, b, cut, snap_start, snap_slot);
        else launch<T, 8, 32>(c, a, b, cut, snap_start, snap_slot);
    });
    return KN_LAUNCHED();
}

plp_status kn_scan_step_cuda(kn_context *c, const kn_scan_args *a, const kn_batch *b)
{
    if (b->decodes == 0 || a->channels == 0) return PLP_OK;
    const plp_dtype act = c->options.act;
    kn_by_type(act, [&](auto t) {
        kn_by_type(a->state_dtype, [&](auto s) {
            using T = decltype(t);
            using S = decltype(s);
            constexpr int V = 16 / sizeof(S) * sizeof(T) > 16 ? 4 : 16 / sizeof(S); /* of B and C no more than 16 bytes */
            const int lanes = a->state / V;
            const bool wide = a->state % V == 0 && lanes >= 1 && lanes <= 32 && (lanes & (lanes - 1)) == 0 && (uintptr_t)a->h % 16 == 0 &&
                              (uintptr_t)a->A % 32 == 0 && kn_aligned(a->B, a->ld_bc, act, V * sizeof(T)) &&
                              kn_aligned(a->C, a->ld_bc, act, V * sizeof(T));
            const dim3 grid((unsigned)kn_ceil((int64_t)a->channels * (wide ? lanes : 32), STEP_THREADS), b->decodes);
            if (wide) scan_step_kernel<T, S, V><<<grid, STEP_THREADS, 0, c->stream>>>(*a, *b, lanes);
            else scan_step_any_kernel<T><<<grid, STEP_THREADS, 0, c->stream>>>(*a, *b);
        });
    });
    return KN_LAUNCHED();
}
