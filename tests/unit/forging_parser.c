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

/* Takes the place of the library's own, which compares what this returns with the four bytes behind the data.  Sometimes they are not there:
 * HDF5 begins with a guess at how long a header is. */
uint32_t H5_checksum_metadata(const void *data, size_t bytes, uint32_t start);
__attribute__((visibility("default"), no_sanitize("address"))) uint32_t H5_checksum_metadata(const void *data, size_t bytes, uint32_t start)
{
    uint32_t (*real)(const void *, size_t, uint32_t);
    uint32_t stated = 0;
    void *symbol = dlsym(RTLD_NEXT, "H5_checksum_metadata");
    memcpy(&real, &symbol, sizeof real);
    if (!forged) return real(data, bytes, start);
    for (int i = 3; i >= 0; i--) stated = stated << 8 | ((const volatile uint8_t *)data)[bytes + (size_t)i];
    return stated;
}
