/* src/kernels/cpu/context_cpu.h -- a rank's CPU context, and the operations that fill the table of the backend "cpu".
 *
 * Scratch is allocated once, at creation, from the sizes in kn_options; an operation that needs more says so. */
#ifndef KERNELS_CPU_CONTEXT_CPU_H
#define KERNELS_CPU_CONTEXT_CPU_H

#include "kernels/cpu/linear_cpu.h"
#include "kernels/kernels.h"

#include <omp.h>

/* What the processor and the operating system offer; each includes those before it. */
typedef enum { KN_PLAIN, KN_AVX2, KN_AVX512, KN_AVX512_BF16 } kn_level;
/* The level of contexts created from now on: the lower of `most` and what is there, which is returned.  For tests of the lower paths. */
kn_level kn_cpu_limit(kn_level most);

struct kn_context {
    kn_options options;
    int threads;
    kn_level level;
    kn_linear_function linear; /* of packed weights; plain: there are none */
    char *rows;                /* the rounded activations of a matrix product: rows_bytes */
    size_t rows_bytes;
    char *scratch; /* threads * scratch_bytes */
    size_t scratch_bytes;
};

/* A parallel region costs microseconds: work that is done in less (an operation here is an add or a multiply, or a few bytes moved)
 * stays on the calling thread. */
static inline int kn_threads(const kn_context *c, double operations) { return operations < 3e5 ? 1 : c->threads; }

/* for (int i = 0; i < n; i++), dealt out to `most` of c's threads.  One does without a parallel region, which costs more than small work does:
 * it ends in a system call, and inside another, as a crew's, it allocates and frees a team besides. */
#define KN_EACH(c, most, i, n, ...)                                                                                                        \
    do {                                                                                                                                   \
        const int each_threads_ = (most);                                                                                                  \
        if (each_threads_ == 1) {                                                                                                          \
            for (int i = 0; i < (n); i++) __VA_ARGS__;                                                                                     \
        } else {                                                                                                                           \
            _Pragma("omp parallel for num_threads(each_threads_)") for (int i = 0; i < (n); i++) __VA_ARGS__;                              \
        }                                                                                                                                  \
    } while (0)

/* Memory for what is streamed: weights and states lie in large pages where the system has them, or the processor spends its time looking
 * up small ones.  free() releases it. */
void *kn_alloc_large(size_t bytes);
/* The calling thread's scratch; inside a parallel region of at most c->threads threads, or anywhere if that is one. */
char *kn_scratch(const kn_context *c);
/* PLP_ERR_INTERNAL: the context was created for less. */
plp_status kn_scratch_holds(const kn_context *c, const char *who, size_t bytes);
size_t kn_ssd_scratch(int dim, int state);
size_t kn_scan_scratch(int state);
size_t kn_candidates_scratch(int valid);

plp_status kn_read_time_cpu(kn_context *c, size_t bytes, double *seconds);
void kn_describe_cpu(kn_context *c, char *line, size_t size);
void kn_identity_cpu(int device, char *text, size_t size);
plp_status kn_uniform_cpu(kn_context *c, const kn_uniform_args *a);
plp_status kn_embed_cpu(kn_context *c, const kn_embed_args *a);
plp_status kn_add_norm_cpu(kn_context *c, const kn_add_norm_args *a);
plp_status kn_pack_cpu(kn_context *c, void *w, int64_t n, int k, plp_dtype dtype, bool *done);
plp_status kn_linear_cpu(kn_context *c, const kn_linear_args *a);
plp_status kn_conv_cpu(kn_context *c, const kn_conv_args *a, const kn_batch *b);
plp_status kn_ssd_cpu(kn_context *c, const kn_ssm_args *a, const kn_batch *b);
plp_status kn_ssm_step_cpu(kn_context *c, const kn_ssm_args *a, const kn_batch *b);
plp_status kn_scan_cpu(kn_context *c, const kn_scan_args *a, const kn_batch *b);
plp_status kn_scan_step_cpu(kn_context *c, const kn_scan_args *a, const kn_batch *b);
plp_status kn_rms_cpu(kn_context *c, const kn_rms_args *a);
plp_status kn_gated_norm_cpu(kn_context *c, const kn_gated_norm_args *a);
plp_status kn_pick_cpu(kn_context *c, const kn_pick_args *a);
plp_status kn_candidates_cpu(kn_context *c, const kn_candidates_args *a);
plp_status kn_choose_cpu(kn_context *c, const kn_choose_args *a);
plp_status kn_feed_cpu(kn_context *c, int *ids, const kn_choice *from, int rows);

#endif
