#include "text/split.h"

#include "base/error.h"
#include "base/grow.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/bytelevel.h"
#include "text/component.h"
#include "text/pattern.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

typedef enum { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } behaviour; /* of what matches */

/* Every pre-tokenizer is some of these, in this order: spaces become another character, something is put in front, the text is cut, and the
 * bytes of what is left become characters. */
struct step {
    char space[5];  /* "": spaces stay */
    char prefix[5]; /* put in front of a piece that does not begin with it */
    text_prepend prepend;
    text_pattern *pattern;   /* cuts where it matches, or */
    bool (*cuts)(int32_t c); /* where these characters are; both NULL: does not cut */
    behaviour behaviour;
    bool invert;
    bool to_bytes;
};

struct text_splitter {
    struct step *steps; /* Sequences are laid flat */
    size_t count, room;
};

/* ---- cutting ---- */

static plp_status class_spans(bool (*cuts)(int32_t), const char *text, size_t bytes, text_spans *s)
{
    size_t done = 0;
    s->count = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        int32_t c;
        length = text_utf8_next(text + at, bytes - at, &c);
        if (!cuts(c)) continue;
        if (done < at) PLP_TRY(text_spans_put(s, done, at, false));
        PLP_TRY(text_spans_put(s, at, at + length, true));
        done = at + length;
    }
    return done < bytes ? text_spans_put(s, done, bytes, false) : PLP_OK;
}

/* Joins spans to the one before, in place, as the behaviour says.  A match joins a neighbour only if that is not a match that has joined
 * already: of "a--b", MergedWithPrevious makes "a-", "-", "b". */
static void join_spans(text_spans *s, behaviour how)
{
    size_t kept = 0;
    if (how == REMOVED) {
        for (size_t i = 0; i < s->count; i++)
            if (!s->list[i].match) s->list[kept++] = s->list[i];
    } else if (how == CONTIGUOUS || how == MERGED_WITH_PREVIOUS) {
        bool before = false;
        for (size_t i = 0; i < s->count; i++) {
            const text_span span = s->list[i];
            const bool joins = how == CONTIGUOUS ? span.match == before : span.match && !before;
            if (joins && kept > 0)
                s->list[kept - 1].end = span.end;
            else
                s->list[kept++] = span;
            before = span.match;
        }
    } else if (how == MERGED_WITH_NEXT) {
        bool behind = false;
        kept = s->count;
        for (size_t i = s->count; i-- > 0;) {
            const text_span span = s->list[i];
            if (span.match && !behind && kept < s->count)
                s->list[kept].start = span.start;
            else
                s->list[--kept] = span;
            behind = span.match;
        }
        s->count -= kept;
        memmove(s->list, s->list + kept, s->count * sizeof *s->list);
        return;
    } else
        return;
    s->count = kept;
}

static plp_status cut(const struct step *step, const char *text, size_t bytes, text_spans *s)
{
    s->count = 0;
    if (step->pattern == NULL && step->cuts == NULL) return text_spans_put(s, 0, bytes, false);
    PLP_TRY(step->pattern != NULL ? text_pattern_spans(step->pattern, text, bytes, s) : class_spans(step->cuts, text, bytes, s));
    for (size_t i = 0; i < s->count && step->invert; i++) s->list[i].match = !s->list[i].match;
    join_spans(s, step->behaviour);
    return PLP_OK;
}

/* A piece with its spaces replaced and its prefix in front.  Every prefix and every replacement is one character, so that a piece begins
 * with the prefix or not. */
