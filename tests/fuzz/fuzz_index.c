/* model.safetensors.index.json and the shards beside it, of a directory in memory: the text of the index, 0xff, then for each file its name,
 * 0xff, two bytes (what its length field is off by; bytes of payload), its header, 0xff.  Whatever the index says, only plain names of the
 * directory are opened. */
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 8, DESCRIPTOR = 1000 };
static struct {
    char *name, *data;
    size_t bytes;
} beside[FILES];
static int files, opened;

/* In place of the system's: */
static int memory_open(const char *path, int flags)
{
    CHECK(strncmp(path, "dir/", 4) == 0 && strchr(path + 4, '/') == NULL && (flags & O_ACCMODE) == O_RDONLY, "opened: %s", path);
    CHECK(strcmp(path + 4, ".") != 0 && strcmp(path + 4, "..") != 0, "opened: %s", path);
    for (int i = 0; i < files; i++)
        if (strcmp(beside[i].name, path + 4) == 0) {
            opened++;
            return DESCRIPTOR + i;
        }
    errno = ENOENT;
    return -1;
}
static int memory_stat(int fd, struct stat *info)
{
    *info = (struct stat){ .st_mode = S_IFREG, .st_size = (off_t)beside[fd - DESCRIPTOR].bytes };
    return 0;
}
static ssize_t memory_read(int fd, void *to, size_t bytes, off_t offset)
{
    const size_t have = beside[fd - DESCRIPTOR].bytes, from = (size_t)offset < have ? (size_t)offset : have;
    const size_t n = bytes < have - from ? bytes : have - from;
    memcpy(to, beside[fd - DESCRIPTOR].data + from, n);
    return (ssize_t)n;
}
static int memory_close(int fd)
{
    CHECK(fd >= DESCRIPTOR && fd < DESCRIPTOR + files, "closed: %d", fd);
    opened--;
    return 0;
}
#define open  memory_open
#define fstat memory_stat
#define pread memory_read
#define close memory_close
#include "io/checkpoint.c"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fuzz_silence();
    return 0;
}

/* Length, header, payload of zeros: the length field is right but for `off`. */
static void add_memory_file(fuzz_input *in)
{
    size_t header;
    char *name = fuzz_text(in, 0xff);
    const int off = (signed char)fuzz_byte(in), payload = fuzz_byte(in);
    char *text = fuzz_part(in, 0xff, &header);
    const size_t bytes = 8 + header + (size_t)payload;
    char *data = calloc(1, bytes);
    CHECK(data != NULL, "no memory");
    for (int i = 0; i < 8; i++) data[i] = (char)((uint64_t)((int64_t)header + off) >> 8 * i);
    memcpy(data + 8, text, header);
    free(text);
    beside[files].name = name, beside[files].data = data, beside[files++].bytes = bytes;
}

static plp_status read_index(io_checkpoint *c, const char *text, size_t bytes, json_object **root)
{
    plp_sha256_init(&c->headers);
    PLP_TRY(io_gather_create(&c->gather));
    PLP_TRY(PLP_ALLOCATED(c->dir = strdup("dir")));
    PLP_TRY(plp_json_parse(text, bytes, "dir/index", root));
    return take_index(c, *root, "dir/index");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    size_t length;
    fuzz_input in = { data, data + bytes };
    char *text = fuzz_part(&in, 0xff, &length);
    json_object *root = NULL, *map = NULL;
    io_checkpoint *c = calloc(1, sizeof *c);
    CHECK(c != NULL, "no memory");
    for (files = 0; files < FILES && in.at < in.end;) add_memory_file(&in);
    if (fuzz_answer(read_index(c, text, length, &root))) {
        json_object_object_get_ex(root, "weight_map", &map);
        json_object_object_foreach(map, name, shard)
        {
            const io_tensor *t = io_checkpoint_find(c, name);
            CHECK(t != NULL && strcmp(c->file[t->file].name, json_object_get_string(shard)) == 0, "%s", name);
            char element[8];
            if (io_tensor_count(t) > 0)
                CHECK(io_checkpoint_read(c, t, io_tensor_count(t) - 1, 1, element) == PLP_OK, "%s", plp_last_error());
        }
    }
    json_object_put(root);
    io_checkpoint_close(&c);
    CHECK(opened == 0, "%d files stay open", opened);
    for (int i = 0; i < files; i++) free(beside[i].name), free(beside[i].data);
    free(text);
    return 0;
}
