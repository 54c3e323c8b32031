/* The power goes after any call that changes a file or a directory.  What was not synced is then there or not: none of it, all of it, a
 * beginning, its last block torn, its length without its bytes; and each name is what it was or what it has become.  Whatever is left, a
 * file under its final name is whole, the journal goes on to the same bytes, and a record that was synced is not computed again. */
#include "failures/fail.h"

#include "base/error.h"
#include "io/journal.h"
#include "model/source.h"
#include "unit/unit_files.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES = 32, NAMES = 4, BLOCK = 512, LINES = 70 }; /* so many that a sync comes between: of 64 records */
typedef struct {
    char *data;
    size_t bytes;
} contents;

/* Files by their inode, as they are on the disk for sure. */
static struct {
    ino_t inode;
    contents synced;
} file[FILES];
static int files;

/* Names of the directory, and the inode that each has for sure; 0: none. */
static struct {
    const char *name;
    ino_t synced;
} names[NAMES];

static long cuts, states;
static int synced_records; /* that the journal must not lose */

static char *path_of(const char *folder, const char *name)
{
    static char path[2][160];
    static int next;
    char *p = path[next++ % 2];
    snprintf(p, sizeof path[0], "%s/%s/%s", dir, folder, name);
    return p;
}

static contents read_all(const char *path)
{
    contents c = { 0 };
    FILE *f = fopen(path, "rb");
    struct stat info;
    if (f == NULL) return c;
    assert_int_equal(fstat(fileno(f), &info), 0);
    c.data = malloc((size_t)info.st_size + 1);
    assert_non_null(c.data);
    c.bytes = fread(c.data, 1, (size_t)info.st_size, f);
    fclose(f);
    return c;
}

static int find_file(ino_t inode)
{
    for (int i = 0; i < files; i++)
        if (file[i].inode == inode) return i;
    assert_true(files < FILES);
    file[files].inode = inode, file[files].synced = (contents){ 0 };
    return files++;
}

/* The file of a name right now; 0: none. */
static ino_t inode_of(const char *name)
{
    struct stat info;
    return stat(path_of("run", name), &info) == 0 ? info.st_ino : 0;
}

static void note_sync(int fd)
{
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    if (S_ISDIR(info.st_mode)) {
        for (int i = 0; i < NAMES && names[i].name; i++) names[i].synced = inode_of(names[i].name);
        return;
    }
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const int i = find_file(info.st_ino);
    free(file[i].synced.data);
    file[i].synced = read_all(link);
    if (info.st_ino != inode_of("out.part")) return;
    synced_records = -1; /* the header */
    for (size_t k = 0; k < file[i].synced.bytes; k++) synced_records += file[i].synced.data[k] == '\n';
    if (synced_records > LINES) synced_records = LINES; /* the last record says that the end has begun */
}

/* ------------------------------------------------------------------------------------------------------- what a cut may leave */
typedef enum { DROPPED, KEPT, BEGINNING, TORN, HOLLOW, WAYS } way;

/* Of a file whose last synced contents and present ones are these. */
static contents left_of(way w, const contents *synced, const contents *now)
{
    contents c = { .bytes = w == DROPPED ? synced->bytes : now->bytes };
    const size_t more = now->bytes > synced->bytes ? now->bytes - synced->bytes : 0;
    if (w == BEGINNING) c.bytes = now->bytes - more / 2 - (more > 0);
    c.data = calloc(1, c.bytes + 1);
    assert_non_null(c.data);
    memcpy(c.data, w == DROPPED ? synced->data ? synced->data : "" : now->data, c.bytes);
    if (w == HOLLOW && more > 0) memset(c.data + synced->bytes, 0, more);
    if (w == TORN && more > 0) {
        const size_t torn = more < BLOCK ? more : BLOCK;
        memset(c.data + c.bytes - torn * 2 / 3, 'x', torn / 3); /* both its ends are as they should be */
    }
    return c;
}

static void write_file(const char *path, const contents *c)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(c->data, 1, c->bytes, f), c->bytes);
    assert_int_equal(fclose(f), 0);
}

/* The present contents of an inode that has perhaps no name any more are those of when it was last synced. */
static contents present(ino_t inode)
{
    for (int i = 0; i < NAMES && names[i].name; i++)
        if (inode_of(names[i].name) == inode) return read_all(path_of("run", names[i].name));
    const contents *s = &file[find_file(inode)].synced;
    contents c = { .data = malloc(s->bytes + 1), .bytes = s->bytes };
    assert_non_null(c.data);
    if (s->bytes > 0) memcpy(c.data, s->data, s->bytes);
    return c;
}

/* mask: which names are what they have become. */
static void lay_out(way w, unsigned mask)
{
    for (int i = 0; i < NAMES && names[i].name; i++) {
        const ino_t inode = mask >> i & 1 ? inode_of(names[i].name) : names[i].synced;
        unlink(path_of("cut", names[i].name));
        if (inode == 0) continue;
        contents now = present(inode), left = left_of(w, &file[find_file(inode)].synced, &now);
        write_file(path_of("cut", names[i].name), &left);
        free(now.data);
        free(left.data);
    }
}

static void (*check)(void); /* of what is in "cut" */

