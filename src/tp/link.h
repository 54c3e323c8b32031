/* src/tp/link.h -- what the watchdogs of different hosts tell each other: a star of UDP datagrams around rank 0.
 *
 * Every host has a leader, its lowest rank, whose watchdog thread sends the signs of all ranks of the host to rank 0 with each tick; rank 0
 * sends its own to all leaders.  A datagram that is lost does no harm, the next one says more.  MPI is not used once the link is open: it
 * would need MPI_THREAD_MULTIPLE, which not every MPI has and every call would pay for, and a thread that waits in it may hold the lock that
 * the watchdog needs.  A datagram is believed when it begins with the job's secret, sixteen random bytes that went round by MPI. */
#ifndef TP_LINK_H
#define TP_LINK_H

#include "polylepis/status.h"

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A rank's page (tp/stamp.h), but for its records. */
typedef struct {
    int32_t rank, watched, waits, queues, phase, reserved;
    int64_t step, seq, beats, moves;
} tp_sign;

enum { TP_SECRET = 16, TP_SIGNS = 512 }; /* signs of a datagram: less than 32 KiB */
typedef struct {
    uint8_t secret[TP_SECRET];
    int32_t kind, leader; /* who sends: a rank among the leaders */
    int32_t count, reserved;
    tp_sign sign[TP_SIGNS];
} tp_datagram;
enum { TP_HELLO, TP_BEAT };

/* Bytes of a datagram with so many signs. */
size_t tp_datagram_bytes(int count);
/* Whether these bytes are a datagram of this job: secret, kind, sender and length. */
bool tp_datagram_is_good(const tp_datagram *d, size_t bytes, const uint8_t secret[TP_SECRET], int leaders);

typedef struct tp_link tp_link;

/* Collective over the leaders' communicator, rank 0 being the centre.  *link stays NULL, without an error, where a host may have no
 * socket or its datagrams do not get through within three seconds. */
plp_status tp_link_open(tp_link **link, MPI_Comm leaders);
void tp_link_close(tp_link **link);

/* Neither waits.  Of what has come the newest is kept in signs[rank], with `size` ranks. */
void tp_link_send(tp_link *link, const tp_sign *signs, int count);
void tp_link_receive(tp_link *link, tp_sign *signs, int size);

#endif
