/* src/kernels/cuda/mixer_step_product.cuh -- RMSNorm and the matrix product behind it, for up to 8 rows, in one pass over the residual:
 *
 *     val[n][row] = rsqrt(mean(res[n]^2) + eps) * sum_k w[row][k] * bf16(res[n][k] * norm_w[k])
 *
 * The product runs on the row before its scale; the scale multiplies the float32 sums, so there is one rounding.  Each warp owns the same
 * columns of every tile (NB blocks of 32 per stage), so its part of the batch stays in registers for the whole kernel.  Tiles of 8 MH rows are
 * dealt round-robin, so that all blocks together read one moving window of memory, and what is left of them to the row.  The partial sums
 * of the 8 warps meet in shared memory, where a rotating group of warps finishes the tile and hands every value to the kernel's epilogue,
 * while the others go on.
 *
 * The result of a row does not depend on how many rows there are (but for the source of its squares, see kn_ready), nor on the launch being
 * early or late: same order, same bits. */
#ifndef KERNELS_CUDA_MIXER_STEP_PRODUCT_CUH
#define KERNELS_CUDA_MIXER_STEP_PRODUCT_CUH

#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/mixer_step_ring.cuh"
#include "kernels/shared.h"

#include <type_traits>

template <int NB_, int NST_, int MH_> struct product_shape { /* NST stages of NB x 32 columns a warp make a row */
    static constexpr int NB = NB_, NST = NST_, MH = MH_, BLOCKS = NB * NST;
    static constexpr int TILE = 8 * MH, COLUMNS = NB * 256, HIDDEN = COLUMNS * NST;
    static __host__ __device__ constexpr int slot(int pad) { return TILE * (COLUMNS * 2 + pad); }
    static constexpr int SUM_PITCH = TILE + 4, DUTIES = STEP_THREADS / (TILE * 8);
};
/* Calls f with the shape for this hidden size; false if there is none.  Stages of at least 16 KB where the row allows it: with 8 KB the
 * copies alone lose 6 to 19 %. */
template <class F> static inline bool product_shape_of(int hidden, F f)
{
    switch (hidden) {
    case 256: f(product_shape<1, 1, 2>()); return true;
    case 512: f(product_shape<2, 1, 2>()); return true;
    case 768: f(product_shape<3, 1, 2>()); return true;
    case 1024: f(product_shape<4, 1, 1>()); return true;
    case 1536: f(product_shape<6, 1, 1>()); return true;
    case 2048: f(product_shape<4, 2, 1>()); return true;
    case 2560: f(product_shape<5, 2, 1>()); return true;
    case 3072: f(product_shape<4, 3, 1>()); return true;
    case 4096: f(product_shape<4, 4, 1>()); return true;
    default: return false;
    }
}

struct product_args {
    const bf16 *w;       /* (rows, hidden)                             */
    const float *norm_w; /* (hidden)                                   */
    const float *res;    /* the residual, (., hidden)                  */
    const int *map;      /* (m) row of the residual, or NULL: row n    */
    int rows, m, slots, pad; /* pad: bytes between rows in a slot */
    float eps;
    uint32_t zero; /* 0: see ring_release */
    int first; /* the row that is dealt first; those before it, a multiple of a tile, come last */
    kn_ready ready; /* x not NULL: instead of the residual, for more than PRODUCT_FEW rows and no second product; squares has a part a block */
};

/* A second product on what the first one's rows from product_args.first on became, within the same kernel:
 *
 *     out[n][slice][row] = sum over the slice's columns of w[row][k] x[n][k]
 *
 * for a few hundred rows, whose time as a kernel of its own would be nearly all waiting.  Its pieces, a tile of rows by one stage of columns,
 * are stages like any other, late in the order; x is written by the blocks together, which tell each other value by value.  When it is
 * needed it is there, except for small matrices: the wait is for correctness.  All blocks must be able to run at the same time: one a
 * multiprocessor, and the kernels after this one start when all of its blocks have. */
