#include "io/model_file_internal.h"

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "io/hdf5_space.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A call of HDF5 about `what` in the part. */
#define H5(w, call, what) IO_H5(PLP_ERR_IO, call, "%s: %s", (w)->out.part, (what))

struct io_model_writer {
    io_part out; /* payloads go through its fd */
    hid_t file;  /* HDF5 on the part */
    io_contents contents;
    io_hdf5_space space;
    bool writing;     /* between begin and end */
    io_entry entry;   /* which dataset */
    uint64_t written; /* bytes of it */
    uint32_t sum;     /* of its last block, as far as it was written */
};

static plp_status write_all(const io_model_writer *w, const uint8_t *data, uint64_t bytes, uint64_t at)
{
    while (bytes > 0) {
        const ssize_t put = pwrite(w->out.fd, data, bytes < 1 << 30 ? bytes : 1 << 30, (off_t)at);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0)
            return PLP_FAIL(PLP_ERR_IO, "cannot write %s at byte %" PRIu64 ": %s; fix: check the disk and its free space", w->out.part, at,
                            strerror(errno));
        data += put, bytes -= (uint64_t)put, at += (uint64_t)put;
    }
    return PLP_OK;
}

static plp_status create_file(io_model_writer *w)
{
    plp_status st = PLP_OK;
    PLP_TRY(io_hdf5_space_begin(&w->space, &w->out));
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
    PLP_DO(H5(w, access, "cannot be set up"));
    PLP_DO(H5(w, creation, "cannot be set up"));
    PLP_DO(H5(w, H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110), "cannot be set up"));
    PLP_DO(H5(w, H5Pset_alignment(access, IO_ALIGN_FROM, IO_PAYLOAD_ALIGN), "cannot be set up"));
    PLP_DO(H5(w, H5Pset_fclose_degree(access, H5F_CLOSE_STRONG), "cannot be set up"));
    PLP_DO(H5(w, H5Pset_file_locking(access, false, true), "cannot be set up")); /* our own lock is on it */
    PLP_DO(H5(w, H5Pset_obj_track_times(creation, false), "cannot be set up"));  /* the same model, the same bytes */
    PLP_DO(IO_H5(PLP_ERR_IO, w->file = H5Fcreate(w->out.fd_name, H5F_ACC_TRUNC, creation, access), "cannot create %s", w->out.part));
done:
    if (creation >= 0) H5Pclose(creation);
    if (access >= 0) H5Pclose(access);
    return st;
}

/* Disk space for `bytes` of payload. */
static plp_status reserve(io_model_writer *w, uint64_t bytes)
{
    return io_hdf5_space_take(&w->space, w->file, bytes, w->contents.entry_count);
}

/* The root's attributes go to the file here and into the manifest; other objects' go where their object is made. */
static plp_status put_attribute(io_model_writer *w, hid_t object, const char *path, const char *name, io_kind kind, bool list,
                                const void *data, int64_t count)
{
    plp_status st = PLP_OK;
    hid_t type = -1, space = -1, attribute = -1;
    const hsize_t length = (hsize_t)count;
    if (!io_name_is_part(name)) return PLP_FAIL(PLP_ERR_INTERNAL, "%s: not a name for an attribute", name);
    if ((kind == IO_INTS ? 8 * count : count) > IO_ATTRIBUTE_BYTES || count < 0)
        return PLP_FAIL(PLP_ERR_DATA, "attribute %s: %lld bytes, at most %d", name, (long long)count, IO_ATTRIBUTE_BYTES);
    if (kind == IO_STRING) {
        PLP_DO(H5(w, type = H5Tcopy(H5T_C_S1), name));
        PLP_DO(H5(w, H5Tset_size(type, (size_t)count + 1), name)); /* 0 is no size: keep the NUL */
        PLP_DO(H5(w, H5Tset_cset(type, H5T_CSET_UTF8), name));
    } else
        PLP_DO(H5(w, type = H5Tcopy(kind == IO_INTS ? H5T_STD_I64LE : H5T_IEEE_F64LE), name));
    PLP_DO(H5(w, space = list ? H5Screate_simple(1, &length, NULL) : H5Screate(H5S_SCALAR), name));
    PLP_DO(H5(w, attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), name));
    PLP_DO(H5(w, H5Awrite(attribute, type, data), name));
    PLP_DO(io_contents_add_attribute(&w->contents, path, name, kind, list, data, count));
