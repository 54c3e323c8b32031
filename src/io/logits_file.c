#include "io/logits_file.h"

#include "io/hdf5_space.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>

struct io_logits_writer {
    io_part out;
    io_hdf5_space space;
    hid_t file, logits;
    int64_t rows, done, vocab; /* of the record under way */
};

static plp_status create_file(io_logits_writer *w)
{
    plp_status st = PLP_OK;
    unsigned plugins;
    hid_t access = -1;
    PLP_TRY(io_hdf5_space_begin(&w->space, &w->out));
    PLP_TRY(io_hdf5_enter(&plugins));
    PLP_DO(IO_H5(PLP_ERR_IO, access = H5Pcreate(H5P_FILE_ACCESS), "%s: no access list", w->out.part));
    PLP_DO(IO_H5(PLP_ERR_IO, H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110), "%s: file format", w->out.part));
    PLP_DO(IO_H5(PLP_ERR_IO, H5Pset_file_locking(access, false, true), "%s: file locks", w->out.part)); /* our own lock is on it */
    PLP_DO(IO_H5(PLP_ERR_IO, w->file = H5Fcreate(w->out.fd_name, H5F_ACC_TRUNC, H5P_DEFAULT, access), "%s: cannot create", w->out.part));
    PLP_DO(io_hdf5_space_take(&w->space, w->file, 0, 0));
done:
    if (access >= 0) H5Pclose(access);
    io_hdf5_leave(plugins);
    return st;
}

plp_status io_logits_create(io_logits_writer **out, const char *path, bool replace)
{
    plp_status st = PLP_OK;
    io_logits_writer *w = NULL;
    *out = NULL;
    PLP_DO(PLP_ALLOCATED(w = calloc(1, sizeof *w)));
    w->file = w->logits = -1, w->out.directory = w->out.fd = -1;
    PLP_DO(io_part_create(&w->out, path, replace));
    PLP_DO(create_file(w));
    *out = w, w = NULL;
done:
    io_logits_discard(&w);
    return st;
}

static plp_status write_tokens(hid_t group, const char *id, const int *tokens, int64_t count)
{
    plp_status st = PLP_OK;
    const hsize_t shape[1] = { (hsize_t)count };
    hid_t space = -1, set = -1;
    PLP_DO(IO_H5(PLP_ERR_IO, space = H5Screate_simple(1, shape, NULL), "%s: space", id));
    PLP_DO(IO_H5(PLP_ERR_IO, set = H5Dcreate2(group, "tokens", H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "%s: tokens",
                 id));
    PLP_DO(IO_H5(PLP_ERR_IO, H5Dwrite(set, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, tokens), "%s: tokens", id));
done:
    if (set >= 0) H5Dclose(set);
    if (space >= 0) H5Sclose(space);
    return st;
}

static plp_status begin(io_logits_writer *w, const char *id, const int *tokens)
{
    plp_status st = PLP_OK;
    const hsize_t shape[2] = { (hsize_t)w->rows, (hsize_t)w->vocab };
    hid_t group = -1, space = -1;
    const uint64_t bytes = (uint64_t)w->rows * (sizeof *tokens + (uint64_t)w->vocab * sizeof(float));
    PLP_TRY(io_hdf5_space_take(&w->space, w->file, bytes, 0));
    if (H5Lexists(w->file, id, H5P_DEFAULT) > 0) return PLP_FAIL(PLP_ERR_DATA, "id %s comes twice; fix: give every record its own", id);
    PLP_DO(IO_H5(PLP_ERR_IO, group = H5Gcreate2(w->file, id, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), "%s: cannot create", id));
    PLP_DO(write_tokens(group, id, tokens, w->rows));
    PLP_DO(IO_H5(PLP_ERR_IO, space = H5Screate_simple(2, shape, NULL), "%s: space", id));
    PLP_DO(IO_H5(PLP_ERR_IO, w->logits = H5Dcreate2(group, "logits", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                 "%s: logits", id));
done:
    if (space >= 0) H5Sclose(space);
    if (group >= 0) H5Gclose(group);
    return st;
}

plp_status io_logits_check_id(const char *id)
{
    if (io_name_is_part(id)) return PLP_OK;
    return PLP_FAIL(PLP_ERR_DATA, "id %.60s cannot name an HDF5 group; fix: use letters, digits and . _ -", id);
}

plp_status io_logits_begin(io_logits_writer *w, const char *id, const int *tokens, int64_t count, int64_t vocab)
{
    unsigned plugins;
    PLP_TRY(io_logits_check_id(id));
    PLP_TRY(io_hdf5_enter(&plugins));
    w->rows = count, w->done = 0, w->vocab = vocab;
    const plp_status st = begin(w, id, tokens);
    io_hdf5_leave(plugins);
    return st;
}

static plp_status append(io_logits_writer *w, const float *logits, int64_t rows)
{
    plp_status st = PLP_OK;
    const hsize_t first[2] = { (hsize_t)w->done, 0 }, count[2] = { (hsize_t)rows, (hsize_t)w->vocab };
    hid_t space = -1, memory = -1;
    if (w->done + rows > w->rows)
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: rows %lld+%lld of %lld", w->out.part, (long long)w->done, (long long)rows, (long long)w->rows);
    PLP_DO(IO_H5(PLP_ERR_IO, space = H5Dget_space(w->logits), "%s: space", w->out.part));
    PLP_DO(IO_H5(PLP_ERR_IO, H5Sselect_hyperslab(space, H5S_SELECT_SET, first, NULL, count, NULL), "%s: rows", w->out.part));
    PLP_DO(IO_H5(PLP_ERR_IO, memory = H5Screate_simple(2, count, NULL), "%s: space", w->out.part));
    PLP_DO(IO_H5(PLP_ERR_IO, H5Dwrite(w->logits, H5T_NATIVE_FLOAT, memory, space, H5P_DEFAULT, logits), "%s: cannot write", w->out.part));
    w->done += rows;
    if (w->done == w->rows) {
        const herr_t closed = H5Dclose(w->logits);
        w->logits = -1;
        PLP_DO(IO_H5(PLP_ERR_IO, closed, "%s: cannot write", w->out.part));
    }
done:
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return st;
}

plp_status io_logits_append(io_logits_writer *w, const float *logits, int64_t rows)
{
    unsigned plugins;
    PLP_TRY(io_hdf5_enter(&plugins));
    const plp_status st = append(w, logits, rows);
    io_hdf5_leave(plugins);
    return st;
}

plp_status io_logits_finish(io_logits_writer **out)
{
    plp_status st = PLP_OK;
    io_logits_writer *w = *out;
    unsigned plugins;
    PLP_DO(io_hdf5_enter(&plugins));
    const herr_t closed = H5Fclose(w->file);
    w->file = -1;
    st = IO_H5(PLP_ERR_IO, closed, "%s: cannot write", w->out.part);
    io_hdf5_leave(plugins);
    PLP_DO(st);
    PLP_DO(io_hdf5_space_end(&w->space));
    st = io_part_finish(&w->out);
done:
    io_logits_discard(out);
    return st;
}

void io_logits_discard(io_logits_writer **out)
{
    io_logits_writer *w = *out;
    if (w == NULL) return;
    if (w->logits >= 0) H5Dclose(w->logits);
    if (w->file >= 0) H5Fclose(w->file);
    io_part_discard(&w->out);
    free(w);
    *out = NULL;
}
