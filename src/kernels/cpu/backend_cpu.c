#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/ssm_cpu.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LINE = 64, HUGE_PAGE = 2 << 20 }; /* bytes of a cache line, and of the widest vector; of a large page */

static kn_level most_level = KN_AVX512_BF16;

static kn_level level_here(void)
{
#if defined(__clang__) /* knows f16c by that name from version 18 on only; no processor has AVX2 without it */
    const bool f16c = true;
#elif defined(__x86_64__)
    const bool f16c = __builtin_cpu_supports("f16c");
#endif
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        return __builtin_cpu_supports("avx512bf16") ? KN_AVX512_BF16 : KN_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) return KN_AVX2;
#endif
    return KN_PLAIN;
}

kn_level kn_cpu_limit(kn_level most)
{
    const kn_level here = level_here();
    return most_level = most < here ? most : here;
}

static kn_linear_function linear_of(kn_level level)
{
#if defined(__x86_64__)
    if (level >= KN_AVX512) return kn_linear_avx512;
    if (level == KN_AVX2) return kn_linear_avx2;
#endif
    (void)level;
    return kn_linear_plain;
}

static size_t round_up(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static void destroy(kn_context **c)
{
    if (!*c) return;
    free((*c)->rows);
    free((*c)->scratch);
    free(*c);
    *c = NULL;
}

static plp_status create(kn_context **context, const kn_options *o)
{
    plp_status st = PLP_OK;
    kn_context *c = calloc(1, sizeof *c);
    PLP_DO(PLP_ALLOCATED(c));
    c->options = *o;
    c->threads = o->threads > 0 ? o->threads : omp_get_max_threads();
    c->level = kn_cpu_limit(most_level);
    c->linear = linear_of(c->level);
    c->rows_bytes = (size_t)o->max_tokens * round_up((size_t)o->max_k * sizeof(float));
    c->scratch_bytes = larger(kn_ssd_scratch(o->max_dim, o->max_state), kn_scan_scratch(o->max_state));
    c->scratch_bytes = round_up(larger(c->scratch_bytes, kn_candidates_scratch(o->max_n)));
    PLP_DO(PLP_ALLOCATED(c->rows = aligned_alloc(LINE, round_up(c->rows_bytes + 1))));
    PLP_DO(PLP_ALLOCATED(c->scratch = aligned_alloc(LINE, (size_t)c->threads * c->scratch_bytes + LINE)));
done:
    if (st != PLP_OK) destroy(&c);
    *context = c;
    return st;
}

char *kn_scratch(const kn_context *c)
{
    return c->threads == 1 ? c->scratch : c->scratch + (size_t)omp_get_thread_num() * c->scratch_bytes;
}

plp_status kn_scratch_holds(const kn_context *c, const char *who, size_t bytes)
{
    if (bytes <= c->scratch_bytes) return PLP_OK;
    return PLP_FAIL(PLP_ERR_INTERNAL, "%s: scratch of %zu bytes, %zu needed; the context's max_ sizes are too small", who, c->scratch_bytes,
                    bytes);
}

static kn_stream stream(kn_context *c)
{
    (void)c;
    return NULL;
}

void *kn_alloc_large(size_t bytes)
{
    const size_t page = bytes >= HUGE_PAGE ? HUGE_PAGE : LINE, whole = (bytes + page - 1) / page * page;
    void *p = aligned_alloc(page, whole > 0 ? whole : page);
#ifdef MADV_HUGEPAGE
    if (p && page == HUGE_PAGE) madvise(p, whole, MADV_HUGEPAGE); /* a wish: without it the pages are small, and all works */
#endif
    return p;
}

static plp_status alloc(kn_context *c, void **p, size_t bytes)
{
    (void)c;
    *p = kn_alloc_large(bytes);
    return *p ? PLP_OK
              : PLP_FAIL(PLP_ERR_MEMORY, "host memory exhausted: %zu bytes; fix: a smaller model, batch or cache, or more ranks", bytes);
}

static void release(kn_context *c, void **p)
{
    (void)c;
    free(*p);
    *p = NULL;
}

static plp_status copy(kn_context *c, void *dst, const void *src, size_t bytes)
{
    (void)c;
    if (bytes) memmove(dst, src, bytes);
    return PLP_OK;
}

static plp_status fill(kn_context *c, void *dst, int byte, size_t bytes)
{
    (void)c;
    if (bytes) memset(dst, byte, bytes);
    return PLP_OK;
}

static plp_status sync_nothing(kn_context *c)
{
    (void)c;
    return PLP_OK;
}

static plp_status mark_nothing(kn_context *c, int which)
{
    (void)c, (void)which;
    return PLP_OK;
}

/* What the kernel calls available: free memory and what it can drop. */
static plp_status memory(int device, size_t *available, size_t *total)
{
    (void)device;
    const long page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_PHYS_PAGES), unused = sysconf(_SC_AVPHYS_PAGES);
    if (page <= 0 || pages <= 0 || unused < 0) return PLP_FAIL(PLP_ERR_INTERNAL, "cannot learn the size of memory from sysconf");
    *total = (size_t)pages * (size_t)page;
    *available = (size_t)unused * (size_t)page;
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    unsigned long long kilobytes;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1) *available = (size_t)kilobytes * 1024;
    if (f) fclose(f);
    return PLP_OK;
}

/* By the C library's word. */
static size_t cache(void)
{
    long bytes = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    return bytes > 0 ? (size_t)bytes : 0;
}

const kn_backend *kn_cpu(void)
{
    static const kn_backend cpu = {
        .name = "cpu",
        .grain = KN_SSD_TILE,
        .create = create,
        .destroy = destroy,
        .stream = stream,
        .alloc = alloc,
        .release = release,
        .to_device = copy,
        .to_host = copy,
        .copy = copy,
        .fill = fill,
        .sync = sync_nothing,
        .alloc_host = alloc,
        .release_host = release,
        .mark = mark_nothing,
        .wait = mark_nothing,
        .memory = memory,
        .cache = cache,
        .read_time = kn_read_time_cpu,
        .describe = kn_describe_cpu,
        .identity = kn_identity_cpu,
        .uniform = kn_uniform_cpu,
        .embed = kn_embed_cpu,
        .add_norm = kn_add_norm_cpu,
        .pick = kn_pick_cpu,
        .pack = kn_pack_cpu,
        .linear = kn_linear_cpu,
        .conv = kn_conv_cpu,
        .ssd = kn_ssd_cpu,
        .ssm_step = kn_ssm_step_cpu,
        .scan = kn_scan_cpu,
        .scan_step = kn_scan_step_cpu,
        .rms = kn_rms_cpu,
        .gated_norm = kn_gated_norm_cpu,
        .candidates = kn_candidates_cpu,
        .choose = kn_choose_cpu,
        .feed = kn_feed_cpu,
    };
    return &cpu;
}
