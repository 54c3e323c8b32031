/* src/kernels/cuda/mixer_step.cu -- the fused mixers of a decode step on the host's side: what they know, their work space, their launches. */
#include "kernels/cuda/mixer_step.cuh"
#include "kernels/cuda/mixer_step_product.cuh"
#include "kernels/cuda/mixer_step_wide.cuh"

namespace {

enum {
    BLOCK_RESERVED = 1024, /* shared memory that the driver keeps of every block */
    SSM_BYTES = 4736,      /* of a block of ssm; registers suffice for one beside the others */
    RINGS_LEAST = 128 * 1024 /* of both: falcon-mamba-7b's of 1 and 2 rows; at 4 (117 KB) it is better if `out` waits for `in` to leave */
};

static_assert((int)KN_MIXER_ROWS == STEP_ROWS && (int)KN_MIXER_WIDE == WIDE_ROWS && (int)KN_MIXER_SLICES == PRODUCT_SLICES, "what callers make room for");

/* What both kinds of mixer need. */
bool knows(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b)
{
    const bool decodes = b->tokens == a->rows && b->seqs == a->rows && b->decodes == a->rows;
    return decodes && a->rows >= 1 && a->rows <= STEP_ROWS && a->heads >= 1 && a->w_dtype == PLP_BF16 && step_runs_on(c) && step_aligned(a->work) &&
           c->sms <= KN_READY_PARTS && mixer_step_in_knows(a) && mixer_step_out_knows(a, c->sms);
}

/* For mixer_step_wide.cuh: the products of both kinds of mixer. */
bool knows_wide_products(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b)
{
    const bool decodes = b->tokens == a->rows && b->seqs == a->rows && b->decodes == a->rows;
    return decodes && a->rows >= 1 && a->rows <= WIDE_ROWS && a->heads >= 1 && a->w_dtype == PLP_BF16 && step_runs_on(c) && step_aligned(a->work) &&
           mixer_step_out_knows(a, c->sms) && mixer_step_wide_in_knows(a, c->sms) && mixer_step_wide_out_knows(c, a);
}
bool knows_wide(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b)
{
    return a->rows > STEP_ROWS && knows_wide_products(c, a, b) && a->groups >= 1 && mixer_step_ssm_knows(a);
}

/* A Mamba-1 mixer as `in` and `out` see it: 64 channels are a head, there are no groups, and no rows of in_proj for dt. */
kn_mixer_step_args common_of(const kn_scan_mixer_args *a)
{
    kn_mixer_step_args m = {};
    m.rows = a->rows, m.hidden = a->hidden, m.heads = a->channels / STEP_DIM, m.dim = STEP_DIM, m.width = a->width;
    m.most_heads = a->most_channels / STEP_DIM;
    m.residual = a->residual, m.delta = a->delta, m.ld_delta = a->ld_delta, m.exchange = a->exchange;
    m.norm_weight = a->norm_weight, m.norm_eps = a->norm_eps;
    if (a->slices == 1) m.ready = a->ready, m.is_ready = a->is_ready, m.next_norm = a->next_norm;
    m.in_proj = a->in_proj, m.in_bias = a->in_bias, m.conv_weight = a->conv_weight, m.conv_bias = a->conv_bias;
    m.out_proj = a->out_proj, m.out_bias = a->out_bias, m.w_dtype = a->w_dtype;
    m.conv_state = a->conv_state, m.conv_dtype = a->conv_dtype, m.work = a->work;
    return m;
}
/* What the kernels of a Mamba-2 mixer tell each other, from `words` on, and how many words that takes. */
step_told told_of(const kn_mixer_step_args *a, uint32_t *words, int64_t *count)
{
    const int64_t m = a->rows, inner = step_inner(a);
    uint32_t *z = words + m * (step_channels(a) + a->heads);
    *count = z + m * inner - words;
    return { words, z, NULL };
}

/* The same of a Mamba-1 mixer: x_proj's sums, of 8 bytes each, if they are told (mixer_step_told), then x, then z. */
step_told told_of(const kn_context *c, const kn_scan_mixer_args *a, int64_t *count)
{
    const bool tells = mixer_step_told(c, a) != NULL, tells_z = tells && a->rows <= STEP_FEW;
    const int64_t sums = tells ? (int64_t)2 * a->rows * KN_MIXER_SLICES * (a->dt_rank + 2 * a->state) : 0, values = (int64_t)a->rows * a->channels;
    uint32_t *x = mixer_step_turn(c) + sums, *z = x + values / 2;
    *count = sums + values / 2 + (tells_z ? values : 0);
    return { NULL, tells_z ? z : NULL, (uint16_t *)x };
}

/* x_proj of a wide step as out_proj's kernel sees it: its sums, over the ranks with mixed_exchange, go to mixed. */
kn_mixer_step_args x_proj_of(const kn_scan_mixer_args *a)
{
    kn_mixer_step_args m = {};
    m.rows = a->rows, m.hidden = a->dt_rank + 2 * a->state, m.heads = a->channels / STEP_DIM, m.dim = STEP_DIM, m.most_heads = a->most_channels / STEP_DIM;
    m.delta = a->mixed, m.ld_delta = m.hidden, m.exchange = a->mixed_exchange, m.out_proj = a->x_proj, m.w_dtype = a->w_dtype;
    return m;
}

int slices_of(const kn_scan_mixer_args *a) { return mixer_step_slices(a->hidden, a->most_channels); } /* of x_proj's sums, on any rank */
bool knows_scan(const kn_context *c, const kn_scan_mixer_args *a, const kn_mixer_step_args *m, const kn_batch *b)
{
    const int64_t message = (int64_t)a->rows * PRODUCT_SLICES * (a->dt_rank + 2 * a->state);
    int64_t words;
    told_of(c, a, &words);
    return a->channels % STEP_DIM == 0 && step_aligned(a->x_proj) && knows(c, m, b) && slices_of(a) <= PRODUCT_SLICES && mixer_step_scan_knows(a) &&
           words <= KN_TOLD && (a->mixed_exchange == NULL || message <= a->mixed_exchange->words);
}

bool knows_scan_wide(const kn_context *c, const kn_scan_mixer_args *a, const kn_mixer_step_args *m, const kn_batch *b)
{
    const kn_mixer_step_args x = x_proj_of(a);
    if (2 * wide_box(a->most_channels, c->sms) > WIDE_BAND) return false; /* what one rank knows all must: they add up x_proj */
    return a->channels % STEP_DIM == 0 && knows_wide_products(c, m, b) && step_aligned(a->x_proj) && mixer_step_wide_out_knows(c, &x) &&
           mixer_step_wide_scan_knows(a);
}

/* Where the arrays between the kernels lie behind a->work, and the bytes they take.  The last are for mixer_step_wide.cuh, which few rows of Mamba-1 (no
 * groups) may be for, too. */
enum { ARRAYS = 7 };
size_t place_work(const kn_mixer_step_args *a, size_t at[ARRAYS])
{
    const size_t m = a->rows < WIDE_ROWS ? a->rows : WIDE_ROWS, inner = step_inner(a), channels = step_channels(a), heads = a->heads;
    const size_t hidden = m > STEP_ROWS || a->groups == 0 ? a->hidden : 0;
    const size_t bytes[ARRAYS] = { m * inner * 2, m * channels * 2, m * inner * 2, m * heads * 4, m * heads * 4 * (m > STEP_ROWS ? 1 : STEP_PARTS),
                                   m * hidden * 2, m * 4 };
    size_t top = 0;
    for (int i = 0; i < ARRAYS; i++) {
        at[i] = top;
        top += (size_t)kn_ceil((int64_t)bytes[i], 256) * 256;
    }
    return top;
}

/* Bytes of the rings at most.  From 3 rows on more in flight for `in` makes multiprocessors unequal: some had half of the others' bandwidth,
 * others in every layer (Codestral, 4 and 8 rows: 5 % of a step). */
struct ring_most {
    int in, out;
};
ring_most ring_most_of(int rows) { return rows <= 2 ? ring_most{ 104960, 87040 } : ring_most{ 84000, 104960 }; }

/* Ring slots of `in` and `out`: both rings, a block of ssm and what lies beside must fit on a multiprocessor together, or the kernels do
 * not overlap.  Of all pairs that do, the one whose worse ring is the fullest.  False if the device has too little. */
bool ring_slots(int rows, step_room in, step_room out, int available, int *slots_in, int *slots_out)
{
    const int room = available - in.fixed - out.fixed - SSM_BYTES - 3 * BLOCK_RESERVED;
    const ring_most most = ring_most_of(rows);
    double best = 0;
    for (int i = 2; i <= RING_SLOTS && i * in.slot <= most.in; i++)
        for (int o = 2; o <= RING_SLOTS && o * out.slot <= most.out; o++) {
            const double part_in = (double)i * in.slot / most.in, part_out = (double)o * out.slot / most.out;
            const double worth = (part_in < part_out ? part_in : part_out) + 1e-3 * (part_in + part_out); /* of equals, the fuller pair */
            if (i * in.slot + o * out.slot > room || worth <= best) continue;
            best = worth;
            *slots_in = i;
            *slots_out = o;
        }
    return best > 0;
}

plp_status available_on(const kn_context *c, int *bytes)
{
    return KN_CUDA(cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, c->options.device));
}

