/* src/kernels/cuda/common.cuh -- what every CUDA file of the backend shares: the context, errors as statuses, arithmetic. */
#ifndef KERNELS_CUDA_COMMON_CUH
#define KERNELS_CUDA_COMMON_CUH

extern "C" {
#include "base/error.h"
#include "kernels/kernels.h"
}

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define KN_CUDA(call) kn_cuda_status((call), #call, __FILE__, __LINE__)
plp_status kn_cuda_status(cudaError_t error, const char *call, const char *file, int line);

struct kn_context {
    kn_options options;
    int sms;     /* multiprocessors                                                */
    bool hopper; /* compute capability 9.0, and this build holds code made for it  */
    cudaStream_t stream;
};

static inline int64_t kn_ceil(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }
__device__ __forceinline__ float kn_silu(float v) { return v / (1.f + __expf(-v)); }
/* log(1 + e^x), linear above 20; log1p keeps its digits where e^x is small. */
__device__ __forceinline__ float kn_softplus(float x) { return x > 20.f ? x : log1pf(expf(x)); }

#endif
