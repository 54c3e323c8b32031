/* src/kernels/cpu/linear_tile.h -- the matrix product in tiles of X_ROWS rows of x by four rows of w.  Included by the file of a level,
 * which defines
 *
 *     vec                              a vector of float32, or of as many bytes of what is loaded
 *     X_ROWS                           rows of a tile, so that 4 X_ROWS accumulators and 5 operands fit the registers
 *     LANES                            float32 in a vec
 *     vec load_x(kind, p), load_w(kind, p)        a step's worth of x and w
 *     vec multiply_add(kind, sum, x, w)
 *     __m128 sum_of_four(const vec sum[4])        the four horizontal sums
 *
 * Both operands run along k, as they lie in memory: nothing is repacked, one row of x and many take the same path, and the cost, a
 * horizontal sum at the end, is paid once in up to K_BLOCK products. */
#include <immintrin.h>
#include <string.h>

enum {
    K_BLOCK = 1024, /* what a tile sums at once: its rows of x stay in the first cache while w passes by      */
    W_BLOCK = 64,   /* rows of w that stay in the second cache while x passes by                             */
    FEW_ROWS = 32,  /* up to here w is read from memory and once: four rows at a time                        */
    AHEAD = 32,     /* rows of w by which it is then fetched ahead: the processor sees no stream in short rows */
    MOST_STEP = 64  /* bytes of the widest step                                                              */
};

INLINE int x_size(kn_product kind) { return kind == KN_BF16_BF16 ? 2 : 4; }
INLINE int w_size(kn_product kind) { return kind == KN_F32_F32 ? 4 : 2; }
INLINE int step_of(kn_product kind) { return kind == KN_BF16_BF16 ? 2 * LANES : LANES; }

/* Sums over elements [0, k) of x_rows of x and four of w.  `ahead`: bytes from here to what w's cache lines are fetched for, or 0. */
INLINE void tile(kn_product kind, int x_rows, const char *x, size_t x_row, const char *const w[4], size_t ahead, int k, vec sum[X_ROWS][4])
{
    const int step = step_of(kind), xs = x_size(kind), ws = w_size(kind), whole = k / step * step;
    vec s[X_ROWS][4];
#pragma GCC unroll 8
    for (int r = 0; r < x_rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) s[r][j] = (vec){ 0 };
    for (int i = 0; i < whole; i += step) {
        vec wi[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            wi[j] = load_w(kind, w[j] + (size_t)i * (size_t)ws);
            if (ahead) _mm_prefetch(w[j] + (size_t)i * (size_t)ws + ahead, _MM_HINT_T1);
        }
#pragma GCC unroll 8
        for (int r = 0; r < x_rows; r++) {
            const vec xi = load_x(kind, x + (size_t)r * x_row + (size_t)i * (size_t)xs);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) s[r][j] = multiply_add(kind, s[r][j], xi, wi[j]);
        }
    }
    if (whole < k) { /* the rest of a step, with zeros behind it */
        char xi[MOST_STEP] = { 0 }, wi[4][MOST_STEP] = { { 0 } };
        for (int j = 0; j < 4; j++) memcpy(wi[j], w[j] + (size_t)whole * (size_t)ws, (size_t)(k - whole) * (size_t)ws);
#pragma GCC unroll 8
        for (int r = 0; r < x_rows; r++) {
            memcpy(xi, x + (size_t)r * x_row + (size_t)whole * (size_t)xs, (size_t)(k - whole) * (size_t)xs);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) s[r][j] = multiply_add(kind, s[r][j], load_x(kind, xi), load_w(kind, wi[j]));
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < x_rows; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sum[r][j] = s[r][j];
}

/* Rows [row, row + x_rows) of y, columns [column, column + 4): elements [from, from + k) of the sums.  Where w ends sooner its last row
 * stands in for the missing ones, and their sums are dropped. */
INLINE void tile_of_y(const kn_linear_work *p, kn_product kind, int x_rows, int row, int column, int from, int k, size_t ahead)
{
    const char *w[4];
    const int columns = p->n - column < 4 ? p->n - column : 4;
    for (int j = 0; j < 4; j++)
        w[j] = p->w + (size_t)(column + (j < columns ? j : columns - 1)) * p->w_row + (size_t)from * (size_t)w_size(kind);
    vec sum[X_ROWS][4];
    tile(kind, x_rows, p->x + (size_t)row * p->x_row + (size_t)from * (size_t)x_size(kind), p->x_row, w, ahead, k, sum);
#pragma GCC unroll 8
    for (int r = 0; r < x_rows; r++) {
        float *y = p->y + (row + r) * p->ldy + column;
        __m128 four = sum_of_four(sum[r]);
        if (columns == 4) {
            if (from > 0)
                four = _mm_add_ps(_mm_loadu_ps(y), four);
            else if (p->bias)
                four = _mm_add_ps(_mm_loadu_ps(p->bias + column), four);
            _mm_storeu_ps(y, four);
        } else
            for (int j = 0; j < columns; j++) y[j] = four[j] + (from > 0 ? y[j] : p->bias ? p->bias[column + j] : 0);
    }
}

INLINE void product(const kn_linear_work *p, kn_product kind, int first, int last)
{
    const int blocks = (p->k + K_BLOCK - 1) / K_BLOCK, k_block = ((p->k + blocks - 1) / blocks + MOST_STEP - 1) / MOST_STEP * MOST_STEP;
    const size_t ahead = p->rows <= FEW_ROWS ? AHEAD * p->w_row : 0;
    const int w_block = p->rows <= FEW_ROWS ? 4 : W_BLOCK;
    for (int top = first; top < last; top += w_block) {
        const int end = last - top < w_block ? last : top + w_block;
        for (int from = 0; from < p->k; from += k_block) {
            const int k = p->k - from < k_block ? p->k - from : k_block;
            for (int row = 0; row < p->rows; row += X_ROWS)
                for (int column = top; column < end; column += 4) switch (p->rows - row) {
                    case 1: tile_of_y(p, kind, 1, row, column, from, k, ahead); break;
                    case 2: tile_of_y(p, kind, 2, row, column, from, k, ahead); break;
#if X_ROWS > 3
                    case 3: tile_of_y(p, kind, 3, row, column, from, k, ahead); break;
                    case 4: tile_of_y(p, kind, 4, row, column, from, k, ahead); break;
                    case 5: tile_of_y(p, kind, 5, row, column, from, k, ahead); break;
#endif
                    default: tile_of_y(p, kind, X_ROWS, row, column, from, k, ahead);
                    }
        }
    }
}
