#include "engine/session.h"

#include "base/error.h"
#include "engine/reuse.h"
#include "engine/schedule.h"
#include "model/shapes.h"
#include "tp/handshake.h"
#include "tp/stamp.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_SEQS = 16, MOST_SEQS = 256, DEFAULT_BATCH_TOKENS = 512 }; /* MOST_SEQS: of those that memory allows */

/* A GPU of its own for every rank of this host, by its number among them; or the only one that the launcher lets it see. */
static plp_status choose_device(const tp_group *g, plp_device wanted, tp_comm_kind comm, model_options *o)
{
    const int seen = kn_cuda_devices(), local = tp_local_rank(g), ranks = tp_local_size(g);
    o->backend = kn_cpu();
    if (wanted == PLP_DEVICE_CPU || (wanted == PLP_DEVICE_AUTO && seen == 0)) return PLP_OK;
    if (kn_cuda() == NULL)
        return PLP_FAIL(PLP_ERR_DEVICE, "--device cuda: built without CUDA; fix: configure with -DPLP_CUDA=ON, or use --device cpu");
    if (seen == 0) return PLP_FAIL(PLP_ERR_DEVICE, "no GPU is visible on %s; fix: check the driver and CUDA_VISIBLE_DEVICES", tp_host(g));
    o->backend = kn_cuda();
    o->device = seen == 1 ? 0 : local;
    if (comm == TP_COMM_MPI) o->device = local % seen; /* sharing a GPU is allowed there */
    if (o->device < seen) return PLP_OK;
    return PLP_FAIL(PLP_ERR_DEVICE,
                    "rank %d needs GPU %d of %s, where %d are visible to %d ranks; fix: start at most %d ranks a host, or use --comm mpi",
                    tp_rank(g), local, tp_host(g), seen, ranks, seen);
}

/* What depends on how many sequences run. */
static plp_status size_for(const plp_engine_options *in, int seqs, int max_outs, model_options *o)
{
    const int tokens = in->max_batch_tokens > 0 ? in->max_batch_tokens : seqs > DEFAULT_BATCH_TOKENS ? seqs : DEFAULT_BATCH_TOKENS;
    if (tokens < seqs)
        return PLP_FAIL(PLP_ERR_USAGE, "--max-batch-tokens %d is less than --max-seqs %d; fix: raise it, or lower --max-seqs", tokens,
                        seqs);
    o->max_tokens = tokens, o->max_seqs = seqs, o->max_outs = max_outs > 0 ? max_outs : seqs;
    o->slots = seqs + (in->cache == PLP_CACHE_NONE ? 0 : in->cache_states > 0 ? in->cache_states : seqs);
    return PLP_OK;
}

/* Numbers that no sizes can be computed with. */
static plp_status check_ranges(const plp_engine_options *in)
{
    enum {
        MOST_SEQS_GIVEN = 65535, /* a dimension of a grid */
        MOST_TOKENS = 1 << 20,
        MOST_STATES = 1 << 30,
        MOST_THREADS = 1024
    }; /* as the command line has them */
    const struct {
        const char *name;
        int64_t value, least, most;
    } ranges[] = {
        /* enums are unsigned for some compilers: -1 is -1 */
        { "device", (int)in->device, 0, PLP_DEVICE_CUDA },
        { "compute", (int)in->compute, 0, PLP_NUMBER_F16 },
        { "state", (int)in->state, 0, PLP_NUMBER_F16 },
        { "link", (int)in->link, 0, PLP_LINK_NCCL },
        { "cache", (int)in->cache, 0, PLP_CACHE_ALL },
        { "ahead", (int)in->ahead, 0, PLP_AHEAD_ON },
        { "threads", in->threads, 0, MOST_THREADS },
        { "max_seqs", in->max_seqs, -1, MOST_SEQS_GIVEN },
        { "max_batch_tokens", in->max_batch_tokens, 0, MOST_TOKENS },
        { "max_slice", in->max_slice, 0, MOST_TOKENS },
        { "cache_block", in->cache_block, 0, MOST_TOKENS },
        { "cache_states", in->cache_states, 0, MOST_STATES },
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].value < ranges[i].least || ranges[i].value > ranges[i].most)
            return PLP_FAIL(PLP_ERR_USAGE, "%s %lld; engine options; fix: give a number from %lld to %lld", ranges[i].name,
                            (long long)ranges[i].value, (long long)ranges[i].least, (long long)ranges[i].most);
    return PLP_OK;
}

