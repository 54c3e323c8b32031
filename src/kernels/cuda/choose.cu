/* src/kernels/cuda/choose.cu -- kn->choose: one thread a row, on a block of its own, walks the lists of all ranks; they are short, and rows
 * without filters need no list.  And kn->feed: the next step's tokens. */
#include "kernels/cuda/common.cuh"
#include "kernels/choose.h"

namespace
{

__global__ void choose_kernel(kn_choose_args a)
{
    kn_early_begin();
    const int64_t t = blockIdx.x;
    if (threadIdx.x > 0) return;
    a.out[t] = kn_choose_row(a.row + t, a.all + t, a.rows, a.ranks, a.sorted + t * a.ranks * KN_CANDIDATES, a.next + t * a.ranks);
}

__global__ void feed_kernel(int *ids, const kn_choice *from, int rows)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < rows && ids[i] < 0) ids[i] = from[~ids[i]].token;
}

} // namespace

plp_status kn_choose_cuda(kn_context *c, const kn_choose_args *a)
{
    if (a->rows == 0) return PLP_OK;
    kn_early_launch(c, choose_kernel, a->rows, 32, *a);
    return KN_LAUNCHED();
}

plp_status kn_feed_cuda(kn_context *c, int *ids, const kn_choice *from, int rows)
{
    if (rows == 0) return PLP_OK;
    feed_kernel<<<(unsigned)kn_ceil(rows, 128), 128, 0, c->stream>>>(ids, from, rows);
    return KN_LAUNCHED();
}