enum { PRODUCT_SLICES = 8 };
struct product_second {
    const bf16 *w;        /* (rows, columns); columns <= PRODUCT_SLICES stages, a multiple of 32 */
    const uint16_t *x;    /* (m, columns) as the first product's epilogue tells them: step_tell */
    float *out;           /* (m, PRODUCT_SLICES, rows): slices that have no columns become zero */
    uint2 *told;          /* the same instead of `out`, or NULL, for a kernel that reads them while this one still runs: a sum, and 1 when it is
                             there.  8 bytes arrive together, so neither side needs a fence, which would wait for all of a thread's stores */
    int rows, columns;
    kn_exchange exchange; /* size > 0: what goes into out is sent to the other devices too, as the same word of a message; a later kernel receives */
    int slices_sent;      /* as many as any device has */
};

/* The rows of w that a block computes: its share of those from row `first` on, then of those before it, which are a multiple of `tile`.  Tiles are
 * dealt in turn, but that blocks with one more of the latter get one less of the former.  What is left of the former is split to the row, so
 * that all blocks have equally much; it lies in the middle, where a short tile costs nothing. */
struct product_tiles {
    int tile, wave, first, own;        /* own: the block's first row of a wave */
    int waves, full, turn, count;      /* tiles from `first` on: dealt in turn, whole ones, all; and with those before it */
    int more_row, last_row, last_rows; /* of the whole tile that is not dealt in turn; of the one that is split */
    product_tiles() = default;
    __host__ __device__ __forceinline__ product_tiles(int rows, int tile_, int first_, int blocks, int block)
        : tile(tile_), wave(blocks * tile_), first(first_), own(block * tile_)
    {
        const int late = first / tile, late_more = late % blocks, more = (blocks - late_more) * tile, rest = rows - first - more;
        waves = rest > 0 ? rest / wave : 0;
        full = waves + (rest >= 0 && block >= late_more);
        more_row = first + waves * wave + (block - late_more) * tile;
        const int left = rest >= 0 ? rest - waves * wave : rows - first, from = left * block / blocks, to = left * (block + 1) / blocks;
        last_row = rows - left + from;
        last_rows = to - from;
        turn = full + (last_rows > 0);
        count = turn + late / blocks + (block < late_more);
    }
    __device__ __forceinline__ int row(int t) const
    {
        if (t >= turn) return (t - turn) * wave + own;
        return t < waves ? first + t * wave + own : t < full ? more_row : last_row;
    }
    __device__ __forceinline__ int rows(int t) const { return t == full && t < turn ? last_rows : tile; }
};

/* Whether there are tiles enough for the second product to be made before the last ones. */
KN_SHARED bool product_overlaps(int first, int wave) { return first / wave >= 3; }

/* A block's stages: its tiles, and the pieces of the second product before the last ones, or behind the last where the tiles are too few.  A
 * block's pieces are of one slice: they follow each other without a wait for their operand, or the ring would run dry meanwhile. */
