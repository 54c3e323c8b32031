#include "kernels/gumbel.h"
#include "kernels/kernels.h"

#include <math.h>

float kn_gumbel(uint64_t seed, int64_t position, int token) { return -logf(-logf(kn_uniform(seed, position, token))); }
