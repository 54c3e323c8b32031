/* src/kernels/cuda/common.cuh -- what every CUDA file of the backend shares: the context, errors as statuses, element types, reductions. */
#ifndef KERNELS_CUDA_COMMON_CUH
#define KERNELS_CUDA_COMMON_CUH

extern "C" {
#include "base/error.h"
#include "kernels/kernels.h"
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* A CUDA call as a status; KN_LAUNCHED() after a kernel launch. */
#define KN_CUDA(call) kn_cuda_status((call), #call, __FILE__, __LINE__)
#define KN_LAUNCHED() KN_CUDA(cudaGetLastError())
plp_status kn_cuda_status(cudaError_t error, const char *call, const char *file, int line);

/* Of kn_context.told: turns, more than mixers whose kernels can be on the device at once; words of a turn, enough for KN_MIXER_ROWS rows of
 * KN_MIXER_HEADS heads with a group of their own each, so that no rank runs out of them where another does not. */
enum { KN_TURNS = 4, KN_TOLD = 1 << 20 };
enum { KN_CLUSTER = 6 }; /* blocks, at most */
struct kn_linear_cuda; /* linear.cu */
struct kn_ssd_cuda;    /* ssd.cuh   */
struct ssm_sweep_counters; /* ssm_sweep.cuh */

struct kn_context {
    kn_options options;
    int sms;     /* multiprocessors                                         */
    bool hopper; /* compute capability 9.0, and this build holds code for it */
    cudaStream_t stream;
    cudaEvent_t mark[KN_MARKS];
    kn_linear_cuda *linear;
    kn_ssd_cuda *ssd;
    void *candidates;  /* partial results of kn->candidates, see candidates.cu           */
    uint32_t *told;    /* (KN_TURNS, KN_TOLD) see mixer_step_turn(); 0 when a mixer begins */
    unsigned turn;     /* of mixers                                                        */
    ssm_sweep_counters *sweep; /* ssm_sweep.cuh                                            */
    int sweep_flight;          /* stages that a sweep has on their way                     */
    int clusters[KN_CLUSTER + 1]; /* of so many blocks of out_proj's for many rows that the device holds at once, see mixer_step_wide_out.cu */
};

/* What the files of single operations hang into the context and the table. */
plp_status kn_linear_create_cuda(kn_context *c);
void kn_linear_destroy_cuda(kn_context *c);
plp_status kn_ssd_create_cuda(kn_context *c);
void kn_ssd_destroy_cuda(kn_context *c);
plp_status kn_candidates_create_cuda(kn_context *c);
plp_status ssm_sweep_create(kn_context *c); /* what ssm_sweep.cu needs in the context */

plp_status kn_read_time_cuda(kn_context *c, size_t bytes, double *seconds);
void kn_describe_cuda(kn_context *c, char *line, size_t size);
plp_status kn_capture_begin_cuda(kn_context *c);
plp_status kn_capture_end_cuda(kn_context *c, kn_graph **graph);
plp_status kn_replay_cuda(kn_context *c, kn_graph *graph);
void kn_graph_destroy_cuda(kn_context *c, kn_graph **graph);

plp_status kn_uniform_cuda(kn_context *c, const kn_uniform_args *a);
plp_status kn_embed_cuda(kn_context *c, const kn_embed_args *a);
plp_status kn_add_norm_cuda(kn_context *c, const kn_add_norm_args *a);
plp_status kn_pick_cuda(kn_context *c, const kn_pick_args *a);
plp_status kn_sum_norm_cuda(kn_context *c, const kn_add_norm_args *a); /* kn->add_norm of an exchange; no map */
plp_status kn_exchange_sum_cuda(kn_context *c, const kn_exchange *x, void *data, int64_t count, plp_dtype dtype);
plp_status kn_exchange_gather_cuda(kn_context *c, const kn_exchange *x, const void *mine, size_t bytes, void *all);
bool kn_exchanges_cuda(const kn_add_norm_args *a);
plp_status kn_share_norm_cuda(kn_context *c, const kn_add_norm_args *a); /* kn->add_norm of several parts */
bool kn_shares_cuda(const kn_add_norm_args *a);
plp_status kn_arrive_cuda(kn_context *c, const kn_arrive_args *a);
plp_status kn_await_cuda(kn_context *c, const kn_exchange *x);
plp_status kn_linear_cuda_run(kn_context *c, const kn_linear_args *a);
plp_status kn_conv_cuda(kn_context *c, const kn_conv_args *a, const kn_batch *b);
/* kn->conv in two halves: the output of decode rows and their states, of prefill rows from channel `from` on (a multiple of 4); the states
 * of slices. */
plp_status kn_conv_rows_cuda(kn_context *c, const kn_conv_args *a, const kn_batch *b, int from);
plp_status kn_conv_states_cuda(kn_context *c, const kn_conv_args *a, const kn_batch *b);
plp_status kn_ssd_cuda_run(kn_context *c, const kn_ssm_args *a, const kn_batch *b);
bool kn_ssd_conv_knows_cuda(const kn_context *c, const kn_conv_args *v, const kn_ssm_args *a, const kn_batch *b);
plp_status kn_ssd_conv_cuda(kn_context *c, const kn_conv_args *v, const kn_ssm_args *a, const kn_batch *b);
plp_status kn_ssm_step_cuda(kn_context *c, const kn_ssm_args *a, const kn_batch *b);
plp_status kn_scan_cuda(kn_context *c, const kn_scan_args *a, const kn_batch *b);
plp_status kn_scan_step_cuda(kn_context *c, const kn_scan_args *a, const kn_batch *b);
size_t kn_scan_work_cuda(const kn_scan_args *a);
plp_status kn_rms_cuda(kn_context *c, const kn_rms_args *a);
plp_status kn_gated_norm_cuda(kn_context *c, const kn_gated_norm_args *a);
plp_status kn_candidates_cuda(kn_context *c, const kn_candidates_args *a);
plp_status kn_choose_cuda(kn_context *c, const kn_choose_args *a);
plp_status kn_feed_cuda(kn_context *c, int *ids, const kn_choice *from, int rows);

/* Programmatic dependent launch, for kernels that have nothing to do before the kernels ahead of them are complete: the launch itself is
 * out of the way by then.  kn_early_begin() comes first in such a kernel, which is launched with kn_early_launch.  What does more before
 * it waits (mixer_step.cuh) takes kn_launch. */
__device__ __forceinline__ void kn_early_begin()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
template <class A>
cudaError_t kn_launch(const kn_context *c, bool early, void (*kernel)(A), dim3 grid, int threads, size_t shared, const A &a, int cluster = 1)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute[2] = {};
    if (early) {
        attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute[0].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attribute[early].id = cudaLaunchAttributeClusterDimension;
        attribute[early].val.clusterDim = { (unsigned)cluster, 1, 1 };
    }
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = c->stream;
    config.attrs = attribute;
    config.numAttrs = early + (cluster > 1);
    return cudaLaunchKernelEx(&config, kernel, a);
}
template <class A> void kn_early_launch(const kn_context *c, void (*kernel)(A), dim3 grid, int threads, const A &a)
{
    kn_launch(c, c->hopper, kernel, grid, threads, 0, a); /* KN_LAUNCHED() sees its error */
}

