#include "base/error.h"

#include "base/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];
static _Thread_local char site[128];

static const struct {
    const char *name;
    int exit;
} statuses[] = {
    [PLP_OK] = { "OK", 0 },
    [PLP_ERR_USAGE] = { "USAGE", 64 },
    [PLP_ERR_DATA] = { "DATA", 65 },
    [PLP_ERR_SHAPE] = { "SHAPE", 65 },
    [PLP_ERR_INPUT] = { "INPUT", 66 },
    [PLP_ERR_DEVICE] = { "DEVICE", 69 },
    [PLP_ERR_INTERNAL] = { "INTERNAL", 70 },
    [PLP_ERR_MEMORY] = { "MEMORY", 71 },
    [PLP_ERR_CREATE] = { "CREATE", 73 },
    [PLP_ERR_IO] = { "IO", 74 },
    [PLP_ERR_REMOTE] = { "REMOTE", 75 },
    [PLP_ERR_STOPPED] = { "STOPPED", 75 },
    [PLP_ERR_DISAGREE] = { "DISAGREE", 76 },
    [PLP_ERR_PERM] = { "PERMISSION", 77 },
    [PLP_ERR_CONFIG] = { "CONFIG", 78 },
    [PLP_ERR_PARTIAL] = { "PARTIAL", 3 },
};

const char *plp_status_name(plp_status status)
{
    return (size_t)status < sizeof statuses / sizeof *statuses ? statuses[status].name : "UNKNOWN";
}

int plp_status_exit(plp_status status) { return (size_t)status < sizeof statuses / sizeof *statuses ? statuses[status].exit : 70; }

const char *plp_last_error(void) { return message; }

const char *plp_last_error_site(void) { return site; }

/* File names and tensor names end up in messages: a newline or an escape sequence in one must not forge a log line, and a name that was
 * cut in the middle of a character must not make the record that quotes it unreadable. */
void plp_escape_control(char *text)
{
    const char *const end = text + strlen(text);
    for (char *p = text; p < end;) {
        const unsigned char c = (unsigned char)p[0];
        const size_t n = plp_utf8_length(p, end);
        const bool second_set = n == 2 && c == 0xc2 && (unsigned char)p[1] < 0xa0; /* U+0080 to U+009F */
        if (second_set) p[1] = '?';
        if (second_set || n == 0 || c < 0x20 || c == 0x7f) *p = '?';
        p += n > 0 ? n : 1;
    }
}

plp_status plp_fail(plp_status code, const char *file, int line, const char *format, ...)
{
    char text[sizeof message]; /* a local first: the old message may be one of the arguments */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    plp_escape_control(text);
    memcpy(message, text, sizeof message);
    snprintf(site, sizeof site, "%s:%d", file, line);
    return code;
}

plp_status plp_fail_errno(const char *file, int line, const char *doing, const char *what)
{
    const int e = errno;
    switch (e) {
    case ENOENT:
    case ENOTDIR: return plp_fail(PLP_ERR_INPUT, file, line, "cannot %s %s: %s; fix: check the path", doing, what, strerror(e));
    case EACCES:
    case EPERM: return plp_fail(PLP_ERR_PERM, file, line, "cannot %s %s: %s; fix: check its permissions", doing, what, strerror(e));
    case ENOMEM: return plp_fail(PLP_ERR_MEMORY, file, line, "cannot %s %s: %s", doing, what, strerror(e));
    case ELOOP: return plp_fail(PLP_ERR_INPUT, file, line, "cannot %s %s: %s; fix: check the path", doing, what, strerror(e));
    case EMFILE:
        return plp_fail(PLP_ERR_IO, file, line, "cannot %s %s: %s; fix: raise ulimit -n, or close files", doing, what, strerror(e));
    default: return plp_fail(PLP_ERR_IO, file, line, "cannot %s %s: %s", doing, what, strerror(e));
    }
}

plp_status plp_create_status(int error) { return error == EACCES || error == EPERM || error == EROFS ? PLP_ERR_PERM : PLP_ERR_CREATE; }
