#include "cli/stop.h"

#include "base/error.h"

#include <signal.h>

static volatile sig_atomic_t asked = CLI_GO_ON;

static void note_signal(int number)
{
    const cli_stop wish = number == SIGUSR1 ? CLI_DRAIN : CLI_DROP;
    if ((int)wish > asked) asked = wish;
}

void cli_watch_signals(void)
{
    static const int numbers[] = { SIGUSR1, SIGTERM, SIGINT };
    struct sigaction once = { .sa_handler = note_signal, .sa_flags = SA_RESTART | SA_RESETHAND };
    sigemptyset(&once.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &once, NULL);
}

cli_stop cli_stop_asked(void) { return (cli_stop)asked; }

plp_status cli_stop_agreed(const tp_group *g, cli_stop *wish)
{
    double strongest = asked;
    PLP_TRY(tp_max(g, &strongest));
    *wish = (cli_stop)strongest;
    return PLP_OK;
}

plp_status cli_stop_here(const tp_group *g, const char *left)
{
    cli_stop wish;
    PLP_TRY(cli_stop_agreed(g, &wish));
    return wish == CLI_GO_ON ? PLP_OK : PLP_FAIL(PLP_ERR_STOPPED, "stopped by a signal; %s", left);
}
