/* CRC-32C: the vectors of RFC 3720, and the fast path against the tables. */
#include "base/crc32c.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static void vectors_of_the_rfc(void **state)
{
    (void)state;
    uint8_t data[32] = { 0 };
    assert_int_equal(plp_crc32c(0, data, 32), 0x8a9136aa);
    memset(data, 0xff, sizeof data);
    assert_int_equal(plp_crc32c(0, data, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) data[i] = (uint8_t)i;
    assert_int_equal(plp_crc32c(0, data, 32), 0x46dd794e);
    assert_int_equal(plp_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(plp_crc32c_tables(0, "123456789", 9), 0xe3069283);
    assert_int_equal(plp_crc32c(0, NULL, 0), 0);
}

/* Lengths around the stripes, odd alignments, and a sum that is carried on from a first part. */
static void fast_path_answers_to_the_tables(void **state)
{
    (void)state;
    enum { ROOM = 3 * 3 * 4096 + 64 };
    uint8_t *data = malloc(ROOM);
    srand(7);
    for (int i = 0; i < ROOM; i++) data[i] = (uint8_t)(rand() >> 7);
    for (int i = 0; i < 2000; i++) {
        const size_t at = (size_t)rand() % 16;
        const size_t bytes = i < 100 ? (size_t)i : i < 200 ? (size_t)(3 * 4096 - 50 + i - 100) : (size_t)rand() % (ROOM - 16);
        const size_t cut = bytes == 0 ? 0 : (size_t)rand() % (bytes + 1);
        const uint32_t want = plp_crc32c_tables(0, data + at, bytes);
        assert_int_equal(plp_crc32c(0, data + at, bytes), want);
        assert_int_equal(plp_crc32c(plp_crc32c(0, data + at, cut), data + at + cut, bytes - cut), want);
    }
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_of_the_rfc),
        cmocka_unit_test(fast_path_answers_to_the_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
