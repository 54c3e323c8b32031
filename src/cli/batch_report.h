/* src/cli/batch_report.h -- what a batch job says of itself: a line as it goes, a summary at the end. */
#ifndef CLI_BATCH_REPORT_H
#define CLI_BATCH_REPORT_H

#include "base/histogram.h"
#include "polylepis/engine.h"

#include <json-c/json.h>
#include <stdbool.h>

typedef struct {
    bool silent;                        /* no line as it goes                        */
    int64_t lines;                      /* of the input; -1: not known               */
    int64_t done, failed, resumed;      /* lines; those of earlier starts included   */
    int64_t prompt_tokens, out_tokens;  /* of this start                             */
    double began;                       /* plp_seconds                               */
    plp_histogram first_token, between; /* seconds from submission; between tokens   */
} batch_report;

void batch_report_progress(const batch_report *r, bool last);
void batch_report_log(const batch_report *r, const plp_engine_stats *stats);
/* The summary as one object; the caller's to put. */
json_object *batch_report_json(const batch_report *r, const plp_engine_info *info, const plp_engine_stats *stats, bool finished);

#endif
