/* Special ids and the ids in use: said in up to four files, which disagree. */
#include "model/config_resolve.h"

#include "base/error.h"
#include "base/log.h"
#include "base/path.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MOST_BYTES = 256 << 20 };

typedef struct {
    json_object *config;     /* borrowed */
    json_object *generation; /* generation_config.json, NULL: none */
    bool copied;             /* ... which says that it only repeats config.json */
    json_object *tokens;     /* tokenizer_config.json, NULL: none */
    json_object *tokenizer;  /* tokenizer.json, NULL: none */
    const char *where;       /* of config */
    char generation_path[PLP_PATH], tokens_path[PLP_PATH], tokenizer_path[PLP_PATH];
} id_sources;

static plp_status read_optional(const char *path, json_object **root)
{
    *root = NULL;
    return access(path, F_OK) == 0 ? plp_json_read(path, MOST_BYTES, root) : PLP_OK;
}

/* ------------------------------------------------------------------------------------------------------- the vocabulary's view */
/* What tokenizer.json or, failing that, tokenizer_config.json calls `content`; -1: nothing. */
static int64_t id_of(const id_sources *s, const char *content)
{
    json_object *added = plp_json_member(s->tokenizer, "added_tokens"),
                *vocab = plp_json_member(plp_json_member(s->tokenizer, "model"), "vocab");
    for (size_t i = 0; json_object_is_type(added, json_type_array) && i < json_object_array_length(added); i++) {
        json_object *token = json_object_array_get_idx(added, i), *text = plp_json_member(token, "content");
        if (json_object_is_type(text, json_type_string) && strcmp(json_object_get_string(text), content) == 0)
            return json_object_get_int64(plp_json_member(token, "id"));
    }
    if (json_object_is_type(plp_json_member(vocab, content), json_type_int)) return json_object_get_int64(plp_json_member(vocab, content));
    json_object *decoder = plp_json_member(s->tokens, "added_tokens_decoder"); /* {"2": {"content": "</s>", ...}} */
    if (!json_object_is_type(decoder, json_type_object)) return -1;
    json_object_object_foreach(decoder, id, token)
    {
        json_object *text = plp_json_member(token, "content");
        int64_t number = -1;
        if (json_object_is_type(text, json_type_string) && strcmp(json_object_get_string(text), content) == 0)
            return json_parse_int64(id, &number) == 0 ? number : -1;
    }
    return -1;
}

/* So many ids there are at least, when this is one; the largest number that a file can hold stays one. */
static void count_id(json_object *id, int64_t *count)
{
    const int64_t value = json_object_get_int64(id);
    if (value >= *count) *count = value < INT64_MAX ? value + 1 : value;
}

/* Ids that tokenizer.json knows: the highest + 1. */
static int64_t count_ids(json_object *tokenizer)
{
    json_object *added = plp_json_member(tokenizer, "added_tokens"), *vocab = plp_json_member(plp_json_member(tokenizer, "model"), "vocab");
    int64_t count = 0;
    for (size_t i = 0; json_object_is_type(added, json_type_array) && i < json_object_array_length(added); i++)
        count_id(plp_json_member(json_object_array_get_idx(added, i), "id"), &count);
    if (!json_object_is_type(vocab, json_type_object)) return count;
    json_object_object_foreach(vocab, token, value)
    {
        (void)token;
        count_id(value, &count);
    }
    return count;
}

/* ------------------------------------------------------------------------------------------------------------------------ ids */
/* A number or a list of numbers.  *count stays when the key is missing or null. */
static plp_status read_ids(json_object *o, const char *key, const char *where, int64_t ids[MODEL_STOPS], int *count)
{
    json_object *value = plp_json_member(o, key);
    if (value == NULL) return PLP_OK;
    const bool list = json_object_is_type(value, json_type_array);
    const size_t n = list ? json_object_array_length(value) : 1;
    if (n > MODEL_STOPS)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s: %zu ids, at most %d are kept; fix: leave some out", where, key, n, MODEL_STOPS);
    for (size_t i = 0; i < n; i++) {
        json_object *id = list ? json_object_array_get_idx(value, i) : value;
        if (!json_object_is_type(id, json_type_int))
            return PLP_FAIL(PLP_ERR_DATA, "%s: %s is no id and no list of ids; fix: give one of them", where, key);
        ids[i] = json_object_get_int64(id);
    }
    *count = (int)n;
    return PLP_OK;
}

/* "</s>", or {"content": "</s>", ...}. */
static void read_token(const id_sources *s, const char *key, int64_t ids[MODEL_STOPS], int *count)
{
    json_object *value = plp_json_member(s->tokens, key);
    if (json_object_is_type(value, json_type_object)) value = plp_json_member(value, "content");
    const int64_t id = json_object_is_type(value, json_type_string) ? id_of(s, json_object_get_string(value)) : -1;
    if (id >= 0) ids[0] = id, *count = 1;
}

/* Whether generation_config.json only repeats what config.json says.  Transformers leaves the mark there when somebody has given the model
 * other ids since: what differs is no copy. */
static bool is_copy(const id_sources *s, const char *key)
{
    json_object *told = plp_json_member(s->config, key);
    return s->copied && (told == NULL || json_object_equal(told, plp_json_member(s->generation, key)));
}

