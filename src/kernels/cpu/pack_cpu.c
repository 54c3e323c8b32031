#include "kernels/cpu/context_cpu.h"
#include "kernels/cpu/linear_cpu.h"
#include "kernels/cpu/simd.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

typedef uint32_t line __attribute__((vector_size(KN_PANEL * sizeof(uint32_t))));

/* 16 by 16 words, as a network of perfect shuffles: four times, rows i and i + 8 become 2i and 2i + 1, element by element in turn. */
KN_INLINE void transpose_square(char *restrict to, const char *restrict from, size_t ld)
{
    line a[KN_PANEL], b[KN_PANEL];
    for (int r = 0; r < KN_PANEL; r++) memcpy(&a[r], from + (size_t)r * ld, sizeof a[r]);
#pragma GCC unroll 2
    for (int twice = 0; twice < 2; twice++) {
#pragma GCC unroll 8
        for (int i = 0; i < KN_PANEL / 2; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
#pragma GCC unroll 8
        for (int i = 0; i < KN_PANEL / 2; i++) {
            a[2 * i] = __builtin_shufflevector(b[i], b[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            a[2 * i + 1] = __builtin_shufflevector(b[i], b[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
    }
    for (int r = 0; r < KN_PANEL; r++) memcpy(to + (size_t)r * sizeof a[r], &a[r], sizeof a[r]);
}

/* (rows, columns) of elements of `size` bytes, `ld` bytes from row to row, transposed to `to`. */
KN_CLONES static void transpose(char *restrict to, const char *restrict from, size_t ld, int rows, int columns, size_t size)
{
    int i = 0;
    if (rows == KN_PANEL && size == sizeof(uint32_t))
        for (; i + KN_PANEL <= columns; i += KN_PANEL) transpose_square(to + (size_t)i * sizeof(line), from + (size_t)i * size, ld);
    for (; i < columns; i++)
        for (int r = 0; r < rows; r++)
            memcpy(to + ((size_t)i * (size_t)rows + (size_t)r) * size, from + (size_t)r * ld + (size_t)i * size, size);
}

plp_status kn_pack_cpu(kn_context *c, void *w, int64_t n, int k, plp_dtype dtype, bool *done)
{
    const size_t size = plp_dtype_size(dtype), row = (size_t)k * size, word = dtype == PLP_BF16 ? 2 * size : size;
    const int threads = kn_threads(c, (double)n * k), words = (int)(row / word);
    char *copies;
    *done = c->level != KN_PLAIN;
    if (!*done || n == 0 || k == 0) return PLP_OK;
    PLP_TRY(PLP_ALLOCATED(copies = malloc((size_t)threads * KN_PANEL * row)));
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < n; first += KN_PANEL) {
        const int rows = n - first < KN_PANEL ? (int)(n - first) : KN_PANEL;
        char *panel = (char *)w + (size_t)first * row, *copy = copies + (size_t)omp_get_thread_num() * KN_PANEL * row;
        memcpy(copy, panel, (size_t)rows * row);
        transpose(panel, copy, row, rows, words, word);
        if (row % word) transpose(panel + (size_t)rows * (size_t)words * word, copy + (size_t)words * word, row, rows, 1, size);
    }
    free(copies);
    return PLP_OK;
}

void kn_unpack_row(float *out, const void *w, int64_t n, int k, plp_dtype dtype, int64_t row)
{
    const int64_t first = row / KN_PANEL * KN_PANEL;
    const size_t rows = (size_t)(n - first < KN_PANEL ? n - first : KN_PANEL), r = (size_t)(row - first), size = plp_dtype_size(dtype);
    const char *panel = (const char *)w + (size_t)first * (size_t)k * size;
    if (dtype != PLP_BF16) {
        for (int i = 0; i < k; i++) plp_convert(out + i, PLP_F32, panel + ((size_t)i * rows + r) * size, dtype, 1);
        return;
    }
    const uint16_t *p = (const uint16_t *)panel;
    for (int i = 0; i + 1 < k; i += 2)
        for (int j = 0; j < 2; j++) out[i + j] = plp_bf16_to_f32(p[(size_t)i * rows + 2 * r + (size_t)j]);
    if (k % 2) out[k - 1] = plp_bf16_to_f32(p[(size_t)(k - 1) * rows + r]);
}
