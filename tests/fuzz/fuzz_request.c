/* Lines of a batch job, in the plain form and in OpenAI's: what is accepted is within its ranges, and reads the same when it is written
 * again; what is refused gets a record that is one line of JSON. */
#include "cli/batch_answer.h"

#include "fuzz.h"

static batch_defaults defaults;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const stops[] = { "stop" };
    (void)argc, (void)argv;
    fuzz_silence();
    defaults.request = plp_request_defaults();
    defaults.request.stops = stops, defaults.request.stop_count = 1;
    defaults.n = 1;
    return 0;
}

static bool in_range(double value, double least, double most) { return value >= least && value <= most; }

static void check_ranges(const batch_request *r)
{
    const plp_request *q = &r->request;
    const plp_sampling *s = &q->sampling;
    CHECK(r->id != NULL && (r->text != NULL) != (q->ids != NULL), "id %s", r->id);
    CHECK(in_range(r->n, 1, 128) && in_range((double)q->max_tokens, 1, INT32_MAX) && in_range((double)q->min_tokens, 0, INT32_MAX) &&
              in_range((double)s->top_k, 0, INT32_MAX) &&
              (in_range(q->logprobs, -1, PLP_MOST_LOGPROBS) || q->logprobs == PLP_ALL_LOGPROBS) &&
              in_range(q->prompt_logprobs, r->echo && !r->lists_prompt ? q->logprobs : -1, PLP_MOST_LOGPROBS),
          "a number of %s", r->id);
    CHECK(in_range(s->temperature, 0, 1000) && in_range(s->top_p, 0, 1) && in_range(s->min_p, 0, 1) && in_range(s->presence, -100, 100) &&
              in_range(s->frequency, -100, 100) && in_range(s->repetition, 1e-3, 1e3),
          "a parameter of %s", r->id);
    for (size_t i = 0; i < q->count && q->ids != NULL; i++) CHECK(q->ids[i] >= 0, "prompt id %d", q->ids[i]);
    for (int i = 0; i < q->stop_id_count; i++) CHECK(q->stop_ids[i] >= 0, "stop id %d", q->stop_ids[i]);
    for (int i = 0; i < q->bias_count; i++) CHECK(q->bias_ids[i] >= 0, "biased id %d", q->bias_ids[i]);
    for (int i = 0; i < q->allowed_count; i++) CHECK(q->allowed[i] >= 0, "allowed id %d", q->allowed[i]);
}

static bool same(const void *a, const void *b, size_t bytes) { return bytes == 0 || memcmp(a, b, bytes) == 0; }

static void check_again(const batch_request *r)
{
    batch_request again;
    const char *text = json_object_to_json_string_ext(r->root, JSON_C_TO_STRING_PLAIN);
    CHECK(batch_request_read(&again, text, strlen(text), r->line, &defaults) == PLP_OK, "%s: %s", text, plp_last_error());
    const plp_request *q = &r->request, *a = &again.request;
    CHECK(strcmp(r->id, again.id) == 0 && r->openai == again.openai && r->n == again.n, "%s", text);
    CHECK(q->count == a->count && same(q->ids, a->ids, q->ids == NULL ? 0 : q->count * sizeof *q->ids), "%s", text);
    CHECK((r->text == NULL) == (again.text == NULL) && (r->text == NULL || strcmp(r->text, again.text) == 0), "%s", text);
    CHECK(q->sampling.seed == a->sampling.seed && q->max_tokens == a->max_tokens && q->stop_count == a->stop_count, "%s", text);
    for (int i = 0; i < q->stop_count; i++) CHECK(strcmp(q->stops[i], a->stops[i]) == 0, "%s", text);
    batch_request_free(&again);
}

static void read_line(const char *text, size_t bytes, int64_t number)
{
    batch_request r;
    char *line = malloc(bytes + 1); /* NUL-terminated, as io_lines gives them */
    CHECK(line != NULL, "no memory");
    memcpy(line, text, bytes);
    line[bytes] = 0;
    const plp_status st = batch_request_read(&r, line, bytes, number, &defaults);
    if (fuzz_answer(st)) {
        check_ranges(&r);
        check_again(&r);
    } else {
        json_object *record = batch_error_json(&r, st, plp_last_error());
        const char *json = json_object_to_json_string_ext(record, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        char *kept = strdup(json);
        CHECK(plp_json_check(kept, strlen(kept), "the record") == PLP_OK && strchr(kept, '\n') == NULL, "%s: %s", plp_last_error(), kept);
        free(kept);
        json_object_put(record);
    }
    batch_request_free(&r);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *p = (const char *)data, *end = p + bytes;
    for (int64_t number = 1; p < end; number++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p)), *stop = newline != NULL ? newline : end;
        read_line(p, (size_t)(stop - p), number);
        p = stop + 1;
    }
    return 0;
}
