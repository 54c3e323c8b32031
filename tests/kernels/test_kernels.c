/* Every row of the shared table on one backend: test_kernels cpu|cuda [part of a row's name].  Exit 77: there is no such device here. */
#include "kernel_test.h"

#include "kernels/cpu/context_cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const kt_case *const tables[] = { kt_uniform_rows,    kt_embed_rows,      kt_add_norm_rows,   kt_linear_rows, kt_conv_rows,
                                         kt_ssm_rows,        kt_gated_norm_rows, kt_candidates_rows, kt_scan_rows,   kt_rms_rows,
                                         kt_mixer_step_rows, kt_scan_mixer_rows, kt_ssd_conv_rows };

static uint64_t seed_of(const char *name) /* FNV-1a: a row keeps its inputs when others come and go */
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

static int run_rows(const kn_backend *kn, const char *variant, plp_dtype act, bool deterministic, const char *filter, int *ran)
{
    const kn_options options = { .threads = 2,
                                 .act = act,
                                 .deterministic = deterministic,
                                 .max_tokens = 2048,
                                 .max_k = 2560,
                                 .max_n = 50304,
                                 .max_heads = 64,
                                 .max_dim = 80,
                                 .max_state = 256 };
    kt t = { .kn = kn, .act = act, .deterministic = deterministic, .variant = variant };
    int failed = 0;
    if (kn->create(&t.c, &options) != PLP_OK) {
        printf("FAIL %s act %s: create: %s\n", variant, plp_dtype_name(act), plp_last_error());
        return 1;
    }
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const kt_case *row = tables[i]; row->name; row++) {
            if (filter && !strstr(row->name, filter)) continue;
            t.row = row;
            t.seed = t.random = seed_of(row->name);
            t.failures = 0;
            row->run(&t, row->size);
            kt_end_row(&t);
            if (t.failures) printf("FAIL %s %s act %s: %d wrong\n", row->name, variant, plp_dtype_name(act), t.failures);
            failed += t.failures > 0;
            ++*ran;
        }
    kn->destroy(&t.c);
    return failed;
}

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "cpu", *filter = argc > 2 ? argv[2] : NULL;
    int failed = 0, ran = 0;
    if (strcmp(which, "cpu") == 0) {
        static const char *const levels[] = { "cpu (plain)", "cpu (AVX2)", "cpu (AVX-512)", "cpu (AVX-512 BF16)" };
        for (kn_level level = KN_PLAIN; level <= KN_AVX512_BF16; level++)
            if (kn_cpu_limit(level) == level) failed += run_rows(kn_cpu(), levels[level], PLP_F32, true, filter, &ran);
    } else if (!kn_cuda() || kn_cuda_devices() == 0) {
        printf("skipped: %s\n", kn_cuda() ? "no CUDA device" : "built without CUDA");
        return 77;
    } else
        for (plp_dtype act = PLP_F32; act <= PLP_F16; act++) {
            failed += run_rows(kn_cuda(), "cuda", act, true, filter, &ran);
            failed += run_rows(kn_cuda(), "cuda, free to choose", act, false, filter, &ran);
        }
    printf("%d rows, %d failed\n", ran, failed);
    return failed > 0 || ran == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
