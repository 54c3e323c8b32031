#include "model/checkpoint_map.h"

#include "base/error.h"
#include "base/log.h"
#include "model/name_list.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_STACK = 5, COMPARED = 1 << 18 };

/* A tensor of the checkpoint and the bands that are stacked in it, from the first row down. */
typedef struct {
    const char *name; /* below its layer; at the top, below the prefix */
    const char *formula;
    int rank;
    model_band band[MOST_STACK];
    int bands;
} stack;

static const stack top[] = { { "backbone.norm_f.weight", "hidden", 1, { MODEL_FINAL_NORM }, 1 } };

static const stack mamba2[] = {
    { "norm.weight", "hidden", 1, { MODEL_NORM }, 1 },
    { "mixer.in_proj.weight",
      "2 inner + 2 groups state + heads, hidden",
      2,
      { MODEL_IN_Z, MODEL_IN_X, MODEL_IN_B, MODEL_IN_C, MODEL_IN_DT },
      5 },
    { "mixer.in_proj.bias",
      "2 inner + 2 groups state + heads",
      1,
      { MODEL_IN_Z_BIAS, MODEL_IN_X_BIAS, MODEL_IN_B_BIAS, MODEL_IN_C_BIAS, MODEL_IN_DT_BIAS },
      5 },
    { "mixer.conv1d.weight", "inner + 2 groups state, 1, conv", 3, { MODEL_CONV_X, MODEL_CONV_B, MODEL_CONV_C }, 3 },
    { "mixer.conv1d.bias", "inner + 2 groups state", 1, { MODEL_CONV_X_BIAS, MODEL_CONV_B_BIAS, MODEL_CONV_C_BIAS }, 3 },
    { "mixer.dt_bias", "heads", 1, { MODEL_DT_BIAS }, 1 },
    { "mixer.A_log", "heads", 1, { MODEL_A_LOG }, 1 },
    { "mixer.D", "heads", 1, { MODEL_D }, 1 },
    { "mixer.norm.weight", "inner", 1, { MODEL_GATE_NORM }, 1 },
    { "mixer.out_proj.weight", "hidden, inner", 2, { MODEL_OUT_PROJ }, 1 },
    { "mixer.out_proj.bias", "hidden", 1, { MODEL_OUT_BIAS }, 1 },
};

static const stack mamba1[] = {
    { "norm.weight", "hidden", 1, { MODEL_NORM }, 1 },
    { "mixer.in_proj.weight", "2 inner, hidden", 2, { MODEL_IN_X, MODEL_IN_Z }, 2 }, /* x first: Mamba-2 has z first */
    { "mixer.in_proj.bias", "2 inner", 1, { MODEL_IN_X_BIAS, MODEL_IN_Z_BIAS }, 2 },
    { "mixer.conv1d.weight", "inner, 1, conv", 3, { MODEL_CONV_X }, 1 },
    { "mixer.conv1d.bias", "inner", 1, { MODEL_CONV_X_BIAS }, 1 },
    { "mixer.x_proj.weight", "dt_rank + 2 state, inner", 2, { MODEL_X_PROJ }, 1 },
    { "mixer.dt_proj.weight", "inner, dt_rank", 2, { MODEL_DT_PROJ }, 1 },
    { "mixer.dt_proj.bias", "inner", 1, { MODEL_DT_BIAS }, 1 },
    { "mixer.A_log", "inner, state", 2, { MODEL_A_LOG }, 1 },
    { "mixer.D", "inner", 1, { MODEL_D }, 1 },
    { "mixer.out_proj.weight", "hidden, inner", 2, { MODEL_OUT_PROJ }, 1 },
    { "mixer.out_proj.bias", "hidden", 1, { MODEL_OUT_BIAS }, 1 },
    { "mixer.dt_layernorm.weight", "dt_rank", 1, { MODEL_DT_NORM }, 1 }, /* Jamba's names */
    { "mixer.b_layernorm.weight", "state", 1, { MODEL_B_NORM }, 1 },
    { "mixer.c_layernorm.weight", "state", 1, { MODEL_C_NORM }, 1 },
};

