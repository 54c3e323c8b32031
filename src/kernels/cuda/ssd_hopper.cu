#include "kernels/cuda/ssd.cuh"
bool kn_ssd_hopper_takes(const kn_context *, const kn_ssm_args *, const kn_batch *) { return false; }
plp_status kn_ssd_hopper_create(kn_context *) { return PLP_OK; }
void kn_ssd_hopper_plan(kn_context *, const kn_ssm_args *, const kn_batch *, kn_ssd_segment *, kn_ssd_unit *) {}
plp_status kn_ssd_hopper_run(kn_context *, const kn_ssm_args *, const kn_batch *) { return PLP_OK; }
