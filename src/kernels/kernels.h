/* src/kernels/kernels.h -- the table of operations that a backend fills: the math of Mamba on raw pointers.
 *
 * Kernels know no ranks: every size below is this rank's share.  All pointers are the backend's memory (host memory on the CPU, device
 * memory on CUDA) and borrowed for the call, unless a comment says "host".  Arrays are row-major; an `ld...` is the distance between rows
 * in elements.  "act" is the activations' type: float32 on the CPU, bf16 (or f16, f32) on CUDA, fixed for a context.  Outputs alias no
 * input unless said.  A count of 0 does nothing.  Calls queue on the context's stream and allocate nothing; none waits but for what it sets up
 * once, as the choice of a matrix product's algorithm at a shape's first use.
 *
 * The CPU functions are the definition; CUDA functions answer to them in one test table (tests/kernels/).
 * Sources: Mamba arXiv:2312.00752, Mamba-2 arXiv:2405.21060. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct CUstream_st *kn_stream; /* what stands behind cudaStream_t; NULL on the CPU */
typedef struct kn_graph kn_graph;      /* captured work */
typedef struct kn_context kn_context;  /* one per rank: device, stream, work space, library handles, what a heuristic search found */

/* ---------------------------------------------------------------------------------------------------------------- a step's rows
 * A step computes `tokens` rows for `seqs` sequences, packed without padding: first `decodes` sequences of one row each, then slices of
 * prefills.  Sequence s has rows start[s] .. start[s+1], all later than the past[s] tokens it already saw.  past[s] = 0: no initial
 * state, and nothing of its source slot may be read (it is dirty).  States are read from src_slot[s] and written to dst_slot[s]; they may
 * be equal.  Slots of different sequences of a step never are, but for a src_slot that several share. */
typedef struct {
    int tokens, seqs, decodes;
    const int *start, *src_slot, *dst_slot; /* (seqs + 1), (seqs), (seqs), the backend's memory */
    const int64_t *past;                    /* (seqs), the backend's memory                     */
    const int *host_start;                  /* the same start and past in host memory: for launch sizes alone.  A captured graph */
    const int64_t *host_past;               /* bakes those in, so decode kernels must not look at host_past                       */
} kn_batch;

/* -------------------------------------------------------------------------------------------------------------- random weights
 * out[i, j] = middle + half * u, u uniform in [-1, 1) by key and first + i * stride + j alone (kernels/uniform.h): a slice of a matrix
 * `stride` wide, whose element `first` is the slice's own first.  The same bits on every backend of an x86-64 host. */
typedef struct {
    int64_t rows, columns, first, stride;
    uint64_t key;
    float middle, half;
    plp_dtype stored; /* rounded to this first: what a checkpoint holds.  PLP_F32: not rounded */
    plp_dtype dtype;
    void *out; /* (rows, columns) of dtype */
} kn_uniform_args;

/* ------------------------------------------------------------------------------------------------------------------- embedding
 * out[t] = table[ids[t]] as float32.  An id outside [0, vocab) gives a row of zeros: the caller has checked, and no kernel may stray. */
typedef struct {
    int tokens, hidden;
    int64_t vocab;
    const int *ids;    /* (tokens)                       */
    const void *table; /* (vocab, hidden) of table_dtype */
    plp_dtype table_dtype;
    int64_t packed_first, packed_count; /* these rows of it are a matrix that kn->pack has packed: a tied head */
    float *out;                         /* (tokens, hidden) */
} kn_embed_args;

/* ------------------------------------------------------------------------------------------------ sums over neighbouring devices
 * Devices that address each other's memory add up partial results inside a kernel: each writes its values into everyone's inbox, in words
 * of 4 bytes of payload and 4 of flag that arrive together, and adds what arrived in its own inbox in rank order: the same bits on every
 * device and in every run.  All ranks queue the same exchanges in the same order.  Whoever makes the ranks' memory known to each other
 * fills this (src/tp); kernels know nothing of that.  A flag is the number of the exchange, and inboxes have two halves: a device that is
 * one exchange ahead writes into the other half, and it cannot be two ahead. */
