#include "text/normalize.h"

#include "base/error.h"
#include "base/grow.h"
#include "base/utf8.h"
#include "text/component.h"
#include "text/pattern.h"
#include "text/utf8.h"

#include <utf8proc.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct step;
typedef plp_status step_fn(const struct step *s, const char *text, size_t bytes, bool *first, text_buffer *out);

struct step {
    step_fn *apply;
    int32_t unchanged;      /* Unicode forms: characters below it stay as they are */
    utf8proc_option_t form; /* Unicode forms: to utf8proc */
    bool left, right;       /* Strip */
    text_pattern *pattern;  /* Replace */
    char *content;          /* Prepend, Replace */
    size_t length;          /* of content */
};

struct text_normalizer {
    struct step *steps; /* Sequences are laid flat */
    size_t count, room;
};

/* ---- Unicode's normal forms ---- */

struct mark {
    utf8proc_int32_t c;
    utf8proc_propval_t class;
    size_t at;
};

static int by_class(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;
    if (x->class != y->class) return x->class < y->class ? -1 : 1;
    return x->at < y->at ? -1 : 1;
}

/* Marks in their canonical order.  utf8proc would insert them one by one, which a text of nothing but marks makes quadratic; what is sorted
 * already costs it nothing. */
static plp_status order_marks(utf8proc_int32_t *c, size_t count)
{
    struct mark *run = NULL;
    size_t room = 0, length = 0;
    plp_status st = PLP_OK;
    for (size_t i = 0; i <= count; i++) {
        const utf8proc_propval_t class = i < count ? utf8proc_get_property(c[i])->combining_class : 0;
        if (class != 0) {
            struct mark *grown = plp_grow(run, &room, length + 1, sizeof *grown);
            PLP_DO(PLP_ALLOCATED(grown));
            run = grown;
            run[length] = (struct mark){ c[i], class, length };
            length++;
        } else if (length > 0) {
            if (length > 1) qsort(run, length, sizeof *run, by_class);
            for (size_t k = 0; k < length; k++) c[i - length + k] = run[k].c;
            length = 0;
        }
    }
done:
    free(run);
    return st;
}

