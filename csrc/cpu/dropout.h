// Dropout from a counter-based generator: whether an element is kept depends on a key and on the element's place alone.
//
// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). One call with 16 neighbouring
// counters gives the 64 numbers of 64 neighbouring columns: column c takes word (c / 16) % 4 of counter
// (c / 64) * 16 + c % 16. An element is kept when its number is at least p * 2^32, and is multiplied by 1 / (1 - p).
#pragma once
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

typedef uint32_t vu_unaligned __attribute__((vector_size(4 * REGARD_VW), aligned(4), may_alias));

static inline vu splat(uint32_t x) { return reinterpret_cast<vu>(splat(static_cast<int32_t>(x))); }

typedef uint64_t vq_unaligned __attribute__((vector_size(4 * REGARD_VW), aligned(4), may_alias));

// Products of the low halves of 64-bit lanes. An intrinsic, since GCC makes a 64-bit multiplication of it
// otherwise; with a mask, since GCC 12 warns of its own header without.
static inline vq multiply_low_halves(vq a, vq b) {
#if REGARD_VW == 16
  return reinterpret_cast<vq>(_mm512_maskz_mul_epu32(0xFF, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif REGARD_VW == 8
  return reinterpret_cast<vq>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<vq>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

static __attribute__((noinline)) void philox_64(const uint32_t key[2], uint32_t block, uint32_t c1, uint32_t c2,
                                                uint32_t c3, uint32_t* out) {
  const vq low = vq{} + 0xFFFFFFFFu, a = vq{} + 0xD2511F53u, b = vq{} + 0xCD9E8D57u;
  for (uint32_t i = 0; i < 16; i += VW) {
    // Words of the even and of the odd counters lie in the low halves of 64-bit lanes, as products need them; what is
    // in the high halves never matters.
    vq x[2][4], k0 = vq{} + key[0], k1 = vq{} + key[1];
#pragma GCC unroll 2
    for (uint32_t odd = 0; odd < 2; ++odd)
      x[odd][0] = reinterpret_cast<vq>(lanes()) + (block * 16 + i + odd), x[odd][1] = vq{} + c1, x[odd][2] = vq{} + c2,
      x[odd][3] = vq{} + c3;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        const vq left = multiply_low_halves(x[odd][0], a), right = multiply_low_halves(x[odd][2], b);
        x[odd][0] = (right >> 32) ^ x[odd][1] ^ k0, x[odd][1] = right;
        x[odd][2] = (left >> 32) ^ x[odd][3] ^ k1, x[odd][3] = left;
      }
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
#pragma GCC unroll 4
    for (int word = 0; word < 4; ++word)
      *reinterpret_cast<vq_unaligned*>(out + 16 * word + i) = (x[0][word] & low) | (x[1][word] << 32);
  }
}

// body(c, keep) for each vector of the n columns from `column` on, a multiple of 64: keep is -1 or 0 in each lane.
template <class F>
static inline void each_keep(const Dropout& d, int64_t column, int64_t n, uint32_t c1, uint32_t c2, uint32_t c3,
                             F&& body) {
  uint32_t random[64];
  const vu threshold = splat(d.threshold);
  for (int64_t c = 0; c < n; c += 64) {
    philox_64(d.key, static_cast<uint32_t>((column + c) / 64), c1, c2, c3, random);
    for (int64_t i = 0; i < at_most(64, n - c); i += VW)
      body(c + i, *reinterpret_cast<const vu_unaligned*>(random + i) >= threshold);
  }
}

// y[c] = x[c] * keep(c) / (1 - p) for row `row` of a matrix. x and y may be the same.
static inline void dropout_row(const Dropout& d, int64_t row, int64_t width, const float* x, float* y) {
  const vf scale = splat(d.scale);
  each_keep(d, 0, width, static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), 0, [&](int64_t c, vi keep) {
    const int64_t n = at_most(VW, width - c);
    store_first(y + c, keep ? load_first(x + c, n) * scale : splat(0.0f), n);
  });
}

static void dropout(const Dropout& d, const float* x, int64_t width, float* y, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) dropout_row(d, row, width, x + row * width, y + row * width);
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