enum { KN_PEERS = 8 };
typedef struct {
    int rank, size;
    int64_t words;         /* of one device's message: an inbox is (2, size, words) of 8 bytes */
    void *inbox[KN_PEERS]; /* everyone's, as this device addresses them; zero before the first exchange */
    unsigned *count;    /* (2) of this device, zero at first: one number of 64 bits, blocks that have left this exchange, exchanges done */
    unsigned *meetings; /* of this device: how many times it has arrived, see kn_arrive_args */
    unsigned *came[KN_PEERS]; /* everyone's (size): how many times each device has arrived, as far as the owner has heard */
} kn_exchange;

/* A meeting: a device arrives when what was queued before has written all that it writes to the others' memory; it awaits the others' arrival before
 * it reads what they wrote.  Every device arrives and awaits in turn.
 * values: float32 that travel with it: those from first[r] to first[r + 1] go to to[r], in rank r's memory. */
typedef struct {
    const kn_exchange *exchange; /* host */
    const float *values;         /* or NULL */
    float *to[KN_PEERS];
    int first[KN_PEERS + 1];
} kn_arrive_args;

/* ---------------------------------------------------------------------------------- residual add, RMSNorm (arXiv:1910.07467)
 *     r[t]  +=  s_t delta[t] + bias           s_t = 1, or rsqrt(sumsq[t] / sumsq_width + sumsq_eps): the norm that was folded out
 *     out[i] =  r[m_i] * rsqrt(mean(r[m_i]^2) + eps) * weight        m_i = map[i], or i
 * delta NULL: no add.  out NULL: no norm.  weight is (hidden) float32.
 * exchange: delta and sumsq are this device's parts; their sums over the devices are what is added and scaled by (kn->exchanges knows
 * which shapes can).
 * parts > 1: delta is a sum, of so many arrays at a distance of ld_parts, added in order; sumsq likewise, at ld_sumsq_parts.
 * copies: with parts, out is written to each of these, too, which may be other devices' memory; so is the residual, where residual_copy is not
 * NULL.  Neither with map or exchange.
 * picked: delta and sumsq have rows for those of the map alone, `outs` of them, and other rows of r stay as they are.  No row is in the map
 * twice, and there is no exchange. */
typedef struct {
    int tokens, hidden, outs; /* outs: rows of out; = tokens when map is NULL */
    float *residual;          /* (tokens, hidden), updated in place           */
    const void *delta;        /* (tokens, ld_delta) of delta_dtype            */
    plp_dtype delta_dtype;
    int64_t ld_delta;
    const float *bias;  /* (hidden) or NULL */
    const float *sumsq; /* (tokens) with a distance of ld_sumsq, or NULL */
    int64_t ld_sumsq;
    double sumsq_width, sumsq_eps;
    const kn_exchange *exchange; /* host, or NULL */
    int parts;
    int64_t ld_parts, ld_sumsq_parts;
    const int *map; /* (outs) or NULL */
    bool picked;
    const float *weight;
    double eps;
    void *out; /* (outs, hidden) of act */
    int copies;
    void *copy[KN_PEERS], *residual_copy[KN_PEERS];
} kn_add_norm_args;

/* -------------------------------------------------------------------------------------------------------------- rows of a matrix
 *     out[i] = in[map[i]]              in, out of act; the backend's memory, which must not overlap */
typedef struct {
    int rows, columns;
    const int *map; /* (rows) */
    const void *in; /* (., ld_in) */
    int64_t ld_in;
    void *out; /* (rows, ld_out) */
    int64_t ld_out;
} kn_pick_args;

/* ------------------------------------------------------------------------------------------------------------- matrix product
 *     y = x w^T + bias             x (rows, k), w (n, k), y (rows, n)
 * Products of 16-bit values are summed in float32 or better; x is rounded to w's type first when `round_x` (what a 16-bit GPU does; on
 * CUDA x is act and this is a no-op).  A row of y depends on its own row of x alone: not on `rows` when the context is deterministic. */
typedef struct {
    int rows, n, k;
    const void *x;
    plp_dtype x_dtype;
    int64_t ldx;
    const void *w; /* (n, k) contiguous */
    plp_dtype w_dtype;
    bool packed;       /* w is as kn->pack left it */
    const float *bias; /* (n) or NULL */
    void *y;
    plp_dtype y_dtype; /* act or float32 */
    int64_t ldy;
    bool round_x;
} kn_linear_args;

