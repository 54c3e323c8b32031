/* src/kernels/cuda/mixer_step_out.cu -- the third kernel of a mixer's decode step: the gate's group norm and out_proj,
 *
 *     out[n][row] (+)= bias[row] + sum over norm groups of rstd[n][group] * sum_{k in group} w[row][k] v[n][k]
 *
 * Columns are the outer loop over up to 32 rows of w, so a block reads v once: every warp copies its own 64 columns of a turn, V_AHEAD turns
 * ahead (an L2 hit takes microseconds while the memory queues are full of weights; the copy engine's queue is one of them).  They are one
 * head, so the scale of the head's group multiplies the turn's float32 sums: any head -> group map works, and nothing is rounded twice.
 *
 * Where the ranks' devices are neighbours, block i of each owns the same rows of w, so the threads that finish them exchange their sums
 * right there: no collective, and the next kernel's weights stream meanwhile. */
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/mixer_step.cuh"

namespace {

enum {
    COLUMNS = STEP_WARPS * STEP_DIM, /* of a stage */
    SUM_PITCH = 32 + 4,
    V_AHEAD = 4,
    V_PITCH = STEP_DIM * 2 + 16, /* no bank conflicts */
    PART_ROWS = 16 /* of w; more make two stages of every 512 columns */
};

struct out_args {
    const bf16 *w; /* (rows, heads * 64) */
    const float *bias;
    step_work work;
    float *out; /* (m, ld): the residual, or this rank's partial sum */
    int64_t ld;
    bool add, scale, fold; /* add to out; apply the norm's scale; it spans the ranks: pass sum(v^2) on with the partial sums */
    const float *next;     /* READY: (rows), the weight of the norm behind, which finds its operand in `ready` */
    kn_ready ready;
    kn_exchange x;         /* EXCHANGE: the sum over its ranks is what is added; else sum(v^2) goes behind the last column of out */
    int rows, m, heads, slots, slot_rows, pitch, spare_bytes, groups, lanes;
    float width, eps;
    uint32_t zero; /* 0: see ring_release */
    uint2 *told;   /* (told_count) to be set to 0 */
    int told_count;
    short first[STEP_GROUPS + 1]; /* the norm groups' first heads */
};
enum { MESSAGE_ROW = 2 * PART_ROWS + 1, MESSAGE = STEP_ROWS * MESSAGE_ROW }; /* words of a block: a row's sums, then its squares */
struct out_shared {
    float sums[STEP_WARPS][8 * SUM_PITCH];
    float rstd[STEP_GROUPS][8];
    float squares[STEP_ROWS];
    float next[32]; /* READY */
    unsigned char group[STEP_HEADS];
    ring_barriers bars;
};
static_assert(STEP_ROWS == STEP_WARPS, "a warp adds up one row's squares");

template <int PARTS, bool EXCHANGE, bool READY> __global__ void __launch_bounds__(STEP_THREADS, 4) mixer_out_kernel(const __grid_constant__ out_args a)
{
#if STEP_CODE
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ out_shared sh;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int inner = a.heads * STEP_DIM, nst = (a.heads + STEP_WARPS - 1) / STEP_WARPS;
    const int r0 = (int)((int64_t)a.rows * blockIdx.x / gridDim.x), n = (int)((int64_t)a.rows * (blockIdx.x + 1) / gridDim.x) - r0;
    /* A stage is 512 columns of the first or second slot_rows rows.  Blocks start at different columns, or they would all ask for the
     * same offsets of rows a power of two apart. */
    const int begin = blockIdx.x % nst;
    const auto columns_of = [&](int st) { return begin + st < nst ? begin + st : begin + st - nst; };
    const ring rg = ring_make(smem, &sh.bars, a.slots, a.slot_rows * a.pitch, PARTS * nst, a.zero);
    const auto issue = [&](int i, int slot) {
        const int ks = columns_of(i / PARTS), part = i % PARTS, rows = part ? n - a.slot_rows : min(a.slot_rows, n);
        ring_issue(rg, slot, a.w + (size_t)(r0 + part * a.slot_rows) * inner + ks * COLUMNS, rows, inner, min((int)COLUMNS, inner - ks * COLUMNS) * 2, a.pitch);
    };
    ring_start(rg, issue);
    dependents_start();
    if (threadIdx.x < a.heads) {
        int group = 0;
        while (group + 1 < a.groups && a.first[group + 1] <= threadIdx.x) group++;
        sh.group[threadIdx.x] = (unsigned char)group;
    }
    const int er = threadIdx.x % 32, en = threadIdx.x / 32; /* the output this thread finishes */
    const bool mine = er < n && en < a.m;
    const float bias = mine && a.bias ? a.bias[r0 + er] : 0.f;
    if (READY && en == 0) sh.next[er] = er < n ? a.next[r0 + er] : 0.f; /* not in registers, of which there are none to spare */
    dependency_wait();
    for (int i = blockIdx.x * STEP_THREADS + threadIdx.x; a.told != NULL && i < a.told_count; i += gridDim.x * STEP_THREADS) a.told[i] = make_uint2(0, 0);

    /* The warp's own ring of v: V_AHEAD x (m, 64 columns), one cp.async group a turn; 16 bytes of row lane / 8 and of row lane / 8 + 4 a lane. */
    const int v_slot = a.m * V_PITCH;
    const uint32_t v_at = kn_shared(smem) + a.slots * a.slot_rows * a.pitch + a.spare_bytes + warp * V_AHEAD * v_slot;
    const uint32_t v_to = v_at + lane / 8 * V_PITCH + lane % 8 * 16;
    const bf16 *v_from = a.work.v + (size_t)(lane / 8) * inner + warp * STEP_DIM + lane % 8 * 8;
    const auto fetch_v = [&](int st, int slot) {
        const int ks = columns_of(st);
        if (st < nst && ks * STEP_WARPS + warp < a.heads) {
            const bf16 *from = v_from + ks * COLUMNS;
            const uint32_t to = v_to + slot * v_slot;
            if (lane / 8 < a.m) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
            if (lane / 8 + 4 < a.m) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + 4 * V_PITCH), "l"(from + 4 * inner) : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
#pragma unroll
    for (int st = 0; st < V_AHEAD; st++) fetch_v(st, st);
    const exchange_turn turn(a.x, EXCHANGE);
    float *out = a.out + en * a.ld + r0 + er;
    const float old = mine && a.add ? __ldcg(out) : 0.f;
    /* A warp a row, `lanes` lanes a group: few steps on the critical path, and the same order in every run. */
    if (warp < a.m) {
        const int lanes = a.lanes, group = lane / lanes;
        float t = 0;
        if (group < a.groups && (a.scale || a.fold))
            for (int h = a.first[group] + lane % lanes; h < a.first[group + 1]; h += lanes) t += __ldcg(a.work.squares + warp * a.heads + h);
        for (int o = lanes / 2; o > 0; o /= 2) t += __shfl_xor_sync(~0u, t, o);
        if (group < a.groups && lane % lanes == 0) {
            sh.rstd[group][warp] = a.scale ? rsqrtf(t / a.width + a.eps) : 1.f;
            if (EXCHANGE && a.fold) {
                turn.send(blockIdx.x * MESSAGE + warp * MESSAGE_ROW + 2 * PART_ROWS, __float_as_uint(t));
                sh.squares[warp] = t;
            } else if (a.fold && blockIdx.x == 0) {
                a.out[warp * a.ld + a.rows] = t;
            }
        }
    } else {
        sh.rstd[lane][warp] = 0;
    }
    __syncthreads();

    /* An mma takes whole groups of 8 rows; those that a slot has not lie in the next one, where copies may be under way.  Nobody uses what
     * comes of them, and to keep lanes off costs 1 % of a step: only racecheck is spared the sight. */
    const int low = KN_WARP > 1 ? min(g, a.slot_rows - 1) : g, high = KN_WARP > 1 ? min(g + 8, a.slot_rows - 1) - low : 8;
    const uint32_t lane_at = low * a.pitch + warp * STEP_DIM * 2 + q * 16;
    const uint32_t x_at = v_at + min(g, a.m - 1) * V_PITCH + q * 16; /* lanes beyond the rows compute what nobody reads */
    ring_place place;
    float acc[PARTS][4] = {};
    for (int st = 0; st < nst; st++) {
        const int head = columns_of(st) * STEP_WARPS + warp;
        const bool has = head < a.heads; /* the last columns may be fewer than 512 */
        const float2 scale = has ? *(const float2 *)&sh.rstd[sh.group[head]][2 * q] : make_float2(0, 0);
        uint4 x[2];
        asm volatile("cp.async.wait_group %0;" ::"n"(V_AHEAD - 1) : "memory");
        __syncwarp();
        load_row(x, x_at + st % V_AHEAD * v_slot);
        __syncwarp();
        fetch_v(st + V_AHEAD, st % V_AHEAD);
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            ring_wait(rg, place);
            uint32_t read = 0;
            if (has) { /* rows past the last are somebody else's numbers, never used */
                const uint32_t from = rg.data + place.slot * rg.slot_bytes + lane_at;
                float s[2][4] = {}; /* two chains: an mma waits for the one before it */
                uint4 first[2], second[2] = {};
                load_row(first, from);
                if (a.slot_rows > 8) load_row(second, from + high * a.pitch);
#pragma unroll
                for (int b = 0; b < 2; b++) mma32(s[b], first[b], second[b], x[b]);
                acc[part][0] += scale.x * (s[0][0] + s[1][0]);
                acc[part][1] += scale.y * (s[0][1] + s[1][1]);
                acc[part][2] += scale.x * (s[0][2] + s[1][2]);
                acc[part][3] += scale.y * (s[0][3] + s[1][3]);
                read = a.slot_rows > 8 ? second[1].w : first[1].w;
            }
            ring_release(rg, place, read, issue);
            place.next(rg);
        }
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            const int r = g + 8 * (c / 2);
            if (r < a.slot_rows && part * a.slot_rows + r < n) sh.sums[warp][(2 * q + (c & 1)) * SUM_PITCH + part * a.slot_rows + r] = acc[part][c];
        }
    __syncthreads();
    float square = 0;
    if (mine) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < STEP_WARPS; w++) sum += sh.sums[w][en * SUM_PITCH + er];
        if (EXCHANGE) {
            const int at = blockIdx.x * MESSAGE + en * MESSAGE_ROW;
            turn.send(at + er, __float_as_uint(sum));
            const float scale = a.fold ? rsqrtf(exchange_sum(turn, at + 2 * PART_ROWS, sh.squares[en]) / a.width + a.eps) : 1.f;
            sum = scale * exchange_sum(turn, at + er, sum);
        }
        sum = old + (sum + bias);
        *out = sum;
        if (READY) ((bf16 *)a.ready.x)[en * a.ld + r0 + er] = __float2bfloat16(sum * sh.next[er]);
        square = sum * sum;
    }
    if (READY && en < a.m) { /* a warp a row */
        square = kn_warp_sum(square);
        if (er == 0) a.ready.squares[en * KN_READY_PARTS + blockIdx.x] = square;
    }
    if (EXCHANGE) turn.end();
