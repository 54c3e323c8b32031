/* tests/fuzz/fuzz.h -- what the fuzz targets share: one file fuzz_NAME.c each, with libFuzzer's two functions.
 *
 * A target calls the code under test as the program does, in memory, and aborts where an answer breaks a rule; a sanitizer sees the rest. */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include "base/error.h"
#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define CHECK(condition, ...) ((condition) ? (void)0 : fuzz_broken(__FILE__, __LINE__, #condition, __VA_ARGS__))
static inline _Noreturn __attribute__((format(printf, 4, 5))) void fuzz_broken(const char *file, int line, const char *condition,
                                                                               const char *format, ...)
{
    va_list args;
    fprintf(stderr, "%s:%d: not so: %s: ", file, line, condition);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    abort();
}

/* Nothing but what the target itself prints. */
static inline void fuzz_silence(void) { plp_log_threshold(PLP_LOG_ERROR); }

/* A call that may fail: if it did, with one of these statuses (65 in the shell: the input's fault), and one line to be read. */
static inline bool fuzz_answer(plp_status st)
{
    const char *text = plp_last_error();
    if (st == PLP_OK) return true;
    CHECK(st == PLP_ERR_DATA || st == PLP_ERR_USAGE || st == PLP_ERR_INPUT || st == PLP_ERR_SHAPE || st == PLP_ERR_CONFIG, "%s: %s",
          plp_status_name(st), text);
    CHECK(*text != 0 && strlen(text) <= 400, "a message of %zu bytes: %s", strlen(text), text);
    for (const char *p = text; *p != 0; p++) CHECK((unsigned char)*p >= 0x20 && *p != 0x7f, "control characters: %s", text);
    return false;
}

/* Numbers out of the input, 0 behind its end. */
typedef struct {
    const uint8_t *at, *end;
} fuzz_input;
static inline int fuzz_byte(fuzz_input *in) { return in->at < in->end ? *in->at++ : 0; }
static inline int fuzz_below(fuzz_input *in, int n) { return fuzz_byte(in) % n; }

/* The bytes up to `stop`, which is passed over, or to the end; a copy of exactly their length, so that a sanitizer sees one byte too many. */
static inline char *fuzz_part(fuzz_input *in, int stop, size_t *bytes)
{
    const size_t left = (size_t)(in->end - in->at);
    const uint8_t *end = left > 0 ? memchr(in->at, stop, left) : NULL;
    *bytes = end != NULL ? (size_t)(end - in->at) : left;
    char *copy = malloc(*bytes > 0 ? *bytes : 1);
    CHECK(copy != NULL, "no memory");
    if (*bytes > 0) memcpy(copy, in->at, *bytes);
    in->at += *bytes + (end != NULL);
    return copy;
}

/* The same with a NUL behind it, and none within. */
static inline char *fuzz_text(fuzz_input *in, int stop)
{
    size_t bytes;
    char *part = fuzz_part(in, stop, &bytes), *text = realloc(part, bytes + 1);
    CHECK(text != NULL, "no memory");
    text[bytes] = 0;
    return text;
}

#endif
