#include "model/state.h"

#include "base/error.h"

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

plp_status model_slot_poison(model *m, int slot)
{
    for (int64_t i = 0; i < m->config.layers; i++)
        for (int which = 0; which < 2; which++) {
            const slot_part a = part_of(m, slot, i, which);
            PLP_TRY(m->kn->fill(m->context, a.memory, 0xff, (size_t)a.elements * plp_dtype_size(a.dtype))); /* NaN in every float type */
        }
    return PLP_OK;
}

int64_t model_slot_floats(const model *m) { return m->config.layers * (part_of(m, 0, 0, 0).elements + part_of(m, 0, 0, 1).elements); }

plp_dtype model_conv_dtype(const model *m) { return m->dims.conv_dtype; }

/* state: host float32, read from the slot or written to it. */
static plp_status transfer(model *m, int slot, float *state, bool write)
{
    plp_status st = PLP_OK;
    void *stage;
    const size_t most = (size_t)(m->plan.channels.count * m->config.state + (m->config.conv - 1) * m->plan.conv_channels) * sizeof(float);
    PLP_TRY(PLP_ALLOCATED(stage = malloc(most + 1)));
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
