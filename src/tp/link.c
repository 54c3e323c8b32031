#include "tp/link.h"

#include "tp/tp.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ADDRESSES = 16 };
static const double patience = 3; /* seconds, for the first answer */

/* Where rank 0 listens, as the others are told by MPI. */
typedef struct {
    uint8_t secret[TP_SECRET];
    uint32_t address[ADDRESSES]; /* of its interfaces, in network order */
    int32_t count;
    uint16_t port; /* in network order */
} centre;

struct tp_link {
    int leader, leaders;
    int fd; /* of rank 0: any peer; of the others: connected to rank 0 */
    centre centre;
    struct sockaddr_in *peer; /* (leaders), rank 0 alone; port 0: not heard of */
    tp_datagram out, in;
};

size_t tp_datagram_bytes(int count) { return offsetof(tp_datagram, sign) + (size_t)count * sizeof(tp_sign); }

bool tp_datagram_is_good(const tp_datagram *d, size_t bytes, const uint8_t secret[TP_SECRET], int leaders)
{
    unsigned differ = 0;
    if (bytes < tp_datagram_bytes(0) || bytes > sizeof *d) return false;
    for (int i = 0; i < TP_SECRET; i++) differ |= d->secret[i] ^ secret[i]; /* all of it, whatever the first byte */
    return differ == 0 && (d->kind == TP_HELLO || d->kind == TP_BEAT) && d->leader >= 0 && d->leader < leaders && d->count >= 0 &&
           d->count <= TP_SIGNS && bytes == tp_datagram_bytes(d->count);
}

static struct sockaddr_in socket_address(uint32_t address, uint16_t port)
{
    return (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = address, .sin_port = port };
}

