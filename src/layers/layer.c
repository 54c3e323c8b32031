#include "layers/mamba2.h"

plp_status layer_add_norm(const kn_backend *kn, kn_context *c, int tokens, int hidden, float *residual, layer_pending *pending,
                          const int *map, int outs, const float *weight, double eps, void *out)
{
    const layer_pending p = *pending;
    *pending = (layer_pending){ 0 };
    return kn->add_norm(c, &(kn_add_norm_args){ .tokens = tokens,
                                                .hidden = hidden,
                                                .outs = outs,
                                                .residual = residual,
                                                .delta = p.delta,
                                                .delta_dtype = p.dtype,
                                                .ld_delta = p.ld,
                                                .bias = p.bias,
                                                .sumsq = p.sumsq,
                                                .ld_sumsq = p.ld_sumsq,
                                                .sumsq_width = p.width,
                                                .sumsq_eps = p.eps,
                                                .map = map,
                                                .weight = weight,
                                                .eps = eps,
                                                .out = out });
}