done:
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return st;
}

static plp_status put_text(io_model_writer *w, hid_t object, const char *path, const char *name, const char *value)
{
    return put_attribute(w, object, path, name, IO_STRING, false, value, (int64_t)strlen(value));
}

static plp_status put_root(io_model_writer *w, const char *name, io_kind kind, bool list, const void *data, int64_t count)
{
    unsigned plugins;
    PLP_TRY(io_hdf5_enter(&plugins));
    plp_status st = reserve(w, 0);
    if (st == PLP_OK) st = put_attribute(w, w->file, "/", name, kind, list, data, count);
    io_hdf5_leave(plugins);
    return st;
}

plp_status io_model_put_string(io_model_writer *w, const char *name, const char *value)
{
    return put_root(w, name, IO_STRING, false, value, (int64_t)strlen(value));
}

plp_status io_model_put_int(io_model_writer *w, const char *name, int64_t value) { return put_root(w, name, IO_INTS, false, &value, 1); }

plp_status io_model_put_ints(io_model_writer *w, const char *name, const int64_t *values, int count)
{
    if (count < 1) return PLP_FAIL(PLP_ERR_INTERNAL, "attribute %s: a list of %d; leave it out", name, count);
    return put_root(w, name, IO_INTS, true, values, count);
}

plp_status io_model_put_double(io_model_writer *w, const char *name, double value)
{
    if (isnan(value)) return PLP_FAIL(PLP_ERR_DATA, "attribute %s is NaN; fix: check the config", name);
    return put_root(w, name, IO_DOUBLE, false, &value, 1);
}

/* The groups above `name`, without times. */
static plp_status make_groups(io_model_writer *w, const char *name)
{
    char path[IO_NAME];
    plp_status st = PLP_OK;
    const hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    PLP_DO(H5(w, creation, name));
    PLP_DO(H5(w, H5Pset_obj_track_times(creation, false), name));
    for (const char *slash = strchr(name + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        snprintf(path, sizeof path, "%.*s", (int)(slash - name), name);
        const htri_t exists = H5Lexists(w->file, path, H5P_DEFAULT);
        PLP_DO(H5(w, exists, path));
        if (exists > 0) continue;
        const hid_t group = H5Gcreate2(w->file, path, H5P_DEFAULT, creation, H5P_DEFAULT);
        PLP_DO(IO_H5(PLP_ERR_IO, group, "%s: cannot make group %s", w->out.part, path));
        H5Gclose(group);
    }
done:
    if (creation >= 0) H5Pclose(creation);
    return st;
}

/* A dataset with its place in the file, into w->entry.  source NULL: no attributes. */
static plp_status make_dataset(io_model_writer *w, const char *name, io_element element, int rank, const int64_t *shape, const char *source,
                               const char *source_dtype)
{
    plp_status st = PLP_OK;
    hid_t type = -1, space = -1, creation = -1, set = -1;
    hsize_t dims[IO_RANK];
    io_entry *e = &w->entry;
    *e =
        (io_entry){ .element = element, .first_sum = w->contents.sum_count, .tensor.rank = rank, .tensor.bytes = io_element_size(element) };
    snprintf(e->tensor.name, sizeof e->tensor.name, "%s", name);
    if (element <= IO_F16) e->tensor.dtype = (plp_dtype)element;
    for (int i = 0; i < rank; i++) {
        e->tensor.shape[i] = shape[i];
        if (shape[i] < 1 || !plp_multiply(e->tensor.bytes, (uint64_t)shape[i], &e->tensor.bytes) || e->tensor.bytes > INT64_MAX / 2)
            return PLP_FAIL(PLP_ERR_SHAPE, "%s: dimension %d is %lld, which cannot be stored", name, i, (long long)shape[i]);
        dims[i] = (hsize_t)shape[i];
    }
    PLP_DO(reserve(w, e->tensor.bytes));
    PLP_DO(make_groups(w, name));
    PLP_DO(H5(w, type = io_element_type(element), name));
    PLP_DO(H5(w, space = H5Screate_simple(rank, dims, NULL), name));
    PLP_DO(H5(w, creation = H5Pcreate(H5P_DATASET_CREATE), name));
    PLP_DO(H5(w, H5Pset_layout(creation, H5D_CONTIGUOUS), name));
    PLP_DO(H5(w, H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY), name)); /* so that it has an offset now */
    PLP_DO(H5(w, H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), name));
    PLP_DO(H5(w, H5Pset_obj_track_times(creation, false), name));
    set = H5Dcreate2(w->file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    PLP_DO(IO_H5(PLP_ERR_IO, set, "%s: cannot make dataset %s", w->out.part, name));
    e->tensor.offset = H5Dget_offset(set);
    if (e->tensor.offset == HADDR_UNDEF) {
        st = PLP_FAIL(PLP_ERR_INTERNAL, "%s: %s has no place in the file", w->out.part, name);
        goto done;
    }
    if (element <= IO_F16) PLP_DO(put_text(w, set, name, "dtype", io_element_name(element)));
    if (source != NULL) PLP_DO(put_text(w, set, name, "source", source));
    if (source_dtype != NULL) PLP_DO(put_text(w, set, name, "source_dtype", source_dtype));
    w->writing = true, w->written = 0, w->sum = 0;
done:
    if (set >= 0) H5Dclose(set);
    if (creation >= 0) H5Pclose(creation);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return st;
}

