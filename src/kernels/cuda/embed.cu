/* src/kernels/cuda/embed.cu -- kn->embed: one block a row, rows of the table widened to float32. */
#include "kernels/cuda/common.cuh"

template <class T, int V> static __global__ void embed_kernel(kn_embed_args a)
{
    const int t = blockIdx.x, id = a.ids[t];
    const bool known = id >= 0 && id < a.vocab;
    const T *row = (const T *)a.table + (known ? (int64_t)id * a.hidden : 0);
    float *out = a.out + (int64_t)t * a.hidden;
    for (int i = threadIdx.x * V; i < a.hidden; i += blockDim.x * V) {
        float v[V] = {};
        if (known) kn_load<V>(row + i, v);
        kn_store<V>(out + i, v);
    }
}

plp_status kn_embed_cuda(kn_context *c, const kn_embed_args *a)
{
    if (a->tokens == 0) return PLP_OK;
    const bool wide = a->hidden % 4 == 0 && kn_aligned(a->table, a->hidden, a->table_dtype, 4 * plp_dtype_size(a->table_dtype)) &&
                      kn_aligned(a->out, a->hidden, PLP_F32, 16);
    kn_by_type(a->table_dtype, [&](auto t) {
        using T = decltype(t);
        if (wide)
            embed_kernel<T, 4><<<a->tokens, 256, 0, c->stream>>>(*a);
        else
            embed_kernel<T, 1><<<a->tokens, 256, 0, c->stream>>>(*a);
    });
    return KN_LAUNCHED();
}