/* How long a kernel waits for another device.  One that died never sends: after so long, more than any --watchdog, the kernel ends in an error, should
 * nobody have ended the process before.  Not sooner: when a job is suspended as a whole, a device may wait for another whose part of the step was not
 * queued yet. */
struct kn_patience {
    static constexpr unsigned long long LIMIT = 7ull * 86400 * 1000 * 1000 * 1000; /* nanoseconds */
    int turns = 0;
    unsigned long long since = 0;
    __device__ __forceinline__ bool on()
    {
        if (++turns & 0xfff) return true;
        unsigned long long now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
        if (since == 0) since = now;
        if (now - since > LIMIT) __trap();
        return true;
    }
};

/* ------------------------------------------------------------------------------------------------------------------ element types */
__host__ __device__ __forceinline__ float kn_float(float v) { return v; }
__host__ __device__ __forceinline__ float kn_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__host__ __device__ __forceinline__ float kn_float(__half v) { return __half2float(v); }
template <class T> __device__ __forceinline__ T kn_as(float v);
template <> __device__ __forceinline__ float kn_as<float>(float v) { return v; }
template <> __device__ __forceinline__ __nv_bfloat16 kn_as<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }
template <> __device__ __forceinline__ __half kn_as<__half>(float v) { return __float2half_rn(v); }

