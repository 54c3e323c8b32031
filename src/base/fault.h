/* src/base/fault.h -- faults on purpose, in builds with -DPLP_FAULTS=ON alone; elsewhere the macro is PLP_OK.
 *
 *     PLP_FAULT=point:rank:n:action     the n-th time (from 1) that this rank comes to the point:
 *     load forward collective sample write leave convert link
 *     kill SIGKILL   stop SIGSTOP   term SIGTERM   usr1 SIGUSR1   exit exit(3), no goodbye   hang for ever   fail PLP_ERR_INTERNAL
 *     slow 0.7 s, then and every time
 *
 *     PLP_FAULT_HOSTS=n     the watchdog takes every n ranks for those of a host of their own */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include "polylepis/status.h"

#ifdef PLP_FAULTS
plp_status plp_fault(const char *point);
int plp_fault_hosts(void);
#    define PLP_FAULT_AT(point) plp_fault(point)
#    define PLP_FAULT_HOSTS()   plp_fault_hosts()
#else
#    define PLP_FAULT_AT(point) PLP_OK
#    define PLP_FAULT_HOSTS()   0
#endif

#endif
