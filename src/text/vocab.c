#include "text/vocab.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

uint64_t text_hash(const char *bytes, size_t length)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u; /* FNV-1a */
    return h ^ h >> 32; /* tables take the low bits, where the last bytes have hardly come */
}

plp_status text_vocab_create(text_vocab *v, size_t tokens)
{
    size_t slots = 16;
    while (slots < 2 * tokens) slots *= 2;
    *v = (text_vocab){ .mask = slots - 1 };
    PLP_TRY(PLP_ALLOCATED(v->slots = malloc(slots * sizeof *v->slots)));
    for (size_t i = 0; i < slots; i++) v->slots[i] = (struct text_vocab_slot){ .id = -1 };
    return PLP_OK;
}

void text_vocab_destroy(text_vocab *v)
{
    free(v->names.data);
    free(v->slots);
    *v = (text_vocab){ 0 };
}

static struct text_vocab_slot *slot_of(const text_vocab *v, const char *token, size_t length)
{
    for (size_t i = text_hash(token, length);; i++) {
        struct text_vocab_slot *s = &v->slots[i & v->mask];
        if (s->id < 0 || (s->length == length && memcmp(v->names.data + s->name, token, length) == 0)) return s;
    }
}

plp_status text_vocab_add(text_vocab *v, const char *token, size_t length, int id)
{
    const size_t name = v->names.used;
    PLP_TRY(text_buffer_put(&v->names, token, length));
    PLP_TRY(text_buffer_put(&v->names, "", 1));
    *slot_of(v, token, length) = (struct text_vocab_slot){ name, (uint32_t)length, id };
    return PLP_OK;
}

int text_vocab_find(const text_vocab *v, const char *token, size_t length) { return slot_of(v, token, length)->id; }
