/* src/kernels/cuda/linear.cu -- kn->linear: cuBLASLt, and a plain tiled kernel for what it does not take.
 *
 * Which of cuBLASLt's algorithms is fastest for a shape is found by timing them at its first use, unless the stream is being captured.  A
 * deterministic context does not time: it takes, once per weight shape, an algorithm without split sums that accepts any number of rows,
 * and uses it for all of them. */
#include "kernels/cuda/common.cuh"

#include <cublasLt.h>

#include <cstdlib>
#include <cstring>

#define KN_BLAS(call) blas_status((call), #call, __LINE__)
static plp_status blas_status(cublasStatus_t status, const char *call, int line)
{
    if (status == CUBLAS_STATUS_SUCCESS) return PLP_OK;
    return plp_fail(PLP_ERR_DEVICE, __FILE__, line, "%s: %s; fix: check that CUDA's libraries and driver fit together", call,
                    cublasLtGetStatusString(status));
}

/* --------------------------------------------------------------------------------------------------- any shape, types and alignment
 * Tiles of 64 x 64, a thread 4 x 4 of them; sums run over k in order, whatever the number of rows. */
static __global__ void __launch_bounds__(256) tiled_kernel(kn_linear_args a)
{
    constexpr int TILE = 64, DEPTH = 16;
    __shared__ float xs[DEPTH][TILE + 4], ws[DEPTH][TILE + 4];
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16, n0 = blockIdx.x * TILE, m0 = blockIdx.y * TILE;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < a.k; k0 += DEPTH) {
        for (int i = threadIdx.x; i < TILE * DEPTH; i += 256) {
            const int row = i / DEPTH, k = i % DEPTH;
            const bool inside = k0 + k < a.k;
            xs[k][row] = inside && m0 + row < a.rows ? kn_load_any(a.x, a.x_dtype, (m0 + row) * a.ldx + k0 + k) : 0.f;
            ws[k][row] = inside && n0 + row < a.n ? kn_load_any(a.w, a.w_dtype, (int64_t)(n0 + row) * a.k + k0 + k) : 0.f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += xs[k][ty * 4 + i] * ws[k][tx * 4 + j];
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int m = m0 + ty * 4 + i, n = n0 + tx * 4 + j;
            if (m < a.rows && n < a.n) kn_store_any(a.y, a.y_dtype, m * a.ldy + n, sum[i][j] + (a.bias != NULL ? a.bias[n] : 0.f));
        }
}
static plp_status tiled_run(kn_context *c, const kn_linear_args *a)
{
    tiled_kernel<<<dim3((int)kn_ceil(a->n, 64), (int)kn_ceil(a->rows, 64)), 256, 0, c->stream>>>(*a);
    return KN_LAUNCHED();
}

/* --------------------------------------------------------------------------------------------------------------------- cuBLASLt */
enum { TRIES = 8, TIMED_RUNS = 5, CHOICES = 512, DETERMINISTIC_ROWS = 256 /* tiles that suit decode and prefill alike */ };
static const size_t WORK_BYTES = (size_t)32 << 20;

typedef struct { /* compared as bytes: made by key_of, which clears it */
    int64_t ldx, ldy;
    int rows, n, k; /* rows: of the class that shares an algorithm */
    uint8_t x_type, w_type, y_type, x_align, w_align, y_align;
} shape_key;

typedef struct {
    shape_key key;
    bool blas; /* false: by tiles */
    bool timed;
    cublasLtMatmulAlgo_t algo;
} choice;

struct kn_linear_cuda {
    cublasLtHandle_t handle;
    void *work;    /* WORK_BYTES for cuBLAS                                      */
    float *biased; /* WORK_BYTES: a product in float32 that waits for its bias */
    cudaEvent_t begin, end;
    int choices, next; /* kept; the one that is replaced next when all are used */
    choice choice_of[CHOICES];
};