/* --------------------------------------------------------------------------------------- causal depthwise conv1d, then SiLU
 *     out[t] = silu(bias + sum_{k<width} weight[:,k] * in[t - width + 1 + k])
 * over the rows of every sequence of the batch, decode and prefill alike.  Columns before the slice come from the state: the last
 * width - 1 inputs, oldest first, zero where past is 0 (or smaller).  The new state is written after the old one was read.  States
 * inside a slice are copied as kn_ssm_args says, block 0: none; any block will do. */
typedef struct {
    int channels, width; /* 2 <= width <= 8 */
    const void *in;      /* (tokens, ld_in) of act, `channels` used         */
    int64_t ld_in;
    const float *weight, *bias; /* (channels, width); (channels) or NULL           */
    void *state;                /* (slots, width - 1, channels) of state_dtype     */
    plp_dtype state_dtype;
    void *out; /* (tokens, ld_out) of act */
    int64_t ld_out;
    int block;
    const int *snap_start, *snap_slot; /* host */
} kn_conv_args;

/* ------------------------------------------------------------------------------------------- Mamba-2 state space, prefill and step
 *     dt_t = clamp(softplus(dt_raw_t + dt_bias), dt_min, dt_max)        softplus is linear above 20
 *     h_t  = exp(dt_t A) h_{t-1} + dt_t x_t (outer) B_t                 per head, (dim, state)
 *     y_t  = h_t C_t + D x_t
 * kn->ssd runs the prefill rows (from row decodes on) as a chunked scan whose chunk ends are absolute multiples of `chunk` within the
 * sequence (a backend may have chunks of its own: slices of a deterministic context may end at any multiple of `chunk`, see grain); kn->ssm_step
 * runs the decode rows.  State arithmetic is float32 whatever the storage.  head -> group is a table: a rank may
 * start in the middle of a group. */
typedef struct {
    int heads, groups, dim, state, chunk;
    const int *group;      /* (heads): local group of a head          */
    const int *host_group; /* the same in host memory                 */
    const void *x, *B, *C; /* (tokens, heads, dim), (tokens, groups, state), act, rows ld_x, ld_bc apart */
    const void *dt;        /* (tokens, heads) act, raw, rows ld_dt apart */
    int64_t ld_x, ld_bc, ld_dt;
    const float *A, *dt_bias, *D; /* (heads); A < 0; D NULL: none */
    float dt_min, dt_max;
    void *h; /* (slots, heads, dim, state) of state_dtype */
    plp_dtype state_dtype;
    void *y; /* (tokens, ld_y >= heads * dim) of act */
    int64_t ld_y;
    /* States inside a slice (prefix cache): after the j-th multiple of `block` that lies in sequence s's slice, its state is copied to
     * slot snap_slot[snap_start[s] + j], unless that is -1.  Decode rows have none.  block 0: none.  block is a multiple of chunk. */
    int block;
    const int *snap_start, *snap_slot; /* (seqs + 1), host; (snap_start[seqs]), host */
} kn_ssm_args;
/* kn->ssd_conv is kn->conv of the whole batch, then kn->ssd, where x is the first heads * dim channels of the convolution's output: the
 * same to the bit, but that x of prefill rows is not written (those columns of the output stay as they are).  NULL in the table where a
 * backend has no better way than the two; ssd_conv_knows tells for which arguments it has one, and it may be called for those alone. */

/* ------------------------------------------------------------------------------------ Mamba-1 selective scan, prefill and step
 *     dt_t = softplus(dt_raw_t + dt_bias)                               softplus is linear above 20
 *     h_t  = exp(dt_t A) h_{t-1} + dt_t x_t B_t                         per channel, (state); A differs from element to element
 *     y_t  = (h_t C_t + D x_t) silu(z_t)
 * kn->scan runs the prefill rows (from row decodes on), kn->scan_step the decode rows.  State arithmetic is float32 whatever the storage.
 * In a deterministic context a row's result depends on its own sequence alone, and not on how that was cut into slices. */