static plp_status unicode_form(const struct step *s, const char *text, size_t bytes, bool *first, text_buffer *out)
{
    plp_status st = PLP_OK;
    utf8proc_int32_t *list = NULL;
    size_t count = 0, room = 0;
    int32_t c = 0, most = 0;
    (void)first;
    for (size_t at = 0; at < bytes && most<s->unchanged; most = c> most ? c : most) at += text_utf8_next(text + at, bytes - at, &c);
    if (most < s->unchanged) return text_buffer_put(out, text, bytes); /* nearly every text */
    for (size_t at = 0; at < bytes;) {
        enum { LONGEST = 18 }; /* U+FDFA, the longest decomposition there is */
        utf8proc_int32_t *grown = plp_grow(list, &room, count + LONGEST, sizeof *grown);
        PLP_DO(PLP_ALLOCATED(grown));
        list = grown;
        at += text_utf8_next(text + at, bytes - at, &c);
        const utf8proc_option_t decompose = (s->form & ~UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE;
        count += (size_t)utf8proc_decompose_char(c, list + count, (utf8proc_ssize_t)(room - count), decompose, NULL);
    }
    PLP_DO(order_marks(list, count));
    if (s->form & UTF8PROC_COMPOSE) count = (size_t)utf8proc_normalize_utf32(list, (utf8proc_ssize_t)count, s->form);
    for (size_t i = 0; i < count; i++) {
        char character[4];
        PLP_DO(text_buffer_put(out, character, plp_utf8_put(list[i], character)));
    }
done:
    free(list);
    return st;
}

/* ---- the others ---- */

static plp_status lowercase(const struct step *s, const char *text, size_t bytes, bool *first, text_buffer *out)
{
    (void)s, (void)first;
    for (size_t at = 0; at < bytes;) {
        int32_t c;
        char character[4];
        at += text_utf8_next(text + at, bytes - at, &c);
        if (c == 0x130)
            PLP_TRY(text_buffer_put(out, "i\xcc\x87", 3)); /* the one letter whose lower case is two characters */
        else
            PLP_TRY(text_buffer_put(out, character, plp_utf8_put(utf8proc_tolower(c), character)));
    }
    return PLP_OK;
}

static plp_status strip(const struct step *s, const char *text, size_t bytes, bool *first, text_buffer *out)
{
    size_t start = 0, end = 0;
    bool inside = !s->left; /* past the leading spaces */
    for (size_t at = 0, length; at < bytes; at += length) {
        int32_t c;
        length = text_utf8_next(text + at, bytes - at, &c);
        if (!inside && text_is_space(c))
            start = end = at + length;
        else
            inside = true;
        if (!s->right || !text_is_space(c)) end = at + length;
    }
    *first = *first && start == 0;
    return end > start ? text_buffer_put(out, text + start, end - start) : PLP_OK;
}

static plp_status prepend(const struct step *s, const char *text, size_t bytes, bool *first, text_buffer *out)
{
    (void)first;
    if (bytes > 0) PLP_TRY(text_buffer_put(out, s->content, s->length));
    return text_buffer_put(out, text, bytes);
}

static plp_status replace(const struct step *s, const char *text, size_t bytes, bool *first, text_buffer *out)
{
    text_spans spans = { 0 };
    int32_t c;
    plp_status st = text_pattern_spans(s->pattern, text, bytes, &spans);
    for (size_t i = 0; i < spans.count && st == PLP_OK; i++) {
        const text_span span = spans.list[i];
        /* The reference aligns a replacement to the last character that it replaces. */
        if (i == 0 && span.match && span.end > 0 && (s->length == 0 || span.end > text_utf8_next(text, bytes, &c))) *first = false;
        st = span.match ? text_buffer_put(out, s->content, s->length) : text_buffer_put(out, text + span.start, span.end - span.start);
    }
    free(spans.list);
    return st;
}

plp_status text_normalize(const text_normalizer *n, const char *text, size_t bytes, bool *first, text_buffer *out)
{
    plp_status st = PLP_OK;
    text_buffer from = { 0 };
    bool ignored = false;
    if (first == NULL) first = &ignored;
    out->used = 0;
    if (n->count == 0) return text_buffer_put(out, text, bytes);
    PLP_DO(n->steps[0].apply(&n->steps[0], text, bytes, first, out));
    for (size_t i = 1; i < n->count; i++) {
        const text_buffer done = from;
        from = *out;
        *out = done;
        out->used = 0;
        PLP_DO(n->steps[i].apply(&n->steps[i], from.data, from.used, first, out));
    }
done:
    free(from.data);
    return st;
}

/* ---- reading ---- */

static plp_status read_content(struct step *s, json_object *component, const char *key, const char *where)
{
    const char *content = NULL;
    PLP_TRY(text_need_string(component, key, where, &content, &s->length));
    PLP_TRY(PLP_ALLOCATED(s->content = malloc(s->length + 1)));
    memcpy(s->content, content, s->length);
    return PLP_OK;
}

static const struct {
    const char *name;
    int32_t unchanged;
    utf8proc_option_t form;
} forms[] = {
    { "NFC", 0x300, UTF8PROC_STABLE | UTF8PROC_COMPOSE },
    { "NFD", 0xc0, UTF8PROC_STABLE },
    { "NFKC", 0xa0, UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_COMPOSE },
    { "NFKD", 0xa0, UTF8PROC_STABLE | UTF8PROC_COMPAT },
};

static plp_status read_steps(text_normalizer *n, json_object *component, const char *where)
{
    const char *type = NULL;
    PLP_TRY(text_component_type(component, where, "normalizer", &type));
    if (strcmp(type, "Sequence") == 0) {
        json_object *list = NULL;
        PLP_TRY(text_need(component, "normalizers", where, json_type_array, &list));
        for (size_t i = 0; i < json_object_array_length(list); i++) PLP_TRY(read_steps(n, json_object_array_get_idx(list, i), where));
        return PLP_OK;
    }
    struct step *grown = plp_grow(n->steps, &n->room, n->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    n->steps = grown;
    struct step *s = &n->steps[n->count++];
    *s = (struct step){ 0 };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(type, forms[i].name) == 0) s->apply = unicode_form, s->unchanged = forms[i].unchanged, s->form = forms[i].form;
    if (strcmp(type, "Lowercase") == 0) s->apply = lowercase;
    if (strcmp(type, "Strip") == 0) {
        s->apply = strip;
        PLP_TRY(text_need_bool(component, "strip_left", where, &s->left));
        PLP_TRY(text_need_bool(component, "strip_right", where, &s->right));
    }
    if (strcmp(type, "Prepend") == 0) {
        s->apply = prepend;
        PLP_TRY(read_content(s, component, "prepend", where));
    }
    if (strcmp(type, "Replace") == 0) {
        s->apply = replace;
        PLP_TRY(text_pattern_read(&s->pattern, component, where));
        PLP_TRY(read_content(s, component, "content", where));
    }
    return s->apply == NULL ? text_component_unknown(where, "normalizer", type) : PLP_OK;
}

plp_status text_normalizer_create(text_normalizer **normalizer, json_object *component, const char *where)
{
    plp_status st = PLP_OK;
    text_normalizer *n = NULL;
    *normalizer = NULL;
    PLP_TRY(PLP_ALLOCATED(n = calloc(1, sizeof *n)));
    if (component != NULL) st = read_steps(n, component, where);
    if (st != PLP_OK) text_normalizer_destroy(&n);
    *normalizer = n;
    return st;
}

void text_normalizer_destroy(text_normalizer **normalizer)
{
    text_normalizer *n = *normalizer;
    if (n == NULL) return;
    for (size_t i = 0; i < n->count; i++) {
        text_pattern_destroy(&n->steps[i].pattern);
        free(n->steps[i].content);
    }
    free(n->steps);
    free(n);
    *normalizer = NULL;
}
