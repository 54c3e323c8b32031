#include "engine/score.h"

#include "base/error.h"

#include <stdlib.h>

static plp_status score_slice(model *m, const int *ids, int64_t past, int rows, int *out_row, float *logits, engine_score_row row,
                              void *arg)
{
    const int start[2] = { 0, rows }, slot = 0;
    for (int i = 0; i < rows; i++) out_row[i] = i;
    const model_step step = { .tokens = rows,
                              .seqs = 1,
                              .ids = ids + past,
                              .start = start,
                              .src_slot = &slot,
                              .dst_slot = &slot,
                              .past = &past,
                              .outs = rows,
                              .out_row = out_row };
    PLP_TRY(model_forward(m, &step));
    for (int i = 0; i < rows; i++) {
        PLP_TRY(model_gather_logits(m, i, logits));
        PLP_TRY(row(arg, past + i, logits));
    }
    return PLP_OK;
}

plp_status engine_score(model *m, const int *ids, int64_t count, engine_score_row row, void *arg)
{
    plp_status st = PLP_OK;
    const model_options *o = model_options_of(m);
    const int64_t chunk = model_config_of(m)->chunk, most = o->max_outs < o->max_tokens ? o->max_outs : o->max_tokens;
    float *logits = NULL;
    int *out_row = NULL;
    PLP_DO(PLP_ALLOCATED(logits = malloc((size_t)model_config_of(m)->vocab * sizeof *logits)));
    PLP_DO(PLP_ALLOCATED(out_row = malloc((size_t)most * sizeof *out_row)));
    for (int64_t past = 0; past < count;) {
        int64_t end = past + most < count ? past + most : count;
        if (end < count && end / chunk * chunk > past) end = end / chunk * chunk;
        PLP_DO(score_slice(m, ids, past, (int)(end - past), out_row, logits, row, arg));
        past = end;
    }
done:
    free(logits);
    free(out_row);
    return st;
}
