#include "kernels/gumbel.h"
#include "kernels/kernels.h"

float kn_gumbel(uint64_t seed, int64_t position, int token) { return kn_noise(seed, position, token); }