typedef struct {
    int channels, state;
    const void *x, *z, *dt; /* (tokens, channels) act, rows ld_ apart; dt raw, without its bias */
    const void *B, *C;      /* (tokens, state) act, rows ld_bc apart */
    int64_t ld_x, ld_z, ld_dt, ld_bc;
    const float *A;           /* (channels, state); A < 0 */
    const float *dt_bias, *D; /* (channels) or NULL: none */
    void *h;                  /* (slots, channels, state) of state_dtype */
    plp_dtype state_dtype;
    void *y; /* (tokens, ld_y >= channels) of act */
    int64_t ld_y;
    int block; /* states inside a slice, as in kn_ssm_args, but that any block will do */
    const int *snap_start, *snap_slot;
    void *work; /* kn->scan_work() bytes, or NULL */
} kn_scan_args;

/* ------------------------------------------------------------------------------------------- RMSNorm of the parts of a row
 *     out[t][i] = in[t][i] * rsqrt(mean(in[t][j]^2, j of i's segment) + eps) * weight[i]
 * Adjacent segments, each with a mean of its own: Mamba-1's dt, B and C.  eps 0: no norm and no weight, the values as they are. */
enum { KN_SEGMENTS = 4 };
typedef struct {
    int tokens, segments, width[KN_SEGMENTS];
    double eps;
    const float *weight; /* (sum of width), or NULL: ones */
    const float *in;     /* (tokens, ld_in) float32 */
    int64_t ld_in;
    void *out; /* (tokens, ld_out) of act */
    int64_t ld_out;
} kn_rms_args;

/* -------------------------------------------------------------------------------------------------- gated group RMSNorm
 *     v = y * silu(z);    out = v * rsqrt(sum_group(v^2) / width + eps) * weight
 * Local group g is channels first[g] .. first[g+1].  `width` is the width of the whole group, also where a rank holds a part of it.
 *   KN_NORM_LOCAL  groups are whole here: the norm
 *   KN_NORM_SUMS   sums[t][g] = sum(v^2) over the part that is here, nothing else; a collective adds them up
 *   KN_NORM_APPLY  the norm, with these sums
 *   KN_NORM_FOLD   one group: out = v * weight, sums[t][0] = sum(v^2); the scale is applied behind the output projection
 *   KN_NORM_NONE   out = v */
typedef enum { KN_NORM_LOCAL, KN_NORM_SUMS, KN_NORM_APPLY, KN_NORM_FOLD, KN_NORM_NONE } kn_norm_mode;
typedef struct {
    int tokens, channels, groups;
    kn_norm_mode mode;
    const int *first; /* (groups + 1) */
    double width, eps;
    const void *y, *z; /* (tokens, ld_y), (tokens, ld_z), act */
    int64_t ld_y, ld_z;
    const float *weight; /* (channels) */
    float *sums;         /* (tokens, ld_sums) */
    int64_t ld_sums;
    void *out; /* (tokens, ld_out), act; may be y */
    int64_t ld_out;
} kn_gated_norm_args;

/* --------------------------------------------------------------------------------------------------------- one mixer, fused
 * The whole Mamba-2 mixer for decode rows, where a backend does better than the pieces above; NULL in the table otherwise.
 * Reads the residual, and either adds the mixer's output to it (delta NULL: one rank, or the sum over the ranks of `exchange`) or writes
 * this rank's partial sum to delta (tokens, ld_delta) float32, with sum(v^2) behind the last column when fold is set.  Weights as the
 * pieces take them.
 * Returns without doing anything, *done = false, for shapes it does not know, as mixer_step_knows tells beforehand; more rows than
 * KN_MIXER_WIDE and more heads than KN_MIXER_HEADS are among those.  With an exchange, ranks whose shares differ know the same.
 * A backend may fetch the weights, the batch's arrays and the mixer's states while operations queued before are still at work (up to the
 * one queued just ahead of a run of mixer steps): what changes those must not be that last one, nor the same mixer's previous step.
 * With next_norm, a step of KN_READY_ROWS rows or more that adds to the residual leaves in `ready` what the norm behind it would read: half the
 * bytes.  Fewer rows are read sooner than that is written. */
