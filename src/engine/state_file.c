#include "engine/state_file.h"

#include "base/error.h"
#include "io/model_file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In a layer a slot holds conv (rows, x B C) and then ssm (channels, state): parts of `rows` rows each, which lie `ld` apart and of which
 * a rank has the `columns` that begin at `at`. */
enum { CONV_X, CONV_B, CONV_C, SSM, PARTS };
static const char *const names[PARTS] = { "/conv_x", "/conv_B", "/conv_C", "/ssm" };

typedef struct {
    int64_t rows, ld, at;
    tp_slice columns; /* among all the ranks' */
    int64_t all;      /* columns of all ranks */
} part;

static part part_of(const model_config *c, const model_plan *p, int which)
{
    const int64_t n = c->state, rows = c->conv - 1, ld = p->conv_channels, inner = p->channels.count;
    const bool two = c->kind == MODEL_MAMBA2;
    const tp_slice groups = { p->groups.first * n, two ? p->groups.count * n : 0 };
    const int64_t all_groups = two ? c->groups * n : 0;
    switch (which) {
    case CONV_X: return (part){ rows, ld, 0, p->channels, c->inner };
    case CONV_B: return (part){ rows, ld, inner, groups, all_groups };
    case CONV_C: return (part){ rows, ld, inner + groups.count, groups, all_groups };
    default: return (part){ 1, 0, rows * ld, { p->channels.first * n, inner * n }, c->inner * n };
    }
}

static int64_t layer_floats(const model_config *c, const model_plan *p)
{
    return (c->conv - 1) * p->conv_channels + p->channels.count * c->state;
}

/* ------------------------------------------------------------------------------------------------------------------------- write */
typedef struct {
    model *m;
    float *mine;        /* the slot                                          */
    float *row;         /* of a part: every rank's columns, one behind another */
    float *all;         /* the same, as it is in the file                    */
    size_t *each, *to;  /* (ranks) bytes of row                              */
    io_model_writer *w; /* rank 0 */
} work;

static plp_status make_work(work *k)
{
    const model_config *c = model_config_of(k->m);
    const size_t ranks = (size_t)tp_size(model_group(k->m)), widest = (size_t)(c->inner + c->groups) * (size_t)c->state;
    PLP_TRY(PLP_ALLOCATED(k->mine = malloc((size_t)model_slot_floats(k->m) * sizeof *k->mine)));
    PLP_TRY(PLP_ALLOCATED(k->row = malloc(ranks * widest * sizeof *k->row))); /* ranks may share groups */
    PLP_TRY(PLP_ALLOCATED(k->all = malloc(widest * sizeof *k->all)));
    PLP_TRY(PLP_ALLOCATED(k->each = malloc(2 * ranks * sizeof *k->each)));
    k->to = k->each + ranks;
    return PLP_OK;
}

static void free_work(work *k)
{
    io_model_discard(&k->w);
    free(k->mine);
    free(k->row);
    free(k->all);
    free(k->each);
}

/* Collective.  One row of a part, from all ranks, into k->all. */
static plp_status bring_together(work *k, int which, const float *mine)
{
    const model_config *c = model_config_of(k->m);
    tp_group *g = model_group(k->m);
    const int ranks = tp_size(g);
    model_plan p;
    size_t used = 0;
    for (int r = 0; r < ranks; r++) {
        PLP_TRY(model_plan_make(&p, c, r, ranks));
        k->to[r] = used, k->each[r] = (size_t)part_of(c, &p, which).columns.count * sizeof *mine;
        used += k->each[r];
    }
    PLP_TRY(tp_gather_all_v(g, mine, k->each[tp_rank(g)], k->row, k->each, k->to));
    for (int r = 0; r < ranks; r++) {
        PLP_TRY(model_plan_make(&p, c, r, ranks));
        memcpy(k->all + part_of(c, &p, which).columns.first, (const char *)k->row + k->to[r], k->each[r]);
    }
    return PLP_OK;
}

/* Collective.  Rank 0 takes part in what all do also when it cannot write. */
static plp_status write_part(work *k, int which)
{
    const model_config *c = model_config_of(k->m);
    const model_plan *p = model_plan_of(k->m);
    const part a = part_of(c, p, which);
    const int64_t conv[] = { c->layers, a.rows, a.all }, ssm[] = { c->layers, c->inner, c->state };
    plp_status written = PLP_OK;
    if (a.all == 0) return PLP_OK;
    if (k->w) written = io_model_begin(k->w, names[which], PLP_F32, 3, which == SSM ? ssm : conv, NULL, NULL);
    for (int64_t layer = 0; layer < c->layers; layer++)
        for (int64_t row = 0; row < a.rows; row++) {
            PLP_TRY(bring_together(k, which, k->mine + layer * layer_floats(c, p) + a.at + row * a.ld));
            if (k->w && written == PLP_OK) written = io_model_append(k->w, k->all, a.all);
        }
    return k->w && written == PLP_OK ? io_model_end(k->w) : written;
}

static plp_status begin_file(work *k, const char *digest, const int *tokens, int64_t count, int64_t past, int64_t prompt, const char *path)
{
    const model_options *o = model_options_of(k->m);
    PLP_TRY(io_model_create(&k->w, path, true));
    PLP_TRY(io_model_put_string(k->w, "state_of", digest));
    PLP_TRY(io_model_put_int(k->w, "past", past));
    PLP_TRY(io_model_put_int(k->w, "prompt", prompt));
    PLP_TRY(io_model_put_string(k->w, "ssm_dtype", plp_dtype_name(o->ssm_dtype)));
    PLP_TRY(io_model_put_string(k->w, "conv_dtype", plp_dtype_name(model_conv_dtype(k->m))));
    return io_model_put_blob(k->w, "/tokens", tokens, (size_t)count * sizeof *tokens);
}

