/* src/kernels/cuda/pick.cu -- kn->pick: one block a row. */
#include "kernels/cuda/common.cuh"

template <class T> static __global__ void pick_kernel(kn_pick_args a, int64_t ld_in, int64_t ld_out, int n) /* distances and length in T */
{
    const T *in = (const T *)a.in + a.map[blockIdx.x] * ld_in;
    T *out = (T *)a.out + blockIdx.x * ld_out;
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = in[i];
}

template <class T> static void run(kn_context *c, const kn_pick_args *a, size_t size)
{
    constexpr int THREADS = 256;
    const int64_t each = sizeof(T) / size;
    pick_kernel<T><<<a->rows, THREADS, 0, c->stream>>>(*a, a->ld_in / each, a->ld_out / each, (int)(a->columns / each));
}

plp_status kn_pick_cuda(kn_context *c, const kn_pick_args *a)
{
    const plp_dtype act = c->options.act;
    const size_t size = plp_dtype_size(act);
    if (a->rows == 0 || a->columns == 0) return PLP_OK;
    if (a->columns * size % 16 == 0 && kn_aligned(a->in, a->ld_in, act, 16) && kn_aligned(a->out, a->ld_out, act, 16)) run<uint4>(c, a, size);
    else if (size == 4) run<uint32_t>(c, a, size);
    else run<uint16_t>(c, a, size);
    return KN_LAUNCHED();
}
