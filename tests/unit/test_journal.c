/* The journal: wherever it is cut or damaged, what is whole is kept and all else done again, and the output is the same. */
#include "base/error.h"
#include "io/journal.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINES = 7, ROOM = 4096 };
static char directory[64], out[80], part[90], lock[90];

/* Everything of an earlier test goes away. */
static int setup(void **state)
{
    (void)state;
    char command[100];
    strcpy(directory, "/tmp/plp_journal_XXXXXX");
    if (mkdtemp(directory) == NULL) return -1;
    snprintf(command, sizeof command, "%s/out", directory);
    strcpy(out, command);
    snprintf(part, sizeof part, "%s.part", out);
    snprintf(lock, sizeof lock, "%s.lock", out);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char tmp[90];
    snprintf(tmp, sizeof tmp, "%s.tmp", out);
    unlink(out), unlink(part), unlink(lock), unlink(tmp);
    return rmdir(directory);
}

static json_object *header_of(int temperature)
{
    json_object *o = json_object_new_object();
    json_object_object_add(o, "format", json_object_new_string("test 1"));
    json_object_object_add(o, "input", json_object_new_string("0123456789abcdef"));
    json_object_object_add(o, "temperature", json_object_new_double(temperature));
    return o;
}

static size_t result_of(int64_t line, char *text) /* of quite different lengths */
{
    const int n = snprintf(text, ROOM, "{\"id\":\"%lld\",\"text\":\"", (long long)line), filling = (int)(line * line * 3 % 50);
    memset(text + n, 'a' + (int)line, (size_t)filling);
    strcpy(text + n + filling, "\"}");
    return strlen(text);
}

static size_t read_all(const char *path, char *text)
{
    const int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    const ssize_t n = read(fd, text, ROOM);
    close(fd);
    assert_true(n >= 0 && n < ROOM);
    text[n] = 0;
    return (size_t)n;
}

static void write_file(const char *path, const char *text, size_t bytes)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, bytes), bytes);
    close(fd);
}

static plp_status begin(io_journal **j, int temperature, io_journal_found *found)
{
    json_object *header = header_of(temperature);
    plp_status st = io_journal_create(j, out, false, false);
    if (st == PLP_OK) st = io_journal_begin(*j, header, true, LINES, found);
    json_object_put(header);
    return st;
}

/* Appends the lines that are missing, in an order that is not theirs. */
static void append_missing(io_journal *j, int64_t most)
{
    static const int64_t order[LINES] = { 3, 1, 2, 7, 5, 6, 4 };
    char text[ROOM];
    for (int i = 0; i < LINES; i++)
        if (order[i] <= most && !io_journal_has(j, order[i]))
            assert_int_equal(io_journal_append(j, order[i], order[i] == 5, text, result_of(order[i], text)), PLP_OK);
}

static size_t expected_output(char *text)
{
    size_t used = 0;
    for (int64_t line = 1; line <= LINES; line++) {
        used += result_of(line, text + used);
        text[used++] = '\n';
    }
    return used;
}

static void finish_and_check(io_journal **j)
{
    char want[ROOM], got[ROOM];
    append_missing(*j, LINES);
    assert_int_equal(io_journal_finish(*j, LINES, true), PLP_OK);
    io_journal_close(j);
    const size_t n = expected_output(want);
    assert_int_equal(read_all(out, got), n);
    assert_memory_equal(got, want, n);
    assert_int_equal(access(part, F_OK), -1);
    assert_int_equal(access(lock, F_OK), -1);
    unlink(out);
}

/* A journal with all lines but the end, as a kill leaves it. */
static size_t make_part(char *text)
{
    io_journal *j = NULL;
    io_journal_found found;
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    assert_int_equal(found.done, 0);
    append_missing(j, LINES);
    io_journal_close(&j);
    return read_all(part, text);
}

