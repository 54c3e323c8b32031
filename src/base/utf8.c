#include "base/utf8.h"

#include <string.h>

size_t plp_utf8_length(const char *p, const char *end)
{
    const unsigned char *u = (const unsigned char *)p;
    const size_t n = u[0] < 0x80                   ? 1
                     : u[0] >= 0xc2 && u[0] < 0xe0 ? 2
                     : u[0] >= 0xe0 && u[0] < 0xf0 ? 3
                     : u[0] >= 0xf0 && u[0] < 0xf5 ? 4
                                                   : 0;
    if (n == 0 || (size_t)(end - p) < n) return 0;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80) return 0;
    if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f))
        return 0;
    return n;
}

bool plp_is_utf8(const char *text)
{
    const char *const end = text + strlen(text);
    for (size_t n; text < end; text += n)
        if ((n = plp_utf8_length(text, end)) == 0) return false;
    return true;
}

size_t plp_utf8_put(int32_t c, char out[4])
{
    if (c < 0x80) return out[0] = (char)c, 1;
    const size_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = { [2] = 0xc0, [3] = 0xe0, [4] = 0xf0 };
    for (size_t i = length - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[length] | c);
    return length;
}
