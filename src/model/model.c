#include "model/state.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static plp_dtype matrix_dtype(const model_config *c, const model_options *o)
{
    if (!o->f32) return c->dtype == PLP_F32 ? PLP_BF16 : c->dtype;
    return o->backend == kn_cpu() ? c->dtype : PLP_F32; /* the CPU widens 16-bit weights exactly, as it reads them */
}

static plp_dtype act_dtype(const model_config *c, const model_options *o)
{
    return o->f32 || o->backend == kn_cpu() ? PLP_F32 : matrix_dtype(c, o);
}

uint64_t model_slot_bytes(const model_plan *p, const model_config *c, const model_options *o)
{
    return model_plan_conv_state(p, c, act_dtype(c, o)) + model_plan_ssm_state(p, c, o->ssm_dtype);
}

plp_status model_most_slot_bytes(const model_config *c, int size, const model_options *o, uint64_t *bytes)
{
    *bytes = 0;
    for (int rank = 0; rank < size; rank++) {
        model_plan p;
        PLP_TRY(model_plan_make(&p, c, rank, size));
        const uint64_t own = model_slot_bytes(&p, c, o);
        if (own > *bytes) *bytes = own;
    }
    return PLP_OK;
}

static void lay_out_states(model *m, plp_arena *a)
{
    const model_plan *p = &m->plan;
    const int64_t slots = m->options.slots, conv = (m->config.conv - 1) * p->conv_channels, ssm = p->channels.count * m->config.state;
    for (int64_t i = 0; i < m->config.layers; i++) {
        m->weights.layers[i].conv_state = plp_arena_take(a, slots * conv, plp_dtype_size(m->dims.conv_dtype));
        m->weights.layers[i].ssm_state = plp_arena_take(a, slots * ssm, plp_dtype_size(m->dims.ssm_dtype));
    }
}

static void lay_out_inputs(const model *m, model_inputs *in, plp_arena *a)
{
    const model_options *o = &m->options;
    in->past = plp_arena_take(a, o->max_seqs, sizeof *in->past);
    in->start = plp_arena_take(a, o->max_seqs + 1, sizeof(int));
    in->src_slot = plp_arena_take(a, o->max_seqs, sizeof(int));
    in->dst_slot = plp_arena_take(a, o->max_seqs, sizeof(int));
    in->out_row = plp_arena_take(a, o->max_outs, sizeof(int));
    in->fixed = a->used;
    in->ids = plp_arena_take(a, o->max_tokens, sizeof(int));
    in->sample = plp_arena_take(a, o->max_outs, sizeof *in->sample);
}

static void lay_out_work(model *m, plp_arena *a)
{
    const model_plan *p = &m->plan;
    const int64_t tokens = m->options.max_tokens, outs = m->options.max_outs;
    const size_t act = plp_dtype_size(m->act);
    lay_out_inputs(m, &m->there, a);
    m->maps = plp_arena_take(a, p->heads.count + p->norm_groups.count + 1, sizeof(int));
    m->residual = plp_arena_take(a, tokens * m->config.hidden, sizeof(float));
    m->kind->lay_out(&m->scratch, a, m->kn, &m->dims, tokens, m->options.max_seqs);
    m->normed_out = plp_arena_take(a, outs * m->config.hidden, act);
    m->logits = plp_arena_take(a, outs * p->vocab.count, sizeof(float));
    m->candidates = plp_arena_take(a, outs, sizeof *m->candidates);
    m->all = p->size == 1 ? m->candidates : plp_arena_take(a, p->size * outs, sizeof *m->all);
    m->sorted = plp_arena_take(a, p->size * outs * KN_CANDIDATES, sizeof *m->sorted);
    m->next = plp_arena_take(a, p->size * outs, sizeof *m->next);
    m->choices = plp_arena_take(a, outs, sizeof *m->choices);
    m->penalty_room = larger(outs, m->options.max_seqs * m->config.vocab_used);
    m->penalties = plp_arena_take(a, 2 * m->penalty_room, sizeof *m->penalties);
}