/* V neighbours, moved in one access where V * sizeof(T) is a power of two up to 16 bytes.  The address must be aligned to that. */
template <class T, int V> struct alignas(sizeof(T) * V) kn_pack {
    T v[V];
};
template <int V, class T> __device__ __forceinline__ void kn_load(const T *p, float (&out)[V])
{
    const kn_pack<T, V> pack = *(const kn_pack<T, V> *)p;
#pragma unroll
    for (int i = 0; i < V; i++) out[i] = kn_float(pack.v[i]);
}
template <int V, class T> __device__ __forceinline__ void kn_store(T *p, const float (&in)[V])
{
    kn_pack<T, V> pack;
#pragma unroll
    for (int i = 0; i < V; i++) pack.v[i] = kn_as<T>(in[i]);
    *(kn_pack<T, V> *)p = pack;
}

/* One element of a type that is known at run time alone: for values that are read rarely. */
__device__ __forceinline__ float kn_load_any(const void *p, plp_dtype type, int64_t i)
{
    if (type == PLP_BF16) return kn_float(((const __nv_bfloat16 *)p)[i]);
    if (type == PLP_F16) return kn_float(((const __half *)p)[i]);
    return ((const float *)p)[i];
}
__device__ __forceinline__ void kn_store_any(void *p, plp_dtype type, int64_t i, float v)
{
    if (type == PLP_BF16)
        ((__nv_bfloat16 *)p)[i] = kn_as<__nv_bfloat16>(v);
    else if (type == PLP_F16)
        ((__half *)p)[i] = kn_as<__half>(v);
    else
        ((float *)p)[i] = v;
}

/* Calls f with a value of the type that `type` names: f is a generic lambda that launches a template. */
template <class F> void kn_by_type(plp_dtype type, F f)
{
    switch (type) {
    case PLP_BF16: f(__nv_bfloat16()); break;
    case PLP_F16: f(__half()); break;
    default: f(float()); break;
    }
}

constexpr int KN_MOST_STATE = 256; /* a warp of a prefill keeps a row of the state in registers */
static inline int64_t kn_ceil(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }
/* Whether `p` and the rows behind it, ld elements apart, allow accesses of `bytes`. */
static inline bool kn_aligned(const void *p, int64_t ld, plp_dtype type, size_t bytes)
{
    return (uintptr_t)p % bytes == 0 && (uint64_t)ld * plp_dtype_size(type) % bytes == 0;
}

/* ---------------------------------------------------------------------------------------------------------------------- arithmetic */
/* One instruction each: about two units in the last place off, denormals are zero. */
__device__ __forceinline__ float kn_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float kn_reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float kn_silu(float v) { return v * kn_reciprocal(1.f + kn_exp2(-1.4426950408889634f * v)); }
/* log(1 + e^x), linear above 20; log1p keeps its digits where e^x is small. */
__device__ __forceinline__ float kn_softplus(float x) { return x > 20.f ? x : log1pf(expf(x)); }

__device__ __forceinline__ float kn_ssm_dt(float raw, float bias, float least, float most) { return fminf(fmaxf(kn_softplus(raw + bias), least), most); }
/* One head's dt of a row, and what it does to the state. */
struct kn_ssm_scalars {
    float dt, decay, skip;
};
__device__ __forceinline__ kn_ssm_scalars kn_ssm_scalars_of(const kn_ssm_args &a, float raw, int head)
{
    kn_ssm_scalars r;
    r.dt = kn_ssm_dt(raw, a.dt_bias != NULL ? a.dt_bias[head] : 0.f, a.dt_min, a.dt_max);
    r.decay = expf(r.dt * a.A[head]);
    r.skip = a.D != NULL ? a.D[head] : 0.f;
    return r;
}

__device__ __forceinline__ float kn_warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
    return v;
}
/* The sum over a block of full warps, at every thread; `shared` holds 32 values.  May be called again after other barriers. */
__device__ __forceinline__ float kn_block_sum(float v, float *shared)
{
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    v = kn_warp_sum(v);
    if (warps == 1) return v;
    __syncthreads(); /* the last call's values were read */
    if (lane == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    return kn_warp_sum(lane < warps ? shared[lane] : 0.f);
}

/* The sequence that row t belongs to, searched among first .. seqs - 1.  Sequences without rows are passed over. */
__device__ __forceinline__ int kn_sequence_of(const int *start, int first, int seqs, int t)
{
    int lo = first, hi = seqs - 1;
    while (lo < hi) {
        const int mid = (lo + hi + 1) / 2;
        if (start[mid] <= t)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

#endif
