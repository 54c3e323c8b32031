/* src/kernels/shared.h -- KN_SHARED: an inline function that loops on the CPU and CUDA kernels both call. */
#ifndef KERNELS_SHARED_H
#define KERNELS_SHARED_H

#ifdef __CUDACC__
#    define KN_SHARED static __host__ __device__ __forceinline__
#else
#    define KN_SHARED static inline __attribute__((always_inline))
#endif

#endif
