#include "text/template.h"

#include "base/error.h"
#include "text/component.h"

#include <stdlib.h>
#include <string.h>

static plp_status read_special(text_ids *parts, json_object *component, const char *name, const char *where)
{
    json_object *tokens = NULL, *token = NULL, *ids = NULL;
    PLP_TRY(text_need(component, "special_tokens", where, json_type_object, &tokens));
    if (!json_object_object_get_ex(tokens, name, &token))
        return PLP_FAIL(PLP_ERR_DATA, "%s: post_processor: %.60s is in the template, but not in special_tokens", where, name);
    PLP_TRY(text_need(token, "ids", where, json_type_array, &ids));
    for (size_t i = 0; i < json_object_array_length(ids); i++) {
        json_object *id = json_object_array_get_idx(ids, i);
        const int64_t value = json_object_is_type(id, json_type_int) ? json_object_get_int64(id) : -1;
        if (value < 0 || value >= TEXT_MOST_IDS)
            return PLP_FAIL(PLP_ERR_DATA, "%s: post_processor: %.60s: ids: %.60s is outside 0 to %d", where, name,
                            json_object_to_json_string(id), TEXT_MOST_IDS - 1);
        PLP_TRY(text_ids_put(parts, (int)value));
    }
    return PLP_OK;
}

static plp_status read_part(text_ids *parts, json_object *component, json_object *part, const char *where)
{
    json_object *inner = NULL;
    const char *id = NULL;
    size_t length = 0;
    if (json_object_is_type(part, json_type_object) && json_object_object_get_ex(part, "SpecialToken", &inner)) {
        PLP_TRY(text_need_string(inner, "id", where, &id, &length));
        return read_special(parts, component, id, where);
    }
    PLP_TRY(text_need(part, "Sequence", where, json_type_object, &inner));
    PLP_TRY(text_need_string(inner, "id", where, &id, &length));
    if (strcmp(id, "A") != 0) return PLP_FAIL(PLP_ERR_DATA, "%s: post_processor: the single template has a sequence %.60s", where, id);
    return text_ids_put(parts, -1);
}

plp_status text_template_read(text_ids *parts, json_object *component, const char *where)
{
    const char *type = NULL;
    json_object *list = NULL;
    if (component == NULL) return PLP_OK;
    PLP_TRY(text_component_type(component, where, "post_processor", &type));
    if (strcmp(type, "ByteLevel") == 0) return PLP_OK;
    if (strcmp(type, "Sequence") == 0) {
        PLP_TRY(text_need(component, "processors", where, json_type_array, &list));
        for (size_t i = 0; i < json_object_array_length(list); i++)
            PLP_TRY(text_template_read(parts, json_object_array_get_idx(list, i), where));
        return PLP_OK;
    }
    if (strcmp(type, "TemplateProcessing") != 0) return text_component_unknown(where, "post_processor", type);
    if (parts->count > 0) return text_component_unknown(where, "post_processor", "a second TemplateProcessing");
    PLP_TRY(text_need(component, "single", where, json_type_array, &list));
    for (size_t i = 0; i < json_object_array_length(list); i++)
        PLP_TRY(read_part(parts, component, json_object_array_get_idx(list, i), where));
    return PLP_OK;
}

plp_status text_template_apply(const text_ids *parts, const text_ids *text, bool add_special, text_ids *out)
{
    static int whole_text = -1;
    const text_ids plain = { .list = &whole_text, .count = 1 };
    if (parts->count == 0) parts = &plain;
    for (size_t i = 0; i < parts->count; i++) {
        if (parts->list[i] >= 0 && add_special) PLP_TRY(text_ids_put(out, parts->list[i]));
        for (size_t k = 0; k < text->count && parts->list[i] < 0; k++) PLP_TRY(text_ids_put(out, text->list[k]));
    }
    return PLP_OK;
}
