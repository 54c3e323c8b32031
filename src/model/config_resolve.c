#include "model/config_resolve.h"

#include "base/error.h"
#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST = INT32_MAX };

/* A size: the key must be there unless *value holds a default above 0. */
static plp_status read_size(json_object *o, const char *key, const char *where, int64_t *value)
{
    PLP_TRY(plp_json_int(o, key, where, 1, MOST, value));
    return *value > 0 ? PLP_OK : PLP_FAIL(PLP_ERR_DATA, "%s: %s is missing; fix: fetch the config again", where, key);
}

static plp_status refuse(const char *where, const char *variant)
{
    return PLP_FAIL(PLP_ERR_DATA, "%s: %s: not supported; fix: use a plain Mamba or Mamba-2 checkpoint", where, variant);
}

/* An option that must have this value where it is given. */
static plp_status require_bool(json_object *o, const char *key, const char *where, bool wanted, const char *variant)
{
    bool value = wanted;
    PLP_TRY(plp_json_bool(o, key, where, &value));
    return value == wanted ? PLP_OK : refuse(where, variant);
}

static plp_status read_expand(json_object *o, const char *where, model_config *c)
{
    double expand = 2;
    PLP_TRY(plp_json_double(o, "expand", where, 0, 1024, &expand));
    c->inner = (int64_t)(expand * (double)c->hidden);
    return PLP_OK;
}

/* [least, most] of dt; "most" is infinite in most files, spelled in four ways. */
static plp_status read_limits(json_object *o, const char *key, const char *where, model_config *c)
{
    json_object *list = plp_json_member(o, key);
    if (list == NULL) return PLP_OK;
    if (!json_object_is_type(list, json_type_array) || json_object_array_length(list) != 2)
        return PLP_FAIL(PLP_ERR_DATA, "%s: %s is not a list of two numbers; fix: give one", where, key);
    PLP_TRY(plp_json_any_number(json_object_array_get_idx(list, 0), key, where, &c->dt_min));
    return plp_json_any_number(json_object_array_get_idx(list, 1), key, where, &c->dt_max);
}

/* What is said is more than what a key that is not there stands for. */
static plp_status read_tied(json_object *o, const char *key, const char *where, model_config *c)
{
    PLP_TRY(plp_json_bool(o, key, where, &c->tied));
    c->untied_by_key = !c->tied && plp_json_member(o, key) != NULL;
    return PLP_OK;
}

/* A number, or "auto" for a sixteenth of the hidden size. */
static plp_status read_dt_rank(json_object *o, const char *key, const char *where, model_config *c)
{
    json_object *value = plp_json_member(o, key);
    c->dt_rank = (c->hidden + 15) / 16;
    if (value != NULL && json_object_is_type(value, json_type_string) && strcmp(json_object_get_string(value), "auto") == 0) return PLP_OK;
    return read_size(o, key, where, &c->dt_rank);
}

/* Once inner and the kind are known. */
static void set_heads(model_config *c, int64_t heads, int64_t head_dim, int64_t groups)
{
    const bool two = c->kind == MODEL_MAMBA2;
    c->head_dim = two ? head_dim : 1;
    c->heads = !two ? c->inner : heads > 0 ? heads : c->inner / head_dim;
    c->groups = two ? groups : 1;
    c->norm_groups = two ? groups : 0;
}

static plp_status read_family(json_object *o, const char *where, model_config *c)
{
    static const char *const hybrids[] = { "bamba", "granitemoehybrid", "nemotron_h", "falcon_h1", "zamba", "zamba2", "jamba" };
    static const struct {
        const char *name;
        model_kind kind;
    } families[] = { { "mamba2", MODEL_MAMBA2 }, { "mamba", MODEL_MAMBA1 }, { "falcon_mamba", MODEL_MAMBA1 } };
    const char *type = NULL;
    PLP_TRY(plp_json_string(o, "model_type", where, &type));
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (type != NULL && strcmp(type, families[i].name) == 0) {
            snprintf(c->family, sizeof c->family, "%s", type);
            c->kind = families[i].kind;
            return PLP_OK;
        }
    for (size_t i = 0; i < sizeof hybrids / sizeof *hybrids; i++)
        if (type != NULL && strcmp(type, hybrids[i]) == 0)
            return PLP_FAIL(PLP_ERR_DATA,
                            "%s: model_type %s is a hybrid with other layers than Mamba's; fix: one of mamba, mamba2, "
                            "falcon_mamba",
                            where, type);
    return PLP_FAIL(PLP_ERR_DATA, "%s: model_type %.40s; fix: one of mamba, mamba2, falcon_mamba", where, type ? type : "null");
}

