/* Arrivals, cancellations and states that are kept, over the model of tests/unit/test_scheduler.c: every request gives what it gives alone.
 * A byte each: sequences, budget, chunk, cache; then one for each thing that happens. */
#pragma clang diagnostic ignored "-Wmissing-prototypes"
#define main unit_main
#include "../unit/test_scheduler.c"
#undef main

#include "fuzz.h"

enum { MOST_REQUESTS = 8, LONGEST = 48 };
static model small;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

static void describe(job *j, fuzz_input *in)
{
    const int kind = fuzz_byte(in), length = 1 + fuzz_below(in, LONGEST), like = fuzz_below(in, LONGEST);
    static const int stop_ids[] = { 12 };
    *j = (job){ .given = plp_request_defaults() };
    for (int k = 0; k < length; k++) j->got.prompt[k] = k < like ? k * (1 + kind % 3) % USED : (k * 31 + kind) % USED;
    j->given.ids = j->got.prompt, j->given.count = (size_t)length;
    j->given.sampling.temperature = kind & 4 ? 0 : 0.8;
    j->given.sampling.seed = (uint64_t)(kind & 8);
    j->given.max_tokens = 1 + (kind >> 4) % 6;
    j->given.min_tokens = kind & 64 ? j->given.max_tokens / 2 : 0;
    j->given.ignore_eos = kind & 128;
    j->given.stop_ids = stop_ids, j->given.stop_id_count = like % 2;
    compute_alone(&j->given, &j->want);
}

static bool cancelled[MOST_REQUESTS];

static void step(plp_engine *e, int *left)
{
    plp_event event;
    CHECK(plp_engine_step(e, left) == PLP_OK, "%s", plp_last_error());
    while (plp_engine_next_event(e, &event)) note_event(&event);
}

static void check_answers(int submitted)
{
    for (int i = 0; i < submitted; i++) {
        const answer *want = &jobs[i].want, *got = &jobs[i].got;
        CHECK(got->outs <= want->outs && memcmp(want->out, got->out, (size_t)got->outs * sizeof *got->out) == 0, "request %d: other tokens",
              i);
        if (cancelled[i] && got->finished && got->finish == PLP_FINISH_CANCELLED) continue;
        CHECK(got->outs == want->outs && got->failed == want->failed && got->finished == want->finished, "request %d: %d tokens, alone %d",
              i, got->outs, want->outs);
        CHECK(!got->finished || got->finish == want->finish, "request %d ends otherwise", i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_input in = { data, data + bytes };
    const int seqs = 1 + fuzz_below(&in, 4), grain = (int)kn_cpu()->grain, chunk = grain * (1 + fuzz_below(&in, 2));
    const int tokens = seqs - 1 + grain + fuzz_below(&in, 40), cache = fuzz_byte(&in), states = 1 + (cache >> 2) % 6;
    const engine_options options = { .cache = (plp_cache)(cache % 3),
                                     .max_slice = cache & 32 ? grain : 0,
                                     .block = cache & 64 ? 2 * chunk : 0 };
    plp_engine *e;
    plp_engine_stats stats;
    int left = 0, submitted = 0;
    sound = cache & 128;
    for (int i = 0; i < REQUESTS && i < MOST_REQUESTS; i++) jobs[i].id = 0, cancelled[i] = false;
    make_model(&small, seqs, seqs + states, tokens, chunk);
    CHECK(engine_create(&e, &small, NULL, &options) == PLP_OK, "%s", plp_last_error());
    while (in.at < in.end) {
        const int what = fuzz_byte(&in);
        if (what % 4 == 0 && submitted > 0) {
            const int i = what / 4 % submitted;
            cancelled[i] |= !jobs[i].got.finished && !jobs[i].got.failed;
            plp_engine_cancel(e, jobs[i].id);
        } else if (what % 4 < 3 && submitted < MOST_REQUESTS) {
            describe(&jobs[submitted], &in);
            CHECK(plp_engine_submit(e, &jobs[submitted].given, &jobs[submitted].id) == PLP_OK, "%s", plp_last_error());
            submitted++;
        } else
            step(e, &left);
    }
    do step(e, &left);
    while (left > 0);
    plp_engine_statistics(e, &stats);
    CHECK(stats.cache_held <= states && (options.cache != PLP_CACHE_NONE || stats.cached_tokens == 0), "%d states", (int)stats.cache_held);
    engine_destroy(&e);
    kn_cpu()->destroy(&small.context);
    check_answers(submitted);
    return 0;
}
