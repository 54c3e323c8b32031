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
                                          .dtype = PLP_BF16 } };

/* tensors: that a layer shows */
static void examine(tp_group *g, tp_group *self, const model_config *c, int tensors)
{
    const model_options o = { .backend = kn_cpu(), .threads = 1, .f32 = true, .max_tokens = 40, .max_seqs = 1, .max_outs = 40, .slots = 1 };
    const model_verify_options v = { .tokens = 40, .decodes = 5, .slice = 7, .seed = 1, .tolerance = 1e-5 };
    model *shard = NULL, *whole = NULL;
    model_difference *list = NULL;
    int count = 0;
    CHECK(model_create_random(&shard, c, 3, g, &o) == PLP_OK);
    CHECK(model_create_random(&whole, c, 3, self, &o) == PLP_OK);

    CHECK(model_verify(shard, whole, &v, &list, &count) == PLP_OK);
    CHECK(count == 3 * (4 * tensors + 1));
    for (int i = 0; i < count; i++) CHECK(list[i].within && list[i].relative < 1e-5);
    free(list);

    /* D of one head on the last rank, in layer 2: the scan is the first that sees it */
    if (tp_rank(g) == tp_size(g) - 1) CHECK(model_plant_difference(shard, 2) == PLP_OK);
    CHECK(model_verify(shard, whole, &v, &list, &count) == PLP_ERR_DISAGREE);
    CHECK(strstr(plp_last_error(), "prefill, layer 2, scan") == plp_last_error());
    int first = 0;
    while (first < count && list[first].within) first++;
    CHECK(first < count && list[first].layer == 2 && strcmp(list[first].tensor, "scan") == 0);
    free(list);

    model_destroy(&shard);
    model_destroy(&whole);
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv), *self = NULL;
    CHECK(tp_group_self(&self) == PLP_OK);
    examine(g, self, configs, 4);     /* in_proj, conv, scan, residual */
    examine(g, self, configs + 1, 5); /* and x_proj */
    tp_group_destroy(&self);
    return mpi_test_end(g);
}
