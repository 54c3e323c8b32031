#include "base/options.h"

#include "base/error.h"
#include "base/sha256.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 60, NAMES = 96, LONGEST = 40 }; /* bytes of a bad value in a message; options of a command; letters of a name */

/* Levenshtein's distance, row by row.  Names are short, and what is longer than they are near to none. */
static int distance(const char *a, const char *b)
{
    const int n = (int)strlen(a), m = (int)strlen(b);
    int row[LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return LONGEST;
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            const int swap = diagonal + (a[i - 1] != b[j - 1]), gap = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            diagonal = row[j];
            row[j] = swap < gap ? swap : gap;
        }
    }
    return row[m];
}

const char *plp_nearest(const char *text, const char *const *names, int n)
{
    const char *nearest = NULL;
    int least = LONGEST;
    for (int i = 0; i < n; i++) {
        const int d = distance(text, names[i]);
        if (d < least) least = d, nearest = names[i];
    }
    return nearest != NULL && least <= 1 + (int)strlen(nearest) / 3 ? nearest : NULL;
}

static const plp_option *find(const plp_option_table *tables, int n, const char *name, size_t length)
{
    for (int t = 0; t < n; t++)
        for (int i = 0; i < tables[t].count; i++) {
            const plp_option *o = &tables[t].option[i];
            if (strlen(o->name) == length && memcmp(o->name, name, length) == 0) return o;
            if (o->letter != NULL && strlen(o->letter) == length && memcmp(o->letter, name, length) == 0) return o;
        }
    return NULL;
}

static plp_status unknown(const plp_option_table *tables, int n, const char *name, size_t length)
{
    const char *names[NAMES];
    char text[LONGEST + 2];
    int count = 0;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < tables[t].count && count < NAMES; i++) names[count++] = tables[t].option[i].name;
    snprintf(text, sizeof text, "%.*s", (int)length, name);
    const char *nearest = plp_nearest(text, names, count);
    if (nearest == NULL) return PLP_FAIL(PLP_ERR_USAGE, "unknown option %.*s; command line; fix: see --help", SHOWN, name);
    return PLP_FAIL(PLP_ERR_USAGE, "unknown option %.*s; command line; fix: did you mean %s?", SHOWN, name, nearest);
}

static plp_status read_int(const plp_option *o, const char *text, char stop, const char **end, int64_t *value)
{
    char *rest;
    errno = 0;
    const long long v = strtoll(text, &rest, 10);
    const bool plain = *text == '-' || (*text >= '0' && *text <= '9'); /* strtoll would also take blanks and a plus */
    if (!plain || rest == text || (*rest != 0 && *rest != stop) || errno != 0 || (double)v < o->least || (double)v > o->most)
        return PLP_FAIL(PLP_ERR_USAGE, "%s %.*s; command line; fix: give an integer from %.0f to %.0f", o->name, SHOWN, text, o->least,
                        o->most);
    *value = v, *end = rest;
    return PLP_OK;
}

static plp_status read_real(const plp_option *o, const char *text, double *value)
{
    char *rest;
    const double v = strtod(text, &rest);
    if (rest == text || *rest != 0 || *text == ' ' || !(v >= o->least && v <= o->most)) /* NaN is in no range */
        return PLP_FAIL(PLP_ERR_USAGE, "%s %.*s; command line; fix: give a number from %g to %g", o->name, SHOWN, text, o->least, o->most);
    *value = v;
    return PLP_OK;
}

static plp_status read_ints(const plp_option *o, const char *text, plp_ints *list)
{
    size_t count = 1;
    for (const char *p = text; *p; p++) count += *p == ',';
    free(list->item);
    *list = (plp_ints){ 0 };
    PLP_TRY(PLP_ALLOCATED(list->item = malloc(count * sizeof *list->item)));
    for (const char *p = text;; p++) {
        int64_t v;
        if (read_int(o, p, ',', &p, &v) != PLP_OK) /* says what is left of the list, perhaps nothing */
            return PLP_FAIL(PLP_ERR_USAGE, "%s %.*s: number %d; command line; fix: give integers from %.0f to %.0f, commas between them",
                            o->name, SHOWN, text, list->count + 1, o->least, o->most);
        list->item[list->count++] = (int)v;
        if (*p == 0) return PLP_OK;
    }
}

