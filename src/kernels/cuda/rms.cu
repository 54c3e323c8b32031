/* src/kernels/cuda/rms.cu -- kn->rms: one warp a segment of a row. */
#include "kernels/cuda/common.cuh"

namespace {

constexpr int THREADS = 256;

template <class T> __global__ void __launch_bounds__(THREADS) rms_kernel(kn_rms_args a)
{
    const int64_t i = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32, t = i / a.segments;
    const int k = (int)(i % a.segments), lane = threadIdx.x % 32;
    if (t >= a.tokens) return; /* whole warps leave */
    int from = 0;
    for (int j = 0; j < k; j++) from += a.width[j];
    const float *in = a.in + t * a.ld_in + from;
    T *out = (T *)a.out + t * a.ld_out + from;
    float scale = 1.f;
    if (a.eps > 0) {
        float sum = 0.f;
        for (int j = lane; j < a.width[k]; j += 32) sum += in[j] * in[j];
        scale = rsqrtf(kn_warp_sum(sum) / (float)a.width[k] + (float)a.eps);
    }
    for (int j = lane; j < a.width[k]; j += 32)
        out[j] = kn_as<T>(in[j] * scale * (a.eps > 0 && a.weight != NULL ? a.weight[from + j] : 1.f));
}

} // namespace

plp_status kn_rms_cuda(kn_context *c, const kn_rms_args *a)
{
    const int64_t warps = (int64_t)a->tokens * a->segments;
    if (warps == 0) return PLP_OK;
    kn_by_type(c->options.act, [&](auto t) {
        rms_kernel<decltype(t)><<<(unsigned)kn_ceil(warps, THREADS / 32), THREADS, 0, c->stream>>>(*a);
    });
    return KN_LAUNCHED();
}