/* One kind of id ("eos") from the first file that tells.  A generation_config.json that was only copied from config.json knows no more than
 * it does, and comes after it.  *where: that file. */
static plp_status find_ids(const id_sources *s, const char *kind, int64_t ids[MODEL_STOPS], int *count, const char **where)
{
    char key[32], token[32];
    snprintf(key, sizeof key, "%s_token_id", kind);
    snprintf(token, sizeof token, "%s_token", kind);
    *count = 0;
    *where = s->generation_path;
    if (!is_copy(s, key)) PLP_TRY(read_ids(s->generation, key, *where, ids, count));
    if (*count > 0) return PLP_OK;
    *where = s->tokens_path;
    read_token(s, token, ids, count);
    if (*count > 0) return PLP_OK;
    *where = s->where;
    PLP_TRY(read_ids(s->config, key, *where, ids, count));
    if (*count > 0) return PLP_OK;
    *where = s->generation_path;
    return read_ids(s->generation, key, *where, ids, count);
}

/* Codestral's config.json says 0 for every special id, which is <unk>: who trusts it never stops. */
static void correct_unknown(const id_sources *s, model_config *c, const char *where)
{
    const int64_t end = id_of(s, "</s>"), unknown = id_of(s, "<unk>");
    if (c->stops != 1 || c->stop[0] != unknown || end < 0) return;
    plp_warn_alike("%s: eos_token_id %lld is <unk>; </s>, id %lld, is taken", where, (long long)c->stop[0], (long long)end);
    c->stop[0] = end;
}

static plp_status set_stops(const id_sources *s, model_config *c)
{
    static const char *const usual[] = { "<|endoftext|>", "</s>" };
    int64_t ids[MODEL_STOPS];
    int count = 0;
    const char *where;
    PLP_TRY(find_ids(s, "eos", ids, &count, &where));
    for (size_t i = 0; i < sizeof usual / sizeof *usual && count == 0; i++)
        if (id_of(s, usual[i]) >= 0) ids[count++] = id_of(s, usual[i]), where = s->tokenizer != NULL ? s->tokenizer_path : s->tokens_path;
    for (int i = 0; i < count; i++) /* here, where it is known which file says so */
        if (ids[i] < 0 || ids[i] >= c->vocab)
            return PLP_FAIL(PLP_ERR_DATA, "%s: eos_token_id %lld, the vocabulary has %lld rows; fix: give the id of this model's token",
                            where, (long long)ids[i], (long long)c->vocab);
    if (count > 0) { /* else what the dialect is known for stays */
        memcpy(c->stop, ids, (size_t)count * sizeof *ids);
        c->stops = count;
    }
    correct_unknown(s, c, where);
    return PLP_OK;
}

/* bos and pad are a convenience: one outside the ids in use, which no request may have, is none. */
static plp_status set_id(const id_sources *s, const char *kind, int64_t used, int64_t *id)
{
    int64_t ids[MODEL_STOPS];
    int count = 0;
    const char *where;
    PLP_TRY(find_ids(s, kind, ids, &count, &where));
    if (count > 0) *id = ids[0];
    if (*id < 0 || *id >= used) *id = -1;
    return PLP_OK;
}

static plp_status set_vocab_used(const id_sources *s, model_config *c)
{
    if (c->vocab_used <= 0 || c->vocab_used > c->vocab) c->vocab_used = c->vocab;
    const int64_t known = s->tokenizer ? count_ids(s->tokenizer) : c->vocab_used;
    if (known > c->vocab)
        return PLP_FAIL(PLP_ERR_DATA, "%s: ids up to %lld, the embedding has %lld rows; fix: use the tokenizer of this model",
                        s->tokenizer_path, (long long)known - 1, (long long)c->vocab);
    if (known > 0 && known < c->vocab_used) c->vocab_used = known;
    return PLP_OK;
}

plp_status model_config_resolve_ids(model_config *c, json_object *root, const char *where, const char *dir, const char *tokenizer,
                                    size_t bytes)
{
    plp_status st = PLP_OK;
    id_sources s = { .config = root, .where = where };
    PLP_DO(plp_path_join(dir, "generation_config.json", s.generation_path));
    PLP_DO(plp_path_join(dir, "tokenizer_config.json", s.tokens_path));
    PLP_DO(plp_path_join(dir, "tokenizer.json", s.tokenizer_path));
    PLP_DO(read_optional(s.generation_path, &s.generation));
    PLP_DO(read_optional(s.tokens_path, &s.tokens));
    if (tokenizer != NULL) PLP_DO(plp_json_parse(tokenizer, bytes, s.tokenizer_path, &s.tokenizer));
    PLP_DO(plp_json_bool(s.generation, "_from_model_config", s.generation_path, &s.copied));
    PLP_DO(set_vocab_used(&s, c)); /* first: ids that are beyond the model are the tokenizer's fault */
    PLP_DO(set_stops(&s, c));
    PLP_DO(set_id(&s, "bos", c->vocab_used, &c->bos));
    PLP_DO(set_id(&s, "pad", c->vocab_used, &c->pad));
done:
    json_object_put(s.generation);
    json_object_put(s.tokens);
    json_object_put(s.tokenizer);
    return st;
}