static plp_status read_choice(const plp_option *o, const char *text, int *value)
{
    int index = 0;
    for (const char *p = o->argument;; index++) {
        const size_t length = strcspn(p, "|");
        if (strlen(text) == length && memcmp(p, text, length) == 0) {
            *value = index;
            return PLP_OK;
        }
        if (p[length] == 0) return PLP_FAIL(PLP_ERR_USAGE, "%s %.*s; command line; fix: one of %s", o->name, SHOWN, text, o->argument);
        p += length + 1;
    }
}

static plp_status read_value(const plp_option *o, const char *text)
{
    const char *end;
    switch (o->kind) {
    case PLP_OPTION_FLAG: *(bool *)o->value = true; return PLP_OK;
    case PLP_OPTION_INT: return read_int(o, text, 0, &end, o->value);
    case PLP_OPTION_REAL: return read_real(o, text, o->value);
    case PLP_OPTION_INTS: return read_ints(o, text, o->value);
    case PLP_OPTION_CHOICE: return read_choice(o, text, o->value);
    case PLP_OPTION_TEXT:
    case PLP_OPTION_TEXTS: break;
    }
    if ((double)strlen(text) < o->least)
        return PLP_FAIL(PLP_ERR_USAGE, "%s: empty value; command line; fix: give %s", o->name, o->argument);
    if (o->kind == PLP_OPTION_TEXT) {
        *(const char **)o->value = text;
        return PLP_OK;
    }
    plp_texts *list = o->value;
    if (!plp_is_utf8(text)) /* it would go into JSON, which nobody could read again */
        return PLP_FAIL(PLP_ERR_USAGE, "%s %.*s: invalid UTF-8; command line; fix: give text in UTF-8", o->name, SHOWN, text);
    if (list->count == PLP_TEXTS)
        return PLP_FAIL(PLP_ERR_USAGE, "%s %.*s; command line; fix: give it at most %d times", o->name, SHOWN, text, PLP_TEXTS);
    list->item[list->count++] = text;
    return PLP_OK;
}

plp_status plp_options_parse(const plp_option_table *tables, int n, int argc, char *const *argv, const char **words, int most, int *count)
{
    bool options = true;
    *count = 0;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        if (options && strcmp(a, "--") == 0) {
            options = false;
            continue;
        }
        if (!options || a[0] != '-' || a[1] == 0) {
            if (*count == most) return PLP_FAIL(PLP_ERR_USAGE, "unexpected argument %.*s; command line; fix: see --help", SHOWN, a);
            words[(*count)++] = a;
            continue;
        }
        const size_t length = a[1] == '-' ? strcspn(a, "=") : strlen(a);
        const plp_option *o = find(tables, n, a, length);
        if (o == NULL) return unknown(tables, n, a, length);
        const char *value = a[length] == '=' ? a + length + 1 : NULL;
        if (o->kind == PLP_OPTION_FLAG && value != NULL)
            return PLP_FAIL(PLP_ERR_USAGE, "%s takes no value; command line; fix: give %s alone", o->name, o->name);
        if (o->kind != PLP_OPTION_FLAG && value == NULL) {
            if (i + 1 == argc) return PLP_FAIL(PLP_ERR_USAGE, "%s: its value is missing; command line; fix: give %s", o->name, o->argument);
            value = argv[++i];
        }
        PLP_TRY(read_value(o, value));
    }
    return PLP_OK;
}

bool plp_options_name(const plp_option_table *tables, int n, int argc, char *const *argv, const char *name, const char *letter)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *a = argv[i];
        if (strcmp(a, name) == 0 || strcmp(a, letter) == 0) return true;
        const plp_option *o = a[0] == '-' ? find(tables, n, a, strlen(a)) : NULL; /* none for --name=value, which is whole */
        if (o != NULL && o->kind != PLP_OPTION_FLAG) i++;
    }
    return false;
}

bool plp_option_is_path(const plp_option *o)
{
    static const char *const paths[] = { "FILE", "PATH", "DIR" };
    if (o->kind != PLP_OPTION_TEXT) return false;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (strcmp(o->argument, paths[i]) == 0) return true;
    return strchr(o->argument, '.') != NULL;
}

