/* src/io/model_file.h -- polylepis model files: HDF5, contiguous datasets, a manifest with a checksum for every 1-MiB block.
 *
 * docs/file-format.md describes the file so that it can be written with h5py.  This layer knows datasets and attributes, not models.
 * Writing goes to a temporary name beside the target, which appears under its own name complete or not at all.  A writer or a file is used
 * by one thread at a time.  From the first call of a writer on, HDF5 prints no errors of its own in this process. */
#ifndef IO_MODEL_FILE_H
#define IO_MODEL_FILE_H

#include "io/gather.h"

#include <stdbool.h>
#include <stddef.h>

enum { IO_MODEL_FORMAT = 1 };

/* ------------------------------------------------------------------------------------------------------------------- writing */
typedef struct io_model_writer io_model_writer;

/* Fails as io_part_create does.  The bytes go to PATH.part; one that a killed process left is replaced. */
plp_status io_model_create(io_model_writer **w, const char *path, bool replace);
/* Attributes of the root group. */
plp_status io_model_put_string(io_model_writer *w, const char *name, const char *value);
plp_status io_model_put_int(io_model_writer *w, const char *name, int64_t value);
plp_status io_model_put_ints(io_model_writer *w, const char *name, const int64_t *values, int count);
plp_status io_model_put_double(io_model_writer *w, const char *name, double value);
/* A dataset of bytes: a text or a tokenizer. */
plp_status io_model_put_blob(io_model_writer *w, const char *name, const void *data, size_t bytes);
/* A tensor, by pieces: begin, then all of its elements in order, then end.  name is a path, "/layers/000/in_proj/z/weight"; missing groups
 * are made.  `source` and `source_dtype` become attributes. */
plp_status io_model_begin(io_model_writer *w, const char *name, plp_dtype dtype, int rank, const int64_t *shape, const char *source,
                          const char *source_dtype);
plp_status io_model_append(io_model_writer *w, const void *data, int64_t count);
plp_status io_model_end(io_model_writer *w);
/* Manifest, fsync, rename, fsync of the directory.  Where it fails, or is not called, io_model_discard leaves nothing behind. */
plp_status io_model_finish(io_model_writer **w);
void io_model_discard(io_model_writer **w);

/* ------------------------------------------------------------------------------------------------------------------- reading */
typedef struct io_model_file io_model_file;

/* PLP_ERR_INPUT: no such file.  PLP_ERR_USAGE: the environment asks HDF5 for plugins.  PLP_ERR_DATA names the object that is wrong.
 * Checks the profile (no links, external storage, virtual or chunked datasets, filters, foreign types) before anything is read, and the
 * manifest against the datasets.  Payloads are read with pread at the offsets that were checked.
 *
 * HDF5 sees the file in a confined process of its own, which is started for it and ends with it (SECURITY.md); what comes out of there is
 * checked again here.  A file that crashes or misleads HDF5 is PLP_ERR_DATA, "could not be parsed safely". */
plp_status io_model_open(io_model_file **f, const char *path);
/* The same with HDF5 in this process, and a warning that says so: for people who trust the file, where no process can be started. */
plp_status io_model_open_trusted(io_model_file **f, const char *path);
void io_model_close(io_model_file **f);
/* Whether it is a regular file that starts with the HDF5 signature.  A failure, of which *is is false: it could not be opened or read. */
plp_status io_model_is_file(const char *path, bool *is);

/* A missing attribute leaves *value as it is. */
plp_status io_model_get_string(const io_model_file *f, const char *name, const char **value); /* borrowed */
plp_status io_model_get_int(const io_model_file *f, const char *name, int64_t *value);
plp_status io_model_get_ints(const io_model_file *f, const char *name, int64_t *values, int most, int *count);
plp_status io_model_get_double(const io_model_file *f, const char *name, double *value);
plp_status io_model_get_blob(const io_model_file *f, const char *name, const void **data, size_t *bytes); /* borrowed; NULL: absent */

int64_t io_model_tensors(const io_model_file *f);
const io_tensor *io_model_tensor(const io_model_file *f, int64_t i); /* sorted by name */
const io_tensor *io_model_find(const io_model_file *f, const char *name);
/* As io_checkpoint_read.  Every byte has passed its 1-MiB block's checksum before it is handed out: PLP_ERR_DATA names the tensor and the
 * block.  A block that is needed in part is read whole and kept, so small pieces in order read the file once.  Turn the check off with
 * io_model_check(f, false): then exactly the bytes asked for are read. */
plp_status io_model_read(const io_model_file *f, const io_tensor *t, int64_t first, int64_t count, void *dst);
plp_status io_model_read_ranges(const io_model_file *f, const io_range *list, int n);
void io_model_check(io_model_file *f, bool on);
/* How many threads share a read; 1 at first.  What is read, and what fails, does not depend on it. */
void io_model_threads(const io_model_file *f, int threads);
uint64_t io_model_bytes_read(const io_model_file *f); /* of payloads, from the file */
const char *io_model_digest(const io_model_file *f);  /* of the manifest, 64 hex digits */

#endif
