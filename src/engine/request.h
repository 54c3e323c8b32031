/* src/engine/request.h -- one request on its way: its tokens, its text, and what it may still draw. */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include "engine/hold.h"
#include "engine/prefix_cache.h"
#include "engine/sampling.h"
#include "model/config.h"
#include "text/tokenizer.h"

/* The state that answers begin from, of a file.  Each holds it until it has a slot, which the state is written to; it is gone with the last. */
typedef struct {
    float *state;   /* this rank's, for model_slot_write                        */
    int64_t past;   /* how many of the tokens are in it                         */
    int64_t prompt; /* how many of the tokens were given, not drawn             */
    bool continues; /* no prompt is behind them, and the last of them was drawn */
    int holders;
} request_origin;

typedef struct request {
    uint64_t id;
    plp_request given; /* parameters; its arrays are the ones below */
    int *ids;          /* (length) prompt and output */
    int64_t prompt, length, room;
    int64_t begin;          /* the output begins here: where the prompt ends, but for a state that is continued without one */
    int64_t drawn;          /* tokens from here on were drawn, by this request or before its state was saved */
    bool restored;          /* begins from a state file          */
    request_origin *origin; /* of that, while it waits for a slot */
    int64_t past;           /* tokens in the state        */
    int slot;               /* -1: waits                  */
    int source;             /* slot of the state until the next step, which leaves it in `slot` */
    int unread;             /* tokens that queued steps draw, and that were not read */
    int stale;              /* of these: drawn before the request began anew         */
    int out;                /* row of logits of the last of them */
    bool cancelled, done;
    bool failed;      /* what it leaves in its slot is not finite             */
    int64_t borrowed; /* of the prompt: not computed, but from states that were kept */
    int64_t found;    /* of past: in `source`, if this step gives the request rows */
    prefix_key *keys; /* of the prompt's blocks; see reuse.h */
    int key_count, waited_block;
    uint64_t waited_for;
    uint64_t leader; /* has the same prompt, and computes it; see share.h.  0: nobody */
    int *stop_ids;   /* given, and the model's own */
    int stop_id_count;
    int *banned; /* (stop_id_count + bad_count) of the next token */
    int *allowed, *bias_id;
    float *bias;
    int **bad, *bad_sizes;
    char **stops;
    int *seen, *hits; /* for the penalties: ids in rising order, and how often in the output */
    int seen_count, seen_room;
    text_stream *stream; /* NULL without a tokenizer */
    hold held;
    struct request *next; /* in the queue */
} request;

/* Checks and copies what was given.  PLP_ERR_DATA, PLP_ERR_USAGE as plp_engine_submit. */
plp_status request_create(request **r, const plp_request *given, const model_config *config, const text_tokenizer *t);
void request_destroy(request **r);
/* Begins a request that was created with the tokens of a state file, and perhaps others behind them, from its state: one more that holds it. */
plp_status request_restore(request *r, request_origin *origin);
void request_origin_drop(request_origin **origin); /* by one who holds it */

static inline int64_t request_outputs(const request *r) { return r->length - r->begin; }
/* Of the token that comes behind those not yet read.  Valid until the next call. */
sampling_row request_sampling_row(request *r);
/* Whether how a token is drawn depends on the one before it. */
bool request_looks_back(const request *r);
/* Whether the tokens that were not read make it end. */
static inline bool request_ends(const request *r) { return request_outputs(r) + r->unread - r->stale >= r->given.max_tokens; }

typedef struct {
    bool finished;
    plp_finish finish;
    int stop_id;   /* -1 */
    int stop_text; /* -1, or index of the stop string */
    size_t ready;  /* bytes of held.text that may go out; hold_take them */
} request_progress;
/* Appends a token that was drawn. */
plp_status request_append(request *r, int token, request_progress *p);
/* No token follows: p->ready counts what was held back as well, up to a stop string that it completes. */
plp_status request_end_text(request *r, request_progress *p);

#endif
