/* src/kernels/cuda/meet.cu -- kn->arrive and kn->await: neighbouring devices wait for each other between kernels that write to each other's
 * memory.  What a kernel has written is complete when the next one of its stream begins; the release behind it takes that along. */
#include "kernels/cuda/common.cuh"

namespace
{

constexpr int THREADS = 256;

__global__ void __launch_bounds__(THREADS) arrive_kernel(const __grid_constant__ kn_exchange x, const __grid_constant__ kn_arrive_args a)
{
    for (int r = 0; r < x.size && a.values != NULL; r++)
        for (int i = a.first[r] + threadIdx.x; i < a.first[r + 1]; i += THREADS) a.to[r][i - a.first[r]] = __ldcg(a.values + i);
    __threadfence_system();
    __syncthreads();
    if (threadIdx.x > 0) return;
    const unsigned number = *x.meetings + 1;
    *x.meetings = number;
    for (int r = 0; r < x.size; r++)
        if (r != x.rank) asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(x.came[r] + x.rank), "r"(number) : "memory");
}

/* A thread a device. */
__global__ void await_kernel(const __grid_constant__ kn_exchange x)
{
    const unsigned number = *x.meetings;
    if ((int)threadIdx.x == x.rank) return;
    kn_patience patience;
    unsigned came;
    do asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(came) : "l"(x.came[x.rank] + threadIdx.x) : "memory");
    while ((int)(came - number) < 0 && patience.on());
}

} // namespace

plp_status kn_arrive_cuda(kn_context *c, const kn_arrive_args *a)
{
    arrive_kernel<<<1, THREADS, 0, c->stream>>>(*a->exchange, *a);
    return KN_LAUNCHED();
}

plp_status kn_await_cuda(kn_context *c, const kn_exchange *x)
{
    await_kernel<<<1, x->size, 0, c->stream>>>(*x);
    return KN_LAUNCHED();
}
