/* Ranks leave together, and sums are the same bits everywhere. */
#include "mpi_test.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

/* One failing rank is enough: it keeps its own code, the others learn of it. */
static void agreement(const tp_group *g)
{
    for (int bad = 0; bad < tp_size(g); bad++) {
        const bool me = tp_rank(g) == bad;
        CHECK(tp_agree(g, me ? PLP_FAIL(PLP_ERR_IO, "rank %d, on purpose", bad) : PLP_OK) == (me ? PLP_ERR_IO : PLP_ERR_REMOTE));
    }
    CHECK(tp_agree(g, PLP_OK) == PLP_OK);
}

static void sameness(const tp_group *g)
{
    int value = 5;
    CHECK(tp_same(g, "number", &value, sizeof value) == PLP_OK);
    if (tp_rank(g) == tp_size(g) - 1) value = 6;
    CHECK(tp_same(g, "number", &value, sizeof value) == (tp_size(g) > 1 ? PLP_ERR_DISAGREE : PLP_OK));
    const char *text = tp_rank(g) == tp_size(g) - 1 ? "longer text" : "text";
    CHECK(tp_same(g, "text", text, strlen(text)) == (tp_size(g) > 1 ? PLP_ERR_DISAGREE : PLP_OK));
}

/* Element i of rank r: small integers sum exactly in any order, thirds do not. */
static float element(int64_t i, int r, bool exact)
{
    return exact ? (float)((i * 7 + r * 13) % 101) : (float)(i % 977 + 1) / (float)(3 + r);
}

static void sums(tp_group *g, int64_t count, plp_dtype dtype)
{
    float *expected = calloc((size_t)count + 1, sizeof *expected);
    void *data = malloc((size_t)(count + 1) * 4), *first = malloc((size_t)(count + 1) * 4);
    const size_t bytes = (size_t)count * plp_dtype_size(dtype);
    for (int exact = 0; exact < 2; exact++) {
        for (int64_t i = 0; i < count; i++) {
            const float mine = element(i, tp_rank(g), exact);
            plp_convert((char *)data + (size_t)i * plp_dtype_size(dtype), dtype, &mine, PLP_F32, 1);
            float sum = 0; /* in rank order, as promised; each term rounded to the type it travels in */
            for (int r = 0; r < tp_size(g); r++) {
                float term = element(i, r, exact);
                uint16_t narrow;
                if (dtype != PLP_F32) plp_convert(&narrow, dtype, &term, PLP_F32, 1), plp_convert(&term, PLP_F32, &narrow, dtype, 1);
                sum = r == 0 ? term : sum + term;
            }
            expected[i] = sum;
        }
        CHECK(tp_all_reduce(g, data, count, dtype) == PLP_OK);
        int64_t wrong = 0;
        for (int64_t i = 0; i < count; i++) {
            char want[4];
            plp_convert(want, dtype, expected + i, PLP_F32, 1);
            wrong += memcmp(want, (char *)data + (size_t)i * plp_dtype_size(dtype), plp_dtype_size(dtype)) != 0;
        }
        CHECK(wrong == 0);
        memcpy(first, data, bytes);
        CHECK(tp_same(g, "sum", first, bytes) == PLP_OK);
    }
    free(expected);
    free(data);
    free(first);
}

/* Collective.  Every rank has everyone's, in order. */
static void gathers(tp_group *g)
{
    enum { MOST = 100 };
    const size_t size = (size_t)tp_size(g);
    unsigned char mine[MOST], *all = calloc(size, MOST), *stage = malloc((size + 1) * MOST);
    memset(mine, 17 + tp_rank(g), sizeof mine);
    if (CHECK(all != NULL && stage != NULL))
        for (size_t bytes = 0; bytes <= MOST; bytes += MOST / 2) {
            CHECK(tp_gather_all_device(g, mine, bytes, all, stage) == PLP_OK);
            int wrong = 0;
            for (size_t i = 0; i < size * bytes; i++) wrong += all[i] != 17 + i / bytes;
            CHECK(wrong == 0);
        }
    free(all);
    free(stage);
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    agreement(g);
    sameness(g);
    kn_context *c = NULL;
    CHECK(kn_cpu()->create(&c, &(kn_options){ .threads = 1, .max_tokens = 1, .max_k = 1, .max_n = 1 }) == PLP_OK);
    CHECK(tp_attach(g, kn_cpu(), c, TP_COMM_AUTO, 40000 * sizeof(float)) == PLP_OK);
    const int64_t counts[] = { 0, 1, 7, 8192, 8193, 40000, 300001 }; /* around the change of algorithm, and past the staging memory */
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        sums(g, counts[i], PLP_F32);
        sums(g, counts[i], PLP_BF16);
        sums(g, counts[i], PLP_F16);
    }
    gathers(g);
    kn_cpu()->destroy(&c);
    return mpi_test_end(g);
}