plp_status state_file_write(model *m, const char *digest, int slot, const int *tokens, int64_t count, int64_t past, int64_t prompt,
                            const char *path)
{
    plp_status st = PLP_OK;
    work k = { .m = m };
    tp_group *g = model_group(m);
    const bool writes = tp_rank(g) == 0;
    PLP_DO(tp_agree(g, make_work(&k)));
    PLP_DO(tp_agree(g, model_slot_read(m, slot, k.mine)));
    PLP_DO(tp_agree(g, writes ? begin_file(&k, digest, tokens, count, past, prompt, path) : PLP_OK));
    for (int which = 0; which < PARTS; which++) PLP_DO(tp_agree(g, write_part(&k, which)));
    PLP_DO(tp_agree(g, writes ? io_model_finish(&k.w) : PLP_OK));
done:
    free_work(&k);
    return st;
}

/* -------------------------------------------------------------------------------------------------------------------------- read */
static plp_status check(const io_model_file *h, const char *digest, const char *path, int64_t *past)
{
    const char *of = NULL;
    *past = -1;
    PLP_TRY(io_model_get_string(h, "state_of", &of));
    PLP_TRY(io_model_get_int(h, "past", past));
    if (of == NULL || *past < 1) return PLP_FAIL(PLP_ERR_DATA, "%s holds no state; fix: give a file that --save-state wrote", path);
    if (strcmp(of, digest) == 0) return PLP_OK;
    return PLP_FAIL(PLP_ERR_DATA, "%s is a state of model %.12s..., this is model %.12s...; fix: use the model that it was saved with",
                    path, of, digest);
}

plp_status state_file_may_replace(const char *path, bool trust)
{
    io_model_file *h = NULL;
    const char *of = NULL;
    if (access(path, F_OK) != 0) return PLP_OK;
    plp_status st = trust ? io_model_open_trusted(&h, path) : io_model_open(&h, path);
    if (st == PLP_OK) st = io_model_get_string(h, "state_of", &of);
    io_model_close(&h);
    if (st != PLP_ERR_DATA && (st != PLP_OK || of != NULL)) return st;
    return PLP_FAIL(PLP_ERR_CREATE, "%s is there and is no state file; fix: delete it, or choose another name", path);
}

static plp_status read_tokens(state_file *f, const io_model_file *h, const char *path)
{
    const void *data;
    size_t bytes = 0;
    PLP_TRY(io_model_get_blob(h, "/tokens", &data, &bytes));
    f->count = (int64_t)(bytes / sizeof *f->tokens);
    if (data == NULL || f->count <= f->past)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %lld tokens, %lld of them in the state; fix: save it again", path, (long long)f->count,
                        (long long)f->past);
    PLP_TRY(PLP_ALLOCATED(f->tokens = malloc(bytes)));
    memcpy(f->tokens, data, bytes);
    return PLP_OK;
}

static plp_status read_prompt(state_file *f, const io_model_file *h, const char *path)
{
    f->prompt = f->past;
    PLP_TRY(io_model_get_int(h, "prompt", &f->prompt));
    if (f->prompt >= 1 && f->prompt <= f->count) return PLP_OK;
    return PLP_FAIL(PLP_ERR_DATA, "%s: %lld tokens, %lld of them given; fix: save it again", path, (long long)f->count,
                    (long long)f->prompt);
}

static plp_status read_part(state_file *f, model *m, const io_model_file *h, int which, const char *path)
{
    const model_config *c = model_config_of(m);
    const model_plan *p = model_plan_of(m);
    const part a = part_of(c, p, which);
    if (a.all == 0) return PLP_OK;
    const io_tensor *t = io_model_find(h, names[which]);
    if (t == NULL || t->dtype != PLP_F32 || io_tensor_count(t) != c->layers * a.rows * a.all)
        return PLP_FAIL(PLP_ERR_SHAPE, "%s: %s is not there, or not of %lld numbers; fix: save it again", path, names[which],
                        (long long)(c->layers * a.rows * a.all));
    for (int64_t layer = 0; layer < c->layers; layer++)
        for (int64_t row = 0; row < a.rows; row++)
            PLP_TRY(io_model_read(h, t, (layer * a.rows + row) * a.all + a.columns.first, a.columns.count,
                                  f->state + layer * layer_floats(c, p) + a.at + row * a.ld));
    return PLP_OK;
}

plp_status state_file_read(state_file *f, model *m, const char *digest, const char *path, bool trust)
{
    plp_status st = PLP_OK;
    io_model_file *h = NULL;
    *f = (state_file){ 0 };
    PLP_DO(trust ? io_model_open_trusted(&h, path) : io_model_open(&h, path));
    PLP_DO(check(h, digest, path, &f->past));
    PLP_DO(read_tokens(f, h, path));
    PLP_DO(read_prompt(f, h, path));
    PLP_DO(PLP_ALLOCATED(f->state = malloc((size_t)model_slot_floats(m) * sizeof *f->state)));
    for (int which = 0; which < PARTS; which++) PLP_DO(read_part(f, m, h, which, path));
done:
    io_model_close(&h);
    if (st != PLP_OK) state_file_free(f);
    return st;
}

void state_file_free(state_file *f)
{
    free(f->tokens);
    free(f->state);
    *f = (state_file){ 0 };
}
