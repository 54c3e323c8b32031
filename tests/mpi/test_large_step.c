/* A step so large that the ranks share out the rows of its norms gives what one rank gives.  On GPUs of their own; elsewhere they do not.
 * The one rank is watched, and what is watched runs in pieces: a rank alone gives the same bits, unwatched. */
#include "place.h"

#include "model/model.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { VOCAB = 61 };

static place on;

static plp_status watch(void *arg, int64_t layer, const char *tensor, const void *data, plp_dtype dtype, int64_t rows, int64_t columns,
                        int64_t ld)
{
    (void)arg, (void)layer, (void)tensor, (void)data, (void)dtype, (void)rows, (void)columns, (void)ld;
    return PLP_OK;
}

/* Three new sequences, then the same three going on, into other slots: rows of each, from all ranks and from one.  The second time nobody asks for
 * other rows: the last layer does without them. */
static void large_step(tp_group *g, tp_group *self, const model_config *c, const int *lengths, bool f32)
{
    enum { SEQS = 3, MOST = 16384, OUTS = 2 * SEQS };
    const int start[SEQS + 1] = { 0, lengths[0], lengths[0] + lengths[1], lengths[0] + lengths[1] + lengths[2] };
    const int slot[SEQS] = { 2, 0, 1 }, again[SEQS] = { 4, 5, 3 }, tokens = start[SEQS];
    int *ids = malloc(MOST * sizeof *ids), row[OUTS];
    float *logits[2];
    for (int i = 0; i < tokens; i++) ids[i] = (int)((unsigned)i * 2654435761u >> 8) % VOCAB;
    for (int i = 0; i < SEQS; i++) row[2 * i] = start[i + 1] - lengths[i] / 3 - 1, row[2 * i + 1] = start[i + 1] - 1;
    for (int side = 0; side < 2; side++) {
        model *m = NULL;
        const model_options o = { .backend = on.backend,
                                  .device = on.device,
                                  .threads = 1,
                                  .f32 = f32,
                                  .deterministic = tp_size(g) == 1,
                                  .comm = on.comm,
                                  .max_tokens = tokens, /* room for no more */
                                  .max_seqs = SEQS,
                                  .max_outs = OUTS,
                                  .slots = 2 * SEQS };
        logits[side] = calloc((size_t)2 * OUTS * (size_t)c->vocab, sizeof **logits);
        CHECK(model_create_random(&m, c, 42, side ? g : self, &o) == PLP_OK);
        if (m && side == 0) model_set_probe(m, (layer_probe){ .see = watch });
        for (int s = 0; m && s < o.slots; s++) CHECK(model_slot_poison(m, s) == PLP_OK);
        for (int later = 0; later < 2; later++) {
            const int64_t past[SEQS] = { later ? lengths[0] : 0, later ? lengths[1] : 0, later ? lengths[2] : 0 };
            CHECK(model_forward(m, &(model_step){ .tokens = tokens,
                                                  .seqs = SEQS,
                                                  .ids = ids,
                                                  .start = start,
                                                  .src_slot = slot,
                                                  .dst_slot = later ? again : slot,
                                                  .past = past,
                                                  .outs = OUTS,
                                                  .no_others = later,
                                                  .out_row = row }) == PLP_OK);
            for (int i = 0; i < OUTS; i++) CHECK(model_gather_logits(m, i, logits[side] + (later * OUTS + i) * c->vocab) == PLP_OK);
        }
        model_destroy(&m);
    }
    double most = 0, scale = 0;
    for (int i = 0; i < 2 * OUTS; i++)
        for (int v = 0; v < VOCAB; v++) {
            const double x = logits[1][i * c->vocab + v], y = logits[0][i * c->vocab + v];
            most = isfinite(x) && isfinite(y) ? fmax(most, fabs(x - y)) : INFINITY, scale = fmax(scale, fabs(y));
        }
    if (!CHECK(most <= (tp_size(g) == 1 ? 0 : f32 ? 3e-5 : 3e-2) * scale))
        printf("large step of %d + %d + %d rows: %g\n", lengths[0], lengths[1], lengths[2], most / scale);
    free(ids);
    for (int side = 0; side < 2; side++) free(logits[side]);
}

typedef struct {
    model *m;
    const model_step *s;
    plp_status st;
} forward_call;

static void *forward_elsewhere(void *arg)
{
    forward_call *call = arg;
    call->st = model_forward(call->m, call->s);
    return NULL;
}

