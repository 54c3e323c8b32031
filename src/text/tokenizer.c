#include "text/tokenizer.h"

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "text/added.h"
#include "text/bpe.h"
#include "text/component.h"
#include "text/decode.h"
#include "text/split.h"
#include "text/template.h"
#include "text/utf8.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct token {        /* by id */
    const char *name; /* NULL: no token has this id */
    const char *form; /* what it decodes from */
    size_t length;    /* of form */
    bool special;
};

struct text_tokenizer {
    text_bpe *bpe;
    text_added *added;
    text_normalizer *normalizer;
    text_splitter *splitter;
    text_decoder *decoder;
    text_ids template;
    struct token *tokens; /* their text is the vocabulary's and the added tokens' */
    int vocab;
};

/* ---- reading ---- */

static plp_status index_tokens(text_tokenizer *t, const char *where)
{
    const text_vocab *v = text_bpe_vocab(t->bpe);
    const size_t added = text_added_count(t->added);
    int most = -1;
    for (size_t i = 0; i <= v->mask; i++) most = v->slots[i].id > most ? v->slots[i].id : most;
    for (size_t i = 0; i < added; i++) most = text_added_token_at(t->added, i)->id > most ? text_added_token_at(t->added, i)->id : most;
    if (most < 0) return PLP_FAIL(PLP_ERR_DATA, "%s: vocab: no tokens", where);
    t->vocab = most + 1;
    PLP_TRY(PLP_ALLOCATED(t->tokens = calloc((size_t)t->vocab, sizeof *t->tokens)));
    for (size_t i = 0; i <= v->mask; i++) {
        const struct text_vocab_slot *s = &v->slots[i];
        const char *name = v->names.data + s->name;
        if (s->id < 0) continue;
        if (t->tokens[s->id].name != NULL)
            return PLP_FAIL(PLP_ERR_DATA, "%s: vocab: id %d belongs to '%.60s' and to '%.60s'", where, s->id, t->tokens[s->id].name, name);
        t->tokens[s->id] = (struct token){ name, name, s->length, false };
    }
    for (size_t i = 0; i < added; i++) {
        const text_added_token *a = text_added_token_at(t->added, i);
        const char *name = t->tokens[a->id].name;
        if (name != NULL && strcmp(name, a->content) != 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: added_tokens: id %d of '%.60s' is that of '%.60s' in the vocabulary", where, a->id,
                            a->content, name);
        t->tokens[a->id] = (struct token){ a->content, a->form, a->form_length, a->special };
    }
    for (size_t i = 0; i < t->template.count; i++) {
        const int id = t->template.list[i];
        if (id >= t->vocab || (id >= 0 && t->tokens[id].name == NULL))
            return PLP_FAIL(PLP_ERR_DATA, "%s: post_processor: id %d is no token's", where, id);
    }
    return PLP_OK;
}

/* A part that a later version brings would have a say in the ids, and the reference reads no such file either. */
static plp_status check_keys(json_object *root, const char *where)
{
    static const char *const known[] = { "version",       "truncation",     "padding", "added_tokens", "normalizer",
                                         "pre_tokenizer", "post_processor", "decoder", "model" };
    json_object_object_foreach(root, key, value)
    {
        size_t i = 0;
        (void)value;
        while (i < sizeof known / sizeof *known && strcmp(key, known[i]) != 0) i++;
        if (i == sizeof known / sizeof *known) return text_component_unknown(where, "key", key);
    }
    return PLP_OK;
}

