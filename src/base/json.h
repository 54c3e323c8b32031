/* src/base/json.h -- reading JSON (json-c) with checked types and ranges, and messages that name the key. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "polylepis/status.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

/* The whole of a regular file, with a NUL behind it; *text is the caller's to free.  PLP_ERR_DATA past `most` bytes. */
plp_status plp_read_file(const char *path, size_t most, char **text, size_t *bytes);

/* One JSON value and nothing behind it but white space; bare Infinity and NaN are accepted, since real configs hold them.  `where` names
 * the source in messages.  *root is the caller's: json_object_put. */
plp_status plp_json_parse(const char *text, size_t bytes, const char *where, json_object **root);
plp_status plp_json_read(const char *path, size_t most, json_object **root);

/* Whether a text is one JSON value to the letter of RFC 8259, in UTF-8, no name twice in an object and no NUL in one: what users send is not
 * guessed at, where plp_json_parse is lenient.  PLP_ERR_DATA names the column, the first byte of the text being 1. */
plp_status plp_json_check(const char *text, size_t bytes, const char *where);

/* Bytes of the escape \uXXXX at p <= end, and the character that it stands for: 6, or 12 where two are a surrogate pair.  Half a pair gives 6
 * and itself, so that plp_is_surrogate (base/utf8.h) is true of *c.  0: there is no such escape. */
size_t plp_json_unicode(const char *p, const char *end, int32_t *c);

/* NULL for a missing key, a null, or where `object` is none.  Borrowed. */
json_object *plp_json_member(json_object *object, const char *key);
/* Members of an object.  A missing key or a null leaves *value as it is (the caller put the default there); another type, or a value
 * outside [least, most], is PLP_ERR_DATA.  A float is accepted as an integer only where it is one. */
plp_status plp_json_int(json_object *object, const char *key, const char *where, int64_t least, int64_t most, int64_t *value);
plp_status plp_json_double(json_object *object, const char *key, const char *where, double least, double most, double *value);
plp_status plp_json_bool(json_object *object, const char *key, const char *where, bool *value);
/* Borrowed from the object. */
plp_status plp_json_string(json_object *object, const char *key, const char *where, const char **value);

/* A list of integers in [0, INT32_MAX], such as token ids; null and a missing key are none.  *ids is the caller's to free, and stays NULL
 * when there is no list. */
plp_status plp_json_ids(json_object *object, const char *key, const char *where, int **ids, size_t *count);

/* A number as configs spell it: a number, bare Infinity, "Infinity", or {"__float__": "Infinity"}. */
plp_status plp_json_any_number(json_object *value, const char *key, const char *where, double *number);

#endif
