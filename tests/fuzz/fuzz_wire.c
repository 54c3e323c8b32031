/* What other ranks say, and is not believed: claims of the handshake, what a watcher saw of them, flight recorders, datagrams. */
#include <sys/socket.h>
static ssize_t next_datagram(int fd, void *to, size_t room, int flags, struct sockaddr *from, socklen_t *length);
#define recvfrom next_datagram
#include "tp/flight.c"
#include "tp/group.h"
#include "tp/handshake.h"
#include "tp/judge.h"
#include "tp/link.c"

#include "fuzz.h"

#include <math.h>

enum { RANKS = 4, MESSAGE = TP_HOST + TP_CLAIMS * TP_CLAIM };
static fuzz_input *wire;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

/* In place of MPI: everyone says the same but for what the input changes: rank and place, a length, bytes. */
plp_status tp_gather_all(const tp_group *g, const void *mine, size_t bytes, void *all)
{
    CHECK(bytes == MESSAGE, "a message of %zu bytes", bytes);
    for (int rank = 0; rank < g->size; rank++) memcpy((char *)all + (size_t)rank * bytes, mine, bytes);
    for (int changes = fuzz_below(wire, 6); changes > 0; changes--) {
        const size_t place = (size_t)fuzz_byte(wire) << 8 | (size_t)fuzz_byte(wire), at = place % ((size_t)g->size * bytes);
        size_t length = (size_t)fuzz_byte(wire);
        const int fill = fuzz_byte(wire);
        if (length > (size_t)g->size * bytes - at) length = (size_t)g->size * bytes - at;
        memset((char *)all + at, fill, length);
    }
    return PLP_OK;
}
plp_status tp_agree(const tp_group *g, plp_status mine)
{
    (void)g;
    return mine;
}

plp_status tp_mpi_status(int code, const char *call, const char *file, int line)
{
    (void)call, (void)file, (void)line;
    return code == MPI_SUCCESS ? PLP_OK : PLP_ERR_INTERNAL;
}

static void shake_hands(fuzz_input *in)
{
    static const char *const names[] = { "build", "MPI", "HDF5", "CUDA", "NCCL", "options" };
    tp_group g = { .size = 1 + fuzz_below(in, RANKS), .host = "node" };
    tp_claim claims[TP_CLAIMS];
    const int count = 1 + fuzz_below(in, TP_CLAIMS);
    for (int i = 0; i < count; i++) claims[i] = (tp_claim){ names[i % 6], "1.2.3" };
    wire = in;
    const plp_status st = fuzz_below(in, 2) ? tp_own_devices(&g, "0000:01:00.0") : tp_handshake(&g, claims, count);
    CHECK(st == PLP_OK || st == PLP_ERR_DISAGREE || st == PLP_ERR_DEVICE, "%s", plp_status_name(st));
    if (st != PLP_OK) CHECK(strlen(plp_last_error()) <= 400, "%zu bytes", strlen(plp_last_error()));
    for (const char *p = plp_last_error(); st != PLP_OK && *p != 0; p++) CHECK((unsigned char)*p >= 0x20 && *p != 0x7f, "%s", p);
}

static void judge(fuzz_input *in)
{
    tp_seen seen[RANKS];
    char text[512];
    const int count = 1 + fuzz_below(in, RANKS), all = fuzz_below(in, 2);
    const double limit = fuzz_byte(in);
    for (int i = 0; i < count; i++) {
        const int flags = fuzz_byte(in);
        seen[i] =
            (tp_seen){ .rank = i, .watched = flags & 1, .waits = flags & 2, .queues = flags & 4, .phase = (signed char)fuzz_byte(in) };
        seen[i].step = fuzz_byte(in), seen[i].seq = (int64_t)fuzz_byte(in) << 54;
        seen[i].gone = flags & 8 ? INFINITY : fuzz_byte(in), seen[i].still = flags & 16 ? NAN : fuzz_byte(in);
    }
    const tp_verdict v = tp_judge(seen, count, all, limit);
    CHECK(v.index >= 0 && v.index < count, "rank %d of %d", v.index, count);
    if (v.why == TP_FINE) return;
    CHECK(seen[v.index].watched, "rank %d, which has no watchdog", v.index);
    CHECK(v.why == TP_GONE ? seen[v.index].gone > 0 : seen[v.index].still > limit, "rank %d after %g s", v.index, v.seconds);
    tp_verdict_text(&v, seen, "node", text, sizeof text);
    CHECK(strlen(text) <= 400, "%s", text);
}

