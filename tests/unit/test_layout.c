/* A model file against its own config: each band left out, of another shape, transposed, of another type, and one too many.  What is wrong is named. */
#include "model/config_attributes.h"
#include "model/layout.h"
#include "model/source.h"

#include "base/error.h"
#include "unit_files.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

typedef enum { MISSING, LONGER, TRANSPOSED, FLATTER, RETYPED, WAYS } way;

/* How a band is written; false: it is not. */
static bool alter(way how, plp_dtype *dtype, int *rank, int64_t shape[IO_RANK])
{
    const int64_t first = shape[0];
    switch (how) {
    case MISSING: return false;
    case LONGER: shape[0]++; return true;
    case TRANSPOSED: shape[0] = shape[*rank - 1], shape[*rank - 1] = first; return true;
    case FLATTER:
        for (int i = 1; i < *rank; i++) shape[0] *= shape[i];
        *rank = 1;
        return true;
    default: *dtype = *dtype == PLP_F32 ? PLP_F16 : PLP_F32; return true;
    }
}

static void put(io_model_writer *w, const char *path, plp_dtype dtype, int rank, const int64_t *shape)
{
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= shape[i];
    void *zeros = calloc((size_t)count, plp_dtype_size(dtype));
    assert_int_equal(io_model_begin(w, path, dtype, rank, shape, NULL, NULL), PLP_OK);
    assert_int_equal(io_model_append(w, zeros, count), PLP_OK);
    assert_int_equal(io_model_end(w), PLP_OK);
    free(zeros);
}

/* The model with one band altered in its last layer.  false: this band would not be another. */
static bool write_model(const char *name, const model_config *c, model_band altered, way how, const char *extra)
{
    io_model_writer *w = NULL;
    bool other = false;
    assert_int_equal(io_model_create(&w, name, true), PLP_OK);
    assert_int_equal(model_config_write(w, c), PLP_OK);
    assert_int_equal(io_model_put_blob(w, "/config_text", "{}", 2), PLP_OK);
    for (int band = 0; band < MODEL_BANDS; band++)
        for (int64_t layer = 0; layer < (model_band_of((model_band)band)->per_layer ? c->layers : 1); layer++) {
            char path[IO_NAME];
            int64_t shape[IO_RANK] = { 0 }, was[IO_RANK];
            plp_dtype dtype = model_band_of((model_band)band)->matrix ? c->dtype : PLP_F32;
            int rank = model_layout_shape(c, (model_band)band, shape);
            const int old = rank;
            bool there = rank > 0;
            memcpy(was, shape, sizeof was);
            if (there && band == (int)altered && how < WAYS && (!model_band_of(altered)->per_layer || layer == c->layers - 1)) {
                there = alter(how, &dtype, &rank, shape);
                other = how == MISSING || how == RETYPED || rank != old || memcmp(was, shape, sizeof was) != 0;
            }
            model_layout_path((model_band)band, layer, path);
            if (there) put(w, path, dtype, rank, shape);
        }
    if (extra != NULL) put(w, extra, PLP_F32, 1, (const int64_t[]){ 3 });
    assert_int_equal(io_model_finish(&w), PLP_OK);
    return other;
}

static void every_band_is_checked(void **state)
{
    (void)state;
    static const char *const models[] = { PLP_TEST_DATA "/fixtures/mamba2-g2-h6", PLP_TEST_DATA "/fixtures/mamba1",
                                          PLP_TEST_DATA "/fixtures/mamba1-norms" };
    static const char *const words[WAYS] = { "1 tensors are missing: ", " is ", " is ", " is ", " holds " };
    char name[128];
    int tried = 0;
    snprintf(name, sizeof name, "%s/model.h5", dir);
    for (int m = 0; m < 3; m++) {
        model_source *s = NULL, *opened = NULL;
        assert_int_equal(model_source_open(&s, models[m], NULL), PLP_OK);
        const model_config *c = model_source_config(s);
        write_model(name, c, MODEL_EMBED, WAYS, NULL); /* control: as it should be */
        if (model_source_open(&opened, name, NULL) != PLP_OK) fail_msg("%s", plp_last_error());
        model_source_close(&opened);
        for (int band = 0; band < MODEL_BANDS; band++)
            for (int how = 0; how < WAYS; how++) {
                char path[IO_NAME];
                int64_t shape[IO_RANK];
                if (model_layout_shape(c, (model_band)band, shape) == 0 || !write_model(name, c, (model_band)band, (way)how, NULL))
                    continue;
                const plp_status st = model_source_open(&opened, name, NULL);
                model_layout_path((model_band)band, c->layers - 1, path);
                if (plp_status_exit(st) != 65 || strstr(plp_last_error(), path) == NULL || strstr(plp_last_error(), words[how]) == NULL)
                    fail_msg("%s, way %d: %s: %s", path, how, plp_status_name(st), plp_last_error());
                tried++;
            }
        static const char *const extra[] = { "/layers/000/more", "/layers/999/norm/weight", "/more/weight", "/layers/000/dt_norm/weight" };
        for (int i = 0; i < (c->mixer_norm_weights ? 3 : 4); i++) {
            write_model(name, c, MODEL_EMBED, WAYS, extra[i]);
            assert_int_equal(model_source_open(&opened, name, NULL), PLP_ERR_DATA);
            if (strstr(plp_last_error(), "1 unknown tensors: ") == NULL || strstr(plp_last_error(), extra[i]) == NULL)
                fail_msg("%s: %s", extra[i], plp_last_error());
        }
        model_source_close(&s);
    }
    assert_true(tried > 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_band_is_checked) };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
