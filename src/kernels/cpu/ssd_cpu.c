/* The scan of a slice, a tile of up to TILE tokens at a time.  With a_t = exp(dt_t A), and d(i, j) = a_{j+1} ... a_i the decay from token j
 * to token i, unrolling the recurrence over a tile that starts from the state h gives (arXiv:2405.21060, section 6)
 *
 *     y_i  =  a_0 ... a_i (h C_i)  +  sum_{j<=i} (C_i . B_j) d(i, j) dt_j x_j          h'  =  a_0 ... a_last h  +  sum_j d(last, j) dt_j x_j (outer) B_j
 *
 * four matrix products: C B^T, once for all heads of a group, and three a head.  Decays are products of numbers in [0, 1], so nothing
 * overflows or cancels, whatever dt and A are, and a head needs one exponential a token.
 *
 * Tiles end where chunks end, and every TILE tokens from the start of a chunk: both are positions in the sequence, not in the slice.
 * So a slice that ends where a tile does leaves every bit as it is in the sequence at once. */
#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/ssm_cpu.h"

#include "base/error.h"

enum {
    TILE = KN_SSD_TILE, /* of tokens: small, so that prompts may be cut into slices at many places; no slower than larger ones */
    MOST_RUN = 8,       /* heads that share C B^T; their states stay in the second cache                                 */
    LANE = 16,          /* float32 columns of a register block, and what the rows of all matrices here are padded to     */
    BLOCK = 4           /* rows of a register block */
};

/* A thread's matrices; P and N are dim and state rounded up to LANE, and what is beyond dim, state or the tile's end is zero. */
typedef struct {
    int dim, state, P, N;
    float *B, *C;     /* (TILE, N)                                */
    float *Bt;        /* (N, TILE): B transposed                  */
    float *CB;        /* (TILE, TILE): C_i . B_j                  */
    float *M;         /* (TILE, TILE): (C_i . B_j) d(i, j), j <= i */
    float *x, *faded; /* (TILE, P): dt_j x_j; d(last, j) dt_j x_j */
    float *y;         /* (TILE, P)                                */
    float *h;         /* (MOST_RUN, N, P): states, transposed     */
    float *row;       /* (N): of a state, as it is stored         */
} tiles;

static int padded(int n) { return (n + LANE - 1) / LANE * LANE; }

static tiles lay_out(int dim, int state, float *at, size_t *floats)
{
    tiles w = { .dim = dim, .state = state, .P = padded(dim), .N = padded(state) };
    const size_t P = (size_t)w.P, N = (size_t)w.N;
    struct {
        float **p;
        size_t n;
    } parts[] = { { &w.B, TILE * N }, { &w.C, TILE * N },     { &w.Bt, N * TILE }, { &w.CB, TILE * TILE },     { &w.M, TILE * TILE },
                  { &w.x, TILE * P }, { &w.faded, TILE * P }, { &w.y, TILE * P },  { &w.h, MOST_RUN * N * P }, { &w.row, N } };
    *floats = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].p = at ? at + *floats : NULL;
        *floats += parts[i].n;
    }
    return w;
}

size_t kn_ssd_scratch(int dim, int state)
{
    size_t floats;
    lay_out(dim, state, NULL, &floats);
    return floats * sizeof(float);
}

/* c[i][j] = scale[i] c[i][j] + sum_{l<k} a[i * row + l * column] b[l][j]   for i < m, j < n, rounded up to BLOCK and LANE; scale NULL: zeros.
 * lower: a has zeros right of its diagonal, which are passed over.  A strip of b, LANE columns, stays in the first cache. */
