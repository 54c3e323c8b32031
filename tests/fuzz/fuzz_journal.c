/* What an earlier start left of a batch job's journal: a byte of flags (1: a good header comes first; 2: checksums are made right), then
 * the file.  The records that are accepted read the same when they are written again, and a second start finds them all and nothing else. */
#define _GNU_SOURCE /* memfd_create */
#include "fuzz.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char HEADER[] = "{\"format\":\"test 1\",\"input\":\"0123\",\"temperature\":0.5}\n";
static int memory;

/* A file in memory has no name. */
static int stat_named(int fd, struct stat *info)
{
    const int failed = fstat(fd, info);
    info->st_nlink = 1;
    return failed;
}
static int sync_nothing(int fd)
{
    (void)fd;
    return 0;
}
#define fstat     stat_named
#define fsync     sync_nothing
#define fdatasync sync_nothing
#include "io/journal.c"

static json_object *header;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    memory = memfd_create("journal", MFD_CLOEXEC);
    CHECK(memory >= 0 && fcntl(memory, F_SETFL, O_APPEND) == 0 && plp_json_parse(HEADER, sizeof HEADER - 1, "header", &header) == PLP_OK,
          "%s", plp_last_error());
    return 0;
}

/* No guess finds a checksum: it is put in where a line has the form of a record, unless its number would take gigabytes. */
static void right_sums(char *text, size_t bytes)
{
    char *line = text, *end;
    for (; (end = memchr(line, '\n', bytes - (size_t)(line - text))) != NULL; line = end + 1) {
        char prefix[PREFIX], right[PREFIX];
        int64_t number;
        int flag;
        *end = 0;
        if (sscanf(line, "{\"line\":%" SCNd64 ",\"failed\":%d,", &number, &flag) == 2 && number >= 0 && number < 1 << 20) {
            const size_t n = (size_t)write_prefix(prefix, number, flag != 0, 0);
            if ((size_t)(end - line) > n) {
                write_prefix(right, number, flag != 0, sum_of(number, flag != 0, line + n, (size_t)(end - line) - n - 1));
                memcpy(line, right, n);
            }
        }
        *end = '\n';
    }
}

static void put_file(const char *text, size_t bytes)
{
    CHECK(ftruncate(memory, 0) == 0 && pwrite(memory, text, bytes, 0) == (ssize_t)bytes && lseek(memory, 0, SEEK_SET) == 0, "memory file");
}

static io_journal *make_journal(void)
{
    static char out[] = "out", part[] = "out.part", tmp[] = "out.tmp";
    io_journal *j = calloc(1, sizeof *j);
    CHECK(j != NULL, "no memory");
    j->path = j->name = out, j->part = part, j->tmp = tmp;
    j->dir = j->lock_fd = -1, j->fd = memory, j->most = MOST_LINES;
    return j;
}

static void drop_journal(io_journal *j)
{
    free(j->at);
    free(j->window);
    free(j);
}

/* Every record is as io_journal_append writes it. */
static void check_records(io_journal *j, const char *text, size_t bytes, const io_journal_found *found)
{
    int64_t records = 0;
    const char *line = memchr(text, '\n', bytes);
    char *results = NULL;
    size_t size = 0, used = 0;
    FILE *out = open_memstream(&results, &size);
    CHECK(line != NULL && out != NULL, "no header");
    CHECK(put_as_finished(j, out) == PLP_OK && fclose(out) == 0, "%s", plp_last_error());
    for (line++; line < text + bytes; records++) {
        const char *end = memchr(line, '\n', (size_t)(text + bytes - line)), *result;
        char prefix[PREFIX];
        int64_t number;
        bool failed;
        size_t length;
        CHECK(end != NULL, "a record without an end is kept");
        CHECK(read_record(j, line, (size_t)(end - line), &number, &failed, &result, &length), "a record is not one: %.200s", line);
        const int n = write_prefix(prefix, number, failed, sum_of(number, failed, result, length));
        CHECK((size_t)n + length + 1 == (size_t)(end - line) && memcmp(prefix, line, (size_t)n) == 0, "%.200s", line);
        CHECK(io_journal_has(j, number), "line %lld is missing", (long long)number);
        if (number > 0) {
            CHECK(used + length < size && memcmp(results + used, result, length) == 0 && results[used + length] == '\n', "other results");
            used += length + 1;
        }
        line = end + 1;
    }
    CHECK(used == size && found->done <= records && found->failed <= found->done, "%zu bytes of results of %zu", used, size);
    free(results);
}

static void check_journal(io_journal *j, size_t before, const io_journal_found *found)
{
    struct stat info;
    io_journal_found again = { 0 };
    CHECK(fstat(memory, &info) == 0, "memory file");
    const size_t bytes = (size_t)info.st_size;
    char *text = malloc(bytes + 1);
    CHECK(text != NULL && pread(memory, text, bytes, 0) == (ssize_t)bytes, "memory file");
    text[bytes] = 0;
    CHECK(j->end == (int64_t)bytes, "the end is at %lld of %zu", (long long)j->end, bytes);
    CHECK(found->dropped == 0 || (size_t)found->dropped == before - bytes, "%lld dropped of %zu", (long long)found->dropped, before);
    check_records(j, text, bytes, found);
    io_journal *second = make_journal();
    CHECK(lseek(memory, 0, SEEK_SET) == 0 && resume(second, header, HEADER, &again) == PLP_OK, "%s", plp_last_error());
    CHECK(again.done == found->done && again.failed == found->failed && again.dropped == 0, "a second start finds something else");
    drop_journal(second);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_input in = { data, data + bytes };
    const int flags = fuzz_byte(&in);
    const size_t head = flags & 1 ? sizeof HEADER - 1 : 0, rest = (size_t)(in.end - in.at);
    char *text = malloc(head + rest + 1);
    io_journal_found found = { 0 };
    io_journal *j = make_journal();
    CHECK(text != NULL, "no memory");
    memcpy(text, HEADER, head);
    if (rest > 0) memcpy(text + head, in.at, rest);
    if (flags & 2) right_sums(text + head, rest);
    put_file(text, head + rest);
    if (fuzz_answer(resume(j, header, HEADER, &found))) check_journal(j, head + rest, &found);
    drop_journal(j);
    free(text);
    return 0;
}