typedef struct { /* y^T (n, rows) = w^T x^T in cuBLAS's column-major view */
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t w, x, y;
} product;

static cudaDataType type_of(plp_dtype t) { return t == PLP_BF16 ? CUDA_R_16BF : t == PLP_F16 ? CUDA_R_16F : CUDA_R_32F; }
static plp_status product_init(product *p, const kn_linear_args *a, int rows)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    PLP_TRY(KN_BLAS(cublasLtMatmulDescInit(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F))); /* float32 is never TF32 */
    PLP_TRY(KN_BLAS(cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed)));
    PLP_TRY(KN_BLAS(cublasLtMatrixLayoutInit(&p->w, type_of(a->w_dtype), (uint64_t)a->k, (uint64_t)a->n, a->k)));
    PLP_TRY(KN_BLAS(cublasLtMatrixLayoutInit(&p->x, type_of(a->x_dtype), (uint64_t)a->k, (uint64_t)rows, a->ldx)));
    return KN_BLAS(cublasLtMatrixLayoutInit(&p->y, type_of(a->y_dtype), (uint64_t)a->n, (uint64_t)rows, a->ldy));
}

/* The most rows of those that share an algorithm: each count alone up to 16, then classes that grow by a quarter to a half. */
static int row_class(int rows)
{
    int unit = 1;
    while (rows > 16 * unit) unit *= 2;
    return unit == 1 ? rows : (int)kn_ceil(rows, unit * 4) * unit * 4;
}
static uint8_t alignment(const void *p)
{
    uint8_t bytes = 1;
    while (bytes < 16 && (uintptr_t)p % (bytes * 2u) == 0) bytes *= 2;
    return bytes;
}
static bool waits_for_bias(const kn_linear_args *a) { return a->bias != NULL && a->y_dtype != PLP_F32; }
static shape_key key_of(const kn_context *c, const kn_linear_args *a)
{
    shape_key k;
    memset(&k, 0, sizeof k);
    k.ldx = a->ldx, k.ldy = a->ldy, k.n = a->n, k.k = a->k;
    k.rows = c->options.deterministic ? 0 : row_class(a->rows);
    k.x_type = (uint8_t)a->x_dtype, k.w_type = (uint8_t)a->w_dtype, k.y_type = (uint8_t)a->y_dtype;
    k.x_align = alignment(a->x), k.w_align = alignment(a->w), k.y_align = alignment(a->y);
    if (waits_for_bias(a)) k.ldy = a->n, k.y_type = PLP_F32, k.y_align = 16;
    return k;
}

/* y = sum + bias, rounded once */
static __global__ void bias_kernel(kn_linear_args a, const float *sum, int64_t ld)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, m = i / a.n, n = i % a.n;
    if (m < a.rows) kn_store_any(a.y, a.y_dtype, m * a.ldy + n, sum[m * ld + n] + a.bias[n]);
}

static plp_status product_run(kn_context *c, const kn_linear_args *a, const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1.f, zero = 0.f;
    product p;
    PLP_TRY(product_init(&p, a, a->rows));
    return KN_BLAS(cublasLtMatmul(c->linear->handle, &p.op, &one, a->w, &p.w, a->x, &p.x, &zero, a->y, &p.y, a->y, &p.y, algo,
                                  c->linear->work, WORK_BYTES, c->stream));
}
/* cuBLASLt adds no float32 bias to a 16-bit result: the product stays float32 until the bias is added, a piece of the rows at a
 * time. */
