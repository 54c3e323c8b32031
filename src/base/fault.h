/* src/base/fault.h -- faults on purpose, in builds with -DPLP_FAULTS=ON alone; elsewhere PLP_FAULT_AT is PLP_OK.
 *
 *     PLP_FAULT=point:rank:n:action     the n-th time (from 1) that this rank comes to the point:
 *     init handshake load forward collective sample journal finish write leave convert link nccl
 *     kill SIGKILL   stop SIGSTOP   term SIGTERM   usr1 SIGUSR1   exit exit(3), no goodbye   abort   segv   hang for ever
 *     fail PLP_ERR_INTERNAL   slow 0.7 s, then and every time
 *
 * Where numbers are computed, `nan` puts one where the point says: into the first sequence's row behind the embedding, its SSM state, its
 * conv window (of the middle layer), or its logits:
 *     embed ssm conv logits
 *
 * Such builds also fill the state slot of a sequence that has ended with NaN, so that whoever reads it shows.
 *
 *     PLP_FAULT_HOSTS=n     the watchdog takes every n ranks for those of a host of their own */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include "polylepis/status.h"

#include <stdbool.h>

#ifdef PLP_FAULTS
plp_status plp_fault(const char *point);
bool plp_fault_nan(const char *point);
int plp_fault_hosts(void);
#    define PLP_FAULT_AT(point) plp_fault(point)
#    define PLP_FAULT_HOSTS()   plp_fault_hosts()
enum { PLP_FAULTS_ON = 1 };
#else
#    define PLP_FAULT_AT(point) PLP_OK
static inline int PLP_FAULT_HOSTS(void) { return 0; }
enum { PLP_FAULTS_ON = 0 };
#endif

#endif
