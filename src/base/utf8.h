/* src/base/utf8.h -- whether bytes are UTF-8: well formed as in Unicode 15, table 3-7. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character at p < end; 0 for one that is cut off, overlong, a surrogate or beyond U+10FFFF. */
size_t plp_utf8_length(const char *p, const char *end);
bool plp_is_utf8(const char *text); /* up to its NUL */

#endif
