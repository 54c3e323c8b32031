/* Which rank is to blame, from tables made up here; and the flight recorder: what is written is read, and where the ranks part. */
#include "tp/flight.h"
#include "tp/judge.h"
#include "tp/link.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------------------- the judge */
static tp_seen works(int rank, int phase, double still)
{
    return (tp_seen){ .rank = rank, .watched = true, .phase = phase, .seq = 10, .still = still };
}
static tp_seen waiting(int rank, int phase, int64_t seq, double still)
{
    return (tp_seen){ .rank = rank, .watched = true, .waits = true, .phase = phase, .seq = seq, .still = still };
}

#define EXPECT(wanted_why, wanted_index, all, limit, ...)                                                                                  \
    do {                                                                                                                                   \
        const tp_seen seen_[] = { __VA_ARGS__ };                                                                                           \
        const tp_verdict v_ = tp_judge(seen_, sizeof seen_ / sizeof *seen_, all, limit);                                                   \
        assert_int_equal(v_.why, wanted_why);                                                                                              \
        if ((wanted_why) != TP_FINE) assert_int_equal(v_.index, wanted_index);                                                             \
    } while (0)

static void who_waits_is_only_a_symptom(void **state)
{
    (void)state;
    EXPECT(TP_FINE, 0, true, 30, works(0, TP_DECODE, 0), works(1, TP_DECODE, 0));
    EXPECT(TP_BEHIND, 1, true, 30, waiting(0, TP_DECODE, 11, 31), works(1, TP_DECODE, 31), waiting(2, TP_DECODE, 11, 31));
    EXPECT(TP_FINE, 0, true, 30, waiting(0, TP_DECODE, 11, 29), works(1, TP_DECODE, 31)); /* nobody waited as long as that */
    EXPECT(TP_FINE, 0, true, 30, waiting(0, TP_DECODE, 11, 90), works(1, TP_PREFILL, 5)); /* long, but it moves */
    EXPECT(TP_FINE, 0, true, 30, works(0, TP_START, 90), works(1, TP_START, 90));         /* both are busy: no harm done */
    EXPECT(TP_BEHIND, 2, true, 30, waiting(0, TP_DECODE, 11, 50), works(1, TP_DECODE, 40), works(2, TP_DECODE, 45)); /* the stillest */
}

static void disks_get_more_time(void **state)
{
    (void)state;
    for (int phase = 0; phase < TP_PHASES; phase++) {
        const bool slow = phase == TP_OPEN || phase == TP_LOAD || phase == TP_OUTPUT, never = phase == TP_LEAVE;
        EXPECT(slow || never ? TP_FINE : TP_BEHIND, 1, false, 30, waiting(0, TP_DECODE, 11, 119), works(1, phase, 119));
        EXPECT(never ? TP_FINE : TP_BEHIND, 1, false, 30, waiting(0, TP_DECODE, 11, 121), works(1, phase, 121));
    }
}

static void a_process_that_is_gone_comes_first(void **state)
{
    (void)state;
    tp_seen gone = waiting(2, TP_LOAD, 11, 11);
    gone.gone = 10.5;
    EXPECT(TP_GONE, 1, true, 30, waiting(0, TP_LOAD, 11, 300), gone, works(1, TP_LOAD, 300));
    EXPECT(TP_GONE, 0, true, 3600, gone, works(1, TP_LOAD, 0)); /* ten seconds, however patient one is with work */
    gone.gone = 9.5;
    EXPECT(TP_FINE, 0, true, 30, gone, works(1, TP_LOAD, 0));
    EXPECT(TP_GONE, 0, true, 3, gone, works(1, TP_LOAD, 0));
    gone.watched = false; /* it left in order */
    EXPECT(TP_FINE, 0, true, 3, gone, works(1, TP_LOAD, 0));
}

static void all_wait(void **state)
{
    (void)state;
    EXPECT(TP_KNOT, 1, true, 30, waiting(0, TP_DECODE, 12, 31), waiting(1, TP_DECODE, 11, 31), waiting(2, TP_DECODE, 12, 31));
    EXPECT(TP_FINE, 0, false, 30, waiting(0, TP_DECODE, 12, 31), waiting(1, TP_DECODE, 11, 31)); /* for another host, perhaps */
    EXPECT(TP_FINE, 0, true, 30, waiting(0, TP_DECODE, 12, 31), waiting(1, TP_DECODE, 11, 29));
    EXPECT(TP_KNOT, 0, true, 30, waiting(0, TP_DECODE, 12, 31), works(1, TP_LEAVE, 31)); /* for one that has gone home */
    EXPECT(TP_FINE, 0, true, 30, works(0, TP_LEAVE, 300), works(1, TP_LEAVE, 300));
    EXPECT(TP_FINE, 0, true, 30, works(0, TP_START, 300), works(1, TP_LEAVE, 300));              /* rank 0 converts a file */
    EXPECT(TP_FINE, 0, true, 30, waiting(0, TP_DECODE, 12, 31), waiting(1, TP_DECODE, 12, NAN)); /* which is longer than nothing */
}

