#include "model/config.h"

#include "base/error.h"

#include <math.h>
#include <stddef.h>

/* Far above any model, and low enough that the product of any three stays within int64_t. */
enum { MOST_SIZE = 1 << 20, MOST_LAYERS = 1 << 14, LEAST_CONV = 2, MOST_CONV = 8 }; /* the convolution: kn_conv_args.width */

typedef struct {
    const char *name;
    size_t offset;
    int64_t least, most;
} range;

#define FIELD(name) #name, offsetof(model_config, name)
static const range ranges[] = {
    { FIELD(hidden), 1, MOST_SIZE },      { FIELD(layers), 1, MOST_LAYERS },      { FIELD(inner), 1, MOST_SIZE },
    { FIELD(heads), 1, MOST_SIZE },       { FIELD(head_dim), 1, MOST_SIZE },      { FIELD(groups), 1, MOST_SIZE },
    { FIELD(state), 1, MOST_SIZE },       { FIELD(conv), LEAST_CONV, MOST_CONV }, { FIELD(dt_rank), 0, MOST_SIZE },
    { FIELD(chunk), 1, MOST_SIZE },       { FIELD(vocab), 1, INT32_MAX },         { FIELD(vocab_used), 1, INT32_MAX },
    { FIELD(norm_groups), 0, MOST_SIZE },
};

static plp_status broken(const char *rule, const char *a, int64_t va, const char *b, int64_t vb)
{
    return PLP_FAIL(PLP_ERR_DATA, "config: %s %lld and %s %lld: %s", a, (long long)va, b, (long long)vb, rule);
}

static plp_status check_id(const model_config *c, const char *name, int64_t id, int64_t least)
{
    if (id >= least && id < c->vocab) return PLP_OK;
    return PLP_FAIL(PLP_ERR_DATA, "config: %s token id %lld, the vocabulary has %lld rows", name, (long long)id, (long long)c->vocab);
}

plp_status model_config_check(const model_config *c)
{
    if (c->kind != MODEL_MAMBA2 && c->kind != MODEL_MAMBA1) return PLP_FAIL(PLP_ERR_DATA, "config: kind %d is unknown", (int)c->kind);
    if (c->dtype != PLP_F32 && c->dtype != PLP_BF16 && c->dtype != PLP_F16)
        return PLP_FAIL(PLP_ERR_DATA, "config: dtype %d is unknown", (int)c->dtype);
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const range *r = &ranges[i];
        const int64_t v = *(const int64_t *)(const void *)((const char *)c + r->offset);
        if (v < r->least || v > r->most)
            return PLP_FAIL(PLP_ERR_DATA, "config: %s %lld is outside %lld to %lld", r->name, (long long)v, (long long)r->least,
                            (long long)r->most);
    }
    if (c->heads * c->head_dim != c->inner)
        return PLP_FAIL(PLP_ERR_DATA, "config: heads %lld * head_dim %lld is %lld, inner is %lld", (long long)c->heads,
                        (long long)c->head_dim, (long long)(c->heads * c->head_dim), (long long)c->inner);
    if (c->heads % c->groups != 0) return broken("the groups must divide the heads", "heads", c->heads, "groups", c->groups);
    if (c->groups * c->state > MOST_SIZE) return broken("groups * state is too large", "groups", c->groups, "state", c->state);
    if (c->kind == MODEL_MAMBA1 && (c->head_dim != 1 || c->groups != 1))
        return broken("Mamba-1 has one channel a head and one group", "head_dim", c->head_dim, "groups", c->groups);
    if (c->kind == MODEL_MAMBA1 && c->dt_rank == 0) return PLP_FAIL(PLP_ERR_DATA, "config: dt_rank 0: Mamba-1 needs one");
    if (c->norm_groups > 1 && c->norm_groups != c->groups)
        return broken("the gated norm has 0, 1 or all groups", "norm_groups", c->norm_groups, "groups", c->groups);
    if (c->vocab_used > c->vocab) return broken("more ids than rows", "vocab_used", c->vocab_used, "vocab", c->vocab);
    if (!(c->norm_eps > 0 && c->norm_eps < 1)) return PLP_FAIL(PLP_ERR_DATA, "config: norm_eps %g is outside (0, 1)", c->norm_eps);
    if (!(c->mixer_norm_eps >= 0 && c->mixer_norm_eps < 1))
        return PLP_FAIL(PLP_ERR_DATA, "config: mixer_norm_eps %g is outside [0, 1)", c->mixer_norm_eps);
    if (c->mixer_norm_weights && c->kind != MODEL_MAMBA1)
        return PLP_FAIL(PLP_ERR_DATA, "config: mixer_norm_weights 1: only Mamba-1 has norms of dt, B and C");
    if (c->mixer_norm_weights && !(c->mixer_norm_eps > 0)) /* which stands for no norm */
        return PLP_FAIL(PLP_ERR_DATA, "config: mixer_norm_eps 0: norms of dt, B and C that have weights need one above 0");
    if (!(c->dt_min >= 0 && c->dt_min <= c->dt_max && isfinite(c->dt_min)))
        return PLP_FAIL(PLP_ERR_DATA, "config: the limits of dt, %g and %g, are no range above 0", c->dt_min, c->dt_max);
    PLP_TRY(check_id(c, "bos", c->bos, -1));
    PLP_TRY(check_id(c, "pad", c->pad, -1));
    if (c->stops < 0 || c->stops > MODEL_STOPS)
        return PLP_FAIL(PLP_ERR_DATA, "config: %d stop ids, at most %d are kept", c->stops, MODEL_STOPS);
    for (int i = 0; i < c->stops; i++) PLP_TRY(check_id(c, "stop", c->stop[i], 0));
    return PLP_OK;
}