#endif
}

struct out_split {
    int parts, slot_rows, pitch, spare_bytes;
};
/* An mma reads whole groups of 8 rows, whatever is there: behind the last slot is room to spare for that. */
out_split split_of(const kn_mixer_step_args *a, int sms)
{
    const int rows = (a->hidden + sms - 1) / sms, parts = rows > PART_ROWS ? 2 : 1, slot_rows = (rows + parts - 1) / parts, pitch = COLUMNS * 2 + step_pad(a->rows);
    const out_split s = { parts, slot_rows, pitch, ((slot_rows + 7) / 8 * 8 - slot_rows) * pitch };
    return s;
}
template <bool EXCHANGE, bool READY> plp_status launch(kn_context *c, int parts, dim3 grid, size_t shared, const out_args &o)
{
    return parts == 2 ? step_launch<mixer_out_kernel<2, EXCHANGE, READY>>(c, grid, shared, o)
                      : step_launch<mixer_out_kernel<1, EXCHANGE, READY>>(c, grid, shared, o);
}
int beside_ring(const kn_mixer_step_args *a, const out_split &s) { return s.spare_bytes + STEP_WARPS * V_AHEAD * a->rows * V_PITCH; }

} // namespace

bool mixer_step_out_knows(const kn_mixer_step_args *a, int sms)
{
    if (a->heads > STEP_HEADS || a->hidden > 2 * PART_ROWS * sms || !step_aligned(a->out_proj)) return false;
    if (a->fold && (a->gate_weight == NULL || a->gate_groups != 1)) return false;
    if (a->fold && a->exchange == NULL && (a->delta == NULL || a->out_bias != NULL)) return false; /* the caller scales, then adds the bias */
    if (a->exchange != NULL && (a->delta != NULL || (int64_t)sms * MESSAGE > a->exchange->words)) return false;
    if (a->gate_weight == NULL) return true;
    if (a->gate_groups < 1 || a->gate_groups > STEP_GROUPS) return false;
    for (int g = 0; g <= a->gate_groups; g++)
        if (a->gate_first[g] % STEP_DIM != 0) return false; /* a group ends inside a head */
    return a->gate_first[0] == 0 && a->gate_first[a->gate_groups] == step_inner(a);
}