enum { KN_MIXER_ROWS = 8, KN_MIXER_WIDE = 64, KN_MIXER_HEADS = 256 };
enum { KN_READY_ROWS = 3, KN_READY_PARTS = 256 };
typedef struct {
    void *x;        /* (rows, hidden) bf16: the residual times the norm's weight, not yet divided by the root mean square; NULL: nothing */
    float *squares; /* parts of the sum of the residual's squares, at kn_ready_at(); a backend may use fewer */
} kn_ready;
enum { KN_READY_SQUARES = KN_READY_PARTS * KN_MIXER_WIDE }; /* enough for any step */
/* (rows, KN_READY_PARTS) for up to KN_MIXER_ROWS rows, which lanes of a warp add up; (KN_READY_PARTS, KN_MIXER_WIDE) for more, a lane a row. */
static inline int kn_ready_at(int rows, int row, int part)
{
    return rows > KN_MIXER_ROWS ? part * KN_MIXER_WIDE + row : row * KN_READY_PARTS + part;
}
typedef struct {
    int rows, hidden, heads, groups, dim, state, width;
    int most_heads;  /* of any rank; of use with an exchange */
    float *residual; /* (rows, hidden) */
    float *delta;
    int64_t ld_delta;
    const kn_exchange *exchange; /* host, or NULL */
    bool fold;                   /* the norm's statistic spans the ranks; see KN_NORM_FOLD */
    const float *norm_weight;    /* (hidden) */
    double norm_eps;
    kn_ready ready;
    bool is_ready;          /* the mixer before has filled it for this norm */
    const float *next_norm; /* (hidden), or NULL */
    const void *in_proj;    /* (2 heads dim + 2 groups state + heads, hidden) rows z, x, B, C, dt */
    const float *in_bias;   /* or NULL */
    const float *conv_weight, *conv_bias;
    const float *A, *dt_bias, *D;
    float dt_min, dt_max;
    const float *gate_weight; /* (heads dim); NULL: no norm */
    const int *gate_first;    /* (norm groups + 1) channels, host */
    int gate_groups;
    /* Norm groups of the model, and which is the first here, where groups span ranks and an exchange adds up their statistic, for up to
     * KN_MIXER_ROWS rows.  all_groups 0: groups are whole here, or fold is set. */
    int all_groups, group_first;
    double gate_width, gate_eps;
    const void *out_proj;  /* (hidden, heads dim) */
    const float *out_bias; /* or NULL */
    plp_dtype w_dtype;
    const int *group;
    void *conv_state, *ssm_state;
    plp_dtype conv_dtype, ssm_dtype;
    void *work; /* kn->mixer_step_work() bytes */
} kn_mixer_step_args;

/* The whole Mamba-1 mixer for decode rows, fused, in two calls, because ranks add up x_proj between them:
 *     begin  norm, in_proj, convolution and its state, and this rank's share of x_proj: mixed[row][slice] are the sums over slices of its
 *            columns.  The ranks add them up as they are, or begin and end do that through mixed_exchange
 *     end    the sum of the slices, RMSNorm of its parts (mixer_eps 0: none; no weights), dt_proj, the state, the gate, out_proj
 * In KN_MIXER_SLICES slices, for up to KN_MIXER_ROWS rows, x_proj is a part of in_proj's kernel; in one, for up to KN_MIXER_WIDE rows, it is a kernel of
 * its own, and only then does a step leave something in `ready`, which lies as that of more than KN_MIXER_ROWS rows.
 * All else as for mixer_step.  end follows begin with the same arguments, and nothing but that collective lies between. */
