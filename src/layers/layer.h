/* src/layers/layer.h -- a layer on its ranks: norm, column-parallel in_proj, the mixer proper, row-parallel out_proj, and the collectives it
 * needs.  spec: arXiv:2312.00752 (Mamba-1), arXiv:2405.21060 (Mamba-2); ownership of heads and groups: docs/architecture.md.
 *
 * A kind of layer is a layer_kind; sizes, weights and work space are one struct for all kinds, in which a kind leaves NULL and 0 what it
 * does not have.  So the model loads, steps, copies slots and verifies without knowing which kind it holds.
 *
 * The residual add is deferred: a layer leaves its output, summed over the ranks, as `pending`, and the next norm adds it while it reads
 * the residual anyway.  The same struct carries the scale of a norm that was folded out of the projection. */
#ifndef LAYERS_LAYER_H
#define LAYERS_LAYER_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "tp/tp.h"

/* What is still to be added to the residual: s_t delta[t] + bias (see kn_add_norm_args).  delta NULL: nothing. */
typedef struct {
    const void *delta;
    plp_dtype dtype;
    int64_t ld;
    const float *bias, *sumsq;
    int64_t ld_sumsq;
    double width, eps;
    const kn_exchange *exchange; /* delta and sumsq are this rank's parts: whoever adds them sums them over the ranks first */
    bool scattered; /* this rank has its part of the rows of the sum: it adds and norms those, then the normed rows come together */
    bool sent;      /* or every rank's parts of this rank's rows are on their way to its memory, see layer_reach */
    bool picked;    /* delta and sumsq have rows for those that are wanted alone, see layer_call */
    bool ready;     /* nothing to add, and the scratch's `ready` holds what the next norm would read */
} layer_pending;

/* How the statistic of the gated norm is computed; the sharding plan decides. */
typedef enum { LAYER_NORM_NONE, LAYER_NORM_LOCAL, LAYER_NORM_FOLDED, LAYER_NORM_SUMMED } layer_norm;

/* This rank's share; pointers are the backend's memory unless they say host.  I = heads * dim, G groups, N state, K conv, R dt_rank. */
typedef struct {
    int hidden, heads, groups, dim, state, conv, chunk; /* Mamba-1: heads are channels, dim is 1, groups 0 */
    int unit, most_heads;                               /* every rank's heads are a multiple of unit, and at most so many */
    int dt_rank;                                        /* Mamba-1 */
    double eps;
    double mixer_eps; /* Mamba-1: of the norms of dt, B and C; 0: none */
    float dt_min, dt_max;
    const int *group, *host_group; /* (heads) local group of a head */
    layer_norm norm;
    int norm_groups;                         /* local; 0: no gated norm */
    const int *norm_first, *host_norm_first; /* (norm_groups + 1) channels */
    double norm_width;                       /* of a whole group */
    int all_norm_groups, norm_group_first;   /* LAYER_NORM_SUMMED: of the model, and where this rank's begin */
    plp_dtype act, weights, conv_dtype, ssm_dtype;
    bool deterministic; /* a row's result must not depend on other rows */
    bool round;         /* matrix products in the weights' 16 bits, also on the CPU */
} layer_dims;

typedef struct {
    const float *norm; /* (hidden) */
    const void *
        in_proj; /* Mamba-2 (2 I + 2 G N + H, hidden): z, x, B, C, dt of this rank; Mamba-1 (2 I, hidden): z, x.  And up to layer_in_rows zeros; so in_bias */
    const float *in_bias;          /* or NULL */
    const float *conv, *conv_bias; /* (I + 2 G N, K); or NULL */
    const void *x_proj, *dt_proj;  /* Mamba-1: (R + 2 N, I), (I, R) */
    const float *mixer_norm;       /* Mamba-1: (R + 2 N), of the norms of dt, B and C, or NULL: they have none */
    const float *A, *dt_bias, *D;  /* (heads); Mamba-1: A (I, N) */
    const float *gate_norm;        /* (I) or NULL */
    const void *out_proj;          /* (hidden, I) */
    const float *out_bias;         /* (hidden) or NULL; added once, behind the sum */
    void *conv_state, *ssm_state;  /* this layer's part of every slot */
} layer_weights;

/* Where the ranks' devices address each other's memory: rank r's residual, and its layer_scratch's normed and delta.  NULL: they do not. */
typedef struct {
    void *residual[KN_PEERS], *normed[KN_PEERS], *delta[KN_PEERS];
} layer_reach;

/* Work space of a step of at most `tokens` rows, shared by all layers. */
typedef struct {
    void *normed;   /* (tokens, hidden) act                                               */
    void *in;       /* (tokens, in_proj rows, see layer_in_rows) act                       */
    void *conv;     /* (tokens, conv channels) act                                        */
    float *mixed;   /* (tokens, R + 2 N): x_proj, summed over the ranks.  Mamba-1; in slices for kn->scan_mixer_begin */
    void *parts;    /* the same as act, normed: what goes into dt_proj, B and C.  Mamba-1 */
    void *y;        /* (tokens, I) act                                                    */
    float *sums;    /* (tokens, all_norm_groups), or (tokens) of a folded norm             */
    void *delta;    /* (tokens + KN_PEERS, ld_delta); cleared once: the padding is defined */
    void *step;     /* of kn->mixer_step, or of kn->scan_mixer_begin and kn->scan         */
    kn_ready ready; /* of kn->mixer_step or kn->scan_mixer_begin, where the backend has it */
    layer_reach reach;
} layer_scratch;
/* Most columns of delta: a folded norm's sum of squares rides behind the others, padded to 16 bytes, where both are float32. */
static inline int64_t layer_ld_delta(const layer_dims *d) { return d->hidden + (d->norm == LAYER_NORM_FOLDED ? 4 : 0); }

