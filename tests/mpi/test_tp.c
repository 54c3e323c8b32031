/* Ranks leave together, and sums are the same bits everywhere. */
#include "place.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
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

/* Element i of rank r: small integers sum exactly in any order, thirds do not. */
static float element(int64_t i, int r, bool exact)
{
    return exact ? (float)((i * 7 + r * 13) % 101) : (float)(i % 977 + 1) / (float)(3 + r);
}

static bool in_order; /* as tp_attach was told */

/* NCCL's rings begin at a rank of their own for each piece, and round what they pass on: with three or more ranks the order shows. */
static bool ordered(const tp_group *g, const kn_backend *kn, size_t bytes)
{
    if (tp_size(g) < 3 || kn != kn_cuda() || strncmp(tp_comm_name(g), "mpi", 3) == 0) return true;
    return tp_exchange(g, in_order ? 1 : bytes) != NULL;
}
/* The largest relative error of a number rounded to the type. */
static float unit(plp_dtype dtype) { return dtype == PLP_F32 ? 0x1p-24f : dtype == PLP_F16 ? 0x1p-11f : 0x1p-8f; }

/* tp_all_reduce of host data, by way of the backend's memory. */
static plp_status sum(tp_group *g, const kn_backend *kn, kn_context *c, void *data, int64_t count, plp_dtype dtype)
{
    plp_status st;
    void *there = NULL;
    const size_t bytes = (size_t)count * plp_dtype_size(dtype);
    PLP_DO(kn->alloc(c, &there, bytes + 4)); /* NCCL reads whole words */
    PLP_DO(kn->to_device(c, there, data, bytes));
    PLP_DO(tp_all_reduce(g, there, count, dtype));
    PLP_DO(kn->to_host(c, data, there, bytes));
    PLP_DO(kn->sync(c));
done:
    kn->release(c, &there);
    return st;
}

static void sums(tp_group *g, const kn_backend *kn, kn_context *c, int64_t count, plp_dtype dtype)
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
        CHECK(sum(g, kn, c, data, count, dtype) == PLP_OK);
        int64_t wrong = 0;
        for (int64_t i = 0; i < count; i++) {
            const char *got = (char *)data + (size_t)i * plp_dtype_size(dtype);
            char want[4];
            plp_convert(want, dtype, expected + i, PLP_F32, 1);
            if (ordered(g, kn, bytes) || (exact && dtype != PLP_BF16)) /* 8 bits do not hold the sums on the way */
                wrong += memcmp(want, got, plp_dtype_size(dtype)) != 0;
            else {
                float value;
                plp_convert(&value, PLP_F32, got, dtype, 1);
                wrong += !(fabsf(value - expected[i]) <= (float)tp_size(g) * unit(dtype) * expected[i]);
            }
        }
        CHECK(wrong == 0);
        memcpy(first, data, bytes);
        CHECK(mpi_test_same(first, bytes));
    }
    free(expected);
    free(data);
    free(first);
}

/* A scatter and a gather are a sum. */
static void scattered(tp_group *g, const kn_backend *kn, kn_context *c)
{
    enum { EACH = 33333 };
    const int64_t count = (int64_t)EACH * tp_size(g);
    const size_t bytes = (size_t)count * sizeof(float);
    float *data = malloc(bytes);
    void *there = NULL;
    int wrong = 0;
    if (!tp_scatters(g)) goto done;
    for (int64_t i = 0; i < count; i++) data[i] = element(i, tp_rank(g), true);
    CHECK(kn->alloc(c, &there, bytes) == PLP_OK);
    CHECK(kn->to_device(c, there, data, bytes) == PLP_OK);
    CHECK(tp_scatter(g, there, EACH, PLP_F32) == PLP_OK);
    CHECK(tp_gather_all_device(g, (float *)there + (int64_t)EACH * tp_rank(g), EACH * sizeof(float), there, NULL) == PLP_OK);
    CHECK(kn->to_host(c, data, there, bytes) == PLP_OK && kn->sync(c) == PLP_OK);
    for (int64_t i = 0; i < count; i++) {
        float sum = 0;
        for (int r = 0; r < tp_size(g); r++) sum += element(i, r, true);
        wrong += !(data[i] == sum);
    }
    CHECK(wrong == 0);
    kn->release(c, &there);
done:
    free(data);
}