KN_INLINE void multiply(float *restrict c, int ldc, const float *scale, const float *restrict a, int row, int column, bool lower,
                        const float *restrict b, int ldb, int m, int n, int k)
{
    typedef float vec __attribute__((vector_size(LANE / 2 * sizeof(float))));
    enum { V = LANE / 2 };
    for (int j = 0; j < n; j += LANE)
        for (int i = 0; i < m; i += BLOCK) {
            const int last = lower && i + BLOCK < k ? i + BLOCK : k;
            vec s[BLOCK][2] = { { { 0 } } };
            for (int r = 0; r < BLOCK && scale; r++) {
                s[r][0] = scale[i + r] * *(const vec *)(c + (i + r) * ldc + j);
                s[r][1] = scale[i + r] * *(const vec *)(c + (i + r) * ldc + j + V);
            }
            for (int l = 0; l < last; l++) {
                const vec b0 = *(const vec *)(b + l * ldb + j), b1 = *(const vec *)(b + l * ldb + j + V);
#pragma GCC unroll 4
                for (int r = 0; r < BLOCK; r++) {
                    const float e = a[(i + r) * row + l * column];
                    s[r][0] += e * b0;
                    s[r][1] += e * b1;
                }
            }
            for (int r = 0; r < BLOCK; r++) {
                *(vec *)(c + (i + r) * ldc + j) = s[r][0];
                *(vec *)(c + (i + r) * ldc + j + V) = s[r][1];
            }
        }
}

/* B, C and their products for rows [first, first + rows) of a group. */
KN_CLONES static void load_group(const tiles *w, const kn_ssm_args *a, int group, int first, int rows)
{
    memset(w->Bt, 0, (size_t)w->N * TILE * sizeof *w->Bt);
    for (int i = 0; i < TILE; i++) {
        float *B = w->B + i * w->N, *C = w->C + i * w->N;
        memset(B, 0, (size_t)w->N * sizeof *B);
        memset(C, 0, (size_t)w->N * sizeof *C);
        if (i >= rows) continue;
        const int64_t at = (first + i) * a->ld_bc + group * w->state;
        memcpy(B, (const float *)a->B + at, (size_t)w->state * sizeof *B);
        memcpy(C, (const float *)a->C + at, (size_t)w->state * sizeof *C);
        for (int n = 0; n < w->state; n++) w->Bt[n * TILE + i] = B[n];
    }
    multiply(w->CB, TILE, NULL, w->C, w->N, 1, false, w->Bt, TILE, rows, rows, w->state);
}

/* One head over the tile: y's rows, and h moved to the tile's end. */
KN_CLONES static void scan_tile(const tiles *w, const kn_ssm_args *a, int head, int first, int rows, float *restrict h)
{
    const int P = w->P, dim = w->dim;
    const float A = a->A[head], D = a->D ? a->D[head] : 0;
    float dt[TILE] = { 0 }, decay[TILE], since_start[TILE] = { 0 }, d[TILE] = { 0 }, *all = w->Bt; /* Bt has served */
    for (int i = 0; i < rows; i++) dt[i] = kn_dt_raw(a, first + i, head);
    for (int i = 0; i < TILE; i++) {
        dt[i] = kn_dt(a, dt[i]);
        decay[i] = kn_expf(dt[i] * A);
    }
    for (int i = 0; i < rows; i++) {
        const float *x = (const float *)a->x + (first + i) * a->ld_x + head * dim;
        since_start[i] = i > 0 ? since_start[i - 1] * decay[i] : decay[i];
        for (int p = 0; p < dim; p++) w->x[i * P + p] = dt[i] * x[p];
    }
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < i; j++) { /* what has all but faded becomes zero: subnormals would cost more than they are worth */
            const float left = d[j] * decay[i];
            d[j] = left < 1e-30f ? 0 : left;
        }
        d[i] = 1;
        for (int j = 0; j < TILE; j++) w->M[i * TILE + j] = w->CB[i * TILE + j] * d[j];
    }
    multiply(w->y, P, NULL, w->C, w->N, 1, false, h, P, rows, P, w->state);
    multiply(w->y, P, since_start, w->M, TILE, 1, true, w->x, P, rows, P, rows);
    for (int j = 0; j < rows; j++)
        for (int p = 0; p < dim; p++) w->faded[j * P + p] = d[j] * w->x[j * P + p];
    for (int n = 0; n < w->N; n++) all[n] = since_start[rows - 1];
    multiply(h, P, all, w->B, 1, w->N, false, w->faded, P, w->state, P, rows);
    for (int i = 0; i < rows; i++) {
        const float *x = (const float *)a->x + (first + i) * a->ld_x + head * dim;
        float *y = (float *)a->y + (first + i) * a->ld_y + head * dim;
        for (int p = 0; p < dim; p++) y[p] = w->y[i * P + p] + D * x[p];
    }
}