#define COUNT(table) ((int)(sizeof(table) / sizeof *(table)))

/* The stacks of a layer, or of the top (layer -1). */
static const stack *stacks_of(const model_config *c, bool per_layer, int *count)
{
    *count = !per_layer ? COUNT(top) : c->kind == MODEL_MAMBA2 ? COUNT(mamba2) : COUNT(mamba1);
    return !per_layer ? top : c->kind == MODEL_MAMBA2 ? mamba2 : mamba1;
}

static void name_of(const model_checkpoint_map *m, const stack *s, bool per_layer, int64_t layer, char name[IO_NAME])
{
    if (per_layer)
        snprintf(name, IO_NAME, "%sbackbone.layers.%lld.%s", m->prefix, (long long)layer, s->name);
    else
        snprintf(name, IO_NAME, "%s%s", m->prefix, s->name);
}

/* Shape of the whole stack; rows 0: this model has no such tensor. */
static void shape_of(const model_config *c, const stack *s, int64_t *rows, int64_t *columns)
{
    int64_t r = 0;
    *rows = 0;
    for (int i = s->bands - 1; i >= 0; i--) {
        model_band_shape(c, s->band[i], &r, columns);
        *rows += r;
    }
}

/* ---------------------------------------------------------------------------------------------------------------------- open */
static const io_tensor *find(const model_checkpoint_map *m, const char *name)
{
    char full[IO_NAME];
    snprintf(full, sizeof full, "%s%s", m->prefix, name);
    return io_checkpoint_find(m->checkpoint, full);
}

static plp_status missing(const model_checkpoint_map *m, const char *name)
{
    return PLP_FAIL(PLP_ERR_DATA, "%s: tensor %s%s is missing; fix: fetch the checkpoint again", io_checkpoint_dir(m->checkpoint),
                    m->prefix, name);
}

static plp_status same_values(const model_checkpoint_map *m, const io_tensor *a, const io_tensor *b, bool *same)
{
    plp_status st = PLP_OK;
    char *x = NULL, *y = NULL;
    *same = a->dtype == b->dtype && a->rank == b->rank && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
    const int64_t n = io_tensor_count(a), size = (int64_t)plp_dtype_size(a->dtype);
    PLP_DO(PLP_ALLOCATED(x = malloc((size_t)(COMPARED * size))));
    PLP_DO(PLP_ALLOCATED(y = malloc((size_t)(COMPARED * size))));
    for (int64_t i = 0; i < n && *same; i += COMPARED) {
        const int64_t count = n - i < COMPARED ? n - i : COMPARED;
        PLP_DO(io_checkpoint_read(m->checkpoint, a, i, count, x));
        PLP_DO(io_checkpoint_read(m->checkpoint, b, i, count, y));
        *same = memcmp(x, y, (size_t)(count * size)) == 0;
    }
done:
    free(x);
    free(y);
    return st;
}

/* Names of what stands at the top.  Head and backbone need not have the prefix alike, so each is looked for with it and without. */
enum { SPELLINGS = 4 };
static const char *const embedding_names[SPELLINGS] = { "backbone.embeddings.weight", "backbone.embedding.weight",
                                                        "model.backbone.embeddings.weight", "model.backbone.embedding.weight" };
static const char *const head_names[SPELLINGS] = { "lm_head.weight", "model.lm_head.weight" };

/* The tensor of one of these names; NULL: none.  Of several, equal ones are one. */
static plp_status take(const model_checkpoint_map *m, const char *const names[SPELLINGS], const io_tensor **taken)
{
    const char *first = NULL;
    *taken = NULL;
    for (int i = 0; i < SPELLINGS && names[i] != NULL; i++) {
        const io_tensor *t = io_checkpoint_find(m->checkpoint, names[i]);
        bool same = true;
        if (t == NULL) continue;
        if (first == NULL) first = names[i], *taken = t;
        if (t != *taken) PLP_TRY(same_values(m, *taken, t, &same));
        if (!same)
            return PLP_FAIL(PLP_ERR_DATA,
                            "%s: tensors %s and %s stand for the same, and differ; fix: keep the one that belongs to the model",
                            io_checkpoint_dir(m->checkpoint), first, names[i]);
    }
    return PLP_OK;
}