static void cut(const char *call, int fd, const char *name)
{
    (void)name;
    if (strcmp(call, "fsync") == 0 || strcmp(call, "fdatasync") == 0) note_sync(fd);
    unsigned changed = 0;
    for (int i = 0; i < NAMES && names[i].name; i++)
        if (inode_of(names[i].name) != names[i].synced) changed |= 1u << i;
    cuts++;
    for (unsigned mask = changed;; mask = (mask - 1) & changed) { /* all choices among the names that have changed */
        for (way w = 0; w < WAYS; w++) {
            lay_out(w, mask);
            states++;
            check();
        }
        if (mask == 0) break;
    }
}

static void begin_trace(const char *const *of, void (*checks)(void))
{
    for (int i = 0; i < files; i++) free(file[i].synced.data);
    files = 0, cuts = states = 0, synced_records = 0;
    memset(names, 0, sizeof names);
    for (int i = 0; of[i]; i++) names[i].name = of[i];
    check = checks;
    mkdir(path_of("run", ""), 0700);
    mkdir(path_of("cut", ""), 0700);
}

/* --------------------------------------------------------------------------------------------------------------------- journal */
static contents answer;

static int result_of(int line, char text[200])
{
    return snprintf(text, 200, "{\"id\":%d,\"text\":\"%0*d\"}", line, line % 7 * 20 + 1, line);
}

/* Whatever is there already, all lines get done.  Returns how many were. */
static int do_lines(const char *path, bool replace)
{
    io_journal *j = NULL;
    io_journal_found found;
    char text[200];
    json_object *header = json_object_new_object();
    json_object_object_add(header, "format", json_object_new_string("test"));
    if (io_journal_create(&j, path, replace, false) != PLP_OK || io_journal_begin(j, header, true, -1, &found) != PLP_OK)
        fail_msg("%s", plp_last_error());
    json_object_put(header);
    for (int line = LINES; line > 0; line--) { /* as they finish, which is not in order */
        if (io_journal_has(j, line)) continue;
        const int n = result_of(line, text);
        assert_int_equal(io_journal_append(j, line, false, text, (size_t)n), PLP_OK);
    }
    if (io_journal_finish(j, LINES, true) != PLP_OK) fail_msg("%s", plp_last_error());
    io_journal_close(&j);
    return (int)found.done;
}

static void check_output(const char *name, const contents *right)
{
    contents out = read_all(path_of("cut", name));
    if (out.data == NULL) return;
    assert_int_equal(out.bytes, right->bytes);
    assert_memory_equal(out.data, right->data, right->bytes);
    free(out.data);
}

static void check_journal(void)
{
    const bool done = access(path_of("cut", "out"), F_OK) == 0, part = access(path_of("cut", "out.part"), F_OK) == 0;
    check_output("out", &answer);
    if (done && !part) return; /* the job is done, and says so when it is started again */
    const int kept = do_lines(path_of("cut", "out"), false);
    if (kept < synced_records) fail_msg("cut %ld: %d records, %d were synced", cuts, kept, synced_records);
    assert_int_equal(access(path_of("cut", "out"), F_OK), 0);
    check_output("out", &answer);
    assert_int_not_equal(access(path_of("cut", "out.part"), F_OK), 0);
}

static void the_journal_survives_every_cut(void **state)
{
    static const char *const of[] = { "out", "out.part", "out.tmp", NULL };
    (void)state;
    begin_trace(of, check_journal);
    do_lines(path_of("run", "first"), false);
    answer = read_all(path_of("run", "first"));
    fail_watch(cut);
    const int kept = do_lines(path_of("run", "out"), false);
    fail_watch(NULL);
    assert_int_equal(kept, 0);
    assert_int_equal(synced_records, LINES);
    print_message("journal: %ld places to cut, %ld states of the disk\n", cuts, states);
    assert_true(cuts > LINES + 5 && states > (LINES + 5) * WAYS);
    free(answer.data);
}

/* ------------------------------------------------------------------------------------------------------------------------ model */
static contents model;

static void check_model(void) { check_output("made.h5", &model); }

static void a_model_is_whole_or_not_there(void **state)
{
    static const char *const of[] = { "made.h5", "made.h5.part", NULL };
    (void)state;
    for (int replace = 0; replace < 2; replace++) { /* published by a link, then by renaming: the older file was the same */
        begin_trace(of, check_model);
        if (replace == 0)
            assert_int_equal(model_convert(PLP_TEST_DATA "/fixtures/mamba2-g1", path_of("run", "first.h5"), &(model_convert_options){ 0 }),
                             PLP_OK);
        model = read_all(path_of("run", "first.h5"));
        if (replace) {
            names[0].synced = inode_of("made.h5");
            const int i = find_file(names[0].synced);
            file[i].synced = read_all(path_of("run", "made.h5"));
        }
        fail_watch(cut);
        const plp_status st = model_convert(PLP_TEST_DATA "/fixtures/mamba2-g1", path_of("run", "made.h5"),
                                            &(model_convert_options){ .replace = replace });
        fail_watch(NULL);
        if (st != PLP_OK) fail_msg("%s", plp_last_error());
        assert_int_equal(names[0].synced, inode_of("made.h5")); /* the end is synced as well */
        print_message("model: %ld places to cut, %ld states of the disk\n", cuts, states);
        assert_true(cuts > 5);
        free(model.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_journal_survives_every_cut),
        cmocka_unit_test(a_model_is_whole_or_not_there),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
