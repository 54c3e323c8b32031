/* src/cli/batch_request.h -- a line of a batch job: what it asks for, in either form (docs/batch.md).
 *
 *     {"id": "a", "prompt": "In the beginning", "max_tokens": 32}
 *     {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "In the beginning"}} */
#ifndef CLI_BATCH_REQUEST_H
#define CLI_BATCH_REQUEST_H

#include "cli/prompt.h"

#include "base/json.h"

enum { BATCH_MOST_ANSWERS = 128 };

/* What holds where a line is silent. */
typedef struct {
    plp_request request; /* its prompt and seed unused */
    int64_t seed;        /* of the job; a line without a seed draws from this and its id */
    int n;
    bool include_stop;
    cli_bos bos;
} batch_defaults;

typedef struct {
    json_object *root;      /* owned; the texts below are its */
    int64_t line;           /* from 1 */
    char number[24];        /* the id of a line without one: its number from 0 */
    const char *id;         /* NULL: the line is not even an object */
    bool openai;            /* the answer has the form of OpenAI's batch API */
    const char *model;      /* what an OpenAI body calls the model, or NULL */
    const char *text;       /* the prompt; NULL: given as ids */
    json_object *bad_words; /* of root, or NULL */
    int n;                  /* answers wanted                       */
    bool detokenize;        /* text is wanted */
    bool include_stop;      /* the stop string is part of the text  */
    bool echo;              /* the prompt comes before the output   */
    bool lists_prompt;      /* prompt_logprobs is a field as well   */
    plp_request request;    /* its arrays are owned */
} batch_request;

/* PLP_ERR_DATA for a field of a plain line that means nothing, or something that is not supported. */
plp_status batch_request_fields(json_object *line, const char *where);
/* Reads all fields.  PLP_ERR_DATA names the field and what it may be; *r is to be freed in any case, and has the id as soon as it is known. */
plp_status batch_request_read(batch_request *r, const char *text, size_t bytes, int64_t line, const batch_defaults *defaults);
/* Turns the text of the prompt, and the bad words, into ids. */
plp_status batch_request_encode(batch_request *r, plp_engine *e, const batch_defaults *defaults);
void batch_request_free(batch_request *r);

/* The seed of the i-th of n answers. */
uint64_t batch_request_seed(const batch_request *r, int i);

#endif