static int new_socket(void) { return socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

/* -------------------------------------------------------------------------------------------------------------------- datagrams */
static tp_datagram *prepare(tp_link *l, int kind, const tp_sign *signs, int count)
{
    memcpy(l->out.secret, l->centre.secret, TP_SECRET);
    l->out.kind = kind, l->out.leader = l->leader, l->out.count = count;
    if (count > 0) memcpy(l->out.sign, signs, (size_t)count * sizeof *signs);
    return &l->out;
}

/* One that is not sent is as good as lost. */
static void send_to(const tp_link *l, int fd, const struct sockaddr_in *to)
{
    const struct sockaddr *address = (const struct sockaddr *)to;
    if (sendto(fd, &l->out, tp_datagram_bytes(l->out.count), MSG_NOSIGNAL, address, to != NULL ? sizeof *to : 0) < 0) return;
}

/* The next one of this job that has come; false when there is none. */
static bool next(tp_link *l, int fd, struct sockaddr_in *from)
{
    for (;;) {
        socklen_t length = sizeof *from;
        const ssize_t n = recvfrom(fd, &l->in, sizeof l->in, MSG_TRUNC, (struct sockaddr *)from, &length);
        if (n < 0) return false; /* nothing there, or a host that says there is nobody */
        if (tp_datagram_is_good(&l->in, (size_t)n, l->centre.secret, l->leaders)) return true;
    }
}

void tp_link_send(tp_link *l, const tp_sign *signs, int count)
{
    for (int first = 0; first < count; first += TP_SIGNS) {
        prepare(l, TP_BEAT, signs + first, count - first < TP_SIGNS ? count - first : TP_SIGNS);
        if (l->leader != 0)
            send_to(l, l->fd, NULL);
        else
            for (int i = 1; i < l->leaders; i++) send_to(l, l->fd, &l->peer[i]);
    }
}

void tp_link_receive(tp_link *l, tp_sign *signs, int size)
{
    struct sockaddr_in from;
    while (next(l, l->fd, &from)) {
        l->peer[l->in.leader] = from; /* of several sockets that asked, the one that is kept */
        for (int i = 0; i < l->in.count && l->in.kind == TP_BEAT; i++) {
            const tp_sign *s = &l->in.sign[i];
            if (s->rank < 0 || s->rank >= size || s->beats < signs[s->rank].beats) continue; /* one that was overtaken */
            signs[s->rank] = *s;
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------------------- open */
static plp_status listen_everywhere(tp_link *l)
{
    struct sockaddr_in any = socket_address(htonl(INADDR_ANY), 0);
    socklen_t length = sizeof any;
    struct ifaddrs *all = NULL;
    if (getrandom(l->centre.secret, TP_SECRET, 0) != TP_SECRET) return PLP_FAIL_ERRNO("get", "random bytes for the watchdog");
    l->fd = new_socket();
    if (l->fd < 0 || bind(l->fd, (struct sockaddr *)&any, sizeof any) != 0 || getsockname(l->fd, (struct sockaddr *)&any, &length) != 0 ||
        getifaddrs(&all) != 0)
        return PLP_FAIL_ERRNO("open", "a socket for the watchdog");
    l->centre.port = any.sin_port;
    for (int loopback = 0; loopback < 2; loopback++) /* last, for hosts that have nothing else */
        for (const struct ifaddrs *a = all; a != NULL && l->centre.count < ADDRESSES; a = a->ifa_next) {
            if (a->ifa_addr == NULL || a->ifa_addr->sa_family != AF_INET || !(a->ifa_flags & IFF_UP)) continue;
            if (((a->ifa_flags & IFF_LOOPBACK) != 0) != (loopback != 0)) continue;
            l->centre.address[l->centre.count++] = ((const struct sockaddr_in *)a->ifa_addr)->sin_addr.s_addr;
        }
    freeifaddrs(all);
    return PLP_OK;
}

/* Rank 0: answers whoever asks, until all have said by MPI how it went. */
static plp_status answer(tp_link *l, MPI_Request *agreed)
{
    const struct timespec pause = { .tv_nsec = 1000000 };
    int done = 0;
    struct sockaddr_in from;
    for (;;) {
        while (next(l, l->fd, &from)) {
            if (l->in.leader == 0) continue;
            l->peer[l->in.leader] = from;
            prepare(l, TP_HELLO, NULL, 0);
            send_to(l, l->fd, &from);
        }
        PLP_TRY(TP_MPI(MPI_Test(agreed, &done, MPI_STATUS_IGNORE)));
        if (done) return PLP_OK;
        nanosleep(&pause, NULL);
    }
}

/* Another leader: asks at all of rank 0's addresses, and keeps the one that answers first. */
static bool ask(tp_link *l)
{
    struct pollfd sockets[ADDRESSES];
    const int count = l->centre.count;
    int answered = -1;
    const double until = plp_seconds() + patience;
    prepare(l, TP_HELLO, NULL, 0);
    for (int i = 0; i < count; i++) {
        const struct sockaddr_in to = socket_address(l->centre.address[i], l->centre.port);
        sockets[i] = (struct pollfd){ .fd = new_socket(), .events = POLLIN };
        if (sockets[i].fd >= 0 && connect(sockets[i].fd, (const struct sockaddr *)&to, sizeof to) != 0)
            close(sockets[i].fd), sockets[i].fd = -1;
    }
    while (answered < 0 && plp_seconds() < until) {
        struct sockaddr_in from;
        for (int i = 0; i < count; i++)
            if (sockets[i].fd >= 0) send_to(l, sockets[i].fd, NULL);
        if (poll(sockets, (nfds_t)count, 100) < 0) continue;
        for (int i = 0; i < count && answered < 0; i++)
            if (sockets[i].fd >= 0 && next(l, sockets[i].fd, &from) && l->in.leader == 0) answered = i;
    }
    for (int i = 0; i < count; i++) {
        if (i == answered) l->fd = sockets[i].fd;
        if (i != answered && sockets[i].fd >= 0) close(sockets[i].fd);
    }
    return answered >= 0;
}

void tp_link_close(tp_link **link)
{
    tp_link *l = *link;
    if (l == NULL) return;
    if (l->fd >= 0) close(l->fd);
    free(l->peer);
    free(l);
    *link = NULL;
}

plp_status tp_link_open(tp_link **link, MPI_Comm leaders)
{
    plp_status st = PLP_OK;
    MPI_Request agreed = MPI_REQUEST_NULL;
    tp_link *l = NULL;
    int heard, all = 0;
    *link = NULL;
    PLP_TRY(PLP_ALLOCATED(l = calloc(1, sizeof *l)));
    l->fd = -1;
    PLP_DO(TP_MPI(MPI_Comm_rank(leaders, &l->leader)));
    PLP_DO(TP_MPI(MPI_Comm_size(leaders, &l->leaders)));
    PLP_DO(PLP_ALLOCATED(l->peer = calloc((size_t)l->leaders, sizeof *l->peer)));
    const plp_status listening = l->leader == 0 ? listen_everywhere(l) : PLP_OK; /* else the others ask in vain */
    PLP_DO(TP_MPI(MPI_Bcast(&l->centre, sizeof l->centre, MPI_BYTE, 0, leaders)));
    heard = l->leader == 0 ? listening == PLP_OK : PLP_FAULT_AT("link") == PLP_OK && ask(l);
    PLP_DO(TP_MPI(MPI_Iallreduce(&heard, &all, 1, MPI_INT, MPI_MIN, leaders, &agreed)));
    if (l->leader == 0 && listening == PLP_OK)
        PLP_DO(answer(l, &agreed));
    else
        PLP_DO(TP_MPI(MPI_Wait(&agreed, MPI_STATUS_IGNORE)));
    if (!all) goto done;
    *link = l, l = NULL;
done:
    tp_link_close(&l);
    return st;
}
