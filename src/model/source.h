/* src/model/source.h -- where weights come from: a polylepis model file or a checkpoint directory, read by band through one interface.
 *
 * A band is a tensor that the sharding plan cuts by one unit (docs/architecture.md).  The checkpoint's in_proj holds five of them (z, x,
 * B, C, dt), its conv1d three.  Source of the names and quirks: docs/checkpoints.md. */
#ifndef MODEL_SOURCE_H
#define MODEL_SOURCE_H

#include "model/config.h"

#include <stddef.h>

/* In the order in which a file stores them.  Shapes: E hidden, I inner, H heads, G groups, N state, K conv, R dt_rank, V vocab. */
typedef enum {
    MODEL_EMBED,       /* (V, E)      */
    MODEL_NORM,        /* (E)         the layer's RMSNorm                                      */
    MODEL_IN_Z,        /* (I, E)      */
    MODEL_IN_X,        /* (I, E)      */
    MODEL_IN_B,        /* (G N, E)    Mamba-2                                                  */
    MODEL_IN_C,        /* (G N, E)    Mamba-2                                                  */
    MODEL_IN_DT,       /* (H, E)      Mamba-2                                                  */
    MODEL_IN_Z_BIAS,   /* (I)         the five biases of in_proj                               */
    MODEL_IN_X_BIAS,   /* (I)         */
    MODEL_IN_B_BIAS,   /* (G N)       */
    MODEL_IN_C_BIAS,   /* (G N)       */
    MODEL_IN_DT_BIAS,  /* (H)         */
    MODEL_CONV_X,      /* (I, K)      */
    MODEL_CONV_B,      /* (G N, K)    Mamba-2                                                  */
    MODEL_CONV_C,      /* (G N, K)    Mamba-2                                                  */
    MODEL_CONV_X_BIAS, /* (I)         */
    MODEL_CONV_B_BIAS, /* (G N)       */
    MODEL_CONV_C_BIAS, /* (G N)       */
    MODEL_X_PROJ,      /* (R + 2 N, I), cut by columns.  Mamba-1                               */
    MODEL_DT_PROJ,     /* (I, R)      Mamba-1                                                  */
    MODEL_DT_BIAS,     /* (H)         Mamba-1: dt_proj's bias, (I)                             */
    MODEL_A_LOG,       /* (H)         Mamba-1: (I, N)                                          */
    MODEL_D,           /* (H)         Mamba-1: (I)                                             */
    MODEL_GATE_NORM,   /* (I)         Mamba-2                                                  */
    MODEL_OUT_PROJ,    /* (E, I), cut by columns                                               */
    MODEL_OUT_BIAS,    /* (E)         */
    MODEL_FINAL_NORM,  /* (E)         */
    MODEL_HEAD,        /* (V, E)      absent when tied                                         */
    MODEL_DT_NORM,     /* (R)         Mamba-1, behind what else a layer has: random weights are drawn by a band's number, */
    MODEL_B_NORM,      /* (N)         and those of other bands stay as they are */
    MODEL_C_NORM,      /* (N)         */
    MODEL_BANDS
} model_band;

typedef struct {
    const char *name; /* path in a model file below its layer, "in_proj/z/weight"        */
    bool per_layer;
    bool matrix;     /* stored in the checkpoint's dtype; all others as float32         */
    bool by_columns; /* the plan cuts dimension 1                                       */
} model_band_info;
const model_band_info *model_band_of(model_band band);

/* Shape of a whole band: rows and columns (1 for a vector).  rows 0: this model has no such band. */
void model_band_shape(const model_config *c, model_band band, int64_t *rows, int64_t *columns);

typedef struct model_source model_source;

/* What opening may be told. */
typedef struct {
    bool
        full_norm; /* one gated norm over all of the inner width, as Hugging Face's class computes it, instead of group-wise; of an import */
    bool trust;    /* parse a model file in this process, where it cannot be done in one of its own: io_model_open_trusted */
} model_source_options;

/* path: a model file or a checkpoint directory.  options: NULL for the defaults.  Checks that every band is there
 * with its shape; unknown tensors are warned of. */
plp_status model_source_open(model_source **s, const char *path, const model_source_options *options);
void model_source_close(model_source **s);
const model_config *model_source_config(const model_source *s);
const char *model_source_config_text(const model_source *s); /* the config as it came, JSON */
/* tokenizer.json's text and length; NULL when the model came without one. */
plp_status model_source_tokenizer(const model_source *s, const char **text, size_t *bytes);

/* Rows first .. first + count of a band (columns, where it is cut by columns), as `dtype`, contiguous: (count, columns), or (rows, count).
 * layer is ignored for bands that are not per layer. */
plp_status model_source_read(const model_source *s, model_band band, int64_t layer, int64_t first, int64_t count, void *dst,
                             plp_dtype dtype);

/* Several of these, read side by side. */
typedef struct {
    model_band band;
    int64_t layer, first, count;
    void *dst;
    plp_dtype dtype;
} model_range;
plp_status model_source_read_ranges(const model_source *s, const model_range *list, int n);
/* How many threads share a read; 1 at first.  The values do not depend on it. */
void model_source_threads(const model_source *s, int threads);
/* Reads a part of every tensor, part 0 of 1 being all, and does nothing with it: no checksum, no conversion.  What loading is held against. */
plp_status model_source_pass(model_source *s, int part, int parts, uint64_t *bytes);

uint64_t model_source_bytes_read(const model_source *s);
/* Bytes that reading this range takes from the files: what `inspect --plan` reports. */
uint64_t model_source_cost(const model_source *s, model_band band, int64_t first, int64_t count);
/* 64 hex digits: a model file's manifest digest, which stands for every byte; of a directory, a SHA-256 over its headers, sizes, config, special
 * ids, tokenizer and a sample of each tensor's values (io_checkpoint_digest). */
const char *model_source_digest(const model_source *s);
bool model_source_digest_is_whole(const model_source *s); /* it stands for every byte */

/* ------------------------------------------------------------------------------------------------------------------- convert */
typedef struct {
    model_source_options source;
    bool replace;
    bool check_finite;   /* PLP_ERR_DATA names the first tensor and index that is NaN or infinite */
    int64_t piece_bytes; /* of weights in memory at a time, kept twice; 0: 64 MiB            */
    bool (*stop)(void);  /* NULL, or asked before every piece: true, and it gives up with PLP_ERR_STOPPED and leaves nothing behind */
} model_convert_options;
plp_status model_convert(const char *from, const char *path, const model_convert_options *options);

#endif
