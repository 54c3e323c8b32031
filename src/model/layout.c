#include "model/layout.h"

#include <stdio.h>

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
