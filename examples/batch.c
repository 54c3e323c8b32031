/* Many prompts through one model, with the C library:
 *
 *     mpirun -np 2 ./batch MODEL "In the beginning" "And the LORD"
 *
 * prints, from rank 0, a line for each prompt as it finishes. */
#include <polylepis/polylepis.h>

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static plp_status submit(plp_engine *engine, const char *prompt, uint64_t *id)
{
    plp_request request = plp_request_defaults();
    int *ids = NULL;
    plp_status st = plp_encode(engine, prompt, strlen(prompt), 1, &ids, &request.count);
    if (st != PLP_OK) return st;
    request.ids = ids;
    request.sampling.temperature = 0;
    request.max_tokens = 24;
    st = plp_engine_submit(engine, &request, id);
    plp_free(ids);
    return st;
}

/* Text grows with the events; it is printed whole when its request is done. */
typedef struct {
    uint64_t id;
    char text[1024];
} answer;

static void note(answer *answers, int count, const plp_event *event, int prints)
{
    for (int i = 0; i < count; i++) {
        answer *a = &answers[i];
        if (a->id != event->request) continue;
        strncat(a->text, event->text, sizeof a->text - strlen(a->text) - 1);
        if (event->kind == PLP_EVENT_FINISHED && prints) printf("%d:%s\n", i, a->text);
        if (event->kind == PLP_EVENT_ERROR && prints) printf("%d failed: %s\n", i, event->message);
    }
}

static plp_status run(const char *model, char **prompts, int count, answer *answers)
{
    const plp_engine_options options = { .model = model, .max_seqs = 4 };
    plp_engine *engine = NULL;
    plp_engine_info info;
    plp_event event;
    int left = count;
    plp_status st = plp_engine_create(&engine, MPI_COMM_WORLD, &options);
    if (st != PLP_OK) return st;
    plp_engine_describe(engine, &info);
    for (int i = 0; i < count && st == PLP_OK; i++) st = submit(engine, prompts[i], &answers[i].id);
    while (st == PLP_OK && left > 0) {
        st = plp_engine_step(engine, &left);
        while (st == PLP_OK && plp_engine_next_event(engine, &event)) note(answers, count, &event, info.rank == 0);
    }
    plp_engine_destroy(&engine);
    return st;
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    const int count = argc > 2 ? argc - 2 : 0;
    answer *answers = calloc((size_t)count + 1, sizeof *answers);
    plp_status st = PLP_ERR_USAGE;
    if (answers != NULL && count > 0) st = run(argv[1], argv + 2, count, answers);
    if (st != PLP_OK) {
        fprintf(stderr, "%s: %s\n", plp_status_name(st), count > 0 ? plp_last_error() : "usage: batch MODEL PROMPT...");
        MPI_Abort(MPI_COMM_WORLD, plp_status_exit(st));
    }
    free(answers);
    MPI_Finalize();
    return 0;
}