plp_status engine_model_options(const plp_engine_options *in, const tp_group *g, int max_outs, model_options *o)
{
    static const tp_comm_kind links[] = { TP_COMM_AUTO, TP_COMM_MPI, TP_COMM_NCCL };
    static const plp_dtype states[] = { PLP_F32, PLP_F32, PLP_BF16, PLP_F16 };
    PLP_TRY(check_ranges(in));
    *o = (model_options){
        .threads = in->threads,
        .comm = links[in->link],
        .ssm_dtype = states[in->state],
        .deterministic = in->deterministic,
        .check_values = !in->allow_nonfinite,
    };
    PLP_TRY(size_for(in, in->max_seqs > 0 ? in->max_seqs : in->max_seqs < 0 ? 1 : DEFAULT_SEQS, max_outs, o));
    PLP_TRY(choose_device(g, in->device, o->comm, o));
    /* The CPU reads 16-bit weights as fast for float32 activations as for rounded ones, and so np = 1 and np = N give the same text. */
    o->f32 = in->compute == PLP_NUMBER_F32 || (in->compute == PLP_NUMBER_AUTO && o->backend == kn_cpu());
    return PLP_OK;
}

/* What matrices have to be stored as; what the model has, where they are computed with as they are or in float32. */
static plp_dtype stored_as(plp_number compute, const model_config *c)
{
    return compute == PLP_NUMBER_BF16 ? PLP_BF16 : compute == PLP_NUMBER_F16 ? PLP_F16 : c->dtype;
}

static plp_status check_compute(plp_number compute, const model_config *c)
{
    const plp_dtype wanted = stored_as(compute, c);
    if (wanted == c->dtype) return PLP_OK;
    return PLP_FAIL(PLP_ERR_USAGE, "--dtype %s: the model's matrices are stored as %s; fix: use --dtype auto or f32",
                    plp_dtype_name(wanted), plp_dtype_name(c->dtype));
}

plp_status engine_shape(const plp_engine_options *in, const char *name, model_config *c)
{
    PLP_TRY(model_shape_find(name, c));
    c->dtype = stored_as(in->compute, c);
    return PLP_OK;
}

int engine_step_tokens(const model_options *o, const model_config *c)
{
    const int least = o->max_seqs - 1 + schedule_least_slice(c->chunk, o->backend->grain, o->deterministic);
    return o->max_tokens < least ? least : o->max_tokens;
}

/* What follows from the model's sizes. */
static plp_status fit(const plp_engine_options *in, const tp_group *g, const model_config *c, int max_outs, model_options *o)
{
    uint64_t slot;
    const bool all = max_outs >= o->max_tokens; /* whoever asks for every row of a step does so of a larger one, too */
    o->max_tokens = engine_step_tokens(o, c);
    if (all) o->max_outs = o->max_tokens;
    if (in->cache == PLP_CACHE_NONE) return PLP_OK;
    if (in->cache_states == 0 && in->cache_bytes > 0) {
        PLP_TRY(model_most_slot_bytes(c, tp_size(g), o, &slot));
        const uint64_t states = in->cache_bytes / slot, most = INT_MAX - (uint64_t)o->max_seqs;
        o->slots = o->max_seqs + (int)(states < most ? states : most);
    }
    return reuse_check(in->cache_block, c->chunk, o->slots - o->max_seqs); /* before weights are loaded */
}

static plp_status open_local(engine_session *s, const plp_engine_options *options, int max_outs, model_options *o)
{
    PLP_TRY(engine_model_options(options, s->group, max_outs, o));
    if (options->model == NULL) return PLP_FAIL(PLP_ERR_USAGE, "model is NULL; engine options; fix: name a model file or a checkpoint");
    PLP_TRY(model_source_open(&s->source, options->model, &(model_source_options){ .trust = options->trust_model }));
    PLP_TRY(check_compute(options->compute, model_source_config(s->source)));
    PLP_TRY(fit(options, s->group, model_source_config(s->source), max_outs, o));
    return engine_tokenizer(&s->tokenizer, s->source, options->model, &s->unsupported);
}

plp_status engine_memory(const model_options *o, const tp_group *g, size_t *bytes)
{
    size_t total;
    int sharing = tp_local_size(g);
    if (o->backend == kn_cuda()) sharing = o->comm == TP_COMM_MPI ? (sharing + kn_cuda_devices() - 1) / kn_cuda_devices() : 1;
    PLP_TRY(o->backend->memory(o->device, bytes, &total));
    *bytes /= (size_t)sharing;
    return PLP_OK;
}

/* Sequences for which this rank has memory: nine tenths of what it may take of a GPU's, half of a host's, which has other work. */
static plp_status count_seqs(const plp_engine_options *in, const tp_group *g, const model_config *c, int max_outs, const model_options *o,
                             int *seqs)
{
    size_t available;
    int low = 1, high = in->max_batch_tokens > 0 && in->max_batch_tokens < MOST_SEQS ? in->max_batch_tokens : MOST_SEQS;
    PLP_TRY(engine_memory(o, g, &available));
    available = o->backend == kn_cuda() ? available / 10 * 9 : available / 2;
    while (low < high) { /* one is taken to fit, or model_create says by how much it does not */
        const int middle = (low + high + 1) / 2;
        model_options of = *o;
        model_memory need;
        PLP_TRY(size_for(in, middle, max_outs, &of));
        PLP_TRY(fit(in, g, c, max_outs, &of));
        PLP_TRY(model_measure(&need, c, tp_rank(g), tp_size(g), &of));
        if (need.weights + need.states + need.work <= available)
            low = middle;
        else
            high = middle - 1;
    }
    *seqs = low;
    return PLP_OK;
}