static plp_status read_parts(text_tokenizer *t, json_object *root, const char *where)
{
    const char *version = "1.0";
    json_object *model = NULL;
    if (!json_object_is_type(root, json_type_object)) return PLP_FAIL(PLP_ERR_DATA, "%s: not a JSON object", where);
    PLP_TRY(plp_json_string(root, "version", where, &version));
    if (strcmp(version, "1.0") != 0) return PLP_FAIL(PLP_ERR_DATA, "%s: version %.60s; only 1.0 is read", where, version);
    PLP_TRY(check_keys(root, where));
    PLP_TRY(text_need(root, "model", where, json_type_object, &model));
    PLP_TRY(text_bpe_create(&t->bpe, model, where));
    PLP_TRY(text_normalizer_create(&t->normalizer, plp_json_member(root, "normalizer"), where));
    PLP_TRY(text_added_create(&t->added, plp_json_member(root, "added_tokens"), text_bpe_vocab(t->bpe), t->normalizer, where));
    PLP_TRY(text_splitter_create(&t->splitter, plp_json_member(root, "pre_tokenizer"), where));
    PLP_TRY(text_template_read(&t->template, plp_json_member(root, "post_processor"), where));
    PLP_TRY(text_decoder_create(&t->decoder, plp_json_member(root, "decoder"), where));
    PLP_TRY(index_tokens(t, where));
    if (plp_json_member(root, "truncation") != NULL) plp_warn_alike("%s: truncation is ignored: texts are never cut", where);
    if (plp_json_member(root, "padding") != NULL) plp_warn_alike("%s: padding is ignored: batches need none", where);
    return PLP_OK;
}

/* json-c takes bytes as they come, cuts keys off at a NUL, and makes U+FFFD of each half of a surrogate pair: two tokens could become one
 * unseen. */
static plp_status check_text(const char *json, size_t bytes, const char *where)
{
    for (size_t i = 0, length; i < bytes; i += length) {
        length = plp_utf8_length(json + i, json + bytes);
        if (length == 0)
            return PLP_FAIL(PLP_ERR_DATA, "%s: byte %zu: invalid UTF-8; fix: take the file from where the model comes from", where, i);
    }
    for (size_t i = 0; i < bytes; i++) {
        int32_t c;
        if (json[i] != '\\') continue;
        const size_t length = plp_json_unicode(json + i, json + bytes, &c);
        if (length > 0 && plp_is_surrogate(c)) return PLP_FAIL(PLP_ERR_DATA, "%s: byte %zu: half a surrogate pair", where, i);
        if (length > 0 && c == 0) return PLP_FAIL(PLP_ERR_DATA, "%s: byte %zu: a NUL in a string is not supported", where, i);
        i += length > 0 ? length - 1 : 1; /* what is escaped is itself perhaps a backslash */
    }
    return PLP_OK;
}

/* Readers of parts say what is wrong and where; what to do is the same for nearly all of it. */
static plp_status with_fix(plp_status st)
{
    if (st != PLP_ERR_DATA || strstr(plp_last_error(), "; fix: ") != NULL) return st;
    return PLP_FAIL(st, "%s; fix: repair the file, or give token ids instead of text", plp_last_error());
}

plp_status text_tokenizer_create(text_tokenizer **tokenizer, const char *json, size_t bytes, const char *where)
{
    plp_status st = PLP_OK;
    json_object *root = NULL;
    text_tokenizer *t = NULL;
    *tokenizer = NULL;
    PLP_TRY(PLP_ALLOCATED(t = calloc(1, sizeof *t)));
    PLP_DO(check_text(json, bytes, where));
    PLP_DO(plp_json_parse(json, bytes, where, &root));
    PLP_DO(read_parts(t, root, where));
done:
    st = with_fix(st);
    json_object_put(root);
    if (st != PLP_OK) text_tokenizer_destroy(&t);
    *tokenizer = t;
    return st;
}

void text_tokenizer_destroy(text_tokenizer **tokenizer)
{
    text_tokenizer *t = *tokenizer;
    if (t == NULL) return;
    text_bpe_destroy(&t->bpe);
    text_added_destroy(&t->added);
    text_normalizer_destroy(&t->normalizer);
    text_splitter_destroy(&t->splitter);
    text_decoder_destroy(&t->decoder);
    free(t->template.list);
    free(t->tokens);
    free(t);
    *tokenizer = NULL;
}

/* ---- asking ---- */

static const struct token *token_of(const text_tokenizer *t, int id)
{
    return id >= 0 && id < t->vocab && t->tokens[id].name != NULL ? &t->tokens[id] : NULL;
}

int text_tokenizer_vocab(const text_tokenizer *t) { return t->vocab; }

const char *text_tokenizer_token(const text_tokenizer *t, int id) { return token_of(t, id) != NULL ? token_of(t, id)->name : NULL; }

