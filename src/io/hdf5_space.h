/* src/io/hdf5_space.h -- disk space of an HDF5 file that is being written, taken before HDF5 needs it.
 *
 * HDF5 writes its metadata when it likes, at the latest when the file is closed, and does not survive a failure: the file stays open, and the
 * process crashes at its end. */
#ifndef IO_HDF5_SPACE_H
#define IO_HDF5_SPACE_H

#include "io/model_file_internal.h"
#include "io/part_file.h"

typedef struct {
    const io_part *part; /* borrowed */
    uint64_t bytes;      /* of the disk that are the part's already */
} io_hdf5_space;

/* Before the file is created: room for its superblock. */
plp_status io_hdf5_space_begin(io_hdf5_space *s, const io_part *part);
/* Room for `bytes` of payload, and for what HDF5 will have to say about them and about `objects` others.  PLP_ERR_IO: there is none. */
plp_status io_hdf5_space_take(io_hdf5_space *s, hid_t file, uint64_t bytes, int64_t objects);
/* After the file was closed: gives back what lies behind the end that it states.  For superblocks of version 2 and 3. */
plp_status io_hdf5_space_end(io_hdf5_space *s);

#endif
