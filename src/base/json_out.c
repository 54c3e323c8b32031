#include "base/json_out.h"

#include "base/error.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef json_object_object_add
#undef json_object_array_add

static _Thread_local bool failed;

plp_status plp_json_complete(const char *what)
{
    if (!failed) return PLP_OK;
    failed = false;
    return PLP_FAIL(PLP_ERR_MEMORY, "host memory exhausted (%s)", what);
}

json_object *plp_json_made(json_object *o)
{
    if (o == NULL) failed = true;
    return o;
}

void plp_json_add(json_object *o, const char *key, json_object *value)
{
    if (o != NULL && json_object_object_add(o, key, value) == 0) return;
    json_object_put(value);
    failed = true;
}

void plp_json_append(json_object *o, json_object *value)
{
    if (o != NULL && json_object_array_add(o, value) == 0) return;
    json_object_put(value);
    failed = true;
}

/* Bytes of a control character of those that json-c leaves as they are, which come in strings alone; 0: it is another. */
static size_t control(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return u[0] == 0x7f ? 1 : u[0] == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0 ? 2 : 0;
}

char *plp_json_text(json_object *value, int flags)
{
    enum { ESCAPED = sizeof "\\u0080" - 1 };
    size_t controls = 0, used = 0;
    const char *from = value != NULL ? json_object_to_json_string_ext(value, flags) : NULL;
    if (from == NULL) return NULL;
    for (const char *p = from; *p != 0; p++) controls += control(p) > 0;
    char *text = malloc(strlen(from) + ESCAPED * controls + 1);
    if (text == NULL) return NULL;
    for (size_t length; *from != 0; from += length) {
        length = control(from);
        if (length > 0)
            used += (size_t)snprintf(text + used, ESCAPED + 1, "\\u00%02x", (unsigned char)from[length - 1]);
        else
            text[used++] = *from, length = 1;
    }
    text[used] = 0;
    return text;
}
