/* src/base/checked.h -- arithmetic on sizes that come from files.  Every size that a file states passes through here before it is used:
 * what does not fit is an answer, never a smaller number. */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

/* *product = a * b; false: it does not fit into 64 bits. */
static inline bool plp_multiply(uint64_t a, uint64_t b, uint64_t *product) { return !__builtin_mul_overflow(a, b, product); }

/* Whether first .. first + count lies within 0 .. all. */
static inline bool plp_within(uint64_t first, uint64_t count, uint64_t all) { return count <= all && first <= all - count; }

#endif
