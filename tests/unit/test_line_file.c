/* Lines that several jobs add to one file: each is whole or not there, also where the disk is full. */
#include "unit_files.h"

#include "io/line_file.h"

#include "base/error.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[96];

static plp_status append(const char *line) { return io_line_append(path, line, strlen(line)); }

static void assert_holds(const char *text)
{
    char data[64] = "";
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(data, 1, sizeof data - 1, f), strlen(text));
    fclose(f);
    assert_string_equal(data, text);
}

static void lines_are_added(void **state)
{
    (void)state;
    struct stat info;
    assert_int_equal(append("one\n"), PLP_OK);
    assert_int_equal(append("two\n"), PLP_OK);
    assert_holds("one\ntwo\n");
    assert_int_equal(truncate(path, 7), 0); /* an editor that leaves no end at the last line */
    assert_int_equal(append("three\n"), PLP_OK);
    assert_holds("one\ntwo\nthree\n");
    assert_int_equal(io_line_append(dir, "one\n", 4), PLP_ERR_CREATE);
    assert_non_null(strstr(plp_last_error(), "cannot write"));
    assert_int_equal(stat(dir, &info), 0);
    unlink(path);
}

/* A limit of the process stands for a full disk: the kernel writes what has room, and then nothing. */
static void room_for(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_full_disk_leaves_what_was_there(void **state)
{
    (void)state;
    plp_status st[3];
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t room = 0; room < 4; room++) { /* none, or some */
        room_for(room);
        st[0] = append("one\n");
        room_for(RLIM_INFINITY);
        assert_int_equal(st[0], PLP_ERR_IO);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    assert_int_equal(append("one"), PLP_OK);
    room_for(3), st[0] = append("two\n");
    room_for(4), st[1] = append("two\n"); /* the end of the line before it, and no more */
    room_for(6), st[2] = append("two\n");
    room_for(RLIM_INFINITY);
    for (int i = 0; i < 3; i++) assert_int_equal(st[i], PLP_ERR_IO);
    assert_non_null(strstr(plp_last_error(), "No space left"));
    assert_holds("one");
    assert_int_equal(append("two\n"), PLP_OK);
    assert_holds("one\ntwo\n");
    unlink(path);
}

static int set_up(void **state)
{
    const int failed = make_dir(state);
    snprintf(path, sizeof path, "%s/lines", dir);
    return failed;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_added),
        cmocka_unit_test(a_full_disk_leaves_what_was_there),
    };
    return cmocka_run_group_tests(tests, set_up, drop_dir);
}
