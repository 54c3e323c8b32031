/* Weights that make states vanish or overflow are found, whatever the band, the type and the place. */
#include "model/values.h"

#include "base/error.h"
#include "model/layout.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void assert_message(const char *words)
{
    if (strstr(plp_last_error(), words) == NULL) fail_msg("\"%s\" is not in \"%s\"", words, plp_last_error());
}

static void put(void *data, plp_dtype dtype, int64_t i, float value)
{
    plp_convert((char *)data + (size_t)i * plp_dtype_size(dtype), dtype, &value, PLP_F32, 1);
}

/* A part of a band with one bad number in it. */
static void poison(const model_config *c, model_band band, plp_dtype dtype, float bad, int64_t first, int64_t count)
{
    int64_t rows, columns;
    model_band_shape(c, band, &rows, &columns);
    const bool across = model_band_of(band)->by_columns;
    const int64_t n = across ? rows * count : count * columns, places[] = { 0, n / 2, n - 1 };
    void *data = malloc((size_t)n * plp_dtype_size(dtype));
    for (int64_t i = 0; i < n; i++) put(data, dtype, i, 0.25f);
    assert_int_equal(model_check_values(c, band, 0, first, count, data, dtype, 3), PLP_OK);
    for (int k = 0; k < 3; k++) {
        char name[IO_NAME], words[IO_NAME + 160];
        const int64_t i = places[k], row = across ? i / count : first + i / columns, column = across ? first + i % count : i % columns;
        put(data, dtype, i, bad);
        assert_int_equal(model_check_values(c, band, 0, first, count, data, dtype, 3), PLP_ERR_DATA);
        put(data, dtype, i, 0.25f);
        model_layout_path(band, 0, name);
        snprintf(words, sizeof words, "%s: element %lld (row %lld, column %lld) is NaN or infinite", name,
                 (long long)(row * columns + column), (long long)row, (long long)column);
        assert_message(words);
    }
    free(data);
}

static void what_is_not_finite(void **state)
{
    (void)state;
    static const char *const models[] = { PLP_TEST_DATA "/fixtures/mamba2-g2-h6", PLP_TEST_DATA "/fixtures/mamba1-norms", PLP_DEMO };
    static const float bad[] = { NAN, -NAN, INFINITY, -INFINITY };
    for (int m = 0; m < 3; m++) {
        model_source *s = NULL;
        assert_int_equal(model_source_open(&s, models[m], NULL), PLP_OK);
        const model_config *c = model_source_config(s);
        for (int band = 0; band < MODEL_BANDS; band++) {
            int64_t rows, columns;
            model_band_shape(c, (model_band)band, &rows, &columns);
            const int64_t all = model_band_of((model_band)band)->by_columns ? columns : rows;
            if (rows == 0) continue;
            for (int type = 0; type <= PLP_F16; type++) poison(c, (model_band)band, (plp_dtype)type, bad[(band + type) % 4], 0, all);
            if (all > 2) poison(c, (model_band)band, PLP_F32, NAN, 1, all - 2);
        }
        model_source_close(&s);
    }
}

static void what_is_of_no_use(void **state)
{
    (void)state;
    static const struct {
        model_band band;
        float value;
        const char *words;
    } rows[] = { { MODEL_A_LOG, 89, "/layers/000/A_log: element 1 (row 1, column 0) is 89: -exp(A_log) is 0 or infinite" },
                 { MODEL_A_LOG, -120, "is -120: -exp(A_log) is 0 or infinite" },
                 { MODEL_A_LOG, 88, NULL },
                 { MODEL_A_LOG, -80, NULL },
                 { MODEL_DT_BIAS, 1e30f, "/layers/000/dt_bias: element 1 (row 1, column 0) is 1e+30: states overflow or never change" },
                 { MODEL_DT_BIAS, -1e30f, "is -1e+30: states overflow or never change" },
                 { MODEL_DT_BIAS, -1000, NULL },
                 { MODEL_D, 1e30f, NULL } };
    model_source *s = NULL;
    assert_int_equal(model_source_open(&s, PLP_TEST_DATA "/fixtures/mamba2-g2-h6", NULL), PLP_OK);
    const model_config *c = model_source_config(s);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float data[3] = { 0, rows[i].value, NAN };
        const plp_status st = model_check_values(c, rows[i].band, 0, 0, 2, data, PLP_F32, 1);
        if (st != (rows[i].words ? PLP_ERR_DATA : PLP_OK)) fail_msg("row %zu: %s", i, plp_status_name(st));
        if (rows[i].words) assert_message(rows[i].words);
    }
    model_source_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(what_is_not_finite), cmocka_unit_test(what_is_of_no_use) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