/* add_norm that sums its delta on the way, against the sum by hand and the plain one. */
static void norms(tp_group *g, const kn_backend *kn, kn_context *c, int tokens, int hidden, plp_dtype dtype, bool fold)
{
    const kn_exchange *x = tp_exchange(g, (size_t)tokens * (size_t)hidden * sizeof(float));
    if (x == NULL) return;                                                                     /* one rank, or --comm nccl */
    const int64_t n = (int64_t)tokens * hidden, parts = (2 * n + tokens + hidden + 3) / 4 * 4; /* delta behind them is aligned */
    const size_t size = plp_dtype_size(dtype), bytes = (size_t)parts * sizeof(float);
    float *host = calloc((size_t)parts, sizeof *host), *want = calloc((size_t)parts, sizeof *want),
          *summed = calloc((size_t)n, sizeof *summed);
    void *there = NULL;
    /* residual | out | delta (room of float32) | squares | weight */
    CHECK(kn->alloc(c, &there, bytes + (size_t)n * sizeof(float)) == PLP_OK);
    float *residual = there, *out = residual + n, *squares = out + n, *weight = squares + tokens;
    char *delta = (char *)there + bytes;
    float *h_residual = host, *h_squares = host + 2 * n, *h_weight = h_squares + tokens;
    char *h_delta = malloc((size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        h_residual[i] = (float)(i % 13) - 6;
        for (int r = 0; r < tp_size(g); r++) {
            float term = element(i, r, false);
            char narrow[4];
            plp_convert(narrow, dtype, &term, PLP_F32, 1), plp_convert(&term, PLP_F32, narrow, dtype, 1);
            summed[i] = r == 0 ? term : summed[i] + term;
            if (r == tp_rank(g)) memcpy(h_delta + (size_t)i * size, narrow, size);
        }
    }
    for (int t = 0; t < tokens; t++) h_squares[t] = (float)(t + 1 + tp_rank(g));
    for (int i = 0; i < hidden; i++) h_weight[i] = 1 + (float)(i % 5);
    for (int t = 0; t < tokens; t++) {
        double all = 0, square = 0;
        for (int r = 0; r < tp_size(g); r++) all += t + 1 + r;
        const double scale = fold ? 1 / sqrt(all / 7 + 1e-3) : 1;
        for (int i = 0; i < hidden; i++) {
            const double v = h_residual[(int64_t)t * hidden + i] + scale * summed[(int64_t)t * hidden + i];
            want[(int64_t)t * hidden + i] = (float)v, square += v * v;
        }
        for (int i = 0; i < hidden; i++)
            want[n + (int64_t)t * hidden + i] = (float)(want[(int64_t)t * hidden + i] / sqrt(square / hidden + 1e-5) * h_weight[i]);
    }
    CHECK(kn->to_device(c, there, host, bytes) == PLP_OK && kn->to_device(c, delta, h_delta, (size_t)n * size) == PLP_OK);
    const kn_add_norm_args a = { .tokens = tokens,
                                 .hidden = hidden,
                                 .outs = tokens,
                                 .residual = residual,
                                 .delta = delta,
                                 .delta_dtype = dtype,
                                 .ld_delta = hidden,
                                 .sumsq = fold ? squares : NULL,
                                 .ld_sumsq = 1,
                                 .sumsq_width = 7,
                                 .sumsq_eps = 1e-3,
                                 .exchange = x,
                                 .weight = weight,
                                 .eps = 1e-5,
                                 .out = out };
    CHECK(kn->exchanges(&a));
    CHECK(kn->add_norm(c, &a) == PLP_OK);
    CHECK(kn->to_host(c, host, there, bytes) == PLP_OK && kn->sync(c) == PLP_OK);
    int64_t wrong = 0;
    for (int64_t i = 0; i < 2 * n; i++) wrong += !(fabsf(host[i] - want[i]) <= 1e-5f * fabsf(want[i]) + 1e-5f);
    if (!CHECK(wrong == 0)) printf("add_norm of %d x %d over %d ranks: %lld values differ\n", tokens, hidden, tp_size(g), (long long)wrong);
    CHECK(mpi_test_same(host, 2 * (size_t)n * sizeof(float)));
    kn->release(c, &there);
    free(host);
    free(want);
    free(summed);
    free(h_delta);
}

/* Collective.  Every rank has everyone's, in order. */
static void gathers(tp_group *g, const kn_backend *kn, kn_context *c)
{
    enum { MOST = 100 };
    const size_t size = (size_t)tp_size(g);
    unsigned char mine[MOST], *all = calloc(size, MOST), *stage = malloc((size + 1) * MOST);
    void *there = NULL;
    memset(mine, 17 + tp_rank(g), sizeof mine);
    CHECK(kn->alloc(c, &there, (size + 1) * MOST) == PLP_OK);
    for (size_t bytes = 0; all != NULL && stage != NULL && bytes <= MOST; bytes += MOST / 2) {
        CHECK(kn->to_device(c, there, mine, bytes) == PLP_OK);
        CHECK(tp_gather_all_device(g, there, bytes, (char *)there + MOST, stage) == PLP_OK);
        CHECK(kn->to_host(c, all, (char *)there + MOST, size * bytes) == PLP_OK && kn->sync(c) == PLP_OK);
        int wrong = 0;
        for (size_t i = 0; i < size * bytes; i++) wrong += all[i] != 17 + i / bytes;
        CHECK(wrong == 0);
    }
    kn->release(c, &there);
    free(all);
    free(stage);
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    place on;
    int skipped;
    if (!place_chosen(argc, argv, g, &on, &skipped)) return skipped;
    agreement(g);
    kn_context *c = NULL;
    const kn_backend *kn = on.backend;
    CHECK(kn->create(&c, &(kn_options){ .device = on.device, .threads = 1, .act = PLP_F32, .max_tokens = 1, .max_k = 64, .max_n = 64 }) ==
          PLP_OK);
    /* Around the change of algorithm, and past the staging memory; on GPUs the last ones go through NCCL, or in pieces. */
    const int64_t counts[] = { 0, 1, 7, 8192, 8193, 40000, 300001, kn == kn_cuda() ? 3000001 : 2 };
    for (int again = 0; again < 2; again++) { /* a second attachment takes the place of the first */
        in_order = again == 0;
        CHECK(tp_attach(g, kn, c, on.comm, 40000 * sizeof(float), in_order) == PLP_OK);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            sums(g, kn, c, counts[i], PLP_F32);
            sums(g, kn, c, counts[i], PLP_BF16);
            sums(g, kn, c, counts[i], PLP_F16);
        }
    }
    if (kn == kn_cuda()) {
        scattered(g, kn, c);
        norms(g, kn, c, 1, 2560, PLP_F32, true);
        norms(g, kn, c, 64, 4096, PLP_F32, false);
        norms(g, kn, c, 17, 1022, PLP_F32, true);
        norms(g, kn, c, 100, 2560, PLP_BF16, true);
    }
    gathers(g, kn, c);
    kn->destroy(&c);
    return mpi_test_end(g);
}