static void a_device_is_waited_for_in_silence(void **state)
{
    (void)state;
    tp_seen a = works(0, TP_DECODE, 31), b = works(1, TP_DECODE, 31);
    a.queues = b.queues = true, a.seq = 12;
    EXPECT(TP_KNOT, 1, true, 30, a, b);
    a.phase = b.phase = TP_START; /* no step: it computes on the host */
    EXPECT(TP_FINE, 0, true, 30, a, b);
}

/* -------------------------------------------------------------------------------------------------------------------- recorder */
static char directory[] = "/tmp/plp-flight-XXXXXX";

/* A recorder of `count` collectives whose sizes are those of a job of its own, the last one not done. */
static void fly(tp_page *page, int rank, int64_t count, int64_t odd, size_t odd_bytes)
{
    tp_stamp_into(page); /* takes along what was stamped before */
    memset((void *)page, 0, sizeof *page);
    page->rank = rank;
    page->size = 3;
    tp_stamp(TP_DECODE, 17);
    for (int64_t i = 1; i <= count; i++) {
        tp_wait_begin(i % 5 ? TP_ALL_REDUCE : TP_AGREE, i == odd ? odd_bytes : (size_t)(i * 4));
        if (i < count) tp_wait_end(PLP_OK);
    }
}

static void read_back(tp_page *page, tp_flight *f)
{
    char path[64];
    struct stat s;
    snprintf(path, sizeof path, "%s/polylepis-diag.%d", directory, (int)page->rank);
    assert_int_equal(tp_flight_write(directory, page, "node02"), PLP_OK);
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0600);
    assert_int_equal(tp_flight_read(path, f), PLP_OK);
    assert_int_equal(unlink(path), 0);
}

/* A link to somebody else's file where ours goes, of either kind: it is taken away, not followed. */
static void planted_links_are_not_followed(void **state)
{
    (void)state;
    tp_page *page = calloc(1, sizeof *page);
    char path[64], victim[64];
    struct stat s;
    snprintf(path, sizeof path, "%s/polylepis-diag.0", directory);
    snprintf(victim, sizeof victim, "%s/victim", directory);
    for (int hard = 0; hard < 2; hard++) {
        FILE *f = fopen(victim, "w");
        assert_non_null(f);
        assert_int_equal(fclose(f), 0);
        assert_int_equal(hard ? link(victim, path) : symlink(victim, path), 0);
        assert_int_equal(tp_flight_write(directory, page, "node02"), PLP_OK);
        assert_int_equal(stat(victim, &s), 0);
        assert_int_equal(s.st_size, 0);
        assert_int_equal(unlink(path) | unlink(victim), 0);
    }
    free(page);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    tp_page *page = malloc(sizeof *page);
    tp_flight *f = malloc(sizeof *f);
    for (int64_t count = 0; count < 3 * TP_RECORDS; count += 511) {
        fly(page, 1, count, 0, 0);
        read_back(page, f);
        assert_int_equal(f->rank, 1);
        assert_int_equal(f->size, 3);
        assert_string_equal(f->where, "on node02: decode 17");
        assert_int_equal(f->rows, count < TP_RECORDS ? count : TP_RECORDS);
        for (int i = 0; i < f->rows; i++) {
            const tp_flight_row *r = &f->row[i];
            assert_int_equal(r->seq, count - f->rows + 1 + i);
            assert_int_equal(r->bytes, r->seq * 4);
            assert_int_equal(r->op, r->seq % 5 ? TP_ALL_REDUCE : TP_AGREE);
            assert_int_equal(r->done, r->seq < count);
        }
        assert_ptr_equal(tp_flight_find(f, count + 1), NULL);
    }
    tp_stamp_into(NULL);
    free(page);
    free(f);
}

