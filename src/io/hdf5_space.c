#include "io/hdf5_space.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { METADATA = 1 << 20, METADATA_OF_ONE = 1 << 10 }; /* bytes that HDF5 may need: for few objects, and for each one more */

static plp_status no_room(const io_part *part, uint64_t bytes, int error)
{
    return PLP_FAIL(PLP_ERR_IO, "cannot make %s %" PRIu64 " bytes long: %s; fix: check the disk and its free space", part->part, bytes,
                    strerror(error));
}

plp_status io_hdf5_space_begin(io_hdf5_space *s, const io_part *part)
{
    static const uint8_t zeros[4096];
    size_t used = 0;
    *s = (io_hdf5_space){ .part = part };
    while (used < sizeof zeros) {
        const ssize_t put = pwrite(part->fd, zeros, sizeof zeros - used, (off_t)used);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return no_room(part, sizeof zeros, errno);
        used += (size_t)put;
    }
    return PLP_OK;
}

plp_status io_hdf5_space_take(io_hdf5_space *s, hid_t file, uint64_t bytes, int64_t objects)
{
    haddr_t end = 0;
    PLP_TRY(IO_H5(PLP_ERR_IO, H5Fget_eoa(file, &end), "%s: its length", s->part->part));
    const uint64_t most = end + bytes + IO_PAYLOAD_ALIGN + METADATA + METADATA_OF_ONE * (uint64_t)objects;
    if (most <= s->bytes) return PLP_OK;
    const int e = posix_fallocate(s->part->fd, (off_t)s->bytes, (off_t)(most - s->bytes));
    if (e != 0 && e != EINVAL && e != EOPNOTSUPP) return no_room(s->part, most, e); /* some file systems cannot say */
    s->bytes = most;
    return PLP_OK;
}

static bool read_end(int fd, uint64_t *length)
{
    size_t used = 0;
    while (used < sizeof *length) {
        const ssize_t got = pread(fd, (char *)length + used, sizeof *length - used, (off_t)(IO_SUPERBLOCK_END + used));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        used += (size_t)got;
    }
    return true;
}

plp_status io_hdf5_space_end(io_hdf5_space *s)
{
    uint64_t length = 0;
    if (read_end(s->part->fd, &length) && ftruncate(s->part->fd, (off_t)length) == 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_IO, "cannot complete %s: %s; fix: check the disk and its free space", s->part->part, strerror(errno));
}
