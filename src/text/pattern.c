#include "text/pattern.h"

#include "base/error.h"
#include "base/grow.h"
#include "text/buffer.h"
#include "text/component.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    MOST_EXPRESSION = 16384,     /* bytes */
    WINDOW = 128,                /* bytes that a match is first looked for in; doubled while the end of the window matters */
    BACKTRACKS = 4,              /* per byte of the window, and ...                                                     */
    BACKTRACK_ALLOWANCE = 4096,  /* ... in any case: what one match may cost                                            */
    REREADS = 64,                /* how often, on average, a byte may be part of a doubled window, and ...              */
    REREAD_ALLOWANCE = 16 << 20, /* ... what a short text may have in any case                                          */
};

struct text_pattern {
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    char *source; /* for messages */
};

/* ---- from Oniguruma's syntax to PCRE2's ---- */

typedef struct {
    const char *e;
    size_t at, length;
    bool in_class;
    const char *where;
    text_buffer out;
} translation;

static plp_status refuse(const translation *t, size_t length, const char *why)
{
    if (length > t->length - t->at) length = t->length - t->at;
    return PLP_FAIL(PLP_ERR_DATA, "%s: expression '%.*s': '%.*s' at byte %zu: %s", t->where, (int)(t->length < 200 ? t->length : 200), t->e,
                    (int)length, t->e + t->at, t->at, why);
}

static bool follows(const translation *t, size_t offset, const char *text)
{
    const size_t n = strlen(text);
    return t->at + offset + n <= t->length && memcmp(t->e + t->at + offset, text, n) == 0;
}

static plp_status put(translation *t, const char *text, size_t take)
{
    t->at += take;
    return text_buffer_put(&t->out, text, strlen(text));
}

static plp_status copy(translation *t, size_t count)
{
    t->at += count;
    return text_buffer_put(&t->out, t->e + t->at - count, count);
}

static plp_status copy_braces(translation *t) /* \p{..}, \x{..} */
{
    const char *end = t->at + 2 < t->length && t->e[t->at + 2] == '{' ? memchr(t->e + t->at, '}', t->length - t->at) : NULL;
    if (end == NULL) return refuse(t, 2, "not followed by {..}");
    return copy(t, (size_t)(end - t->e) + 1 - t->at);
}

/* What is in Oniguruma's \p{Alnum} and so on, names that PCRE2 does not know; NULL: it may know this one. */
static const char *posix_set(const char *name, size_t length)
{
    static const char *const sets[][2] = { { "Alnum", "\\p{Alphabetic}\\p{Nd}" }, { "Digit", "\\p{Nd}" }, { "Punct", "\\p{P}" } };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (strlen(sets[i][0]) == length && strncasecmp(sets[i][0], name, length) == 0) return sets[i][1];
    return NULL;
}

static plp_status put_set(translation *t, const char *set, bool negated, size_t take)
{
    if (t->in_class) return negated ? refuse(t, take, "not supported inside a class") : put(t, set, take);
    PLP_TRY(put(t, negated ? "[^" : "[", take));
    PLP_TRY(put(t, set, 0));
    return put(t, "]", 0);
}

/* \p{Han} is a script to Oniguruma; to PCRE2, from 10.40 on, it is that and all that the script shares with others (U+3001, ...), and
 * \p{sc:Han} the script. */
static plp_status copy_property(translation *t)
{
    const char *name = t->e + t->at + 3,
               *end = t->at + 2 < t->length && t->e[t->at + 2] == '{' ? memchr(name, '}', t->length - t->at - 3) : NULL;
    char script[80];
    int error = 0;
    size_t at = 0;
    if (end == NULL) return copy_braces(t);
    const bool negated = *name == '^';
    const char *set = posix_set(name + negated, (size_t)(end - name) - negated);
    if (set != NULL) return put_set(t, set, negated != (t->e[t->at + 1] == 'P'), (size_t)(end - t->e) + 1 - t->at);
    const int n = snprintf(script, sizeof script, "\\p{sc:%.*s}", (int)(end - name) - negated, name + negated);
    if (n >= (int)sizeof script || memchr(name, ':', (size_t)(end - name)) || memchr(name, '=', (size_t)(end - name)))
        return copy_braces(t);
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)script, (size_t)n, PCRE2_UTF, &error, &at, NULL);
    if (code == NULL) return copy_braces(t); /* no script, or a PCRE2 to which the name alone is the script */
    pcre2_code_free(code);
    PLP_TRY(copy(t, 3 + negated));
    PLP_TRY(put(t, "sc:", 0));
    return copy(t, (size_t)(end - t->e) + 1 - t->at);
}

