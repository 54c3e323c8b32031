/* src/io/gather.h -- ranges of tensors, read side by side by several threads.
 *
 * A range is cut at multiples of IO_BLOCK of its tensor, and whichever thread is free takes the next piece of any of them.  What comes out
 * does not depend on the number of threads, and of several failures the first in the list is reported. */
#ifndef IO_GATHER_H
#define IO_GATHER_H

#include "io/tensor.h"

#include <stdbool.h>
#include <stddef.h>

enum { IO_BLOCK = 1 << 20, IO_MOST_THREADS = 16 }; /* more threads than that wait for memory */

typedef struct {
    const io_tensor *tensor;
    int64_t first, count; /* elements */
    void *dst;            /* (count), or what `take` knows as its own */
    /* NULL: as they are.  Else gets elements at .. at + count of the range, each once, in any order and from any thread. */
    void (*take)(void *dst, int64_t at, const void *data, int64_t count);
} io_range;

/* A thread's memory for what does not go straight into its place, and what is in it. */
typedef struct {
    uint8_t *data; /* (IO_BLOCK) once it is needed */
    int64_t block; /* the owner's business; -1 at first */
} io_scratch;

typedef struct io_gather io_gather;

/* Bytes from .. from + count of the tensor, all of one block: anywhere, *data says where; best at `direct` where that is not NULL. */
typedef plp_status (*io_fetch)(const void *file, const io_tensor *t, uint64_t from, uint64_t count, uint8_t *direct, io_scratch *scratch,
                               const uint8_t **data);

plp_status io_gather_create(io_gather **g);
void io_gather_destroy(io_gather **g);
/* The caller among them; 1 at first.  The others are started when they are needed, and wait without spinning; a smaller number ends them. */
void io_gather_threads(io_gather *g, int threads);
plp_status io_gather_read(io_gather *g, const io_range *list, int n, io_fetch fetch, const void *file);

#endif
