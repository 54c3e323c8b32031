#define _GNU_SOURCE /* close_range */
#include "io/confine.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A sanitizer's shadow memory is address space, terabytes of it, and it asks for the signal stack before a function that does not return. */
#ifdef PLP_SANITIZED
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static rlim_t smaller(rlim_t a, rlim_t b) { return a < b ? a : b; }

/* Where the user's own limit is narrower it stays: it cannot be widened. */
static bool limit_to(int what, rlim_t soft, rlim_t hard)
{
    struct rlimit now;
    if (getrlimit(what, &now) != 0) return false;
    return setrlimit(what, &(struct rlimit){ smaller(soft, now.rlim_max), smaller(hard, now.rlim_max) }) == 0;
}
static bool limit(int what, rlim_t most) { return limit_to(what, most, most); }

/* At the soft limit comes SIGXCPU, by which the end is known for what it was. */
static bool limit_time(void) { return limit_to(RLIMIT_CPU, IO_PARSER_SECONDS, IO_PARSER_SECONDS + 1); }

bool io_confine_limits(void)
{
    return close_range(3, ~0u, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && prctl(PR_SET_DUMPABLE, 0) == 0 &&
           limit(RLIMIT_CORE, 0) && limit_time() && limit(RLIMIT_FSIZE, 0) && limit(RLIMIT_NOFILE, 3) && limit(RLIMIT_NPROC, 0) &&
           (SANITIZED || limit(RLIMIT_AS, 2 * (rlim_t)IO_PARSER_BYTES));
}

/* From linux/landlock.h, which may be older than the kernel: all rights that each version knows, and then no rule that grants any. */
bool io_confine_files(void)
{
#ifdef __NR_landlock_create_ruleset
    enum { VERSION = 1 << 0 };
    const long version = syscall(__NR_landlock_create_ruleset, NULL, 0, VERSION);
    if (version < 1) return false;
    const struct {
        uint64_t files, network, scope;
    } rights = {
        .files = version < 2   ? 0x1fff
                 : version < 3 ? 0x3fff
                 : version < 5 ? 0x7fff
                               : 0xffff,
        .network = version < 4 ? 0 : 0x3,
        .scope = version < 6 ? 0 : 0x3,
    };
    const size_t size = version < 4 ? 8 : version < 6 ? 16 : 24;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return false;
    const int rules = (int)syscall(__NR_landlock_create_ruleset, &rights, size, 0);
    if (rules < 0) return false;
    const bool done = syscall(__NR_landlock_restrict_self, rules, 0) == 0;
    close(rules);
    return done;
#else
    return false;
#endif
}

/* seccomp's view of a call.  Arguments are looked at by their low halves: descriptors, protections and process ids are ints. */
#define FIELD(member)         BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, member))
#define ARGUMENT(i)           BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, args) + 8 * (i))
#define IF(value, yes, no)    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), (yes), (no))
#define ANY_OF(bits, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (uint32_t)(bits), (yes), (no))
#define ALLOW                 BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define KILL                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
/* The number of the call is loaded; a rule leaves or comes out with it still loaded. */
#define PASS(call)                 IF(__NR_##call, 0, 1), ALLOW
#define PASS_IF(call, i, value)    IF(__NR_##call, 0, 4), ARGUMENT(i), IF(value, 0, 1), ALLOW, KILL
#define PASS_UNLESS(call, i, bits) IF(__NR_##call, 0, 4), ARGUMENT(i), ANY_OF(bits, 1, 0), ALLOW, KILL

#if defined __x86_64__
enum { ARCHITECTURE = AUDIT_ARCH_X86_64 };
#elif defined __aarch64__
enum { ARCHITECTURE = AUDIT_ARCH_AARCH64 };
#endif

bool io_confine_calls(void)
{
#if defined __x86_64__ || defined __aarch64__
    const pid_t self = getpid();
    struct sock_filter rules[] = {
        FIELD(arch),
        IF(ARCHITECTURE, 1, 0),
        KILL,
        FIELD(nr),
        PASS_IF(pread64, 0, 0),
        PASS(brk),
        PASS_UNLESS(mmap, 2, PROT_EXEC),
        PASS_UNLESS(mprotect, 2, PROT_EXEC),
        PASS(munmap),
        PASS(mremap),
        PASS(madvise),
        PASS(futex),
        PASS(clock_gettime),
        PASS(clock_nanosleep), /* HDF5 rests before it reads metadata again whose checksum was wrong */
        PASS(gettimeofday),
        PASS(exit_group),
#    ifdef PLP_SANITIZED
        PASS(sigaltstack),
#    endif
        PASS(getpid), /* this and what follows: abort(), so that a crash is called by its name */
        PASS(gettid),
        PASS(rt_sigprocmask),
        PASS_IF(tgkill, 0, self),
        PASS_IF(writev, 0, STDERR_FILENO),
        IF(__NR_write, 0, 5), /* the table, and last words */
        ARGUMENT(0),
        IF(STDOUT_FILENO, 1, 0),
        IF(STDERR_FILENO, 0, 1),
        ALLOW,
        KILL,
        KILL,
    };
    const struct sock_fprog program = { sizeof rules / sizeof *rules, rules };
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
#else
    return false; /* its system calls were not looked at */
#endif
}

int io_confine(void)
{
    const int files = io_confine_files() ? IO_CONFINED_FILES : 0; /* first: it needs a descriptor */
    if (!io_confine_limits()) return -1;
    return files | (io_confine_calls() ? IO_CONFINED_CALLS : 0);
}
