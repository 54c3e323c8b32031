/* Outputs of every kind that cannot be made: the same status for the same fault. */
#include "unit_files.h"

#include "base/error.h"
#include "cli/abort.h"
#include "cli/batch_summary.h"
#include "io/journal.h"
#include "io/line_file.h"
#include "io/part_file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static plp_status make_part(const char *path)
{
    io_part part;
    const plp_status st = io_part_create(&part, path, true);
    io_part_discard(&part);
    return st;
}

static plp_status make_summary(const char *path)
{
    batch_summary summary;
    const plp_status st = batch_summary_open(&summary, path, false);
    batch_summary_close(&summary);
    return st;
}

static plp_status make_journal(const char *path)
{
    io_journal *journal = NULL;
    const plp_status st = io_journal_create(&journal, path, false, false);
    io_journal_close(&journal);
    return st;
}

static plp_status make_line(const char *path) { return io_line_append(path, "a\n", 2); }

static const struct {
    const char *name;
    plp_status (*make)(const char *path);
} kinds[] = {
    { "a part", make_part }, { "a summary", make_summary },         { "a journal", make_journal },
    { "a line", make_line }, { "a directory", cli_diag_directory },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* In a child, which root can leave its rights to. */
static int status_of(int kind, const char *path)
{
    int status = 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(99); /* root may write anywhere */
        _exit((int)kinds[kind].make(path));
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void assert_all(const char *path, plp_status wanted)
{
    for (int i = 0; i < KINDS; i++) {
        const int st = status_of(i, path);
        if (st != (int)wanted)
            fail_msg("%s in %s: %s, want %s", kinds[i].name, path, plp_status_name((plp_status)st), plp_status_name(wanted));
    }
}

static void one_status_for_one_fault(void **state)
{
    (void)state;
    char path[96];
    snprintf(path, sizeof path, "%s/missing/out", dir);
    assert_int_equal(chmod(dir, 0755), 0);
    assert_all(path, PLP_ERR_CREATE);
    snprintf(path, sizeof path, "%s/out", dir);
    assert_int_equal(chmod(dir, 0555), 0);
    assert_all(path, PLP_ERR_PERM);
    assert_int_equal(chmod(dir, 0755), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(one_status_for_one_fault) };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
