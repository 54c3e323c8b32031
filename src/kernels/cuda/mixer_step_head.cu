/* src/kernels/cuda/mixer_step_head.cu -- RMSNorm and lm_head for 1..8 rows: float32 logits, each weight read once. */
#include "kernels/cuda/mixer_step.cuh"
#include "kernels/cuda/mixer_step_product.cuh"

namespace {

enum { HEAD_RING = 104960 }; /* bytes; leaves room for a neighbour, the kernel that is draining */

struct head_args {
    product_args product;
    float *y;
    int64_t ld;
};
struct head_epilogue {
    const head_args &a;
    template <class S> __device__ __forceinline__ void prefetch(const product_tiles &, const product_place<S> &) {}
    template <class S> __device__ __forceinline__ void finish(int, int row, const product_place<S> &at, float value) { a.y[at.en * a.ld + row] = value; }
};

template <class S, int ROWS> __global__ void __launch_bounds__(STEP_THREADS, 2) norm_linear_kernel(const __grid_constant__ head_args a)
{
    extern __shared__ __align__(128) unsigned char smem[];
    norm_product<S, ROWS>(a.product, product_alone(), smem, head_epilogue{ a });
}

} // namespace

extern "C" plp_status kn_norm_linear_cuda(kn_context *c, const kn_norm_linear_args *a, bool *done)
{
    *done = false;
    if (a->rows < 1 || a->rows > STEP_ROWS || a->n < 1 || a->w_dtype != PLP_BF16 || !step_runs_on(c)) return PLP_OK;
    if (!step_aligned(a->w) || !step_aligned(a->weight) || !step_aligned(a->residual)) return PLP_OK;
    plp_status st = PLP_OK;
    *done = product_shape_of(a->hidden, [&](auto shape) {
        typedef decltype(shape) S;
        const int slots = HEAD_RING / S::slot(0) < RING_SLOTS ? HEAD_RING / S::slot(0) : (int)RING_SLOTS;
        const head_args h = { { (const bf16 *)a->w, a->weight, a->residual, a->map, a->n, a->rows, slots, 0, (float)a->eps, 0, 0,
                                a->rows >= KN_READY_ROWS ? a->ready : kn_ready{} },
                              a->y, a->ld_y };
        product_rows_of(a->rows, [&](auto rows) { st = step_launch<norm_linear_kernel<S, decltype(rows)::value>>(c, dim3(c->sms), (size_t)slots * S::slot(0), h); });
    });
    return st;
}
