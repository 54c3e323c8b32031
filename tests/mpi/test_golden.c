/* The fixtures and the demo against logits and greedy tokens that another implementation recorded (golden.h), at any np:
 * whole, in slices, and token by token. */
#include "golden.h"
#include "place.h"

#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Checks a model against one recording. */
typedef struct {
    model *m;
    const golden *g;
    const char *name;
    double tolerance; /* of the largest magnitude */
    bool speaks;
} examination;

/* Logits (batch, tokens, vocab) of all sequences side by side, in slices. */
static void prefill(const examination *e, int slice, float *logits)
{
    const golden *g = e->g;
    int *ids = calloc((size_t)(g->batch * slice), sizeof *ids), *rows = calloc((size_t)(g->batch * slice), sizeof *rows);
    for (int done = 0; done < g->tokens; done += slice) {
        const int n = g->tokens - done < slice ? g->tokens - done : slice;
        int start[8] = { 0 }, slot[8];
        int64_t past[8];
        for (int b = 0; b < g->batch; b++) {
            memcpy(ids + b * n, g->ids + b * g->tokens + done, (size_t)n * sizeof *ids);
            start[b + 1] = (b + 1) * n, slot[b] = b, past[b] = done;
        }
        for (int i = 0; i < g->batch * n; i++) rows[i] = i;
        CHECK(model_forward(e->m, &(model_step){ .tokens = g->batch * n,
                                                 .seqs = g->batch,
                                                 .ids = ids,
                                                 .start = start,
                                                 .src_slot = slot,
                                                 .dst_slot = slot,
                                                 .past = past,
                                                 .outs = g->batch * n,
                                                 .out_row = rows }) == PLP_OK);
        for (int b = 0; b < g->batch; b++)
            for (int i = 0; i < n; i++) {
                float *row = logits + ((int64_t)b * g->tokens + done + i) * g->vocab;
                CHECK(model_gather_logits(e->m, b * n + i, row) == PLP_OK);
            }
    }
    free(ids);
    free(rows);
}

/* Largest difference over largest magnitude; infinite when something is not finite. */
static double difference(const float *a, const float *b, int64_t n)
{
    double most = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        most = fmax(most, fabs((double)a[i] - b[i])), scale = fmax(scale, fabs((double)b[i]));
    }
    return scale > 0 ? most / scale : INFINITY;
}

/* Relative L2, the measure of the 16-bit rows. */
static double distance(const float *a, const float *b, int64_t n)
{
    double square = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) square += ((double)a[i] - b[i]) * ((double)a[i] - b[i]), norm += (double)b[i] * b[i];
    return sqrt(square / norm);
}

/* Continues every sequence greedily, all in one batch of decode rows.  A token may differ from the recorded one only where the two are
 * closer than `slack` of the largest logit: 0 in float32, the logits' own tolerance in 16 bits.  *others: all that differ. */
static int greedy_mismatches(const examination *e, const float *logits, double slack, int *others)
{
    const golden *g = e->g;
    float *row = malloc((size_t)g->vocab * sizeof *row);
    int ids[8], start[9] = { 0 }, slot[8], rows[8], wrong = 0;
    int64_t past[8];
    for (int step = 0; step < g->steps; step++) {
        for (int b = 0; b < g->batch; b++) {
            if (step == 0)
                memcpy(row, logits + ((int64_t)b * g->tokens + g->tokens - 1) * g->vocab, (size_t)g->vocab * sizeof *row);
            else
                CHECK(model_gather_logits(e->m, b, row) == PLP_OK);
            ids[b] = 0;
            for (int v = 1; v < g->vocab; v++)
                if (row[v] > row[ids[b]]) ids[b] = v;
            const int want = g->greedy[b * g->steps + step];
            *others += ids[b] != want;
            wrong += ids[b] != want && !(row[ids[b]] - row[want] <= slack * fabs((double)row[ids[b]]));
            ids[b] = want; /* stay on the recorded path, so that one slip is one mismatch */
            start[b + 1] = b + 1, slot[b] = b, rows[b] = b, past[b] = g->tokens + step;
        }
        CHECK(model_forward(e->m, &(model_step){ .tokens = g->batch,
                                                 .seqs = g->batch,
                                                 .decodes = g->batch,
                                                 .ids = ids,
                                                 .start = start,
                                                 .src_slot = slot,
                                                 .dst_slot = slot,
                                                 .past = past,
                                                 .outs = g->batch,
                                                 .out_row = rows }) == PLP_OK);
    }
    free(row);
    return wrong;
}

