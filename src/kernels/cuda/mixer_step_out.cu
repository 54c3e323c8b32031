/* src/kernels/cuda/mixer_step_out.cu -- the third kernel of a mixer's decode step: the gate's group norm and out_proj,
 *
 *     out[n][row] (+)= bias[row] + sum over norm groups of rstd[n][group] * sum_{k in group} w[row][k] v[n][k]
 *
 * Columns are the outer loop over up to 32 rows of w, so a block reads v once: every warp copies its own 128 columns of a turn, V_AHEAD turns
 * ahead (an L2 hit takes microseconds while the memory queues are full of weights; the copy engine's queue is one of them).  They are two
 * heads, and the scale of a head's group multiplies the head's float32 sums: any head -> group map works, and nothing is rounded twice.
 *
 * Where the ranks' devices are neighbours, block i of each owns the same rows of w, so the threads that finish them exchange their sums
 * right there: no collective, and the next kernel's weights stream meanwhile. */
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/mixer_step.cuh"

namespace {

enum {
    HEADS = 2,                               /* that a warp multiplies in a turn */
    COLUMNS = STEP_WARPS * HEADS * STEP_DIM, /* of a stage */
    ROW_BYTES = COLUMNS * 2,
    SUM_PITCH = 32 + 4,
    V_AHEAD = 2, /* turns */
    V_PITCH = HEADS * STEP_DIM * 2 + 16,
    V_LANES = HEADS * STEP_DIM / 8, /* that copy a row of v, 16 bytes each */
    SQUARES = 8,                    /* loads of four sums in flight at once */
    PART_ROWS = 8,                  /* of w; more make several stages of every 1024 columns */
    MOST_PARTS = 4
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
    int all_groups, group_first; /* EXCHANGE: norm groups of the model, whose sums are added up; 0: groups are whole here */
    int rows, m, heads, inner, turns; /* inner: columns of w, 1024 a turn */
    int slots, slot_rows, spare_bytes, groups, lanes;
    float width, eps;
    uint32_t zero; /* 0: see ring_release */
    uint4 *told;   /* (told_count) to be set to 0 */
    int told_count;
    short first[STEP_GROUPS + 1]; /* the norm groups' first heads */
};
enum { MESSAGE_ROW = MOST_PARTS * PART_ROWS + 1, MESSAGE = STEP_ROWS * MESSAGE_ROW }; /* words of a block: a row's sums, then its squares */
/* Behind all blocks' words, the first block's: (m, all_groups) sums of squares, zero for groups that this rank has nothing of. */
struct out_shared {
    int row, rows, begin; /* of w, the block's; the turn it starts at */
    unsigned exchange;    /* its number */
    float sums[STEP_WARPS][8 * SUM_PITCH];
    float rstd[STEP_GROUPS][8];
    float squares[STEP_ROWS];
    float next[32], bias[32]; /* of the block's rows; next: READY */
    float old[STEP_THREADS];  /* what a thread adds its sum to */
    unsigned char group[STEP_HEADS];
    ring_barriers bars;
};
static_assert(STEP_ROWS == STEP_WARPS, "a warp adds up one row's squares");
/* EXCHANGE_GROUPS: of norm groups' statistics, too.  An instance of its own, as are those without: what is not there takes no registers. */
enum exchange_kind { NO_EXCHANGE, EXCHANGE_SUMS, EXCHANGE_GROUPS };

template <int PARTS, exchange_kind X, bool READY> __global__ void __launch_bounds__(STEP_THREADS, 4) mixer_out_kernel(const __grid_constant__ out_args a)
{
#if STEP_CODE
    constexpr bool EXCHANGE = X != NO_EXCHANGE;
    extern __shared__ __align__(128) unsigned char smem[];
    __shared__ out_shared sh;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    /* The block's rows of w, and where it starts: blocks start at different columns, or they would all ask for the same offsets of rows a
     * power of two apart.  In shared memory, as whatever can be: a register that is spilled comes back from L2, in every turn. */
    if (threadIdx.x == 0) {
        sh.row = (int)((int64_t)a.rows * blockIdx.x / gridDim.x);
        sh.rows = (int)((int64_t)a.rows * (blockIdx.x + 1) / gridDim.x) - sh.row;
        sh.begin = blockIdx.x % a.turns;
    }
    const auto columns_of = [&](int st) {
        const int turn = sh.begin + st;
        return (turn < a.turns ? turn : turn - a.turns) * COLUMNS;
    };
    /* A stage is 1024 columns of one part of the rows. */
    const ring rg = ring_make(smem, &sh.bars, a.slots, a.slot_rows * ROW_BYTES, PARTS * a.turns, a.zero);
    const auto issue = [&](int i, int slot) {
        const int k = columns_of(i / PARTS), part = i % PARTS, rows = max(min(a.slot_rows, sh.rows - part * a.slot_rows), 0);
        ring_issue(rg, slot, a.w + (size_t)(sh.row + part * a.slot_rows) * a.inner + k, rows, a.inner, min((int)COLUMNS, a.inner - k) * 2, ROW_BYTES);
    };
    ring_start(rg, issue);
    dependents_start();
    ring_fill(rg, issue);
    if (threadIdx.x < a.heads) {
        int group = 0;
        while (group + 1 < a.groups && a.first[group + 1] <= threadIdx.x) group++;
        sh.group[threadIdx.x] = (unsigned char)group;
    }
    const int er = threadIdx.x % 32, en = threadIdx.x / 32; /* the output this thread finishes */
    const bool mine = er < sh.rows && en < a.m;
    if (en == 0) { /* these in shared memory: of registers there are none to spare */
        if (READY) sh.next[er] = mine ? a.next[sh.row + er] : 0.f;
        sh.bias[er] = mine && a.bias ? a.bias[sh.row + er] : 0.f;
    }

    /* The warp's own ring of v: V_AHEAD x (m, 128 columns), one cp.async group a turn, 16 bytes of every second row a lane. */
    const int v_slot = a.m * V_PITCH, v_row = lane / V_LANES;
    const uint32_t v_at = kn_shared(smem) + a.slots * a.slot_rows * ROW_BYTES + a.spare_bytes + warp * V_AHEAD * v_slot;
    const uint32_t v_to = v_at + v_row * V_PITCH + lane % V_LANES * 16;
    const int v_column = warp * HEADS * STEP_DIM + lane % V_LANES * 8;
    const int v_from = v_row * a.inner + v_column;
    const auto fetch_v = [&](int st, int slot) {
        const int k = columns_of(st);
        if (st < a.turns && k + v_column < a.inner) {
#pragma unroll
            for (int r = 0; r < STEP_ROWS; r += 32 / V_LANES)
                if (r + v_row < a.m)
                    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(v_to + slot * v_slot + r * V_PITCH),
                                 "l"(a.work.v + (v_from + k + r * a.inner)) : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    /* The squares that this lane adds up.  A warp a row, `lanes` lanes a group: few steps on the critical path, and the same order in every run. */
    const int group = lane / a.lanes;
    const bool sums = warp < a.m && group < a.groups && (a.scale || a.fold);
    constexpr int FOURS = STEP_PARTS / 4;
    const int square = sums ? a.first[group] * FOURS + lane % a.lanes : 0, squares_end = sums ? a.first[group + 1] * FOURS : 0;
    const float4 *square_at = (const float4 *)a.work.squares + warp * a.heads * FOURS;
    dependency_wait();

    float t = 0;
    for (int k = square; k < squares_end; k += SQUARES * a.lanes) {
        float4 u[SQUARES]; /* all at once: each would take a round trip to L2 */
#pragma unroll
        for (int i = 0; i < SQUARES; i++) u[i] = k + i * a.lanes < squares_end ? __ldcg(square_at + k + i * a.lanes) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < SQUARES; i++) t += u[i].x + u[i].y + (u[i].z + u[i].w);
    }
#pragma unroll
    for (int st = 0; st < V_AHEAD; st++) fetch_v(st, st);
    for (int i = blockIdx.x * STEP_THREADS + threadIdx.x; i < a.told_count; i += gridDim.x * STEP_THREADS) a.told[i] = make_uint4(0, 0, 0, 0);
    const unsigned number = EXCHANGE ? exchange_turn::next(a.x) : 0;
    const float old = mine && a.add ? __ldcg(a.out + en * a.ld + sh.row + er) : 0.f;
    if (warp < a.m) {
        for (int o = a.lanes / 2; o > 0; o /= 2) t += __shfl_xor_sync(~0u, t, o);
        if (X == EXCHANGE_GROUPS) {
            const exchange_turn turn(a.x, number);
            const int at = gridDim.x * MESSAGE + warp * a.all_groups, own = lane - a.group_first;
            if (blockIdx.x == 0 && lane < a.all_groups && (own < 0 || own >= a.groups)) turn.send(at + lane, 0u);
            if (group < a.groups && lane % a.lanes == 0) {
                if (blockIdx.x == 0) turn.send(at + a.group_first + group, __float_as_uint(t));
                t = exchange_sum(turn, at + a.group_first + group, t);
            }
        }
        if (group < a.groups && lane % a.lanes == 0) {
            sh.rstd[group][warp] = a.scale ? rsqrtf(t / a.width + a.eps) : 1.f;
            if (EXCHANGE && a.fold) {
                exchange_turn(a.x, number).send(blockIdx.x * MESSAGE + warp * MESSAGE_ROW + MESSAGE_ROW - 1, __float_as_uint(t));
                sh.squares[warp] = t;
            } else if (a.fold && blockIdx.x == 0) {
                a.out[warp * a.ld + a.rows] = t;
            }
        }
    } else {
        sh.rstd[lane][warp] = 0;
    }
    sh.old[threadIdx.x] = old;
    if (threadIdx.x == 0) sh.exchange = number;
    __syncthreads();
    if (EXCHANGE && threadIdx.x == 0) exchange_turn(a.x, number).leave();

    /* An mma takes 8 rows of w; those that a slot has not lie in the next one, where copies may be under way.  Nobody uses what comes of
     * them, and to keep lanes off costs 1 % of a step: only racecheck is spared the sight. */
    const uint32_t lane_at = rg.data + (KN_WARP > 1 ? min(g, a.slot_rows - 1) : g) * ROW_BYTES + warp * HEADS * STEP_DIM * 2 + q * 16;
    const uint32_t x_at = v_at + min(g, a.m - 1) * V_PITCH + q * 16; /* lanes beyond the rows compute what nobody reads */
    ring_place place;
    float acc[PARTS][2] = {};
    for (int st = 0; st < a.turns; st++) {
        const int h = columns_of(st) / STEP_DIM + warp * HEADS, has = a.heads - h; /* the last columns may be fewer than 1024 */
        uint4 x[2 * HEADS];
        asm volatile("cp.async.wait_group %0;" ::"n"(V_AHEAD - 1) : "memory");
        __syncwarp();
        load_row(x, x_at + st % V_AHEAD * v_slot);
        __syncwarp();
        fetch_v(st + V_AHEAD, st % V_AHEAD);
        float scale[HEADS];
#pragma unroll
        for (int i = 0; i < HEADS; i++) scale[i] = i < has ? sh.rstd[sh.group[h + i]][g] : 0.f;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            ring_wait(rg, place);
            constexpr int LOADS = READY && PARTS == MOST_PARTS ? 2 : 2 * HEADS; /* at once; all, where registers suffice */
            uint4 w[LOADS];
#pragma unroll
            for (int i = 0; i < HEADS; i++) {
                if (2 * i % LOADS == 0) load_row(w, lane_at + place.slot * a.slot_rows * ROW_BYTES + i * STEP_DIM * 2);
                if (i >= has) break;
                float s[2][4] = {};
#pragma unroll
                for (int b = 2 * i; b < 2 * i + 2; b++) mma32(s, x[b], w[b % LOADS]);
                acc[part][0] += scale[i] * mma_sum(s, 0);
                acc[part][1] += scale[i] * mma_sum(s, 1);
            }
            ring_release(rg, place, w[LOADS - 1].w, issue);
            place.next(rg);
        }
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const int r = 2 * q + c;
            if (r < a.slot_rows && part * a.slot_rows + r < sh.rows && g < a.m) sh.sums[warp][g * SUM_PITCH + part * a.slot_rows + r] = acc[part][c];
        }
    __syncthreads();
    const exchange_turn turn(a.x, EXCHANGE ? sh.exchange : 0);
    float own = 0;
    if (er < sh.rows && en < a.m) { /* `mine` once more, so that no register keeps it meanwhile */
        float sum = 0;
#pragma unroll
        for (int w = 0; w < STEP_WARPS; w++) sum += sh.sums[w][en * SUM_PITCH + er];
        if (EXCHANGE) {
            const int at = blockIdx.x * MESSAGE + en * MESSAGE_ROW;
            turn.send(at + er, __float_as_uint(sum));
            const float scale = a.fold ? rsqrtf(exchange_sum(turn, at + MESSAGE_ROW - 1, sh.squares[en]) / a.width + a.eps) : 1.f;
            sum = scale * exchange_sum(turn, at + er, sum);
        }
        sum = sh.old[threadIdx.x] + (sum + sh.bias[er]);
        a.out[en * a.ld + sh.row + er] = sum;
        if (READY) ((bf16 *)a.ready.x)[en * a.ld + sh.row + er] = __float2bfloat16(sum * sh.next[er]);
        own = sum * sum;
    }
    if (READY && en < a.m) { /* a warp a row */
        own = kn_warp_sum(own);
        if (er == 0) a.ready.squares[en * KN_READY_PARTS + blockIdx.x] = own;
    }
#endif
}

struct out_split {
    int parts, slot_rows, spare_bytes;
};
/* An mma reads 8 rows, whatever is there: behind the last slot is room to spare for that. */
out_split split_of(const kn_mixer_step_args *a, int sms)
{
    const int rows = (int)kn_ceil(a->hidden, sms), parts = (int)kn_ceil(rows, PART_ROWS), slot_rows = (int)kn_ceil(rows, parts);
    const out_split s = { parts, slot_rows, (PART_ROWS - slot_rows) * ROW_BYTES };
    return s;
}
template <exchange_kind X, bool READY> plp_status launch(kn_context *c, int parts, dim3 grid, size_t shared, const out_args &o)
{
    switch (parts) {
    case 1: return step_launch<mixer_out_kernel<1, X, READY>>(c, grid, shared, o);
    case 2: return step_launch<mixer_out_kernel<2, X, READY>>(c, grid, shared, o);
    case 3: return step_launch<mixer_out_kernel<3, X, READY>>(c, grid, shared, o);
    default: return step_launch<mixer_out_kernel<4, X, READY>>(c, grid, shared, o);
    }
}
template <exchange_kind X> plp_status launch(kn_context *c, int parts, dim3 grid, size_t shared, const out_args &o)
{
    return o.next != NULL ? launch<X, true>(c, parts, grid, shared, o) : launch<X, false>(c, parts, grid, shared, o);
}
int beside_ring(const kn_mixer_step_args *a, const out_split &s) { return s.spare_bytes + STEP_WARPS * V_AHEAD * a->rows * V_PITCH; }

} // namespace

