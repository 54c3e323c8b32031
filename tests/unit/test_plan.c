/* The sharding plan against brute force, for every number of ranks: no ranks needed. */
#include "model/plan.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

enum { MOST = 130 };

static model_config shape(int64_t heads, int64_t groups, int64_t norm_groups)
{
    return (model_config){ .family = "mamba2",
                           .kind = MODEL_MAMBA2,
                           .hidden = 24,
                           .layers = 3,
                           .heads = heads,
                           .head_dim = 4,
                           .inner = heads * 4,
                           .groups = groups,
                           .state = 8,
                           .conv = 4,
                           .chunk = 16,
                           .vocab = 101,
                           .vocab_used = 97,
                           .norm_eps = 1e-5,
                           .norm_groups = norm_groups,
                           .conv_bias = true,
                           .proj_bias = true };
}

static const struct {
    int heads, groups;
} shapes[] = { { 24, 1 }, { 8, 8 }, { 6, 2 }, { 128, 8 }, { 80, 1 }, { 12, 3 }, { 12, 4 }, { 7, 7 }, { 7, 1 }, { 1, 1 }, { 30, 5 } };
#define EACH_SHAPE(s) for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)

static void slices_tile_and_differ_by_one(void **state)
{
    (void)state;
    for (int n = 0; n < MOST; n++)
        for (int size = 1; size < 40; size++) {
            int64_t next = 0;
            for (int r = 0; r < size; r++) {
                const tp_slice s = tp_shard(n, r, size);
                assert_int_equal(s.first, next);
                assert_true(s.count == n / size || s.count == n / size + 1);
                next += s.count;
            }
            assert_int_equal(next, n);
        }
}

static void heads_find_their_groups(void **state)
{
    (void)state;
    EACH_SHAPE(s)
    {
        const model_config c = shape(shapes[s].heads, shapes[s].groups, shapes[s].groups);
        for (int size = 1; size <= c.heads; size++) {
            int seen[MOST] = { 0 };
            for (int r = 0; r < size; r++) {
                model_plan p;
                int map[MOST];
                assert_int_equal(model_plan_make(&p, &c, r, size), PLP_OK);
                model_plan_group_map(&p, &c, map);
                assert_true(p.heads.count >= 1);
                bool used[MOST] = { false };
                for (int64_t i = 0; i < p.heads.count; i++) {
                    const int64_t head = p.heads.first + i, group = head / (c.heads / c.groups); /* groups are equally wide here */
                    assert_int_equal(p.groups.first + map[i], group);
                    assert_in_range(map[i], 0, p.groups.count - 1);
                    used[map[i]] = true;
                    seen[head]++;
                }
                for (int64_t g = 0; g < p.groups.count; g++) assert_true(used[g]); /* nothing is kept that no head reads */
                assert_int_equal(p.in_rows, 2 * p.heads.count * 4 + 2 * p.groups.count * 8 + p.heads.count);
            }
            for (int64_t head = 0; head < c.heads; head++) assert_int_equal(seen[head], 1);
        }
        model_plan p;
        assert_int_equal(model_plan_make(&p, &c, 0, (int)c.heads + 1), PLP_ERR_USAGE);
    }
}

/* Every element of every band is on exactly one rank, but for what is copied: B and C on each rank whose heads read them, and what is not
 * cut at all. */
static void bands_cover_the_model(void **state)
{
    (void)state;
    EACH_SHAPE(s)
    {
        model_config c = shape(shapes[s].heads, shapes[s].groups, shapes[s].groups);
        for (int tied = 0; tied < 2; tied++)
            for (int size = 1; size <= c.heads && size <= 40; size++)
                for (int band = 0; band < MODEL_BANDS; band++) {
                    int64_t rows, columns;
                    c.tied = tied;
                    model_band_shape(&c, (model_band)band, &rows, &columns);
                    const int64_t units = model_band_of((model_band)band)->by_columns ? columns : rows;
                    int owners[1024] = { 0 };
                    assert_true(units <= 1024);
                    for (int r = 0; r < size; r++) {
                        model_plan p;
                        assert_int_equal(model_plan_make(&p, &c, r, size), PLP_OK);
                        const tp_slice own = model_plan_band(&p, &c, (model_band)band);
                        assert_true(own.first >= 0 && own.first + own.count <= units);
                        for (int64_t i = 0; i < own.count; i++) owners[own.first + i]++;
                    }
                    for (int64_t i = 0; i < units; i++) {
                        const bool copied = band == MODEL_EMBED || band == MODEL_NORM || band == MODEL_FINAL_NORM || band == MODEL_OUT_BIAS;
                        const bool shared = band == MODEL_IN_B || band == MODEL_IN_C || band == MODEL_IN_B_BIAS ||
                                            band == MODEL_IN_C_BIAS || band == MODEL_CONV_B || band == MODEL_CONV_C ||
                                            band == MODEL_CONV_B_BIAS || band == MODEL_CONV_C_BIAS;
                        if (copied)
                            assert_int_equal(owners[i], size);
                        else if (shared)
                            assert_true(owners[i] >= 1);
                        else
                            assert_int_equal(owners[i], 1);
                    }
                }
    }
}