/* How a Mamba-1 mixer's kernels share a multiprocessor.  Best is room for a block of each, as Mamba-2's have it: scan starts beside the last
 * `out`, the next `out` as soon as that one ends, and its ring is full in time.
 *
 * Where rows or rank are so many that this leaves too little for the rings, `out` cannot start before `in` has left, for scan's shared
 * memory; where `in` leaves first there would then be room for two blocks of `out`, and in the end none for the last multiprocessors.  So a
 * block of `out` asks for half of the memory, whatever its ring takes, and the ring of `in` lives in what `out` leaves.  A block of scan
 * asks for more than a quarter: two of them in the place that an `out` has left keep the next one out until they end (seen on 64 of 132
 * multiprocessors). */
struct scan_share {
    int in_slots, out_slots, out_bytes, scan_bytes; /* bytes: the least that a block takes in all */
};
bool share_of(const kn_context *c, const kn_scan_mixer_args *scan, const kn_mixer_step_args *a, int available, scan_share *share)
{
    const step_room in = mixer_step_in_room(a, c->sms), out = mixer_step_out_room(a, c->sms);
    const int half = available / 2, rest = available - half - 3 * BLOCK_RESERVED;
    const int in_fit = (rest - in.fixed) / in.slot, out_fit = (half - out.fixed) / out.slot;
    int in_slots, out_slots;
    if (ring_slots(a->rows, in, out, available - mixer_step_scan_bytes(scan), &in_slots, &out_slots) && in_slots * in.slot + out_slots * out.slot >= RINGS_LEAST) {
        *share = { in_slots, out_slots, 0, 0 };
        return true;
    }
    *share = { in_fit < RING_SLOTS ? in_fit : (int)RING_SLOTS, out_fit < RING_SLOTS ? out_fit : (int)RING_SLOTS, half, available * 5 / 16 };
    return share->in_slots >= 2 && share->out_slots >= 2;
}

