#include "text/decode.h"

#include "base/error.h"
#include "base/grow.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/bytelevel.h"
#include "text/component.h"
#include "text/pattern.h"
#include "text/split.h"
#include "text/utf8.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A decoder is a chain of stages.  Each takes tokens and gives tokens, and a token may come in parts, so that one that grows without end
 * (all that Fuse makes is one token) still flows.  Parts are whole characters; the last one `ends` the token. */
typedef struct {
    text_buffer token, held; /* a token in the making; what may still change */
    size_t tokens;           /* finished so far */
    size_t leading;          /* Strip: characters dropped at the front of this token */
    size_t trailing;         /* Strip: characters that are dropped if the token ends here */
    bool inside;             /* Strip: past the front */
} state;

struct stage;
typedef plp_status push_fn(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends);
typedef plp_status finish_fn(text_decoding *r, size_t at);

struct stage {
    push_fn *push;
    finish_fn *finish;     /* NULL: holds nothing back */
    text_pattern *pattern; /* Replace */
    char *content;         /* Replace: what for; Strip: which character */
    size_t length;         /* of content */
    int64_t start, stop;   /* Strip: how many, at the front and the end */
    int32_t character;     /* Metaspace: stands for a space */
    bool drop_first;       /* Metaspace: vanishes from the first token */
};

struct text_decoder {
    struct stage *stages; /* Sequences are laid flat */
    size_t count, room;
};

struct text_decoding {
    const text_decoder *decoder;
    state *states; /* of each stage */
    text_buffer *out;
};

static plp_status give(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends) /* to the stage behind `at` */
{
    if (++at == r->decoder->count) return text_buffer_put(r->out, part, bytes);
    return r->decoder->stages[at].push(r, at, part, bytes, ends);
}

/* For stages that work on whole tokens: *whole is NULL until the token has ended. */
static plp_status collect(state *s, const char *part, size_t bytes, bool ends, const char **whole, size_t *length)
{
    *whole = NULL;
    if (ends && s->token.used == 0) return *whole = part, *length = bytes, PLP_OK;
    PLP_TRY(text_buffer_put(&s->token, part, bytes));
    if (ends) *whole = s->token.data, *length = s->token.used, s->token.used = 0;
    return PLP_OK;
}

/* ---- ByteLevel: all tokens' bytes become one token ---- */

static plp_status give_bytes(text_decoding *r, size_t at, bool last)
{
    state *s = &r->states[at];
    size_t used = 0;
    text_buffer text = { 0 };
    plp_status st = text_utf8_repair(s->held.data, s->held.used, last, &text, &used);
    if (st == PLP_OK) st = give(r, at, text.used > 0 ? text.data : "", text.used, last);
    free(text.data);
    if (used > 0) memmove(s->held.data, s->held.data + used, s->held.used - used); /* at most three bytes stay */
    s->held.used -= used;
    return st;
}

static plp_status push_byte_level(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends)
{
    const char *token = NULL;
    size_t length = 0;
    PLP_TRY(collect(&r->states[at], part, bytes, ends, &token, &length));
    if (token == NULL) return PLP_OK;
    PLP_TRY(text_bytelevel_decode(token, length, &r->states[at].held));
    return give_bytes(r, at, false);
}

static plp_status finish_byte_level(text_decoding *r, size_t at) { return give_bytes(r, at, true); }