bool mixer_step_out_knows(const kn_mixer_step_args *a, int sms)
{
    if (a->heads > STEP_HEADS || a->hidden > MOST_PARTS * PART_ROWS * sms || !step_aligned(a->out_proj)) return false;
    if (a->fold && (a->gate_weight == NULL || a->gate_groups != 1)) return false;
    if (a->fold && a->exchange == NULL && (a->delta == NULL || a->out_bias != NULL)) return false; /* the caller scales, then adds the bias */
    if (a->exchange != NULL && (a->delta != NULL || (int64_t)sms * MESSAGE + STEP_ROWS * a->all_groups > a->exchange->words)) return false;
    if (a->all_groups > STEP_GROUPS || (a->all_groups > 0 && a->exchange == NULL)) return false;
    if (a->gate_weight == NULL) return true;
    if (a->gate_groups < 1 || a->gate_groups > STEP_GROUPS) return false;
    for (int g = 0; g <= a->gate_groups; g++)
        if (a->gate_first[g] % STEP_DIM != 0) return false; /* a group ends inside a head */
    return a->gate_first[0] == 0 && a->gate_first[a->gate_groups] == step_inner(a);
}

step_room mixer_step_out_room(const kn_mixer_step_args *a, int sms)
{
    const out_split s = split_of(a, sms);
    const step_room room = { s.slot_rows * ROW_BYTES, (int)sizeof(out_shared) + beside_ring(a, s) };
    return room;
}