static bool named(const char *const names[SPELLINGS], const io_tensor *t)
{
    for (int i = 0; i < SPELLINGS && names[i] != NULL; i++)
        if (strcmp(names[i], t->name) == 0) return true;
    return false;
}

/* A tied head is stored once, twice, or under the head's name alone; what the tensors say wins over the config.  But a head that the config
 * promises and that is nowhere is a part that got lost: with the embedding in its place the model would be another one. */
static plp_status find_head(model_checkpoint_map *m, model_config *c)
{
    const char *dir = io_checkpoint_dir(m->checkpoint);
    bool same = false;
    PLP_TRY(take(m, embedding_names, &m->embedding));
    PLP_TRY(take(m, head_names, &m->head));
    if (m->embedding == NULL && c->tied) m->embedding = m->head;
    if (m->embedding == NULL) return missing(m, "backbone.embeddings.weight");
    if (m->head == NULL && c->untied_by_key)
        return PLP_FAIL(PLP_ERR_DATA,
                        "%s: tensor %slm_head.weight is missing, and the config says that the embedding is not the head; fix: fetch the "
                        "checkpoint again; if it is after all, make tie_word_embeddings (tie_embeddings) true",
                        dir, m->prefix);
    if (m->head == NULL && !c->tied)
        plp_warn_alike("%s: no lm_head.weight, and the config does not say whether the embedding is the head; it serves as one", dir);
    if (m->head != NULL && m->head != m->embedding && c->tied) {
        PLP_TRY(same_values(m, m->embedding, m->head, &same));
        if (same)
            m->head = NULL;
        else
            plp_warn_alike("%s: the config ties head and embedding, but %s differs; it is used as it is", dir, m->head->name);
    }
    if (m->head == m->embedding) m->head = NULL;
    c->tied = m->head == NULL;
    return PLP_OK;
}

static plp_status settle_vocab(const model_checkpoint_map *m, model_config *c)
{
    const io_tensor *t = m->embedding;
    if (t->rank != 2)
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: tensor %s has %d dimensions, not 2; fix: fetch the checkpoint again",
                        io_checkpoint_dir(m->checkpoint), t->name, t->rank);
    if (c->vocab_used > t->shape[0])
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: tensor %s has %lld rows, vocab_size is %lld; fix: fetch config and weights of one model",
                        io_checkpoint_dir(m->checkpoint), t->name, (long long)t->shape[0], (long long)c->vocab_used);
    c->vocab = t->shape[0];
    return PLP_OK;
}

/* The config's, which is not checked yet: no more than there can be. */
static int64_t layers_of(const model_checkpoint_map *m, const model_config *c)
{
    const int64_t tensors = io_checkpoint_tensors(m->checkpoint);
    return c->layers < tensors ? c->layers : tensors;
}

/* Whether any layer has a weight of a norm of dt, B or C.  No key tells: one that is there and not used would make another model of it. */
static bool has_mixer_norms(const model_checkpoint_map *m, const model_config *c)
{
    int count = 0;
    const stack *s = stacks_of(c, true, &count);
    for (int64_t layer = 0; layer < layers_of(m, c); layer++)
        for (int i = 0; i < count; i++) {
            char name[IO_NAME];
            if (s[i].band[0] < MODEL_DT_NORM || s[i].band[0] > MODEL_C_NORM) continue;
            name_of(m, &s[i], true, layer, name);
            if (io_checkpoint_find(m->checkpoint, name) != NULL) return true;
        }
    return false;
}