static void set_dims(model *m)
{
    static const layer_norm norms[] = { [MODEL_NORM_NONE] = LAYER_NORM_NONE,
                                        [MODEL_NORM_LOCAL] = LAYER_NORM_LOCAL,
                                        [MODEL_NORM_FOLDED] = LAYER_NORM_FOLDED,
                                        [MODEL_NORM_SUMMED] = LAYER_NORM_SUMMED };
    static const layer_kind *const kinds[] = { [MODEL_MAMBA2] = &layer_mamba2, [MODEL_MAMBA1] = &layer_mamba1 };
    const model_config *c = &m->config;
    const model_plan *p = &m->plan;
    m->act = act_dtype(c, &m->options);
    m->weights.dtype = matrix_dtype(c, &m->options);
    m->kind = kinds[c->kind];
    m->dims = (layer_dims){
        .hidden = (int)c->hidden,
        .heads = (int)p->heads.count,
        .unit = (int)p->unit,
        .most_heads = (int)(tp_shard(c->heads / p->unit, 0, p->size).count * p->unit),
        .groups = (int)p->groups.count,
        .dim = (int)c->head_dim,
        .state = (int)c->state,
        .conv = (int)c->conv,
        .chunk = (int)c->chunk,
        .dt_rank = (int)c->dt_rank,
        .eps = c->norm_eps,
        .mixer_eps = c->mixer_norm_eps,
        .dt_min = (float)c->dt_min,
        .dt_max = (float)c->dt_max,
        .norm = norms[p->norm],
        .norm_groups = (int)p->norm_groups.count,
        .norm_width = c->norm_groups ? (double)(c->inner / c->norm_groups) : 0,
        .all_norm_groups = (int)c->norm_groups,
        .norm_group_first = (int)p->norm_groups.first,
        .act = m->act,
        .weights = m->weights.dtype,
        .conv_dtype = m->act,
        .ssm_dtype = m->options.ssm_dtype,
        .deterministic = m->options.deterministic,
        .round = !m->options.f32,
    };
}

static plp_status measure(model *m)
{
    plp_arena weights = { 0 }, states = { 0 }, work = { 0 };
    model_weights_lay_out(&m->weights, &weights, &m->plan, &m->config);
    lay_out_states(m, &states);
    lay_out_work(m, &work);
    m->memory = (model_memory){
        .weights = weights.used, .states = states.used, .work = work.used, .slot = model_slot_bytes(&m->plan, &m->config, &m->options)
    };
    return PLP_OK;
}

plp_status model_measure(model_memory *memory, const model_config *c, int rank, int size, const model_options *o)
{
    model m = { .config = *c, .options = *o, .kn = o->backend };
    PLP_TRY(model_plan_make(&m.plan, c, rank, size));
    set_dims(&m);
    PLP_TRY(PLP_ALLOCATED(m.weights.layers = calloc((size_t)c->layers, sizeof *m.weights.layers)));
    const plp_status st = measure(&m);
    free(m.weights.layers);
    *memory = m.memory;
    return st;
}

/* Most bytes of weights and states that one of so many ranks has. */
static plp_status largest_share(const model *m, int ranks, uint64_t *bytes)
{
    const int first = m->config.kind == MODEL_MAMBA1 ? 1 : ranks; /* Mamba-1 has no groups that straddle: none has more than rank 0 */
    *bytes = 0;
    for (int rank = 0; rank < first; rank++) {
        model_plan p;
        PLP_TRY(model_plan_make(&p, &m->config, rank, ranks));
        const uint64_t states = (uint64_t)m->options.slots * model_slot_bytes(&p, &m->config, &m->options);
        const uint64_t own = model_plan_weights(&p, &m->config, m->weights.dtype) + states;
        if (own > *bytes) *bytes = own;
    }
    return PLP_OK;
}