/* Hugging Face's Mamba-2 takes expand * hidden and never reads intermediate_size, which is then a left-over of whoever wrote the config.  Of
 * both, what the heads make is right; with none that does, model_config_check has the numbers. */
static void settle_inner(const char *where, int64_t expanded, int64_t heads, int64_t head_dim, model_config *c)
{
    if (heads == 0 || c->inner == heads * head_dim || expanded != heads * head_dim) return;
    plp_warn_alike("%s: intermediate_size %lld is not used: expand * hidden_size is %lld, and so is num_heads * head_dim", where,
                   (long long)c->inner, (long long)expanded);
    c->inner = expanded;
}

static plp_status resolve_hugging_face(json_object *o, const char *where, model_config *c)
{
    int64_t heads = 0, head_dim = 64, groups = 8; /* the class's defaults */
    const char *act = "silu";
    PLP_TRY(read_family(o, where, c));
    const bool two = c->kind == MODEL_MAMBA2, falcon = strcmp(c->family, "falcon_mamba") == 0;
    c->tied = !two;
    c->state = two ? 128 : 16;
    c->mixer_norm_eps = falcon ? 1e-6 : 0;
    PLP_TRY(plp_json_string(o, "hidden_act", where, &act));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0) return PLP_FAIL(PLP_ERR_DATA, "%s: hidden_act %.40s; fix: silu", where, act);
    PLP_TRY(read_size(o, "hidden_size", where, &c->hidden));
    PLP_TRY(read_size(o, "num_hidden_layers", where, &c->layers));
    PLP_TRY(read_expand(o, where, c));
    const int64_t expanded = c->inner;
    PLP_TRY(read_size(o, "intermediate_size", where, &c->inner)); /* FalconMamba's expand is 16 and means 2 */
    PLP_TRY(read_size(o, "state_size", where, &c->state));
    PLP_TRY(read_size(o, "conv_kernel", where, &c->conv));
    PLP_TRY(plp_json_int(o, "vocab_size", where, 1, MOST, &c->vocab));
    PLP_TRY(plp_json_double(o, "layer_norm_epsilon", where, 0, 1, &c->norm_eps));
    PLP_TRY(read_tied(o, "tie_word_embeddings", where, c));
    PLP_TRY(plp_json_bool(o, "use_bias", where, &c->proj_bias));
    PLP_TRY(plp_json_bool(o, "use_conv_bias", where, &c->conv_bias));
    if (falcon) PLP_TRY(plp_json_double(o, "mixer_rms_eps", where, 1e-20, 1, &c->mixer_norm_eps));
    if (two) { /* its time_step_rank is a left-over and means nothing */
        PLP_TRY(read_size(o, "head_dim", where, &head_dim));
        PLP_TRY(plp_json_int(o, "num_heads", where, 1, MOST, &heads));
        settle_inner(where, expanded, heads, head_dim, c);
        PLP_TRY(read_size(o, "n_groups", where, &groups));
        PLP_TRY(read_size(o, "chunk_size", where, &c->chunk));
        PLP_TRY(read_limits(o, "time_step_limit", where, c));
    } else
        PLP_TRY(read_dt_rank(o, "time_step_rank", where, c));
    set_heads(c, heads, head_dim, groups);
    c->vocab_used = c->vocab;
    return PLP_OK;
}

/* Rows of the embedding: ids, rounded up. */
static plp_status read_padded_vocab(json_object *o, const char *where, model_config *c)
{
    int64_t multiple = 8;
    PLP_TRY(read_size(o, "vocab_size", where, &c->vocab_used));
    PLP_TRY(read_size(o, "pad_vocab_size_multiple", where, &multiple));
    c->vocab = (c->vocab_used + multiple - 1) / multiple * multiple;
    return PLP_OK;
}

