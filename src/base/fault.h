/* src/base/fault.h -- faults on purpose, in builds with -DPLP_FAULTS=ON alone; elsewhere the macro is PLP_OK.
 *
 *     PLP_FAULT=point:rank:n:action     the n-th time (from 1) that this rank comes to the point:
 *     load forward collective sample write leave convert
 *     kill SIGKILL   stop SIGSTOP   term SIGTERM   usr1 SIGUSR1   exit exit(3), no goodbye   hang for ever   fail PLP_ERR_INTERNAL
 *     slow 0.7 s, then and every time */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include "polylepis/status.h"

#ifdef PLP_FAULTS
plp_status plp_fault(const char *point);
#    define PLP_FAULT_AT(point) plp_fault(point)
#else
#    define PLP_FAULT_AT(point) PLP_OK
#endif

#endif