static void norm_mode_follows_the_groups(void **state)
{
    (void)state;
    EACH_SHAPE(s)
    for (int full = 0; full < 2; full++) {
        const model_config c = shape(shapes[s].heads, shapes[s].groups, full ? 1 : shapes[s].groups);
        const int64_t width = c.inner / c.norm_groups;
        for (int size = 1; size <= c.heads; size++) {
            int owners[MOST] = { 0 };
            int64_t covered[MOST] = { 0 };
            model_plan p;
            for (int r = 0; r < size; r++) {
                int first[MOST + 1];
                assert_int_equal(model_plan_make(&p, &c, r, size), PLP_OK);
                model_plan_norm_first(&p, &c, first);
                assert_int_equal(first[0], 0);
                for (int64_t g = 0; g < p.norm_groups.count; g++) {
                    assert_true(first[g + 1] > first[g]);
                    for (int64_t i = first[g]; i < first[g + 1]; i++)
                        assert_int_equal((p.channels.first + i) / width, p.norm_groups.first + g);
                    owners[p.norm_groups.first + g]++;
                    covered[p.norm_groups.first + g] += first[g + 1] - first[g];
                }
            }
            bool whole = true;
            for (int64_t g = 0; g < c.norm_groups; g++) {
                whole = whole && owners[g] == 1;
                assert_int_equal(covered[g], width);
            }
            assert_int_equal(p.norm, whole ? MODEL_NORM_LOCAL : c.norm_groups == 1 ? MODEL_NORM_FOLDED : MODEL_NORM_SUMMED);
            model_collective list[MODEL_COLLECTIVES];
            assert_int_equal(model_plan_collectives(&p, &c, 5, list), size == 1 ? 0 : p.norm == MODEL_NORM_SUMMED ? 2 : 1);
        }
    }
}

/* mamba2-2.7b on two ranks, by hand: B and C are copied, everything else halves. */
static void a_published_shape_by_hand(void **state)
{
    (void)state;
    const model_config c = { .kind = MODEL_MAMBA2,
                             .hidden = 2560,
                             .layers = 64,
                             .heads = 80,
                             .head_dim = 64,
                             .inner = 5120,
                             .groups = 1,
                             .state = 128,
                             .conv = 4,
                             .vocab = 50288,
                             .vocab_used = 50277,
                             .norm_groups = 1,
                             .tied = true,
                             .conv_bias = true };
    model_plan one, half;
    assert_int_equal(model_plan_make(&one, &c, 0, 1), PLP_OK);
    assert_int_equal(model_plan_make(&half, &c, 1, 2), PLP_OK);
    assert_int_equal(one.in_rows, 10576);
    assert_int_equal(half.in_rows, 2 * 2560 + 2 * 128 + 40);
    assert_int_equal(model_plan_ssm_state(&one, &c, PLP_F32), 64ll * 80 * 64 * 128 * 4);
    assert_int_equal(model_plan_ssm_state(&half, &c, PLP_BF16), 64ll * 40 * 64 * 128 * 2);
    assert_int_equal(half.vocab.first, 25144);
    uint64_t parameters = 0; /* all float32: bytes / 4 */
    parameters = model_plan_weights(&one, &c, PLP_F32) / 4;
    assert_int_equal(parameters, 2702599680ull); /* the published count */
}

static model_config mamba1(int64_t channels)
{
    return (model_config){ .family = "mamba",
                           .kind = MODEL_MAMBA1,
                           .hidden = 24,
                           .layers = 3,
                           .heads = channels,
                           .head_dim = 1,
                           .inner = channels,
                           .groups = 1,
                           .state = 16,
                           .conv = 4,
                           .dt_rank = 5,
                           .chunk = 256,
                           .vocab = 101,
                           .vocab_used = 97,
                           .norm_eps = 1e-5,
                           .mixer_norm_eps = 1e-6,
                           .conv_bias = true,
                           .proj_bias = true,
                           .mixer_norm_weights = true };
}

/* What a rank of Mamba-1 keeps of each band, from its channels alone: the layer computes with these, at any number of ranks up to that of
 * the channels.  Ranks differ by no more than an eighth of a share, or by one channel. */
