/* src/model/config.h -- one config for every dialect: Hugging Face, state-spaces, Codestral's params.json.
 *
 * Published configs are third-party copies: where a tensor's shape and the config disagree, reading fails with both numbers.  What the
 * fields mean is in docs/checkpoints.md. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum { MODEL_MAMBA2, MODEL_MAMBA1 } model_kind;

enum { MODEL_STOPS = 8 };

typedef struct {
    char family[32]; /* "mamba2", "mamba", "falcon_mamba", as people name it       */
    model_kind kind;
    int64_t hidden, layers, inner;
    int64_t heads, head_dim, groups; /* Mamba-2: inner = heads * head_dim.  Mamba-1: heads = inner, head_dim = groups = 1 */
    int64_t state, conv;             /* state size N, convolution width K                     */
    int64_t dt_rank;                 /* Mamba-1                                               */
    int64_t chunk;                   /* tokens of a chunk of the scan                         */
    int64_t vocab;                   /* rows of the embedding                                 */
    int64_t vocab_used;              /* ids that may be emitted: rows without the padding     */
    double norm_eps;                 /* of every norm but those of dt, B and C                */
    double dt_min, dt_max;           /* clamp of the softplus: 0, INFINITY when none          */
    double mixer_norm_eps;           /* Mamba-1: of norms of dt, B and C; 0: none             */
    int64_t norm_groups;             /* of the gated norm: groups, or 1 on request; 0: no norm */
    bool tied;                       /* the head is the embedding                             */
    bool untied_by_key;              /* the config says so itself: false, and no default; a checkpoint's only, no attribute */
    bool proj_bias, conv_bias;
    bool mixer_norm_weights; /* the norms of dt, B and C have weights, as in Jamba; FalconMamba's have none */
    plp_dtype dtype;         /* of the matrices as they are stored                    */
    int64_t bos, pad;        /* -1: none                                              */
    int64_t stop[MODEL_STOPS];
    int stops;
} model_config;

/* Every rule that holds between the fields; PLP_ERR_DATA names field, value and rule. */
plp_status model_config_check(const model_config *c);

#endif
