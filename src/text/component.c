#include "text/component.h"

#include "base/error.h"
#include "text/utf8.h"

plp_status text_component_type(json_object *component, const char *where, const char *part, const char **type)
{
    json_object *value = NULL;
    if (!json_object_is_type(component, json_type_object) || !json_object_object_get_ex(component, "type", &value) ||
        !json_object_is_type(value, json_type_string))
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s: no type; fix: save the tokenizer with a current tokenizers library", where, part);
    *type = json_object_get_string(value);
    return PLP_OK;
}

plp_status text_component_unknown(const char *where, const char *part, const char *type)
{
    return PLP_FAIL(PLP_ERR_DATA, "%s: %s: %.60s is not supported; fix: give token ids instead of text (docs/tokenizers.md has what is)",
                    where, part, type);
}

plp_status text_need(json_object *object, const char *key, const char *where, enum json_type type, json_object **value)
{
    if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, value) ||
        !json_object_is_type(*value, type))
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s: missing, or not of type %s", where, key, json_type_to_name(type));
    return PLP_OK;
}

plp_status text_need_string(json_object *object, const char *key, const char *where, const char **bytes, size_t *length)
{
    json_object *value = NULL;
    PLP_TRY(text_need(object, key, where, json_type_string, &value));
    *bytes = json_object_get_string(value);
    *length = (size_t)json_object_get_string_len(value);
    return PLP_OK;
}

plp_status text_need_character(json_object *object, const char *key, const char *where, int32_t *c)
{
    const char *bytes = NULL;
    size_t length = 0;
    PLP_TRY(text_need_string(object, key, where, &bytes, &length));
    if (length == 0 || text_utf8_next(bytes, length, c) != length || *c < 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s: '%.60s' is not one character", where, key, bytes);
    return PLP_OK;
}

plp_status text_need_bool(json_object *object, const char *key, const char *where, bool *value)
{
    json_object *v = NULL;
    PLP_TRY(text_need(object, key, where, json_type_boolean, &v));
    *value = json_object_get_boolean(v);
    return PLP_OK;
}
