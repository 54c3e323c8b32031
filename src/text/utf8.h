/* src/text/utf8.h -- UTF-8, and the classes of characters that tokenizers ask for. */
#ifndef TEXT_UTF8_H
#define TEXT_UTF8_H

#include "text/buffer.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    TEXT_UTF8_BAD = -1, /* bytes that no character begins with */
    TEXT_UTF8_CUT = -2, /* the beginning of a character, which the end of the bytes cuts off */
};

/* The first character of bytes[0, n), n > 0, and its length.  *c < 0: not a character; the length is then that of the longest beginning of
 * one, at least 1, which is what one U+FFFD stands for (Unicode 15, table 3-8: maximal subparts). */
size_t text_utf8_next(const char *bytes, size_t n, int32_t *c);

/* Appends bytes[0, n) with U+FFFD for what is not UTF-8.  *used: how many bytes that took: all, or all but a character cut off at the end
 * unless this is the `last` of the text. */
plp_status text_utf8_repair(const char *bytes, size_t n, bool last, text_buffer *out, size_t *used);

bool text_is_space(int32_t c);       /* White_Space */
bool text_is_numeric(int32_t c);     /* Nd, Nl, No */
bool text_is_punctuation(int32_t c); /* ASCII punctuation, or P* */
bool text_is_word(int32_t c);        /* Alphabetic, M*, Nd, Pc, Join_Control */

#endif
