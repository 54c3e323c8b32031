/* src/base/sha256.h -- SHA-256 (FIPS 180-4): digests of files and manifests. */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { PLP_SHA256_BYTES = 32, PLP_SHA256_HEX = 65 /* 64 digits and a NUL */ };

typedef struct {
    uint32_t state[8];
    uint64_t bytes;    /* taken so far            */
    uint8_t block[64]; /* bytes % 64 of them wait */
} plp_sha256_stream;

void plp_sha256_init(plp_sha256_stream *s);
void plp_sha256_update(plp_sha256_stream *s, const void *data, size_t bytes);
void plp_sha256_final(plp_sha256_stream *s, uint8_t out[PLP_SHA256_BYTES]);

void plp_sha256(const void *data, size_t bytes, uint8_t out[PLP_SHA256_BYTES]);
/* A digest as lower-case digits. */
void plp_sha256_hex(const uint8_t digest[PLP_SHA256_BYTES], char hex[PLP_SHA256_HEX]);

#endif
