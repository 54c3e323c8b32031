/* src/kernels/cuda/uniform.cu -- kn->uniform: a block a row, in turn. */
#include "kernels/cuda/common.cuh"
#include "kernels/uniform.h"

/* By way of S, the type of a checkpoint. */
template <class T, class S> static __global__ void uniform_kernel(kn_uniform_args a)
{
    for (int64_t i = blockIdx.x; i < a.rows; i += gridDim.x)
        for (int64_t j = threadIdx.x; j < a.columns; j += blockDim.x) {
            const S stored = kn_as<S>(kn_uniform_at(a.key, (uint64_t)(a.first + i * a.stride + j), a.middle, a.half));
            ((T *)a.out)[i * a.columns + j] = kn_as<T>(kn_float(stored));
        }
}

plp_status kn_uniform_cuda(kn_context *c, const kn_uniform_args *a)
{
    if (a->rows == 0 || a->columns == 0) return PLP_OK;
    const int64_t most = 8 * c->sms;
    const int blocks = (int)(a->rows < most ? a->rows : most);
    kn_by_type(a->dtype, [&](auto t) {
        kn_by_type(a->stored, [&](auto s) { uniform_kernel<decltype(t), decltype(s)><<<blocks, 256, 0, c->stream>>>(*a); });
    });
    return KN_LAUNCHED();
}
