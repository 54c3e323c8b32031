/* src/kernels/cuda/context.cu -- the CUDA backend: device, stream, memory, and the table of its operations. */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mixer_step.cuh"

#include <cstdio>
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
    if (x->stream != NULL) cudaSetDevice(x->options.device); /* else nothing was made there */
    kn_linear_destroy_cuda(x);
    kn_ssd_destroy_cuda(x);
    cudaFree(x->candidates);
    cudaFree(x->told);
    cudaFree(x->sweep);
    for (int i = 0; i < KN_MARKS; i++)
        if (x->mark[i] != NULL) cudaEventDestroy(x->mark[i]);
    if (x->stream != NULL) cudaStreamDestroy(x->stream);
    free(x);
    *c = NULL;
}

/* Whether the code that runs here was made for sm_90a: only then are wgmma and the tensor copies in it. */
__global__ void hopper_kernel(int *found)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    *found = 1;
#else
    *found = 0;
#endif
}

static plp_status probe_hopper(kn_context *c)
{
    plp_status st;
    int *there = NULL, found = 0;
    PLP_DO(KN_CUDA(cudaMalloc(&there, sizeof *there)));
    hopper_kernel<<<1, 1, 0, c->stream>>>(there);
    PLP_DO(KN_LAUNCHED());
    PLP_DO(KN_CUDA(cudaMemcpyAsync(&found, there, sizeof found, cudaMemcpyDeviceToHost, c->stream)));
    PLP_DO(KN_CUDA(cudaStreamSynchronize(c->stream)));
    c->hopper = found;
done:
    cudaFree(there);
    return st;
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
    for (int i = 0; i < KN_MARKS; i++) PLP_TRY(KN_CUDA(cudaEventCreateWithFlags(&c->mark[i], cudaEventDisableTiming)));
    PLP_TRY(probe_hopper(c));
    PLP_TRY(KN_CUDA(cudaMalloc((void **)&c->told, KN_TURNS * KN_TOLD * sizeof *c->told)));
    PLP_TRY(KN_CUDA(cudaMemsetAsync(c->told, 0, KN_TURNS * KN_TOLD * sizeof *c->told, c->stream)));
    PLP_TRY(mixer_step_wide_create(c));
    PLP_TRY(ssm_sweep_create(c));
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

/* A thread has a current device, and this one may be another than the last, or have been elsewhere.  What every step and every end begins with
 * comes by here; what is launched behind it is on this GPU. */
static plp_status here(const kn_context *c) { return KN_CUDA(cudaSetDevice(c->options.device)); }

static plp_status alloc(kn_context *c, void **p, size_t bytes)
{
    *p = NULL;
    PLP_TRY(here(c));
    const cudaError_t error = bytes > 0 ? cudaMalloc(p, bytes) : cudaSuccess;
    if (error != cudaErrorMemoryAllocation) return kn_cuda_status(error, "cudaMalloc", __FILE__, __LINE__);
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    return PLP_FAIL(PLP_ERR_MEMORY, "GPU memory: %.1f MB wanted, %.1f of %.1f free; fix: use more ranks, fewer slots or a smaller step",
                    (double)bytes / 1e6, (double)available / 1e6, (double)total / 1e6);
}
static void release(kn_context *c, void **p)
{
    if (here(c) == PLP_OK) cudaFree(*p);
    *p = NULL;
}
static plp_status to_device(kn_context *c, void *dst, const void *src, size_t bytes)
{
    PLP_TRY(here(c));
    return KN_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, c->stream));
}
static plp_status to_host(kn_context *c, void *dst, const void *src, size_t bytes)
{
    PLP_TRY(here(c));
    return KN_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->stream));
}
static plp_status copy(kn_context *c, void *dst, const void *src, size_t bytes)
{
    return KN_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, c->stream));
}
static plp_status fill(kn_context *c, void *dst, int byte, size_t bytes)
{
    PLP_TRY(here(c));
    return KN_CUDA(cudaMemsetAsync(dst, byte, bytes, c->stream));
}
static plp_status sync(kn_context *c)
{
    PLP_TRY(here(c));
    return KN_CUDA(cudaStreamSynchronize(c->stream));
}
static plp_status alloc_host(kn_context *c, void **p, size_t bytes)
{
    PLP_TRY(here(c));
    return KN_CUDA(cudaMallocHost(p, bytes > 0 ? bytes : 1));
}
static void release_host(kn_context *, void **p)
{
    cudaFreeHost(*p);
    *p = NULL;
}
static plp_status mark(kn_context *c, int which) { return KN_CUDA(cudaEventRecord(c->mark[which], c->stream)); }
static plp_status wait(kn_context *c, int which)
{
    PLP_TRY(here(c));
    return KN_CUDA(cudaEventSynchronize(c->mark[which]));
}
static plp_status memory(int device, size_t *available, size_t *total)
{
    PLP_TRY(KN_CUDA(cudaSetDevice(device)));
    return KN_CUDA(cudaMemGetInfo(available, total));
}

