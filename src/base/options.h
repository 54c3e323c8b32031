/* src/base/options.h -- a command line read by a table: what is not in the table is refused, with the nearest option that is.
 *
 * `--name value` and `--name=value`, a one-letter form where the table has one, `--` before words that begin with a dash.  Numbers are
 * checked against their range, in the C locale (the program never calls setlocale).  Given twice, the later one counts. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include "polylepis/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { PLP_TEXTS = 16 };
typedef struct {
    const char *item[PLP_TEXTS]; /* borrowed from argv */
    int count;
} plp_texts;

typedef struct {
    int *item; /* the caller's to free */
    int count;
} plp_ints;

typedef enum {
    PLP_OPTION_FLAG,  /* bool *, set to true                                                  */
    PLP_OPTION_INT,   /* int64_t *, in [least, most]                                          */
    PLP_OPTION_REAL,  /* double *, in [least, most]                                           */
    PLP_OPTION_TEXT,  /* const char **, of at least `least` bytes                             */
    PLP_OPTION_TEXTS, /* plp_texts *, the same, in UTF-8; repeatable                          */
    PLP_OPTION_INTS,  /* plp_ints *, "1,2,3", each in [least, most]                           */
    PLP_OPTION_CHOICE /* int *, the index among `argument`, which reads "auto|cpu|cuda"       */
} plp_option_kind;

typedef struct {
    const char *name;     /* "--max-tokens"                            */
    const char *letter;   /* "-n", or NULL                             */
    const char *argument; /* what the help calls the value; choices    */
    plp_option_kind kind;
    void *value;
    double least, most;
    const char *help; /* further lines begin after a \n */
} plp_option;

typedef struct {
    const char *title; /* of its part of the help */
    const plp_option *option;
    int count;
} plp_option_table;

/* Reads argv[0 .. argc), program and command names not among it; words that are no options go to words[0 .. *count), borrowed from argv.
 * PLP_ERR_USAGE names the option, the value and what it may be. */
plp_status plp_options_parse(const plp_option_table *tables, int n, int argc, char *const *argv, const char **words, int most, int *count);
/* Whether an option is named among the same arguments: not as another one's value, nor behind `--`.  What is not in the table has no value. */
bool plp_options_name(const plp_option_table *tables, int n, int argc, char *const *argv, const char *name, const char *letter);
void plp_options_help(const plp_option_table *tables, int n, FILE *out);

/* Whether the value names a file or a directory: "FILE", "PATH", "DIR", "OUT.h5". */
bool plp_option_is_path(const plp_option *o);
/* What the option is set to, the same text for the same value and no other: 12, 0.5, cuda, "In the". What has no room, of at least
 * PLP_OPTION_DIGEST, ends with a digest of the whole.  Of a path no more than whether there is one: hosts may know a file by several names. */
enum { PLP_OPTION_DIGEST = 22 };
void plp_option_text(const plp_option *o, char *text, size_t room);

/* The one of n names that `text` was perhaps meant to be, or NULL when none is near. */
const char *plp_nearest(const char *text, const char *const *names, int n);

#endif