static plp_status read_layer(json_object *ssm, const char *where, model_config *c)
{
    const char *layer = "Mamba1";
    PLP_TRY(plp_json_string(ssm, "layer", where, &layer));
    if (strcmp(layer, "Mamba1") != 0 && strcmp(layer, "Mamba2") != 0)
        return PLP_FAIL(PLP_ERR_DATA, "%s: ssm_cfg.layer %.40s; fix: Mamba1 or Mamba2", where, layer);
    c->kind = layer[5] == '2' ? MODEL_MAMBA2 : MODEL_MAMBA1;
    snprintf(c->family, sizeof c->family, "%s", c->kind == MODEL_MAMBA2 ? "mamba2" : "mamba");
    return PLP_OK;
}

/* Mamba-2 options that make another layer of it. */
static plp_status refuse_variants(json_object *ssm, const char *where, const model_config *c)
{
    int64_t d_ssm = c->inner;
    PLP_TRY(require_bool(ssm, "D_has_hdim", where, false, "ssm_cfg.D_has_hdim (a D for every channel)"));
    PLP_TRY(require_bool(ssm, "norm_before_gate", where, false, "ssm_cfg.norm_before_gate (the gate behind the norm)"));
    PLP_TRY(plp_json_int(ssm, "d_ssm", where, 0, MOST, &d_ssm));
    return d_ssm == c->inner ? PLP_OK : refuse(where, "ssm_cfg.d_ssm below the inner width (an MLP beside the state space)");
}

static plp_status resolve_state_spaces(json_object *o, const char *where, model_config *c)
{
    int64_t head_dim = 64, groups = 1, d_intermediate = 0;
    bool rmsnorm = true;
    json_object *ssm = plp_json_member(o, "ssm_cfg"), *attention = plp_json_member(o, "attn_layer_idx");
    if (ssm != NULL && !json_object_is_type(ssm, json_type_object))
        return PLP_FAIL(PLP_ERR_DATA, "%s: ssm_cfg is no object; fix: fetch it again", where);
    PLP_TRY(read_layer(ssm, where, c));
    const bool two = c->kind == MODEL_MAMBA2;
    c->tied = true;
    c->state = two ? 128 : 16;
    c->stop[c->stops++] = 0; /* <|endoftext|>: these models are trained with GPT-NeoX's tokenizer, and their config names no ids */
    PLP_TRY(require_bool(o, "rms_norm", where, true, "rms_norm false (LayerNorm)"));
    PLP_TRY(plp_json_int(o, "d_intermediate", where, 0, MOST, &d_intermediate));
    if (d_intermediate > 0) return refuse(where, "d_intermediate above 0 (an MLP in every layer)");
    if (json_object_is_type(attention, json_type_array) && json_object_array_length(attention) > 0)
        return refuse(where, "attn_layer_idx (a hybrid with attention layers)");
    PLP_TRY(read_size(o, "d_model", where, &c->hidden));
    PLP_TRY(read_size(o, "n_layer", where, &c->layers));
    PLP_TRY(read_padded_vocab(o, where, c));
    PLP_TRY(read_tied(o, "tie_embeddings", where, c));
    PLP_TRY(read_expand(ssm, where, c));
    PLP_TRY(read_size(ssm, "d_state", where, &c->state));
    PLP_TRY(read_size(ssm, "d_conv", where, &c->conv));
    PLP_TRY(plp_json_bool(ssm, "bias", where, &c->proj_bias));
    PLP_TRY(plp_json_bool(ssm, "conv_bias", where, &c->conv_bias));
    if (two) {
        PLP_TRY(refuse_variants(ssm, where, c));
        PLP_TRY(read_size(ssm, "headdim", where, &head_dim));
        PLP_TRY(read_size(ssm, "ngroups", where, &groups));
        PLP_TRY(read_size(ssm, "chunk_size", where, &c->chunk));
        PLP_TRY(read_limits(ssm, "dt_limit", where, c));
        PLP_TRY(plp_json_bool(ssm, "rmsnorm", where, &rmsnorm));
    } else
        PLP_TRY(read_dt_rank(ssm, "dt_rank", where, c));
    set_heads(c, 0, head_dim, groups);
    if (!rmsnorm) c->norm_groups = 0;
    return PLP_OK;
}