/* Before anything is loaded: what it takes, what there is, and from how many ranks on it would fit. */
static plp_status check_capacity(model *m)
{
    size_t available, total;
    const model_memory *need = &m->memory;
    const uint64_t sum = need->weights + need->states + need->work;
    PLP_TRY(m->kn->memory(m->options.device, &available, &total));
    if (m->kn == kn_cpu()) available /= (size_t)tp_local_size(m->group); /* the host's memory is shared by its ranks */
    plp_log(PLP_LOG_INFO, "memory per rank: weights %.1f MB, %d state slots of %.2f MB, work space %.1f MB; %.1f MB available",
            (double)need->weights * 1e-6, m->options.slots, (double)need->slot * 1e-6, (double)need->work * 1e-6, (double)available * 1e-6);
    if (sum <= available) return PLP_OK;
    const int most = m->config.heads < TP_MOST_RANKS ? (int)m->config.heads : TP_MOST_RANKS;
    int ranks = m->plan.size + 1;
    for (uint64_t share; ranks <= most; ranks++) {
        PLP_TRY(largest_share(m, ranks, &share));
        if (share + need->work <= available) break;
    }
    const uint64_t fixed = need->weights + need->work;
    const uint64_t slots = available > fixed ? (available - fixed) / need->slot : 0; /* fewer of them need less work space, too */
    return PLP_FAIL(PLP_ERR_MEMORY,
                    "%.2f GB needed (weights %.2f, %d states %.2f, work space %.2f), %.2f GB available on %s, short by %.2f GB; fix: %llu "
                    "state slots fit (--max-seqs and those of the prefix cache), or use %s%d ranks with as much memory each",
                    (double)sum * 1e-9, (double)need->weights * 1e-9, m->options.slots, (double)need->states * 1e-9,
                    (double)need->work * 1e-9, (double)available * 1e-9, tp_host(m->group), (double)(sum - available) * 1e-9,
                    (unsigned long long)slots, ranks > most ? "more than " : "", ranks > most ? most : ranks);
}

/* Of a rank: as many as it was told, or its share of the host's, and no more than OMP_NUM_THREADS or the cores that it is bound to. */
static int own_threads(const model_options *o, const tp_group *g)
{
    const int share = (int)sysconf(_SC_NPROCESSORS_ONLN) / tp_local_size(g), most = omp_get_max_threads();
    if (o->threads > 0) return o->threads;
    return share < 1 ? 1 : share < most ? share : most;
}

static plp_status make_context(const model *m, kn_context **context, int threads, int tokens)
{
    const model_options *o = &m->options;
    const int64_t n = larger(larger(m->plan.in_rows, m->config.hidden), larger(m->plan.vocab.count, m->kind->summed(&m->dims)));
    const int64_t k = larger(larger(m->plan.channels.count, m->config.hidden), m->config.dt_rank);
    return m->kn->create(context, &(kn_options){ .device = o->device,
                                                 .threads = threads,
                                                 .act = m->act,
                                                 .deterministic = o->deterministic,
                                                 .max_tokens = tokens,
                                                 .max_k = (int)k,
                                                 .max_n = (int)n,
                                                 .max_heads = m->dims.heads,
                                                 .max_dim = m->dims.dim,
                                                 .max_state = m->dims.state });
}

/* Threads that each have rows of their own meet once a step, not five times a layer; but each reads all weights, so only where those stay
 * in the cache that they share. */
static plp_status create_crew(model *m, int threads)
{
    const int rows = m->options.max_seqs / threads + 1;
    if (threads == 1 || m->plan.size > 1 || m->kn->cache == NULL || m->memory.weights > m->kn->cache()) return PLP_OK;
    PLP_TRY(PLP_ALLOCATED(m->crew = calloc((size_t)threads, sizeof(kn_context *))));
    for (; m->crew_size < threads; m->crew_size++) PLP_TRY(make_context(m, &m->crew[m->crew_size], 1, rows));
    return PLP_OK;
}

static size_t graphs_of(const model *m) { return MODEL_GRAPHS * ((size_t)m->options.max_seqs + 1); }