static plp_status blas_run(kn_context *c, const kn_linear_args *a, const cublasLtMatmulAlgo_t *algo)
{
    if (a->bias == NULL) return product_run(c, a, algo);
    const bool direct = a->y_dtype == PLP_F32;
    const int at_once = direct ? a->rows : (int)(WORK_BYTES / sizeof(float) / (size_t)a->n);
    for (int row = 0; row < a->rows; row += at_once) {
        kn_linear_args part = *a, sum;
        part.rows = a->rows - row < at_once ? a->rows - row : at_once;
        part.x = (const char *)a->x + (size_t)(row * a->ldx) * plp_dtype_size(a->x_dtype);
        part.y = (char *)a->y + (size_t)(row * a->ldy) * plp_dtype_size(a->y_dtype);
        sum = part;
        if (!direct) sum.y = c->linear->biased, sum.y_dtype = PLP_F32, sum.ldy = a->n;
        PLP_TRY(product_run(c, &sum, algo));
        bias_kernel<<<(int)kn_ceil((int64_t)part.rows * a->n, 256), 256, 0, c->stream>>>(part, (const float *)sum.y, sum.ldy);
        PLP_TRY(KN_LAUNCHED());
    }
    return PLP_OK;
}

/* Up to TRIES algorithms, cuBLAS's favourite first; *found = 0 where it knows none. */
static plp_status suggestions(kn_context *c, const kn_linear_args *a, const shape_key *k, cublasLtMatmulHeuristicResult_t *result,
                              int *found)
{
    product p;
    cublasLtMatmulPreferenceOpaque_t pref;
    const int rows = c->options.deterministic ? DETERMINISTIC_ROWS : k->rows; /* the most of the class: its work space suffices for all */
    /* partial sums are added in float32, or not split at all */
    const uint32_t schemes = c->options.deterministic ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t w = k->w_align, x = k->x_align, y = k->y_align;
    *found = 0;
    if (a->x_dtype != a->w_dtype) return PLP_OK;
    PLP_TRY(product_init(&p, a, rows));
    PLP_TRY(KN_BLAS(cublasLtMatmulPreferenceInit(&pref)));
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *value;
        size_t size;
    } set[] = { { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORK_BYTES, sizeof WORK_BYTES },
                { CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes },
                { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w, sizeof w },
                { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x, sizeof x },
                { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y, sizeof y },
                { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y, sizeof y } };
    for (const auto &s : set) PLP_TRY(KN_BLAS(cublasLtMatmulPreferenceSetAttribute(&pref, s.attribute, s.value, s.size)));
    const cublasStatus_t st = cublasLtMatmulAlgoGetHeuristic(c->linear->handle, &p.op, &p.w, &p.x, &p.y, &p.y, &pref, TRIES, result, found);
    if (st == CUBLAS_STATUS_NOT_SUPPORTED) *found = 0;
    return st == CUBLAS_STATUS_NOT_SUPPORTED ? PLP_OK : KN_BLAS(st);
}

/* Whether an algorithm takes any number of rows. */
static bool takes_all_rows(kn_context *c, const kn_linear_args *a, const cublasLtMatmulAlgo_t *algo)
{
    static const int rows[] = { 1, 2, 3, 7, 16, 65, 300, 2048, 8192 };
    for (const int r : rows) {
        product p;
        cublasLtMatmulHeuristicResult_t check;
        if (product_init(&p, a, r) != PLP_OK) return false;
        if (cublasLtMatmulAlgoCheck(c->linear->handle, &p.op, &p.w, &p.x, &p.y, &p.y, algo, &check) != CUBLAS_STATUS_SUCCESS) return false;
        if (check.workspaceSize > WORK_BYTES) return false;
    }
    return true;
}

/* Milliseconds of one product, negative if it cannot run. */
static float time_of(kn_context *c, const kn_linear_args *a, const cublasLtMatmulAlgo_t *algo)
{
    kn_linear_cuda *l = c->linear;
    float ms = -1.f;
    for (int i = -1; i < TIMED_RUNS; i++) { /* one run to warm up */
        if (i == 0) cudaEventRecord(l->begin, c->stream);
        if (blas_run(c, a, algo) != PLP_OK) return -1.f;
    }
    cudaEventRecord(l->end, c->stream);
    if (cudaEventSynchronize(l->end) != cudaSuccess || cudaEventElapsedTime(&ms, l->begin, l->end) != cudaSuccess) return -1.f;
    return ms;
}

