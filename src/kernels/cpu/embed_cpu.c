#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/linear_cpu.h"
#include "kernels/cpu/simd.h"

plp_status kn_embed_cpu(kn_context *c, const kn_embed_args *a)
{
    const size_t row = (size_t)a->hidden * plp_dtype_size(a->table_dtype);
    (void)c;
    for (int t = 0; t < a->tokens; t++) {
        float *out = a->out + (size_t)t * (size_t)a->hidden;
        const int64_t id = a->ids[t], packed = id - a->packed_first;
        const char *table = a->table;
        if (id < 0 || id >= a->vocab)
            memset(out, 0, (size_t)a->hidden * sizeof *out);
        else if (packed >= 0 && packed < a->packed_count)
            kn_unpack_row(out, table + (size_t)a->packed_first * row, a->packed_count, a->hidden, a->table_dtype, packed);
        else
            kn_widen(out, table + (size_t)id * row, a->table_dtype, a->hidden);
    }
    return PLP_OK;
}
