/* src/kernels/cuda/mixer_step.cu -- the fused mixer of a decode step on the host's side: what it knows, its work space, its launches. */
#include "kernels/cuda/mixer_step.cuh"

namespace {

enum {
    BLOCK_RESERVED = 1024, /* shared memory that the driver keeps of every block */
    RING_MOST_IN = 104960, RING_MOST_OUT = 87040 /* bytes; more in flight gains nothing */
};

bool knows(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b)
{
    const bool decodes = b->tokens == a->rows && b->seqs == a->rows && b->decodes == a->rows;
    return decodes && a->rows >= 1 && a->rows <= STEP_ROWS && a->heads >= 1 && a->groups >= 1 && a->w_dtype == PLP_BF16 && step_runs_on(c) &&
           step_aligned(a->work) && mixer_step_in_knows(a) && mixer_step_ssm_knows(a) && mixer_step_out_knows(a, c->sms);
}

/* Where the arrays between the kernels lie behind a->work, and the bytes they take. */
size_t place_work(const kn_mixer_step_args *a, size_t at[5])
{
    const size_t m = a->rows, inner = step_inner(a), channels = step_channels(a), heads = a->heads;
    const size_t bytes[] = { m * inner * 2, m * channels * 2, m * inner * 2, m * heads * 4, m * heads * 4 };
    size_t top = 0;
    for (int i = 0; i < 5; i++) {
        at[i] = top;
        top += (size_t)kn_ceil((int64_t)bytes[i], 256) * 256;
    }
    return top;
}

/* Ring slots of `in` and `out`: both rings, a block of ssm and what lies beside must fit on a multiprocessor together, or the kernels do
 * not overlap.  Of all pairs that do, the one whose worse ring is the fullest.  False if the device has too little. */
bool ring_slots(step_room in, step_room out, int available, int *slots_in, int *slots_out)
{
    const int room = available - in.fixed - out.fixed - 4 * BLOCK_RESERVED;
    double best = 0;
    for (int i = 2; i <= RING_SLOTS && i * in.slot <= RING_MOST_IN; i++)
        for (int o = 2; o <= RING_SLOTS && o * out.slot <= RING_MOST_OUT; o++) {
            const double part_in = (double)i * in.slot / RING_MOST_IN, part_out = (double)o * out.slot / RING_MOST_OUT;
            const double worth = (part_in < part_out ? part_in : part_out) + 1e-3 * (part_in + part_out); /* of equals, the fuller pair */
            if (i * in.slot + o * out.slot > room || worth <= best) continue;
            best = worth;
            *slots_in = i;
            *slots_out = o;
        }
    return best > 0;
}

} // namespace

extern "C" size_t kn_mixer_step_work_cuda(const kn_mixer_step_args *a)
{
    size_t at[5];
    return place_work(a, at);
}

extern "C" plp_status kn_mixer_step_cuda(kn_context *c, const kn_mixer_step_args *a, const kn_batch *b, bool *done)
{
    int available, in_slots = 0, out_slots = 0;
    size_t at[5];
    *done = false;
    if (!knows(c, a, b)) return PLP_OK;
    PLP_TRY(KN_CUDA(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerMultiprocessor, c->options.device)));
    if (!ring_slots(mixer_step_in_room(a, c->sms), mixer_step_out_room(a, c->sms), available, &in_slots, &out_slots)) return PLP_OK;
    place_work(a, at);
    char *base = (char *)a->work;
    const step_work w = { (bf16 *)(base + at[0]), (bf16 *)(base + at[1]), (bf16 *)(base + at[2]), (float *)(base + at[3]), (float *)(base + at[4]) };
    const step_batch batch = { b->src_slot, b->dst_slot, b->past };
    PLP_TRY(mixer_step_in(c, a, &batch, &w, in_slots));
    PLP_TRY(mixer_step_ssm(c, a, &batch, &w));
    PLP_TRY(mixer_step_out(c, a, &w, out_slots));
    *done = true;
    return PLP_OK;
}
