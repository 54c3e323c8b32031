#include "kernels/cpu/context_cpu.h"

#include "base/clock.h"
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Independent sums, so that the loop waits for memory and not for an addition. */
static uint64_t read_all(const uint64_t *data, int64_t words, int threads)
{
    enum { LANES = 32 };
    uint64_t total = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : total)
    for (int64_t block = 0; block < words / 4096; block++) {
        uint64_t lane[LANES] = { 0 };
        const uint64_t *p = data + block * 4096;
        for (int i = 0; i < 4096; i += LANES)
            for (int k = 0; k < LANES; k++) lane[k] += p[i + k];
        for (int k = 0; k < LANES; k++) total += lane[k];
    }
    return total;
}

plp_status kn_read_time_cpu(kn_context *c, size_t bytes, double *seconds)
{
    uint64_t *data;
    volatile uint64_t sink = 0;
    PLP_TRY(PLP_ALLOCATED(data = kn_alloc_large(bytes)));
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (size_t page = 0; page < bytes / 4096; page++)
        memset((char *)data + page * 4096, (int)page, 4096); /* real pages, not the zero page */
    *seconds = 1e30;
    for (int i = 0; i < 5; i++) {
        const double start = plp_seconds();
        sink += read_all(data, (int64_t)(bytes / sizeof *data), c->threads);
        const double took = plp_seconds() - start;
        if (took < *seconds) *seconds = took;
    }
    (void)sink; /* written for nobody: so that what was read counts */
    free(data);
    return PLP_OK;
}

void kn_describe_cpu(kn_context *c, char *line, size_t size)
{
    char name[64] = "unknown processor", text[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(text, sizeof text, f))
        if (sscanf(text, "model name : %63[^\n]", name) == 1) break;
    if (f) fclose(f);
    snprintf(line, size, "%s, %d thread%s", name, c->threads, c->threads == 1 ? "" : "s");
}

void kn_identity_cpu(int device, char *text, size_t size)
{
    (void)device;
    if (gethostname(text, size) != 0) snprintf(text, size, "unknown-host");
    text[size - 1] = 0; /* a name that was cut has no end */
}
