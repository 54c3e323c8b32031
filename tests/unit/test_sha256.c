/* SHA-256 against the vectors of FIPS 180-4 and its example files. */
#include "base/sha256.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static void expect(const void *data, size_t bytes, const char *want)
{
    uint8_t digest[PLP_SHA256_BYTES];
    char hex[PLP_SHA256_HEX];
    plp_sha256(data, bytes, digest);
    plp_sha256_hex(digest, hex);
    assert_string_equal(hex, want);
}

static void standard_vectors(void **state)
{
    (void)state;
    expect("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    expect(million, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

/* Recorded with coreutils' sha256sum: 55 bytes leave room for the padding in their block, 56 and 64 do not. */
static void padding_at_the_edge_of_a_block(void **state)
{
    (void)state;
    char data[120];
    memset(data, 'a', sizeof data);
    expect(data, 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
    expect(data, 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
    expect(data, 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
    expect(data, 119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb");
    expect(data, 120, "2f3d335432c70b580af0e8e1b3674a7c020d683aa5f73aaaedfdc55af904c21c");
}

/* Every length around the padding's edges, cut into pieces at every place, is the digest of the whole. */
static void pieces_make_the_whole(void **state)
{
    (void)state;
    uint8_t data[130], whole[PLP_SHA256_BYTES], pieces[PLP_SHA256_BYTES];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 37 + 11);
    for (size_t n = 0; n <= sizeof data; n++) {
        plp_sha256(data, n, whole);
        for (size_t cut = 0; cut <= n; cut++) {
            plp_sha256_stream s;
            plp_sha256_init(&s);
            plp_sha256_update(&s, data, cut);
            plp_sha256_update(&s, data + cut, n - cut);
            plp_sha256_final(&s, pieces);
            assert_memory_equal(pieces, whole, sizeof whole);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(standard_vectors), cmocka_unit_test(padding_at_the_edge_of_a_block),
                                        cmocka_unit_test(pieces_make_the_whole) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