step_work work_of(const kn_mixer_step_args *a)
{
    size_t at[ARRAYS];
    char *base = (char *)a->work;
    place_work(a, at);
    return { (bf16 *)(base + at[0]), (bf16 *)(base + at[1]), (bf16 *)(base + at[2]), (float *)(base + at[3]), (float *)(base + at[4]) };
}

/* Up to STEP_ROWS rows of a Mamba-2 mixer, and the slots of its rings. */
bool knows_narrow(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b, int *in_slots, int *out_slots)
{
    int available;
    int64_t words;
    told_of(a, c->told, &words);
    return knows(c, a, b) && a->groups >= 1 && mixer_step_ssm_knows(a) && words <= KN_TOLD && available_on(c, &available) == PLP_OK &&
           ring_slots(a->rows, mixer_step_in_room(a, c->sms), mixer_step_out_room(a, c->sms), available, in_slots, out_slots);
}

/* in_proj of a wide step, and the norm before it. */
plp_status wide_in(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w)
{
    size_t at[ARRAYS];
    char *base = (char *)a->work;
    place_work(a, at);
    const wide_work x = { (bf16 *)(base + at[5]), (float *)(base + at[6]) };
    if (!a->is_ready) PLP_TRY(mixer_step_wide_norm(c, a, &x));
    return mixer_step_wide_in(c, a, b, w, &x);
}

plp_status step_wide(kn_context *c, const kn_mixer_step_args *a, const step_batch *b, const step_work *w)
{
    PLP_TRY(wide_in(c, a, b, w));
    PLP_TRY(mixer_step_ssm(c, a, b, w, NULL));
    return mixer_step_wide_out(c, a, w);
}

