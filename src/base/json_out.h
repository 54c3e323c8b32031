/* src/base/json_out.h -- JSON that is written out: as plain text, and when memory runs out.
 *
 * json-c then answers with NULL, and takes NULL for null: a record would be whole and lack its text.  In a file that includes this header
 * its calls read as ever and a failure is remembered, until plp_json_complete says so. */
#ifndef BASE_JSON_OUT_H
#define BASE_JSON_OUT_H

#include "polylepis/status.h"

#include <json-c/json.h>

/* PLP_ERR_MEMORY when one of this thread's calls below has failed since the last time. */
plp_status plp_json_complete(const char *what);

json_object *plp_json_made(json_object *o);
void plp_json_add(json_object *o, const char *key, json_object *value); /* takes value over, as json_object_object_add */
void plp_json_append(json_object *o, json_object *value);

/* A value as text, for a file or a terminal; the caller's to free.  json-c escapes control characters below U+0020 alone; here U+007F to
 * U+009F, which terminals obey as well, are escaped, too.  NULL: memory is exhausted, or there is no value. */
char *plp_json_text(json_object *value, int flags);

#define json_object_new_object()                plp_json_made(json_object_new_object())
#define json_object_new_array()                 plp_json_made(json_object_new_array())
#define json_object_new_string(text)            plp_json_made(json_object_new_string(text))
#define json_object_new_string_len(text, bytes) plp_json_made(json_object_new_string_len(text, bytes))
#define json_object_new_int(value)              plp_json_made(json_object_new_int(value))
#define json_object_new_int64(value)            plp_json_made(json_object_new_int64(value))
#define json_object_new_double(value)           plp_json_made(json_object_new_double(value))
#define json_object_new_boolean(value)          plp_json_made(json_object_new_boolean(value))
#define json_object_object_add(o, key, value)   plp_json_add(o, key, value)
#define json_object_array_add(o, value)         plp_json_append(o, value)

#endif
