/* A whole model file through the parser's process and the reader, PLP_FUZZ_PARSER being a parser to which every metadata checksum is right
 * (tests/unit/forging_parser.c).  Whatever the file does to that process, this one says that the data are bad, or reads what is in the file.
 * A process for each input: hundreds a second, where the other targets make thousands. */
#define _GNU_SOURCE
#include "io/model_file_internal.h"

#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

static int file = -1;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    file = memfd_create("model", MFD_CLOEXEC);
    CHECK(file >= 0, "no file in memory");
    CHECK(LLVMFuzzerTestOneInput((const uint8_t *)"", 0) == 0 && strstr(plp_last_error(), "not an HDF5 file") != NULL,
          "the parser does not work: %s", plp_last_error());
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    io_contents c = { 0 };
    uint8_t *table = NULL;
    size_t length;
    int confined;
    CHECK(ftruncate(file, 0) == 0 && pwrite(file, data, bytes, 0) == (ssize_t)bytes, "cannot write %zu bytes", bytes);
    plp_status st = io_parser_run(PLP_FUZZ_PARSER, "forged", file, 30, &table, &length);
    if (st == PLP_OK) st = io_table_read(table, length, "forged", &confined, &c);
    if (st == PLP_OK) st = io_contents_check(&c, "forged", bytes);
    fuzz_answer(st);
    for (int64_t i = 0; st == PLP_OK && i < c.entry_count; i++)
        CHECK(c.entries[i].tensor.offset + c.entries[i].tensor.bytes <= bytes, "%s", c.entries[i].tensor.name);
    io_contents_free(&c);
    free(table);
    return 0;
}