template <class S> struct product_order {
    int tiles, slices, pieces; /* slices that have columns */
    int slice, row, stride;    /* of all pieces; of the first one; from one to the next */
    int from;                  /* the pieces come before this tile */
    bool among;                /* pieces before the last tiles */
    product_order() = default;
    __device__ __forceinline__ product_order(const product_tiles &t)
        : tiles(t.count), slices(1), pieces(0), slice(0), row(0), stride(0), from(t.count), among(false)
    {
    }
    __device__ __forceinline__ product_order(const product_tiles &t, const product_second &second, bool few) : product_order(t)
    {
        slices = (second.columns + S::COLUMNS - 1) / S::COLUMNS;
        const int all = (second.rows + S::TILE - 1) / S::TILE, blocks = (int)gridDim.x / slices, block = (int)blockIdx.x / slices;
        pieces = block < min(blocks, all) ? (all - block + blocks - 1) / blocks : 0;
        slice = (int)blockIdx.x % slices, row = block * S::TILE, stride = blocks * S::TILE;
        among = second.told != NULL && product_overlaps(t.first, t.wave); /* else nobody waits for the sums alone */
        /* By then the last block is there, and the others' rings do not run full before it is; measured. */
        if (among) from = max(t.turn + 2, min(t.turn + 4 + few, tiles - 1 - few));
    }
    struct stage {
        int tile, piece, part; /* piece -1: stage `part` of a tile */
    };
    __device__ __forceinline__ stage at(int i) const
    {
        const int piece = i - from * S::NST;
        if (piece >= 0 && piece < pieces) return { from, piece, 0 };
        if (piece >= 0) i -= pieces;
        return { i / S::NST, -1, i % S::NST };
    }
};
template <class S> struct product_shared {
    union __align__(16) { /* of a warp alone until it has its operand */
        float sums[S::DUTIES][8 * S::SUM_PITCH];
        float norm[S::HIDDEN / STEP_WARPS];
    } of[STEP_WARPS];
    float squares[STEP_WARPS][8];
    unsigned exchange; /* its number */
    ring_barriers bars;
    uint64_t sums_full[S::DUTIES], sums_empty[S::DUTIES];
    product_tiles tiles; /* these two not in registers, of which two products have none to spare: what spills comes back from L2 */
    product_order<S> order;
};

/* A thread's place when tiles are finished: weight row er of the tile, batch row en, in every DUTIES-th tile from `duty`. */
template <class S> struct product_place {
    int er = threadIdx.x % S::TILE, en = threadIdx.x / S::TILE % 8, duty = threadIdx.x / (S::TILE * 8);
};

/* Calls f with the rows that norm_product is made for: at least as many as there are.  Up to PRODUCT_FEW fetch their operand another way. */
enum { PRODUCT_FEW = 2 };
template <class F> static inline void product_rows_of(int rows, F f)
{
    if (rows == 1) f(std::integral_constant<int, 1>());
    else if (rows == 2) f(std::integral_constant<int, 2>());
    else f(std::integral_constant<int, STEP_ROWS>());
}

/* The epilogue:  prefetch(tiles, place)        before the wait: fetch what no kernel of this step writes
 *                finish(t, row, place, value)  store one value
 * Second: product_second, or product_alone.  ROWS: of product_rows_of. */
