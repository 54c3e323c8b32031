#include "base/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#    include <nmmintrin.h>
#endif

enum { POLYNOMIAL = (int)0x82f63b78, STRIPE = 4096 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint32_t after[8][256]; /* [k][b]: the remainder of byte b with k zero bytes behind it          */
static uint32_t skip[4][256];  /* [k][b]: the remainder b << 8 k, carried over STRIPE zero bytes        */
static bool has_instruction;

static uint32_t step(uint32_t sum, uint8_t byte) { return sum >> 8 ^ after[0][(sum ^ byte) & 255]; }

static void make_tables(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t r = b;
        for (int bit = 0; bit < 8; bit++) r = r >> 1 ^ (r & 1 ? (uint32_t)POLYNOMIAL : 0);
        after[0][b] = r;
    }
    for (int k = 1; k < 8; k++)
        for (int b = 0; b < 256; b++) after[k][b] = step(after[k - 1][b], 0);
    for (int k = 0; k < 4; k++)
        for (int bit = 0; bit < 8; bit++) { /* a remainder is linear in its bits: find each bit's, then add them up */
            uint32_t r = (uint32_t)1 << (8 * k + bit);
            for (int i = 0; i < STRIPE; i++) r = step(r, 0);
            for (int b = 0; b < 256; b++)
                if (b >> bit & 1) skip[k][b] ^= r;
        }
#if defined(__x86_64__)
    has_instruction = __builtin_cpu_supports("sse4.2");
#endif
}

static uint32_t by_tables(uint32_t r, const uint8_t *p, size_t bytes)
{
    for (; bytes >= 8; p += 8, bytes -= 8) {
        r ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        r = after[7][r & 255] ^ after[6][r >> 8 & 255] ^ after[5][r >> 16 & 255] ^ after[4][r >> 24] ^ after[3][p[4]] ^ after[2][p[5]] ^
            after[1][p[6]] ^ after[0][p[7]];
    }
    while (bytes-- > 0) r = step(r, *p++);
    return r;
}

#if defined(__x86_64__)
static uint32_t over_stripe(uint32_t r) { return skip[0][r & 255] ^ skip[1][r >> 8 & 255] ^ skip[2][r >> 16 & 255] ^ skip[3][r >> 24]; }

__attribute__((target("sse4.2"))) static uint64_t word(uint64_t r, const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return _mm_crc32_u64(r, v);
}

/* One instruction waits three cycles for the one before it, so three stripes are summed side by side and joined afterwards. */
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t r, const uint8_t *p, size_t bytes)
{
    for (; bytes >= 3 * STRIPE; p += 3 * STRIPE, bytes -= 3 * STRIPE) {
        uint64_t a = r, b = 0, c = 0;
        for (int i = 0; i < STRIPE; i += 8) a = word(a, p + i), b = word(b, p + STRIPE + i), c = word(c, p + 2 * STRIPE + i);
        r = over_stripe(over_stripe((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
    }
    for (; bytes >= 8; p += 8, bytes -= 8) r = (uint32_t)word(r, p);
    while (bytes-- > 0) r = _mm_crc32_u8(r, *p++);
    return r;
}
#endif

uint32_t plp_crc32c_tables(uint32_t sum, const void *data, size_t bytes)
{
    pthread_once(&once, make_tables);
    return ~by_tables(~sum, data, bytes);
}

uint32_t plp_crc32c(uint32_t sum, const void *data, size_t bytes)
{
    pthread_once(&once, make_tables);
#if defined(__x86_64__)
    if (has_instruction) return ~by_instruction(~sum, data, bytes);
#endif
    return ~by_tables(~sum, data, bytes);
}
