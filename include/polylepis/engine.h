/* polylepis/engine.h -- many sequences through one model: submit requests, step, read events.
 *
 * Every rank of the communicator makes the same calls in the same order with the same arguments, and every rank gets the same events:
 * the schedule is a function of the requests, and the noise of sampling of (seed, position, token) alone.  So no rank waits for another
 * but in the functions marked "Collective.", and a request's tokens depend neither on what else is in the batch nor on its slot.
 * After a collective function has failed on one rank the others may wait for it: end the job (MPI_Abort).  Where ranks notice a failure
 * together, those that did not fail themselves return PLP_ERR_REMOTE.  Any function may return PLP_ERR_MEMORY, and PLP_ERR_INTERNAL for a bug
 * of ours; what else it returns is said beside it.
 *
 *     plp_engine_options options = { .model = "model.h5" };      everything else 0: the default
 *     plp_engine_create(&engine, MPI_COMM_WORLD, &options);
 *     plp_request request = plp_request_defaults();
 *     plp_encode(engine, "In the beginning", 16, 1, &ids, &request.count);
 *     request.ids = ids;
 *     plp_engine_submit(engine, &request, &id);                  takes a copy: plp_free(ids)
 *     while (plp_engine_step(engine, &left) == PLP_OK && ...)
 *         while (plp_engine_next_event(engine, &event)) ...
 *
 * MPI is initialised before the first call and finalised after the last.  A NULL where something is needed is PLP_ERR_USAGE, on the rank that
 * gave it; functions without a status then do nothing, or describe no engine.  Messages speak of what the program has an option for by its
 * name: --max-seqs is max_seqs.  One thread at a time per engine, the same or another; on CUDA a call may leave
 * the rank's GPU as the thread's current device.  Of several engines on the same GPUs, one at a time: a step is over when all of its events
 * have come.  Kernels of two that wait for each other's ranks could keep one another from running. */
#ifndef POLYLEPIS_ENGINE_H
#define POLYLEPIS_ENGINE_H

#include "polylepis/status.h"

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* the library exports what its headers declare, and nothing else */

typedef struct plp_engine plp_engine;

typedef enum plp_device { PLP_DEVICE_AUTO, PLP_DEVICE_CPU, PLP_DEVICE_CUDA } plp_device;
typedef enum plp_number { PLP_NUMBER_AUTO, PLP_NUMBER_F32, PLP_NUMBER_BF16, PLP_NUMBER_F16 } plp_number;
typedef enum plp_link { PLP_LINK_AUTO, PLP_LINK_MPI, PLP_LINK_NCCL } plp_link;
/* States that are kept so that prompts that begin alike are computed once: those at the ends of slices, which then fall on multiples of the
 * block, or those at all multiples. */
typedef enum plp_cache { PLP_CACHE_NONE, PLP_CACHE_ALIGN, PLP_CACHE_ALL } plp_cache;

/* Whether a step is queued before the tokens of the last one were read, where they can be drawn on the device (no penalties, no banned ids,
 * no top_p or min_p without a top_k up to 64): plp_engine_step then gives the events of the step before.  Results are the same.  auto: on
 * CUDA. */
typedef enum plp_ahead { PLP_AHEAD_AUTO, PLP_AHEAD_OFF, PLP_AHEAD_ON } plp_ahead;

/* Borrowed for the call of plp_engine_create, strings included.  In brackets what is accepted, where it is not all that the type has.
 * Prompts are cut where that changes no bit: on the CPU at multiples of 16 tokens, on CUDA, if deterministic, at the ends of the model's chunks.
 * max_slice is raised to one such piece, and max_batch_tokens to one and a token of every other sequence. */
