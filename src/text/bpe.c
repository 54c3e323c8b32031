#include "text/bpe.h"

#include "base/error.h"
#include "base/grow.h"
#include "base/json.h"
#include "text/component.h"
#include "text/utf8.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CACHE_SLOTS = 8192, /* words; a new one takes the place of the old one in its slot */
    CACHE_BYTES = 46,
    CACHE_IDS = 20,
    KEPT_SYMBOLS = 65536, /* working memory that is kept from word to word */
};

struct pair {            /* a merge: its two tokens, and what they become */
    int left, right, id; /* left -1: an empty slot */
    uint32_t rank;
};
struct symbol {     /* a token of the word in the making */
    int id;         /* -1: merged into the one before */
    int prev, next; /* -1: none */
};
struct candidate {
    uint32_t rank;
    int at, id; /* the left symbol, and the token the two would become */
};
struct cached {
    unsigned char length, count;
    char word[CACHE_BYTES];
    int ids[CACHE_IDS];
};

struct text_bpe {
    text_vocab vocab;
    struct pair *pairs; /* open hash */
    size_t mask;
    char *unk_token; /* NULL: unknown characters vanish */
    int unk;         /* its id; -1: not in the vocabulary */
    bool fuse_unk, byte_fallback, ignore_merges;
    int byte_ids[256]; /* of "<0x00>" and so on; -1 */
    struct cached *cache;
    struct symbol *symbols;
    struct candidate *heap;
    size_t symbol_count, symbol_room, heap_count, heap_room;
};

const text_vocab *text_bpe_vocab(const text_bpe *bpe) { return &bpe->vocab; }

void text_bpe_destroy(text_bpe **bpe)
{
    text_bpe *b = *bpe;
    if (b == NULL) return;
    text_vocab_destroy(&b->vocab);
    free(b->pairs);
    free(b->unk_token);
    free(b->cache);
    free(b->symbols);
    free(b->heap);
    free(b);
    *bpe = NULL;
}

/* The slot of a pair, empty if there is no such merge. */
static struct pair *pair_of(const text_bpe *b, int left, int right)
{
    const uint64_t mixed = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    for (size_t i = mixed >> 32;; i++) {
        struct pair *p = &b->pairs[i & b->mask];
        if (p->left < 0 || (p->left == left && p->right == right)) return p;
    }
}

static plp_status read_vocab(text_bpe *b, json_object *model, const char *where)
{
    json_object *vocab = NULL;
    PLP_TRY(text_need(model, "vocab", where, json_type_object, &vocab));
    PLP_TRY(text_vocab_create(&b->vocab, (size_t)json_object_object_length(vocab)));
    json_object_object_foreach(vocab, token, value)
    {
        int64_t id = -1;
        PLP_TRY(plp_json_int(vocab, token, where, 0, TEXT_MOST_IDS - 1, &id));
        if (value == NULL) return PLP_FAIL(PLP_ERR_DATA, "%s: vocab: '%.60s' has no id", where, token);
        if (*token == 0) return PLP_FAIL(PLP_ERR_DATA, "%s: vocab: id %d is an empty token's", where, (int)id);
        PLP_TRY(text_vocab_add(&b->vocab, token, strlen(token), (int)id));
    }
    return PLP_OK;
}

