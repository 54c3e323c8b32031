#include "cli/stop.h"

#include "base/error.h"
#include "io/part_file.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 3 }; /* seconds */

static volatile sig_atomic_t asked = CLI_GO_ON;
static struct timespec first[CLI_DROP + 1]; /* of the handler alone */

static void note_signal(int number)
{
    const cli_stop wish = number == SIGUSR1 ? CLI_DRAIN : CLI_DROP;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (first[wish].tv_sec == 0) first[wish] = now;
    const double since = (double)(now.tv_sec - first[wish].tv_sec) + 1e-9 * (double)(now.tv_nsec - first[wish].tv_nsec);
    if (since > 1) {
        signal(number, SIG_DFL);
        raise(number); /* held back until this handler returns */
    }
    if (wish == CLI_DROP && asked != CLI_DROP) alarm(PATIENCE);
    if ((int)wish > asked) asked = wish;
}

static void leave_now(int number)
{
    static const char text[] = "error[STOPPED]: stopped by a signal, in the middle; nothing that was finished is lost; fix: start again\n";
    (void)number;
    io_part_abandon(); /* the journal of a batch job is none of these, and stays */
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(74);
    _exit(75);
}

void cli_watch_signals(void)
{
    static const int numbers[] = { SIGUSR1, SIGTERM, SIGINT };
    struct sigaction note = { .sa_handler = note_signal, .sa_flags = SA_RESTART };
    sigemptyset(&note.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaddset(&note.sa_mask, numbers[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &note, NULL);
    sigaction(SIGALRM, &(struct sigaction){ .sa_handler = leave_now }, NULL);
}

cli_stop cli_stop_asked(void) { return (cli_stop)asked; }
void cli_stop_heard(void) { alarm(0); }

plp_status cli_stop_agreed(const tp_group *g, cli_stop *wish)
{
    double strongest = asked;
    PLP_TRY(tp_max(g, &strongest));
    *wish = (cli_stop)strongest;
    if (*wish == CLI_DROP) cli_stop_heard();
    return PLP_OK;
}

plp_status cli_stop_here(const tp_group *g, const char *left)
{
    cli_stop wish;
    PLP_TRY(cli_stop_agreed(g, &wish));
    return wish == CLI_GO_ON ? PLP_OK : PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal; %s", left);
}
