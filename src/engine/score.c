#include "engine/score.h"

#include "engine/sampling.h"

#include "base/error.h"

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

static int next_rows(const model *m, int64_t past, int64_t count)
{
    const int64_t chunk = model_config_of(m)->chunk > 0 ? model_config_of(m)->chunk : 1;
    int64_t end = past + most_rows(m);
    if (end >= count) return (int)(count - past);
    if (end / chunk * chunk > past) end = end / chunk * chunk;
    return (int)(end - past);
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

/* Scores one slice by its candidates: one small collective, where whole rows would be one each.  A bonus on the next token, in the form
 * of a negative penalty, puts it first in the list of the rank that holds it. */
typedef struct {
    int *out_row, *hits;
    kn_sample_row *row;
    kn_candidates *all; /* (ranks, rows) */
} token_work;

static plp_status token_work_create(token_work *w, model *m)
{
    const size_t most = (size_t)most_rows(m), ranks = (size_t)tp_size(model_group(m));
    PLP_TRY(all_rows(m, &w->out_row));
    PLP_TRY(PLP_ALLOCATED(w->hits = malloc(most * sizeof *w->hits)));
    PLP_TRY(PLP_ALLOCATED(w->row = malloc(most * sizeof *w->row)));
    PLP_TRY(PLP_ALLOCATED(w->all = malloc(most * ranks * sizeof *w->all)));
    for (size_t i = 0; i < most; i++) {
        w->hits[i] = 1;
        w->row[i] = (kn_sample_row){ .repetition = 1, .presence = -1e9f, .penalty_first = (int)i, .penalty_count = 1 };
    }
    return PLP_OK;
}

static void token_work_free(token_work *w)
{
    free(w->out_row);
    free(w->hits);
    free(w->row);
    free(w->all);
}

static plp_status score_slice(model *m, const token_work *w, const int *next, int rows, double *nats)
{
    const int ranks = tp_size(model_group(m));
    PLP_TRY(model_candidates(m, rows, w->row, next, w->hits, rows, w->all));
    for (int i = 0; i < rows; i++) {
        double raw;
        if (!sampling_raw_of(w->all + i, rows, ranks, next[i], &raw))
            return PLP_FAIL(PLP_ERR_DATA, "logits are not finite; row %d of a step; fix: polylepis convert --check-finite", i);
        nats[i] = sampling_log_mass(w->all + i, rows, ranks) - raw;
    }
    return PLP_OK;
}

plp_status engine_score_tokens(model *m, const int *ids, int64_t count, double *nats)
{
    plp_status st = PLP_OK;
    token_work w = { 0 };
    PLP_DO(token_work_create(&w, m));
    for (int64_t past = 0, rows; past < count - 1; past += rows) {
        rows = next_rows(m, past, count - 1); /* nothing is asked about what follows the last token */
        PLP_DO(forward(m, ids, past, (int)rows, w.out_row));
        PLP_DO(score_slice(m, &w, ids + past + 1, (int)rows, nats + past));
    }
done:
    token_work_free(&w);
    return st;
}
