/* tests/unit/unit_files.h -- an empty directory for the files of a test. */
#ifndef UNIT_UNIT_FILES_H
#define UNIT_UNIT_FILES_H

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

static char dir[64]; /* of this test program; made by make_dir */

/* Set-up: an empty directory, and no warnings on the screen. */
static inline int make_dir(void **state)
{
    (void)state;
    plp_log_threshold(PLP_LOG_ERROR);
    snprintf(dir, sizeof dir, "/tmp/plp-unit-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

/* Tear-down. */
static inline int drop_dir(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

#endif
