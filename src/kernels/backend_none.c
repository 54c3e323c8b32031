#include "kernels/kernels.h"

#ifndef PLP_CUDA
const kn_backend *kn_cuda(void) { return NULL; }
int kn_cuda_devices(void) { return 0; }
#endif

typedef int kn_backend_none; /* ISO C wants a declaration in every file */
