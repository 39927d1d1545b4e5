// bfloat16: conversion, and the product of two matrices with float32 sums.
//
// C[m][n] (+)= sum_k A[m][k] B[k][n]. A lies row by row; B in pairs, [k / 2][n][2]: what dot-product instructions and
// matrix tiles want. The depth may come in several parts of equal size, each with an A and a B of its own, so that one
// sum in registers runs through all of them.
#pragma once
#include "cpu/tile.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(REGARD_TILES_BY_HAND)
#include "tiles_by_hand.h"
#endif

namespace regard {
namespace REGARD_ISA_ID {

typedef uint16_t bf16;

constexpr int64_t kTileRows = 16;     // of a matrix tile: 16 rows of 64 bytes
constexpr int64_t kProductStep = 32;  // rows of A and columns of B are readable, and the depth is cut, in steps of this

static inline bf16 bf16_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>((bits >> 16) | 0x40u);  // NaN stays one
  return static_cast<bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
static inline float float_of(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float y;
  memcpy(&y, &bits, sizeof y);
  return y;
}

// 32 floats rounded to the nearest, ties to even.
typedef uint16_t vh __attribute__((vector_size(64)));
typedef uint16_t vh_unaligned __attribute__((vector_size(64), aligned(2), may_alias));
static inline vh load_bf16(const bf16* p) { return *reinterpret_cast<const vh_unaligned*>(p); }
static inline void store_bf16(bf16* p, vh x) { *reinterpret_cast<vh_unaligned*>(p) = x; }
static inline void round_to_bf16(const float* x, bf16* y) {
#if defined(__AVX512BF16__)
  const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
  memcpy(y, &both, sizeof both);
#else
  for (int64_t i = 0; i < 32; ++i) y[i] = bf16_of(x[i]);
#endif
}

// Rows r and r + 1, 32 columns each, as pairs.
static inline void store_pairs(vh first, vh second, bf16* out) {
  store_bf16(out, __builtin_shufflevector(first, second, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40,
                                          9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47));
  store_bf16(out + 32, __builtin_shufflevector(first, second, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54,
                                               23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63));
}

struct Factors {  // A (m, depth) and B (depth, n) in `count` parts of the depth
  const bf16 *const *a, *const *b;
  int64_t count, a_row, b_row;  // a_row: in elements; b_row: from one row of pairs to the next, in pairs
};

// ---- matrix tiles -----------------------------------------------------------------------------------------------

#if defined(__AMX_BF16__) || defined(REGARD_TILES_BY_HAND)

// GCC's tile instructions do not say which memory they read: without this, what was stored for them may come too late.
static inline void memory_is_read(const void* p) { __asm__ volatile("" ::"r"(p) : "memory"); }

namespace {
struct Tiles {  // what a thread does before and after it uses tiles
  Tiles() {
    struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t bytes_per_row[16];
      uint8_t rows[16];
    } config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; ++i) config.bytes_per_row[i] = 64, config.rows[i] = static_cast<uint8_t>(kTileRows);
    memory_is_read(&config);
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
};
}  // namespace

static __attribute__((noinline)) void product(int64_t m, int64_t n, int64_t depth, const Factors& f, float* c,
                                              int64_t c_row, Into into) {
  memory_is_read(&f);
  alignas(64) float stage[2 * kTileRows * 2 * kTileRows];
  for (int64_t i = 0; i < m; i += 2 * kTileRows)
    for (int64_t j = 0; j < n; j += 2 * kTileRows) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      const size_t a_bytes = static_cast<size_t>(f.a_row) * sizeof(bf16), b_bytes = static_cast<size_t>(f.b_row) * 4;
      for (int64_t part = 0; part < f.count; ++part)
        for (int64_t k = 0; k < depth; k += kProductStep) {
          const bf16* a = f.a[part] + i * f.a_row + k;
          const bf16* b = f.b[part] + (k / 2 * f.b_row + j) * 2;
          _tile_loadd(4, a, a_bytes);
          _tile_loadd(5, a + kTileRows * f.a_row, a_bytes);
          _tile_loadd(6, b, b_bytes);
          _tile_loadd(7, b + 2 * kTileRows, b_bytes);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      constexpr size_t kRow = 2 * kTileRows * sizeof(float);
      _tile_stored(0, stage, kRow);
      _tile_stored(1, stage + kTileRows, kRow);
      _tile_stored(2, stage + 2 * kTileRows * kTileRows, kRow);
      _tile_stored(3, stage + 2 * kTileRows * kTileRows + kTileRows, kRow);
      for (int64_t r = 0; r < at_most(2 * kTileRows, m - i); ++r)
        for (int64_t v = 0; v < at_most(2 * kTileRows, n - j); v += VW) {
          float* out = c + (i + r) * c_row + j + v;
          const int64_t lanes_left = at_most(VW, n - j - v);
          vf x = load(stage + r * 2 * kTileRows + v);
          if (into != kFresh) x += load_first(out, lanes_left);
          store_first(out, x, lanes_left);
        }
    }
}

// ---- dot products -----------------------------------------------------------------------------------------------

#elif defined(__AVX512BF16__)

namespace {
struct Tiles {  // nothing to do
  Tiles() {}
};
}  // namespace

template <int64_t ROWS, int64_t VECTORS>
static inline void product_tile(int64_t depth, const Factors& f, int64_t row, int64_t column, float* c, int64_t c_row,
                                Into into) {
  __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t v = 0; v < VECTORS; ++v)
      sum[i][v] = into == kFresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * c_row + v * VW);
  for (int64_t part = 0; part < f.count; ++part) {
    const bf16* a = f.a[part] + row * f.a_row;
    const bf16* b = f.b[part] + column * 2;
    for (int64_t k = 0; k < depth; k += 2, a += 2, b += f.b_row * 2) {
      __m512bh right[VECTORS];
#pragma GCC unroll 4
      for (int64_t v = 0; v < VECTORS; ++v) right[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + v * 2 * VW));
#pragma GCC unroll 16
      for (int64_t i = 0; i < ROWS; ++i) {
        int32_t pair;
        memcpy(&pair, a + i * f.a_row, sizeof pair);
        const __m512bh left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
#pragma GCC unroll 4
        for (int64_t v = 0; v < VECTORS; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t v = 0; v < VECTORS; ++v) _mm512_storeu_ps(c + i * c_row + v * VW, sum[i][v]);
}

template <int64_t VECTORS>
static inline void product_rows(int64_t rows, int64_t depth, const Factors& f, int64_t row, int64_t column, float* c,
                                int64_t c_row, Into into) {
#define REGARD_TILE(R)                                               \
  case R:                                                            \
    product_tile<R, VECTORS>(depth, f, row, column, c, c_row, into); \
    break;
  switch (rows) {
    REGARD_UP_TO_12(REGARD_TILE)
    default:
      break;
  }
#undef REGARD_TILE
}

static __attribute__((noinline)) void product(int64_t m, int64_t n, int64_t depth, const Factors& f, float* c,
                                              int64_t c_row, Into into) {
  for (int64_t i = 0; i < m; i += MR) {
    const int64_t rows = at_most(MR, m - i);
    float* out = c + i * c_row;
    int64_t j = 0;
    for (; j + NV * VW <= n; j += NV * VW) product_rows<NV>(rows, depth, f, i, j, out + j, c_row, into);
    for (; j + VW <= n; j += VW) product_rows<1>(rows, depth, f, i, j, out + j, c_row, into);
    if (j == n) continue;
    float edge[MR * VW] = {0};
    if (into != kFresh)
      for (int64_t r = 0; r < rows; ++r) store(edge + r * VW, load_first(out + r * c_row + j, n - j));
    product_rows<1>(rows, depth, f, i, j, edge, VW, into);
    for (int64_t r = 0; r < rows; ++r) store_first(out + r * c_row + j, load(edge + r * VW), n - j);
  }
}

#endif

}  // namespace REGARD_ISA_ID
}  // namespace regard