static void an_output_is_whole_and_in_order(void **state)
{
    (void)state;
    struct stat info;
    io_journal *j = NULL;
    io_journal_found found;
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    assert_int_equal(stat(part, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    append_missing(j, LINES - 1);
    assert_int_equal(io_journal_finish(j, LINES, true), PLP_ERR_INTERNAL); /* a line has no result */
    assert_int_equal(access(out, F_OK), -1);
    finish_and_check(&j);
}

static void a_cut_at_any_byte_loses_the_torn_record_alone(void **state)
{
    (void)state;
    char whole[ROOM];
    const size_t bytes = make_part(whole);
    int64_t records = 0;
    for (size_t cut = 0; cut <= bytes; cut++) {
        io_journal *j = NULL;
        io_journal_found found;
        write_file(part, whole, cut);
        if (cut > 0 && whole[cut - 1] == '\n') records++; /* and the header */
        assert_int_equal(begin(&j, 1, &found), PLP_OK);
        assert_int_equal(found.done, records > 0 ? records - 1 : 0);
        assert_int_equal(found.failed, records > 5); /* line 5 is the fifth */
        finish_and_check(&j);
    }
    assert_int_equal(records, LINES + 1);
}

static void a_flipped_bit_is_found(void **state)
{
    (void)state;
    char whole[ROOM];
    const size_t bytes = make_part(whole), head = (size_t)(strchr(whole, '\n') - whole) + 1;
    for (size_t at = 0; at < bytes; at++)
        for (int bit = 0; bit < 8; bit++) {
            io_journal *j = NULL;
            io_journal_found found;
            whole[at] ^= (char)(1 << bit);
            write_file(part, whole, bytes);
            whole[at] ^= (char)(1 << bit);
            const plp_status st = begin(&j, 1, &found);
            if (at >= head) {
                int64_t before = 0;
                for (size_t k = head; k < at; k++) before += whole[k] == '\n';
                assert_int_equal(st, PLP_OK);
                assert_int_equal(found.done, before);
                assert_true(found.dropped > 0);
                if ((at * 8 + (size_t)bit) % 61 == 0) finish_and_check(&j); /* every one would wait for the disk most of a minute */
                io_journal_close(&j);
            } else {
                assert_int_equal(st, PLP_ERR_CONFIG);
                io_journal_close(&j);
            }
        }
}

/* Memory would be asked for as many lines as it says, and the output would lack those before it for good. */
static void a_record_of_no_line_is_damage(void **state)
{
    (void)state;
    io_journal *j = NULL;
    io_journal_found found;
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    assert_int_equal(io_journal_append(j, 1, false, "{}", 2), PLP_OK);
    assert_int_equal(io_journal_append(j, LINES + 1, false, "{}", 2), PLP_OK);
    io_journal_close(&j);
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    assert_int_equal(found.done, 1);
    assert_true(found.dropped > 0);
    assert_false(io_journal_has(j, LINES + 1));
    append_missing(j, LINES);
    assert_int_equal(io_journal_finish(j, LINES, true), PLP_OK);
    io_journal_close(&j);
}

static void another_job_is_refused(void **state)
{
    (void)state;
    char text[ROOM];
    io_journal *j = NULL;
    io_journal_found found;
    make_part(text);
    char other[ROOM] = " "; /* our header in another spelling, and without its end: records would be glued to it */
    const size_t header = strcspn(text, "\n");
    memcpy(other + 1, text, header);
    assert_int_equal(begin(&j, 2, &found), PLP_ERR_CONFIG);
    assert_non_null(strstr(plp_last_error(), "temperature 2"));
    assert_non_null(strstr(plp_last_error(), "was 1"));
    assert_null(strstr(plp_last_error(), "input"));
    io_journal_close(&j);
    write_file(part, "{\"some\": \"file\"}\n", 17);
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CONFIG);
    io_journal_close(&j);
    write_file(part, "some text", 9);
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CONFIG);
    io_journal_close(&j);
    assert_int_equal(read_all(part, text), 9); /* untouched */
    write_file(part, other, header + 1);
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CONFIG);
    io_journal_close(&j);
}

static json_object *with_digest(const char *digest, int number)
{
    json_object *o = header_of(1);
    json_object_object_add(o, "model", json_object_new_string(digest));
    json_object_object_add(o, "n", number == 0 ? json_object_new_int(1) : json_object_new_string("1"));
    return o;
}

/* Of long values that part late, what is shown is what differs. */
static void values_that_begin_alike_are_told_apart(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        io_journal *j = NULL;
        io_journal_found found;
        json_object *was = with_digest("188b6d00aa11bb22cc33dd44ee55ff66778899", 0);
        json_object *is = with_digest(i == 0 ? "188b6d00aa11bb22cc33dd44ee55ff67778899" : "188b6d00aa11bb22cc33dd44ee55ff66778899", i);
        assert_int_equal(io_journal_create(&j, out, false, false), PLP_OK);
        assert_int_equal(io_journal_begin(j, was, true, LINES, &found), PLP_OK);
        io_journal_close(&j);
        assert_int_equal(io_journal_create(&j, out, false, false), PLP_OK);
        assert_int_equal(io_journal_begin(j, is, true, LINES, &found), PLP_ERR_CONFIG);
        io_journal_close(&j);
        assert_non_null(strstr(plp_last_error(), i == 0 ? "model ...55ff67778899, was ...55ff66778899; fix: start as before, or anew with "
                                                          "--force, also where nothing has changed"
                                                        : "another job: n \"1\", was 1; fix: start as before, or anew with --force"));
        json_object_put(was);
        json_object_put(is);
        unlink(part);
    }
}

