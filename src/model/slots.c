#include "model/state.h"

#include "base/error.h"
#include "base/fault.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One layer's part of a slot: the conv window, then the SSM state. */
typedef struct {
    char *memory;
    plp_dtype dtype;
    int64_t elements;
} slot_part;

static slot_part part_of(const model *m, int slot, int64_t layer, int which)
{
    const layer_weights *l = m->weights.layers + layer;
    const int64_t n = which == 0 ? (m->config.conv - 1) * m->plan.conv_channels : m->plan.channels.count * m->config.state;
    const plp_dtype dtype = which == 0 ? m->dims.conv_dtype : m->dims.ssm_dtype;
    char *base = which == 0 ? l->conv_state : l->ssm_state;
    return (slot_part){ base + (size_t)(slot * n) * plp_dtype_size(dtype), dtype, n };
}

plp_status model_slot_copy(model *m, int from, int to)
{
    if (from == to) return PLP_OK;
    for (int64_t i = 0; i < m->config.layers; i++)
        for (int which = 0; which < 2; which++) {
            const slot_part a = part_of(m, from, i, which), b = part_of(m, to, i, which);
            PLP_TRY(m->kn->copy(m->context, b.memory, a.memory, (size_t)a.elements * plp_dtype_size(a.dtype)));
        }
    return PLP_OK;
}

static plp_status fill(model *m, int slot, int byte)
{
    for (int64_t i = 0; i < m->config.layers; i++)
        for (int which = 0; which < 2; which++) {
            const slot_part a = part_of(m, slot, i, which);
            PLP_TRY(m->kn->fill(m->context, a.memory, byte, (size_t)a.elements * plp_dtype_size(a.dtype)));
        }
    return PLP_OK;
}

plp_status model_slot_poison(model *m, int slot) { return fill(m, slot, 0xff); } /* NaN in every float type */
plp_status model_slot_scrub(model *m, int slot) { return fill(m, slot, 0); }

int64_t model_slot_floats(const model *m) { return m->config.layers * (part_of(m, 0, 0, 0).elements + part_of(m, 0, 0, 1).elements); }

plp_dtype model_conv_dtype(const model *m) { return m->dims.conv_dtype; }

/* Of the two parts of a layer, as float32. */
static size_t most_bytes(const model *m)
{
    return (size_t)(m->plan.channels.count * m->config.state + (m->config.conv - 1) * m->plan.conv_channels) * sizeof(float);
}

/* state: host float32, read from the slot or written to it. */
static plp_status transfer(model *m, int slot, float *state, bool write)
{
    plp_status st = PLP_OK;
    void *stage;
    PLP_TRY(PLP_ALLOCATED(stage = malloc(most_bytes(m) + 1)));
    for (int64_t i = 0; i < m->config.layers; i++)
        for (int which = 0; which < 2; which++) {
            const slot_part a = part_of(m, slot, i, which);
            const size_t bytes = (size_t)a.elements * plp_dtype_size(a.dtype);
            if (write) {
                plp_convert(stage, a.dtype, state, PLP_F32, (size_t)a.elements);
                PLP_DO(m->kn->to_device(m->context, a.memory, stage, bytes));
                PLP_DO(m->kn->sync(m->context));
            } else {
                PLP_DO(m->kn->to_host(m->context, stage, a.memory, bytes));
                PLP_DO(m->kn->sync(m->context));
                plp_convert(state, PLP_F32, stage, a.dtype, (size_t)a.elements);
            }
            state += a.elements;
        }
done:
    free(stage);
    return st;
}

plp_status model_slot_read(model *m, int slot, float *state) { return transfer(m, slot, state, false); }
plp_status model_slot_write(model *m, int slot, const float *state) { return transfer(m, slot, (float *)state, true); }

/* ----------------------------------------------------------------------------------------------------- what is not finite, and where */
static plp_status first_not_finite(model *m, int slot, int64_t *part)
{
    plp_status st = PLP_OK;
    void *stage = NULL;
    float *values = NULL;
    PLP_DO(PLP_ALLOCATED(stage = malloc(most_bytes(m) + 1)));
    PLP_DO(PLP_ALLOCATED(values = malloc(most_bytes(m) + 1)));
    for (*part = 0; *part < 2 * m->config.layers; ++*part) {
        const slot_part a = part_of(m, slot, *part / 2, (int)(*part % 2));
        PLP_DO(m->kn->to_host(m->context, stage, a.memory, (size_t)a.elements * plp_dtype_size(a.dtype)));
        PLP_DO(m->kn->sync(m->context));
        plp_convert(values, PLP_F32, stage, a.dtype, (size_t)a.elements);
        for (int64_t i = 0; i < a.elements; i++)
            if (!isfinite(values[i])) goto done;
    }
done:
    free(stage);
    free(values);
    return st;
}

plp_status model_find_not_finite(model *m, int slot, char *where, size_t size)
{
    static const char *const names[] = { "conv window", "ssm state" };
    int64_t part = 0;
    PLP_TRY(tp_agree(m->group, first_not_finite(m, slot, &part)));
    double last = -(double)part; /* the first of all ranks */
    PLP_TRY(tp_max(m->group, &last));
    part = (int64_t)-last;
    if (part == 2 * m->config.layers)
        snprintf(where, size, "the logits");
    else
        snprintf(where, size, "layer %lld (%s)", (long long)part / 2, names[part % 2]);
    return PLP_OK;
}

#ifdef PLP_FAULTS
/* The first sequence of the step that has a state, if there is one. */
plp_status model_fault_states(model *m, const model_step *s)
{
    static const char *const points[] = { "conv", "ssm" };
    int i = 0;
    while (i < s->seqs && s->past[i] == 0) i++;
    for (int which = 0; i < s->seqs && which < 2; which++) {
        const slot_part a = part_of(m, s->src_slot[i], m->config.layers / 2, which);
        if (plp_fault_nan(points[which])) PLP_TRY(m->kn->fill(m->context, a.memory, 0xff, plp_dtype_size(a.dtype)));
    }
    return PLP_OK;
}
#endif