struct product_alone {};
template <class S, int ROWS, class Second, class E>
__device__ __forceinline__ void norm_product(const product_args &a, const Second &second, unsigned char *slots, E epilogue)
{
#if STEP_CODE
    constexpr int NB = S::NB, BLOCKS = S::BLOCKS, COLUMNS = S::COLUMNS, HIDDEN = S::HIDDEN, SUM_PITCH = S::SUM_PITCH;
    constexpr int DUTIES = S::DUTIES;
    constexpr bool TWO = !std::is_same<Second, product_alone>::value;
    const int pitch = COLUMNS * 2 + a.pad;
    __shared__ product_shared<S> sh;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const product_tiles own_tiles(a.rows, S::TILE, a.first, gridDim.x, blockIdx.x), &tiles = TWO ? sh.tiles : own_tiles;
    const product_order<S> own_order(own_tiles), &order = TWO ? sh.order : own_order;
    if constexpr (TWO) {
        if (threadIdx.x == 0) {
            sh.tiles = own_tiles;
            sh.order = product_order<S>(own_tiles, second, ROWS <= PRODUCT_FEW);
        }
        __syncthreads();
    }
    const product_place<S> at;
    const ring rg = ring_make(slots, &sh.bars, a.slots, S::TILE * pitch, tiles.count * S::NST + order.pieces, a.zero);
    const auto issue = [&](int i, int slot) {
        const auto stage = order.at(i);
        const bf16 *from = a.w + (size_t)tiles.row(stage.tile) * HIDDEN + stage.part * COLUMNS;
        int rows = tiles.rows(stage.tile), ld = HIDDEN, bytes = COLUMNS * 2;
        if constexpr (TWO)
            if (stage.piece >= 0) {
                const int row = order.row + stage.piece * order.stride, column = order.slice * COLUMNS;
                from = second.w + (size_t)row * second.columns + column;
                rows = min(S::TILE, second.rows - row), ld = second.columns, bytes = min(COLUMNS, second.columns - column) * 2;
            }
        ring_issue(rg, slot, from, rows, ld, bytes, pitch);
    };
    if (threadIdx.x == 0)
        for (int d = 0; d < DUTIES; d++) {
            kn_bar_init(kn_shared(sh.sums_full + d), STEP_WARPS * KN_WARP);
            kn_bar_init(kn_shared(sh.sums_empty + d), STEP_WARPS / DUTIES * KN_WARP);
        }
    ring_start(rg, issue);
    dependents_start();
    ring_fill(rg, issue);
    epilogue.prefetch(tiles, at);

    /* The norm's weight waits where the partial sums will meet: registers are for the residual's loads, all of them in flight at once. */
    const auto column = [&](int j) { return j / NB * COLUMNS + warp * NB * 32 + j % NB * 32; };
    float *norm = sh.of[warp].norm;
    const bool ready = !TWO && ROWS > PRODUCT_FEW && a.ready.x != NULL;
    if (!ready) {
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) norm[j * 32 + lane] = __ldg(a.norm_w + column(j) + lane);
    }
    __syncwarp();
    dependency_wait();
    if constexpr (TWO)
        if (second.exchange.size > 0 && threadIdx.x == 0) sh.exchange = exchange_turn(second.exchange).number; /* others see it behind a hand-over */

    uint4 x[BLOCKS]; /* the operand, mma_swapped */
    const auto block = [&](const float *res, int j, float *squares) {
        const float4 u = __ldcg((const float4 *)(res + column(j)) + 2 * q), v = __ldcg((const float4 *)(res + column(j)) + 2 * q + 1);
        const float4 nu = *(const float4 *)(norm + j * 32 + q * 8), nv = *(const float4 *)(norm + j * 32 + q * 8 + 4);
        *squares = u.x * u.x + u.y * u.y + u.z * u.z + u.w * u.w + v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        return mma_swapped(make_uint4(kn_pack_bf16(u.x * nu.x, u.y * nu.y), kn_pack_bf16(u.z * nu.z, u.w * nu.w),
                                      kn_pack_bf16(v.x * nv.x, v.y * nv.y), kn_pack_bf16(v.z * nv.z, v.w * nv.w)));
    };
    const auto row_of = [&](int n) { return a.res + (size_t)(a.map ? __ldcg(a.map + n) : n) * HIDDEN; };
    float square = 0, squares;
    if (ready) {
        const bf16 *row = (const bf16 *)a.ready.x + (size_t)(a.map ? __ldcg(a.map + min(g, a.m - 1)) : min(g, a.m - 1)) * HIDDEN;
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) x[j] = g < a.m ? mma_swapped(__ldcg((const uint4 *)(row + column(j)) + q)) : make_uint4(0, 0, 0, 0);
        float part[KN_READY_PARTS / 32]; /* all at once: a loop would take a round trip each */
        const float *parts = a.ready.squares + (a.map && warp < a.m ? __ldcg(a.map + warp) : warp) * KN_READY_PARTS;
#pragma unroll
        for (int i = 0; i < KN_READY_PARTS / 32; i++) part[i] = warp < a.m && lane + i * 32 < gridDim.x ? __ldcg(parts + lane + i * 32) : 0.f; /* a warp a row */