/* A look at what flows through a layer, for `verify`: called with tensors (rows, columns, ld) in the backend's memory, queued but perhaps
 * not yet computed.  A step that runs fused shows the residual alone. */
typedef struct layer_probe {
    plp_status (*see)(void *arg, int64_t layer, const char *tensor, const void *data, plp_dtype dtype, int64_t rows, int64_t columns,
                      int64_t ld);
    void *arg;
    int64_t layer;
} layer_probe;

/* One layer in one step. */
typedef struct {
    const kn_backend *kn;
    kn_context *c;
    tp_group *g;
    const layer_dims *d;
    const layer_weights *w;
    bool packed; /* its matrices: kn_linear_args */
    const layer_scratch *s;
    const kn_batch *b;
    int block; /* states inside slices, see kn_ssm_args */
    const int *snap_start, *snap_slot;
    const layer_probe *probe;
    float *residual;   /* (tokens, hidden) */
    const int *wanted; /* (outs) of the last layer: the rows that anyone will read, at most a quarter.  NULL: all */
    int outs;
    bool picked;            /* b->tokens and s are of the wanted rows alone, see layer_behind_scan */
    const float *next_norm; /* (hidden): the weight of the norm behind this layer */
    bool first;
    bool last; /* its rows are not shared out: it leaves the residual of all rows, or of the wanted ones, to every rank */
    layer_pending *pending;
} layer_call;

typedef struct {
    /* Takes what `forward` writes to for steps of `tokens` rows and `seqs` sequences. */
    void (*lay_out)(layer_scratch *s, plp_arena *a, const kn_backend *kn, const layer_dims *d, int64_t tokens, int64_t seqs);
    /* The same from a row on, for what computes those rows apart from the others, on a backend without fused steps. */
    layer_scratch (*rows_from)(const layer_scratch *s, const layer_dims *d, int64_t row);
    /* Most float32 elements of a row that a collective sums. */
    int64_t (*summed)(const layer_dims *d);
    /* Collective.  Adds `pending` to the residual, runs the layer, and leaves its own output in `pending`. */
    plp_status (*forward)(const layer_call *l);
} layer_kind;
extern const layer_kind layer_mamba1, layer_mamba2;

/* Collective.  residual += pending, out = norm(rows of residual); see kn_add_norm_args for map.  Clears pending. */
plp_status layer_add_norm(const kn_backend *kn, kn_context *c, int tokens, int hidden, float *residual, layer_pending *pending,
                          const int *map, int outs, const float *weight, double eps, void *out);

/* ------------------------------------------------------------------------------------------------- what the kinds have in common */
static inline int layer_inner(const layer_dims *d) { return d->heads * d->dim; }
/* The n-th element of an array. */
static inline void *layer_at(const void *base, plp_dtype dtype, int64_t n) { return (char *)base + (size_t)n * plp_dtype_size(dtype); }

/* Rows of in_proj in memory, and columns of its output: a multiple of 8, or matrix products, copies and wide loads of 16 bytes are slow where a rank
 * has an odd number of heads.  What is in the last ones is nobody's. */
static inline int64_t layer_in_rows(int64_t rows) { return (rows + 7) / 8 * 8; }

/* Adds `pending` to the residual, for forms of a layer that read it up to date. */
plp_status layer_settle(const layer_call *l);
/* s->in (tokens, ld) = in_proj of the normed residual, `rows` columns of it, `pending` added. */
plp_status layer_project_in(const layer_call *l, int rows, int ld);
/* s->conv (tokens, channels) = the convolution of s->in's columns from `first` on, which is (tokens, ld): what it takes, and done. */
kn_conv_args layer_convolution(const layer_call *l, int first, int ld, int channels);
plp_status layer_convolve(const layer_call *l, int first, int ld, int channels);
/* Where a folded norm's sums of squares go, and their distance. */
float *layer_folded_sums(const layer_call *l, int64_t *ld);
/* s->delta = this rank's share of out_proj of s->y; or each rank's rows of it in that rank's memory, see layer_reach. */
plp_status layer_project_out(const layer_call *l);
/* Collective.  What a layer does behind its scan, which has left s->y: by `rest`, which takes the call that it is given, for all rows or
 * the wanted ones.  z: s->in begins with it, (tokens, ld_z), and `rest` reads it; 0: it does not. */
plp_status layer_behind_scan(const layer_call *l, int ld_z, plp_status (*rest)(const layer_call *l));
/* Collective.  Leaves s->delta in `pending`, summed over the ranks, or to be summed by whoever adds it. */
plp_status layer_finish(const layer_call *l);
plp_status layer_show(const layer_call *l, const char *tensor, const void *data, plp_dtype dtype, int64_t columns, int64_t ld);

#endif
