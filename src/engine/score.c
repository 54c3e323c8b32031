#include "engine/score.h"

#include "base/error.h"
#include "engine/schedule.h"

#include <stdlib.h>

/* One slice of the text: rows of logits after ids[past .. past + rows). */
static plp_status forward(model *m, const int *ids, int64_t past, int rows, const int *out_row)
{
    const int start[2] = { 0, rows }, slot = 0;
    const model_step step = {
        .tokens = rows,
        .seqs = 1,
        .ids = ids + past,
        .start = start,
        .src_slot = &slot,
        .dst_slot = &slot,
        .past = &past,
        .outs = rows,
        .out_row = out_row,
    };
    return model_forward(m, &step);
}

static int most_rows(const model *m)
{
    const model_options *o = model_options_of(m);
    return o->max_outs < o->max_tokens ? o->max_outs : o->max_tokens;
}

/* Of the text's next slice, as the engine would cut a prompt: the bits do not depend on how many rows a step has. */
static int next_rows(const model *m, int64_t past, int64_t count)
{
    const schedule_rules rules = schedule_rules_of(most_rows(m), model_config_of(m)->chunk, model_options_of(m)->backend->grain);
    const schedule_seq text = { .prompt = count, .past = past };
    schedule_slice slice;
    int decodes;
    schedule_step(&rules, &text, 1, &slice, &decodes);
    return slice.rows;
}

/* 0, 1, 2, ...: every row's logits are wanted.  *list is the caller's. */
static plp_status all_rows(const model *m, int **list)
{
    const int most = most_rows(m);
    PLP_TRY(PLP_ALLOCATED(*list = malloc((size_t)most * sizeof **list)));
    for (int i = 0; i < most; i++) (*list)[i] = i;
    return PLP_OK;
}

plp_status engine_score_logits(model *m, const int *ids, int64_t count, engine_score_row row, void *arg)
{
    plp_status st = PLP_OK;
    float *logits = NULL;
    int *out_row = NULL;
    PLP_DO(PLP_ALLOCATED(logits = malloc((size_t)model_config_of(m)->vocab * sizeof *logits)));
    PLP_DO(all_rows(m, &out_row));
    for (int64_t past = 0, rows; past < count; past += rows) {
        rows = next_rows(m, past, count);
        PLP_DO(forward(m, ids, past, (int)rows, out_row));
        for (int i = 0; i < rows; i++) {
            PLP_DO(model_gather_logits(m, i, logits));
            PLP_DO(row(arg, past + i, logits));
        }
    }
done:
    free(logits);
    free(out_row);
    return st;
}

/* Scores rows by their candidates: one small collective, where whole rows would be one each.  A bonus on the next token, in the form of a
 * negative penalty, puts it first in the list of the rank that holds it. */
struct engine_scorer {
    int *hits;
    kn_sample_row *row;
    kn_candidates *all; /* (ranks, rows) */
};

plp_status engine_scorer_create(engine_scorer **out, model *m)
{
    plp_status st = PLP_OK;
    engine_scorer *s = NULL;
    const size_t most = (size_t)most_rows(m), ranks = (size_t)tp_size(model_group(m));
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(s = calloc(1, sizeof *s)));
    PLP_DO(PLP_ALLOCATED(s->hits = malloc(most * sizeof *s->hits)));
    PLP_DO(PLP_ALLOCATED(s->row = malloc(most * sizeof *s->row)));
    PLP_DO(PLP_ALLOCATED(s->all = malloc(most * ranks * sizeof *s->all)));
    for (size_t i = 0; i < most; i++) {
        s->hits[i] = 1;
        s->row[i] = (kn_sample_row){ .repetition = 1, .presence = -1e9f, .penalty_first = (int)i, .penalty_count = 1 };
    }
    *out = s, s = NULL;
done:
    engine_scorer_destroy(&s);
    return st;
}

void engine_scorer_destroy(engine_scorer **s)
{
    if (*s == NULL) return;
    free((*s)->hits);
    free((*s)->row);
    free((*s)->all);
    free(*s);
    *s = NULL;
}

plp_status engine_scorer_rows(engine_scorer *s, model *m, const int *next, int rows, int tops, sampling_choice *score)
{
    const int ranks = tp_size(model_group(m));
    PLP_TRY(model_candidates(m, rows, s->row, next, s->hits, rows, s->all));
    for (int i = 0; i < rows; i++)
        if (!sampling_score(s->all + i, rows, ranks, next[i], tops, score + i))
            return PLP_FAIL(PLP_ERR_DATA, "logits are not finite; row %d of a step; fix: polylepis convert --check-finite", i);
    return PLP_OK;
}

plp_status engine_score_tokens(model *m, const int *ids, int64_t count, double *nats)
{
    plp_status st = PLP_OK;
    engine_scorer *s = NULL;
    sampling_choice *score = NULL;
    int *out_row = NULL;
    PLP_DO(PLP_ALLOCATED(score = malloc((size_t)most_rows(m) * sizeof *score)));
    PLP_DO(all_rows(m, &out_row));
    PLP_DO(engine_scorer_create(&s, m));
    for (int64_t past = 0, rows; past < count - 1; past += rows) {
        rows = next_rows(m, past, count - 1); /* nothing is asked about what follows the last token */
        PLP_DO(forward(m, ids, past, (int)rows, out_row));
        PLP_DO(engine_scorer_rows(s, m, ids + past + 1, (int)rows, 0, score));
        for (int64_t i = 0; i < rows; i++) nats[past + i] = -score[i].logprob;
    }
done:
    engine_scorer_destroy(&s);
    free(score);
    free(out_row);
    return st;
}
