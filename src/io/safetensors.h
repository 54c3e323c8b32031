/* src/io/safetensors.h -- the header of a safetensors file: u64 length, JSON, payload.
 *
 * A scanner for this one grammar instead of a JSON library: those accept duplicate keys, and nothing here nests, so no depth can hurt.
 * Every rule of docs/checkpoints.md is checked before a tensor is believed.  Source of the format: the safetensors README. */
#ifndef IO_SAFETENSORS_H
#define IO_SAFETENSORS_H

#include "io/tensor.h"

#include <stddef.h>

enum { IO_SAFETENSORS_HEADER = 100000000, IO_SAFETENSORS_TENSORS = 1 << 20 };

typedef struct {
    const char *key, *value; /* into the header */
} io_safetensors_pair;

typedef struct {
    io_tensor *tensor; /* sorted by name; `file` is 0 */
    int64_t tensors;
    io_safetensors_pair *metadata; /* sorted by key */
    int64_t pairs;
} io_safetensors;

/* header: `bytes` of JSON, which are decoded in place and must outlive the metadata.  file_bytes: size of the whole file.  PLP_ERR_DATA
 * names `where`, the byte and the rule.  Release with io_safetensors_free, also after a failure. */
plp_status io_safetensors_parse(io_safetensors *s, char *header, size_t bytes, uint64_t file_bytes, const char *where);
void io_safetensors_free(io_safetensors *s);

#endif