static plp_status begin(io_model_writer *w, const char *name, io_element element, int rank, const int64_t *shape, const char *source,
                        const char *source_dtype)
{
    unsigned plugins;
    if (w->writing) return PLP_FAIL(PLP_ERR_INTERNAL, "%s was not ended before %s", w->entry.tensor.name, name);
    if (!io_name_is_path(name) || *name != '/')
        return PLP_FAIL(PLP_ERR_DATA, "%s: not a name for a dataset; fix: /parts/of/[A-Za-z0-9._-]", name);
    if (rank < 1 || rank > IO_RANK) return PLP_FAIL(PLP_ERR_SHAPE, "%s: rank %d, possible are 1 to %d", name, rank, IO_RANK);
    PLP_TRY(io_hdf5_enter(&plugins));
    const plp_status st = make_dataset(w, name, element, rank, shape, source, source_dtype);
    io_hdf5_leave(plugins);
    return st;
}

/* The payload bypasses HDF5: any run of elements goes to its bytes at once, and the file is never read back. */
static plp_status append(io_model_writer *w, const void *data, uint64_t bytes)
{
    const io_tensor *t = &w->entry.tensor;
    if (!w->writing) return PLP_FAIL(PLP_ERR_INTERNAL, "data before a dataset has begun");
    if (bytes > t->bytes - w->written)
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: %" PRIu64 " + %" PRIu64 " of %" PRIu64 " bytes", t->name, w->written, bytes, t->bytes);
    PLP_TRY(write_all(w, data, bytes, t->offset + w->written));
    for (const uint8_t *p = data; bytes > 0;) {
        const uint64_t left = IO_BLOCK - w->written % IO_BLOCK, take = bytes < left ? bytes : left;
        w->sum = plp_crc32c(w->sum, p, take);
        w->written += take, p += take, bytes -= take;
        if (take < left && w->written < t->bytes) break; /* the block goes on in the next piece */
        PLP_TRY(io_contents_add_sum(&w->contents, w->sum));
        w->sum = 0;
    }
    return PLP_OK;
}

plp_status io_model_begin(io_model_writer *w, const char *name, plp_dtype dtype, int rank, const int64_t *shape, const char *source,
                          const char *source_dtype)
{
    return begin(w, name, (io_element)dtype, rank, shape, source, source_dtype);
}

plp_status io_model_append(io_model_writer *w, const void *data, int64_t count)
{
    if (count < 0) return PLP_FAIL(PLP_ERR_INTERNAL, "%lld elements", (long long)count);
    return append(w, data, (uint64_t)count * io_element_size(w->entry.element));
}

plp_status io_model_end(io_model_writer *w)
{
    const io_tensor *t = &w->entry.tensor;
    if (!w->writing) return PLP_FAIL(PLP_ERR_INTERNAL, "an end before a dataset has begun");
    if (w->written != t->bytes)
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: %" PRIu64 " of %" PRIu64 " bytes were given", t->name, w->written, t->bytes);
    PLP_TRY(io_contents_add_entry(&w->contents, &w->entry));
    w->writing = false;
    return PLP_OK;
}

