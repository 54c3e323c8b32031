#include "cli/batch_output.h"

#include "base/error.h"
#include "base/json_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AHEAD = 4096 }; /* lines */

struct batch_output {
    io_journal *journal; /* NULL: stdout */
    bool in_order;
    int64_t next; /* line to be printed */
    char **early; /* (AHEAD) records of lines next .. next + AHEAD - 1, by their number modulo AHEAD */
};

plp_status batch_output_create(batch_output **out, const char *path, bool in_order, bool replace, bool break_lock)
{
    plp_status st = PLP_OK;
    batch_output *o = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(o = calloc(1, sizeof *o)));
    o->in_order = in_order, o->next = 1;
    if (strcmp(path, "-") == 0)
        st = PLP_ALLOCATED(o->early = calloc(AHEAD, sizeof *o->early));
    else
        st = io_journal_create(&o->journal, path, replace, break_lock);
    if (st != PLP_OK) goto done;
    *out = o, o = NULL;
done:
    batch_output_close(&o);
    return st;
}

plp_status batch_output_begin(batch_output *o, json_object *header, bool resumable, int64_t lines, io_journal_found *found)
{
    *found = (io_journal_found){ 0 };
    return o->journal == NULL ? PLP_OK : io_journal_begin(o->journal, header, resumable, lines, found);
}

void batch_output_close(batch_output **o)
{
    if (*o == NULL) return;
    io_journal_close(&(*o)->journal);
    for (int i = 0; (*o)->early != NULL && i < AHEAD; i++) free((*o)->early[i]);
    free((*o)->early);
    free(*o);
    *o = NULL;
}

bool batch_output_resumes(const batch_output *o) { return o->journal != NULL; }
bool batch_output_has(const batch_output *o, int64_t line) { return o->journal != NULL && io_journal_has(o->journal, line); }
int64_t batch_output_most(const batch_output *o) { return o->journal != NULL || !o->in_order ? INT64_MAX : o->next + AHEAD - 1; }

static plp_status print(const char *text)
{
    if (fputs(text, stdout) != EOF && putchar('\n') != EOF && fflush(stdout) == 0) return PLP_OK;
    return PLP_FAIL_ERRNO("write to", "standard output");
}

plp_status batch_output_put(batch_output *o, int64_t line, bool failed, json_object *record)
{
    char *text = plp_json_text(record, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    if (text == NULL) return PLP_FAIL(PLP_ERR_MEMORY, "host memory exhausted (the record of line %lld)", (long long)line);
    if (o->journal != NULL || !o->in_order) {
        const plp_status st = o->journal != NULL ? io_journal_append(o->journal, line, failed, text, strlen(text)) : print(text);
        free(text);
        return st;
    }
    o->early[line % AHEAD] = text;
    for (char **first; *(first = &o->early[o->next % AHEAD]) != NULL; o->next++) {
        PLP_TRY(print(*first));
        free(*first);
        *first = NULL;
    }
    return PLP_OK;
}

plp_status batch_output_sync(batch_output *o, bool now) { return o->journal == NULL ? PLP_OK : io_journal_sync(o->journal, now); }

plp_status batch_output_finish(batch_output *o, int64_t lines)
{
    return o->journal == NULL ? PLP_OK : io_journal_finish(o->journal, lines, o->in_order);
}
