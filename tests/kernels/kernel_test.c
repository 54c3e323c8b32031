#include "kernel_test.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_REPORTS = 5 }; /* of one row; the rest is counted */

typedef struct kt_block {
    struct kt_block *next;
    void *host, *device;
    void *mapped; /* instead of device: so many bytes */
    size_t mapped_bytes;
} kt_block;

static uint64_t next_random(kt *t) /* splitmix64 */
{
    uint64_t z = t->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
double kt_uniform(kt *t, double low, double high) { return low + (high - low) * (double)(next_random(t) >> 11) * 0x1p-53; }
double kt_normal(kt *t) { return sqrt(-2 * log(1 - kt_uniform(t, 0, 1))) * cos(6.283185307179586 * kt_uniform(t, 0, 1)); }
int kt_below(kt *t, int n) { return (int)(next_random(t) % (unsigned)n); }

void kt_fail(kt *t, const char *format, ...)
{
    if (t->failures++ >= MOST_REPORTS) return;
    va_list args;
    va_start(args, format);
    printf("FAIL %s %s act %s seed %llu: ", t->row->name, t->variant, plp_dtype_name(t->act), (unsigned long long)t->seed);
    vprintf(format, args);
    printf("\n");
    va_end(args);
}

bool kt_ok(kt *t, plp_status status)
{
    if (status != PLP_OK) kt_fail(t, "status %s: %s", plp_status_name(status), plp_last_error());
    return status == PLP_OK;
}

static kt_block *block(kt *t)
{
    kt_block *b = calloc(1, sizeof *b);
    if (!b) abort(); /* a test machine without memory tests nothing */
    b->next = t->blocks;
    return t->blocks = b;
}

void *kt_host(kt *t, size_t bytes)
{
    kt_block *b = block(t);
    if (!(b->host = calloc(1, bytes + 1))) abort();
    return b->host;
}

/* Memory of the CPU's backend that ends where a page begins that nobody may touch: whoever reads or writes behind it is stopped, in a build
 * with checks of its own or without.  Elements are aligned, and no more than that. */
static void *before_a_fence(kt *t, const void *host, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    kt_block *b = block(t);
    b->mapped_bytes = whole + page;
    b->mapped = mmap(NULL, b->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->mapped == MAP_FAILED || mprotect((char *)b->mapped + whole, page, PROT_NONE) != 0) abort();
    void *p = (char *)b->mapped + whole - bytes;
    if (bytes > 0) memcpy(p, host, bytes);
    return p;
}

void *kt_upload(kt *t, const void *host, size_t bytes)
{
    if (t->kn == kn_cpu()) return before_a_fence(t, host, bytes);
    kt_block *b = block(t);
    if (kt_ok(t, t->kn->alloc(t->c, &b->device, bytes))) kt_ok(t, t->kn->to_device(t->c, b->device, host, bytes));
    kt_ok(t, t->kn->sync(t->c));
    return b->device;
}

double kt_round(plp_dtype dtype, double v)
{
    const float f = (float)v;
    if (dtype == PLP_BF16) return plp_bf16_to_f32(plp_f32_to_bf16(f));
    return dtype == PLP_F16 ? plp_f16_to_f32(plp_f32_to_f16(f)) : f;
}

static void narrow(const kt_array *a, void *stored)
{
    for (size_t i = 0; i < a->n; i++) {
        const float f = (float)(a->v[i] = kt_round(a->dtype, a->v[i]));
        plp_convert((char *)stored + i * plp_dtype_size(a->dtype), a->dtype, &f, PLP_F32, 1);
    }
}

void kt_put(kt *t, kt_array *a)
{
    const size_t bytes = a->n * plp_dtype_size(a->dtype);
    void *stored = kt_host(t, bytes);
    narrow(a, stored);
    if (!a->p)
        a->p = kt_upload(t, stored, bytes);
    else
        kt_ok(t, t->kn->to_device(t->c, a->p, stored, bytes));
    kt_ok(t, t->kn->sync(t->c));
}

kt_array kt_nan(kt *t, plp_dtype dtype, size_t n)
{
    kt_array a = { .dtype = dtype, .n = n, .v = kt_host(t, n * sizeof(double)) };
    for (size_t i = 0; i < n; i++) a.v[i] = NAN;
    kt_put(t, &a);
    return a;
}

kt_array kt_random(kt *t, plp_dtype dtype, size_t n, double mean, double deviation)
{
    kt_array a = { .dtype = dtype, .n = n, .v = kt_host(t, n * sizeof(double)) };
    for (size_t i = 0; i < n; i++) a.v[i] = mean + deviation * kt_normal(t);
    kt_put(t, &a);
    return a;
}

kt_array kt_matrix(kt *t, plp_dtype dtype, int rows, int columns, int ld, double deviation)
{
    kt_array a = { .dtype = dtype, .n = (size_t)rows * (size_t)ld, .v = kt_host(t, (size_t)rows * (size_t)ld * sizeof(double)) };
    for (size_t i = 0; i < a.n; i++) a.v[i] = (int)(i % (size_t)ld) < columns ? deviation * kt_normal(t) : NAN;
    kt_put(t, &a);
    return a;
}

bool kt_near(const kt *t, plp_dtype stored, double got, double want)
{
    static const double half_unit[] = { [PLP_F32] = 0, [PLP_BF16] = 0x1p-8, [PLP_F16] = 0x1p-11 };
    if (isnan(want) || isnan(got)) return isnan(want) && isnan(got);
    if (isinf(want)) return got == want;
    return fabs(got - want) <= t->row->atol + (t->row->rtol + half_unit[stored]) * fabs(want);
}

void kt_expect(kt *t, const char *what, const kt_array *a, const double *want)
{
    const size_t size = plp_dtype_size(a->dtype);
    char *got = kt_host(t, a->n * size);
    kt_ok(t, t->kn->sync(t->c));
    if (!kt_ok(t, t->kn->to_host(t->c, got, a->p, a->n * size)) || !kt_ok(t, t->kn->sync(t->c))) return;
    for (size_t i = 0; i < a->n; i++) {
        float f;
        plp_convert(&f, PLP_F32, got + i * size, a->dtype, 1);
        if (!kt_near(t, a->dtype, f, want[i])) kt_fail(t, "%s[%zu] is %.9g, want %.9g", what, i, f, want[i]);
    }
}

void kt_expect_blocks(kt *t, const char *what, const kt_array *a, const double *want, size_t block, double limit)
{
    const size_t size = plp_dtype_size(a->dtype);
    char *got = kt_host(t, a->n * size);
    kt_ok(t, t->kn->sync(t->c));
    if (!kt_ok(t, t->kn->to_host(t->c, got, a->p, a->n * size)) || !kt_ok(t, t->kn->sync(t->c))) return;
    for (size_t from = 0; from < a->n; from += block) {
        double error = 0, norm = 0;
        for (size_t i = from; i < from + block && i < a->n; i++) {
            float f;
            plp_convert(&f, PLP_F32, got + i * size, a->dtype, 1);
            if (isnan(f) != isnan(want[i])) kt_fail(t, "%s[%zu] is %.9g, want %.9g", what, i, f, want[i]);
            if (isnan(f) || isnan(want[i])) continue;
            error += (f - want[i]) * (f - want[i]);
            norm += want[i] * want[i];
        }
        if (!(sqrt(error) <= limit * sqrt(norm)))
            kt_fail(t, "%s[%zu..] is off by %.3g of its size, limit %.3g", what, from, sqrt(error / norm), limit);
    }
}

/* ---------------------------------------------------------------------------------------------------------------- batches */
kt_batch kt_sequences(kt *t, int decodes, int seqs, const int *length, const int64_t *past)
{
    kt_batch k = { .slots = 2 * seqs + 3 };
    int *start = kt_host(t, (size_t)(seqs + 1) * sizeof *start), *src = kt_host(t, (size_t)seqs * sizeof *src);
    int *dst = kt_host(t, (size_t)seqs * sizeof *dst), *order = kt_host(t, (size_t)k.slots * sizeof *order);
    for (int i = 0; i < k.slots; i++) { /* a shuffle */
        const int j = kt_below(t, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    int shared = -1; /* a slot that several sequences start from, as after a hit in the prefix cache */
    for (int s = 0; s < seqs; s++) {
        start[s + 1] = start[s] + length[s];
        dst[s] = order[2 * s];
        src[s] = s % 3 == 0 ? dst[s] : order[2 * s + 1];
        if (s % 3 == 2 && past[s] > 0) {
            if (shared < 0) shared = src[s];
            src[s] = shared;
        }
    }
    k.start = start, k.src = src, k.dst = dst, k.past = past;
    k.b = (kn_batch){ .tokens = start[seqs],
                      .seqs = seqs,
                      .decodes = decodes,
                      .start = kt_upload(t, start, (size_t)(seqs + 1) * sizeof *start),
                      .src_slot = kt_upload(t, src, (size_t)seqs * sizeof *src),
                      .dst_slot = kt_upload(t, dst, (size_t)seqs * sizeof *dst),
                      .past = kt_upload(t, past, (size_t)seqs * sizeof *past),
                      .host_start = start,
                      .host_past = past };
    return k;
}

kt_batch kt_ragged(kt *t, int pattern)
{
    static const struct {
        int decodes, seqs, length[20];
        int64_t past[20];
    } mix[KT_PATTERNS] = {
        [KT_ONE] = { 0, 1, { 1 }, { 0 } },
        [KT_DECODE] = { 17,
                        17,
                        { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 },
                        { 0, 1, 2, 3, 4, 7, 63, 64, 1000, 5, 6, 0, 9, 10, 11, 12, (int64_t)1 << 33 } },
        [KT_SHORT] = { 3, 9, { 1, 1, 1, 1, 2, 3, 15, 16, 17 }, { 9, 0, 1, 0, 1, 2, 0, 16, 31 } },
        [KT_TILES] = { 0, 6, { 63, 64, 65, 1, 2, 33 }, { 0, 64, 0, 63, 3, 100 } },
        [KT_LONG] = { 1, 4, { 1, 255, 256, 257 }, { 300, 0, 511, 100 } },
        [KT_CUT] = { 0, 3, { 800, 1, 150 }, { 37, 64, 0 } },
    };
    return kt_sequences(t, mix[pattern].decodes, mix[pattern].seqs, mix[pattern].length, mix[pattern].past);
}

kt_array kt_state(kt *t, const kt_batch *b, plp_dtype dtype, size_t elements)
{
    kt_array a = kt_nan(t, dtype, (size_t)b->slots * elements);
    for (int s = 0; s < b->b.seqs; s++)
        for (size_t i = 0; i < elements && b->past[s] > 0; i++) a.v[(size_t)b->src[s] * elements + i] = kt_normal(t);
    kt_put(t, &a);
    return a;
}

kt_ready kt_ready_make(kt *t, int step, const kt_array *residual, const kt_array *norm)
{
    const size_t hidden = norm->n, most = step > KN_MIXER_ROWS ? (hidden + 255) / 256 : 50; /* parts: a GPU may read no more */
    kt_ready r = { .x = kt_nan(t, PLP_BF16, residual->n), .squares = kt_nan(t, PLP_F32, KN_READY_SQUARES) };
    for (size_t i = 0; i < r.squares.n; i++) r.squares.v[i] = 0;
    for (size_t i = 0; i < residual->n; i++) {
        const double v = residual->v[i];
        r.x.v[i] = v * norm->v[i % hidden];
        r.squares.v[kn_ready_at(step, (int)(i / hidden), (int)(i % most))] += v * v;
    }
    kt_put(t, &r.x);
    kt_put(t, &r.squares);
    r.r = (kn_ready){ .x = r.x.p, .squares = r.squares.p };
    return r;
}

void kt_expect_ready(kt *t, int step, const kt_ready *ready, const float *residual, const kt_array *norm)
{
    const size_t hidden = norm->n, rows = ready->x.n / hidden;
    double *x = kt_host(t, ready->x.n * sizeof *x);
    const float *parts = kt_fetch(t, &ready->squares);
    for (size_t i = 0; i < ready->x.n; i++) x[i] = residual[i] * norm->v[i % hidden];
    kt_expect(t, "ready for the next norm", &ready->x, x);
    for (size_t r = 0; r < rows; r++) {
        double got = 0, want = 0;
        for (int i = 0; i < KN_READY_PARTS; i++) got += parts[kn_ready_at(step, (int)r, i)];
        for (size_t i = 0; i < hidden; i++) want += (double)residual[r * hidden + i] * residual[r * hidden + i];
        if (!(fabs(got - want) <= 1e-5 * want)) kt_fail(t, "squares of row %zu add up to %.9g, not %.9g", r, got, want);
    }
}

void kt_twin_make(kt *t, kt_twin *twin)
{
    enum { WORDS = 1 << 18 };
    twin->inbox = kt_nan(t, PLP_F32, (size_t)(2 * 2 * 2 * WORDS));
    twin->count = kt_nan(t, PLP_F32, 2);
    kt_ok(t, t->kn->fill(t->c, twin->inbox.p, 0, twin->inbox.n * sizeof(float)));
    kt_ok(t, t->kn->fill(t->c, twin->count.p, 0, twin->count.n * sizeof(float)));
    twin->x = (kn_exchange){ .size = 2, .words = WORDS, .count = twin->count.p };
    twin->x.inbox[0] = twin->inbox.p, twin->x.inbox[1] = (uint64_t *)twin->inbox.p + WORDS;
}

void kt_expect_twin(kt *t, const kt_twin *twin, uint32_t exchanges)
{
    uint32_t count[2];
    memcpy(count, kt_fetch(t, &twin->count), sizeof count);
    if (count[0] != 0 || count[1] != exchanges) kt_fail(t, "%u exchanges and %u blocks, not %u and none", count[1], count[0], exchanges);
}

void kt_end_row(kt *t)
{
    while (t->blocks) {
        kt_block *b = t->blocks;
        t->blocks = b->next;
        if (b->device) t->kn->release(t->c, &b->device);
        if (b->mapped) munmap(b->mapped, b->mapped_bytes);
        free(b->host);
        free(b);
    }
}

kt_batch kt_decodes(kt *t, int rows)
{
    int *length = kt_host(t, (size_t)rows * sizeof *length);
    int64_t *past = kt_host(t, (size_t)rows * sizeof *past);
    for (int r = 0; r < rows; r++) {
        length[r] = 1;
        past[r] = r % 4 == 2 ? 0 : 1 + kt_below(t, 1000);
    }
    return kt_sequences(t, rows, rows, length, past);
}

float *kt_fetch(kt *t, const kt_array *a)
{
    float *got = kt_host(t, a->n * sizeof *got);
    kt_ok(t, t->kn->to_host(t->c, got, a->p, a->n * sizeof *got));
    kt_ok(t, t->kn->sync(t->c));
    return got;
}

void kt_expect_norm(kt *t, const char *what, const float *got, const double *want, int n, double limit)
{
    double wrong = 0, all = 0;
    for (int i = 0; i < n; i++) {
        wrong += (got[i] - want[i]) * (got[i] - want[i]);
        all += want[i] * want[i];
    }
    if (!(wrong <= limit * limit * all)) kt_fail(t, "%s is off by %.3g of its norm, at most %.3g", what, sqrt(wrong / all), limit);
}

void kt_expect_same(kt *t, const char *what, const float *got, const float *want, int n)
{
    for (int i = 0; i < n; i++)
        if (isnan(want[i]) || got[i] != want[i]) kt_fail(t, "%s: residual[%d] is %.9g, together %.9g", what, i, got[i], want[i]);
}
