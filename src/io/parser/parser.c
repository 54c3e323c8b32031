/* polylepis-parser MODEL.h5 -- HDF5 looks at a model file here, and nowhere else: on standard input comes the file, to standard output goes
 * the table of what is in it.  Started by the library for every file that it opens; whatever the file does to HDF5, it does to this process,
 * which by then can do nothing but read that file and write that table.  The argument is for messages. */
#include "io/confine.h"
#include "io/model_file_internal.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool write_all(const uint8_t *table, size_t bytes)
{
    while (bytes > 0) {
        const ssize_t put = write(STDOUT_FILENO, table, bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return false;
        table += put, bytes -= (size_t)put;
    }
    return true;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "model file";
    io_contents contents = { 0 };
    uint8_t *table = NULL;
    size_t bytes = 0;
    unsigned plugins;
    struct stat info;
    int confined = 0;
    plp_status st = fstat(STDIN_FILENO, &info) == 0 ? io_hdf5_enter(&plugins) : PLP_FAIL_ERRNO("read", path); /* HDF5 sets itself up */
    if (st == PLP_OK && (confined = io_confine()) < 0)
        st = PLP_FAIL(PLP_ERR_INTERNAL, "%s: the parser cannot be confined; fix: --trust-model, if you do", path), confined = 0;
    if (st == PLP_OK) st = io_profile_read(path, STDIN_FILENO, (uint64_t)info.st_size, &contents);
    if ((st = io_table_make(st, confined, &contents, &table, &bytes)) != PLP_OK)
        st = io_table_make(PLP_FAIL(st, "%s: %s", path, plp_last_error()), confined, &contents, &table, &bytes);
    _exit(st == PLP_OK && write_all(table, bytes) ? EXIT_SUCCESS : EXIT_FAILURE); /* HDF5 is not asked to clean up after a hostile file */
}