#define WORD        "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define LATIN1_WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" /* Oniguruma has them in \w, but not in [\w] */

static plp_status translate_escape(translation *t)
{
    if (t->at + 1 == t->length) return refuse(t, 1, "nothing behind it");
    const unsigned char c = (unsigned char)t->e[t->at + 1];
    switch (c) {
    case 's': return put(t, "\\p{White_Space}", 2); /* PCRE2's \s holds U+180E as well */
    case 'S': return put(t, "\\P{White_Space}", 2);
    case 'w': return put(t, t->in_class ? WORD : "[" WORD LATIN1_WORD "]", 2);
    case 'W':
        if (t->in_class) return refuse(t, 2, "not supported inside a class");
        return put(t, "[^" WORD LATIN1_WORD "]", 2);
    case 'p':
    case 'P': return copy_property(t);
    case 'x': return copy_braces(t);
    case 'd':
    case 'D':
    case 'r':
    case 'n':
    case 't':
    case 'f': return copy(t, 2);
    case 'A':
    case 'z':
    case 'Z': return t->in_class ? refuse(t, 2, "not supported inside a class") : copy(t, 2);
    case 'u':
        if (t->at + 6 > t->length || strspn(t->e + t->at + 2, "0123456789abcdefABCDEF") < 4)
            return refuse(t, 2, "not followed by four digits");
        PLP_TRY(put(t, "\\x{", 2));
        PLP_TRY(copy(t, 4));
        return put(t, "}", 0);
    default: return isalnum(c) ? refuse(t, 2, "this escape is not supported") : copy(t, 2);
    }
}

static plp_status translate_group(translation *t)
{
    static const char *const known[] = { "(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:" };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (follows(t, 0, known[i])) return copy(t, strlen(known[i]));
    if (t->at == 0 && follows(t, 0, "(?i)")) return copy(t, 4); /* elsewhere the two disagree on how far it reaches */
    if (follows(t, 0, "(?") || follows(t, 0, "(*")) return refuse(t, 3, "this group is not supported");
    return copy(t, 1);
}

static plp_status translate_braces(translation *t) /* {n}, {n,}, {n,m} */
{
    size_t n = 1;
    while (t->at + n < t->length && (isdigit((unsigned char)t->e[t->at + n]) || (n > 1 && t->e[t->at + n] == ','))) n++;
    if (n == 1 || !follows(t, n, "}")) return refuse(t, n, "not a quantifier {n}, {n,} or {n,m}; a brace is written \\{");
    if (follows(t, n + 1, "+") || follows(t, n + 1, "?")) return refuse(t, n + 2, "a quantifier behind a quantifier");
    return copy(t, n + 1);
}

static plp_status translate(translation *t)
{
    while (t->at < t->length) {
        const char c = t->e[t->at];
        if (c == '\\')
            PLP_TRY(translate_escape(t));
        else if (t->in_class) {
            if (c == '[' || follows(t, 0, "&&")) return refuse(t, 2, "a class inside a class is not supported");
            t->in_class = c != ']';
            PLP_TRY(copy(t, 1));
        } else if (c == '[') {
            t->in_class = true;
            PLP_TRY(copy(t, follows(t, 1, "^") ? 2 : 1));
            if (follows(t, 0, "]")) return refuse(t, 1, "an empty class");
        } else if (c == '(')
            PLP_TRY(translate_group(t));
        else if (c == '{')
            PLP_TRY(translate_braces(t));
        else if (c == '^')
            PLP_TRY(put(t, "(?:^(?!\\z))", 1)); /* the end of a window is none of the text: see compile() and find() */
        else
            PLP_TRY(copy(t, 1));
    }
    return PLP_OK;
}

