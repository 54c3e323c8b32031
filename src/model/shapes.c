#include "model/shapes.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    model_kind kind;
    int hidden, layers, vocab, vocab_used, groups;
    bool tied;
} shapes[] = {
    { "mamba2-130m", MODEL_MAMBA2, 768, 24, 50288, 50277, 1, true },  { "mamba2-370m", MODEL_MAMBA2, 1024, 48, 50288, 50277, 1, true },
    { "mamba2-780m", MODEL_MAMBA2, 1536, 48, 50288, 50277, 1, true }, { "mamba2-1.3b", MODEL_MAMBA2, 2048, 48, 50288, 50277, 1, true },
    { "mamba2-2.7b", MODEL_MAMBA2, 2560, 64, 50288, 50277, 1, true }, { "codestral-7b", MODEL_MAMBA2, 4096, 64, 32768, 32768, 8, false },
    { "mamba-130m", MODEL_MAMBA1, 768, 24, 50280, 50277, 1, true },   { "mamba-370m", MODEL_MAMBA1, 1024, 48, 50280, 50277, 1, true },
    { "mamba-790m", MODEL_MAMBA1, 1536, 48, 50280, 50277, 1, true },  { "mamba-1.4b", MODEL_MAMBA1, 2048, 48, 50280, 50277, 1, true },
    { "mamba-2.8b", MODEL_MAMBA1, 2560, 64, 50280, 50277, 1, true },  { "falcon-mamba-7b", MODEL_MAMBA1, 4096, 64, 65024, 65024, 1, false },
};
enum { SHAPES = sizeof shapes / sizeof *shapes, HEAD_DIM = 64, CHUNK = 256 };

plp_status model_shape_find(const char *name, model_config *c)
{
    char list[256] = "";
    for (int i = 0; i < SHAPES; i++) {
        const bool mamba2 = shapes[i].kind == MODEL_MAMBA2, falcon = strcmp(shapes[i].name, "falcon-mamba-7b") == 0;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", shapes[i].name);
        if (strcmp(name, shapes[i].name) != 0) continue;
        const int inner = 2 * shapes[i].hidden;
        *c = (model_config){ .kind = shapes[i].kind,
                             .hidden = shapes[i].hidden,
                             .layers = shapes[i].layers,
                             .inner = inner,
                             .heads = mamba2 ? inner / HEAD_DIM : inner,
                             .head_dim = mamba2 ? HEAD_DIM : 1,
                             .groups = shapes[i].groups,
                             .state = mamba2 ? 128 : 16,
                             .conv = 4,
                             .dt_rank = mamba2 ? 0 : (shapes[i].hidden + 15) / 16,
                             .chunk = CHUNK,
                             .vocab = shapes[i].vocab,
                             .vocab_used = shapes[i].vocab_used,
                             .norm_eps = 1e-5,
                             .dt_max = INFINITY,
                             .mixer_norm_eps = falcon ? 1e-6 : 0,
                             .norm_groups = mamba2 ? shapes[i].groups : 0,
                             .tied = shapes[i].tied,
                             .conv_bias = true,
                             .dtype = PLP_BF16,
                             .bos = -1,
                             .pad = -1 };
        snprintf(c->family, sizeof c->family, "%s", mamba2 ? "mamba2" : falcon ? "falcon_mamba" : "mamba");
        return PLP_OK;
    }
    return PLP_FAIL(PLP_ERR_USAGE, "shape %s; fix: one of %s", name, list);
}