/* ---- encoding ---- */

plp_status text_encode(text_tokenizer *t, const char *text, size_t bytes, bool add_special, int **ids, size_t *count)
{
    plp_status st = PLP_OK;
    size_t used = 0;
    text_buffer repaired = { 0 };
    text_pieces pieces = { 0 };
    text_ids plain = { 0 }, all = { 0 };
    *ids = NULL;
    *count = 0;
    PLP_DO(text_utf8_repair(text, bytes, true, &repaired, &used));
    PLP_DO(text_added_cut(t->added, t->normalizer, repaired.used > 0 ? repaired.data : "", repaired.used, &pieces));
    PLP_DO(text_split(t->splitter, &pieces));
    for (size_t i = 0; i < pieces.count; i++) {
        const text_piece piece = pieces.list[i];
        if (piece.id >= 0)
            PLP_DO(text_ids_put(&plain, piece.id));
        else
            PLP_DO(text_bpe_encode(t->bpe, pieces.text.data + piece.start, piece.end - piece.start, &plain));
    }
    PLP_DO(text_template_apply(&t->template, &plain, add_special, &all));
    if (all.list == NULL) PLP_DO(PLP_ALLOCATED(all.list = malloc(sizeof *all.list))); /* no ids is no NULL */
    *ids = all.list;
    *count = all.count;
    all.list = NULL;
done:
    free(repaired.data);
    text_pieces_destroy(&pieces);
    free(plain.list);
    free(all.list);
    return st;
}

/* ---- decoding ---- */

struct text_stream {
    const text_tokenizer *tokenizer;
    text_decoding *decoding;
    text_buffer piece;
    bool skip_special;
};

plp_status text_stream_create(text_stream **stream, const text_tokenizer *t, bool skip_special)
{
    plp_status st = PLP_OK;
    text_stream *s = NULL;
    *stream = NULL;
    PLP_TRY(PLP_ALLOCATED(s = calloc(1, sizeof *s)));
    s->tokenizer = t;
    s->skip_special = skip_special;
    st = text_decoding_create(&s->decoding, t->decoder);
    if (st != PLP_OK) text_stream_destroy(&s);
    *stream = s;
    return st;
}

void text_stream_destroy(text_stream **stream)
{
    text_stream *s = *stream;
    if (s == NULL) return;
    text_decoding_destroy(&s->decoding);
    free(s->piece.data);
    free(s);
    *stream = NULL;
}

static plp_status push(text_stream *s, int id)
{
    const struct token *token = token_of(s->tokenizer, id);
    if (token == NULL || (token->special && s->skip_special)) return PLP_OK;
    return text_decoding_push(s->decoding, token->form, token->length, &s->piece);
}

static plp_status give(text_stream *s, const char **piece, size_t *bytes)
{
    PLP_TRY(text_buffer_put(&s->piece, "", 1));
    *piece = s->piece.data;
    *bytes = s->piece.used - 1;
    return PLP_OK;
}

plp_status text_stream_push(text_stream *s, int id, const char **piece, size_t *bytes)
{
    s->piece.used = 0;
    PLP_TRY(push(s, id));
    return give(s, piece, bytes);
}

plp_status text_stream_finish(text_stream *s, const char **piece, size_t *bytes)
{
    s->piece.used = 0;
    PLP_TRY(text_decoding_finish(s->decoding, &s->piece));
    return give(s, piece, bytes);
}

plp_status text_decode(const text_tokenizer *t, const int *ids, size_t count, bool skip_special, char **text, size_t *bytes)
{
    plp_status st = PLP_OK;
    text_stream *s = NULL;
    const char *all = NULL;
    *text = NULL;
    *bytes = 0;
    PLP_TRY(text_stream_create(&s, t, skip_special));
    for (size_t i = 0; i < count; i++) PLP_DO(push(s, ids[i]));
    PLP_DO(text_decoding_finish(s->decoding, &s->piece));
    PLP_DO(give(s, &all, bytes));
    *text = s->piece.data;
    s->piece = (text_buffer){ 0 };
done:
    text_stream_destroy(&s);
    return st;
}
