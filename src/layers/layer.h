/* src/layers/mamba2.h -- one Mamba-2 layer on its rank: norm, column-parallel in_proj, conv, scan, gated norm, row-parallel out_proj, and
 * the collectives it needs.  spec: arXiv:2405.21060; ownership of heads and groups: docs/architecture.md.
 *
 * The residual add is deferred: a layer leaves its output, summed over the ranks, as `pending`, and the next norm adds it while it reads
 * the residual anyway.  The same struct carries the scale of a norm that was folded out of the projection. */
#ifndef LAYERS_MAMBA2_H
#define LAYERS_MAMBA2_H

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
} layer_pending;

/* How the statistic of the gated norm is computed; the sharding plan decides. */
typedef enum { LAYER_NORM_NONE, LAYER_NORM_LOCAL, LAYER_NORM_FOLDED, LAYER_NORM_SUMMED } layer_norm;

/* This rank's share; pointers are the backend's memory unless they say host. */
typedef struct {
    int hidden, heads, groups, dim, state, conv, chunk;
    double eps;
    float dt_min, dt_max;
    const int *group, *host_group; /* (heads) local group of a head */
    layer_norm norm;
    int norm_groups;                         /* local; 0: no gated norm */
    const int *norm_first, *host_norm_first; /* (norm_groups + 1) channels */
    double norm_width;                       /* of a whole group */
    int all_norm_groups, norm_group_first;   /* LAYER_NORM_SUMMED: of the model, and where this rank's begin */
    plp_dtype act, weights, conv_dtype, ssm_dtype;
    bool round; /* matrix products in the weights' 16 bits, also on the CPU */
} layer_mamba2_dims;

typedef struct {
    const float *norm;             /* (hidden) */
    const void *in_proj;           /* (2 I + 2 G N + H, hidden): z, x, B, C, dt of this rank */
    const float *in_bias;          /* or NULL */
    const float *conv, *conv_bias; /* (I + 2 G N, K); or NULL */
    const float *A, *dt_bias, *D;  /* (heads) */
    const float *gate_norm;        /* (I) or NULL */
    const void *out_proj;          /* (hidden, I) */
    const float *out_bias;         /* (hidden) or NULL; added once, behind the sum */
    void *conv_state, *ssm_state;  /* this layer's part of every slot */
} layer_mamba2_weights;

/* Work space of a step of at most `tokens` rows, shared by all layers. */
typedef struct {
    void *normed; /* (tokens, hidden) act          */
    void *in;     /* (tokens, in_proj rows) act    */
    void *conv;   /* (tokens, conv channels) act   */
    void *y;      /* (tokens, I) act               */
    float *sums;  /* (tokens, all_norm_groups)     */
    float *delta; /* (tokens, ld_delta); cleared once, so that the padding is defined */
    void *step;   /* of kn->mixer_step             */
} layer_mamba2_scratch;
/* Columns of delta: a folded norm's sum of squares rides behind the others, padded to 16 bytes. */
static inline int64_t layer_mamba2_ld_delta(const layer_mamba2_dims *d) { return d->hidden + (d->norm == LAYER_NORM_FOLDED ? 4 : 0); }

/* A look at what flows through a layer, for `verify`: called with tensors (rows, columns, ld) in the backend's memory, queued but perhaps
 * not yet computed.  A step that runs fused shows the residual alone. */
typedef struct layer_probe {
    plp_status (*see)(void *arg, int64_t layer, const char *tensor, const void *data, plp_dtype dtype, int64_t rows, int64_t columns,
                      int64_t ld);
    void *arg;
    int64_t layer;
} layer_probe;

/* Collective.  Adds `pending` to the residual (tokens, hidden), runs the layer, and leaves its own output in `pending`. */
plp_status layer_mamba2(const kn_backend *kn, kn_context *c, tp_group *g, const layer_mamba2_dims *d, const layer_mamba2_weights *w,
                        const layer_mamba2_scratch *s, const kn_batch *b, const kn_ssm_args *snap, const layer_probe *probe,
                        float *residual, layer_pending *pending);

/* residual += pending, out = norm(rows of residual); see kn_add_norm_args for map.  Clears pending. */
plp_status layer_add_norm(const kn_backend *kn, kn_context *c, int tokens, int hidden, float *residual, layer_pending *pending,
                          const int *map, int outs, const float *weight, double eps, void *out);

#endif
