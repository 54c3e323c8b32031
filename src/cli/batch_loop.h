/* src/cli/batch_loop.h -- the work of a batch job: lines go in as slots free up, answers come out. */
#ifndef CLI_BATCH_LOOP_H
#define CLI_BATCH_LOOP_H

#include "cli/batch_input.h"
#include "cli/batch_output.h"
#include "cli/batch_report.h"
#include "cli/cli.h"

typedef struct {
    const cli *c;
    plp_engine *engine;
    const batch_defaults *defaults;
    bool strict;          /* the first line that fails ends the job */
    batch_input *input;   /* rank 0; NULL on the others             */
    batch_output *output; /* rank 0; NULL on the others             */
    batch_report report;  /* of use on rank 0                       */
} batch_job;

/* Collective.  PLP_ERR_STOPPED after a signal to any rank (cli/stop.h), with all that was finished in the output's journal. */
plp_status batch_run(batch_job *job);

#endif
