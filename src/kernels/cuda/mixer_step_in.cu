/* src/kernels/cuda/mixer_step_in.cu -- the first kernel of a mixer's decode step: RMSNorm, in_proj, and per band of its rows
 *     z        as it is
 *     x, B, C  conv1d update and SiLU: a row is one channel, so the thread that finishes it owns its window
 *     dt       softplus (linear above 20) and clamp
 * A Mamba-1 mixer has z and x alone, and x_proj behind them: the second product.
 * The window's new value is rounded to bf16, as the state keeps it, before it is used: the next steps will see the same. */
#include "kernels/cuda/mixer_step.cuh"
#include "kernels/cuda/mixer_step_product.cuh"

#include <algorithm>

namespace {

struct in_args {
    product_args product;
    product_second second; /* Mamba-1 alone */
    const float *in_bias, *conv_weight, *conv_bias; /* (rows) or NULL, (channels, 4), (channels) or NULL */
    bf16 *conv_state;                               /* (slots, 3, channels), oldest first                */
    step_batch batch;
    step_work work;
    step_told told;
    const float *dt_bias; /* (heads) */
    float dt_min, dt_max;
    int inner, channels, heads;
};

/* Shared memory behind the ring: the three old columns of every (tile, batch row, channel) in bf16, then the taps and the bias of every
 * (tile, channel); of dt the bias alone. */
enum { OLD_BYTES = sizeof(uint2), TAP_BYTES = sizeof(float4) + sizeof(float) };

template <bool SECOND> struct in_epilogue {
    const in_args &a;
    uint2 *old;
    float4 *tap;
    float *bias;
    int src, dst;
    bool fresh; /* no initial state: the source slot is dirty */

    template <class S> __device__ __forceinline__ void prefetch(const product_tiles &tiles, const product_place<S> &at)
    {
        constexpr int AHEAD = 5; /* tiles' loads in flight */
        if (at.en >= a.product.m) return;
        const unsigned short *state = (const unsigned short *)a.conv_state + (size_t)src * 3 * a.channels;
        for (int t0 = at.duty; t0 < tiles.count; t0 += AHEAD * S::DUTIES) {
            uint32_t o0[AHEAD], o1[AHEAD], o2[AHEAD];
            float4 w[AHEAD];
            float wb[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const int t = t0 + j * S::DUTIES, ch = tiles.row(t) + at.er - a.inner;
                o0[j] = o1[j] = o2[j] = 0;
                w[j] = make_float4(0, 0, 0, 0);
                wb[j] = 0;
                if (t >= tiles.count || at.er >= tiles.rows(t) || ch < 0) continue;
                if (ch >= a.channels) { /* dt */
                    if (at.en == 0) wb[j] = __ldg(a.dt_bias + ch - a.channels);
                    continue;
                }
                if (!fresh) {
                    o0[j] = __ldcg(state + ch);
                    o1[j] = __ldcg(state + a.channels + ch);
                    o2[j] = __ldcg(state + 2 * a.channels + ch);
                }
                if (at.en == 0) {
                    w[j] = __ldg((const float4 *)a.conv_weight + ch);
                    if (a.conv_bias) wb[j] = __ldg(a.conv_bias + ch);
                }
            }
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
                const int t = t0 + j * S::DUTIES;
                if (t >= tiles.count) break;
                old[(t * a.product.m + at.en) * S::TILE + at.er] = make_uint2(o0[j] | o1[j] << 16, o2[j]);
                if (at.en == 0) {
                    tap[t * S::TILE + at.er] = w[j];
                    bias[t * S::TILE + at.er] = wb[j];
                }
            }
        }
    }
    template <class S> __device__ __forceinline__ void finish(int t, int row, const product_place<S> &at, float value)
    {
        const int ch = row - a.inner, n = at.en;
        if (a.in_bias) value += __ldg(a.in_bias + row);
        if (ch < 0) {
            const bf16 z = __float2bfloat16(value);
            if (!SECOND || a.told.z != NULL) step_tell(a.told.z + (size_t)n * a.inner + row, __bfloat162float(z));
            else a.work.z[(size_t)n * a.inner + row] = z;
        } else if (ch < a.channels) {
            const bf16 now = __float2bfloat16(value);
            const uint2 was = old[(t * a.product.m + n) * S::TILE + at.er];
            const float4 w = tap[t * S::TILE + at.er];
            const float2 s01 = unpack(was.x), s2 = unpack(was.y);
            const float o = bias[t * S::TILE + at.er] + w.x * s01.x + w.y * s01.y + w.z * s2.x + w.w * __bfloat162float(now);
            unsigned short *state = (unsigned short *)a.conv_state + (size_t)dst * 3 * a.channels + ch;
            state[0] = (unsigned short)(was.x >> 16);
            state[a.channels] = (unsigned short)was.y;
            state[2 * a.channels] = __bfloat16_as_ushort(now);
            const bf16 x = __float2bfloat16(kn_silu(o));
            if (SECOND) step_tell(a.told.x + (size_t)n * a.channels + ch, x);
            else step_tell(a.told.in + (size_t)n * (a.channels + a.heads) + ch, __bfloat162float(x));
        } else {
            const float dt = kn_softplus(value + bias[t * S::TILE + at.er]);
            step_tell(a.told.in + (size_t)n * (a.channels + a.heads) + ch, fminf(fmaxf(dt, a.dt_min), a.dt_max));
        }
    }
};