/* The two tokens of a merge, "a b" or ["a", "b"], one after the other in `joined`; *split is where the second begins. */
static plp_status read_merge(json_object *merge, const char *where, size_t index, text_buffer *joined, size_t *split)
{
    joined->used = 0;
    if (json_object_is_type(merge, json_type_string)) {
        const char *text = json_object_get_string(merge), *space = strchr(text, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL)
            return PLP_FAIL(PLP_ERR_DATA, "%s: merges: number %zu, '%.60s', is not two tokens with one space between", where, index, text);
        *split = (size_t)(space - text);
        PLP_TRY(text_buffer_put(joined, text, *split));
        return text_buffer_put(joined, space + 1, strlen(space + 1));
    }
    if (!json_object_is_type(merge, json_type_array) || json_object_array_length(merge) != 2)
        return PLP_FAIL(PLP_ERR_DATA, "%s: merges: number %zu is neither \"a b\" nor [\"a\", \"b\"]", where, index);
    for (size_t i = 0; i < 2; i++) {
        json_object *token = json_object_array_get_idx(merge, i);
        if (!json_object_is_type(token, json_type_string))
            return PLP_FAIL(PLP_ERR_DATA, "%s: merges: number %zu is neither \"a b\" nor [\"a\", \"b\"]", where, index);
        *split = joined->used;
        PLP_TRY(text_buffer_put(joined, json_object_get_string(token), (size_t)json_object_get_string_len(token)));
    }
    return PLP_OK;
}

/* How much of a token a message shows. */
static int quoted(size_t bytes) { return bytes < 60 ? (int)bytes : 60; }

static plp_status read_merges(text_bpe *b, json_object *model, const char *where)
{
    json_object *merges = NULL;
    text_buffer joined = { 0 };
    size_t slots = 16, split = 0;
    uint32_t rank = 0;
    plp_status st = text_need(model, "merges", where, json_type_array, &merges);
    PLP_TRY(st);
    const size_t count = json_object_array_length(merges);
    while (slots < 2 * count) slots *= 2;
    b->mask = slots - 1;
    PLP_DO(PLP_ALLOCATED(b->pairs = malloc(slots * sizeof *b->pairs)));
    for (size_t i = 0; i < slots; i++) b->pairs[i].left = -1;
    for (size_t i = 0; i < count; i++) {
        json_object *merge = json_object_array_get_idx(merges, i);
        if (json_object_is_type(merge, json_type_string) && strncmp(json_object_get_string(merge), "#version", 8) == 0) continue;
        PLP_DO(read_merge(merge, where, i, &joined, &split));
        if (joined.used == 0) {
            st = PLP_FAIL(PLP_ERR_DATA, "%s: merges: number %zu is of two empty tokens", where, i);
            goto done;
        }
        const int left = text_vocab_find(&b->vocab, joined.data, split);
        const int right = text_vocab_find(&b->vocab, joined.data + split, joined.used - split);
        const int id = text_vocab_find(&b->vocab, joined.data, joined.used);
        if (left < 0 || right < 0 || id < 0) {
            st = PLP_FAIL(PLP_ERR_DATA, "%s: merges: number %zu, '%.*s' + '%.*s': %s is not in the vocabulary", where, i, quoted(split),
                          joined.data, quoted(joined.used - split), joined.data + split,
                          left < 0    ? "the first"
                          : right < 0 ? "the second"
                                      : "what they become");
            goto done;
        }
        *pair_of(b, left, right) = (struct pair){ left, right, id, rank++ }; /* a pair that comes twice has its last rank */
    }
done:
    free(joined.data);
    return st;
}

/* What the reference knows and we do not: randomness, and affixes that change what a word's characters are called. */
static plp_status refuse_options(json_object *model, const char *where)
{
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    double dropout = 0;
    PLP_TRY(plp_json_double(model, "dropout", where, 0, 1, &dropout));
    if (dropout != 0) return PLP_FAIL(PLP_ERR_DATA, "%s: dropout is %g; fix: set it to null, it is for training", where, dropout);
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const char *affix = "";
        PLP_TRY(plp_json_string(model, affixes[i], where, &affix));
        if (*affix != 0) return PLP_FAIL(PLP_ERR_DATA, "%s: %s '%.60s' is not supported", where, affixes[i], affix);
    }
    return PLP_OK;
}