static plp_status allocate(model *m)
{
    plp_status st = PLP_OK;
    const size_t outs = (size_t)m->options.max_outs;
    const int heads = m->dims.heads, groups = m->dims.norm_groups;
    plp_arena host = { 0 };
    lay_out_inputs(m, &m->host[0], &host);
    for (int i = 0; i < MODEL_FLIGHTS; i++) {
        PLP_DO(m->kn->alloc_host(m->context, &m->inputs_host[i], host.used));
        PLP_DO(m->kn->alloc_host(m->context, (void **)&m->candidates_host[i],
                                 outs * ((size_t)m->plan.size + 1) * sizeof **m->candidates_host));
        PLP_DO(m->kn->alloc_host(m->context, (void **)&m->choices_host[i], outs * sizeof **m->choices_host));
    }
    PLP_DO(PLP_ALLOCATED(m->graph = calloc(graphs_of(m), sizeof *m->graph)));
    PLP_DO(PLP_ALLOCATED(m->warm = calloc(graphs_of(m), sizeof *m->warm)));
    PLP_DO(PLP_ALLOCATED(m->logits_host = malloc((size_t)(m->plan.vocab.count + 1) * sizeof(float))));
    PLP_DO(m->kn->alloc(m->context, &m->weights_memory, m->memory.weights));
    PLP_DO(m->kn->alloc(m->context, &m->states_memory, m->memory.states));
    PLP_DO(m->kn->alloc(m->context, &m->work_memory, m->memory.work));
    PLP_DO(m->kn->fill(m->context, m->work_memory, 0, m->memory.work));

    model_weights_lay_out(&m->weights, &(plp_arena){ .base = m->weights_memory }, &m->plan, &m->config);
    lay_out_states(m, &(plp_arena){ .base = m->states_memory });
    lay_out_work(m, &(plp_arena){ .base = m->work_memory });
    for (int i = 0; i < MODEL_FLIGHTS; i++) lay_out_inputs(m, &m->host[i], &(plp_arena){ .base = m->inputs_host[i] });

    int *maps;
    PLP_DO(PLP_ALLOCATED(maps = malloc((size_t)(heads + groups + 1) * sizeof *maps)));
    m->dims.host_group = maps, m->dims.host_norm_first = maps + heads;
    model_plan_group_map(&m->plan, &m->config, maps);
    model_plan_norm_first(&m->plan, &m->config, maps + heads);
    m->dims.group = m->maps, m->dims.norm_first = m->maps + heads;
    PLP_DO(m->kn->to_device(m->context, m->maps, maps, (size_t)(heads + groups + 1) * sizeof *maps));
    PLP_DO(m->kn->sync(m->context));
done:
    return st;
}

/* Where in everyone's work space what other ranks write to lies: not at the same place, as shares differ. */
static plp_status reach_others(model *m)
{
    layer_scratch *s = &m->scratch;
    const char *base = m->work_memory;
    const int64_t mine[3] = { (char *)m->residual - base, (char *)s->normed - base, (char *)s->delta - base };
    int64_t all[KN_PEERS][3];
    PLP_TRY(tp_memory_open(m->group, m->work_memory, &m->reached));
    if (m->reached.base[0] == NULL) return PLP_OK;
    PLP_TRY(tp_gather_all(m->group, mine, sizeof mine, all));
    for (int r = 0; r < m->plan.size; r++) {
        char *there = m->reached.base[r];
        s->reach.residual[r] = there + all[r][0], s->reach.normed[r] = there + all[r][1], s->reach.delta[r] = there + all[r][2];
    }
    return PLP_OK;
}

static plp_status check_backend(const kn_backend *kn, const model_config *c)
{
    if (kn->most_state == 0 || c->state <= kn->most_state) return PLP_OK;
    return PLP_FAIL(PLP_ERR_USAGE, "state %lld, on %s at most %d; config; fix: use --device cpu", (long long)c->state, kn->name,
                    kn->most_state);
}

static plp_status create_local(model *m, const model_config *c, tp_group *g, const model_options *o)
{
    m->config = *c, m->options = *o, m->group = g, m->kn = o->backend;
    PLP_TRY(check_backend(m->kn, c));
    PLP_TRY(model_plan_make(&m->plan, c, tp_rank(g), tp_size(g)));
    set_dims(m);
    PLP_TRY(PLP_ALLOCATED(m->weights.layers = calloc((size_t)c->layers, sizeof *m->weights.layers)));
    PLP_TRY(measure(m));
    PLP_TRY(make_context(m, &m->context, own_threads(o, g), o->max_tokens));
    PLP_TRY(create_crew(m, own_threads(o, g)));
    PLP_TRY(check_capacity(m));
    return allocate(m);
}