#pragma unroll
        for (int i = 0; i < KN_READY_PARTS / 32; i++) square += part[i];
        square = kn_warp_sum(square);
        if (lane < 8) sh.squares[lane][warp] = lane == 0 ? square : 0.f;
    } else if constexpr (ROWS <= PRODUCT_FEW) {
        /* A row's own four lanes would need SHARE times as many loads.  So the lanes of rows that are not there help: SHARE lanes a row, a
         * block of columns each in turn, which goes to the row's own through registers.  Squares are summed in the order of one lane
         * alone: a row's bits do not depend on how many rows there are. */
        constexpr int SHARE = 8 / ROWS, ROUNDS = (BLOCKS + SHARE - 1) / SHARE;
        uint4 part[ROUNDS];
        float part_squares[ROUNDS];
        const bool has = g / SHARE < a.m;
        const float *res = row_of(has ? g / SHARE : 0);
#pragma unroll
        for (int r = 0; r < ROUNDS; r++) {
            const int j = r * SHARE + g % SHARE;
            part[r] = make_uint4(0, 0, 0, 0);
            part_squares[r] = 0;
            if (has && j < BLOCKS) part[r] = block(res, j, part_squares + r);
        }
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) {
            const uint4 p = part[j / SHARE];
            const int from = (g * SHARE + j % SHARE) % 8 * 4 + q; /* lanes of rows that are not there get anything, and drop it */
            x[j] = make_uint4(__shfl_sync(~0u, p.x, from), __shfl_sync(~0u, p.y, from), __shfl_sync(~0u, p.z, from), __shfl_sync(~0u, p.w, from));
            square += __shfl_sync(~0u, part_squares[j / SHARE], from);
            if (g >= a.m) x[j] = make_uint4(0, 0, 0, 0);
        }
    } else if (g < a.m) {
        const float *res = row_of(g);
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) {
            x[j] = block(res, j, &squares);
            square += squares;
        }
    } else {
#pragma unroll
        for (int j = 0; j < BLOCKS; j++) x[j] = make_uint4(0, 0, 0, 0);
    }
    if (!ready) {
        square += __shfl_xor_sync(~0u, square, 1);
        square += __shfl_xor_sync(~0u, square, 2);
        if (q == 0) sh.squares[warp][g] = square;
    }
    __syncwarp(); /* `norm` was read, sums may be written */

    const uint32_t lane_at = rg.data + g * pitch + warp * NB * 64 + q * 16;
    ring_place place;
    int handed = 0; /* tiles and pieces */
    /* Hands the partial sums of a tile to the group on duty, which calls store(sum); nobody else waits (the buffer was read DUTIES tiles ago). */
    const auto hand_over = [&](const float (&acc)[S::MH][2][4], auto store) {
        const int duty = handed % DUTIES, turn = handed / DUTIES;
        handed++;
        if (turn) kn_bar_wait(kn_shared(sh.sums_empty + duty), (turn - 1) & 1);
        float *mine = sh.of[warp].sums[duty];
#pragma unroll
        for (int h = 0; h < S::MH; h++)
            if (g < a.m) *(float2 *)(mine + g * SUM_PITCH + h * 8 + 2 * q) = make_float2(mma_sum(acc[h], 0), mma_sum(acc[h], 1));
        __syncwarp();
        kn_warp_arrive(kn_shared(sh.sums_full + duty));
        if (at.duty != duty) return;
        kn_bar_wait(kn_shared(sh.sums_full + duty), turn & 1);
        float sum = 0, squares = 0;
#pragma unroll
        for (int w = 0; w < STEP_WARPS; w++) {
            sum += sh.of[w].sums[duty][at.en * SUM_PITCH + at.er];
            squares += sh.squares[w][at.en];
        }
        __syncwarp();
        kn_warp_arrive(kn_shared(sh.sums_empty + duty));
        store(sum, squares);
    };
    const auto multiply_tile = [&](int t) {
        float acc[S::MH][2][4] = {};
#pragma unroll
        for (int st = 0; st < S::NST; st++) {
            ring_wait(rg, place);
            const uint32_t from = lane_at + place.slot * rg.slot_bytes;
            uint4 w[S::MH][NB];
#pragma unroll
            for (int h = 0; h < S::MH; h++) load_row(w[h], from + h * 8 * pitch);
#pragma unroll
            for (int b = 0; b < NB; b++)
#pragma unroll
                for (int h = 0; h < S::MH; h++) mma32(acc[h], x[st * NB + b], w[h][b]);
            ring_release(rg, place, w[S::MH - 1][NB - 1].w, issue);
            place.next(rg);
        }
        hand_over(acc, [&](float sum, float squares) {
            if (at.er < tiles.rows(t) && at.en < a.m) epilogue.finish(t, tiles.row(t) + at.er, at, sum * rsqrtf(squares / HIDDEN + a.eps));
        });
    };
    if constexpr (!TWO) {
        for (int t = 0; t < tiles.count; t++) multiply_tile(t);
    } else {
        uint4 y[NB]; /* the same of a piece */
        const auto piece_column = [&](int b) { return order.slice * COLUMNS + (warp * NB + b) * 32; };
        const auto fetch = [&] {
            for (bool there = false; !there;) {
                there = true;
#pragma unroll
                for (int b = 0; b < NB; b++) {
                    const int k = piece_column(b);
                    y[b] = make_uint4(~0u, ~0u, ~0u, ~0u);
                    if (g < a.m && k < second.columns) y[b] = step_look8(second.x + (size_t)g * second.columns + k + q * 8);
                    there = there && step_there(y[b]);
                }
            }
            __syncwarp();
#pragma unroll
            for (int b = 0; b < NB; b++) y[b] = mma_swapped(make_uint4(~y[b].x, ~y[b].y, ~y[b].z, ~y[b].w));
        };
        const auto multiply_piece = [&](int piece) {
            float acc[S::MH][2][4] = {};
            ring_wait(rg, place);
            const uint32_t from = lane_at + place.slot * rg.slot_bytes;
            uint4 w[S::MH][NB];
#pragma unroll
            for (int h = 0; h < S::MH; h++) load_row(w[h], from + h * 8 * pitch);
#pragma unroll
            for (int b = 0; b < NB; b++) /* past the last column lies what was there before */
#pragma unroll
                for (int h = 0; h < S::MH; h++)
                    if (piece_column(b) < second.columns) mma32(acc[h], y[b], w[h][b]);
            ring_release(rg, place, w[S::MH - 1][NB - 1].w, issue);
            place.next(rg);
            hand_over(acc, [&](float sum, float) {
                const int row = order.row + piece * order.stride + at.er;
                if (row >= second.rows || at.en >= a.m) return;
                const int to = (at.en * PRODUCT_SLICES + order.slice) * second.rows + row;
                if (second.told) *(volatile unsigned long long *)(second.told + to) = 1ull << 32 | __float_as_uint(sum);
                else second.out[to] = sum;
                if (second.exchange.size > 0) exchange_turn(second.exchange, sh.exchange).send(to, __float_as_uint(sum));
            });
        };
        for (int n = 0; n < a.m; n++)
            for (int i = order.slices * second.rows + blockIdx.x * STEP_THREADS + threadIdx.x; i < PRODUCT_SLICES * second.rows; i += gridDim.x * STEP_THREADS) {
                const int to = n * PRODUCT_SLICES * second.rows + i;
                if (!second.told) second.out[to] = 0;
                if (second.exchange.size > 0 && i < second.slices_sent * second.rows) exchange_turn(second.exchange).send(to, 0u);
            }
        for (int t = 0; t <= tiles.count; t++) {
            if (t == order.from - order.among && order.pieces > 0) fetch(); /* among tiles a tile before it is needed */
            if (t == order.from)
                for (int piece = 0; piece < order.pieces; piece++) multiply_piece(piece);
            if (t < tiles.count) multiply_tile(t);
        }
    }
#endif
}

#endif
