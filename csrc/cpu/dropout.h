// Dropout from a counter-based generator: whether an element is kept depends on a key and on the element's place alone.
//
// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). One call with 16 neighbouring
// counters gives the 64 numbers of 64 neighbouring columns: column c takes word (c / 16) % 4 of counter
// (c / 64) * 16 + c % 16. An element is kept when its number is at least p * 2^32, and is multiplied by 1 / (1 - p).
#pragma once
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

static __attribute__((noinline)) void philox_64(const uint32_t key[2], uint32_t block, uint32_t c1, uint32_t c2,
                                                uint32_t c3, uint32_t out[64]) {
  uint32_t x0[16], x1[16], x2[16], x3[16];
  for (uint32_t i = 0; i < 16; ++i) x0[i] = block * 16 + i, x1[i] = c1, x2[i] = c2, x3[i] = c3;
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int i = 0; i < 16; ++i) {
      const uint64_t a = uint64_t{x0[i]} * 0xD2511F53u, b = uint64_t{x2[i]} * 0xCD9E8D57u;
      x0[i] = static_cast<uint32_t>(b >> 32) ^ x1[i] ^ k0;
      x2[i] = static_cast<uint32_t>(a >> 32) ^ x3[i] ^ k1;
      x1[i] = static_cast<uint32_t>(b);
      x3[i] = static_cast<uint32_t>(a);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  memcpy(out, x0, sizeof x0);
  memcpy(out + 16, x1, sizeof x1);
  memcpy(out + 32, x2, sizeof x2);
  memcpy(out + 48, x3, sizeof x3);
}

// y[c] = x[c] * keep(column + c) / (1 - p) for c < n; `column` is a multiple of 64. x and y may be the same.
static inline void dropout_columns(const Dropout& d, int64_t column, int64_t n, uint32_t c1, uint32_t c2, uint32_t c3,
                                   const float* x, float* y) {
  uint32_t random[64];
  for (int64_t c = 0; c < n; c += 64) {
    philox_64(d.key, static_cast<uint32_t>((column + c) / 64), c1, c2, c3, random);
    const int64_t width = at_most(64, n - c);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[c + i] = random[i] >= d.threshold ? x[c + i] * d.scale : 0.0f;
  }
}

static void dropout(const Dropout& d, const float* x, int64_t width, float* y, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row)
    dropout_columns(d, 0, width, static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), 0, x + row * width,
                    y + row * width);
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