/* A stored state (dim, state) to its transpose (N, P) and back; no source: zeros. */
KN_CLONES static void load_state(const tiles *w, float *restrict h, const char *source, plp_dtype dtype)
{
    memset(h, 0, (size_t)w->N * (size_t)w->P * sizeof *h);
    for (int p = 0; p < w->dim && source; p++, source += (size_t)w->state * plp_dtype_size(dtype)) {
        kn_widen(w->row, source, dtype, w->state);
        for (int n = 0; n < w->state; n++) h[n * w->P + p] = w->row[n];
    }
}
KN_CLONES static void store_state(const tiles *w, char *target, plp_dtype dtype, const float *restrict h)
{
    for (int p = 0; p < w->dim; p++, target += (size_t)w->state * plp_dtype_size(dtype)) {
        for (int n = 0; n < w->state; n++) w->row[n] = h[n * w->P + p];
        kn_narrow(target, dtype, w->row, w->state);
    }
}

/* Where the tile that holds position `at` ends, at most at `end`. */
static int64_t tile_end(int64_t at, int64_t end, int chunk)
{
    const int64_t start = at / chunk * chunk, tile = start + (at - start) / TILE * TILE + TILE, next = start + chunk;
    const int64_t here = tile < next ? tile : next;
    return here < end ? here : end;
}

/* Heads [head, last) of sequence s. */
static void scan(const tiles *w, const kn_ssm_args *a, const kn_batch *b, int s, int head, int last)
{
    const size_t elements = (size_t)w->N * (size_t)w->P;
    const int64_t past = b->past[s], end = past + b->start[s + 1] - b->start[s];
    int snap = a->block > 0 ? a->snap_start[s] : 0;
    for (int j = head; j < last; j++)
        load_state(w, w->h + (size_t)(j - head) * elements, past > 0 ? kn_head_state(a, b->src_slot[s], j) : NULL, a->state_dtype);
    for (int64_t at = past, next; at < end; at = next) {
        next = tile_end(at, end, a->chunk);
        const int first = b->start[s] + (int)(at - past), rows = (int)(next - at);
        const int to = a->block > 0 && next % a->block == 0 ? a->snap_slot[snap++] : -1;
        for (int j = head; j < last; j++) {
            float *h = w->h + (size_t)(j - head) * elements;
            if (j == head || a->group[j] != a->group[j - 1]) load_group(w, a, a->group[j], first, rows);
            scan_tile(w, a, j, first, rows, h);
            if (to >= 0) store_state(w, kn_head_state(a, to, j), a->state_dtype, h);
        }
    }
    for (int j = head; j < last; j++)
        store_state(w, kn_head_state(a, b->dst_slot[s], j), a->state_dtype, w->h + (size_t)(j - head) * elements);
}

plp_status kn_ssd_cpu(kn_context *c, const kn_ssm_args *a, const kn_batch *b)
{
    PLP_TRY(kn_scratch_holds(c, "ssd", kn_ssd_scratch(a->dim, a->state)));
    const int seqs = b->seqs - b->decodes, threads = kn_threads(c, seqs ? 4.0 * b->tokens * a->heads * a->dim * a->state : 0);
    int run = a->heads * seqs / (2 * threads); /* two tasks a thread at least, for balance */
    run = run < 1 ? 1 : run > MOST_RUN ? MOST_RUN : run;
    const int runs = (a->heads + run - 1) / run;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (int task = 0; task < seqs * runs; task++) {
        size_t floats;
        const tiles w = lay_out(a->dim, a->state, (float *)kn_scratch(c), &floats);
        const int head = task % runs * run, last = head + run < a->heads ? head + run : a->heads;
        memset(w.x, 0, TILE * (size_t)w.P * sizeof *w.x); /* the columns beyond dim, once; the loops write the others */
        memset(w.faded, 0, TILE * (size_t)w.P * sizeof *w.faded);
        scan(&w, a, b, b->decodes + task / runs, head, last);
    }
    return PLP_OK;
}
