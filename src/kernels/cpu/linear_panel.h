/* src/kernels/cpu/linear_panel.h -- the matrix product in tiles of rows of x by packed panels of w (kernels/cpu/linear_cpu.h).  Included
 * by the file of a level, which defines
 *
 *     vec                              a vector of float32, or of as many bytes of what is loaded
 *     LANES                            float32 in a vec; PANEL is one or two of them
 *     MOST_ROWS                        rows of a tile
 *     INLINE int panels_of(kind, rows) panels of a tile: the sums of all and an operand each fit the registers; and for one row, what an
 *                                      addition takes is hidden behind those of other panels
 *     vec load_words(p, n)             n words of 32 bits, at most LANES, zeros behind them; n <= 0: nothing is read
 *     vec load_halves(p, n)            n words of 16 bits as the low halves of such words
 *     vec load_f16(p, n)               n of f16 as float32
 *     void store_words(p, n, v)
 *     vec broadcast(p)                 one word
 *     vec part_of(pairs, half)         the float32 of the first or second bf16 of every pair
 *     vec multiply_add(kind, sum, x, w)
 *
 * A lane's sum is one chain over up to K_BLOCK of k, whatever the tile: a row has the same bits in every one, and none is summed up at the
 * end. */
#include <immintrin.h>

enum { K_BLOCK = 1024, VECS = KN_PANEL / LANES, MOST_PANELS = 8 };

INLINE bool in_pairs(kn_product kind) { return kind == KN_F32_BF16 || kind == KN_BF16_BF16; }
INLINE int x_size(kn_product kind) { return kind == KN_BF16_BF16 ? 2 : 4; }
INLINE int w_size(kn_product kind) { return kind == KN_F32_F32 ? 4 : 2; }

/* Sums over elements [0, k) of `rows` of x and all columns of `panels` of w, which are `panel` bytes apart.  `ahead`: bytes from here to
 * what is fetched into the cache meanwhile, or 0. */
INLINE void tile(kn_product kind, int rows, int panels, int columns, const char *x, size_t x_row, const char *w, size_t panel, size_t ahead,
                 int k, vec sum[MOST_ROWS][MOST_PANELS * VECS])
{
    const int pair = in_pairs(kind) ? 2 : 1, parts = kind == KN_F32_BF16 ? 2 : 1, vecs = panels * VECS;
    const size_t word = (size_t)(pair * w_size(kind)), step = (size_t)columns * word, x_step = (size_t)(pair * x_size(kind));
    vec s[MOST_ROWS][MOST_PANELS * VECS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++) s[r][v] = (vec){ 0 };
    for (int i = 0; i < k / pair; i++) {
        vec wi[MOST_PANELS * VECS];
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++) {
            const char *at = w + (size_t)(v / VECS) * panel + (size_t)(v % VECS * LANES) * word;
            wi[v] = kind == KN_F32_F16 ? load_f16(at, columns - v % VECS * LANES) : load_words(at, columns - v % VECS * LANES);
            if (v % VECS == 0) _mm_prefetch(at + ahead, _MM_HINT_T1);
        }
#pragma GCC unroll 2
        for (int part = 0; part < parts; part++)
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const vec xi = broadcast(x + (size_t)r * x_row + (size_t)part * sizeof(float));
#pragma GCC unroll 16
                for (int v = 0; v < vecs; v++) s[r][v] = multiply_add(kind, s[r][v], xi, parts == 2 ? part_of(wi[v], part) : wi[v]);
            }
        w += step, x += x_step;
    }
    if (k % pair) { /* half a pair */
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++) {
            const char *at = w + (size_t)(v / VECS) * panel + (size_t)(v % VECS * LANES) * sizeof(uint16_t);
            const vec half = load_halves(at, columns - v % VECS * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                s[r][v] = multiply_add(kind, s[r][v], broadcast(x + (size_t)r * x_row), parts == 2 ? part_of(half, 0) : half);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++) sum[r][v] = s[r][v];
}