plp_status scan_begin_wide(kn_context *c, const kn_scan_mixer_args *a, const kn_mixer_step_args *m, const step_batch *b)
{
    const kn_mixer_step_args x_proj = x_proj_of(a);
    step_work w = work_of(m);
    PLP_TRY(wide_in(c, m, b, &w));
    w.v = w.xbc; /* x, where out_proj has v */
    return mixer_step_wide_out(c, &x_proj, &w);
}

} // namespace

extern "C" size_t kn_mixer_step_work_cuda(const kn_mixer_step_args *a)
{
    size_t at[ARRAYS];
    return place_work(a, at);
}

extern "C" plp_status kn_mixer_step_cuda(kn_context *c, const kn_mixer_step_args *a, const kn_batch *b, bool *done)
{
    int in_slots = 0, out_slots = 0;
    const bool wide = knows_wide(c, a, b);
    *done = wide || knows_narrow(c, a, b, &in_slots, &out_slots);
    if (!*done) return PLP_OK;
    const step_work w = work_of(a);
    const step_batch batch = { b->src_slot, b->dst_slot, b->past };
    if (wide) return step_wide(c, a, &batch, &w);
    c->turn++;
    int64_t words;
    const step_told told = told_of(a, mixer_step_turn(c), &words);
    PLP_TRY(mixer_step_in(c, a, &batch, &w, in_slots, &told, NULL));
    PLP_TRY(mixer_step_ssm(c, a, &batch, &w, &told));
    return mixer_step_out(c, a, &w, out_slots, 0, mixer_step_turn(c), words);
}

extern "C" bool kn_mixer_step_knows_cuda(const kn_context *c, const kn_mixer_step_args *a, const kn_batch *b)
{
    int in_slots, out_slots;
    return knows_wide(c, a, b) || knows_narrow(c, a, b, &in_slots, &out_slots);
}

extern "C" size_t kn_scan_mixer_work_cuda(const kn_scan_mixer_args *a)
{
    const kn_mixer_step_args m = common_of(a);
    return kn_mixer_step_work_cuda(&m);
}

extern "C" plp_status kn_scan_mixer_begin_cuda(kn_context *c, const kn_scan_mixer_args *a, const kn_batch *b, bool *done)
{
    const kn_mixer_step_args m = common_of(a);
    scan_share share;
    int available;
    const step_batch batch = { b->src_slot, b->dst_slot, b->past };
    *done = a->slices == 1 && knows_scan_wide(c, a, &m, b);
    if (*done) return scan_begin_wide(c, a, &m, &batch);
    if (a->slices == 1 || !knows_scan(c, a, &m, b)) return PLP_OK;
    PLP_TRY(available_on(c, &available));
    if (!share_of(c, a, &m, available, &share)) return PLP_OK;
    const step_work w = work_of(&m);
    c->turn++;
    int64_t words;
    const step_told told = told_of(c, a, &words);
    const product_second x_proj = { (const bf16 *)a->x_proj, told.x, a->mixed, mixer_step_told(c, a), a->dt_rank + 2 * a->state, a->channels,
                                     a->mixed_exchange != NULL ? *a->mixed_exchange : kn_exchange{}, slices_of(a) };
    PLP_TRY(mixer_step_in(c, &m, &batch, &w, share.in_slots, &told, &x_proj));
    *done = true;
    return PLP_OK;
}

extern "C" plp_status kn_scan_mixer_end_cuda(kn_context *c, const kn_scan_mixer_args *a, const kn_batch *b)
{
    const kn_mixer_step_args m = common_of(a);
    const step_work w = work_of(&m);
    const step_batch batch = { b->src_slot, b->dst_slot, b->past };
    if (a->slices == 1) {
        PLP_TRY(mixer_step_wide_scan(c, a, &batch, &w));
        return mixer_step_wide_out(c, &m, &w);
    }
    scan_share share;
    int available;
    PLP_TRY(available_on(c, &available));
    share_of(c, a, &m, available, &share); /* it fits: begin has seen to that */
    int64_t words;
    const step_told told = told_of(c, a, &words);
    PLP_TRY(mixer_step_scan(c, a, &batch, &w, share.scan_bytes, slices_of(a), &told));
    return mixer_step_out(c, &m, &w, share.out_slots, share.out_bytes, mixer_step_turn(c), words);
}
