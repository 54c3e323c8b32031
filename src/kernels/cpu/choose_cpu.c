#include "kernels/cpu/context_cpu.h"

#include "kernels/choose.h"

plp_status kn_choose_cpu(kn_context *c, const kn_choose_args *a)
{
    (void)c;
    for (int t = 0; t < a->rows; t++)
        a->out[t] = kn_choose_row(a->row + t, a->all + t, a->rows, a->ranks, a->sorted + (size_t)t * (size_t)a->ranks * KN_CANDIDATES,
                                  a->next + (size_t)t * (size_t)a->ranks);
    return PLP_OK;
}

plp_status kn_feed_cpu(kn_context *c, int *ids, const kn_choice *from, int rows)
{
    (void)c;
    for (int i = 0; i < rows; i++)
        if (ids[i] < 0) ids[i] = from[~ids[i]].token;
    return PLP_OK;
}
