/* src/text/pattern.h -- the regular expressions of tokenizer.json, run by PCRE2 so that they mean what they mean to Oniguruma.
 *
 * Where the two differ, an expression is rewritten (\s, \w) or refused by name (escapes, nested classes, options, quantifiers that only one
 * of them reads as possessive).  An expression comes from a file that may be hostile: backtracking is limited, and so is how often the text
 * may be read again, so that no expression can hold up a run; what meets a limit fails with PLP_ERR_DATA. */
#ifndef TEXT_PATTERN_H
#define TEXT_PATTERN_H

#include "polylepis/status.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct text_pattern text_pattern;

plp_status text_pattern_regex(text_pattern **p, const char *expression, size_t length, const char *where);
plp_status text_pattern_literal(text_pattern **p, const char *bytes, size_t length, const char *where); /* length > 0 */
/* The member "pattern" of a component: {"Regex": e} or {"String": s}. */
plp_status text_pattern_read(text_pattern **p, json_object *component, const char *where);
void text_pattern_destroy(text_pattern **p);

typedef struct {
    size_t start, end; /* bytes */
    bool match;
} text_span;
typedef struct {
    text_span *list; /* owned: free() */
    size_t count, room;
} text_spans;

plp_status text_spans_put(text_spans *s, size_t start, size_t end, bool match);
/* All matches in a text, valid UTF-8, left to right, and what lies between them: together the whole text.  Replaces what *s held.  An empty
 * match counts, but not where the one before it ended, nor in an empty text. */
plp_status text_pattern_spans(const text_pattern *p, const char *text, size_t bytes, text_spans *s);

#endif