plp_status text_bpe_create(text_bpe **bpe, json_object *model, const char *where)
{
    plp_status st = PLP_OK;
    const char *type = "BPE", *unk = NULL; /* files of 2019 have no type */
    text_bpe *b = NULL;
    *bpe = NULL;
    PLP_TRY(plp_json_string(model, "type", where, &type));
    if (strcmp(type, "BPE") != 0) return text_component_unknown(where, "model", type);
    PLP_TRY(refuse_options(model, where));
    PLP_TRY(PLP_ALLOCATED(b = calloc(1, sizeof *b)));
    PLP_DO(read_vocab(b, model, where));
    PLP_DO(read_merges(b, model, where));
    PLP_DO(plp_json_string(model, "unk_token", where, &unk));
    PLP_DO(plp_json_bool(model, "fuse_unk", where, &b->fuse_unk));
    PLP_DO(plp_json_bool(model, "byte_fallback", where, &b->byte_fallback));
    PLP_DO(plp_json_bool(model, "ignore_merges", where, &b->ignore_merges));
    if (unk != NULL) {
        PLP_DO(PLP_ALLOCATED(b->unk_token = strdup(unk)));
        b->unk = text_vocab_find(&b->vocab, unk, strlen(unk));
    }
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        b->byte_ids[i] = text_vocab_find(&b->vocab, name, 6);
    }
    PLP_DO(PLP_ALLOCATED(b->cache = calloc(CACHE_SLOTS, sizeof *b->cache)));
done:
    if (st != PLP_OK) text_bpe_destroy(&b);
    *bpe = b;
    return st;
}

static plp_status add_symbol(text_bpe *b, int id)
{
    struct symbol *grown = plp_grow(b->symbols, &b->symbol_room, b->symbol_count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    b->symbols = grown;
    const int at = (int)b->symbol_count++;
    b->symbols[at] = (struct symbol){ id, at - 1, -1 };
    if (at > 0) b->symbols[at - 1].next = at;
    return PLP_OK;
}

/* Its bytes' tokens for a character that has none, if every byte has one. */
static plp_status add_bytes(text_bpe *b, const char *c, size_t length, bool *added)
{
    for (size_t i = 0; i < length; i++)
        if (b->byte_ids[(unsigned char)c[i]] < 0) return PLP_OK;
    for (size_t i = 0; i < length; i++) PLP_TRY(add_symbol(b, b->byte_ids[(unsigned char)c[i]]));
    *added = true;
    return PLP_OK;
}

/* The characters of a word.  The unknown token waits until a known character or the end, so that its neighbours can fuse with it; byte
 * tokens do not end the wait and so come before it, as in the reference. */
static plp_status add_characters(text_bpe *b, const char *word, size_t length)
{
    bool waiting = false;
    b->symbol_count = 0;
    for (size_t at = 0, size; at < length; at += size) {
        int32_t c;
        bool added = false;
        size = text_utf8_next(word + at, length - at, &c);
        const int id = text_vocab_find(&b->vocab, word + at, size);
        if (id < 0 && b->byte_fallback) PLP_TRY(add_bytes(b, word + at, size, &added));
        if (added || (id < 0 && b->unk_token == NULL)) continue;
        if (id < 0 && b->unk < 0)
            return PLP_FAIL(PLP_ERR_DATA, "no token for U+%04X, and the unknown token '%.60s' is not in the vocabulary; fix: add it",
                            (unsigned)c, b->unk_token);
        if (waiting && (id >= 0 || !b->fuse_unk)) PLP_TRY(add_symbol(b, b->unk));
        waiting = id < 0;
        if (id >= 0) PLP_TRY(add_symbol(b, id));
    }
    return waiting ? add_symbol(b, b->unk) : PLP_OK;
}

static bool before(const struct candidate *a, const struct candidate *b) { return a->rank != b->rank ? a->rank < b->rank : a->at < b->at; }

static void sink(struct candidate *heap, size_t count, size_t at)
{
    const struct candidate c = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &c)) break;
        heap[at] = heap[child];
    }
    heap[at] = c;
}

