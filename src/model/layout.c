#include "model/layout.h"

#include "base/error.h"
#include "model/name_list.h"

#include <stdio.h>
#include <stdlib.h>

void model_layout_path(model_band band, int64_t layer, char path[IO_NAME])
{
    const model_band_info *info = model_band_of(band);
    if (info->per_layer)
        snprintf(path, IO_NAME, "/layers/%03lld/%s", (long long)layer, info->name);
    else
        snprintf(path, IO_NAME, "/%s", info->name);
}

int64_t model_layout_block(const model_config *c)
{
    if (c->kind == MODEL_MAMBA2) return c->head_dim;
    int64_t block = 64;
    while (c->inner % block != 0) block /= 2;
    return block;
}

int model_layout_shape(const model_config *c, model_band band, int64_t shape[IO_RANK])
{
    int64_t rows = 0, columns = 0;
    model_band_shape(c, band, &rows, &columns);
    if (rows == 0) return 0;
    if (model_band_of(band)->by_columns) {
        const int64_t block = model_layout_block(c);
        shape[0] = columns / block, shape[1] = rows, shape[2] = block;
        return 3;
    }
    shape[0] = rows, shape[1] = columns;
    return columns == 1 ? 1 : 2;
}

static plp_status check_dataset(const io_model_file *f, const model_config *c, model_band band, int64_t layer, model_name_list *lost)
{
    char path[IO_NAME];
    int64_t shape[IO_RANK] = { 0 };
    const int rank = model_layout_shape(c, band, shape);
    const plp_dtype dtype = model_band_of(band)->matrix ? c->dtype : PLP_F32;
    model_layout_path(band, layer, path);
    const io_tensor *t = io_model_find(f, path);
    if (t == NULL) {
        model_name_list_add(lost, path);
        return PLP_OK;
    }
    if (t->dtype != dtype)
        return PLP_FAIL(PLP_ERR_DATA, "model file: %s holds %s, the config makes it %s; fix: convert the checkpoint again", path,
                        plp_dtype_name(t->dtype), plp_dtype_name(dtype));
    bool same = t->rank == rank;
    for (int i = 0; i < rank && same; i++) same = t->shape[i] == shape[i];
    if (same) return PLP_OK;
    return PLP_FAIL(
        PLP_ERR_SHAPE,
        "model file: %s is %d-dimensional [%lld, %lld, %lld], the config makes it %d-dimensional [%lld, %lld, %lld]; fix: convert "
        "the checkpoint again",
        path, t->rank, (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2], rank, (long long)shape[0],
        (long long)shape[1], (long long)shape[2]);
}

static bool expected(const model_config *c, const char *name)
{
    static const char layers[] = "/layers/";
    const bool in_layer = strncmp(name, layers, sizeof layers - 1) == 0;
    const int64_t layer = in_layer ? strtol(name + sizeof layers - 1, NULL, 10) : 0;
    for (model_band band = 0; band < MODEL_BANDS; band++) {
        char path[IO_NAME];
        int64_t shape[IO_RANK];
        model_layout_path(band, layer, path);
        if (strcmp(path, name) == 0) return layer < c->layers && model_layout_shape(c, band, shape) > 0;
    }
    return false;
}

plp_status model_layout_check(const io_model_file *f, const model_config *c)
{
    model_name_list lost = { 0 }, extra = { 0 };
    int64_t shape[IO_RANK];
    for (model_band band = 0; band < MODEL_BANDS; band++) {
        if (model_layout_shape(c, band, shape) == 0) continue;
        const int64_t layers = model_band_of(band)->per_layer ? c->layers : 1;
        for (int64_t layer = 0; layer < layers; layer++) PLP_TRY(check_dataset(f, c, band, layer, &lost));
    }
    if (lost.count > 0)
        return PLP_FAIL(PLP_ERR_DATA, "model file: %lld tensors are missing: %s; fix: convert the checkpoint again", (long long)lost.count,
                        model_name_list_text(&lost));
    for (int64_t i = 0; i < io_model_tensors(f); i++)
        if (!expected(c, io_model_tensor(f, i)->name)) model_name_list_add(&extra, io_model_tensor(f, i)->name);
    if (extra.count > 0)
        return PLP_FAIL(PLP_ERR_DATA, "model file: %lld unknown tensors: %s; fix: convert the checkpoint again", (long long)extra.count,
                        model_name_list_text(&extra));
    return PLP_OK;
}