typedef struct plp_engine_options {
    const char *model;    /* a polylepis model file or a checkpoint directory                                            */
    plp_device device;    /* auto: CUDA where GPUs are visible; to all ranks, or to none                                 */
    plp_number compute;   /* auto: as the weights are stored on CUDA, f32 on the CPU; f32: float32 everywhere            */
    plp_number state;     /* of the SSM state between steps; auto: f32, the only one without drift                       */
    plp_link link;        /* of the sums over ranks; auto: GPUs of a host by themselves, NCCL, else MPI                  */
    int threads;          /* CPU threads of a rank; 0: its share of the host's  [0, 1024]                                */
    int deterministic;    /* results of a request must not depend on others, to the bit                                  */
    int max_seqs;         /* state slots: most requests that run at a time; 0: 16; -1: as memory allows  [-1, 65535]     */
    int max_batch_tokens; /* most tokens of a step, at least max_seqs; 0: 512, or max_seqs  [0, 1048576]                 */
    int max_slice;        /* most tokens of one prompt in a step; 0: what has room  [0, 1048576]                         */
    plp_cache cache;
    int cache_block;      /* tokens between states that are kept, a multiple of the model's chunk; 0: it  [0, 1048576]   */
    int cache_states;     /* most of them; 0: as cache_bytes says  [0, 2^30]                                             */
    uint64_t cache_bytes; /* for them, on every rank; 0: as many as max_seqs                                             */
    plp_ahead ahead;
    int trust_model;     /* HDF5 parses model and state files in this process, not in a confined one      */
    int allow_nonfinite; /* weights may be NaN, infinite or useless: they are not looked at               */
} plp_engine_options;

/* Collective.  Opens the model on every rank of `comm`, which is duplicated.  *engine: the caller's, to be destroyed; NULL after a failure.
 *
 *   PLP_ERR_USAGE     an option out of its range, or one that does not fit the model (compute, cache_block); more ranks than it has heads;
 *                     an environment that makes HDF5 load code; MPI_COMM_NULL or an inter-communicator; MPI that is not initialised or
 *                     already finalised
 *   PLP_ERR_INPUT     the model, or the program that parses model files, is not there;  PLP_ERR_PERM: it may not be read
 *   PLP_ERR_DATA      the model's files break a rule, or its weights are NaN, infinite or useless;  PLP_ERR_SHAPE: a tensor has another shape
 *   PLP_ERR_IO        reading failed
 *   PLP_ERR_DEVICE    no GPU where one is asked for, or CUDA or NCCL failed
 *   PLP_ERR_MEMORY    before anything is loaded: the message says what is needed, what is there, and what would fit
 *   PLP_ERR_DISAGREE  the ranks have other options, device or model.  A rank's own may be the model's path, a device that comes to
 *                     the same, threads and trust_model */
plp_status plp_engine_create(plp_engine **engine, MPI_Comm comm, const plp_engine_options *options);
/* Collective.  NULL is accepted; leaves NULL. */
void plp_engine_destroy(plp_engine **engine);

typedef struct plp_engine_info {
    int rank, size;
    int vocabulary;    /* ids that may be given and emitted: 0 .. vocabulary - 1 */
    int bos;           /* the model's beginning-of-sequence id; -1: none         */
    int has_tokenizer; /* one that is supported: without it, requests have no text and no stop strings */
    int max_seqs, max_batch_tokens;
    uint64_t weight_bytes, state_bytes, work_bytes; /* of this rank */
    const char *backend;                            /* "cpu", "cuda"; static storage */
    const char *link; /* "none" (one rank), "mpi", "mpi, staged through host memory" (of GPUs), "nccl", "peers and nccl"; static storage */
} plp_engine_info;
void plp_engine_describe(const plp_engine *engine, plp_engine_info *info);

/* Since the engine was made; the times are this rank's. */
typedef struct plp_engine_stats {
    int64_t steps;
    int64_t prefill_tokens; /* of prompts, computed                                     */
    int64_t cached_tokens;  /* of prompts, not computed because their state was kept    */
    int64_t output_tokens;
    int64_t cache_evictions;
    int cache_held, cache_states;          /* states that are kept, and for how many there is room           */
    double schedule_seconds, host_seconds; /* of planning steps; of all that the host does besides the model */
} plp_engine_stats;
void plp_engine_statistics(const plp_engine *engine, plp_engine_stats *stats);

/* Ids of a text; add_special: with what the tokenizer's post-processor adds (BOS).  What is not UTF-8 counts as U+FFFD, one for each byte, or
 * for each character that is cut short, and is no error.  *ids is the caller's: plp_free; it is not NULL where *count is 0, and NULL after a
 * failure.  PLP_ERR_USAGE without a tokenizer, PLP_ERR_DATA for a text that the tokenizer cannot split or has no token for. */
