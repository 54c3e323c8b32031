/* The sharding plan of a small model, against dealing out heads, groups and rows one by one. */
#include "model/plan.h"

#include "fuzz.h"

enum { MOST = 40, ROWS = 64 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

static model_config read_config(fuzz_input *in)
{
    const bool two = fuzz_below(in, 4) != 0;
    model_config c = { .kind = two ? MODEL_MAMBA2 : MODEL_MAMBA1, .hidden = 1 + fuzz_below(in, 8), .layers = 1 + fuzz_below(in, 3) };
    c.groups = two ? 1 + fuzz_below(in, 8) : 1;
    c.heads = c.groups * (1 + fuzz_below(in, two ? MOST / 8 : MOST));
    c.head_dim = two ? 1 + fuzz_below(in, 4) : 1;
    c.inner = c.heads * c.head_dim;
    c.state = 1 + fuzz_below(in, 4), c.conv = 2 + fuzz_below(in, 3), c.dt_rank = two ? 0 : 1 + fuzz_below(in, 4), c.chunk = 8;
    c.vocab = c.vocab_used = 1 + fuzz_below(in, ROWS);
    const int flags = fuzz_byte(in);
    c.norm_groups = !two || flags & 1 ? 0 : flags & 2 ? 1 : c.groups;
    c.tied = flags & 4, c.proj_bias = flags & 8, c.conv_bias = flags & 16, c.mixer_norm_eps = flags & 32 ? 1e-6 : 0;
    c.mixer_norm_weights = !two && flags & 32 && flags & 64;
    c.norm_eps = 1e-5, c.dt_max = 1, c.bos = c.pad = -1, c.dtype = PLP_F32;
    return c;
}

/* Who has each of n units when they are dealt in order, so that no one has two more than another and the first have the odd ones. */
static void deal(int64_t n, int size, int *owner)
{
    int64_t i = 0;
    for (int rank = 0; rank < size; rank++)
        for (int64_t left = (n - i + size - rank - 1) / (size - rank); left > 0; left--) owner[i++] = rank;
}

static bool shared(model_band band)
{
    return band == MODEL_IN_B || band == MODEL_IN_C || band == MODEL_IN_B_BIAS || band == MODEL_IN_C_BIAS || band == MODEL_CONV_B ||
           band == MODEL_CONV_C || band == MODEL_CONV_B_BIAS || band == MODEL_CONV_C_BIAS;
}

/* Whether a rank must have unit i of a band: by the heads that it was dealt. */
static bool needs(const model_config *c, model_band band, int64_t i, int64_t units, int rank, const int *head_owner, const int *row_owner)
{
    if (band == MODEL_HEAD) return row_owner[i] == rank;
    if (shared(band)) {
        for (int64_t h = 0; h < c->heads; h++)
            if (head_owner[h] == rank && h / (c->heads / c->groups) == i / c->state) return true;
        return false;
    }
    if (band == MODEL_EMBED || band == MODEL_NORM || band == MODEL_FINAL_NORM || band == MODEL_OUT_BIAS) return true;
    if (band == MODEL_DT_NORM || band == MODEL_B_NORM || band == MODEL_C_NORM) return true;
    return head_owner[i / (units / c->heads)] == rank; /* heads, or their channels */
}

static void check_rank(const model_config *c, const model_plan *p, int rank, const int *head_owner, const int *row_owner)
{
    int map[MOST], first[MOST + 1];
    uint64_t elements = 0;
    for (int b = 0; b < MODEL_BANDS; b++) {
        const model_band band = (model_band)b;
        const model_band_info *info = model_band_of(band);
        int64_t rows, columns;
        model_band_shape(c, band, &rows, &columns);
        const tp_slice own = model_plan_band(p, c, band);
        const int64_t units = rows == 0 ? 0 : info->by_columns ? columns : rows;
        CHECK(own.count >= 0 && (own.count == 0 || (own.first >= 0 && own.first + own.count <= units)), "%s", info->name);
        for (int64_t i = 0; i < units; i++)
            CHECK((i >= own.first && i < own.first + own.count) == needs(c, band, i, units, rank, head_owner, row_owner),
                  "%s: unit %lld on rank %d", info->name, (long long)i, rank);
        elements += (uint64_t)(own.count * (rows == 0          ? 0
                                            : info->by_columns ? rows
                                                               : columns)) *
                    (uint64_t)(info->per_layer ? c->layers : 1);
    }
    CHECK(model_plan_weights(p, c, PLP_F32) == 4 * elements, "rank %d", rank);
    model_plan_group_map(p, c, map);
    for (int64_t i = 0; i < p->heads.count && c->kind == MODEL_MAMBA2; i++)
        CHECK(map[i] + p->groups.first == (p->heads.first + i) / (c->heads / c->groups) && map[i] < p->groups.count, "head %lld",
              (long long)i);
    if (c->norm_groups == 0) return;
    model_plan_norm_first(p, c, first);
    const int64_t width = c->inner / c->norm_groups;
    for (int64_t g = 0; g < p->norm_groups.count; g++)
        for (int64_t i = first[g]; i < first[g + 1]; i++)
            CHECK((p->channels.first + i) / width == p->norm_groups.first + g, "channel %lld of rank %d", (long long)i, rank);
}

static model_norm norm_of(const model_config *c, const int *head_owner)
{
    bool whole = true;
    if (c->kind == MODEL_MAMBA1 || c->norm_groups == 0) return MODEL_NORM_NONE;
    for (int64_t h = 1; h < c->heads; h++)
        whole = whole && (head_owner[h] == head_owner[h - 1] || h / (c->heads / c->norm_groups) != (h - 1) / (c->heads / c->norm_groups));
    return whole ? MODEL_NORM_LOCAL : c->norm_groups == 1 ? MODEL_NORM_FOLDED : MODEL_NORM_SUMMED;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_input in = { data, data + bytes };
    const model_config c = read_config(&in);
    const int size = 1 + fuzz_below(&in, MOST + 2);
    int head_owner[MOST], row_owner[ROWS];
    model_plan p;
    CHECK(model_config_check(&c) == PLP_OK, "%s", plp_last_error());
    CHECK((model_plan_make(&p, &c, 0, size) == PLP_OK) == (size <= c.heads), "%d ranks", size);
    if (size > c.heads) return 0;
    deal(c.heads, size, head_owner);
    deal(c.vocab, size, row_owner);
    for (int rank = 0; rank < size; rank++) {
        CHECK(model_plan_make(&p, &c, rank, size) == PLP_OK, "%s", plp_last_error());
        if (c.kind == MODEL_MAMBA1) /* by vectors of channels: a matter of speed, so that they tile is all */
            for (int64_t i = 0; i < p.channels.count; i++) head_owner[p.channels.first + i] = rank;
    }
    const int rank = fuzz_below(&in, size);
    CHECK(model_plan_make(&p, &c, rank, size) == PLP_OK && p.channels.count > 0, "rank %d of %d", rank, size);
    CHECK(p.norm == norm_of(&c, head_owner), "norm %d", (int)p.norm);
    check_rank(&c, &p, rank, head_owner, row_owner);
    return 0;
}
