#include "base/json_out.h"

#include "base/error.h"

#include <stdbool.h>

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