enum { KN_MIXER_SLICES = 8 };
typedef struct {
    int rows, hidden, channels, state, width, dt_rank;
    int most_channels; /* of any rank */
    int slices;        /* 1 or KN_MIXER_SLICES */
    float *residual;   /* (rows, hidden) */
    float *delta;      /* (rows, ld_delta), or NULL */
    int64_t ld_delta;
    const kn_exchange *exchange, *mixed_exchange; /* host, or NULL: of end's sum, and of mixed */
    bool between;                                 /* the caller adds mixed up over the ranks between begin and end */
    const float *norm_weight;                     /* (hidden) */
    double norm_eps, mixer_eps;
    kn_ready ready;
    bool is_ready;
    const float *next_norm;
    const void *in_proj;  /* (2 channels, hidden) rows z, x */
    const float *in_bias; /* or NULL */
    const float *conv_weight, *conv_bias;
    const void *x_proj, *dt_proj; /* (dt_rank + 2 state, channels), (channels, dt_rank) */
    const float *A, *dt_bias, *D; /* (channels, state); (channels) or NULL */
    const void *out_proj;         /* (hidden, channels) */
    const float *out_bias;        /* or NULL */
    plp_dtype w_dtype;
    void *conv_state, *ssm_state;
    plp_dtype conv_dtype, ssm_dtype;
    float *mixed; /* (rows, slices, dt_rank + 2 state), this rank's alone; undefined if not `between` */
    void *work;   /* kn->scan_mixer_work() bytes */
} kn_scan_mixer_args;

/* ------------------------------------------------------------------------------------------------------ norm and lm_head, fused
 *     y[i] = (r[m_i] * rsqrt(mean(r[m_i]^2) + eps) * weight) w^T        m_i = map[i], or i
 * The last norm and the head for a few rows, where a backend does better than add_norm and linear; NULL in the table otherwise.
 * Returns without doing anything, *done = false, for shapes it does not know. */
typedef struct {
    int rows, n, hidden;
    const float *residual; /* (., hidden)         */
    const int *map;        /* (rows) or NULL      */
    const float *weight;   /* (hidden), the norm's */
    kn_ready ready;        /* what a mixer has left for this norm, or x NULL */
    double eps;
    const void *w; /* (n, hidden) of w_dtype */
    plp_dtype w_dtype;
    float *y; /* (rows, ld_y >= n) */
    int64_t ld_y;
} kn_norm_linear_args;

/* ------------------------------------------------------------------------------------------------------------------ sampling
 * A rank's candidates of one row of logits, enough to pick the token together with the other ranks' without gathering the row:
 * p = logit after the penalties and temperature.  Noise is counter-based: token v of request `seed` at `position` gets the Gumbel noise
 * of kn_gumbel(seed, position, v), so every rank draws alike, and results depend neither on batch nor on np. */
enum { KN_CANDIDATES = 64 };
typedef struct {
    float raw_max, raw_sum; /* of the logits as they are: max, sum exp(logit - max) */
    float max, sum;         /* the same of p                                        */
    float drawn_score;      /* max over all v of p[v] + noise, and its v            */
    int drawn_id;
    float drawn_raw, drawn_p;
    int count;             /* of the lists: min(KN_CANDIDATES, vocabulary rows here) */
    int finite;            /* 0: a NaN or infinity among the logits                  */
    int id[KN_CANDIDATES]; /* global ids, p falling; equal p: lower id first */
    float p[KN_CANDIDATES];
    float raw[KN_CANDIDATES];
} kn_candidates;

typedef struct {
    float inv_temperature; /* 0: greedy; p is then not scaled, and drawn is the argmax */
    float repetition, presence, frequency;
    uint64_t seed;
    int64_t position;
    int penalty_first, penalty_count; /* range of the penalty lists; 0: none */
    int64_t top_k;                    /* what kn->choose leaves, unless greedy: 0: off */
    double top_p, min_p;              /* 1 and 0: off                                  */
} kn_sample_row;

typedef struct {
    int rows, first, valid; /* ids here are first .. first + valid; columns beyond are padding */
    const float *logits;    /* (rows, ld) */
    int64_t ld;
    const kn_sample_row *row; /* (rows) */
    const int *penalty_id;    /* ids seen (any rank's), and how often in the output */
    const int *penalty_hits;
    bool drawn_alone;   /* of a row without filters finite and drawn_* are enough: kn->choose looks at nothing else */
    kn_candidates *out; /* (rows) */
} kn_candidates_args;

/* From all ranks' candidates of a row to its token, by the rule of choose.h.  All ranks come to the same. */
typedef enum {
    KN_CHOSEN,
    KN_NEEDS_ROW, /* the candidates do not settle it: the whole row of logits must */
    KN_NOT_FINITE
} kn_outcome;
typedef struct {
    int token; /* -1 unless chosen */
    int outcome;
    float raw; /* its logit */
} kn_choice;