step_room mixer_step_out_room(const kn_mixer_step_args *a, int sms)
{
    const out_split s = split_of(a, sms);
    const step_room room = { s.slot_rows * s.pitch, (int)sizeof(out_shared) + beside_ring(a, s) };
    return room;
}

plp_status mixer_step_out(kn_context *c, const kn_mixer_step_args *a, const step_work *w, int slots, int least, uint2 *told, int count)
{
    const out_split s = split_of(a, c->sms);
    const bool norm = a->gate_weight != NULL, add = a->delta == NULL;
    out_args o = { (const bf16 *)a->out_proj, a->out_bias, *w, add ? a->residual : a->delta, add ? a->hidden : a->ld_delta, add, norm && !a->fold, a->fold,
                   add && a->rows >= KN_READY_ROWS ? a->next_norm : NULL, a->ready, a->exchange != NULL ? *a->exchange : kn_exchange{}, a->hidden, a->rows, a->heads, slots, s.slot_rows, s.pitch, s.spare_bytes, norm ? a->gate_groups : 1, 32, (float)a->gate_width, (float)a->gate_eps, 0, told, count, {} };
    while (o.lanes * o.groups > 32) o.lanes /= 2;
    o.first[1] = (short)a->heads;
    for (int g = 0; norm && g <= a->gate_groups; g++) o.first[g] = (short)(a->gate_first[g] / STEP_DIM);
    const size_t needed = (size_t)slots * s.slot_rows * s.pitch + beside_ring(a, s), wanted = least > (int)sizeof(out_shared) ? least - sizeof(out_shared) : 0;
    const size_t shared = needed > wanted ? needed : wanted;
    const dim3 grid(c->sms);
    if (a->exchange != NULL) return o.next ? launch<true, true>(c, s.parts, grid, shared, o) : launch<true, false>(c, s.parts, grid, shared, o);
    return o.next ? launch<false, true>(c, s.parts, grid, shared, o) : launch<false, false>(c, s.parts, grid, shared, o);
}
