/* src/tp/handshake.h -- what must be equal on all ranks, and what must not, said before anything is read. */
#ifndef TP_HANDSHAKE_H
#define TP_HANDSHAKE_H

#include "tp/tp.h"

enum { TP_CLAIM = 96, TP_CLAIMS = 16 };
typedef struct {
    const char *name;    /* "the model file": the same on every rank */
    char text[TP_CLAIM]; /* this rank's */
} tp_claim;

/* Collective, `count` and the names alike on all ranks.  PLP_ERR_DISAGREE on every rank unless each claim's text is the same everywhere: the
 * message has the first difference, and rank 0's log a line for every rank that differs from it. */
plp_status tp_handshake(const tp_group *g, const tp_claim *claims, int count);

/* Collective.  PLP_ERR_DEVICE on every rank when two of one host claim the same device. */
plp_status tp_own_devices(const tp_group *g, const char *identity);

#endif
