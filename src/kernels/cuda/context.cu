/* src/kernels/cuda/context.cu -- the CUDA backend: device, stream, memory, and the table of its operations. */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mixer_step.cuh"

#include <cstdlib>

plp_status kn_cuda_status(cudaError_t error, const char *call, const char *file, int line)
{
    if (error == cudaSuccess) return PLP_OK;
    cudaGetLastError(); /* an error that does not stick must not fail the next launch as well */
    const bool memory = error == cudaErrorMemoryAllocation;
    return plp_fail(memory ? PLP_ERR_MEMORY : PLP_ERR_DEVICE, file, line, "%s: %s; fix: %s", call, cudaGetErrorString(error),
                    memory ? "use more ranks, fewer slots or a smaller step"
                           : "see the driver's log (dmesg, nvidia-smi), or run with --device cpu");
}

int kn_cuda_devices(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();
    return 0;
}

static void destroy(kn_context **c)
{
    if (*c == NULL) return;
    kn_context *x = *c;
    kn_linear_destroy_cuda(x);
    kn_ssd_destroy_cuda(x);
    cudaFree(x->candidates);
    if (x->stream != NULL) cudaStreamDestroy(x->stream);
    free(x);
    *c = NULL;
}

static plp_status setup(kn_context *c)
{
    const int devices = kn_cuda_devices();
    if (c->options.device < 0 || c->options.device >= devices)
        return PLP_FAIL(PLP_ERR_DEVICE, "GPU %d of %d visible; fix: start fewer ranks per host, or check CUDA_VISIBLE_DEVICES",
                        c->options.device, devices);
    PLP_TRY(KN_CUDA(cudaSetDevice(c->options.device)));
    cudaDeviceProp p;
    PLP_TRY(KN_CUDA(cudaGetDeviceProperties(&p, c->options.device)));
    if (p.major < 8)
        return PLP_FAIL(PLP_ERR_DEVICE, "GPU %d (%s) has compute capability %d.%d of 8.0; fix: use a newer GPU or --device cpu",
                        c->options.device, p.name, p.major, p.minor);
    c->sms = p.multiProcessorCount;
    PLP_TRY(KN_CUDA(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking)));
    PLP_TRY(kn_linear_create_cuda(c));
    PLP_TRY(kn_ssd_create_cuda(c));
    return kn_candidates_create_cuda(c);
}

static plp_status create(kn_context **c, const kn_options *options)
{
    *c = NULL;
    kn_context *x = (kn_context *)calloc(1, sizeof *x);
    PLP_TRY(PLP_ALLOCATED(x));
    x->options = *options;
    const plp_status st = setup(x);
    if (st != PLP_OK) destroy(&x);
    *c = x;
    return st;
}

static kn_stream stream(kn_context *c) { return c->stream; }

static plp_status alloc(kn_context *, void **p, size_t bytes)
{
    *p = NULL;
    const cudaError_t error = bytes > 0 ? cudaMalloc(p, bytes) : cudaSuccess;
    if (error != cudaErrorMemoryAllocation) return kn_cuda_status(error, "cudaMalloc", __FILE__, __LINE__);
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    return PLP_FAIL(PLP_ERR_MEMORY, "GPU memory: %.1f MB wanted, %.1f of %.1f free; fix: use more ranks, fewer slots or a smaller step",
                    (double)bytes / 1e6, (double)available / 1e6, (double)total / 1e6);
}
static void release(kn_context *, void **p)
{
    cudaFree(*p);
    *p = NULL;
}
static plp_status to_device(kn_context *c, void *dst, const void *src, size_t bytes)
{
    return KN_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, c->stream));
}
static plp_status to_host(kn_context *c, void *dst, const void *src, size_t bytes)
{
    return KN_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->stream));
}
static plp_status copy(kn_context *c, void *dst, const void *src, size_t bytes)
{
    return KN_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, c->stream));
}
static plp_status fill(kn_context *c, void *dst, int byte, size_t bytes) { return KN_CUDA(cudaMemsetAsync(dst, byte, bytes, c->stream)); }
static plp_status sync(kn_context *c) { return KN_CUDA(cudaStreamSynchronize(c->stream)); }
static plp_status memory(kn_context *, size_t *available, size_t *total) { return KN_CUDA(cudaMemGetInfo(available, total)); }

const kn_backend *kn_cuda(void)
{
    static const kn_backend table = {
        /* clang-format off */
        "cuda", create, destroy, stream,
        alloc, release, to_device, to_host, copy, fill, sync, memory,
        kn_embed_cuda, kn_add_norm_cuda, kn_linear_cuda_run, kn_conv_cuda, kn_ssd_cuda_run, kn_ssm_step_cuda, kn_gated_norm_cuda,
        kn_candidates_cuda,
        kn_mixer_step_work_cuda,
        kn_mixer_step_cuda,
        kn_norm_linear_cuda,
        /* clang-format on */
    };
    return &table;
}
