/* src/cli/sampling.h -- the options of a request on the command line, for all commands that generate. */
#ifndef CLI_SAMPLING_H
#define CLI_SAMPLING_H

#include "cli/prompt.h"

#include "base/options.h"

enum { CLI_NO_LOGPROBS = -2 };

typedef struct {
    cli_bos bos;
    bool special, ignore_eos;
    int64_t max_tokens, min_tokens, top_k, logprobs; /* max_tokens 0, CLI_NO_LOGPROBS: not given */
    int64_t seed;                                    /* -1: not given */
    double temperature;                              /* -1: not given */
    double top_p, min_p, repetition, presence, frequency;
    plp_texts stops;
    plp_ints stop_ids;
} cli_sampling;

enum { CLI_SAMPLING_OPTIONS = 17 };
extern const plp_option cli_sampling_options[CLI_SAMPLING_OPTIONS];
/* What was given; the command line is read once. */
extern cli_sampling cli_sampling_given;

/* plp_request.logprobs for what users write: k, -1 of all ids, CLI_NO_LOGPROBS. */
int cli_logprobs(int64_t k);
/* A request without a prompt, for a command with these defaults.  The seed is that of the command line, or 0; arrays are borrowed. */
plp_request cli_sampling_request(int64_t max_tokens, double temperature);
void cli_sampling_free(void);

#endif
