#include "model/name_list.h"

#include <stdio.h>
#include <string.h>

enum { SHOWN = 5 };

void model_name_list_add(model_name_list *list, const char *name)
{
    const size_t used = strlen(list->text);
    if (list->count < SHOWN) snprintf(list->text + used, sizeof list->text - used, "%s%.60s", list->count ? ", " : "", name);
    list->count++;
}

const char *model_name_list_text(model_name_list *list)
{
    const size_t used = strlen(list->text);
    if (list->count > SHOWN) snprintf(list->text + used, sizeof list->text - used, " and %lld more", (long long)(list->count - SHOWN));
    return list->text;
}