/* The merge of a symbol and its next one, if there is one, goes to the end of the heap. */
static plp_status append_candidate(text_bpe *b, int at)
{
    if (at < 0 || b->symbols[at].next < 0) return PLP_OK;
    const struct pair *p = pair_of(b, b->symbols[at].id, b->symbols[b->symbols[at].next].id);
    if (p->left < 0) return PLP_OK;
    struct candidate *grown = plp_grow(b->heap, &b->heap_room, b->heap_count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    b->heap = grown;
    b->heap[b->heap_count++] = (struct candidate){ p->rank, at, p->id };
    return PLP_OK;
}

static plp_status push_candidate(text_bpe *b, int at)
{
    const size_t count = b->heap_count;
    PLP_TRY(append_candidate(b, at));
    if (b->heap_count == count) return PLP_OK;
    const struct candidate c = b->heap[count];
    size_t to = count;
    for (; to > 0 && before(&c, &b->heap[(to - 1) / 2]); to = (to - 1) / 2) b->heap[to] = b->heap[(to - 1) / 2];
    b->heap[to] = c;
    return PLP_OK;
}

static plp_status merge(text_bpe *b)
{
    b->heap_count = 0;
    for (size_t i = 0; i + 1 < b->symbol_count; i++) PLP_TRY(append_candidate(b, (int)i));
    for (size_t i = b->heap_count / 2; i-- > 0;) sink(b->heap, b->heap_count, i);
    while (b->heap_count > 0) {
        const struct candidate top = b->heap[0];
        b->heap[0] = b->heap[--b->heap_count];
        if (b->heap_count > 0) sink(b->heap, b->heap_count, 0);
        struct symbol *left = &b->symbols[top.at];
        if (left->id < 0 || left->next < 0) continue;
        struct symbol *right = &b->symbols[left->next];
        const struct pair *p = pair_of(b, left->id, right->id);
        if (p->left < 0 || p->id != top.id) continue; /* one of the two has become another token since */
        left->id = top.id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) b->symbols[left->next].prev = top.at;
        PLP_TRY(push_candidate(b, left->prev));
        PLP_TRY(push_candidate(b, top.at));
    }
    return PLP_OK;
}

static void drop_large_memory(text_bpe *b)
{
    if (b->symbol_room <= KEPT_SYMBOLS && b->heap_room <= KEPT_SYMBOLS) return;
    free(b->symbols);
    free(b->heap);
    b->symbols = NULL, b->heap = NULL;
    b->symbol_room = b->heap_room = 0;
}

plp_status text_bpe_encode(text_bpe *b, const char *word, size_t length, text_ids *ids)
{
    plp_status st = PLP_OK;
    if (length > INT_MAX) return PLP_FAIL(PLP_ERR_DATA, "a word of %zu bytes, at most %d are encoded", length, INT_MAX);
    if (b->ignore_merges) {
        const int id = text_vocab_find(&b->vocab, word, length);
        if (id >= 0) return text_ids_put(ids, id);
    }
    struct cached *c = length <= CACHE_BYTES ? &b->cache[text_hash(word, length) % CACHE_SLOTS] : NULL;
    if (c != NULL && c->count > 0 && c->length == length && memcmp(c->word, word, length) == 0) {
        for (int i = 0; i < c->count; i++) PLP_TRY(text_ids_put(ids, c->ids[i]));
        return PLP_OK;
    }
    const size_t first = ids->count;
    PLP_DO(add_characters(b, word, length));
    PLP_DO(merge(b));
    for (size_t i = 0; i < b->symbol_count; i++)
        if (b->symbols[i].id >= 0) PLP_DO(text_ids_put(ids, b->symbols[i].id));
    const size_t count = ids->count - first;
    if (c != NULL && count > 0 && count <= CACHE_IDS) {
        c->length = (unsigned char)length, c->count = (unsigned char)count;
        memcpy(c->word, word, length);
        memcpy(c->ids, ids->list + first, count * sizeof *c->ids);
    }
done:
    drop_large_memory(b);
    return st;
}
