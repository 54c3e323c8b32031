#include "golden.h"

#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Payload of a tensor, as a copy; its shape in dims. */
static void *tensor(json_object *header, const char *data, const char *name, int dims[3])
{
    json_object *t = NULL, *shape = NULL, *offsets = NULL;
    if (!json_object_object_get_ex(header, name, &t)) return NULL;
    json_object_object_get_ex(t, "shape", &shape);
    json_object_object_get_ex(t, "data_offsets", &offsets);
    for (int i = 0; i < 3; i++)
        dims[i] = i < (int)json_object_array_length(shape) ? json_object_get_int(json_object_array_get_idx(shape, i)) : 1;
    const int64_t begin = json_object_get_int64(json_object_array_get_idx(offsets, 0));
    const int64_t end = json_object_get_int64(json_object_array_get_idx(offsets, 1));
    void *copy = malloc((size_t)(end - begin));
    if (copy) memcpy(copy, data + begin, (size_t)(end - begin));
    return copy;
}

bool golden_read(golden *g, const char *path)
{
    FILE *f = fopen(path, "rb");
    uint64_t length = 0;
    char *header = NULL, *data = NULL;
    json_object *root = NULL;
    memset(g, 0, sizeof *g);
    if (f && fread(&length, sizeof length, 1, f) == 1 && length < 1 << 20 && (header = calloc(1, length + 1)) &&
        fread(header, 1, length, f) == length && (data = malloc(64 << 20)) && fread(data, 1, 64 << 20, f) > 0 &&
        (root = json_tokener_parse(header))) {
        int ids[3], logits[3], greedy[3];
        g->ids = tensor(root, data, "input_ids", ids);
        g->logits = tensor(root, data, "logits", logits);
        g->greedy = tensor(root, data, "greedy", greedy);
        g->batch = ids[0], g->tokens = ids[1], g->vocab = logits[2], g->steps = greedy[1];
    }
    json_object_put(root);
    free(header);
    free(data);
    if (f) fclose(f);
    return g->ids && g->logits && g->greedy;
}

void golden_free(golden *g)
{
    free(g->ids);
    free(g->logits);
    free(g->greedy);
}