plp_status plp_encode(plp_engine *engine, const char *text, size_t bytes, int add_special, int **ids, size_t *count);
/* The text of ids: whole characters, without special tokens unless they are to be kept.  *text ends with a NUL and is the caller's: plp_free.
 * NULL after a failure.  PLP_ERR_USAGE without a tokenizer, PLP_ERR_DATA for an id outside its vocabulary and the model's. */
plp_status plp_decode(plp_engine *engine, const int *ids, size_t count, int keep_special, char **text, size_t *bytes);
/* A token as the tokenizer spells it; NULL for one without a spelling, and without a tokenizer.  Borrowed from the engine, until it is destroyed. */
const char *plp_token(const plp_engine *engine, int id);
void plp_free(void *memory); /* NULL is accepted */

/* ------------------------------------------------------------------------------------------------------------------- requests */
enum { PLP_MOST_LOGPROBS = 20, PLP_ALL_LOGPROBS = 0x7fffffff };

/* In the order in which they act: penalties, temperature, min_p, top_k, top_p; each after the first renormalises what is left.  Equal
 * probabilities: the lower id.  In brackets what is accepted; NaN is not. */
typedef struct plp_sampling {
    double repetition;  /* divides positive logits of ids in prompt or output, multiplies negative ones; 1: off  [0.001, 1000] */
    double presence;    /* subtracted from logits of ids in the output; 0: off  [-100, 100]                                    */
    double frequency;   /* subtracted as often as the id is in the output; 0: off  [-100, 100]                                 */
    double temperature; /* 0, as all below 0.0001: the most probable token, and the filters below do nothing  [0, 1000]        */
    double min_p;       /* least probability, as a share of the largest; 0: off  [0, 1]                                        */
    int64_t top_k;      /* 0: off  [0, 2^53]                                                                                   */
    double top_p;       /* share of what the others leave; 1: off; 0: the most probable token  [0, 1]                          */
    uint64_t seed;      /* equal seeds and prompts give equal outputs                                                          */
} plp_sampling;

/* Borrowed for the call of plp_engine_submit, with all that it points to.  At most 1024 each of stop ids, stop strings, biases and bad words. */
typedef struct plp_request {
    const int *ids; /* the prompt: at least one id, but for a state that is continued */
    size_t count;
    const char *state; /* NULL, or a file of plp_engine_save_state: its tokens come before ids, and are not computed again */
    plp_sampling sampling;
    int64_t max_tokens; /* ends with PLP_FINISH_LENGTH after so many; at least 1    */
    int64_t min_tokens; /* no stop, and no stop id, before so many  [0, max_tokens] */
    int ignore_eos;     /* the model's own stop ids do not stop      */
    const int *stop_ids;
    int stop_id_count;
    const char *const *stops; /* text that ends the request, in UTF-8; it is not given out */
    int stop_count;
    /* -1: none; k, up to PLP_MOST_LOGPROBS: of the token and the k most probable, of the logits as they are; PLP_ALL_LOGPROBS: of every id */
    int logprobs;
    int prompt_logprobs; /* -1 or k, of the prompt's tokens but the first, once for all answers; its prompt is computed whole then */
    int keep_special;    /* special tokens are part of the text */
    const int *bias_ids; /* (bias_count), and what is added to their logits before all else  [-10000, 10000] */
    const double *biases;
    int bias_count;
    const int *allowed; /* (allowed_count) ids of which each token must be one; 0: any */
    int allowed_count;
    const int *const *bad; /* (bad_count) sequences of ids, (bad_sizes) long: what would complete one is not drawn */
    const int *bad_sizes;
    int bad_count;
    int answers;           /* 0, 1: one; n: as many requests, *id and those behind it, for which the prompt is computed once  [0, 128] */
    const uint64_t *seeds; /* (answers) of theirs; NULL: sampling.seed */
} plp_request;

/* temperature 1, no filter, no penalty, no logprobs, seed 0, 16 tokens. */
plp_request plp_request_defaults(void);

