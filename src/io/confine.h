/* src/io/confine.h -- the parser's process gives up all it does not need, before it sees the first byte of a file.
 *
 * From then on it can read descriptor 0, write to descriptors 1 and 2, take memory, and end.  Three layers, each of which suffices against
 * reading or writing another file: limits of the kernel, Landlock, seccomp. */
#ifndef IO_CONFINE_H
#define IO_CONFINE_H

#include <stdbool.h>

enum { IO_CONFINED_FILES = 1, IO_CONFINED_CALLS = 2, IO_CONFINED = IO_CONFINED_FILES | IO_CONFINED_CALLS };
enum { IO_PARSER_SECONDS = 10 /* of CPU */, IO_PARSER_BYTES = 1 << 30 /* of address space, twice */ };

/* All of it, for the rest of this process; no other thread may run.  Which of the two above took effect: older kernels lack them.
 * Negative: the limits could not be set, and nothing may be parsed. */
int io_confine(void);

/* The layers, for tests.  Of CPU time, memory, files and their sizes; descriptors above 2 are closed, and no core is left. */
bool io_confine_limits(void);
bool io_confine_files(void); /* Landlock: no file can be opened, made or removed, no port bound or reached, no other process signalled */
bool io_confine_calls(void); /* seccomp: any system call but those few ends the process with SIGSYS */

#endif