/* A text that may be longer than the room for it. */
typedef struct {
    char *text;
    size_t room, bytes;
    plp_sha256_stream digest; /* of all of it */
} sink;

static void put(sink *s, const char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes && s->bytes + i + 1 < s->room; i++) s->text[s->bytes + i] = data[i];
    plp_sha256_update(&s->digest, data, bytes);
    s->bytes += bytes;
}

static void put_int(sink *s, int64_t value)
{
    char text[24];
    put(s, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

static void put_real(sink *s, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.15g", value); /* 0.1 rather than 0.10000000000000001, where that is the same */
    if (strtod(text, NULL) != value) snprintf(text, sizeof text, "%.17g", value);
    put(s, text, strlen(text));
}

static void put_text(sink *s, const char *text)
{
    if (text == NULL) return;
    put(s, "\"", 1);
    for (; *text != 0; text++) {
        if (*text == '"' || *text == '\\') put(s, "\\", 1);
        put(s, text, 1);
    }
    put(s, "\"", 1);
}

static void put_choice(sink *s, const plp_option *o, int index)
{
    const char *p = o->argument;
    for (; index > 0; index--) p += strcspn(p, "|") + 1;
    put(s, p, strcspn(p, "|"));
}

static void put_value(sink *s, const plp_option *o)
{
    const plp_texts *texts = o->value;
    const plp_ints *ints = o->value;
    switch (o->kind) {
    case PLP_OPTION_FLAG: put(s, *(bool *)o->value ? "yes" : "no", *(bool *)o->value ? 3 : 2); return;
    case PLP_OPTION_INT: put_int(s, *(int64_t *)o->value); return;
    case PLP_OPTION_REAL: put_real(s, *(double *)o->value); return;
    case PLP_OPTION_CHOICE: put_choice(s, o, *(int *)o->value); return;
    case PLP_OPTION_TEXT:
        if (plp_option_is_path(o) && *(const char **)o->value != NULL)
            put(s, "a path", 6);
        else
            put_text(s, *(const char **)o->value);
        return;
    case PLP_OPTION_TEXTS:
        for (int i = 0; i < texts->count; i++) {
            if (i > 0) put(s, " ", 1);
            put_text(s, texts->item[i]);
        }
        return;
    case PLP_OPTION_INTS:
        for (int i = 0; i < ints->count; i++) {
            if (i > 0) put(s, ",", 1);
            put_int(s, ints->item[i]);
        }
    }
}

void plp_option_text(const plp_option *o, char *text, size_t room)
{
    sink s = { .text = text, .room = room };
    plp_sha256_init(&s.digest);
    put_value(&s, o);
    text[s.bytes < room ? s.bytes : room - 1] = 0;
    if (s.bytes < room) return;
    uint8_t digest[PLP_SHA256_BYTES];
    char hex[PLP_SHA256_HEX];
    plp_sha256_final(&s.digest, digest);
    plp_sha256_hex(digest, hex);
    snprintf(text + room - PLP_OPTION_DIGEST, PLP_OPTION_DIGEST, "... #%.16s", hex);
}

void plp_options_help(const plp_option_table *tables, int n, FILE *out)
{
    enum { COLUMN = 36 }; /* where the explanations begin */
    for (int t = 0; t < n; t++) {
        fprintf(out, "\n%s:\n", tables[t].title);
        for (int i = 0; i < tables[t].count; i++) {
            const plp_option *o = &tables[t].option[i];
            char left[128];
            snprintf(left, sizeof left, "%s%s%s %s", o->letter ? o->letter : "", o->letter ? ", " : "", o->name,
                     o->kind == PLP_OPTION_FLAG ? "" : o->argument);
            fprintf(out, "  %-*s", COLUMN - 2, left);
            if (strlen(left) > COLUMN - 3) fprintf(out, "\n%*s", COLUMN, "");
            for (const char *p = o->help; *p; p++) {
                fputc(*p, out);
                if (*p == '\n') fprintf(out, "%*s", COLUMN, "");
            }
            fputc('\n', out);
        }
    }
}
