#include "tp/handshake.h"

#include "tp/group.h"

#include "base/error.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char host[TP_HOST];
    char text[TP_CLAIMS][TP_CLAIM];
} says;

/* Everyone's, for the caller to free. */
static plp_status gather(const tp_group *g, const tp_claim *claims, int count, says **all)
{
    says mine = { 0 };
    *all = NULL;
    if (count > TP_CLAIMS) return PLP_FAIL(PLP_ERR_INTERNAL, "%d claims, at most %d", count, TP_CLAIMS);
    memcpy(mine.host, g->host, sizeof mine.host);
    for (int i = 0; i < count; i++) snprintf(mine.text[i], TP_CLAIM, "%s", claims[i].text);
    PLP_TRY(tp_agree(g, PLP_ALLOCATED(*all = calloc((size_t)g->size, sizeof **all))));
    PLP_TRY(tp_gather_all(g, &mine, sizeof mine, *all));
    for (int r = 0; r < g->size; r++) { /* what another program says may have no end */
        (*all)[r].host[TP_HOST - 1] = 0;
        for (int i = 0; i < TP_CLAIMS; i++) (*all)[r].text[i][TP_CLAIM - 1] = 0;
    }
    return PLP_OK;
}

plp_status tp_handshake(const tp_group *g, const tp_claim *claims, int count)
{
    says *all;
    int claim = -1, rank = 0; /* the first difference */
    plp_status st = gather(g, claims, count, &all);
    for (int r = 1; st == PLP_OK && r < g->size; r++)
        for (int i = 0; i < count; i++) {
            if (strcmp(all[r].text[i], all[0].text[i]) == 0) continue;
            if (claim < 0) claim = i, rank = r;
            plp_log(PLP_LOG_INFO, "  rank %-4d %-20s %-16s %s  (rank 0: %s)", r, all[r].host, claims[i].name, all[r].text[i],
                    all[0].text[i]);
        }
    if (claim >= 0)
        st = PLP_FAIL(
            PLP_ERR_DISAGREE,
            "rank %d on %s has another %s than rank 0: %s, rank 0 %s; fix: start every rank with the same program, files and options", rank,
            all[rank].host, claims[claim].name, all[rank].text[claim], all[0].text[claim]);
    free(all);
    return st;
}

plp_status tp_own_devices(const tp_group *g, const char *identity)
{
    tp_claim claim = { .name = "device" };
    says *all;
    snprintf(claim.text, sizeof claim.text, "%s", identity);
    plp_status st = gather(g, &claim, 1, &all);
    for (int r = 1; st == PLP_OK && r < g->size; r++)
        for (int other = 0; st == PLP_OK && other < r; other++)
            if (strcmp(all[r].host, all[other].host) == 0 && strcmp(all[r].text[0], all[other].text[0]) == 0)
                st = PLP_FAIL(PLP_ERR_DEVICE, "ranks %d and %d on %s have the same GPU %s; fix: one rank a GPU, or --comm mpi", other, r,
                              all[r].host, all[r].text[0]);
    free(all);
    return st;
}