static plp_status choose(kn_context *c, const kn_linear_args *a, bool may_wait, choice *to)
{
    cublasLtMatmulHeuristicResult_t result[TRIES];
    kn_linear_args bare = *a; /* as cuBLAS sees it */
    if (waits_for_bias(a)) bare.y_dtype = PLP_F32, bare.ldy = a->n;
    int found = 0;
    PLP_TRY(suggestions(c, &bare, &to->key, result, &found));
    if (c->options.deterministic) {
        int i = 0;
        while (i < found && !takes_all_rows(c, &bare, &result[i].algo)) i++;
        to->timed = true;
        to->blas = i < found;
        if (i < found) to->algo = result[i].algo;
        return PLP_OK;
    }
    to->timed = may_wait;
    to->blas = found > 0;
    if (found > 0) to->algo = result[0].algo;
    float best = -1.f;
    for (int i = 0; i < found && may_wait && found > 1; i++) {
        const float ms = time_of(c, a, &result[i].algo);
        if (ms < 0 || (best > 0 && ms >= best)) continue;
        best = ms;
        to->algo = result[i].algo;
    }
    return PLP_OK;
}

static plp_status find(kn_context *c, const kn_linear_args *a, const choice **out)
{
    kn_linear_cuda *l = c->linear;
    const shape_key k = key_of(c, a);
    cudaStreamCaptureStatus capture;
    int i = 0;
    while (i < l->choices && memcmp(&l->choice_of[i].key, &k, sizeof k) != 0) i++;
    *out = &l->choice_of[i];
    if (i < l->choices && l->choice_of[i].timed) return PLP_OK;
    PLP_TRY(KN_CUDA(cudaStreamIsCapturing(c->stream, &capture)));
    const bool may_wait = capture == cudaStreamCaptureStatusNone;
    if (i < l->choices && !may_wait) return PLP_OK;
    choice made;
    made.key = k;
    PLP_TRY(choose(c, a, may_wait, &made));
    if (i == l->choices) {
        i = l->choices < CHOICES ? l->choices++ : l->next;
        if (l->choices == CHOICES) l->next = (i + 1) % CHOICES;
    }
    l->choice_of[i] = made;
    *out = &l->choice_of[i];
    return PLP_OK;
}

plp_status kn_linear_cuda_run(kn_context *c, const kn_linear_args *a)
{
    if (a->rows == 0 || a->n == 0) return PLP_OK;
    const choice *by = NULL;
    PLP_TRY(find(c, a, &by));
    return by->blas ? blas_run(c, a, &by->algo) : tiled_run(c, a);
}

plp_status kn_linear_create_cuda(kn_context *c)
{
    kn_linear_cuda *l = c->linear = (kn_linear_cuda *)calloc(1, sizeof *l);
    PLP_TRY(PLP_ALLOCATED(l));
    PLP_TRY(KN_BLAS(cublasLtCreate(&l->handle)));
    PLP_TRY(KN_CUDA(cudaEventCreate(&l->begin)));
    PLP_TRY(KN_CUDA(cudaEventCreate(&l->end)));
    PLP_TRY(KN_CUDA(cudaMalloc((void **)&l->biased, WORK_BYTES)));
    return KN_CUDA(cudaMalloc(&l->work, WORK_BYTES));
}

void kn_linear_destroy_cuda(kn_context *c)
{
    kn_linear_cuda *l = c->linear;
    if (l == NULL) return;
    if (l->handle != NULL) cublasLtDestroy(l->handle);
    if (l->begin != NULL) cudaEventDestroy(l->begin);
    if (l->end != NULL) cudaEventDestroy(l->end);
    cudaFree(l->work);
    cudaFree(l->biased);
    free(l);
    c->linear = NULL;
}