/* Its model_type says "mamba", and it is Mamba-2. */
static plp_status resolve_codestral(json_object *o, const char *where, model_config *c)
{
    static const char *const required[] = { "dim",
                                            "n_layers",
                                            "vocab_size",
                                            "n_groups",
                                            "rms_norm",
                                            "residual_in_fp32",
                                            "fused_add_norm",
                                            "pad_vocab_size_multiple",
                                            "tie_embeddings",
                                            "model_type" };
    const char *type = "";
    int64_t groups = 0;
    for (size_t i = 0; i < sizeof required / sizeof *required; i++)
        if (plp_json_member(o, required[i]) == NULL)
            return PLP_FAIL(PLP_ERR_DATA, "%s: %s is missing; fix: params.json of a Mamba model belongs there", where, required[i]);
    PLP_TRY(plp_json_string(o, "model_type", where, &type));
    if (strcmp(type, "mamba") != 0) return PLP_FAIL(PLP_ERR_DATA, "%s: model_type %.40s; fix: mamba", where, type);
    PLP_TRY(require_bool(o, "rms_norm", where, true, "rms_norm false (LayerNorm)"));
    snprintf(c->family, sizeof c->family, "mamba2");
    c->kind = MODEL_MAMBA2;
    c->state = 128;
    c->bos = 1, c->stop[c->stops++] = 2; /* <s> and </s> of its tokenizer; the file names no ids */
    PLP_TRY(read_size(o, "dim", where, &c->hidden));
    PLP_TRY(read_size(o, "n_layers", where, &c->layers));
    PLP_TRY(read_size(o, "n_groups", where, &groups));
    PLP_TRY(read_padded_vocab(o, where, c));
    PLP_TRY(read_tied(o, "tie_embeddings", where, c));
    c->inner = 2 * c->hidden;
    set_heads(c, 0, 64, groups);
    return PLP_OK;
}

/* Keys by which other loaders run code that comes with a checkpoint. */
static void report_code(json_object *o, const char *where)
{
    static const char *const keys[] = { "auto_map", "trust_remote_code" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (plp_json_member(o, keys[i]) != NULL) plp_warn_alike("%s: %s is ignored: no code of a checkpoint is run", where, keys[i]);
}

plp_status model_config_resolve(json_object *root, const char *where, model_config *c)
{
    memset(c, 0, sizeof *c);
    c->conv = 4, c->chunk = 256, c->norm_eps = 1e-5, c->dt_max = INFINITY, c->conv_bias = true, c->bos = c->pad = -1;
    if (!json_object_is_type(root, json_type_object)) return PLP_FAIL(PLP_ERR_DATA, "%s: no JSON object; fix: fetch it again", where);
    report_code(root, where);
    if (plp_json_member(root, "dim") != NULL) return resolve_codestral(root, where, c);
    if (plp_json_member(root, "model_type") != NULL) return resolve_hugging_face(root, where, c);
    if (plp_json_member(root, "d_model") != NULL && plp_json_member(root, "n_layer") != NULL) return resolve_state_spaces(root, where, c);
    return PLP_FAIL(PLP_ERR_DATA,
                    "%s: neither model_type, nor d_model and n_layer, nor dim: no config of a Mamba model; fix: fetch it again", where);
}

/* The tensors have Jamba's names, the config is Mamba's: so FalconMamba's key, else Jamba's, and 1e-6 is what both have without. */
plp_status model_config_resolve_mixer_norms(model_config *c, json_object *root, const char *where)
{
    if (!c->mixer_norm_weights) return PLP_OK;
    c->mixer_norm_eps = 1e-6;
    PLP_TRY(plp_json_double(root, "rms_norm_eps", where, 0, 1, &c->mixer_norm_eps));
    return plp_json_double(root, "mixer_rms_eps", where, 0, 1, &c->mixer_norm_eps);
}