plp_status io_model_put_blob(io_model_writer *w, const char *name, const void *data, size_t bytes)
{
    const int64_t count = (int64_t)bytes;
    PLP_TRY(begin(w, name, IO_U8, 1, &count, NULL, NULL));
    PLP_TRY(append(w, data, bytes));
    return io_model_end(w);
}

plp_status io_model_create(io_model_writer **out, const char *path, bool replace)
{
    plp_status st = PLP_OK;
    unsigned plugins;
    *out = NULL;
    PLP_TRY(io_hdf5_enter(&plugins));
    io_model_writer *w = calloc(1, sizeof *w);
    PLP_DO(PLP_ALLOCATED(w));
    w->file = -1, w->out.directory = w->out.fd = -1;
    PLP_DO(io_part_create(&w->out, path, replace));
    PLP_DO(create_file(w));
    PLP_DO(reserve(w, 0));
    PLP_DO(put_text(w, w->file, "/", "format", IO_FORMAT_NAME));
    PLP_DO(put_attribute(w, w->file, "/", "format_version", IO_INTS, false, &(int64_t){ IO_MODEL_FORMAT }, 1));
done:
    io_hdf5_leave(plugins);
    if (st != PLP_OK) io_model_discard(&w);
    *out = w;
    return st;
}

/* A dataset that the manifest does not list: the manifest itself. */
static plp_status put_unlisted(io_model_writer *w, const char *name, io_element element, const void *data, int64_t count)
{
    PLP_TRY(begin(w, name, element, 1, &count, NULL, NULL));
    w->writing = false;
    return write_all(w, data, w->entry.tensor.bytes, w->entry.tensor.offset);
}

static plp_status put_manifest(io_model_writer *w)
{
    plp_status st = PLP_OK;
    char *text = NULL, hex[PLP_SHA256_HEX];
    size_t bytes;
    hid_t group = -1;
    PLP_DO(io_contents_sort(&w->contents));
    PLP_DO(io_manifest_text(&w->contents, &text, &bytes));
    io_manifest_digest(&w->contents, text, bytes, hex);
    PLP_DO(put_unlisted(w, "/manifest/datasets", IO_U8, text, (int64_t)bytes));
    PLP_DO(put_unlisted(w, "/manifest/sums", IO_U32, w->contents.sums, w->contents.sum_count));
    PLP_DO(IO_H5(PLP_ERR_IO, group = H5Gopen2(w->file, "/manifest", H5P_DEFAULT), "%s: /manifest", w->out.part));
    PLP_DO(put_text(w, group, "/manifest", "checksum", IO_CHECKSUM));
    PLP_DO(put_attribute(w, group, "/manifest", "block_bytes", IO_INTS, false, &(int64_t){ IO_BLOCK }, 1));
    PLP_DO(put_text(w, group, "/manifest", "sha256", hex));
done:
    if (group >= 0) H5Gclose(group);
    free(text);
    return st;
}

/* What HDF5 has written of where the file ends. */
static plp_status finish(io_model_writer *w)
{
    if (w->writing) return PLP_FAIL(PLP_ERR_INTERNAL, "%s was not ended", w->entry.tensor.name);
    PLP_TRY(put_manifest(w));
    const herr_t closed = H5Fclose(w->file);
    w->file = -1;
    PLP_TRY(IO_H5(PLP_ERR_IO, closed, "cannot complete %s", w->out.part));
    PLP_TRY(io_hdf5_space_end(&w->space));
    return io_part_finish(&w->out);
}

plp_status io_model_finish(io_model_writer **w)
{
    unsigned plugins;
    PLP_TRY(io_hdf5_enter(&plugins));
    const plp_status st = finish(*w);
    io_hdf5_leave(plugins);
    if (st == PLP_OK) io_model_discard(w); /* nothing but memory is left to give back */
    return st;
}

void io_model_discard(io_model_writer **out)
{
    io_model_writer *w = *out;
    unsigned plugins;
    if (w == NULL) return;
    if (w->file >= 0 && io_hdf5_enter(&plugins) == PLP_OK) {
        H5Fclose(w->file);
        io_hdf5_leave(plugins);
    }
    io_contents_free(&w->contents);
    io_part_discard(&w->out);
    free(w);
    *out = NULL;
}