template <class S, int ROWS, bool SECOND> __global__ void __launch_bounds__(STEP_THREADS, 2) mixer_in_kernel(const __grid_constant__ in_args a)
{
    extern __shared__ __align__(128) unsigned char smem[];
    const int tiles = product_tiles(a.product.rows, S::TILE, a.product.first, gridDim.x, blockIdx.x).count, n = product_place<S>().en;
    uint2 *old = (uint2 *)(smem + a.product.slots * S::slot(a.product.pad));
    float4 *tap = (float4 *)(old + tiles * S::TILE * a.product.m);
    in_epilogue<SECOND> e = { a, old, tap, (float *)(tap + tiles * S::TILE), 0, 0, true };
    if (n < a.product.m) {
        e.src = a.batch.src[n];
        e.dst = a.batch.dst[n];
        e.fresh = a.batch.past[n] <= 0;
    }
    if constexpr (SECOND) norm_product<S, ROWS>(a.product, a.second, smem, e);
    else norm_product<S, ROWS>(a.product, product_alone(), smem, e);
}

int in_rows(const kn_mixer_step_args *a) { return step_inner(a) + step_channels(a) + step_dts(a); }

int tiles_most(int rows, int tile, int first, int blocks)
{
    int most = 0;
    for (int b = 0; b < blocks; b++) most = std::max(most, product_tiles(rows, tile, first, blocks, b).count);
    return most;
}

} // namespace

bool mixer_step_in_knows(const kn_mixer_step_args *a)
{
    return a->width == STEP_TAPS && a->conv_dtype == PLP_BF16 && step_aligned(a->in_proj) && step_aligned(a->norm_weight) && step_aligned(a->residual) &&
           step_aligned(a->conv_weight) && product_shape_of(a->hidden, [](auto) {});
}

step_room mixer_step_in_room(const kn_mixer_step_args *a, int sms)
{
    step_room room = { 0, 0 };
    product_shape_of(a->hidden, [&](auto shape) {
        typedef decltype(shape) S;
        const int channels = tiles_most(in_rows(a), S::TILE, step_inner(a), sms) * S::TILE;
        room = { S::slot(step_pad(a->rows)), (int)sizeof(product_shared<S>) + channels * (a->rows * OLD_BYTES + TAP_BYTES) };
    });
    return room;
}

int mixer_step_slices(int hidden, int channels)
{
    int slices = 0;
    product_shape_of(hidden, [&](auto shape) { slices = (int)kn_ceil(channels, decltype(shape)::COLUMNS); });
    return slices;
}

uint2 *mixer_step_told(const kn_context *c, const kn_scan_mixer_args *a)
{
    bool early = !a->between;
    product_shape_of(a->hidden, [&](auto shape) {
        early = early && product_overlaps(a->channels, c->sms * decltype(shape)::TILE);
    });
    return early ? (uint2 *)mixer_step_turn(c) : NULL;
}

plp_status mixer_step_in(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w, int slots, const step_told *told,
                         const product_second *second)
{
    in_args in = { { (const bf16 *)a->in_proj, a->norm_weight, a->residual, NULL, in_rows(a), a->rows, slots, step_pad(a->rows), (float)a->norm_eps,
                     0, step_inner(a), a->is_ready && a->rows >= KN_READY_ROWS ? a->ready : kn_ready{} },
                         {}, a->in_bias, a->conv_weight, a->conv_bias, (bf16 *)a->conv_state, *b, *w, *told, a->dt_bias, a->dt_min, a->dt_max,
                         step_inner(a), step_channels(a), a->heads };
    plp_status st = PLP_OK;
    product_shape_of(a->hidden, [&](auto shape) {
        typedef decltype(shape) S;
        const size_t beside = mixer_step_in_room(a, c->sms).fixed - sizeof(product_shared<S>);
        const size_t shared = (size_t)slots * S::slot(step_pad(a->rows)) + beside;
        if (second == NULL) {
            product_rows_of(a->rows, [&](auto rows) { st = step_launch<mixer_in_kernel<S, decltype(rows)::value, false>>(c, dim3(c->sms), shared, in); });
            return;
        }
        in.second = *second;
        product_rows_of(a->rows, [&](auto rows) { st = step_launch<mixer_in_kernel<S, decltype(rows)::value, true>>(c, dim3(c->sms), shared, in); });
    });
    return st;
}
