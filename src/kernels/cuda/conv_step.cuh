/* src/kernels/cuda/conv_step.cuh -- kn->conv for batches of decode rows alone. */
#ifndef KERNELS_CUDA_CONV_STEP_CUH
#define KERNELS_CUDA_CONV_STEP_CUH

#include "kernels/cuda/common.cuh"

/* Whether it takes these arguments; rows one to each sequence. */
bool kn_conv_step_takes(const kn_context *c, const kn_conv_args *a, const kn_batch *b);
plp_status kn_conv_step_run(kn_context *c, const kn_conv_args *a, const kn_batch *b);

#endif