static plp_status prepare(const struct step *step, const char *text, size_t bytes, bool first, text_buffer *out)
{
    const size_t prefix = strlen(step->prefix), space = strlen(step->space);
    const bool wanted = step->prepend == TEXT_PREPEND_ALWAYS || (step->prepend == TEXT_PREPEND_FIRST && first);
    const bool there = (bytes >= prefix && memcmp(text, step->prefix, prefix) == 0) || (*step->space != 0 && *text == ' ');
    out->used = 0;
    if (wanted && !there) PLP_TRY(text_buffer_put(out, step->prefix, prefix));
    if (space == 0) return text_buffer_put(out, text, bytes);
    for (size_t i = 0; i < bytes; i++)
        PLP_TRY(text[i] == ' ' ? text_buffer_put(out, step->space, space) : text_buffer_put(out, text + i, 1));
    return PLP_OK;
}

static plp_status apply(const struct step *step, const text_pieces *in, text_pieces *out)
{
    plp_status st = PLP_OK;
    text_buffer prepared = { 0 }, mapped = { 0 };
    text_spans spans = { 0 };
    text_pieces_clear(out);
    for (size_t i = 0; i < in->count; i++) {
        const text_piece piece = in->list[i];
        if (piece.id >= 0) {
            PLP_DO(text_pieces_token(out, piece.id));
            continue;
        }
        PLP_DO(prepare(step, in->text.data + piece.start, piece.end - piece.start, piece.first, &prepared));
        PLP_DO(cut(step, prepared.data, prepared.used, &spans));
        for (size_t k = 0; k < spans.count; k++) {
            const char *text = prepared.data + spans.list[k].start;
            size_t bytes = spans.list[k].end - spans.list[k].start;
            if (step->to_bytes) {
                mapped.used = 0;
                PLP_DO(text_bytelevel_encode(text, bytes, &mapped));
                text = mapped.data, bytes = mapped.used;
            }
            PLP_DO(text_pieces_text(out, text, bytes, piece.first && spans.list[k].start == 0));
        }
    }
done:
    free(prepared.data);
    free(mapped.data);
    free(spans.list);
    return st;
}

plp_status text_split(const text_splitter *s, text_pieces *pieces)
{
    text_pieces other = { 0 };
    plp_status st = PLP_OK;
    for (size_t i = 0; i < s->count; i++) {
        PLP_DO(apply(&s->steps[i], pieces, &other));
        const text_pieces done = *pieces;
        *pieces = other;
        other = done;
    }
done:
    text_pieces_destroy(&other);
    return st;
}

/* ---- reading ---- */

