/* planted_parser WISH -- a parser that has been taken over: it confines itself as the real one does, or in part, and then does what the file
 * wants.  WISH, behind the last '/', is LAYERS-ACTION.  Ends with 42 where it got what it wanted, with 43 where it was refused. */
#define _GNU_SOURCE
#include "base/error.h"
#include "io/confine.h"
#include "io/model_file_internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DONE = 42, REFUSED = 43 };
static int answer(bool done) { return done ? DONE : REFUSED; }

static int read_file(void) { return answer(open("/etc/passwd", O_RDONLY) >= 0); }
static int create_file(void)
{
    char name[64];
    snprintf(name, sizeof name, "/tmp/plp-planted-%d", (int)getpid());
    const int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd >= 0) unlink(name);
    return answer(fd >= 0);
}
static int make_socket(void) { return answer(socket(AF_INET, SOCK_STREAM, 0) >= 0); }
static int run_program(void)
{
    char *const arguments[] = { "false", NULL };
    execv("/bin/false", arguments);
    return REFUSED;
}
static int make_process(void)
{
    const pid_t pid = fork();
    if (pid == 0) _exit(0);
    if (pid > 0) waitpid(pid, NULL, 0);
    return answer(pid > 0);
}
static int signal_parent(void) { return answer(kill(getppid(), 0) == 0); }
static int map_code(void) { return answer(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED); }
static int unmask_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return answer(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
}
static int write_to_model(void) { return answer(pwrite(STDIN_FILENO, "x", 1, 0) == 1); }
static int write_inherited(void) /* what the program has open: its outputs, its sockets */
{
    for (int fd = 3; fd < 100; fd++)
        if (write(fd, "x", 1) == 1) return DONE;
    return REFUSED;
}
static int take_memory(void)
{
    enum { PIECES = 5 };
    int got = 0;
    while (got < PIECES && mmap(NULL, 1 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED)
        got++;
    return answer(got == PIECES);
}
static volatile bool for_ever = true;
static volatile uintptr_t nowhere = 8;
static int spin(void)
{
    while (for_ever) {}
    return DONE;
}
static int do_nothing(void)
{
    while (for_ever) pause();
    return DONE;
}
static int crash(void)
{
    *(volatile int *)nowhere = 0;
    return DONE;
}
static int give_up(void) { abort(); }
static int flood(void)
{
    static char much[1 << 20];
    for (int i = 0; i < 80; i++)
        if (write(STDOUT_FILENO, much, sizeof much) < 0) return REFUSED;
    return 0;
}
static int garbage(void) { return write(STDOUT_FILENO, "\1\2\3", 3) == 3 ? 0 : REFUSED; }

static int send_table(plp_status fared, int confined, const io_contents *c)
{
    uint8_t *table;
    size_t bytes;
    if (io_table_make(fared, confined, c, &table, &bytes) != PLP_OK) return REFUSED;
    for (size_t sent = 0; sent < bytes;) {
        const ssize_t put = write(STDOUT_FILENO, table + sent, bytes - sent);
        if (put < 0) return REFUSED;
        sent += (size_t)put;
    }
    return 0;
}
static int whole_table_then_crash(void)
{
    send_table(PLP_OK, IO_CONFINED, &(io_contents){ 0 });
    return crash();
}
static int wild_message(void)
{
    return send_table(PLP_FAIL(PLP_ERR_PARTIAL, "%s", "\033[2J\r\nerror[OK]: all is well \302\233m %s%n"), IO_CONFINED, NULL);
}
static int no_memory(void) { return send_table(PLP_ERR_MEMORY, IO_CONFINED, NULL); }

static int parse(int confined) /* as it should be, but for what it says about itself */
{
    struct stat info;
    unsigned plugins;
    io_contents contents = { 0 };
    plp_status st = fstat(STDIN_FILENO, &info) == 0 ? io_hdf5_enter(&plugins) : PLP_ERR_IO;
    if (st == PLP_OK) st = io_profile_read("the file", STDIN_FILENO, (uint64_t)info.st_size, &contents);
    return send_table(st, confined, &contents);
}
static int parse_unconfined(void) { return parse(0); }
static int parse_without_calls(void) { return parse(IO_CONFINED_FILES); }

/* What a reader without a profile does: opens the file by its name and reads what is in it. */
static int read_all_naively(void)
{
    char bytes[64];
    const hid_t file = H5Fopen("/proc/self/fd/0", H5F_ACC_RDONLY, H5P_DEFAULT), set = H5Dopen2(file, "/extra", H5P_DEFAULT);
    return answer(set >= 0 && H5Dread(set, H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0);
}

static const struct {
    const char *name;
    int (*act)(void);
} actions[] = { { "read", read_file },
                { "create", create_file },
                { "socket", make_socket },
                { "exec", run_program },
                { "fork", make_process },
                { "kill", signal_parent },
                { "map", map_code },
                { "unmask", unmask_code },
                { "model", write_to_model },
                { "inherited", write_inherited },
                { "memory", take_memory },
                { "spin", spin },
                { "nothing", do_nothing },
                { "crash", crash },
                { "abort", give_up },
                { "flood", flood },
                { "garbage", garbage },
                { "tablecrash", whole_table_then_crash },
                { "wild", wild_message },
                { "nomemory", no_memory },
                { "unconfined", parse_unconfined },
                { "uncalled", parse_without_calls },
                { "naive", read_all_naively } };

int main(int argc, char **argv)
{
    char layers[16] = "", action[16] = "";
    const char *wish = argc > 1 && strrchr(argv[1], '/') ? strrchr(argv[1], '/') + 1 : argc > 1 ? argv[1] : "";
    if (sscanf(wish, "%15[a-z]-%15[a-z]", layers, action) != 2) return 1;
    bool set = true;
    if (strcmp(layers, "files") == 0) set = io_confine_files();
    if (strcmp(layers, "limits") == 0) set = io_confine_limits();
    if (strcmp(layers, "calls") == 0) set = io_confine_calls();
    if (strcmp(layers, "all") == 0) set = io_confine() == IO_CONFINED;
    if (!set) return 2;
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(action, actions[i].name) == 0) _exit(actions[i].act());
    return 3;
}
