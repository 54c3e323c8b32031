#include "cli/sampling.h"

#include <stdlib.h>

cli_sampling cli_sampling_given = { .logprobs = CLI_NO_LOGPROBS, .seed = -1, .temperature = -1, .top_p = 1, .repetition = 1 };

#define GIVEN(field) &cli_sampling_given.field
const plp_option cli_sampling_options[CLI_SAMPLING_OPTIONS] = {
    { "--max-tokens", "-n", "N", PLP_OPTION_INT, GIVEN(max_tokens), 1, INT32_MAX,
      "stop after N tokens; default 128 in generate, 16 in run-batch" },
    { "--min-tokens", NULL, "N", PLP_OPTION_INT, GIVEN(min_tokens), 0, INT32_MAX, "no stop before N tokens" },
    { "--temperature", "-t", "T", PLP_OPTION_REAL, GIVEN(temperature), 0, 1000,
      "0: always the most probable token; default 0 in generate, 1 in\nrun-batch" },
    { "--top-k", NULL, "K", PLP_OPTION_INT, GIVEN(top_k), 0, INT32_MAX, "among the K most probable; 0: off" },
    { "--top-p", NULL, "P", PLP_OPTION_REAL, GIVEN(top_p), 0, 1,
      "among the fewest that have a share P of what --top-k and --min-p\nleave; 1: off" },
    { "--min-p", NULL, "P", PLP_OPTION_REAL, GIVEN(min_p), 0, 1, "among those of at least P times the largest; 0: off" },
    { "--repetition-penalty", NULL, "X", PLP_OPTION_REAL, GIVEN(repetition), 0.001, 1000, "on tokens of prompt and output; 1: off" },
    { "--presence-penalty", NULL, "X", PLP_OPTION_REAL, GIVEN(presence), -100, 100, "on tokens of the output; 0: off" },
    { "--frequency-penalty", NULL, "X", PLP_OPTION_REAL, GIVEN(frequency), -100, 100, "the same, once for each time; 0: off" },
    { "--seed", "-s", "N", PLP_OPTION_INT, GIVEN(seed), 0, 0x1p62,
      "equal seeds give equal text; default: in generate a new one, which\nis in the closing line where it had a say, and in --json; "
      "in\nrun-batch 0, "
      "and each line draws from it and its id" },
    { "--stop", NULL, "TEXT", PLP_OPTION_TEXTS, GIVEN(stops), 1, 0, "end before this text; may be given 16 times" },
    { "--stop-token-ids", NULL, "1,2", PLP_OPTION_INTS, GIVEN(stop_ids), 0, INT32_MAX, "end at these tokens, besides the model's own" },
    { "--ignore-eos", NULL, NULL, PLP_OPTION_FLAG, GIVEN(ignore_eos), 0, 0, "the model's own stop tokens do not stop" },
    { "--special", NULL, NULL, PLP_OPTION_FLAG, GIVEN(special), 0, 0, "special tokens are part of the text too" },
    { "--logprobs", NULL, "K", PLP_OPTION_INT, GIVEN(logprobs), -1, PLP_MOST_LOGPROBS,
      "in JSON: of each token, and of the K most probable; -1: of all ids" },
    { "--add-bos", NULL, NULL, PLP_OPTION_FLAG, GIVEN(bos.add), 0, 0, "begin with the model's BOS token, whatever the tokenizer does" },
    { "--no-add-bos", NULL, NULL, PLP_OPTION_FLAG, GIVEN(bos.leave_out), 0, 0,
      "leave out what the tokenizer would add; default: what its\npost-processor says (GPT-NeoX's adds nothing)" },
};

int cli_logprobs(int64_t k) { return k == CLI_NO_LOGPROBS ? -1 : k < 0 ? PLP_ALL_LOGPROBS : (int)k; }

plp_request cli_sampling_request(int64_t max_tokens, double temperature)
{
    const cli_sampling *g = &cli_sampling_given;
    plp_request r = plp_request_defaults();
    r.sampling = (plp_sampling){ .repetition = g->repetition,
                                 .presence = g->presence,
                                 .frequency = g->frequency,
                                 .temperature = g->temperature >= 0 ? g->temperature : temperature,
                                 .min_p = g->min_p,
                                 .top_k = g->top_k,
                                 .top_p = g->top_p,
                                 .seed = g->seed >= 0 ? (uint64_t)g->seed : 0 };
    r.max_tokens = g->max_tokens > 0 ? g->max_tokens : max_tokens, r.min_tokens = g->min_tokens;
    r.ignore_eos = g->ignore_eos;
    r.stop_ids = g->stop_ids.item, r.stop_id_count = g->stop_ids.count;
    r.stops = g->stops.item, r.stop_count = g->stops.count;
    r.logprobs = cli_logprobs(g->logprobs);
    r.keep_special = g->special;
    return r;
}

void cli_sampling_free(void)
{
    free(cli_sampling_given.stop_ids.item);
    cli_sampling_given.stop_ids = (plp_ints){ 0 };
}