static void the_first_difference(void **state)
{
    (void)state;
    static const struct {
        int64_t count[2], odd;
        size_t bytes;
        int64_t difference;
    } cases[] = {
        { { 50, 50 }, 0, 0, 0 },        /* none                                     */
        { { 50, 50 }, 7, 1, 7 },        /* another size                             */
        { { 50, 49 }, 0, 0, 49 },       /* one has not got there: 49 not done there */
        { { 50, 50 }, 50, 8, 50 },      /* the last                                 */
        { { 3000, 3000 }, 1000, 1, 0 }, /* longer ago than is remembered            */
        { { 3000, 3000 }, 2000, 1, 2000 },
        { { 3000, 1990 }, 0, 0, 1990 }, /* what the other has forgotten does not count */
        { { 2, 0 }, 0, 0, 1 },          /* one that did nothing                     */
    };
    tp_page *page = malloc(sizeof *page);
    tp_flight *f = malloc(2 * sizeof *f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int rank = 0; rank < 2; rank++) {
            fly(page, rank, cases[i].count[rank], rank ? cases[i].odd : 0, cases[i].bytes);
            read_back(page, &f[rank]);
        }
        assert_int_equal(tp_flight_difference(f, 2), cases[i].difference);
    }
    tp_stamp_into(NULL);
    free(page);
    free(f);
}

/* A damaged file may claim any number: it is not counted up to. */
static void numbers_far_apart(void **state)
{
    (void)state;
    tp_flight *f = calloc(2, sizeof *f);
    for (int i = 0; i < 2; i++) f[i].row[0].seq = 1, f[i].row[1].seq = 999999999999999999, f[i].rows = 2;
    assert_int_equal(tp_flight_difference(f, 2), 0);
    f[1].row[1].bytes = 4;
    assert_int_equal(tp_flight_difference(f, 2), 999999999999999999);
    free(f);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = { "",
                                         "polylepis diag 2\n",
                                         "polylepis diag 1\n",
                                         "polylepis diag 1\nrank x of 3 on a: b 1\n",
                                         "polylepis diag 1\nrank 1 of 3 on a: b 1\n1 agree 4 1.0\n",
                                         "polylepis diag 1\nrank 1 of 3 on a: b 1\n1 nothing 4 1.0 1.0\n",
                                         "polylepis diag 1\nrank 1 of 3 on a: b 1\n2 agree 4 1.0 1.0\n2 agree 4 1.0 1.0\n",
                                         "polylepis diag 1\nrank 1 of 3 on a: b 1\n99999999999999999999999 agree 4 1.0 1.0\n" };
    char path[64];
    tp_flight *f = malloc(sizeof *f);
    snprintf(path, sizeof path, "%s/file", directory);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        FILE *out = fopen(path, "w");
        assert_non_null(out);
        assert_true(fputs(texts[i], out) >= 0);
        assert_int_equal(fclose(out), 0);
        assert_int_equal(tp_flight_read(path, f), PLP_ERR_DATA);
    }
    unlink(path);
    assert_int_equal(tp_flight_read(path, f), PLP_ERR_INPUT);
    free(f);
}

/* ------------------------------------------------------------------------------------------------------------ between the hosts */
static void datagrams_of_others_are_dropped(void **state)
{
    (void)state;
    static tp_datagram d;
    uint8_t secret[TP_SECRET];
    for (int i = 0; i < TP_SECRET; i++) secret[i] = d.secret[i] = (uint8_t)(17 * i + 3);
    d.kind = TP_BEAT, d.leader = 2, d.count = 3;
    const size_t bytes = tp_datagram_bytes(3);
    assert_true(tp_datagram_is_good(&d, bytes, secret, 3));
    for (size_t n = 0; n <= sizeof d + 8; n++) assert_int_equal(tp_datagram_is_good(&d, n, secret, 3), n == bytes);
    for (int bit = 0; bit < 8 * TP_SECRET; bit++) {
        d.secret[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(tp_datagram_is_good(&d, bytes, secret, 3));
        d.secret[bit / 8] = secret[bit / 8];
    }
    static const struct {
        int kind, leader, count;
    } bad[] = { { TP_BEAT, 3, 3 },  { TP_BEAT, -1, 3 },       { 2, 2, 3 }, { -1, 2, 3 }, { TP_BEAT, 2, 4 },
                { TP_BEAT, 2, -1 }, { TP_BEAT, 2, INT32_MAX } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        d.kind = bad[i].kind, d.leader = bad[i].leader, d.count = bad[i].count;
        assert_false(tp_datagram_is_good(&d, bytes, secret, 3));
    }
    d.kind = TP_HELLO, d.leader = 0, d.count = TP_SIGNS;
    assert_true(tp_datagram_is_good(&d, sizeof d, secret, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(datagrams_of_others_are_dropped),
        cmocka_unit_test(who_waits_is_only_a_symptom),
        cmocka_unit_test(disks_get_more_time),
        cmocka_unit_test(a_process_that_is_gone_comes_first),
        cmocka_unit_test(all_wait),
        cmocka_unit_test(a_device_is_waited_for_in_silence),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(planted_links_are_not_followed),
        cmocka_unit_test(the_first_difference),
        cmocka_unit_test(numbers_far_apart),
        cmocka_unit_test(other_files_are_refused),
    };
    if (mkdtemp(directory) == NULL) return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(directory);
    return failed;
}
