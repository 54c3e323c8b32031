#include "model/source.h"

static const model_band_info bands[MODEL_BANDS] = {
    /* path in a model file, per layer, matrix, cut by columns */
    [MODEL_EMBED] = { "embedding/weight", false, true, false },
    [MODEL_NORM] = { "norm/weight", true, false, false },
    [MODEL_IN_Z] = { "in_proj/z/weight", true, true, false },
    [MODEL_IN_X] = { "in_proj/x/weight", true, true, false },
    [MODEL_IN_B] = { "in_proj/B/weight", true, true, false },
    [MODEL_IN_C] = { "in_proj/C/weight", true, true, false },
    [MODEL_IN_DT] = { "in_proj/dt/weight", true, true, false },
    [MODEL_IN_Z_BIAS] = { "in_proj/z/bias", true, false, false },
    [MODEL_IN_X_BIAS] = { "in_proj/x/bias", true, false, false },
    [MODEL_IN_B_BIAS] = { "in_proj/B/bias", true, false, false },
    [MODEL_IN_C_BIAS] = { "in_proj/C/bias", true, false, false },
    [MODEL_IN_DT_BIAS] = { "in_proj/dt/bias", true, false, false },
    [MODEL_CONV_X] = { "conv1d/x/weight", true, false, false },
    [MODEL_CONV_B] = { "conv1d/B/weight", true, false, false },
    [MODEL_CONV_C] = { "conv1d/C/weight", true, false, false },
    [MODEL_CONV_X_BIAS] = { "conv1d/x/bias", true, false, false },
    [MODEL_CONV_B_BIAS] = { "conv1d/B/bias", true, false, false },
    [MODEL_CONV_C_BIAS] = { "conv1d/C/bias", true, false, false },
    [MODEL_X_PROJ] = { "x_proj/weight", true, true, true },
    [MODEL_DT_PROJ] = { "dt_proj/weight", true, true, false },
    [MODEL_DT_BIAS] = { "dt_bias", true, false, false },
    [MODEL_A_LOG] = { "A_log", true, false, false },
    [MODEL_D] = { "D", true, false, false },
    [MODEL_GATE_NORM] = { "gate_norm/weight", true, false, false },
    [MODEL_OUT_PROJ] = { "out_proj/weight", true, true, true },
    [MODEL_OUT_BIAS] = { "out_proj/bias", true, false, false },
    [MODEL_FINAL_NORM] = { "final_norm/weight", false, false, false },
    [MODEL_HEAD] = { "lm_head/weight", false, true, false },
    [MODEL_DT_NORM] = { "dt_norm/weight", true, false, false },
    [MODEL_B_NORM] = { "B_norm/weight", true, false, false },
    [MODEL_C_NORM] = { "C_norm/weight", true, false, false },
};

const model_band_info *model_band_of(model_band band) { return &bands[band]; }

void model_band_shape(const model_config *c, model_band band, int64_t *rows, int64_t *columns)
{
    const bool two = c->kind == MODEL_MAMBA2;
    const int64_t bc = two ? c->groups * c->state : 0; /* rows of B, and of C, in in_proj and conv1d */
    int64_t r = 0, k = 1;
    switch (band) {
    case MODEL_EMBED: r = c->vocab, k = c->hidden; break;
    case MODEL_NORM: r = c->hidden; break;
    case MODEL_IN_Z:
    case MODEL_IN_X: r = c->inner, k = c->hidden; break;
    case MODEL_IN_B:
    case MODEL_IN_C: r = bc, k = c->hidden; break;
    case MODEL_IN_DT: r = two ? c->heads : 0, k = c->hidden; break;
    case MODEL_IN_Z_BIAS:
    case MODEL_IN_X_BIAS: r = c->proj_bias ? c->inner : 0; break;
    case MODEL_IN_B_BIAS:
    case MODEL_IN_C_BIAS: r = c->proj_bias ? bc : 0; break;
    case MODEL_IN_DT_BIAS: r = c->proj_bias && two ? c->heads : 0; break;
    case MODEL_CONV_X: r = c->inner, k = c->conv; break;
    case MODEL_CONV_B:
    case MODEL_CONV_C: r = bc, k = c->conv; break;
    case MODEL_CONV_X_BIAS: r = c->conv_bias ? c->inner : 0; break;
    case MODEL_CONV_B_BIAS:
    case MODEL_CONV_C_BIAS: r = c->conv_bias ? bc : 0; break;
    case MODEL_X_PROJ: r = two ? 0 : c->dt_rank + 2 * c->state, k = c->inner; break;
    case MODEL_DT_PROJ: r = two ? 0 : c->inner, k = c->dt_rank; break;
    case MODEL_DT_BIAS:
    case MODEL_D: r = c->heads; break;
    case MODEL_A_LOG: r = c->heads, k = two ? 1 : c->state; break;
    case MODEL_GATE_NORM: r = two && c->norm_groups > 0 ? c->inner : 0; break;
    case MODEL_OUT_PROJ: r = c->hidden, k = c->inner; break;
    case MODEL_OUT_BIAS: r = c->proj_bias ? c->hidden : 0; break;
    case MODEL_FINAL_NORM: r = c->hidden; break;
    case MODEL_HEAD: r = c->tied ? 0 : c->vocab, k = c->hidden; break;
    case MODEL_DT_NORM: r = c->mixer_norm_weights ? c->dt_rank : 0; break;
    case MODEL_B_NORM:
    case MODEL_C_NORM: r = c->mixer_norm_weights ? c->state : 0; break;
    case MODEL_BANDS: break;
    }
    *rows = r;
    *columns = r > 0 ? k : 0;
}
