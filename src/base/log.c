#include "base/log.h"

#include "base/clock.h"
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    int rank, size;
    char host[64];
    plp_log_level threshold;
    bool drawing; /* a progress line stands on the terminal */
    double drawn; /* when the last progress line was written */
} state = { .size = 1, .threshold = PLP_LOG_NONE, .drawn = -1e9 };

void plp_log_identity(int rank, int size, const char *host)
{
    state.rank = rank, state.size = size;
    snprintf(state.host, sizeof state.host, "%s", host);
}

int plp_log_rank(void) { return state.rank; }

void plp_log_threshold(plp_log_level level) { state.threshold = level; }

static void put(char *line, size_t used, size_t room)
{
    if (used > room - 1) used = room - 1;
    line[used++] = '\n';
    const char clear[] = "\r\033[K";
    if (state.drawing && write(STDERR_FILENO, clear, sizeof clear - 1) < 0) return;
    state.drawing = false;
    if (write(STDERR_FILENO, line, used) < 0) return; /* nowhere left to say so */
}

__attribute__((format(printf, 3, 0))) static void vlog_line(bool of_rank, const char *tag, const char *format, va_list args)
{
    char line[2048];
    int used = 0;
    if (state.size > 1 && of_rank) used = snprintf(line, sizeof line, "[rank %d/%d %s] ", state.rank, state.size, state.host);
    used += snprintf(line + used, sizeof line - used, "%s", tag);
    const int text = used;
    used += vsnprintf(line + used, sizeof line - used, format, args);
    plp_escape_control(line + text); /* names come from files */
    put(line, (size_t)used, sizeof line);
}

void plp_log(plp_log_level level, const char *format, ...)
{
    static const char *const tags[] = { "error: ", "warning: ", "", "debug: " };
    if (level > state.threshold || (level == PLP_LOG_INFO && state.rank != 0)) return;
    va_list args;
    va_start(args, format);
    vlog_line(level <= PLP_LOG_WARN, tags[level], format, args);
    va_end(args);
}

void plp_warn_alike(const char *format, ...)
{
    if (state.threshold < PLP_LOG_WARN || state.rank != 0) return;
    va_list args;
    va_start(args, format);
    vlog_line(false, "warning: ", format, args);
    va_end(args);
}

__attribute__((format(printf, 2, 3))) static void log_tagged(const char *tag, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vlog_line(true, tag, format, args);
    va_end(args);
}

void plp_log_failure(plp_status status)
{
    char tag[48];
    snprintf(tag, sizeof tag, "error[%s]: ", plp_status_name(status));
    log_tagged(tag, "%s", plp_last_error());
}

void plp_log_progress(bool last, const char *format, ...)
{
    if (state.rank != 0 || state.threshold < PLP_LOG_INFO) return;
    const bool terminal = isatty(STDERR_FILENO);
    const double now = plp_seconds();
    if (!last && now - state.drawn < (terminal ? 0.1 : 10)) return;
    state.drawn = now;
    char line[512] = "\r\033[K";
    const size_t head = terminal ? strlen(line) : 0;
    va_list args;
    va_start(args, format);
    int used = vsnprintf(line + head, sizeof line - head - 1, format, args);
    va_end(args);
    size_t end = head + (size_t)(used < 0 ? 0 : used);
    if (end > sizeof line - 2) end = sizeof line - 2;
    if (last || !terminal) line[end++] = '\n';
    state.drawing = terminal && !last;
    if (write(STDERR_FILENO, line, end) < 0) return;
}
