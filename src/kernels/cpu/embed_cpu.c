#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/simd.h"

plp_status kn_embed_cpu(kn_context *c, const kn_embed_args *a)
{
    (void)c;
    for (int t = 0; t < a->tokens; t++) {
        float *out = a->out + (size_t)t * (size_t)a->hidden;
        const int64_t id = a->ids[t];
        if (id < 0 || id >= a->vocab)
            memset(out, 0, (size_t)a->hidden * sizeof *out);
        else
            kn_widen(out, (const char *)a->table + (size_t)id * (size_t)a->hidden * plp_dtype_size(a->table_dtype), a->table_dtype,
                     a->hidden);
    }
    return PLP_OK;
}
