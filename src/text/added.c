#include "text/added.h"

#include "base/error.h"
#include "base/json.h"
#include "text/component.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Tokens in the order of their bytes, so that those that share a beginning are neighbours. */
typedef struct {
    const text_added_token **sorted;
    size_t count;
    size_t first[257]; /* those that begin with byte b: [first[b], first[b + 1]) */
} matcher;

struct text_added {
    text_added_token *tokens;
    size_t count;
    matcher raw, normal;
};

size_t text_added_count(const text_added *a) { return a->count; }
const text_added_token *text_added_token_at(const text_added *a, size_t index) { return &a->tokens[index]; }

/* ---- matching ---- */

/* The first of [low, high), tokens that agree in all bytes before `depth`, whose byte there is not below `byte`. */
static size_t lower_bound(const matcher *m, size_t low, size_t high, size_t depth, int byte)
{
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if ((unsigned char)m->sorted[middle]->form[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that the text begins with; NULL.  Bytes narrow the range of candidates, one after the other. */
static const text_added_token *longest(const matcher *m, const char *text, size_t bytes)
{
    const text_added_token *best = NULL;
    const unsigned char begin = (unsigned char)*text;
    size_t low = m->first[begin], high = m->first[begin + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (m->sorted[low]->form_length == depth) best = m->sorted[low];  /* it sorts before those that go on */
        while (low < high && m->sorted[low]->form_length == depth) low++; /* more than one where normalising made them equal */
        if (depth == bytes) break;
        const int byte = (unsigned char)text[depth];
        low = lower_bound(m, low, high, depth, byte);
        high = lower_bound(m, low, high, depth, byte + 1);
    }
    return best;
}

static int32_t character_before(const char *text, size_t at, size_t *start)
{
    int32_t c;
    *start = at - 1;
    while (*start > 0 && ((unsigned char)text[*start] & 0xc0) == 0x80) --*start;
    text_utf8_next(text + *start, at - *start, &c);
    return c;
}

static bool inside_word(const char *text, size_t bytes, size_t start, size_t end)
{
    int32_t c = ' ';
    size_t ignored;
    if (start > 0 && text_is_word(character_before(text, start, &ignored))) return true;
    if (end < bytes) text_utf8_next(text + end, bytes - end, &c);
    return text_is_word(c);
}

static plp_status cut(const matcher *m, const char *text, size_t bytes, bool first, text_pieces *out)
{
    size_t done = 0;
    for (size_t at = 0; at < bytes;) {
        const text_added_token *token = longest(m, text + at, bytes - at);
        if (token == NULL) {
            at++;
            continue;
        }
        size_t start = at, end = at + token->form_length, before;
        int32_t c;
        at = end; /* the next match is looked for here, even where rstrip goes further */
        if (token->single_word && inside_word(text, bytes, start, end)) continue;
        if (token->lstrip) {
            while (start > done && text_is_space(character_before(text, start, &before))) start = before;
            if (start < done) start = done; /* another's rstrip reaches into it, perhaps past it: then nothing of it is left */
        }
        if (token->rstrip)
            for (size_t length; end < bytes && (length = text_utf8_next(text + end, bytes - end, &c), text_is_space(c));) end += length;
        if (done < start) PLP_TRY(text_pieces_text(out, text + done, start - done, first && done == 0));
        if (start >= end) continue;
        PLP_TRY(text_pieces_token(out, token->id));
        done = end;
    }
    return text_pieces_text(out, text + done, bytes - done, first && done == 0);
}

plp_status text_added_cut(const text_added *a, const text_normalizer *n, const char *text, size_t bytes, text_pieces *out)
{
    plp_status st = PLP_OK;
    text_pieces raw = { 0 };
    text_buffer normal = { 0 };
    text_pieces_clear(out);
    PLP_DO(cut(&a->raw, text, bytes, true, &raw));
    for (size_t i = 0; i < raw.count; i++) {
        const text_piece piece = raw.list[i];
        bool first = piece.first;
        if (piece.id >= 0) {
            PLP_DO(text_pieces_token(out, piece.id));
            continue;
        }
        PLP_DO(text_normalize(n, raw.text.data + piece.start, piece.end - piece.start, &first, &normal));
        PLP_DO(cut(&a->normal, normal.data, normal.used, first, out));
    }
done:
    free(normal.data);
    text_pieces_destroy(&raw);
    return st;
}

/* ---- reading ---- */

static plp_status read_token(text_added_token *t, json_object *o, const text_vocab *vocab, const text_normalizer *n, const char *where)
{
    const char *content = NULL;
    int64_t id = -1;
    text_buffer form = { 0 };
    PLP_TRY(text_need_string(o, "content", where, &content, &t->length));
    PLP_TRY(plp_json_int(o, "id", where, 0, TEXT_MOST_IDS - 1, &id));
    if (t->length == 0 || id < 0) return PLP_FAIL(PLP_ERR_DATA, "%s: added_tokens: '%.60s' with id %d", where, content, (int)id);
    const int known = text_vocab_find(vocab, content, t->length);
    if (known >= 0 && known != id)
        return PLP_FAIL(PLP_ERR_DATA, "%s: added_tokens: '%.60s' has id %d, but %d in the vocabulary", where, content, (int)id, known);
    t->id = (int)id;
    t->normalized = true;
    PLP_TRY(plp_json_bool(o, "single_word", where, &t->single_word));
    PLP_TRY(plp_json_bool(o, "lstrip", where, &t->lstrip));
    PLP_TRY(plp_json_bool(o, "rstrip", where, &t->rstrip));
    PLP_TRY(plp_json_bool(o, "normalized", where, &t->normalized));
    PLP_TRY(plp_json_bool(o, "special", where, &t->special));
    PLP_TRY(PLP_ALLOCATED(t->content = malloc(t->length + 1)));
    memcpy(t->content, content, t->length);
    t->content[t->length] = 0;
    const plp_status st = t->normalized ? text_normalize(n, content, t->length, NULL, &form) : text_buffer_put(&form, content, t->length);
    t->form = form.data, t->form_length = form.used;
    return st;
}

static int by_bytes(const void *a, const void *b)
{
    const text_added_token *x = *(const text_added_token *const *)a, *y = *(const text_added_token *const *)b;
    const size_t shared = x->form_length < y->form_length ? x->form_length : y->form_length;
    const int order = memcmp(x->form, y->form, shared);
    if (order != 0) return order;
    if (x->form_length != y->form_length) return x->form_length < y->form_length ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_id(const void *a, const void *b)
{
    const text_added_token *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static plp_status build(matcher *m, const text_added *a, bool normalized)
{
    PLP_TRY(PLP_ALLOCATED(m->sorted = malloc((a->count + 1) * sizeof *m->sorted)));
    for (size_t i = 0; i < a->count; i++) /* normalising may leave nothing to look for */
        if (a->tokens[i].normalized == normalized && a->tokens[i].form_length > 0) m->sorted[m->count++] = &a->tokens[i];
    if (m->count > 1) qsort(m->sorted, m->count, sizeof *m->sorted, by_bytes);
    for (size_t i = 0; i < m->count; i++) m->first[(unsigned char)m->sorted[i]->form[0] + 1]++;
    for (size_t b = 0; b < 256; b++) m->first[b + 1] += m->first[b];
    return PLP_OK;
}

plp_status text_added_create(text_added **added, json_object *list, const text_vocab *vocab, const text_normalizer *n, const char *where)
{
    plp_status st = PLP_OK;
    text_added *a = NULL;
    *added = NULL;
    if (list != NULL && !json_object_is_type(list, json_type_array)) return PLP_FAIL(PLP_ERR_DATA, "%s: added_tokens: not a list", where);
    const size_t count = list != NULL ? json_object_array_length(list) : 0;
    PLP_TRY(PLP_ALLOCATED(a = calloc(1, sizeof *a)));
    PLP_DO(PLP_ALLOCATED(a->tokens = calloc(count + 1, sizeof *a->tokens)));
    a->count = count;
    for (size_t i = 0; i < count; i++) PLP_DO(read_token(&a->tokens[i], json_object_array_get_idx(list, i), vocab, n, where));
    qsort(a->tokens, count, sizeof *a->tokens, by_id);
    for (size_t i = 1; i < count; i++)
        if (a->tokens[i].id == a->tokens[i - 1].id) {
            st = PLP_FAIL(PLP_ERR_DATA, "%s: added_tokens: id %d belongs to '%.60s' and to '%.60s'", where, a->tokens[i].id,
                          a->tokens[i].content, a->tokens[i - 1].content);
            goto done;
        }
    PLP_DO(build(&a->raw, a, false));
    PLP_DO(build(&a->normal, a, true));
done:
    if (st != PLP_OK) text_added_destroy(&a);
    *added = a;
    return st;
}

void text_added_destroy(text_added **added)
{
    text_added *a = *added;
    if (a == NULL) return;
    for (size_t i = 0; i < a->count && a->tokens != NULL; i++) {
        free(a->tokens[i].content);
        free(a->tokens[i].form);
    }
    free(a->tokens);
    free(a->raw.sorted);
    free(a->normal.sorted);
    free(a);
    *added = NULL;
}