static plp_status read_behaviour(json_object *component, const char *where, behaviour *how)
{
    static const char *const names[] = { [REMOVED] = "Removed",
                                         [ISOLATED] = "Isolated",
                                         [MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                         [MERGED_WITH_NEXT] = "MergedWithNext",
                                         [CONTIGUOUS] = "Contiguous" };
    const char *name = names[*how];
    PLP_TRY(plp_json_string(component, "behavior", where, &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return *how = (behaviour)i, PLP_OK;
    return PLP_FAIL(PLP_ERR_DATA, "%s: behavior: %.60s is not supported", where, name);
}

plp_status text_metaspace_read(json_object *component, const char *where, int32_t *replacement, text_prepend *prepend)
{
    static const char *const names[] = { [TEXT_PREPEND_NEVER] = "never", [TEXT_PREPEND_FIRST] = "first", [TEXT_PREPEND_ALWAYS] = "always" };
    const char *scheme = NULL;
    bool add = true;
    PLP_TRY(text_need_character(component, "replacement", where, replacement));
    PLP_TRY(plp_json_bool(component, "add_prefix_space", where, &add));
    PLP_TRY(plp_json_string(component, "prepend_scheme", where, &scheme));
    if (scheme == NULL) scheme = names[add ? TEXT_PREPEND_ALWAYS : TEXT_PREPEND_NEVER];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(scheme, names[i]) != 0) continue;
        if (!add && i != TEXT_PREPEND_NEVER)
            return PLP_FAIL(PLP_ERR_DATA, "%s: Metaspace: prepend_scheme is %.60s, but add_prefix_space is false", where, scheme);
        return *prepend = (text_prepend)i, PLP_OK;
    }
    return PLP_FAIL(PLP_ERR_DATA, "%s: Metaspace: prepend_scheme: %.60s is not supported", where, scheme);
}

static plp_status read_byte_level(struct step *s, json_object *component, const char *where)
{
    static const char words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"; /* GPT-2's */
    bool prefix = false, regex = true;
    PLP_TRY(text_need_bool(component, "add_prefix_space", where, &prefix));
    PLP_TRY(plp_json_bool(component, "use_regex", where, &regex));
    s->to_bytes = true;
    memcpy(s->prefix, " ", 2);
    s->prepend = prefix ? TEXT_PREPEND_ALWAYS : TEXT_PREPEND_NEVER;
    return regex ? text_pattern_regex(&s->pattern, words, sizeof words - 1, where) : PLP_OK;
}

static plp_status read_metaspace(struct step *s, json_object *component, const char *where)
{
    int32_t replacement = 0;
    bool split = true;
    PLP_TRY(text_metaspace_read(component, where, &replacement, &s->prepend));
    PLP_TRY(plp_json_bool(component, "split", where, &split));
    const size_t length = plp_utf8_put(replacement, s->space);
    if (replacement == 0) return PLP_FAIL(PLP_ERR_DATA, "%s: Metaspace: replacement: a NUL is not supported", where);
    memcpy(s->prefix, s->space, sizeof s->prefix);
    s->behaviour = MERGED_WITH_NEXT;
    return split ? text_pattern_literal(&s->pattern, s->space, length, where) : PLP_OK;
}

static plp_status read_steps(text_splitter *splitter, json_object *component, const char *where)
{
    const char *type = NULL;
    PLP_TRY(text_component_type(component, where, "pre_tokenizer", &type));
    if (strcmp(type, "Sequence") == 0) {
        json_object *list = NULL;
        PLP_TRY(text_need(component, "pretokenizers", where, json_type_array, &list));
        for (size_t i = 0; i < json_object_array_length(list); i++)
            PLP_TRY(read_steps(splitter, json_object_array_get_idx(list, i), where));
        return PLP_OK;
    }
    struct step *grown = plp_grow(splitter->steps, &splitter->room, splitter->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    splitter->steps = grown;
    struct step *s = &splitter->steps[splitter->count++];
    *s = (struct step){ .prepend = TEXT_PREPEND_NEVER, .behaviour = ISOLATED };
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(s, component, where);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(s, component, where);
    if (strcmp(type, "Split") == 0) {
        PLP_TRY(text_need_bool(component, "invert", where, &s->invert));
        PLP_TRY(read_behaviour(component, where, &s->behaviour));
        return text_pattern_read(&s->pattern, component, where);
    }
    if (strcmp(type, "Digits") == 0) {
        bool one_by_one = false;
        PLP_TRY(text_need_bool(component, "individual_digits", where, &one_by_one));
        s->cuts = text_is_numeric;
        s->behaviour = one_by_one ? ISOLATED : CONTIGUOUS;
        return PLP_OK;
    }
    if (strcmp(type, "Punctuation") == 0) {
        s->cuts = text_is_punctuation;
        return read_behaviour(component, where, &s->behaviour);
    }
    return text_component_unknown(where, "pre_tokenizer", type);
}

plp_status text_splitter_create(text_splitter **splitter, json_object *component, const char *where)
{
    plp_status st = PLP_OK;
    text_splitter *s = NULL;
    *splitter = NULL;
    PLP_TRY(PLP_ALLOCATED(s = calloc(1, sizeof *s)));
    if (component != NULL) st = read_steps(s, component, where);
    if (st != PLP_OK) text_splitter_destroy(&s);
    *splitter = s;
    return st;
}

void text_splitter_destroy(text_splitter **splitter)
{
    text_splitter *s = *splitter;
    if (s == NULL) return;
    for (size_t i = 0; i < s->count; i++) text_pattern_destroy(&s->steps[i].pattern);
    free(s->steps);
    free(s);
    *splitter = NULL;
}