/* The journal is there and whole; the output has no room beside it. */
static void a_disk_that_is_full_at_the_end(void **state)
{
    (void)state;
    char text[ROOM], says[300];
    struct rlimit limit, eight = { 0 };
    io_journal *j = NULL;
    io_journal_found found;
    make_part(text);
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    write_file(out, "mine", 4);
    assert_int_equal(io_journal_finish(j, LINES, true), PLP_ERR_CREATE); /* but its end is in the journal */
    unlink(out);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    eight = (struct rlimit){ .rlim_cur = 8, .rlim_max = limit.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &eight), 0);
    const plp_status st = io_journal_finish(j, LINES, true);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(st, PLP_ERR_IO);
    snprintf(says, sizeof says, "cannot write %s.tmp: File too large; output; fix: make room and start again, what is done is kept", out);
    assert_string_equal(plp_last_error(), says);
    finish_and_check(&j);
}

static void an_output_that_is_there_is_kept(void **state)
{
    (void)state;
    char text[ROOM], got[ROOM];
    io_journal *j = NULL;
    io_journal_found found;
    write_file(out, "mine", 4);
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CREATE);
    unlink(out);
    make_part(text);
    write_file(out, "mine", 4); /* came while the job was down */
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CREATE);
    io_journal_close(&j);
    assert_int_equal(read_all(out, got), 4);
    unlink(out);

    /* Killed between the rename and the end: OUT is ours, and the job ends as if nothing had been. */
    const size_t bytes = expected_output(text);
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    assert_int_equal(io_journal_append(j, 0, false, "null", 4), PLP_OK);
    io_journal_close(&j);
    write_file(out, text, bytes);
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    assert_int_equal(found.done, LINES);
    finish_and_check(&j);
}

/* fcntl locks are a process's: another one must hold it. */
static void one_writer_at_a_time(void **state)
{
    (void)state;
    int ready[2], end[2], status;
    char byte;
    io_journal *j = NULL;
    io_journal_found found;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(end), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const bool good = begin(&j, 1, &found) == PLP_OK;
        if (write(ready[1], "x", 1) != 1 || read(end[0], &byte, 1) != 1) _exit(1);
        _exit(good ? 0 : 1); /* without a word to the lock, as after a kill */
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CREATE);
    char pid[32];
    snprintf(pid, sizeof pid, "pid %ld ", (long)child);
    assert_non_null(strstr(plp_last_error(), pid));
    assert_int_equal(write(end[1], "x", 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(access(lock, F_OK), 0);
    assert_int_equal(begin(&j, 1, &found), PLP_OK); /* the lock is stale */
    finish_and_check(&j);

    write_file(lock, "elsewhere.example 17 - 0 1\n", 27);
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CREATE);
    assert_non_null(strstr(plp_last_error(), "pid 17 on elsewhere.example"));
    assert_int_equal(access(lock, F_OK), 0);
    assert_int_equal(io_journal_create(&j, out, false, true), PLP_OK); /* --break-lock */
    io_journal_close(&j);
    setenv("SLURM_JOB_ID", "9", 1), setenv("SLURM_RESTART_COUNT", "1", 1);
    write_file(lock, "elsewhere.example 17 9 0 1\n", 27); /* the same job, before it was queued again */
    assert_int_equal(begin(&j, 1, &found), PLP_OK);
    unsetenv("SLURM_JOB_ID"), unsetenv("SLURM_RESTART_COUNT");
    finish_and_check(&j);
    for (int i = 0; i < 2; i++) close(ready[i]), close(end[i]);
}

static void links_are_not_followed(void **state)
{
    (void)state;
    char target[90], text[ROOM];
    io_journal *j = NULL;
    io_journal_found found;
    snprintf(target, sizeof target, "%s/target", directory);
    write_file(target, "precious", 8);
    const char *const names[] = { part, lock, out };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(symlink(target, names[i]), 0);
        assert_int_equal(begin(&j, 1, &found), PLP_ERR_CREATE);
        io_journal_close(&j);
        unlink(names[i]);
        unlink(part);
    }
    assert_int_equal(link(target, part), 0);
    assert_int_equal(begin(&j, 1, &found), PLP_ERR_CREATE);
    io_journal_close(&j);
    assert_int_equal(read_all(target, text), 8);
    unlink(target);
}

int main(void)
{
#define IN_A_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        IN_A_DIRECTORY(an_output_is_whole_and_in_order),
        IN_A_DIRECTORY(a_cut_at_any_byte_loses_the_torn_record_alone),
        IN_A_DIRECTORY(a_flipped_bit_is_found),
        IN_A_DIRECTORY(a_record_of_no_line_is_damage),
        IN_A_DIRECTORY(another_job_is_refused),
        IN_A_DIRECTORY(values_that_begin_alike_are_told_apart),
        IN_A_DIRECTORY(a_disk_that_is_full_at_the_end),
        IN_A_DIRECTORY(an_output_that_is_there_is_kept),
        IN_A_DIRECTORY(one_writer_at_a_time),
        IN_A_DIRECTORY(links_are_not_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
