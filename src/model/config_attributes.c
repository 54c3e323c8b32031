#include "model/config_attributes.h"

#include "base/error.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *name;
    size_t offset;
} field;

#define FIELD(name) #name, offsetof(model_config, name)
static const field ints[] = {
    { FIELD(hidden) }, { FIELD(layers) },     { FIELD(inner) },       { FIELD(heads) },   { FIELD(head_dim) },
    { FIELD(groups) }, { FIELD(state) },      { FIELD(conv) },        { FIELD(dt_rank) }, { FIELD(chunk) },
    { FIELD(vocab) },  { FIELD(vocab_used) }, { FIELD(norm_groups) }, { FIELD(bos) },     { FIELD(pad) },
};
static const field doubles[] = { { FIELD(norm_eps) }, { FIELD(dt_min) }, { FIELD(dt_max) }, { FIELD(mixer_norm_eps) } };
static const field bools[] = { { FIELD(tied) }, { FIELD(proj_bias) }, { FIELD(conv_bias) } };
/* In the file where true: one without them is as it was before there were any, and so is its digest. */
static const field extras[] = { { FIELD(mixer_norm_weights) } };
static const char *const kinds[] = { [MODEL_MAMBA2] = "mamba2", [MODEL_MAMBA1] = "mamba1" };

#define COUNT(table)   (sizeof(table) / sizeof *(table))
#define IN(c, f, type) ((type *)(void *)((char *)(c) + (f)->offset))

plp_status model_config_write(io_model_writer *w, const model_config *config)
{
    model_config copy = *config, *c = &copy;
    PLP_TRY(io_model_put_string(w, "family", c->family));
    PLP_TRY(io_model_put_string(w, "kind", kinds[c->kind]));
    PLP_TRY(io_model_put_string(w, "dtype", plp_dtype_name(c->dtype)));
    for (const field *f = ints; f < ints + COUNT(ints); f++) PLP_TRY(io_model_put_int(w, f->name, *IN(c, f, int64_t)));
    for (const field *f = doubles; f < doubles + COUNT(doubles); f++) PLP_TRY(io_model_put_double(w, f->name, *IN(c, f, double)));
    for (const field *f = bools; f < bools + COUNT(bools); f++) PLP_TRY(io_model_put_int(w, f->name, *IN(c, f, bool)));
    for (const field *f = extras; f < extras + COUNT(extras); f++)
        if (*IN(c, f, bool)) PLP_TRY(io_model_put_int(w, f->name, 1));
    if (c->stops > 0) PLP_TRY(io_model_put_ints(w, "stop", c->stop, c->stops)); /* HDF5 tools stumble over empty attributes */
    return PLP_OK;
}

static plp_status missing(const char *name)
{
    return PLP_FAIL(PLP_ERR_DATA, "model file: attribute %s is missing; fix: convert the checkpoint again", name);
}

static plp_status read_word(const io_model_file *f, const char *name, const char **word)
{
    const char *model = NULL;
    *word = NULL;
    PLP_TRY(io_model_get_string(f, name, word));
    if (*word == NULL) PLP_TRY(io_model_get_string(f, "state_of", &model));
    if (model != NULL) return PLP_FAIL(PLP_ERR_DATA, "a state file, not a model; fix: --load-state takes it, --model the model it is of");
    return *word != NULL ? PLP_OK : missing(name);
}

static plp_status read_int(const io_model_file *f, const char *name, int64_t *value)
{
    *value = INT64_MIN; /* no field holds it */
    PLP_TRY(io_model_get_int(f, name, value));
    return *value != INT64_MIN ? PLP_OK : missing(name);
}

static plp_status read_bool(const io_model_file *file, model_config *c, const field *f, bool extra)
{
    int64_t number = 0;
    PLP_TRY(extra ? io_model_get_int(file, f->name, &number) : read_int(file, f->name, &number));
    if (number != 0 && number != 1)
        return PLP_FAIL(PLP_ERR_DATA, "model file: attribute %s is %lld, not 0 or 1; fix: convert the checkpoint again", f->name,
                        (long long)number);
    *IN(c, f, bool) = number != 0;
    return PLP_OK;
}

plp_status model_config_read(const io_model_file *file, model_config *c)
{
    const char *word = NULL;
    memset(c, 0, sizeof *c);
    PLP_TRY(read_word(file, "family", &word));
    snprintf(c->family, sizeof c->family, "%s", word);
    PLP_TRY(read_word(file, "kind", &word));
    c->kind = strcmp(word, kinds[MODEL_MAMBA1]) == 0 ? MODEL_MAMBA1 : MODEL_MAMBA2;
    if (strcmp(word, kinds[c->kind]) != 0)
        return PLP_FAIL(PLP_ERR_DATA, "model file: kind \"%.40s\"; known are mamba1, mamba2; fix: use a newer polylepis", word);
    PLP_TRY(read_word(file, "dtype", &word));
    if (plp_dtype_parse(word, &c->dtype) != PLP_OK)
        return PLP_FAIL(PLP_ERR_DATA, "model file: dtype \"%.40s\" is unknown; fix: convert the checkpoint again", word);
    for (const field *f = ints; f < ints + COUNT(ints); f++) PLP_TRY(read_int(file, f->name, IN(c, f, int64_t)));
    for (const field *f = doubles; f < doubles + COUNT(doubles); f++) {
        double *value = IN(c, f, double);
        *value = NAN;
        PLP_TRY(io_model_get_double(file, f->name, value));
        if (isnan(*value)) return missing(f->name);
    }
    for (const field *f = bools; f < bools + COUNT(bools); f++) PLP_TRY(read_bool(file, c, f, false));
    for (const field *f = extras; f < extras + COUNT(extras); f++) PLP_TRY(read_bool(file, c, f, true));
    PLP_TRY(io_model_get_ints(file, "stop", c->stop, MODEL_STOPS, &c->stops));
    const plp_status st = model_config_check(c);
    return st == PLP_OK ? st : PLP_FAIL(st, "%s; fix: convert the checkpoint again", plp_last_error());
}
