/* src/io/checkpoint.h -- a checkpoint directory as people bring it: safetensors, one file or many.
 *
 * Finds, in this order: model.safetensors.index.json (with its shards), model.safetensors, consolidated.safetensors.  Headers are
 * validated completely at open (rules of docs/checkpoints.md); payloads are read by offset, never mapped.  Source of the format: the
 * safetensors README. */
#ifndef IO_CHECKPOINT_H
#define IO_CHECKPOINT_H

#include "base/sha256.h"
#include "io/gather.h"

#include <stddef.h>

typedef struct io_checkpoint io_checkpoint;

/* PLP_ERR_INPUT when the directory or all of its weights are missing, PLP_ERR_DATA when a file breaks a rule (named with its byte). */
plp_status io_checkpoint_open(io_checkpoint **c, const char *dir);
void io_checkpoint_close(io_checkpoint **c);

const char *io_checkpoint_dir(const io_checkpoint *c);
int64_t io_checkpoint_tensors(const io_checkpoint *c);
const io_tensor *io_checkpoint_tensor(const io_checkpoint *c, int64_t i); /* sorted by name */
/* NULL if there is none.  Names that the file's __metadata__ records as dropped duplicates resolve to the tensor that was kept. */
const io_tensor *io_checkpoint_find(const io_checkpoint *c, const char *name);

/* `count` elements from element `first` on, in the tensor's own dtype.  PLP_ERR_SHAPE unless they exist. */
plp_status io_checkpoint_read(const io_checkpoint *c, const io_tensor *t, int64_t first, int64_t count, void *dst);
plp_status io_checkpoint_read_ranges(const io_checkpoint *c, const io_range *list, int n);
/* How many threads share a read; 1 at first.  One caller at a time. */
void io_checkpoint_threads(const io_checkpoint *c, int threads);

/* SHA-256 over the files' names, sizes and headers, and over a sample of each tensor's values: all of up to 8 KiB, else 4 KiB each at the start,
 * in the middle and at the end.  A fine-tune is told apart, a change of other bytes is not.  Reads: PLP_ERR_IO where a file got shorter. */
plp_status io_checkpoint_digest(const io_checkpoint *c, uint8_t digest[PLP_SHA256_BYTES]);

/* Total payload bytes read through this handle, but for the digest's sample: what `inspect` and the loading line report. */
uint64_t io_checkpoint_bytes_read(const io_checkpoint *c);

#endif
