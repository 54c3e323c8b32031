#include "kernels/cpu/context_cpu.h"

#include <string.h>

plp_status kn_pick_cpu(kn_context *c, const kn_pick_args *a)
{
    const size_t size = plp_dtype_size(c->options.act);
    for (int i = 0; i < a->rows; i++)
        memcpy((char *)a->out + (size_t)(i * a->ld_out) * size, (const char *)a->in + (size_t)(a->map[i] * a->ld_in) * size,
               (size_t)a->columns * size);
    return PLP_OK;
}
