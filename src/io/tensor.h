/* src/io/tensor.h -- what a file says about one of its tensors. */
#ifndef IO_TENSOR_H
#define IO_TENSOR_H

#include "base/dtype.h"

#include <stdint.h>

enum { IO_NAME = 256, IO_RANK = 4 };

typedef struct {
    char name[IO_NAME]; /* NUL-terminated                                       */
    plp_dtype dtype;
    int rank; /* 0: a scalar                                          */
    int64_t shape[IO_RANK];
    uint64_t offset; /* of the payload from the start of the file            */
    uint64_t bytes;
    int file; /* index among the files of a checkpoint                */
} io_tensor;

static inline int64_t io_tensor_count(const io_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

#endif
