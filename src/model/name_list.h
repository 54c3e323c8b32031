/* src/model/name_list.h -- the first few of many names, for one message: "a, b, c, d, e and 12 more". */
#ifndef MODEL_NAME_LIST_H
#define MODEL_NAME_LIST_H

#include <stdint.h>

typedef struct {
    int64_t count;
    char text[360];
} model_name_list;

void model_name_list_add(model_name_list *list, const char *name);
/* Once all are in. */
const char *model_name_list_text(model_name_list *list);

#endif