/* ---- compiling ---- */

void text_pattern_destroy(text_pattern **pattern)
{
    text_pattern *p = *pattern;
    if (p == NULL) return;
    pcre2_match_context_free(p->limits);
    pcre2_match_data_free(p->data);
    pcre2_code_free(p->code);
    free(p->source);
    free(p);
    *pattern = NULL;
}

/* expression: what PCRE2 reads; source: what the file says. */
static plp_status compile(text_pattern **pattern, const char *expression, size_t length, uint32_t options, const char *source,
                          size_t source_length, const char *where)
{
    plp_status st = PLP_OK;
    int error = 0;
    size_t at = 0;
    text_pattern *p = NULL;
    pcre2_compile_context *context = NULL;
    PLP_TRY(PLP_ALLOCATED(p = calloc(1, sizeof *p)));
    PLP_DO(PLP_ALLOCATED(context = pcre2_compile_context_create(NULL)));
    pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* the build's default may be another; it is what . and $ go by */
    PLP_DO(PLP_ALLOCATED(p->source = strndup(source, source_length)));
    p->code = pcre2_compile((PCRE2_SPTR)expression, length, options | PCRE2_UTF, &error, &at, context);
    if (p->code == NULL) {
        char why[128] = "";
        pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
        st = PLP_FAIL(PLP_ERR_DATA, "%s: expression '%.200s': %s (PCRE2: byte %zu)", where, p->source, why, at);
        goto done;
    }
    /* Where it fails, the interpreter does the work, as it does for (?>): 10.42's code misses matches of (?>.+?)b. */
    if (strstr(p->source, "(?>") == NULL) pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    PLP_DO(PLP_ALLOCATED(p->data = pcre2_match_data_create(1, NULL)));
    PLP_DO(PLP_ALLOCATED(p->limits = pcre2_match_context_create(NULL)));
done:
    pcre2_compile_context_free(context);
    if (st != PLP_OK) text_pattern_destroy(&p);
    *pattern = p;
    return st;
}

plp_status text_pattern_regex(text_pattern **p, const char *expression, size_t length, const char *where)
{
    translation t = { .e = expression, .length = length, .where = where };
    *p = NULL;
    if (length == 0 || length > MOST_EXPRESSION)
        return PLP_FAIL(PLP_ERR_DATA, "%s: an expression of %zu bytes; 1 to %d are read", where, length, MOST_EXPRESSION);
    plp_status st = translate(&t);
    /* MULTILINE: Oniguruma's ^ and $ always look at lines.  ALT_CIRCUMFLEX: behind a newline that ends a window, ^ may match; behind one that
     * ends the text it does not, which is up to the translation, since PCRE2 would not ask for more text there. */
    if (st == PLP_OK)
        st = compile(p, t.out.data, t.out.used, PCRE2_UCP | PCRE2_MULTILINE | PCRE2_ALT_CIRCUMFLEX, expression, length, where);
    free(t.out.data);
    return st;
}

plp_status text_pattern_literal(text_pattern **p, const char *bytes, size_t length, const char *where)
{
    *p = NULL;
    if (length == 0 || length > MOST_EXPRESSION)
        return PLP_FAIL(PLP_ERR_DATA, "%s: a pattern of %zu bytes; 1 to %d are read", where, length, MOST_EXPRESSION);
    return compile(p, bytes, length, PCRE2_LITERAL, bytes, length, where);
}

plp_status text_pattern_read(text_pattern **p, json_object *component, const char *where)
{
    json_object *pattern = NULL;
    const char *bytes = NULL;
    size_t length = 0;
    *p = NULL;
    PLP_TRY(text_need(component, "pattern", where, json_type_object, &pattern));
    if (json_object_object_get_ex(pattern, "Regex", NULL)) {
        PLP_TRY(text_need_string(pattern, "Regex", where, &bytes, &length));
        return text_pattern_regex(p, bytes, length, where);
    }
    PLP_TRY(text_need_string(pattern, "String", where, &bytes, &length));
    return text_pattern_literal(p, bytes, length, where);
}

