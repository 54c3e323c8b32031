#include "kernels/cpu/context_cpu.h"
#include "kernels/uniform.h"

static float rounded(float v, plp_dtype to)
{
    uint16_t narrow;
    if (to == PLP_F32) return v;
    plp_convert(&narrow, to, &v, PLP_F32, 1);
    plp_convert(&v, PLP_F32, &narrow, to, 1);
    return v;
}

plp_status kn_uniform_cpu(kn_context *c, const kn_uniform_args *a)
{
    const int threads = kn_threads(c, 20.0 * (double)a->rows * (double)a->columns);
    const plp_dtype first = a->stored == a->dtype ? PLP_F32 : a->stored; /* once is enough */
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->columns; j++) {
            const float v = rounded(kn_uniform_at(a->key, (uint64_t)(a->first + i * a->stride + j), a->middle, a->half), first);
            if (a->dtype == PLP_F32)
                ((float *)a->out)[i * a->columns + j] = v;
            else
                ((uint16_t *)a->out)[i * a->columns + j] = a->dtype == PLP_BF16 ? plp_f32_to_bf16(v) : plp_f32_to_f16(v);
        }
    return PLP_OK;
}
