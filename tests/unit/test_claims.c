/* The handshake over a wire that is not there: what other ranks say is whatever a test puts there. */
#include "base/error.h"
#include "tp/group.h"
#include "tp/handshake.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

enum { RANKS = 3, MESSAGE = TP_HOST + TP_CLAIMS * TP_CLAIM };
static size_t from, count; /* bytes of everyone's messages that are not what they should be */

plp_status tp_gather_all(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    assert_int_equal(bytes, MESSAGE);
    for (int rank = 0; rank < g->size; rank++) memcpy((char *)all + (size_t)rank * bytes, mine, bytes);
    memset((char *)all + from, 'A', count);
    return PLP_OK;
}
plp_status tp_agree(const tp_group *g, plp_status mine)
{
    (void)g;
    return mine;
}

static plp_status shake(int claims)
{
    const tp_group g = { .size = RANKS, .host = "node" };
    tp_claim list[TP_CLAIMS];
    for (int i = 0; i < claims; i++) list[i] = (tp_claim){ "build", "1.2.3" };
    return tp_handshake(&g, list, claims);
}

/* A rank that is another program may send anything: its text need not end where a text should. */
static void texts_without_an_end(void **state)
{
    (void)state;
    from = count = 0;
    assert_int_equal(shake(TP_CLAIMS), PLP_OK);
    from = MESSAGE, count = 2 * MESSAGE; /* ranks 1 and 2, to the last byte */
    assert_int_equal(shake(TP_CLAIMS), PLP_ERR_DISAGREE);
    assert_non_null(strstr(plp_last_error(), "rank 1 on AAAA"));
    assert_true(strlen(plp_last_error()) <= 400);
    from = 0, count = 3 * MESSAGE;
    assert_int_equal(shake(TP_CLAIMS), PLP_OK);
    const tp_group g = { .size = RANKS, .host = "node" };
    assert_int_equal(tp_own_devices(&g, "0000:01:00.0"), PLP_ERR_DEVICE);
    assert_true(strlen(plp_last_error()) <= 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(texts_without_an_end) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
