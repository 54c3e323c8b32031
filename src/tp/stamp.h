/* src/tp/stamp.h -- what a rank says of itself while it works: where its main thread is, and its last collectives.
 *
 * The main thread alone writes, without locks or system calls: a stamp costs some nanoseconds.  It writes into a page of its own process
 * until the watchdog gives it one that all ranks of the host can read (tp/watchdog.h). */
#ifndef TP_STAMP_H
#define TP_STAMP_H

#include "polylepis/status.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { TP_START, TP_OPEN, TP_LOAD, TP_PREFILL, TP_DECODE, TP_OUTPUT, TP_LEAVE, TP_PHASES } tp_phase;
const char *tp_phase_name(int phase);

/* The main thread lives: it is at `step` (a layer, a piece, a count) of `phase`. */
void tp_stamp(tp_phase phase, int64_t step);

/* ------------------------------------------------------------------------------------------------------------- flight recorder */
typedef enum {
    TP_AGREE,
    TP_BROADCAST,
    TP_GATHER,
    TP_GATHER_UNEVEN,
    TP_BARRIER,
    TP_MAX,
    TP_ALL_REDUCE,
    TP_MEETING,
    TP_DEVICE,
    TP_OPS
} tp_op;
const char *tp_op_name(int op);

/* Around whatever only ends when other ranks come too; between the two this rank is known to wait.  Numbered in the order of the calls,
 * which is the same on every rank. */
void tp_wait_begin(tp_op op, size_t bytes);
plp_status tp_wait_end(plp_status st); /* yields st */
#define TP_WAIT(op, bytes, call) tp_wait_end((tp_wait_begin((op), (bytes)), (call)))

enum { TP_RECORDS = 1024 };
typedef struct {
    _Atomic int64_t seq, op, bytes, issued, done; /* nanoseconds of CLOCK_MONOTONIC; done 0: not yet */
} tp_record;

typedef struct {
    _Atomic int rank, size;
    _Atomic int watched; /* it has a watchdog thread, which counts the beats                    */
    _Atomic int ending;  /* somebody has seen to the end of the job                             */
    _Atomic int phase, waits;
    _Atomic int queues; /* its collectives are queued on a device: a silent step waits for it    */
    _Atomic int64_t step, seq, beats, moves;
    tp_record record[TP_RECORDS]; /* collective n is in n % TP_RECORDS; n counts from 1 */
} tp_page;

/* Where this process stamps; what it stamped so far moves along. */
tp_page *tp_stamp_page(void);
void tp_stamp_into(tp_page *page);

#endif
