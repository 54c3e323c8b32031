/* src/kernels/cuda/measure.cu -- what the device is, and how fast it reads. */
#include "kernels/cuda/common.cuh"

#include <algorithm>
#include <cstdio>
#include <cstring>

/* Eight 16-byte loads in flight a thread; the sum is stored only if it is what it never is, so that no load is dropped. */
__global__ void read_kernel(const uint4 *data, size_t count, unsigned *sink)
{
    unsigned seen = 0;
    const size_t step = (size_t)gridDim.x * blockDim.x * 8;
    for (size_t i = (size_t)blockIdx.x * blockDim.x * 8 + threadIdx.x; i < count; i += step) {
        uint4 v[8];
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = i + k * blockDim.x < count ? __ldcs(data + i + k * blockDim.x) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < 8; k++) seen ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (seen == 0x9e3779b9u) *sink = seen;
}

/* Values that look random: repeated ones read faster than real weights do. */
__global__ void spread_kernel(uint4 *data, size_t count)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)gridDim.x * blockDim.x) {
        const unsigned a = (unsigned)i * 2654435761u, b = a ^ (unsigned)(i >> 32) ^ a >> 15;
        data[i] = make_uint4(a, b * 2246822519u, b ^ 0x85ebca6bu, a * 3266489917u);
    }
}

plp_status kn_read_time_cuda(kn_context *c, size_t bytes, double *seconds)
{
    plp_status st;
    uint4 *data = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    float best = 1e30f;
    const size_t count = bytes / sizeof *data;
    PLP_DO(KN_CUDA(cudaMalloc(&data, bytes + sizeof *data)));
    PLP_DO(KN_CUDA(cudaEventCreate(&begin)));
    PLP_DO(KN_CUDA(cudaEventCreate(&end)));
    spread_kernel<<<c->sms * 8, 256, 0, c->stream>>>(data, count);
    PLP_DO(KN_LAUNCHED());
    for (int blocks = 2; blocks <= 16; blocks *= 2)
        for (int i = 0; i < 4; i++) {
            float ms;
            PLP_DO(KN_CUDA(cudaEventRecord(begin, c->stream)));
            read_kernel<<<c->sms * blocks, 256, 0, c->stream>>>(data, count, (unsigned *)(data + count));
            PLP_DO(KN_LAUNCHED());
            PLP_DO(KN_CUDA(cudaEventRecord(end, c->stream)));
            PLP_DO(KN_CUDA(cudaEventSynchronize(end)));
            PLP_DO(KN_CUDA(cudaEventElapsedTime(&ms, begin, end)));
            best = std::min(best, ms);
        }
    *seconds = best * 1e-3;
done:
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    cudaFree(data);
    return st;
}

/* The driver's own version where the kernel says it, "580.159.04", else nothing: CUDA's calls know what it is good for alone. */
static void driver_version(char *text, int size)
{
    FILE *f = fopen("/sys/module/nvidia/version", "r");
    text[0] = 0;
    if (f == NULL) return;
    if (fgets(text, size, f) == NULL) text[0] = 0;
    text[strcspn(text, " \n")] = 0;
    fclose(f);
}

void kn_describe_cuda(kn_context *c, char *line, size_t size)
{
    cudaDeviceProp p;
    char own[32];
    int driver = 0, runtime = 0;
    driver_version(own, sizeof own);
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (cudaGetDeviceProperties(&p, c->options.device) != cudaSuccess) snprintf(line, size, "unknown GPU");
    else
        snprintf(line, size, "GPU %d %s, %d multiprocessors, %.0f GB, driver%s%s for CUDA %d.%d, CUDA %d.%d", c->options.device, p.name,
                 p.multiProcessorCount, (double)p.totalGlobalMem * 1e-9, own[0] ? " " : "", own, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}