static void examine(const examination *e, bool f32)
{
    const golden *g = e->g;
    const int64_t n = (int64_t)g->batch * g->tokens * g->vocab;
    float *whole = malloc((size_t)n * sizeof *whole), *sliced = malloc((size_t)n * sizeof *sliced);
    prefill(e, g->tokens, whole);
    const double d = f32 ? difference(whole, g->logits, n) : distance(whole, g->logits, n);
    if (!CHECK(d < e->tolerance)) printf("%s: logits differ by %g\n", e->name, d);
    int others = 0;
    const int wrong = greedy_mismatches(e, whole, f32 ? 0 : e->tolerance, &others);
    if (e->speaks)
        printf("%s: %s %.2g, %d of %d greedy tokens\n", e->name + strlen(PLP_TEST_DATA "/"),
               f32 ? "f32, largest difference" : "bf16, relative L2", d, g->batch * g->steps - others, g->batch * g->steps);
    if (!CHECK(wrong == 0)) printf("%s: %d greedy tokens of %d differ\n", e->name, wrong, g->batch * g->steps);
    const int slices[] = { 64, 7, 1 };
    for (int i = 0; f32 && i < (g->tokens < 200 ? 3 : 1); i++) {
        prefill(e, slices[i], sliced);
        const double s = difference(sliced, whole, n);
        if (!CHECK(s < 1e-5)) printf("%s: slices of %d differ by %g\n", e->name, slices[i], s);
    }
    free(whole);
    free(sliced);
}

static void examine_model(tp_group *group, const char *dir, const char *const *recordings, int count, const place *on, bool f32)
{
    model_source *s = NULL;
    model *m = NULL;
    const model_options o = { .backend = on->backend,
                              .device = on->device,
                              .threads = 1,
                              .f32 = f32,
                              .max_tokens = 300,
                              .max_seqs = 8,
                              .max_outs = 300,
                              .slots = 8,
                              .comm = on->comm };
    CHECK(model_source_open(&s, dir, NULL) == PLP_OK);
    if (s && tp_size(group) <= model_source_config(s)->heads && CHECK(model_create(&m, s, group, &o) == PLP_OK)) {
        for (int i = 0; i < o.slots; i++) CHECK(model_slot_poison(m, i) == PLP_OK);
        for (int i = 0; i < count; i++) {
            golden g;
            /* float32: the tolerance of the issue for a model in 24-bit arithmetic; 16 bit: relative L2 */
            const examination e = { m, &g, recordings[i], f32 ? 2e-4 : 2e-2, tp_rank(group) == 0 };
            if (CHECK(golden_read(&g, recordings[i]))) examine(&e, f32);
            golden_free(&g);
        }
    }
    model_destroy(&m);
    model_source_close(&s);
}

int main(int argc, char **argv)
{
    static const char *const fixtures[] = { "mamba2-g1", "mamba2-g8",    "mamba2-g2-h6", "mamba2-dtlimit",
                                            "mamba1",    "falcon-mamba", "mamba1-norms" };
    static const char *const demo[] = { PLP_TEST_DATA "/demo/golden-0.safetensors", PLP_TEST_DATA "/demo/golden-1.safetensors",
                                        PLP_TEST_DATA "/demo/golden-2.safetensors", PLP_TEST_DATA "/demo/golden-3.safetensors",
                                        PLP_TEST_DATA "/demo/golden-long.safetensors" };
    tp_group *g = mpi_test_begin(&argc, &argv);
    place on;
    int skipped;
    if (!place_chosen(argc, argv, g, &on, &skipped)) return skipped;
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        char dir[512], recording[600];
        const char *const list[] = { recording };
        snprintf(dir, sizeof dir, PLP_TEST_DATA "/fixtures/%s", fixtures[i]);
        snprintf(recording, sizeof recording, "%s/golden.safetensors", dir);
        examine_model(g, dir, list, 1, &on, true);
    }
    examine_model(g, PLP_DEMO, demo, 5, &on, true);
    examine_model(g, PLP_DEMO, demo, 5, &on, false);
    return mpi_test_end(g);
}
