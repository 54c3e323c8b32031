/* polylepis/status.h -- what a call returns, and how to read what went wrong.
 *
 * Every function of the library that can fail returns a plp_status.  The message of this thread's last failure is kept until its next
 * one: plp_last_error().  The library never exits and never prints. */
#ifndef POLYLEPIS_STATUS_H
#define POLYLEPIS_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* the library exports what its headers declare, and nothing else */

typedef enum plp_status {
    PLP_OK = 0,
    PLP_ERR_USAGE,    /* an argument or option is wrong, or the launch does not fit the model */
    PLP_ERR_DATA,     /* a file or request holds something it must not                        */
    PLP_ERR_SHAPE,    /* a tensor has another shape than the config says                      */
    PLP_ERR_INPUT,    /* an input is missing                                                  */
    PLP_ERR_DEVICE,   /* no usable GPU, or CUDA, cuBLAS or NCCL failed                        */
    PLP_ERR_INTERNAL, /* a bug of ours                                                        */
    PLP_ERR_MEMORY,   /* host or device memory does not suffice                               */
    PLP_ERR_CREATE,   /* an output cannot be created, or is locked                            */
    PLP_ERR_IO,       /* reading or writing failed                                            */
    PLP_ERR_REMOTE,   /* another rank failed; its own message says why                        */
    PLP_ERR_STOPPED,  /* asked to stop; the work can be resumed                               */
    PLP_ERR_DISAGREE, /* the ranks differ in what must be equal                               */
    PLP_ERR_PERM,     /* permission denied                                                    */
    PLP_ERR_CONFIG,   /* a resumed job was started with other settings                        */
    PLP_ERR_PARTIAL   /* done, but some requests failed; the output says which                */
} plp_status;

/* A short upper-case name, as in `error[DATA]`.  Static storage; never NULL. */
const char *plp_status_name(plp_status status);

/* The process exit status that stands for a status: 0, 3 (partial), or one of 64 (usage), 65 (data, shape), 66 (input), 69 (device),
 * 70 (internal), 71 (memory), 73 (create), 74 (I/O), 75 (remote, stopped), 76 (disagree), 77 (permission), 78 (config). */
int plp_status_exit(plp_status status);

/* "what; where; fix: how" of this thread's last failure, "" if there was none.  Borrowed, valid until the thread's next failure. */
const char *plp_last_error(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