static void identity(int device, char *text, size_t size)
{
    if (cudaDeviceGetPCIBusId(text, (int)size, device) == cudaSuccess) return;
    cudaGetLastError();
    snprintf(text, size, "unknown GPU %d", device);
}

/* By name, and not in the order of the struct, so that an entry cannot land in another's place. */
static kn_backend fill_table(void)
{
    kn_backend t = {};
    t.name = "cuda", t.most_state = KN_MOST_STATE;
    t.create = create, t.destroy = destroy, t.stream = stream;
    t.alloc = alloc, t.release = release, t.to_device = to_device, t.to_host = to_host, t.copy = copy, t.fill = fill, t.sync = sync;
    t.alloc_host = alloc_host, t.release_host = release_host, t.mark = mark, t.wait = wait;
    t.memory = memory, t.read_time = kn_read_time_cuda, t.describe = kn_describe_cuda;
    t.identity = identity, t.uniform = kn_uniform_cuda;
    t.embed = kn_embed_cuda, t.add_norm = kn_add_norm_cuda, t.pick = kn_pick_cuda, t.linear = kn_linear_cuda_run, t.conv = kn_conv_cuda;
    t.ssd_conv = kn_ssd_conv_cuda, t.ssd_conv_knows = kn_ssd_conv_knows_cuda;
    t.ssd = kn_ssd_cuda_run, t.ssm_step = kn_ssm_step_cuda, t.gated_norm = kn_gated_norm_cuda;
    t.scan = kn_scan_cuda, t.scan_step = kn_scan_step_cuda, t.scan_work = kn_scan_work_cuda, t.rms = kn_rms_cuda;
    t.candidates = kn_candidates_cuda, t.choose = kn_choose_cuda, t.feed = kn_feed_cuda;
    t.capture_begin = kn_capture_begin_cuda, t.capture_end = kn_capture_end_cuda, t.replay = kn_replay_cuda;
    t.graph_destroy = kn_graph_destroy_cuda;
    t.exchange_sum = kn_exchange_sum_cuda, t.exchange_gather = kn_exchange_gather_cuda, t.exchanges = kn_exchanges_cuda, t.shares = kn_shares_cuda;
    t.arrive = kn_arrive_cuda, t.await = kn_await_cuda;
    t.mixer_step_work = kn_mixer_step_work_cuda, t.mixer_step = kn_mixer_step_cuda, t.mixer_step_knows = kn_mixer_step_knows_cuda;
    t.norm_linear = kn_norm_linear_cuda;
    t.scan_mixer_work = kn_scan_mixer_work_cuda, t.scan_mixer_begin = kn_scan_mixer_begin_cuda, t.scan_mixer_end = kn_scan_mixer_end_cuda;
    return t;
}

const kn_backend *kn_cuda(void)
{
    static const kn_backend table = fill_table();
    return &table;
}