/* Rows [row, row + rows) of y, columns of `panels` from `column` on: elements [from, from + k) of the sums. */
INLINE void tile_of_y(const kn_linear_work *p, kn_product kind, int rows, int panels, int columns, int row, int column, int from, int k,
                      size_t ahead)
{
    const size_t w_row = (size_t)p->k * (size_t)w_size(kind);
    vec sum[MOST_ROWS][MOST_PANELS * VECS];
    tile(kind, rows, panels, columns, p->x + (size_t)row * p->x_row + (size_t)from * (size_t)x_size(kind), p->x_row,
         p->w + (size_t)column * w_row + (size_t)(from * columns) * (size_t)w_size(kind), KN_PANEL * w_row, ahead, k, sum);
    static const float nothing[KN_PANEL * MOST_PANELS];
    const float *before = from > 0 ? p->y + row * p->ldy + column : p->bias ? p->bias + column : nothing;
#pragma GCC unroll 8
    for (int r = 0; r<rows; r++, before += from> 0 ? p->ldy : 0)
#pragma GCC unroll 16
        for (int v = 0; v < panels * VECS; v++) {
            const int n = columns - v % VECS * LANES, at = v * LANES;
            store_words(p->y + (row + r) * p->ldy + column + at, n, sum[r][v] + load_words((const char *)(before + at), n));
        }
}

/* Whether there are such tiles: as many panels as the most rows of a product's tiles allow, or what halving leaves; another has a row less. */
INLINE bool tiles_of(kn_product kind, int rows, int panels)
{
    for (int p = panels_of(kind, rows), q = rows > MOST_ROWS / 2 - 1 ? panels_of(kind, rows + 1) : p; p > 0; p /= 2, q /= 2)
        if (p == panels || q == panels) return true;
    return false;
}

/* The same for all rows, in tiles of about as many. */
INLINE void all_rows(const kn_linear_work *p, kn_product kind, int panels, int columns, int column, int from, int k, size_t ahead)
{
    const int tiles = (p->rows + MOST_ROWS - 1) / MOST_ROWS;
    for (int t = 0; t < tiles; t++) {
        const int row = (int)((int64_t)p->rows * t / tiles), end = (int)((int64_t)p->rows * (t + 1) / tiles);
        switch (end - row) {
#define TILE(rows)                                                                                                                         \
    case rows:                                                                                                                             \
        if (tiles_of(kind, rows, panels)) tile_of_y(p, kind, rows, panels, columns, row, column, from, k, t == 0 ? ahead : 0);             \
        break
            TILE(1);
            TILE(2);
            TILE(3);
            TILE(4);
            TILE(5);
            TILE(6);
#if MOST_ROWS > 6
            TILE(7);
            TILE(8);
#endif
#undef TILE
        }
    }
}

INLINE void product(const kn_linear_work *p, kn_product kind, int first, int last)
{
    const int blocks = (p->k + K_BLOCK - 1) / K_BLOCK, k_block = blocks > 0 ? ((p->k + blocks - 1) / blocks + 63) / 64 * 64 : 1;
    const int tiles = (p->rows + MOST_ROWS - 1) / MOST_ROWS, whole = first + (last - first) / KN_PANEL * KN_PANEL;
    const size_t w_row = (size_t)p->k * (size_t)w_size(kind);
    int panels = tiles > 0 ? panels_of(kind, (p->rows + tiles - 1) / tiles) : 1;
    for (int column = first; column < whole; column += panels * KN_PANEL) {
        while (column + panels * KN_PANEL > whole) panels /= 2;
        for (int from = 0; from < p->k; from += k_block) {
            const int k = p->k - from < k_block ? p->k - from : k_block;
            /* What comes next: the panels' next block, or the next panels' first. */
            const size_t ahead = from + k < p->k ? KN_PANEL * (size_t)(k * w_size(kind))
                                                 : KN_PANEL * ((size_t)panels * w_row - (size_t)(from * w_size(kind)));
            switch (panels) {
            case 8: all_rows(p, kind, 8, KN_PANEL, column, from, k, ahead); break;
            case 6: all_rows(p, kind, 6, KN_PANEL, column, from, k, ahead); break;
            case 4: all_rows(p, kind, 4, KN_PANEL, column, from, k, ahead); break;
            case 3: all_rows(p, kind, 3, KN_PANEL, column, from, k, ahead); break;
            case 2: all_rows(p, kind, 2, KN_PANEL, column, from, k, ahead); break;
            default: all_rows(p, kind, 1, KN_PANEL, column, from, k, ahead);
            }
        }
    }
    for (int from = 0; from < p->k && whole < last; from += k_block)
        all_rows(p, kind, 1, last - whole, whole, from, p->k - from < k_block ? p->k - from : k_block, 0);
}
