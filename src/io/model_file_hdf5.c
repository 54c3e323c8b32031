#include "io/model_file_internal.h"

#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *io_element_name(io_element e)
{
    static const char *const names[IO_ELEMENTS] = { "F32", "BF16", "F16", "U8", "U32" };
    return names[e];
}

size_t io_element_size(io_element e)
{
    static const size_t sizes[IO_ELEMENTS] = { 4, 2, 2, 1, 4 };
    return sizes[e];
}

hid_t io_element_type(io_element e)
{
    switch (e) {
    case IO_U8: return H5Tcopy(H5T_STD_U8LE);
    case IO_U32: return H5Tcopy(H5T_STD_U32LE);
    case IO_F32: return H5Tcopy(H5T_IEEE_F32LE);
    default: break;
    }
    /* A custom 16-bit float, so that every HDF5 tool prints true values: sign at bit 15, the exponent, the fraction from bit 0. */
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    const size_t exponent = e == IO_BF16 ? 8 : 5, fraction = 15 - exponent;
    if (type < 0 || H5Tset_fields(type, 15, fraction, exponent, 0, fraction) < 0 || H5Tset_size(type, 2) < 0 ||
        H5Tset_ebias(type, e == IO_BF16 ? 127 : 15) < 0) {
        if (type >= 0) H5Tclose(type);
        return -1;
    }
    return type;
}

plp_status io_hdf5_environment(void)
{
    static const char *const names[] = { "HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]) != NULL)
            return PLP_FAIL(PLP_ERR_USAGE, "%s is set in the environment, and model files are read without plugins; fix: unset %s",
                            names[i], names[i]);
    return PLP_OK;
}

plp_status io_hdf5_enter(unsigned *plugins)
{
    PLP_TRY(io_hdf5_environment());
    if (H5open() < 0 || H5Eset_auto2(H5E_DEFAULT, NULL, NULL) < 0 || H5PLget_loading_state(plugins) < 0 || H5PLset_loading_state(0) < 0)
        return PLP_FAIL(PLP_ERR_INTERNAL, "HDF5 cannot be set up; fix: check the HDF5 library that is installed");
    return PLP_OK;
}

void io_hdf5_leave(unsigned plugins) { H5PLset_loading_state(plugins); }

static herr_t keep_innermost(unsigned n, const H5E_error2_t *error, void *reason)
{
    if (n == 0) snprintf(reason, 160, "%s", error->desc); /* counted from the function that failed first */
    return 0;
}

const char *io_hdf5_reason(void)
{
    static _Thread_local char reason[160];
    strcpy(reason, "no reason given");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, reason);
    return reason;
}

plp_status io_hdf5_fail(plp_status code, const char *file, int line, const char *format, ...)
{
    char text[600];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return plp_fail(code, file, line, "%s; HDF5: %s; %s", text, io_hdf5_reason(),
                    code == PLP_ERR_DATA ? IO_RECONVERT : "fix: check the disk and its free space");
}

/* The length of the part that `name` starts with; 0: none. */
static size_t part_length(const char *name)
{
    const size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    return strspn(name, ".") == n && n <= 2 ? 0 : n; /* "." and ".." */
}

bool io_name_is_part(const char *name)
{
    const size_t n = part_length(name);
    return n > 0 && n < IO_NAME && name[n] == 0;
}

bool io_name_is_path(const char *name)
{
    if (strlen(name) >= IO_NAME) return false;
    while (*name == '/') {
        const size_t n = part_length(name + 1);
        if (n == 0) return false;
        name += 1 + n;
    }
    return *name == 0;
}