/* Few: one looks at 26 GB a second, and OpenMP's others would spin on the cores of those that read. */
static int look_threads(const model_options *o, const tp_group *g)
{
    enum { ENOUGH = 4 };
    const int own = own_threads(o, g);
    return own < ENOUGH ? own : ENOUGH;
}

static plp_status create(model **out, const model_config *c, tp_group *g, const model_options *o, const model_band_reader *reader)
{
    plp_status st;
    model *m;
    *out = NULL;
    m = calloc(1, sizeof *m);
    PLP_DO(tp_agree(g, PLP_ALLOCATED(m)));
    PLP_DO(tp_agree(g, create_local(m, c, g, o)));
    PLP_DO(tp_attach(g, m->kn, m->context, o->comm, (size_t)(o->max_tokens * m->kind->summed(&m->dims)) * sizeof(float), o->deterministic));
    PLP_DO(reach_others(m));
    const double begin = plp_seconds();
    PLP_DO(tp_agree(g, model_weights_load(&m->weights, &m->plan, &m->config, m->kn, m->context, reader,
                                          o->check_values && reader->make == NULL ? look_threads(o, g) : 0)));
    m->load_seconds = plp_seconds() - begin;
done:
    if (st != PLP_OK) model_destroy(&m);
    *out = m;
    return st;
}

plp_status model_create(model **m, const model_source *s, tp_group *g, const model_options *o)
{
    model_source_threads(s, own_threads(o, g));
    const plp_status st = create(m, model_source_config(s), g, o, &(model_band_reader){ model_read_source, NULL, (void *)s });
    model_source_threads(s, 1);
    return st;
}

plp_status model_create_random(model **m, const model_config *config, uint64_t seed, tp_group *g, const model_options *o)
{
    return create(m, config, g, o, &(model_band_reader){ model_read_random, model_make_random, &(model_random){ config, seed } });
}

void model_destroy(model **out)
{
    model *m = *out;
    if (m == NULL) return;
    if (m->context) {
        m->kn->sync(m->context); /* what still reads or writes others' memory */
        tp_memory_close(m->group, &m->reached);
        m->kn->release(m->context, &m->weights_memory);
        m->kn->release(m->context, &m->states_memory);
        m->kn->release(m->context, &m->work_memory);
        for (int i = 0; i < MODEL_FLIGHTS; i++) {
            m->kn->release_host(m->context, &m->inputs_host[i]);
            m->kn->release_host(m->context, (void **)&m->candidates_host[i]);
            m->kn->release_host(m->context, (void **)&m->choices_host[i]);
        }
        for (size_t i = 0; m->graph && i < graphs_of(m); i++)
            if (m->graph[i]) m->kn->graph_destroy(m->context, &m->graph[i]);
        m->kn->destroy(&m->context);
    }
    for (int i = 0; i < m->crew_size; i++) m->kn->destroy(&m->crew[i]);
    free(m->crew);
    free((void *)m->dims.host_group);
    free(m->graph);
    free(m->warm);
    free(m->logits_host);
    free(m->weights.layers);
    free(m);
    *out = NULL;
}

const model_config *model_config_of(const model *m) { return &m->config; }
model_memory model_memory_of(const model *m) { return m->memory; }
int model_threads(const model *m) { return own_threads(&m->options, m->group); }
double model_load_seconds(const model *m) { return m->load_seconds; }
const model_options *model_options_of(const model *m) { return &m->options; }
tp_group *model_group(model *m) { return m->group; }
kn_context *model_context(model *m) { return m->context; }
tp_slice model_vocab_slice(const model *m, int rank) { return model_plan_vocab(m->config.vocab, rank, m->plan.size); }

const model_plan *model_plan_of(const model *m) { return &m->plan; }
void model_set_probe(model *m, layer_probe probe) { m->probe = probe; }

plp_status model_plant_difference(model *m, int64_t layer)
{
    const float *at = m->weights.layers[layer].D;
    float value;
    PLP_TRY(m->kn->to_host(m->context, &value, at, sizeof value));
    PLP_TRY(m->kn->sync(m->context));
    value += 1;
    PLP_TRY(m->kn->to_device(m->context, (void *)at, &value, sizeof value));
    return m->kn->sync(m->context);
}
