/* src/kernels/cuda/scan.cuh -- what the two kernels of Mamba-1's prefill share: scan.cu for any shape, scan_fed.cu for common ones.
 *
 * Where the states alone would leave the GPU idle, slices are cut into pieces that run side by side: pass 1 computes a piece's last state
 * from zero and the sum of its dt (the decay over the piece is exp(A sum dt)), and pass 2 starts from the state that those give.  That
 * rounds otherwise than one walk, so a deterministic context never cuts. */
#ifndef KERNELS_CUDA_SCAN_CUH
#define KERNELS_CUDA_SCAN_CUH

#include "kernels/cuda/ssd.cuh"

constexpr float SCAN_LOG2E = 1.4426950408889634f;

/* log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; the logarithm as u times a polynomial that is within 6e-8 of it on [0, 1]: relative, so
 * that small dt keep their digits, and without a second use of the unit that computes exponentials.  Products and sums are spelt out: kernels
 * of one context must round alike. */
__device__ __forceinline__ float scan_softplus(float x)
{
    const float u = kn_exp2(__fmul_rn(-fabsf(x), SCAN_LOG2E));
    float p = 0.005232691764831543f;
    p = __fmaf_rn(p, u, -0.029505230486392975f);
    p = __fmaf_rn(p, u, 0.07822594046592712f);
    p = __fmaf_rn(p, u, -0.13663244247436523f);
    p = __fmaf_rn(p, u, 0.19106006622314453f);
    p = __fmaf_rn(p, u, -0.2484298199415207f);
    p = __fmaf_rn(p, u, 0.3331909775733948f);
    p = __fmaf_rn(p, u, -0.4999949336051941f);
    p = __fmaf_rn(p, u, 0.9999999403953552f);
    return __fmaf_rn(u, p, fmaxf(x, 0.f));
}

/* How slices are cut: pieces of `length` tokens from the start of each.  Their states lie in work, (pieces of all slices, state + 1,
 * channels): the last state of each, then the sum of its dt.  From `first` on follow the states that slices of several pieces begin from, one for
 * each prefill sequence: pass 2 must not read the slot itself, which its last piece may have written. */
struct scan_pieces {
    int length, first;
    float *work;
};
__device__ __forceinline__ float *scan_piece_at(const scan_pieces &p, const kn_scan_args &a, int64_t n)
{
    return p.work + n * (a.state + 1) * a.channels;
}

/* A block's piece: blockIdx.y of the slice of prefill sequence blockIdx.z.  `first` to `last` are its tokens within the slice. */
struct scan_place {
    int s, rows, first, last;
    int64_t row0, past, piece; /* the slice's first row; tokens before the slice; its number in work */
};
/* false: there is nothing to do for this block. */
template <int PASS> __device__ __forceinline__ bool scan_find(const kn_batch &b, const scan_pieces &cut, scan_place &p)
{
    p.s = b.decodes + blockIdx.z;
    p.row0 = b.start[p.s], p.rows = b.start[p.s + 1] - b.start[p.s];
    p.first = blockIdx.y * cut.length, p.last = min(p.rows, p.first + cut.length);
    if (p.first >= p.rows || (PASS == 1 && p.last == p.rows)) return false;
    p.past = b.past[p.s], p.piece = blockIdx.y;
    if (PASS == 1 || p.first > 0)
        for (int i = b.decodes; i < p.s; i++) p.piece += (b.start[i + 1] - b.start[i] + cut.length - 1) / cut.length;
    return true;
}

/* The states of channel c that a thread holds, number(j) its j-th: decays for exp2, and what the piece begins with. */
template <int PASS, int NP, class Number>
__device__ __forceinline__ void scan_begin(const kn_scan_args &a, const kn_batch &b, const scan_pieces &cut, const scan_place &p, int c, bool valid,
                                           Number number, float (&A)[NP], float (&h)[NP])
{
#pragma unroll
    for (int j = 0; j < NP; j++) {
        const int n = number(j);
        A[j] = n < a.state ? a.A[(int64_t)c * a.state + n] * SCAN_LOG2E : 0.f;
        h[j] = 0.f;
    }
    float *begin = scan_piece_at(cut, a, cut.first + (int)blockIdx.z) + c;
    if (p.past > 0 && (PASS == 2 || p.first == 0)) {
        const bool slot = PASS == 1 || p.rows <= cut.length;
#pragma unroll
        for (int j = 0; j < NP; j++) {
            const int n = number(j);
            if (n >= a.state) continue;
            h[j] = slot ? kn_load_any(a.h, a.state_dtype, ((int64_t)b.src_slot[p.s] * a.channels + c) * a.state + n) : begin[(int64_t)n * a.channels];
            if (PASS == 2) continue;
            if (valid) begin[(int64_t)n * a.channels] = h[j];
            h[j] = 0.f;
        }
    }
    if constexpr (PASS == 2) {
        for (int64_t i = p.piece - blockIdx.y; i < p.piece && p.first > 0; i++) {
            const float *from = scan_piece_at(cut, a, i) + c, sum = from[(int64_t)a.state * a.channels];
#pragma unroll
            for (int j = 0; j < NP; j++) {
                const int n = number(j);
                if (n < a.state) h[j] = kn_exp2(A[j] * sum) * h[j] + from[(int64_t)n * a.channels];
            }
        }
    }
}

template <int NP, class Number>
__device__ __forceinline__ void scan_keep(const kn_scan_args &a, int slot, int c, bool valid, Number number, const float (&h)[NP])
{
#pragma unroll
    for (int j = 0; j < NP; j++) {
        const int n = number(j);
        if (valid && n < a.state) kn_store_any(a.h, a.state_dtype, ((int64_t)slot * a.channels + c) * a.state + n, h[j]);
    }
}

/* Pass 1: the last state of a piece. */
template <int NP, class Number>
__device__ __forceinline__ void scan_leave(const kn_scan_args &a, float *to, int c, bool valid, Number number, const float (&h)[NP])
{
#pragma unroll
    for (int j = 0; j < NP; j++) {
        const int n = number(j);
        if (valid && n < a.state) to[(int64_t)n * a.channels + c] = h[j];
    }
}

/* Which states inside a slice are kept: the next after `until` tokens (none: -1), in slot snap_slot[snap]. */
struct scan_snaps {
    int until, snap;
};
__device__ __forceinline__ scan_snaps scan_snaps_of(const kn_scan_args &a, const scan_place &p, const int *snap_start)
{
    if (a.block == 0) return { -1, 0 };
    return { a.block - (int)((p.past + p.first) % a.block), snap_start[p.s] + (int)((p.past + p.first) / a.block - p.past / a.block) };
}

/* Tokens of a piece, and the number of pieces of the longest slice: 1 where slices stay whole.  fit: how many pieces can run at once. */
int scan_cut(const kn_context *c, const kn_scan_args *a, const kn_batch *b, int fit, int *length);

/* scan_fed.cu: whether it takes these arguments; then the call, cut.length to be found. */
bool scan_fed_takes(const kn_context *c, const kn_scan_args *a);
plp_status scan_fed_run(kn_context *c, const kn_scan_args *a, const kn_batch *b, scan_pieces cut, const int *snap_start, const int *snap_slot);

#endif
