#include "cli/cli.h"

#include <fcntl.h>
#include <unistd.h>

/* A closed standard stream would be the next file or socket that is opened, MPI's for instance, and what we print would go there.  Opened the
 * wrong way round, it gives the errors of a closed one. */
static void hold_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
}

int main(int argc, char **argv)
{
    hold_streams();
    return cli_main(argc, argv);
}
