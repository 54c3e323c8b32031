#include "kernel_test.h"

#include <limits.h>

static void run(kt *t, const int *size)
{
    const int tokens = size[0], hidden = size[1], vocab = size[2];
    const plp_dtype dtype = (plp_dtype)size[3];
    const size_t n = (size_t)tokens * (size_t)hidden;
    const kt_array table = kt_random(t, dtype, (size_t)vocab * (size_t)hidden, 0, 1), out = kt_nan(t, PLP_F32, n);
    int *ids = kt_host(t, (size_t)tokens * sizeof *ids);
    double *want = kt_host(t, n * sizeof *want);
    static const int stray[] = { -1, INT_MIN, INT_MAX };
    for (int i = 0; i < tokens; i++) {
        ids[i] = i % 5 == 4 ? stray[i % 3] : i == 3 ? vocab : i == 2 ? vocab - 1 : kt_below(t, vocab);
        for (int j = 0; j < hidden; j++)
            want[i * hidden + j] = ids[i] < 0 || ids[i] >= vocab ? 0 : table.v[(size_t)ids[i] * (size_t)hidden + (size_t)j];
    }
    kn_embed_args a = { .tokens = tokens,
                        .hidden = hidden,
                        .vocab = vocab,
                        .ids = kt_upload(t, ids, (size_t)tokens * sizeof *ids),
                        .table = table.p,
                        .table_dtype = dtype,
                        .out = out.p };
    if (size[5] > 0) { /* rows of a head that is packed */
        bool packed = false;
        void *head = (char *)table.p + (size_t)size[4] * (size_t)hidden * plp_dtype_size(dtype);
        if (!t->kn->pack || !kt_ok(t, t->kn->pack(t->c, head, size[5], hidden, dtype, &packed)) || !packed) return;
        a.packed_first = size[4], a.packed_count = size[5];
    }
    if (kt_ok(t, t->kn->embed(t->c, &a))) kt_expect(t, "out", &out, want);
}

/* Copies: exact; but for the rounding allowance, of which 16-bit tables need none. */
const kt_case kt_embed_rows[] = {
    /* name          run  tokens hidden vocab dtype, packed: first, count  rtol atol */
    { "embed.f32", run, { 17, 768, 100, PLP_F32 }, 0, 0 },
    { "embed.bf16", run, { 16, 65, 33, PLP_BF16 }, 0, 0 },
    { "embed.f16", run, { 1, 7, 5, PLP_F16 }, 0, 0 },
    { "embed.none", run, { 0, 7, 5, PLP_F32 }, 0, 0 },
    { "embed.packed.f32", run, { 170, 24, 33, PLP_F32, 0, 33 }, 0, 0 },
    { "embed.packed.bf16", run, { 300, 66, 101, PLP_BF16, 0, 101 }, 0, 0 },
    { "embed.packed.bf16.odd", run, { 300, 7, 101, PLP_BF16, 13, 37 }, 0, 0 },
    { "embed.packed.bf16.rank", run, { 500, 64, 300, PLP_BF16, 100, 100 }, 0, 0 }, /* a rank's rows of the head */
    { "embed.packed.f16", run, { 300, 9, 77, PLP_F16, 40, 37 }, 0, 0 },
    { 0 }
};
