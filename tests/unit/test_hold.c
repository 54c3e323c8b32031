/* Stop strings: whatever the pieces, the text that goes out is what a search in the whole text says, and nothing of a stop string. */
#include "engine/hold.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

/* Feeds `text` in pieces of 1 .. longest bytes, as rand() cuts it; out is what came out, the result which stop ended it. */
static int feed(const char *text, const char *const *stops, int count, int longest, char *out)
{
    hold h = { 0 };
    size_t ready, used = 0, at = 0, length = strlen(text);
    int found = -1;
    while (at < length && found < 0) {
        size_t n = 1 + (size_t)(rand() % longest);
        if (n > length - at) n = length - at;
        assert_int_equal(hold_push(&h, text + at, n, stops, count, at + n == length, &ready, &found), PLP_OK);
        memcpy(out + used, h.text, ready);
        used += ready, at += n;
        hold_take(&h, ready);
    }
    out[used] = 0;
    if (found < 0) assert_int_equal(h.used, 0);
    hold_free(&h);
    return found;
}

static void a_stop_string_never_goes_out(void **state)
{
    (void)state;
    const char *const stops[] = { "\n\n", "END", "ENTRY" };
    char out[64];
    for (int longest = 1; longest < 30; longest++) {
        assert_int_equal(feed("one\nEN two ENTRY three", stops, 3, longest, out), 2);
        assert_string_equal(out, "one\nEN two ");
        assert_int_equal(feed("one\n\ntwo", stops, 3, longest, out), 0);
        assert_string_equal(out, "one");
        assert_int_equal(feed("never ENT", stops, 3, longest, out), -1); /* held back, and given out at the end */
        assert_string_equal(out, "never ENT");
        assert_int_equal(feed("ENEND", stops, 3, longest, out), 1); /* the beginning that fails holds the one that does not */
        assert_string_equal(out, "EN");
    }
}

/* Against strstr, over random texts of two letters, where stops overlap themselves all the time. */
static void pieces_do_not_matter(void **state)
{
    (void)state;
    srand(7);
    for (int i = 0; i < 20000; i++) {
        char text[40], stop[6], out[64];
        const int n = 1 + rand() % 38, m = 1 + rand() % 5;
        for (int k = 0; k < n; k++) text[k] = (char)('a' + rand() % 2);
        for (int k = 0; k < m; k++) stop[k] = (char)('a' + rand() % 2);
        text[n] = stop[m] = 0;
        const char *stops[] = { stop }, *hit = strstr(text, stop);
        assert_int_equal(feed(text, stops, 1, 1 + i % 9, out), hit != NULL ? 0 : -1);
        if (hit != NULL) text[hit - text] = 0;
        assert_string_equal(out, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stop_string_never_goes_out),
        cmocka_unit_test(pieces_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