static void mamba1_is_cut_by_channel(void **state)
{
    (void)state;
    static const int64_t widths[] = { 1, 7, 60, 96, 128, 1536, 5120, 8192 };
    static const model_band by_channel[] = { MODEL_IN_Z,   MODEL_IN_X,    MODEL_IN_Z_BIAS, MODEL_IN_X_BIAS, MODEL_CONV_X, MODEL_CONV_X_BIAS,
                                             MODEL_X_PROJ, MODEL_DT_PROJ, MODEL_DT_BIAS,   MODEL_A_LOG,     MODEL_D,      MODEL_OUT_PROJ };
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        const model_config c = mamba1(widths[w]);
        model_plan p;
        for (int size = 1; size <= c.inner && size <= 130; size++) {
            int64_t next = 0, least = c.inner, most = 0;
            for (int r = 0; r < size; r++) {
                assert_int_equal(model_plan_make(&p, &c, r, size), PLP_OK);
                assert_int_equal(p.channels.first, next);
                assert_true(p.channels.count >= 1);
                next += p.channels.count;
                least = p.channels.count < least ? p.channels.count : least, most = p.channels.count > most ? p.channels.count : most;
                for (size_t i = 0; i < sizeof by_channel / sizeof *by_channel; i++) {
                    const tp_slice own = model_plan_band(&p, &c, by_channel[i]);
                    assert_true(own.first == p.channels.first && own.count == p.channels.count);
                }
                assert_int_equal(model_plan_band(&p, &c, MODEL_IN_B).count, 0);
                assert_int_equal(model_plan_band(&p, &c, MODEL_GATE_NORM).count, 0);
                assert_int_equal(model_plan_band(&p, &c, MODEL_DT_NORM).count, 5); /* whole: the sum over the ranks comes before */
                assert_int_equal(model_plan_band(&p, &c, MODEL_B_NORM).count, 16);
                assert_int_equal(model_plan_band(&p, &c, MODEL_C_NORM).count, 16);
                assert_int_equal(p.in_rows, 2 * p.channels.count);
                assert_int_equal(p.conv_channels, p.channels.count);
                assert_int_equal(p.norm, MODEL_NORM_NONE);
            }
            assert_int_equal(next, c.inner);
            assert_true(most - least <= 1 || 8 * (most - least) <= least);
        }
        assert_int_equal(model_plan_make(&p, &c, 0, (int)c.inner + 1), PLP_ERR_USAGE);
    }
}

/* falcon-mamba-7b on three ranks, by hand: 128 units of 64 channels are 43, 43 and 42. */
static void a_published_mamba1_by_hand(void **state)
{
    (void)state;
    const model_config c = { .kind = MODEL_MAMBA1,
                             .hidden = 4096,
                             .layers = 64,
                             .heads = 8192,
                             .head_dim = 1,
                             .inner = 8192,
                             .groups = 1,
                             .state = 16,
                             .conv = 4,
                             .dt_rank = 256,
                             .vocab = 65024,
                             .vocab_used = 65024,
                             .mixer_norm_eps = 1e-6,
                             .conv_bias = true };
    model_plan one, third;
    assert_int_equal(model_plan_make(&one, &c, 0, 1), PLP_OK);
    assert_int_equal(model_plan_make(&third, &c, 2, 3), PLP_OK);
    assert_int_equal(third.channels.first, 86 * 64);
    assert_int_equal(third.channels.count, 42 * 64);
    assert_int_equal(model_plan_ssm_state(&one, &c, PLP_F32), 64ll * 8192 * 16 * 4);
    assert_int_equal(model_plan_conv_state(&third, &c, PLP_BF16), 64ll * 3 * 42 * 64 * 2);
    assert_int_equal(model_plan_weights(&one, &c, PLP_F32) / 4, 7272665088ull); /* the published count */
    model_collective list[MODEL_COLLECTIVES];
    assert_int_equal(model_plan_collectives(&third, &c, 5, list), 2);
    assert_int_equal(list[0].elements, 5 * (256 + 2 * 16));
    assert_int_equal(list[1].elements, 5 * 4096);
    model_config weighted = c;
    weighted.mixer_norm_weights = true; /* float32, on each rank */
    assert_int_equal(model_plan_weights(&third, &weighted, PLP_BF16) - model_plan_weights(&third, &c, PLP_BF16), 64 * (256 + 2 * 16) * 4);
}

/* Slices of a vocabulary tile it, by eights; with few rows for each rank by ones, so that none is empty sooner than it must be. */
static void vocabularies_are_cut_by_eights(void **state)
{
    (void)state;
    static const int64_t vocabs[] = { 50281, 65024, 512, 511, 61, 3 };
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++)
        for (int size = 1; size <= 9; size++) {
            int64_t end = 0;
            for (int r = 0; r < size; r++) {
                const tp_slice own = model_plan_vocab(vocabs[v], r, size);
                assert_int_equal(own.first, end);
                if (vocabs[v] >= 64 * size) assert_int_equal(own.first % 8, 0);
                assert_true(own.count >= (vocabs[v] >= size));
                end = own.first + own.count;
            }
            assert_int_equal(end, vocabs[v]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_tile_and_differ_by_one), cmocka_unit_test(heads_find_their_groups),
        cmocka_unit_test(bands_cover_the_model),         cmocka_unit_test(norm_mode_follows_the_groups),
        cmocka_unit_test(a_published_shape_by_hand),     cmocka_unit_test(mamba1_is_cut_by_channel),
        cmocka_unit_test(a_published_mamba1_by_hand),    cmocka_unit_test(vocabularies_are_cut_by_eights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