/* Collective.  As many sequences as the rank with the least room for them has memory for. */
static plp_status choose_seqs(const engine_session *s, const plp_engine_options *in, int max_outs, model_options *o)
{
    const model_config *c = model_source_config(s->source);
    int seqs = 1;
    if (in->max_seqs >= 0) return PLP_OK;
    PLP_TRY(tp_agree(s->group, count_seqs(in, s->group, c, max_outs, o, &seqs)));
    double least = -seqs;
    PLP_TRY(tp_max(s->group, &least));
    PLP_TRY(size_for(in, (int)-least, max_outs, o));
    return fit(in, s->group, c, max_outs, o);
}

/* Collective.  What the user gave, before anything that asks whether to meet.  A rank's own may be: the model's path and the device, of which what
 * they come to is compared, and threads and trust_model, which change no result and no collective. */
static plp_status compare_given(const engine_session *s, const plp_engine_options *in)
{
    const struct {
        const char *name;
        int64_t value;
    } given[] = {
        { "compute", (int)in->compute },
        { "state", (int)in->state },
        { "link", (int)in->link },
        { "deterministic", in->deterministic != 0 },
        { "max_seqs", in->max_seqs },
        { "max_batch_tokens", in->max_batch_tokens },
        { "max_slice", in->max_slice },
        { "cache", (int)in->cache },
        { "cache_block", in->cache_block },
        { "cache_states", in->cache_states },
        { "cache_bytes", (int64_t)in->cache_bytes },
        { "ahead", (int)in->ahead },
        { "allow_nonfinite", in->allow_nonfinite != 0 },
    };
    enum { GIVEN = sizeof given / sizeof *given };
    tp_claim claims[GIVEN];
    for (int i = 0; i < GIVEN; i++) {
        claims[i].name = given[i].name;
        snprintf(claims[i].text, TP_CLAIM, "%lld", (long long)given[i].value);
    }
    return tp_handshake(s->group, claims, GIVEN);
}

/* Collective.  What follows from it: ranks may differ in the device's ordinal and in nothing else. */
static plp_status compare_chosen(const engine_session *s, const model_options *o)
{
    const struct {
        const char *name;
        int value;
    } numbers[] = {
        { "link", (int)o->comm },   { "step size", o->max_tokens }, { "number of sequences", o->max_seqs },
        { "outputs", o->max_outs }, { "state slots", o->slots },
    };
    enum { NUMBERS = sizeof numbers / sizeof *numbers };
    tp_claim claims[NUMBERS + 4] = { { .name = "device" }, { .name = "model file" }, { .name = "dtype" }, { .name = "state dtype" } };
    snprintf(claims[0].text, TP_CLAIM, "%s", o->backend->name);
    snprintf(claims[1].text, TP_CLAIM, "%s", model_source_digest(s->source));
    snprintf(claims[2].text, TP_CLAIM, "%s%s", o->f32 ? "f32" : "as stored", o->deterministic ? ", deterministic" : "");
    snprintf(claims[3].text, TP_CLAIM, "%s", plp_dtype_name(o->ssm_dtype));
    for (int i = 0; i < NUMBERS; i++) {
        claims[i + 4].name = numbers[i].name;
        snprintf(claims[i + 4].text, TP_CLAIM, "%d", numbers[i].value);
    }
    return tp_handshake(s->group, claims, sizeof claims / sizeof *claims);
}

/* NCCL may hang on two ranks of one GPU, by whatever number each knows it. */
static plp_status check_devices(const engine_session *s, const model_options *o)
{
    char identity[TP_CLAIM];
    if (o->backend != kn_cuda() || o->comm == TP_COMM_MPI) return PLP_OK;
    o->backend->identity(o->device, identity, sizeof identity);
    return tp_own_devices(s->group, identity);
}

plp_status engine_session_open(engine_session *s, MPI_Comm comm, const plp_engine_options *options, int max_outs)
{
    model_options o;
    *s = (engine_session){ 0 };
    tp_stamp(TP_OPEN, 0);
    PLP_TRY(tp_group_create(&s->group, comm));
    PLP_TRY(tp_agree(s->group, open_local(s, options, max_outs, &o)));
    PLP_TRY(compare_given(s, options));
    PLP_TRY(choose_seqs(s, options, max_outs, &o));
    PLP_TRY(compare_chosen(s, &o));
    PLP_TRY(check_devices(s, &o));
    return model_create(&s->model, s->source, s->group, &o);
}

void engine_session_close(engine_session *s)
{
    model_destroy(&s->model);
    text_tokenizer_destroy(&s->tokenizer);
    model_source_close(&s->source);
    tp_group_destroy(&s->group);
}
