/* tests/mpi/golden.h -- recorded answers: token ids, logits and greedy continuations that another implementation computed. */
#ifndef MPI_GOLDEN_H
#define MPI_GOLDEN_H

#include <stdbool.h>

typedef struct {
    int batch, tokens, vocab, steps;
    int *ids;      /* (batch, tokens)        */
    float *logits; /* (batch, tokens, vocab) */
    int *greedy;   /* (batch, steps)         */
} golden;

/* A plain reader of its own: the product's refuses integer tensors, and must not judge itself. */
bool golden_read(golden *g, const char *path);
void golden_free(golden *g);

#endif