/* The common type of the matrices that the model uses; float32, which holds both, where they differ. */
static plp_status settle_dtype(const model_checkpoint_map *m, model_config *c)
{
    int count = 0;
    const stack *s = stacks_of(c, true, &count);
    c->dtype = m->embedding->dtype;
    bool mixed = m->head != NULL && m->head->dtype != c->dtype;
    for (int64_t layer = 0; layer < layers_of(m, c); layer++)
        for (int i = 0; i < count; i++) {
            char name[IO_NAME];
            if (!model_band_of(s[i].band[0])->matrix) continue;
            name_of(m, &s[i], true, layer, name);
            const io_tensor *t = io_checkpoint_find(m->checkpoint, name);
            mixed |= t != NULL && t->dtype != c->dtype;
        }
    if (mixed) {
        plp_warn_alike("%s: matrices of more than one dtype; all are taken as F32", io_checkpoint_dir(m->checkpoint));
        c->dtype = PLP_F32;
    }
    return PLP_OK;
}

/* The tensors have the last word; a config that says otherwise may be that of another model. */
static void settle_bias(const model_checkpoint_map *m, const char *what, bool there, bool *has)
{
    if (there && !*has)
        plp_warn_alike("%s: by its config the model has no biases of %s, but the tensors are there; they are used",
                       io_checkpoint_dir(m->checkpoint), what);
    if (!there && *has)
        plp_warn_alike("%s: by its config the model has biases of %s, but there are no such tensors; it runs without",
                       io_checkpoint_dir(m->checkpoint), what);
    *has = there;
}

plp_status model_checkpoint_map_open(model_checkpoint_map *m, const io_checkpoint *checkpoint, model_config *c)
{
    *m = (model_checkpoint_map){ .checkpoint = checkpoint, .prefix = "model." };
    if (find(m, "backbone.norm_f.weight") == NULL) m->prefix = "";
    if (find(m, "backbone.norm_f.weight") == NULL) return missing(m, "backbone.norm_f.weight");
    PLP_TRY(find_head(m, c));
    PLP_TRY(settle_vocab(m, c));
    settle_bias(m, "in_proj and out_proj",
                find(m, "backbone.layers.0.mixer.in_proj.bias") || find(m, "backbone.layers.0.mixer.out_proj.bias"), &c->proj_bias);
    settle_bias(m, "conv1d", find(m, "backbone.layers.0.mixer.conv1d.bias") != NULL, &c->conv_bias);
    c->mixer_norm_weights = has_mixer_norms(m, c);
    return settle_dtype(m, c);
}

