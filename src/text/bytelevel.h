/* src/text/bytelevel.h -- GPT-2's alphabet: a printable character for each byte, so that a vocabulary of text can hold any bytes.
 *
 * Printable Latin-1 stands for itself; the other 68 bytes, in order, are U+0100 and up. */
#ifndef TEXT_BYTELEVEL_H
#define TEXT_BYTELEVEL_H

#include "text/buffer.h"

#include <stdbool.h>

plp_status text_bytelevel_encode(const char *bytes, size_t count, text_buffer *out);
/* Appends the bytes that a token stands for; a token with a character of another alphabet stands for itself. */
plp_status text_bytelevel_decode(const char *token, size_t count, text_buffer *out);

#endif
