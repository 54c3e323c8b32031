/* Whatever one rank claims differently is found, by every rank, and named; equal claims pass. */
#include "mpi_test.h"

#include "base/log.h"
#include "tp/handshake.h"

#include <polylepis/status.h>
#include <stdio.h>
#include <string.h>

enum { CLAIMS = 3 };

static void claim(tp_claim *claims)
{
    static const char *const names[CLAIMS] = { "build", "options", "model file" };
    for (int i = 0; i < CLAIMS; i++) {
        claims[i] = (tp_claim){ .name = names[i] };
        snprintf(claims[i].text, TP_CLAIM, "%s of all", names[i]);
    }
}

static void differences(const tp_group *g)
{
    tp_claim claims[CLAIMS];
    char wanted[80];
    claim(claims);
    CHECK(tp_handshake(g, claims, CLAIMS) == PLP_OK);
    for (int odd = 0; odd < tp_size(g); odd++)
        for (int i = 0; i < CLAIMS; i++) {
            claim(claims);
            if (tp_rank(g) == odd) snprintf(claims[i].text, TP_CLAIM, "another");
            CHECK(tp_handshake(g, claims, CLAIMS) == (tp_size(g) > 1 ? PLP_ERR_DISAGREE : PLP_OK));
            snprintf(wanted, sizeof wanted, "rank %d on %s has another %s", odd > 0 ? odd : 1, tp_host(g), claims[i].name);
            CHECK(tp_size(g) == 1 || strstr(plp_last_error(), wanted) != NULL);
        }
    memset(claims[0].text, 'x', TP_CLAIM - 1); /* to the last byte */
    claims[0].text[TP_CLAIM - 2] = (char)('a' + (tp_rank(g) == tp_size(g) - 1));
    CHECK(tp_handshake(g, claims, 1) == (tp_size(g) > 1 ? PLP_ERR_DISAGREE : PLP_OK));
}

/* The ranks of this test are all on one host. */
static void devices(const tp_group *g)
{
    char identity[TP_CLAIM];
    snprintf(identity, sizeof identity, "0000:%02x:00.0", tp_rank(g));
    CHECK(tp_own_devices(g, identity) == PLP_OK);
    if (tp_rank(g) == tp_size(g) - 1) snprintf(identity, sizeof identity, "0000:00:00.0"); /* rank 0's */
    CHECK(tp_own_devices(g, identity) == (tp_size(g) > 1 ? PLP_ERR_DEVICE : PLP_OK));
    CHECK(tp_size(g) == 1 || strstr(plp_last_error(), "ranks 0 and") != NULL);
}

int main(int argc, char **argv)
{
    tp_group *g = mpi_test_begin(&argc, &argv);
    plp_log_threshold(PLP_LOG_WARN); /* the tables are wanted, but not here */
    differences(g);
    devices(g);
    return mpi_test_end(g);
}
