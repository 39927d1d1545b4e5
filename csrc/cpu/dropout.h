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

typedef uint32_t vu __attribute__((vector_size(4 * REGARD_VW)));
typedef uint32_t vu_unaligned __attribute__((vector_size(4 * REGARD_VW), aligned(4), may_alias));

static inline vu splat(uint32_t x) { return reinterpret_cast<vu>(splat(static_cast<int32_t>(x))); }

static __attribute__((noinline)) void philox_64(const uint32_t key[2], uint32_t block, uint32_t c1, uint32_t c2,
                                                uint32_t c3, uint32_t* out) {
#pragma omp simd
  for (uint32_t i = 0; i < 16; ++i) {
    uint32_t x0 = block * 16 + i, x1 = c1, x2 = c2, x3 = c3, k0 = key[0], k1 = key[1];
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const uint32_t a_high = static_cast<uint32_t>((uint64_t{x0} * 0xD2511F53u) >> 32), a_low = x0 * 0xD2511F53u;
      const uint32_t b_high = static_cast<uint32_t>((uint64_t{x2} * 0xCD9E8D57u) >> 32), b_low = x2 * 0xCD9E8D57u;
      x0 = b_high ^ x1 ^ k0, x1 = b_low;
      x2 = a_high ^ x3 ^ k1, x3 = a_low;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[i] = x0, out[16 + i] = x1, out[32 + i] = x2, out[48 + i] = x3;
  }
}

// y[c] = x[c] * keep(column + c) / (1 - p) for c < n; `column` is a multiple of 64. x and y may be the same.
static inline void dropout_columns(const Dropout& d, int64_t column, int64_t n, uint32_t c1, uint32_t c2, uint32_t c3,
                                   const float* x, float* y) {
  uint32_t random[64];
  const vu threshold = splat(d.threshold);
  for (int64_t c = 0; c < n; c += 64) {
    philox_64(d.key, static_cast<uint32_t>((column + c) / 64), c1, c2, c3, random);
    const int64_t width = at_most(64, n - c);
    for (int64_t i = 0; i < width; i += VW) {
      const int64_t lanes_left = at_most(VW, width - i);
      const vi keep = *reinterpret_cast<const vu_unaligned*>(random + i) >= threshold;
      store_first(y + c + i, keep ? load_first(x + c + i, lanes_left) * splat(d.scale) : splat(0.0f), lanes_left);
    }
  }
}

static void dropout(const Dropout& d, const float* x, int64_t width, float* y, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row)
    dropout_columns(d, 0, width, static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), 0, x + row * width,
                    y + row * width);
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
