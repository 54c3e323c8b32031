/* src/cli/batch_answer.h -- a line of a batch job on its way: its answers as they grow, and how they are written at the end. */
#ifndef CLI_BATCH_ANSWER_H
#define CLI_BATCH_ANSWER_H

#include "cli/batch_request.h"
#include "text/buffer.h"

/* One of the n answers. */
typedef struct {
    text_buffer text;
    int *ids;
    int64_t tokens, ids_room;
    double logprob;        /* sum over its tokens               */
    json_object *logprobs; /* a list, one entry a token, or NULL */
    plp_finish finish;
    int stop_id;
    char *stop_text;
} batch_choice;

typedef struct {
    batch_request request;
    batch_choice *choice; /* (request.n) */
    json_object *prompt;  /* probabilities of its tokens, null for the first; NULL: not asked for */
    char *echo;           /* what comes before each text; NULL: nothing */
    size_t echo_bytes;
    int left;          /* requests of it that the engine still has */
    plp_status failed; /* not PLP_OK: the line gets an error record */
    char error[512];
} batch_answer;

/* Takes the request over, unless it fails.  PLP_ERR_DATA for ids that are to be echoed as text, and that the tokenizer does not have. */
plp_status batch_answer_create(batch_answer **a, batch_request *request, plp_engine *e);
void batch_answer_destroy(batch_answer **a);

/* What an event of the i-th answer adds. */
plp_status batch_answer_token(batch_answer *a, int i, const plp_event *event, const plp_engine *e);
void batch_answer_prompt(batch_answer *a, const plp_event *event, const plp_engine *e);
plp_status batch_answer_finish(batch_answer *a, int i, const plp_event *event);
/* The whole record; the caller's to put. */
json_object *batch_answer_json(const batch_answer *a, const plp_engine *e);
/* The record of a line that failed.  r->id may be NULL. */
json_object *batch_error_json(const batch_request *r, plp_status status, const char *message);

#endif
