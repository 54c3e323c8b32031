#include "text/bytelevel.h"

#include "base/error.h"
#include "base/utf8.h"
#include "text/utf8.h"

static bool stands_for_itself(int byte) { return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae; }

enum { OTHERS = 68 }; /* bytes 0 to 0x20, 0x7f to 0xa0, 0xad */

static int32_t character_of(int byte)
{
    if (stands_for_itself(byte)) return byte;
    return 0x100 + (byte <= 0x20 ? byte : byte <= 0xa0 ? byte - 0x7f + 0x21 : OTHERS - 1);
}

static int byte_of(int32_t c) /* -1: not of the alphabet */
{
    if (c < 0x100) return c >= 0 && stands_for_itself(c) ? c : -1;
    if (c >= 0x100 + OTHERS) return -1;
    const int n = c - 0x100;
    return n <= 0x20 ? n : n < OTHERS - 1 ? n - 0x21 + 0x7f : 0xad;
}

plp_status text_bytelevel_encode(const char *bytes, size_t count, text_buffer *out)
{
    for (size_t i = 0; i < count; i++) {
        char character[4];
        PLP_TRY(text_buffer_put(out, character, plp_utf8_put(character_of((unsigned char)bytes[i]), character)));
    }
    return PLP_OK;
}

plp_status text_bytelevel_decode(const char *token, size_t count, text_buffer *out)
{
    const size_t used = out->used;
    for (size_t at = 0; at < count;) {
        int32_t c;
        at += text_utf8_next(token + at, count - at, &c);
        const char byte = (char)byte_of(c);
        if (byte_of(c) < 0) {
            out->used = used;
            return text_buffer_put(out, token, count);
        }
        PLP_TRY(text_buffer_put(out, &byte, 1));
    }
    return PLP_OK;
}
