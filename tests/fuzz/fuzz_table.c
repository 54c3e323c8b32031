/* The parser's table, from a parser that was taken over.  What passes is inside the file, does not overlap, is sorted, is in there once, and is
 * the same when it goes through a table again. */
#include "io/confine.h"
#include "io/model_file_internal.h"

#include "fuzz.h"

enum { FILE_BYTES = 10000 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

static void check_entries(const io_contents *c)
{
    static uint8_t used[FILE_BYTES];
    memset(used, 0, sizeof used);
    for (int64_t i = 0; i < c->entry_count; i++) {
        const io_tensor *t = &c->entries[i].tensor;
        CHECK(i == 0 || strcmp(t->name, c->entries[i - 1].tensor.name) > 0, "%s", t->name);
        CHECK(io_name_is_path(t->name) && *t->name == '/', "%s", t->name);
        CHECK(t->rank >= 1 && t->rank <= IO_RANK && t->bytes >= 1 && t->bytes <= FILE_BYTES && t->offset <= FILE_BYTES - t->bytes, "%s",
              t->name);
        CHECK((uint64_t)io_tensor_count(t) * io_element_size(c->entries[i].element) == t->bytes, "%s", t->name);
        for (uint64_t b = t->offset; b < t->offset + t->bytes; b++)
            CHECK(used[b]++ == 0, "%s overlaps at %llu", t->name, (unsigned long long)b);
    }
}

static void digest(const io_contents *c, char hex[PLP_SHA256_HEX])
{
    char *text;
    size_t bytes;
    CHECK(io_manifest_text(c, &text, &bytes) == PLP_OK, "no text");
    io_manifest_digest(c, text, bytes, hex);
    free(text);
}

static void check_again(const io_contents *c)
{
    io_contents back = { 0 };
    uint8_t *table;
    size_t bytes;
    int confined;
    char one[PLP_SHA256_HEX], other[PLP_SHA256_HEX];
    CHECK(io_table_make(PLP_OK, 0, c, &table, &bytes) == PLP_OK, "%s", plp_last_error());
    CHECK(io_table_read(table, bytes, "x", &confined, &back) == PLP_OK, "%s", plp_last_error());
    CHECK(io_contents_check(&back, "x", FILE_BYTES) == PLP_OK, "%s", plp_last_error());
    digest(c, one);
    digest(&back, other);
    CHECK(strcmp(one, other) == 0, "another table");
    io_contents_free(&back);
    free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    io_contents c = { 0 };
    int confined = 0;
    const plp_status st = io_table_read(data, bytes, "x", &confined, &c);
    if (st == PLP_OK) {
        CHECK((confined & ~IO_CONFINED) == 0, "%d", confined);
        if (fuzz_answer(io_contents_check(&c, "x", FILE_BYTES))) {
            check_entries(&c);
            check_again(&c);
        }
    } else
        CHECK(st == PLP_ERR_DATA || st == PLP_ERR_IO || st == PLP_ERR_INTERNAL, "%s", plp_status_name(st));
    io_contents_free(&c);
    return 0;
}
