#include "cli/id_set.h"

#include "base/error.h"
#include "base/sha256.h"

#include <stdlib.h>
#include <string.h>

static bool insert(uint64_t *table, size_t room, uint64_t key)
{
    size_t at = (size_t)key & (room - 1);
    while (table[at] != 0 && table[at] != key) at = (at + 1) & (room - 1);
    if (table[at] == key) return false;
    table[at] = key;
    return true;
}

plp_status cli_id_set_add(cli_id_set *s, const char *id, bool *again)
{
    uint8_t digest[PLP_SHA256_BYTES];
    uint64_t key;
    if (s->used * 4 >= s->room * 3) {
        const size_t room = s->room == 0 ? 1024 : 2 * s->room;
        uint64_t *seen = calloc(room, sizeof *seen);
        PLP_TRY(PLP_ALLOCATED(seen));
        for (size_t i = 0; i < s->room; i++)
            if (s->seen[i] != 0) insert(seen, room, s->seen[i]);
        free(s->seen);
        s->seen = seen, s->room = room;
    }
    plp_sha256(id, strlen(id), digest);
    memcpy(&key, digest, sizeof key);
    *again = !insert(s->seen, s->room, key | 1);
    s->used += !*again;
    return PLP_OK;
}

void cli_id_set_free(cli_id_set *s)
{
    free(s->seen);
    *s = (cli_id_set){ 0 };
}