/* ---- ByteFallback: <0xE6><0x97><0xA5> becomes one token if it is UTF-8, else each of the three is U+FFFD ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* -1: not the token of a byte. */
static int byte_of(const char *token, size_t length)
{
    if (length != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    const int high = token[3] == '+' ? 0 : hex_digit(token[3]), low = hex_digit(token[4]); /* a sign is a digit's, as in the reference */
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static plp_status give_fallback(text_decoding *r, size_t at)
{
    text_buffer *held = &r->states[at].held;
    int32_t c = 0;
    const size_t bytes = held->used;
    held->used = 0;
    if (bytes == 0) return PLP_OK;
    for (size_t i = 0; i < bytes && c >= 0;) i += text_utf8_next(held->data + i, bytes - i, &c);
    if (c >= 0) return give(r, at, held->data, bytes, true);
    for (size_t i = 0; i < bytes; i++) PLP_TRY(give(r, at, "\xef\xbf\xbd", 3, true));
    return PLP_OK;
}

static plp_status push_byte_fallback(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends)
{
    const char *token = NULL;
    size_t length = 0;
    PLP_TRY(collect(&r->states[at], part, bytes, ends, &token, &length));
    if (token == NULL) return PLP_OK;
    const int value = byte_of(token, length);
    if (value >= 0) {
        const char byte = (char)value;
        return text_buffer_put(&r->states[at].held, &byte, 1); /* what comes behind decides about all of them */
    }
    PLP_TRY(give_fallback(r, at));
    return give(r, at, token, length, true);
}

/* ---- Fuse: all tokens become one ---- */

static plp_status push_fuse(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends)
{
    (void)ends;
    return give(r, at, part, bytes, false);
}

static plp_status finish_fuse(text_decoding *r, size_t at) { return give(r, at, "", 0, true); }

/* ---- Strip: drops a character at both ends of each token, so many times at most ---- */

static plp_status push_strip(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends)
{
    const struct stage *stage = &r->decoder->stages[at];
    state *s = &r->states[at];
    for (size_t i = 0, length; i < bytes; i += length) {
        int32_t c;
        length = text_utf8_next(part + i, bytes - i, &c);
        const bool is_it = length == stage->length && memcmp(part + i, stage->content, length) == 0;
        if (!s->inside && is_it && (int64_t)s->leading < stage->start) {
            s->leading++;
            continue;
        }
        s->inside = true;
        if (is_it && (int64_t)s->trailing < stage->stop) {
            s->trailing++;
            continue;
        }
        if (!is_it) /* what was held is inside the token after all */
            for (; s->trailing > 0; s->trailing--) PLP_TRY(give(r, at, stage->content, stage->length, false));
        PLP_TRY(give(r, at, part + i, length, false));
    }
    if (!ends) return PLP_OK;
    s->inside = false;
    s->leading = s->trailing = 0;
    return give(r, at, "", 0, true);
}

/* ---- Replace ---- */

static plp_status push_replace(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends)
{
    const struct stage *stage = &r->decoder->stages[at];
    const char *token = NULL;
    size_t length = 0;
    text_spans spans = { 0 };
    plp_status st = collect(&r->states[at], part, bytes, ends, &token, &length);
    if (st != PLP_OK || token == NULL) return st;
    PLP_DO(text_pattern_spans(stage->pattern, token, length, &spans));
    for (size_t i = 0; i < spans.count; i++) {
        const text_span span = spans.list[i];
        if (span.match)
            PLP_DO(give(r, at, stage->content, stage->length, false));
        else
            PLP_DO(give(r, at, token + span.start, span.end - span.start, false));
    }
    st = give(r, at, "", 0, true);
done:
    free(spans.list);
    return st;
}

/* ---- Metaspace: its character becomes a space ---- */

static plp_status push_metaspace(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends)
{
    const struct stage *stage = &r->decoder->stages[at];
    state *s = &r->states[at];
    for (size_t i = 0, length; i < bytes; i += length) {
        int32_t c;
        length = text_utf8_next(part + i, bytes - i, &c);
        if (c != stage->character)
            PLP_TRY(give(r, at, part + i, length, false));
        else if (!stage->drop_first || s->tokens > 0)
            PLP_TRY(give(r, at, " ", 1, false));
    }
    s->tokens += ends;
    return ends ? give(r, at, "", 0, true) : PLP_OK;
}

/* ---- no decoder: tokens with spaces between ---- */

static plp_status push_spaced(text_decoding *r, size_t at, const char *part, size_t bytes, bool ends)
{
    if (r->states[at].tokens++ > 0) PLP_TRY(give(r, at, " ", 1, false));
    return give(r, at, part, bytes, ends);
}

/* ---- running ---- */

plp_status text_decoding_create(text_decoding **run, const text_decoder *d)
{
    text_decoding *r = NULL;
    *run = NULL;
    PLP_TRY(PLP_ALLOCATED(r = calloc(1, sizeof *r)));
    r->decoder = d;
    r->states = calloc(d->count + 1, sizeof *r->states);
    if (r->states == NULL) text_decoding_destroy(&r);
    *run = r;
    return PLP_ALLOCATED(r);
}

void text_decoding_destroy(text_decoding **run)
{
    text_decoding *r = *run;
    if (r == NULL) return;
    for (size_t i = 0; i < r->decoder->count && r->states != NULL; i++) {
        free(r->states[i].token.data);
        free(r->states[i].held.data);
    }
    free(r->states);
    free(r);
    *run = NULL;
}

plp_status text_decoding_push(text_decoding *r, const char *token, size_t bytes, text_buffer *out)
{
    r->out = out;
    return give(r, (size_t)-1, token, bytes, true);
}

plp_status text_decoding_finish(text_decoding *r, text_buffer *out)
{
    r->out = out;
    for (size_t i = 0; i < r->decoder->count; i++)
        if (r->decoder->stages[i].finish != NULL) PLP_TRY(r->decoder->stages[i].finish(r, i));
    return PLP_OK;
}

/* ---- reading ---- */

static plp_status keep_content(struct stage *s, const char *content, size_t length)
{
    PLP_TRY(PLP_ALLOCATED(s->content = malloc(length + 1)));
    memcpy(s->content, content, length);
    s->length = length;
    return PLP_OK;
}

static plp_status read_strip(struct stage *s, json_object *component, const char *where)
{
    int32_t c = 0;
    char character[4];
    s->push = push_strip;
    PLP_TRY(text_need_character(component, "content", where, &c));
    PLP_TRY(keep_content(s, character, plp_utf8_put(c, character)));
    PLP_TRY(plp_json_int(component, "start", where, 0, INT32_MAX, &s->start));
    return plp_json_int(component, "stop", where, 0, INT32_MAX, &s->stop);
}

static plp_status read_replace(struct stage *s, json_object *component, const char *where)
{
    const char *content = NULL;
    size_t length = 0;
    s->push = push_replace;
    PLP_TRY(text_pattern_read(&s->pattern, component, where));
    PLP_TRY(text_need_string(component, "content", where, &content, &length));
    return keep_content(s, content, length);
}

static plp_status add_stage(text_decoder *d, struct stage **s)
{
    struct stage *grown = plp_grow(d->stages, &d->room, d->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    d->stages = grown;
    *s = &d->stages[d->count++];
    **s = (struct stage){ 0 };
    return PLP_OK;
}

static plp_status read_stages(text_decoder *d, json_object *component, const char *where)
{
    const char *type = NULL;
    struct stage *s = NULL;
    PLP_TRY(text_component_type(component, where, "decoder", &type));
    if (strcmp(type, "Sequence") == 0) {
        json_object *list = NULL;
        PLP_TRY(text_need(component, "decoders", where, json_type_array, &list));
        for (size_t i = 0; i < json_object_array_length(list); i++) PLP_TRY(read_stages(d, json_object_array_get_idx(list, i), where));
        return PLP_OK;
    }
    PLP_TRY(add_stage(d, &s));
    if (strcmp(type, "ByteLevel") == 0) return s->push = push_byte_level, s->finish = finish_byte_level, PLP_OK;
    if (strcmp(type, "ByteFallback") == 0) return s->push = push_byte_fallback, s->finish = give_fallback, PLP_OK;
    if (strcmp(type, "Fuse") == 0) return s->push = push_fuse, s->finish = finish_fuse, PLP_OK;
    if (strcmp(type, "Strip") == 0) return read_strip(s, component, where);
    if (strcmp(type, "Replace") == 0) return read_replace(s, component, where);
    if (strcmp(type, "Metaspace") == 0) {
        text_prepend prepend = TEXT_PREPEND_NEVER;
        s->push = push_metaspace;
        PLP_TRY(text_metaspace_read(component, where, &s->character, &prepend));
        s->drop_first = prepend != TEXT_PREPEND_NEVER;
        return PLP_OK;
    }
    return text_component_unknown(where, "decoder", type);
}

plp_status text_decoder_create(text_decoder **decoder, json_object *component, const char *where)
{
    plp_status st = PLP_OK;
    text_decoder *d = NULL;
    struct stage *spaced = NULL;
    *decoder = NULL;
    PLP_TRY(PLP_ALLOCATED(d = calloc(1, sizeof *d)));
    if (component != NULL) {
        PLP_DO(read_stages(d, component, where));
    } else {
        PLP_DO(add_stage(d, &spaced));
        spaced->push = push_spaced;
    }
done:
    if (st != PLP_OK) text_decoder_destroy(&d);
    *decoder = d;
    return st;
}

void text_decoder_destroy(text_decoder **decoder)
{
    text_decoder *d = *decoder;
    if (d == NULL) return;
    for (size_t i = 0; i < d->count; i++) {
        text_pattern_destroy(&d->stages[i].pattern);
        free(d->stages[i].content);
    }
    free(d->stages);
    free(d);
    *decoder = NULL;
}