/* Puts a request into the queue.  *id names it in events; with `answers` it is the first one's, and the others' follow it.  A failure leaves
 * *id and the queue as they were; where only some ranks fail, their queues differ and the next step says so on all (PLP_ERR_DISAGREE).
 * PLP_ERR_DATA for an empty prompt, an id outside the vocabulary, or a state file that is damaged or of another model; PLP_ERR_USAGE for a
 * parameter out of its range.  Of a state file also PLP_ERR_INPUT: it, or the program that parses it, is not there; PLP_ERR_PERM: it may not
 * be read; PLP_ERR_IO: reading failed; PLP_ERR_SHAPE: its sizes are not the model's. */
plp_status plp_engine_submit(plp_engine *engine, const plp_request *request, uint64_t *id);
/* Ends a request, waiting or running, with a PLP_FINISH_CANCELLED event after the next step.  Of several answers it ends the one of this id;
 * the others go on.  Unknown or finished ids do nothing. */
void plp_engine_cancel(plp_engine *engine, uint64_t id);

/* Collective.  Writes the state of a request that runs, or that the last step finished, to a file from which it can go on at any number
 * of ranks; rank 0 writes, and an existing file is replaced once the new one is complete.  With the same seed and at the same number of
 * ranks the tokens of a request without ids go on from it as if it had never stopped: penalties and bad words count what was drawn before as
 * drawn.  With ids behind the state all that comes before their end counts as given.  The text begins anew: stop strings are looked for in
 * what is behind the state, as max_tokens and min_tokens count from there.  PLP_ERR_USAGE for other requests, for one of which nothing has
 * been computed, for one that has failed, and for one that has ended while the engine was ahead of it.  PLP_ERR_CREATE: the file cannot be
 * made, or for want of permission PLP_ERR_PERM; PLP_ERR_IO: it cannot be completed, and an old one is as it was; PLP_ERR_DEVICE, and after a
 * step that failed its status: as plp_engine_step.  May add events. */
plp_status plp_engine_save_state(plp_engine *engine, uint64_t id, const char *path);

/* --------------------------------------------------------------------------------------------------------------------- events */
/* PROMPT: a token of the prompt, where prompt_logprobs asks for them; in their order, from the second on, before the first TOKEN; of several
 * answers the first one's alone. */
typedef enum plp_event_kind { PLP_EVENT_TOKEN, PLP_EVENT_FINISHED, PLP_EVENT_ERROR, PLP_EVENT_PROMPT } plp_event_kind;
typedef enum plp_finish { PLP_FINISH_STOP, PLP_FINISH_LENGTH, PLP_FINISH_CANCELLED } plp_finish;

/* Pointers are valid until the next step or plp_engine_save_state. */
typedef struct plp_event {
    plp_event_kind kind;
    uint64_t request;
    const char *text; /* text that may now be shown: whole characters, and no part of a stop string.  TOKEN, FINISHED */
    size_t text_bytes;
    /* TOKEN, PROMPT */
    int token;
    double logprob; /* 0 without logprobs */
    int tops;
    const int *top_id; /* (tops), most probable first */
    const double *top_logprob;
    /* FINISHED */
    plp_finish finish;
    int stop_id;           /* the token that stopped it, or -1 */
    const char *stop_text; /* the stop string that stopped it, or NULL */
    /* ERROR: this request has failed, the others go on */
    plp_status status;
    const char *message;
} plp_event;

/* Collective.  Computes one step: a token of every running request whose prompt is done, and slices of prompts.  *left: requests that
 * wait or run afterwards.  With none of them it computes nothing; but several ranks wait for each other in every step, to see whether they have
 * the same requests.  A request that fails by itself, because its numbers are not finite, is an event and no failure of the step.
 * PLP_ERR_DISAGREE: the ranks have other requests, or drew other tokens; PLP_ERR_DEVICE: a GPU, CUDA or NCCL failed; PLP_ERR_REMOTE: MPI did.
 * After a failure the engine is of no more use: every later step returns the same status at once, and leaves *left as it was; where one rank's
 * step failed alone, end the job, for the others wait for it in theirs. */
plp_status plp_engine_step(plp_engine *engine, int *left);
/* The next event of the last step; 0 when there is none. */
int plp_engine_next_event(plp_engine *engine, plp_event *event);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
