#include "base/json.h"

#include "base/error.h"
#include "base/grow.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_DEPTH = 64 };

/* A member's name, as it is spelled between its quotes. */
typedef struct {
    const char *text;
    size_t bytes;
} name;

typedef struct {
    const char *begin, *at, *end, *where;
    name *names; /* of the objects that are open, innermost last */
    size_t count, room;
} reader;

static plp_status bad(const reader *r, const char *what)
{
    return PLP_FAIL(PLP_ERR_DATA, "%s, byte %zu: %s; fix: give valid JSON", r->where, (size_t)(r->at - r->begin) + 1, what);
}

static int peek(const reader *r) { return r->at < r->end ? (unsigned char)*r->at : -1; }

static bool take(reader *r, char c)
{
    if (r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

static void skip_space(reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

static bool digits(reader *r)
{
    const char *first = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return r->at > first;
}

static plp_status number(reader *r)
{
    take(r, '-');
    if (!take(r, '0') && !digits(r)) return bad(r, "a value was expected");
    if (take(r, '.') && !digits(r)) return bad(r, "a digit was expected behind the point");
    if (!take(r, 'e') && !take(r, 'E')) return PLP_OK;
    if (!take(r, '+')) take(r, '-');
    return digits(r) ? PLP_OK : bad(r, "a digit was expected in the exponent");
}

/* Behind a backslash.  Half a surrogate pair is no character, and json-c would end a name at its NUL: what is behind it would go unseen. */
static plp_status escape(reader *r, bool in_name)
{
    int32_t c;
    if (r->at < r->end && *r->at != 0 && strchr("\"\\/bfnrt", *r->at) != NULL) {
        r->at++;
        return PLP_OK;
    }
    const size_t length = plp_json_unicode(r->at - 1, r->end, &c);
    if (length == 0) return bad(r, "unknown escape in a string");
    if (plp_is_surrogate(c)) return bad(r, "half a surrogate pair");
    if (c == 0 && in_name) return bad(r, "a NUL in a field's name");
    r->at += length - 1;
    return PLP_OK;
}

static plp_status character(reader *r)
{
    const size_t length = plp_utf8_length(r->at, r->end);
    if (length == 0) return bad(r, "invalid UTF-8");
    r->at += length;
    return PLP_OK;
}

static plp_status string(reader *r, bool is_name)
{
    if (!take(r, '"')) return bad(r, "a string was expected");
    while (!take(r, '"')) {
        const int c = peek(r);
        if (c < 0) return bad(r, "the string does not end");
        if (c == 0) return bad(r, "a NUL byte");
        if (c < 0x20) return bad(r, "a control character in a string; fix: escape it");
        if (c >= 0x80)
            PLP_TRY(character(r));
        else if (r->at++, c == '\\')
            PLP_TRY(escape(r, is_name));
    }
    return PLP_OK;
}

static int by_text(const void *a, const void *b)
{
    const name *x = a, *y = b;
    const int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    return order != 0 ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static plp_status note_name(reader *r, const char *text, size_t bytes)
{
    name *grown = plp_grow(r->names, &r->room, r->count + 1, sizeof *grown);
    PLP_TRY(PLP_ALLOCATED(grown));
    r->names = grown;
    r->names[r->count++] = (name){ text, bytes };
    return PLP_OK;
}

/* The names of the object that ends, from `first` on, are not needed any more.  Names are compared as they are spelled: who escapes one of
 * a pair finds the later one counts. */
static plp_status forget_names(reader *r, size_t first)
{
    const size_t count = r->count - first;
    if (count > 1) qsort(r->names + first, count, sizeof *r->names, by_text);
    for (size_t i = first; i + 1 < r->count; i++)
        if (by_text(&r->names[i], &r->names[i + 1]) == 0) {
            const int shown = (int)(r->names[i].bytes < 60 ? r->names[i].bytes : 60);
            return PLP_FAIL(PLP_ERR_DATA, "%s: field \"%.*s\" comes twice; fix: leave one out", r->where, shown, r->names[i].text);
        }
    r->count = first;
    return PLP_OK;
}

static plp_status value(reader *r, int depth);

static plp_status object(reader *r, int depth)
{
    const size_t first = r->count;
    skip_space(r);
    if (take(r, '}')) return PLP_OK;
    do {
        skip_space(r);
        const char *text = r->at + 1;
        PLP_TRY(string(r, true));
        PLP_TRY(note_name(r, text, (size_t)(r->at - text) - 1));
        skip_space(r);
        if (!take(r, ':')) return bad(r, "a colon was expected");
        PLP_TRY(value(r, depth));
    } while (take(r, ','));
    return take(r, '}') ? forget_names(r, first) : bad(r, "a comma or } was expected");
}

static plp_status array(reader *r, int depth)
{
    skip_space(r);
    if (take(r, ']')) return PLP_OK;
    do PLP_TRY(value(r, depth));
    while (take(r, ','));
    return take(r, ']') ? PLP_OK : bad(r, "a comma or ] was expected");
}

static plp_status word(reader *r)
{
    static const char *const words[] = { "true", "false", "null" };
    for (int i = 0; i < 3; i++) {
        const size_t n = strlen(words[i]);
        if ((size_t)(r->end - r->at) >= n && memcmp(r->at, words[i], n) == 0) {
            r->at += n;
            return PLP_OK;
        }
    }
    return number(r);
}

static plp_status value(reader *r, int depth)
{
    if (depth == MOST_DEPTH) return bad(r, "nested too deep, at most 64 levels");
    skip_space(r);
    if (take(r, '{'))
        PLP_TRY(object(r, depth + 1));
    else if (take(r, '['))
        PLP_TRY(array(r, depth + 1));
    else
        PLP_TRY(peek(r) == '"' ? string(r, false) : word(r));
    skip_space(r);
    return PLP_OK;
}

plp_status plp_json_check(const char *text, size_t bytes, const char *where)
{
    reader r = { .begin = text, .at = text, .end = text + bytes, .where = where };
    plp_status st = value(&r, 0);
    if (st == PLP_OK && r.at < r.end) st = bad(&r, "text behind the end of the JSON value");
    free(r.names);
    return st;
}