plp_status mixer_step_out(kn_context *c, const kn_mixer_step_args *a, const step_work *w, int slots, int least, uint32_t *told, int64_t count)
{
    const out_split s = split_of(a, c->sms);
    const bool norm = a->gate_weight != NULL, add = a->delta == NULL;
    out_args o = { (const bf16 *)a->out_proj, a->out_bias, *w, add ? a->residual : a->delta, add ? a->hidden : a->ld_delta, add,
                   norm && !a->fold, a->fold, add && a->rows >= KN_READY_ROWS ? a->next_norm : NULL, a->ready,
                   a->exchange != NULL ? *a->exchange : kn_exchange{}, a->all_groups, a->group_first, a->hidden, a->rows, a->heads, step_inner(a),
                   (int)kn_ceil(step_inner(a), COLUMNS), slots, s.slot_rows, s.spare_bytes, norm ? a->gate_groups : 1, 32,
                   (float)a->gate_width, (float)a->gate_eps, 0, (uint4 *)told, (int)kn_ceil(count, 4), {} };
    while (o.lanes * o.groups > 32) o.lanes /= 2;
    o.first[1] = (short)a->heads;
    for (int g = 0; norm && g <= a->gate_groups; g++) o.first[g] = (short)(a->gate_first[g] / STEP_DIM);
    const size_t needed = (size_t)slots * s.slot_rows * ROW_BYTES + beside_ring(a, s), wanted = least > (int)sizeof(out_shared) ? least - sizeof(out_shared) : 0;
    const size_t shared = needed > wanted ? needed : wanted;
    const dim3 grid(c->sms);
    if (a->exchange == NULL) return launch<NO_EXCHANGE>(c, s.parts, grid, shared, o);
    return a->all_groups > 0 ? launch<EXCHANGE_GROUPS>(c, s.parts, grid, shared, o) : launch<EXCHANGE_SUMS>(c, s.parts, grid, shared, o);
}
