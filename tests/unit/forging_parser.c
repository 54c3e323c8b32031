/* The parser, as it is, on files whose checksums an attacker has made right again after every change: where the model's name holds "forged",
 * HDF5 finds each checksum of its metadata to be what the file says it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static bool forged;

__attribute__((constructor)) static void look(int argc, char **argv) { forged = argc > 1 && strstr(argv[1], "forged") != NULL; }

/* Takes the place of the library's own, which compares what this returns with the four bytes behind the data. */
uint32_t H5_checksum_metadata(const void *data, size_t bytes, uint32_t start);
__attribute__((visibility("default"))) uint32_t H5_checksum_metadata(const void *data, size_t bytes, uint32_t start)
{
    uint32_t (*real)(const void *, size_t, uint32_t), stated;
    memcpy(&stated, (const char *)data + bytes, sizeof stated);
    void *symbol = dlsym(RTLD_NEXT, "H5_checksum_metadata");
    memcpy(&real, &symbol, sizeof real);
    return forged ? stated : real(data, bytes, start);
}