/* --------------------------------------------------------------------------------------------------------------------- check */
static plp_status wrong_shape(const model_checkpoint_map *m, const io_tensor *t, const char *formula, int rank, const int64_t *want)
{
    char got[96] = "", wanted[96] = "";
    for (int i = 0; i < t->rank; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    for (int i = 0; i < rank; i++)
        snprintf(wanted + strlen(wanted), sizeof wanted - strlen(wanted), "%s%lld", i ? ", " : "", (long long)want[i]);
    return PLP_FAIL(PLP_ERR_SHAPE, "%s: tensor %s is [%s], the config makes it [%s] = [%s]; fix: fetch config and weights of one model",
                    io_checkpoint_dir(m->checkpoint), t->name, got, formula, wanted);
}

static plp_status check_shape(const model_checkpoint_map *m, const io_tensor *t, const char *formula, int rank, int64_t rows,
                              int64_t columns)
{
    int64_t want[3] = { rows, rank == 3 ? 1 : columns, columns };
    return t->rank == rank && memcmp(t->shape, want, (size_t)rank * sizeof *want) == 0 ? PLP_OK : wrong_shape(m, t, formula, rank, want);
}

static plp_status check_stacks(const model_checkpoint_map *m, const model_config *c, bool per_layer, int64_t layer, model_name_list *lost)
{
    int count = 0;
    const stack *s = stacks_of(c, per_layer, &count);
    for (int i = 0; i < count; i++) {
        int64_t rows = 0, columns = 0;
        char name[IO_NAME];
        shape_of(c, &s[i], &rows, &columns);
        if (rows == 0) continue;
        name_of(m, &s[i], per_layer, layer, name);
        const io_tensor *t = io_checkpoint_find(m->checkpoint, name);
        if (t == NULL)
            model_name_list_add(lost, name);
        else
            PLP_TRY(check_shape(m, t, s[i].formula, s[i].rank, rows, columns));
    }
    return PLP_OK;
}

static bool known(const model_checkpoint_map *m, const model_config *c, const io_tensor *t)
{
    static const char layers[] = "backbone.layers.";
    const size_t skip = strlen(m->prefix);
    if (t == m->embedding || t == m->head || named(embedding_names, t) || named(head_names, t)) return true; /* equal ones, see take */
    if (strstr(t->name, ".rotary_emb.inv_freq") || strncmp(t->name, "mtp.", 4) == 0) return true; /* left-overs of other families */
    if (strncmp(t->name, m->prefix, skip) != 0) return false;
    const bool per_layer = strncmp(t->name + skip, layers, sizeof layers - 1) == 0;
    const int64_t layer = per_layer ? strtol(t->name + skip + sizeof layers - 1, NULL, 10) : 0;
    int count = 0;
    const stack *s = stacks_of(c, per_layer, &count);
    for (int i = 0; i < count; i++) {
        int64_t rows = 0, columns = 0;
        char name[IO_NAME];
        shape_of(c, &s[i], &rows, &columns);
        name_of(m, &s[i], per_layer, layer, name);
        if (rows > 0 && layer < c->layers && strcmp(name, t->name) == 0) return true;
    }
    return false;
}

plp_status model_checkpoint_map_check(const model_checkpoint_map *m, const model_config *c)
{
    model_name_list lost = { 0 }, unknown = { 0 };
    PLP_TRY(check_shape(m, m->embedding, "vocab, hidden", 2, c->vocab, c->hidden));
    if (m->head != NULL) PLP_TRY(check_shape(m, m->head, "vocab, hidden", 2, c->vocab, c->hidden));
    PLP_TRY(check_stacks(m, c, false, 0, &lost));
    for (int64_t i = 0; i < c->layers; i++) PLP_TRY(check_stacks(m, c, true, i, &lost));
    if (lost.count > 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %lld tensors are missing: %s%s; fix: fetch the checkpoint again",
                        io_checkpoint_dir(m->checkpoint), (long long)lost.count, model_name_list_text(&lost),
                        c->mixer_norm_weights ? " (norms of dt, B and C: all three in every layer, or none in any)" : "");
    for (int64_t i = 0; i < io_checkpoint_tensors(m->checkpoint); i++)
        if (!known(m, c, io_checkpoint_tensor(m->checkpoint, i)))
            model_name_list_add(&unknown, io_checkpoint_tensor(m->checkpoint, i)->name);
    if (unknown.count > 0)
        plp_warn_alike("%s: %lld unknown tensors are not used: %s", io_checkpoint_dir(m->checkpoint), (long long)unknown.count,
                       model_name_list_text(&unknown));
    return PLP_OK;
}

plp_status model_checkpoint_map_find(const model_checkpoint_map *m, const model_config *c, model_band band, int64_t layer,
                                     const io_tensor **t, int64_t *first_row)
{
    const bool per_layer = model_band_of(band)->per_layer;
    int count = 0;
    *first_row = 0;
    *t = band == MODEL_EMBED ? m->embedding : band == MODEL_HEAD ? m->head : NULL;
    if (*t != NULL) return PLP_OK;
    const stack *s = stacks_of(c, per_layer, &count);
    for (int i = 0; i < count; i++) {
        int64_t row = 0, rows = 0, columns = 0;
        char name[IO_NAME];
        for (int b = 0; b < s[i].bands; b++, row += rows) {
            model_band_shape(c, s[i].band[b], &rows, &columns);
            if (s[i].band[b] != band) continue;
            name_of(m, &s[i], per_layer, layer, name);
            *t = io_checkpoint_find(m->checkpoint, name);
            *first_row = row;
            return *t != NULL ? PLP_OK
                              : PLP_FAIL(PLP_ERR_DATA, "%s: tensor %s is missing; fix: fetch the checkpoint again",
                                         io_checkpoint_dir(m->checkpoint), name);
        }
    }
    return PLP_FAIL(PLP_ERR_INTERNAL, "band %s has no tensor", model_band_of(band)->name);
}
