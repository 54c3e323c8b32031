/* src/base/crc32c.h -- CRC-32C (Castagnoli; RFC 3720, appendix B.4): the checksum of a model file's blocks.
 *
 * Every change of up to 32 neighbouring bits is found.  Uses the processor's own instruction where there is one. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* sum: 0, or the result for the bytes that come before these. */
uint32_t plp_crc32c(uint32_t sum, const void *data, size_t bytes);
/* The same by tables alone: the definition that the fast path answers to. */
uint32_t plp_crc32c_tables(uint32_t sum, const void *data, size_t bytes);

#endif
