/* src/cli/id_set.h -- the ids that lines have had so far: 8 bytes each, however long they are. */
#ifndef CLI_ID_SET_H
#define CLI_ID_SET_H

#include "polylepis/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* {0} is the empty one. */
typedef struct {
    uint64_t *seen; /* (room) a hash table of ids, by 64 bits of their SHA-256; 0: empty */
    size_t used, room;
} cli_id_set;

/* *again: whether the id came before. */
plp_status cli_id_set_add(cli_id_set *s, const char *id, bool *again);
void cli_id_set_free(cli_id_set *s);

#endif
