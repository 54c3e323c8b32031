/* src/base/utf8.h -- characters as bytes, and whether bytes are UTF-8: well formed as in Unicode 15, table 3-7. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at p < end; 0 for one that is cut off, overlong, a surrogate or beyond U+10FFFF. */
size_t plp_utf8_length(const char *p, const char *end);
bool plp_is_utf8(const char *text); /* up to its NUL */

/* Half of a pair by which UTF-16 and JSON's escapes spell a character beyond U+FFFF; by itself it is none. */
static inline bool plp_is_surrogate(int32_t c) { return c >= 0xd800 && c <= 0xdfff; }

/* The bytes of a character, and how many there are. */
size_t plp_utf8_put(int32_t c, char out[4]);

#endif
