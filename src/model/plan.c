#include "model/plan.h"

#include "base/error.h"

tp_slice model_groups_of(int64_t heads, int64_t groups, tp_slice own)
{
    if (own.count == 0) return (tp_slice){ 0, 0 };
    const int64_t first = own.first * groups / heads, last = (own.first + own.count - 1) * groups / heads;
    return (tp_slice){ first, last - first + 1 };
}

/* Every boundary between ranks is a boundary between norm groups. */
static bool norm_groups_are_whole(const model_config *c, int size)
{
    const int64_t each = c->heads / c->norm_groups;
    for (int r = 1; r < size; r++)
        if (tp_shard(c->heads, r, size).first % each != 0) return false;
    return true;
}

/* Heads are shared out in units.  Mamba-1's heads are single channels: there whole vectors of them, as wide as the ranks allow without one
 * having an eighth more than another. */
static int64_t unit_of(const model_config *c, int size)
{
    enum { WIDEST = 64, EVEN = 8 };
    int64_t unit = c->kind == MODEL_MAMBA1 ? WIDEST : 1;
    for (; unit > 1; unit /= 2) {
        const int64_t units = c->heads / unit;
        if (c->heads % unit == 0 && (units % size == 0 || units >= EVEN * size)) break;
    }
    return unit;
}

tp_slice model_plan_vocab(int64_t vocab, int rank, int size)
{
    enum { UNIT = 8, LEAST = 64 };
    if (vocab < (int64_t)LEAST * size) return tp_shard(vocab, rank, size);
    const tp_slice units = tp_shard((vocab + UNIT - 1) / UNIT, rank, size);
    const int64_t first = units.first * UNIT, end = first + units.count * UNIT;
    return (tp_slice){ first, (end < vocab ? end : vocab) - first };
}

plp_status model_plan_make(model_plan *p, const model_config *c, int rank, int size)
{
    if (size > c->heads)
        return PLP_FAIL(PLP_ERR_USAGE, "%d ranks, but the model has %lld %s to share out; fix: start 1 to %lld ranks", size,
                        (long long)c->heads, c->kind == MODEL_MAMBA2 ? "heads" : "channels", (long long)c->heads);
    const int64_t unit = unit_of(c, size);
    const tp_slice units = tp_shard(c->heads / unit, rank, size);
    *p = (model_plan){ .rank = rank,
                       .size = size,
                       .heads = { units.first * unit, units.count * unit },
                       .unit = unit,
                       .vocab = model_plan_vocab(c->vocab, rank, size) };
    p->channels = (tp_slice){ p->heads.first * c->head_dim, p->heads.count * c->head_dim };
    if (c->kind == MODEL_MAMBA1) {
        p->in_rows = 2 * p->channels.count, p->conv_channels = p->channels.count;
        return PLP_OK;
    }
    p->groups = model_groups_of(c->heads, c->groups, p->heads);
    p->in_rows = 2 * p->channels.count + 2 * p->groups.count * c->state + p->heads.count;
    p->conv_channels = p->channels.count + 2 * p->groups.count * c->state;
    if (c->norm_groups == 0) return PLP_OK;
    p->norm_groups = model_groups_of(c->heads, c->norm_groups, p->heads);
    p->norm = norm_groups_are_whole(c, size) ? MODEL_NORM_LOCAL : c->norm_groups == 1 ? MODEL_NORM_FOLDED : MODEL_NORM_SUMMED;
    return PLP_OK;
}

void model_plan_group_map(const model_plan *p, const model_config *c, int *map)
{
    for (int64_t i = 0; i < p->heads.count; i++) map[i] = (int)((p->heads.first + i) * c->groups / c->heads - p->groups.first);
}

void model_plan_norm_first(const model_plan *p, const model_config *c, int *first)
{
    const int64_t width = c->norm_groups ? c->inner / c->norm_groups : 0;
    for (int64_t g = 0; g < p->norm_groups.count; g++) {
        const int64_t start = (p->norm_groups.first + g) * width - p->channels.first;
        first[g] = (int)(start < 0 ? 0 : start);
    }
    first[p->norm_groups.count] = (int)p->channels.count;
}

tp_slice model_plan_band(const model_plan *p, const model_config *c, model_band band)
{
    int64_t rows, columns;
    model_band_shape(c, band, &rows, &columns);
    if (rows == 0) return (tp_slice){ 0, 0 };
    switch (band) {
    case MODEL_IN_Z:
    case MODEL_IN_X:
    case MODEL_IN_Z_BIAS:
    case MODEL_IN_X_BIAS:
    case MODEL_CONV_X:
    case MODEL_CONV_X_BIAS:
    case MODEL_X_PROJ:
    case MODEL_DT_PROJ:
    case MODEL_GATE_NORM:
    case MODEL_OUT_PROJ: return p->channels;
    case MODEL_IN_B:
    case MODEL_IN_C:
    case MODEL_IN_B_BIAS:
    case MODEL_IN_C_BIAS:
    case MODEL_CONV_B:
    case MODEL_CONV_C:
    case MODEL_CONV_B_BIAS:
    case MODEL_CONV_C_BIAS: return (tp_slice){ p->groups.first * c->state, p->groups.count * c->state };
    case MODEL_IN_DT:
    case MODEL_IN_DT_BIAS:
    case MODEL_DT_BIAS:
    case MODEL_A_LOG:
    case MODEL_D: return p->heads;
    case MODEL_HEAD: return p->vocab;
    default: return (tp_slice){ 0, rows }; /* the embedding and the norms over hidden, dt, B and C: on every rank */
    }
}

uint64_t model_plan_weights(const model_plan *p, const model_config *c, plp_dtype matrices)
{
    uint64_t bytes = 0;
    for (int band = 0; band < MODEL_BANDS; band++) {
        const model_band_info *info = model_band_of((model_band)band);
        int64_t rows, columns;
        model_band_shape(c, (model_band)band, &rows, &columns);
        const int64_t own = model_plan_band(p, c, (model_band)band).count, across = info->by_columns ? rows : columns;
        bytes += (uint64_t)(own * across) * plp_dtype_size(info->matrix ? matrices : PLP_F32) * (uint64_t)(info->per_layer ? c->layers : 1);
    }
    return bytes;
}

uint64_t model_plan_conv_state(const model_plan *p, const model_config *c, plp_dtype dtype)
{
    return (uint64_t)(c->layers * (c->conv - 1) * p->conv_channels) * plp_dtype_size(dtype);
}

uint64_t model_plan_ssm_state(const model_plan *p, const model_config *c, plp_dtype dtype)
{
    return (uint64_t)(c->layers * p->channels.count * c->state) * plp_dtype_size(dtype);
}

int model_plan_collectives(const model_plan *p, const model_config *c, int64_t tokens, model_collective list[MODEL_COLLECTIVES])
{
    int n = 0;
    if (p->size == 1) return 0;
    if (c->kind == MODEL_MAMBA1) list[n++] = (model_collective){ "dt, B, C", tokens * (c->dt_rank + 2 * c->state), PLP_F32 };
    if (p->norm == MODEL_NORM_SUMMED) list[n++] = (model_collective){ "norm sums", tokens * c->norm_groups, PLP_F32 };
    list[n++] = p->norm == MODEL_NORM_FOLDED ? (model_collective){ "out_proj + norm sum", tokens * (c->hidden + 4), PLP_F32 }
                                             : (model_collective){ "out_proj", tokens * c->hidden, PLP_F32 };
    return n;
}
