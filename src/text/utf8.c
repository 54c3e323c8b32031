#include "text/utf8.h"

#include "base/error.h"

#include <utf8proc.h>

size_t text_utf8_next(const char *bytes, size_t n, int32_t *c)
{
    const unsigned char *p = (const unsigned char *)bytes;
    unsigned char least = 0x80, most = 0xbf; /* of the second byte: no overlong form, no surrogate, nothing past U+10FFFF */
    size_t length = 2;
    *c = TEXT_UTF8_BAD;
    if (p[0] < 0x80) return *c = p[0], 1;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 1;
    int32_t value = p[0] & 0x1f;
    if (p[0] >= 0xe0) length = 3, value = p[0] & 0x0f;
    if (p[0] >= 0xf0) length = 4, value = p[0] & 0x07;
    if (p[0] == 0xe0) least = 0xa0;
    if (p[0] == 0xed) most = 0x9f;
    if (p[0] == 0xf0) least = 0x90;
    if (p[0] == 0xf4) most = 0x8f;
    for (size_t i = 1; i < length; i++, least = 0x80, most = 0xbf) {
        if (i == n) return *c = TEXT_UTF8_CUT, i;
        if (p[i] < least || p[i] > most) return i;
        value = value << 6 | (p[i] & 0x3f);
    }
    *c = value;
    return length;
}

plp_status text_utf8_repair(const char *bytes, size_t n, bool last, text_buffer *out, size_t *used)
{
    size_t at = 0, good = 0; /* [good, at): read, not yet written */
    while (at < n) {
        int32_t c;
        const size_t length = text_utf8_next(bytes + at, n - at, &c);
        if (c < 0) {
            PLP_TRY(text_buffer_put(out, bytes + good, at - good));
            if (c == TEXT_UTF8_CUT && !last) return *used = at, PLP_OK;
            PLP_TRY(text_buffer_put(out, "\xef\xbf\xbd", 3));
            good = at + length;
        }
        at += length;
    }
    *used = n;
    return at > good ? text_buffer_put(out, bytes + good, at - good) : PLP_OK;
}

bool text_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool text_is_numeric(int32_t c)
{
    const utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool text_is_punctuation(int32_t c)
{
    if (c < 0x80) return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    const utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool text_is_word(int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: /* the joiners, and the circled and squared letters: symbols that are alphabetic */
        return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
               (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
    }
}
