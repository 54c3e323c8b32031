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
    const kn_embed_args a = { .tokens = tokens,
                              .hidden = hidden,
                              .vocab = vocab,
                              .ids = kt_upload(t, ids, (size_t)tokens * sizeof *ids),
                              .table = table.p,
                              .table_dtype = dtype,
                              .out = out.p };
    if (kt_ok(t, t->kn->embed(t->c, &a))) kt_expect(t, "out", &out, want);
}

const kt_case kt_embed_rows[] = { /* copies: exact */
                                  /* name          run  tokens hidden vocab dtype    rtol atol */
                                  { "embed.f32", run, { 17, 768, 100, PLP_F32 }, 0, 0 },
                                  { "embed.bf16",
                                    run,
                                    { 16, 65, 33, PLP_BF16 },
                                    0,
                                    0 }, /* 16-bit tables are exact in float32: the rounding allowance is the output's */
                                  { "embed.f16", run, { 1, 7, 5, PLP_F16 }, 0, 0 },
                                  { "embed.none", run, { 0, 7, 5, PLP_F32 }, 0, 0 },
                                  { 0 }
};
