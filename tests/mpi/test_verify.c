/* verify finds nothing where nothing is wrong, and names the first layer and tensor where something is. */
#include "mpi_test.h"

#include "model/verify.h"
#include "base/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const model_config configs[] = { { .family = "mamba2",
                                          .kind = MODEL_MAMBA2,
                                          .hidden = 40,
                                          .layers = 4,
                                          .heads = 10,
                                          .head_dim = 8,
                                          .inner = 80,
                                          .groups = 2,
                                          .state = 16,
                                          .conv = 4,
                                          .chunk = 16,
                                          .vocab = 50,
                                          .vocab_used = 47,
                                          .norm_eps = 1e-5,
                                          .dt_max = INFINITY,
                                          .norm_groups = 2,
                                          .conv_bias = true,
                                          .dtype = PLP_BF16 },
                                        { .family = "falcon_mamba",
                                          .kind = MODEL_MAMBA1,
                                          .hidden = 40,
                                          .layers = 4,
                                          .heads = 80,
                                          .head_dim = 1,
                                          .inner = 80,
                                          .groups = 1,
                                          .state = 16,
                                          .conv = 4,
                                          .dt_rank = 3,
                                          .chunk = 16,
                                          .vocab = 50,
                                          .vocab_used = 47,
                                          .norm_eps = 1e-5,
                                          .dt_max = INFINITY,
                                          .mixer_norm_eps = 1e-6,
                                          .tied = true,
                                          .conv_bias = true,
                                          .mixer_norm_weights = true,
                                          .dtype = PLP_BF16 } };

/* The shard, the whole model, and in 16 bits the whole model in float32 (NULL in float32). */
typedef struct {
    model *shard, *whole, *exact;
} models;

static void make(models *m, tp_group *g, tp_group *self, const model_config *c, bool f32)
{
    model_options o = { .backend = kn_cpu(), .threads = 1, .f32 = f32, .max_tokens = 40, .max_seqs = 1, .max_outs = 40, .slots = 1 };
    *m = (models){ 0 };
    CHECK(model_create_random(&m->shard, c, 3, g, &o) == PLP_OK);
    CHECK(model_create_random(&m->whole, c, 3, self, &o) == PLP_OK);
    o.f32 = true;
    if (!f32) CHECK(model_create_random(&m->exact, c, 3, self, &o) == PLP_OK);
}

static void destroy(models *m)
{
    model_destroy(&m->shard);
    model_destroy(&m->whole);
    model_destroy(&m->exact);
}

static const model_verify_options usual = { .tokens = 40, .decodes = 5, .slice = 7, .seed = 1, .error_ratio = 1.5 };

static plp_status verdict(const models *m, const model_verify_options *v)
{
    model_difference *list = NULL;
    int count = 0;
    const plp_status st = model_verify(m->shard, m->whole, m->exact, v, &list, &count);
    free(list);
    return st;
}

/* D of one head on the last rank, in layer 2: the scan is the first that sees it. */
static void plant(const models *m, tp_group *g, const model_verify_options *v)
{
    model_difference *list = NULL;
    int count = 0, first = 0;
    if (tp_rank(g) == tp_size(g) - 1) CHECK(model_plant_difference(m->shard, 2) == PLP_OK);
    CHECK(model_verify(m->shard, m->whole, m->exact, v, &list, &count) == PLP_ERR_DISAGREE);
    CHECK(strstr(plp_last_error(), "prefill, layer 2, scan") == plp_last_error());
    while (first < count && list[first].within) first++;
    CHECK(first < count && list[first].layer == 2 && strcmp(list[first].tensor, "scan") == 0);
    free(list);
}

/* tensors: that a layer shows */
static void examine(tp_group *g, tp_group *self, const model_config *c, int tensors)
{
    models m;
    model_verify_options v = usual;
    model_difference *list = NULL;
    int count = 0;
    v.tolerance = 1e-5;
    make(&m, g, self, c, true);
    CHECK(model_verify(m.shard, m.whole, NULL, &v, &list, &count) == PLP_OK);
    CHECK(count == 3 * (4 * tensors + 1));
    for (int i = 0; i < count; i++) CHECK(list[i].within && list[i].relative < 1e-5 && list[i].ratio == 0);
    free(list);
    plant(&m, g, &v);
    destroy(&m);
}

/* By what rounding costs. */
static void examine_16(tp_group *g, tp_group *self, const model_config *config, plp_dtype dtype, int tensors)
{
    const double unit = dtype == PLP_BF16 ? 0x1p-8 : 0x1p-11;
    models m;
    model_config c = *config;
    model_verify_options v = usual;
    model_difference *list = NULL;
    int count = 0;
    c.dtype = dtype;
    make(&m, g, self, &c, false);
    CHECK(model_verify(m.shard, m.whole, m.exact, &v, &list, &count) == PLP_OK);
    CHECK(count == 3 * (4 * tensors + 1));
    for (int i = 0; i < count; i++) { /* 16 bits show, and no more than a few units of them */
        const model_difference *d = list + i;
        CHECK(d->within && d->error > unit / 50 && d->error < unit * 10 && d->whole_error > 0 && d->error <= 1.5 * d->whole_error);
        if (tp_size(g) == 1) CHECK(d->ratio == 1 && d->absolute == 0);
    }
    free(list);

    v.error_ratio = 0.5; /* better than the whole model no shard is */
    CHECK(verdict(&m, &v) == PLP_ERR_DISAGREE);
    v.error_ratio = NAN;
    CHECK(verdict(&m, &v) == PLP_ERR_DISAGREE);

    v = usual;
    plant(&m, g, &v);
    v.error_ratio = 1e6; /* lets that pass */
    CHECK(verdict(&m, &v) == PLP_OK);
    v.tolerance = 1e-2; /* is looked at, too */
    CHECK(verdict(&m, &v) == PLP_ERR_DISAGREE);
    CHECK(strstr(plp_last_error(), "of the largest value, 0.01 allowed") != NULL);

    /* what is not finite is never within, whatever is allowed */
    c.norm_eps = NAN;
    model_options o = *model_options_of(m.exact);
    model_destroy(&m.exact);
    CHECK(model_create_random(&m.exact, &c, 3, self, &o) == PLP_OK);
    v.tolerance = 0, v.error_ratio = INFINITY;
    CHECK(verdict(&m, &v) == PLP_ERR_DISAGREE);
    destroy(&m);
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv), *self = NULL;
    CHECK(tp_group_self(&self) == PLP_OK);
    for (int i = 0; i < 2; i++) {
        const int tensors = i == 0 ? 4 : 5; /* in_proj, conv, scan, residual; and x_proj */
        examine(g, self, configs + i, tensors);
        examine_16(g, self, configs + i, PLP_BF16, tensors);
        examine_16(g, self, configs + i, PLP_F16, tensors);
    }
    tp_group_destroy(&self);
    return mpi_test_end(g);
}