/* Recorders as files, one behind the other with 0xff between. */
static void compare_recorders(fuzz_input *in)
{
    static tp_flight all[2];
    int count = 0;
    for (; count < 2 && in->at < in->end; count++) {
        size_t bytes;
        char *text = fuzz_part(in, 0xff, &bytes);
        FILE *f = fmemopen(text, bytes > 0 ? bytes : 1, "r");
        CHECK(f != NULL, "no memory");
        all[count].rows = 0, all[count].rank = all[count].size = 0, all[count].where[0] = 0;
        const bool good = fuzz_answer(read_lines(f, "polylepis-diag.0", &all[count]));
        fclose(f);
        free(text);
        if (!good) return;
        for (int i = 0; i < all[count].rows; i++) {
            const tp_flight_row *r = &all[count].row[i];
            CHECK(r->op >= 0 && r->op < TP_OPS && r->seq > (i > 0 ? r[-1].seq : 0), "row %d", i);
        }
    }
    if (count < 2) return;
    const int64_t seq = tp_flight_difference(all, count);
    CHECK(seq >= 0, "collective %lld", (long long)seq);
    CHECK(seq == tp_flight_difference((tp_flight[]){ all[1], all[0] }, 2), "the order of ranks matters");
}

enum { LEADERS = 3, KNOWN = 7 };
static tp_link watched = { .leaders = LEADERS, .fd = -1, .centre.secret = "sixteen bytes." };

/* In place of a socket: a datagram that is right but for what the input changes, its length among it; signs out of the input's bytes. */
static ssize_t next_datagram(int fd, void *to, size_t room, int flags, struct sockaddr *from, socklen_t *length)
{
    (void)fd, (void)flags;
    if (wire->at >= wire->end) return -1;
    const int what = fuzz_byte(wire), signs = fuzz_below(wire, 5);
    tp_datagram *d = to;
    CHECK(room == sizeof *d, "room for %zu bytes", room);
    memset(from, 0, *length);
    memcpy(d->secret, watched.centre.secret, sizeof d->secret);
    d->kind = what & 1 ? TP_HELLO : TP_BEAT, d->leader = fuzz_below(wire, LEADERS), d->count = signs;
    if (what & 2) d->secret[what >> 4] ^= 1;
    if (what & 4) d->leader = (signed char)fuzz_byte(wire);
    if (what & 8) d->count = (int)((unsigned)fuzz_byte(wire) << 24 | (unsigned)fuzz_byte(wire));
    if (what & 16) d->kind = fuzz_byte(wire);
    for (int i = 0; i < signs; i++) {
        d->sign[i] = (tp_sign){ .rank = (signed char)fuzz_byte(wire), .phase = (signed char)fuzz_byte(wire), .watched = 1 };
        d->sign[i].beats = (int64_t)((uint64_t)fuzz_byte(wire) << 56), d->sign[i].moves = fuzz_byte(wire);
    }
    return what & 32 ? (ssize_t)fuzz_byte(wire) * 200 : (ssize_t)tp_datagram_bytes(signs);
}

static void watch(fuzz_input *in)
{
    static struct sockaddr_in peers[LEADERS];
    tp_sign signs[KNOWN];
    for (int i = 0; i < KNOWN; i++) signs[i] = (tp_sign){ .rank = i };
    wire = in;
    watched.peer = peers;
    tp_link_receive(&watched, signs, KNOWN);
    for (int i = 0; i < KNOWN; i++) CHECK(signs[i].rank == i && signs[i].beats >= 0, "rank %d says that it is %d", i, (int)signs[i].rank);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_input in = { data, data + bytes };
    switch (fuzz_below(&in, 4)) {
    case 0: shake_hands(&in); break;
    case 1: judge(&in); break;
    case 3: watch(&in); break;
    default: compare_recorders(&in);
    }
    return 0;
}