typedef struct {
    int id;
    float p, raw;
} kn_item;

typedef struct {
    int rows, ranks;
    const kn_candidates *all; /* (ranks, rows) */
    const kn_sample_row *row; /* (rows)        */
    kn_item *sorted;          /* (rows, ranks * KN_CANDIDATES), work space */
    int *next;                /* (rows, ranks), work space */
    kn_choice *out;           /* (rows) */
} kn_choose_args;

/* ------------------------------------------------------------------------------------------------------------------ the table */
typedef struct {
    int device;         /* CUDA ordinal */
    int threads;        /* CPU threads of this rank; 0: the backend's choice */
    plp_dtype act;      /* CUDA activations; the CPU's are float32 */
    bool deterministic; /* results of a row must not depend on other rows */
    int max_tokens;     /* most rows of a step; work space is sized by these at creation */
    int max_k, max_n;   /* widest matrix product */
    int max_heads, max_dim, max_state;
} kn_options;

enum { KN_MARKS = 4 };

typedef struct kn_backend {
    const char *name; /* "cpu", "cuda" */
    int grain;        /* tokens: in a deterministic context kn->ssd may get a sequence cut at any multiple of this within a chunk, and gives
                         what it gives for the sequence at once, to the bit (a float32 state provided).  0: at chunk ends alone */
    int most_state;   /* of kn->ssd and kn->scan; 0: any */
    plp_status (*create)(kn_context **c, const kn_options *options);
    void (*destroy)(kn_context **c);
    kn_stream (*stream)(kn_context *c);
    /* Memory of the backend.  alloc does not clear.  Copies of to_device and to_host are complete on return of sync; the host side of an
     * asynchronous copy must stay valid until then. */
    plp_status (*alloc)(kn_context *c, void **p, size_t bytes);
    void (*release)(kn_context *c, void **p);
    plp_status (*to_device)(kn_context *c, void *dst, const void *src, size_t bytes);
    plp_status (*to_host)(kn_context *c, void *dst, const void *src, size_t bytes);
    plp_status (*copy)(kn_context *c, void *dst, const void *src, size_t bytes);
    plp_status (*fill)(kn_context *c, void *dst, int byte, size_t bytes);
    plp_status (*sync)(kn_context *c);
    /* Host memory that copies need not stage. */
    plp_status (*alloc_host)(kn_context *c, void **p, size_t bytes);
    void (*release_host)(kn_context *c, void **p);
    /* mark: a place in the queue, one of KN_MARKS; wait: until everything queued before that place is done. */
    plp_status (*mark)(kn_context *c, int which);
    plp_status (*wait)(kn_context *c, int which);
    plp_status (*memory)(int device, size_t *available, size_t *total); /* without a context as well */
    /* Bytes of the last cache, which the threads share; 0: unknown.  NULL: nothing to be gained from it. */
    size_t (*cache)(void);
    /* Seconds that reading `bytes` once takes, at best: the floor under everything that streams.  Allocates for the call; waits. */
    plp_status (*read_time)(kn_context *c, size_t bytes, double *seconds);
    /* A line that says what computes: "AMD EPYC, 2 threads, avx512_bf16", "NVIDIA H200, CUDA 13.0". */
    void (*describe)(kn_context *c, char *line, size_t size);
    /* Which piece of hardware an ordinal stands for, whatever this process calls it: the PCI address; the CPU's: the host's name. */
    void (*identity)(int device, char *text, size_t size);

    plp_status (*uniform)(kn_context *c, const kn_uniform_args *a);

    plp_status (*embed)(kn_context *c, const kn_embed_args *a);
    plp_status (*add_norm)(kn_context *c, const kn_add_norm_args *a);
    plp_status (*pick)(kn_context *c, const kn_pick_args *a); /* NULL: there is no such thing, nor add_norm's picked */
    /* Arranges a matrix (n, k) as linear reads it fastest, in its own place, for contexts that are created alike.  *done false: it stays
     * as it is, and so it does for them.  NULL: there is no such thing. */
    plp_status (*pack)(kn_context *c, void *w, int64_t n, int k, plp_dtype dtype, bool *done);
    plp_status (*linear)(kn_context *c, const kn_linear_args *a);
    plp_status (*conv)(kn_context *c, const kn_conv_args *a, const kn_batch *b);
    plp_status (*ssd)(kn_context *c, const kn_ssm_args *a, const kn_batch *b);
    bool (*ssd_conv_knows)(const kn_context *c, const kn_conv_args *v, const kn_ssm_args *a, const kn_batch *b);
    plp_status (*ssd_conv)(kn_context *c, const kn_conv_args *v, const kn_ssm_args *a, const kn_batch *b);
    plp_status (*ssm_step)(kn_context *c, const kn_ssm_args *a, const kn_batch *b);
    plp_status (*scan)(kn_context *c, const kn_scan_args *a, const kn_batch *b);
    plp_status (*scan_step)(kn_context *c, const kn_scan_args *a, const kn_batch *b);
    size_t (*scan_work)(const kn_scan_args *a); /* bytes that calls of these channels and state take; NULL: none */
    plp_status (*rms)(kn_context *c, const kn_rms_args *a);
    plp_status (*gated_norm)(kn_context *c, const kn_gated_norm_args *a);
    plp_status (*candidates)(kn_context *c, const kn_candidates_args *a);

    plp_status (*choose)(kn_context *c, const kn_choose_args *a);
    /* ids[i] = from[~ids[i]].token where ids[i] < 0: the next step's tokens without a round trip to the host. */
    plp_status (*feed)(kn_context *c, int *ids, const kn_choice *from, int rows);

    /* What is queued between begin and end is not run but kept, to be queued at once by replay.  NULL where there is no such thing. */
    plp_status (*capture_begin)(kn_context *c);
    plp_status (*capture_end)(kn_context *c, kn_graph **graph);
    plp_status (*replay)(kn_context *c, kn_graph *graph);
    void (*graph_destroy)(kn_context *c, kn_graph **graph);

    /* data[i] = its sum over the devices, in place.  NULL where there is no such thing. */
    plp_status (*exchange_sum)(kn_context *c, const kn_exchange *x, void *data, int64_t count, plp_dtype dtype);
    /* all (devices, bytes) = every device's `mine`, which does not overlap; bytes: a multiple of 4. */
    plp_status (*exchange_gather)(kn_context *c, const kn_exchange *x, const void *mine, size_t bytes, void *all);
    /* See kn_arrive_args; NULL where there is no such thing. */
    plp_status (*arrive)(kn_context *c, const kn_arrive_args *a);
    plp_status (*await)(kn_context *c, const kn_exchange *x);
    /* Whether add_norm takes an exchange for rows of this width. */
    bool (*exchanges)(const kn_add_norm_args *a);
    /* Whether add_norm takes rows of this width in parts. */
    bool (*shares)(const kn_add_norm_args *a);

    size_t (*mixer_step_work)(const kn_mixer_step_args *a);
    bool (*mixer_step_knows)(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b);
    plp_status (*mixer_step)(kn_context *c, const kn_mixer_step_args *a, const kn_batch *b, bool *done);
    size_t (*scan_mixer_work)(const kn_scan_mixer_args *a);
    plp_status (*scan_mixer_begin)(kn_context *c, const kn_scan_mixer_args *a, const kn_batch *b, bool *done);
    plp_status (*scan_mixer_end)(kn_context *c, const kn_scan_mixer_args *a, const kn_batch *b);
    plp_status (*norm_linear)(kn_context *c, const kn_norm_linear_args *a, bool *done);
} kn_backend;

const kn_backend *kn_cpu(void);
const kn_backend *kn_cuda(void); /* NULL when built without CUDA */
int kn_cuda_devices(void);       /* visible devices; 0 without CUDA or a driver */

/* -log(-log(u)), u uniform in (0, 1) from Philox4x32-10 (arXiv: Salmon et al., SC11) with key `seed` and counter (position, token):
 * the same on the host and on a GPU up to the last bits of logf. */
float kn_gumbel(uint64_t seed, int64_t position, int token);

#endif
