/* HDF5 on an open descriptor: the library never opens a file by its name, so it can neither be led to another one nor need the right to. */
#include "io/model_file_internal.h"

#include "base/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 13, 0)
#    include <H5FDdevelop.h>
#endif

typedef struct {
    int fd;
    haddr_t bytes;
} where;

typedef struct {
    H5FD_t base; /* first: HDF5 sees nothing else */
    where at;
    haddr_t end; /* of what HDF5 believes to be allocated */
} opened;

static H5FD_t *open_it(const char *name, unsigned flags, hid_t access, haddr_t most)
{
    const where *at = H5Pget_driver_info(access);
    (void)most;
    if (at == NULL || flags != H5F_ACC_RDONLY || strcmp(name, IO_HDF5_NAME) != 0) return NULL; /* a link or a source to another file */
    opened *o = calloc(1, sizeof *o);
    if (o == NULL) return NULL;
    o->at = *at;
    return &o->base;
}

static herr_t close_it(H5FD_t *file)
{
    free(file); /* the descriptor is the caller's */
    return 0;
}

static haddr_t get_allocated(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const opened *)file)->end;
}

static herr_t set_allocated(H5FD_t *file, H5FD_mem_t type, haddr_t end)
{
    (void)type;
    ((opened *)file)->end = end;
    return 0;
}

static haddr_t get_end(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const opened *)file)->at.bytes;
}

static herr_t read_it(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t from, size_t size, void *buffer)
{
    const where *at = &((const opened *)file)->at;
    (void)type, (void)transfer;
    if (!plp_within(from, size, at->bytes)) return -1;
    for (uint8_t *p = buffer; size > 0;) {
        const ssize_t got = pread(at->fd, p, size, (off_t)from);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return -1;
        p += got, size -= (size_t)got, from += (haddr_t)got;
    }
    return 0;
}

static herr_t refuse_to_write(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t to, size_t size, const void *buffer)
{
    (void)file, (void)type, (void)transfer, (void)to, (void)size, (void)buffer;
    return -1;
}

hid_t io_hdf5_descriptor(hid_t access, int fd, uint64_t bytes)
{
    const H5FD_class_t class = {
#if H5_VERSION_GE(1, 13, 0)
        .version = H5FD_CLASS_VERSION,
        .value = (H5FD_class_value_t)700, /* any from 512 on that nobody else in this process has */
#endif
        .name = "polylepis",
        .maxaddr = INT64_MAX,
        .fc_degree = H5F_CLOSE_STRONG,
        .fapl_size = sizeof(where),
        .open = open_it,
        .close = close_it,
        .get_eoa = get_allocated,
        .set_eoa = set_allocated,
        .get_eof = get_end,
        .read = read_it,
        .write = refuse_to_write, /* HDF5 wants one */
        .fl_map = H5FD_FLMAP_SINGLE,
    };
    const hid_t driver = H5FDregister(&class);
    if (driver >= 0 && H5Pset_driver(access, driver, &(where){ fd, bytes }) >= 0) return driver;
    if (driver >= 0) H5FDunregister(driver);
    return -1;
}