/* ---- matching ---- */

plp_status text_spans_put(text_spans *s, size_t start, size_t end, bool match)
{
    text_span *grown = plp_grow(s->list, &s->room, s->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    s->list = grown;
    s->list[s->count++] = (text_span){ start, end, match };
    return PLP_OK;
}

static size_t character_end(const char *text, size_t bytes, size_t at) /* the next character boundary at or behind `at` */
{
    while (at < bytes && ((unsigned char)text[at] & 0xc0) == 0x80) at++;
    return at < bytes ? at : bytes;
}

/* The leftmost match at or behind `from`; *found is false where there is none.
 *
 * PCRE2 sees the text up to the end of a window.  A match that did not ask what comes behind the window is a match in the whole text; else
 * PCRE2 reports a partial one, and the window is doubled.  So what a match has read is known, and `allowance` can pay for it. */
static plp_status find(const text_pattern *p, const char *text, size_t bytes, size_t from, size_t *allowance, text_span *match, bool *found)
{
    size_t window = WINDOW;
    *found = false;
    for (;;) {
        const size_t end = bytes - from > window ? character_end(text, bytes, from + window) : bytes;
        const size_t backtracks = window * BACKTRACKS + BACKTRACK_ALLOWANCE;
        const uint32_t options = PCRE2_NO_UTF_CHECK | (end < bytes ? PCRE2_PARTIAL_HARD : 0);
        pcre2_set_match_limit(p->limits, backtracks < UINT32_MAX ? (uint32_t)backtracks : UINT32_MAX);
        int rc = pcre2_match(p->code, (PCRE2_SPTR)text, end, from, options, p->data, p->limits);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter has the heap */
            rc = pcre2_match(p->code, (PCRE2_SPTR)text, end, from, options | PCRE2_NO_JIT, p->data, p->limits);
        const size_t *ends = pcre2_get_ovector_pointer(p->data);
        if (rc >= 0) {
            *match = (text_span){ ends[0], ends[1], true };
            *found = true;
            return PLP_OK;
        }
        if (rc == PCRE2_ERROR_NOMATCH && end == bytes) return PLP_OK;
        if (rc == PCRE2_ERROR_NOMATCH) {
            from = end, window = WINDOW;
        } else if (rc == PCRE2_ERROR_PARTIAL && *allowance >= 2 * window) {
            from = ends[0], window *= 2; /* no match begins before */
            *allowance -= window;
        } else {
            char why[128] = "it reads the text too often";
            if (rc != PCRE2_ERROR_PARTIAL) pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
            return PLP_FAIL(PLP_ERR_DATA, "expression '%.200s': %s (at byte %zu of a text of %zu); fix: give token ids instead of text",
                            p->source, why, from, bytes);
        }
    }
}

plp_status text_pattern_spans(const text_pattern *p, const char *text, size_t bytes, text_spans *s)
{
    size_t allowance = REREADS * bytes + REREAD_ALLOWANCE, from = 0, done = 0;
    bool found = true, any = false;
    s->count = 0;
    if (bytes == 0) return PLP_OK; /* the reference does not look into an empty text */
    while (from <= bytes) {
        text_span m;
        PLP_TRY(find(p, text, bytes, from, &allowance, &m, &found));
        if (!found) break;
        if (m.start == m.end && any && m.end == done) {
            from = character_end(text, bytes, from + 1);
            if (from == done) break;
            continue;
        }
        if (done != m.start) PLP_TRY(text_spans_put(s, done, m.start, false));
        PLP_TRY(text_spans_put(s, m.start, m.end, true));
        from = done = m.end;
        any = true;
    }
    if (done != bytes) PLP_TRY(text_spans_put(s, done, bytes, false));
    return PLP_OK;
}