/* In a thread of its own, which has not chosen a GPU. */
static plp_status forward_in_thread(model *m, const model_step *s)
{
    pthread_t thread;
    forward_call call = { .m = m, .s = s, .st = PLP_ERR_INTERNAL };
    if (pthread_create(&thread, NULL, forward_elsewhere, &call) == 0) pthread_join(thread, NULL);
    return call.st;
}

/* In a deterministic model rows are the same bits in a small step and in a large one, whose sums go another way; and in any thread. */
static void rows_alone(tp_group *g, const model_config *c)
{
    enum { SEQS = 3, ROWS = 100, TOKENS = 6144, OUTS = 2 };
    const int start[SEQS + 1] = { 0, ROWS, ROWS + 1024, TOKENS }, slot[SEQS] = { 2, 0, 1 }, row[OUTS] = { ROWS / 3, ROWS - 1 };
    const int64_t past[SEQS] = { 0 };
    int *ids = malloc(TOKENS * sizeof *ids);
    float *logits = calloc((size_t)2 * OUTS * (size_t)c->vocab, sizeof *logits);
    const model_options o = { .backend = on.backend,
                              .device = on.device,
                              .threads = 1,
                              .deterministic = true,
                              .comm = on.comm,
                              .max_tokens = TOKENS,
                              .max_seqs = SEQS,
                              .max_outs = OUTS,
                              .slots = SEQS };
    model *m = NULL;
    for (int i = 0; i < TOKENS; i++) ids[i] = (int)((unsigned)i * 2654435761u >> 8) % VOCAB;
    CHECK(model_create_random(&m, c, 42, g, &o) == PLP_OK);
    for (int alone = 0; m && alone < 2; alone++) {
        const int seqs = alone ? 1 : SEQS;
        const model_step step = { .tokens = start[seqs],
                                  .seqs = seqs,
                                  .ids = ids,
                                  .start = start,
                                  .src_slot = slot,
                                  .dst_slot = slot,
                                  .past = past,
                                  .outs = OUTS,
                                  .no_others = alone,
                                  .out_row = row };
        CHECK((alone ? forward_in_thread : model_forward)(m, &step) == PLP_OK);
        for (int i = 0; i < OUTS; i++) CHECK(model_gather_logits(m, i, logits + (alone * OUTS + i) * c->vocab) == PLP_OK);
    }
    int wrong = 0;
    for (int i = 0; i < OUTS; i++)
        for (int v = 0; v < VOCAB; v++) wrong += !(logits[i * c->vocab + v] == logits[(OUTS + i) * c->vocab + v]);
    if (!CHECK(wrong == 0)) printf("rows of %s alone: %d logits differ\n", c->family, wrong);
    model_destroy(&m);
    free(logits);
    free(ids);
}

/* A folded norm, norms whole on each rank, and Mamba-1. */
static const model_config shapes[] = {
#define MAMBA2(G)                                                                                                                          \
    {                                                                                                                                      \
        .family = "mamba2", .kind = MODEL_MAMBA2, .hidden = 256, .layers = 3, .heads = 9, .head_dim = 64, .inner = 576, .groups = G,       \
        .state = 64, .conv = 4, .chunk = 64, .vocab = VOCAB + 3, .vocab_used = VOCAB, .norm_eps = 1e-5, .dt_max = INFINITY,                \
        .norm_groups = G, .tied = true, .proj_bias = true, .conv_bias = true, .dtype = PLP_BF16                                            \
    }
    MAMBA2(1),
    MAMBA2(9),
    { .family = "mamba",
      .kind = MODEL_MAMBA1,
      .hidden = 256,
      .layers = 3,
      .heads = 512,
      .head_dim = 1,
      .inner = 512,
      .groups = 1,
      .state = 16,
      .conv = 4,
      .dt_rank = 16,
      .chunk = 64,
      .vocab = VOCAB + 3,
      .vocab_used = VOCAB,
      .norm_eps = 1e-5,
      .dt_max = INFINITY,
      .tied = true,
      .conv_bias = true,
      .dtype = PLP_BF16 },
};

int main(int argc, char **argv)
{
    /* Numbers of rows that 2, 3, 4 and 8 ranks divide, and not. */
    static const int lengths[][3] = { { 100, 3000, 996 }, { 7, 2600, 2 }, { 1024, 1024, 4096 } };
    tp_group *g = mpi_test_begin(&argc, &argv), *self = NULL;
    int skipped;
    if (!place_chosen(argc, argv, g, &on, &skipped)) return skipped;
    CHECK(tp_group_self(&self) == PLP_OK);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int f32 = 0; f32 < 2; f32++) large_step(g, self, &shapes[s], lengths[i], f32);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) rows_alone(g, &shapes[s]);
    tp_group_destroy(&self);
    return mpi_test_end(g);
}
