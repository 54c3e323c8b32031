#include "model/values.h"

#include "base/error.h"
#include "model/layout.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

enum { BLOCK = 4096 }; /* elements that are looked at together, without a branch for each */

/* An exponent of all ones is not a finite number: one more, and it runs over into the sign. */
static bool any32(const uint32_t *words, int64_t n)
{
    uint32_t any = 0;
    for (int64_t i = 0; i < n; i++) any |= (words[i] & 0x7f800000u) + 0x00800000u;
    return any >> 31;
}

static bool any16(const uint16_t *halves, int64_t n, uint16_t exponent, uint16_t one)
{
    uint16_t any = 0;
    for (int64_t i = 0; i < n; i++) any |= (uint16_t)((halves[i] & exponent) + one);
    return any >> 15;
}

static bool any_not_finite(const void *data, plp_dtype dtype, int64_t first, int64_t n)
{
    if (dtype == PLP_F32) return any32((const uint32_t *)data + first, n);
    return dtype == PLP_BF16 ? any16((const uint16_t *)data + first, n, 0x7f80, 0x0080)
                             : any16((const uint16_t *)data + first, n, 0x7c00, 0x0400);
}

/* The index of the first NaN or infinity among n elements; n: there is none. */
static int64_t first_not_finite(const void *data, plp_dtype dtype, int64_t n, int threads)
{
    int64_t first = n;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(min : first) if (n > 64 * BLOCK)
    for (int64_t at = 0; at < n; at += BLOCK)
        if (at < first && any_not_finite(data, dtype, at, n - at < BLOCK ? n - at : BLOCK)) first = at;
    while (first < n && !any_not_finite(data, dtype, first, 1)) first++;
    return first;
}

/* Bands that are always float32: the first value that makes states vanish or overflow. */
static int64_t first_useless(model_band band, const float *data, int64_t n)
{
    int64_t i = 0;
    if (band == MODEL_A_LOG)
        while (i < n && expf(data[i]) > 0 && isfinite(expf(data[i]))) i++;
    else if (band == MODEL_DT_BIAS)
        while (i < n && fabsf(data[i]) <= 1e6f) i++;
    else
        return n;
    return i;
}

plp_status model_check_values(const model_config *c, model_band band, int64_t layer, int64_t first, int64_t count, const void *data,
                              plp_dtype dtype, int threads)
{
    const bool by_columns = model_band_of(band)->by_columns;
    int64_t rows, columns;
    char name[IO_NAME], why[80] = "NaN or infinite";
    model_band_shape(c, band, &rows, &columns);
    const int64_t width = by_columns ? count : columns, n = by_columns ? rows * count : count * columns;
    int64_t i = first_not_finite(data, dtype, n, threads);
    if (i == n && dtype == PLP_F32) {
        const float *values = data;
        i = first_useless(band, values, n);
        if (i < n)
            snprintf(why, sizeof why, band == MODEL_A_LOG ? "%g: -exp(A_log) is 0 or infinite" : "%g: states overflow or never change",
                     values[i]);
    }
    if (i == n) return PLP_OK;
    const int64_t row = i / width + (by_columns ? 0 : first), column = i % width + (by_columns ? first : 0);
    model_layout_path(band, layer, name);
    return PLP_FAIL(PLP_ERR_DATA, "%s: element %lld (row %lld, column %lld) is %s; fix: get the checkpoint again, or --allow-nonfinite",
                    name, (long long)(row * columns + column), (long long)row, (long long)column, why);
}
