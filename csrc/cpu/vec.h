// One vector of floats in the widest register of the instruction set, and exp on it.
//
// GCC/Clang vector types; arithmetic and comparisons are the operators of the language. Only C headers here: see rule 3
// of docs/architecture.md (an inline library function compiled for a wide machine may end up serving every machine).
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define REGARD_VW 16
#elif defined(__AVX__)
#define REGARD_VW 8
#else
#define REGARD_VW 4
#endif

namespace regard {
namespace REGARD_ISA_ID {

constexpr int64_t VW = REGARD_VW;

typedef float vf __attribute__((vector_size(4 * REGARD_VW)));
typedef int32_t vi __attribute__((vector_size(4 * REGARD_VW)));
typedef uint32_t vu __attribute__((vector_size(4 * REGARD_VW)));
typedef double vd __attribute__((vector_size(4 * REGARD_VW), may_alias));
typedef uint64_t vq __attribute__((vector_size(4 * REGARD_VW)));
typedef float vf_unaligned __attribute__((vector_size(4 * REGARD_VW), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(4 * REGARD_VW), aligned(4), may_alias));

static inline vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
static inline void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }

static inline vf splat(float x) {
#if REGARD_VW == 16
  return vf{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif REGARD_VW == 8
  return vf{x, x, x, x, x, x, x, x};
#else
  return vf{x, x, x, x};
#endif
}

static inline vi splat(int32_t x) {
#if REGARD_VW == 16
  return vi{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif REGARD_VW == 8
  return vi{x, x, x, x, x, x, x, x};
#else
  return vi{x, x, x, x};
#endif
}

static inline vi lanes() {
#if REGARD_VW == 16
  return vi{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif REGARD_VW == 8
  return vi{0, 1, 2, 3, 4, 5, 6, 7};
#else
  return vi{0, 1, 2, 3};
#endif
}

// The first n lanes of x, `other` in the rest.
static inline vf first_lanes(vf x, int64_t n, vf other) { return lanes() < splat(static_cast<int32_t>(n)) ? x : other; }

// Reads and writes n <= VW floats and nothing beside them.
static inline vf load_first(const float* p, int64_t n) {
  if (n == VW) return load(p);
  float buffer[VW] = {0};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
static inline void store_first(float* p, vf x, int64_t n) {
  if (n == VW) return store(p, x);
  float buffer[VW];
  store(buffer, x);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

static inline vf vmax(vf a, vf b) { return a > b ? a : b; }

typedef float vf4 __attribute__((vector_size(16)));
typedef float vf4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

#if REGARD_VW == 16
typedef float vf8 __attribute__((vector_size(32)));
#define REGARD_FOLD(x, OP)                                                          \
  const vf8 half = OP(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),        \
                      __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15)); \
  const vf4 quarter =                                                               \
      OP(__builtin_shufflevector(half, half, 0, 1, 2, 3), __builtin_shufflevector(half, half, 4, 5, 6, 7))
#elif REGARD_VW == 8
#define REGARD_FOLD(x, OP) \
  const vf4 quarter = OP(__builtin_shufflevector(x, x, 0, 1, 2, 3), __builtin_shufflevector(x, x, 4, 5, 6, 7))
#else
#define REGARD_FOLD(x, OP) const vf4 quarter = x
#endif
#define REGARD_ADD(a, b) ((a) + (b))
#define REGARD_MAX(a, b) ((a) > (b) ? (a) : (b))

static inline float sum_lanes(vf x) {
  REGARD_FOLD(x, REGARD_ADD);
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}
static inline float max_lanes(vf x) {
  REGARD_FOLD(x, REGARD_MAX);
  const float a = REGARD_MAX(quarter[0], quarter[2]), b = REGARD_MAX(quarter[1], quarter[3]);
  return REGARD_MAX(a, b);
}

static inline __attribute__((always_inline)) vf exp_near_zero(vf r) {  // |r| <= ln2 / 2
  vf p = splat(0.001381446621800502f);
  p = p * r + splat(0.008368780485742659f);
  p = p * r + splat(0.04166839422861031f);
  p = p * r + splat(0.16666520107016242f);
  p = p * r + splat(0.4999999341241253f);
  return p * (r * r) + r + splat(1.0f);
}

// exp(x), relative error below 1e-7; 0 below -87.3 (no subnormals), +inf above 88.7, NaN for NaN.
//
// x = n ln2 + r with |r| <= ln2 / 2 (Cody and Waite: ln2 in two parts), exp(r) = 1 + r + r^2 P(r) with P fitted for the
// least relative error (3e-9). n is rounded by adding 1.5 * 2^23, whose low bits then are n.
static inline vf vexp(vf x) {
#if REGARD_VW == 16              // rounding and the exponent in one instruction each
  const __mmask16 all = 0xFFFF;  // the plain intrinsics begin with an undefined register, of which GCC 12 warns
  const vf clamped = _mm512_maskz_min_ps(all, splat(88.8f), x);  // keeps a NaN
  const vf n = _mm512_maskz_roundscale_ps(all, clamped * splat(1.44269504f), _MM_FROUND_TO_NEAREST_INT);
  vf r = clamped - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, splat(-87.3f), _CMP_NLT_UQ), exp_near_zero(r), n);
#else
  const vf magic = splat(12582912.0f);
  const vf clamped = x > splat(88.8f) ? splat(88.8f) : x;
  const vf shifted = clamped * splat(1.44269504f) + magic;
  const vf n = shifted - magic;
  vf r = clamped - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  // 2^n in two factors, so that n = 128 overflows to infinity by rounding and not by a wrong exponent.
  const vi k = reinterpret_cast<vi>(shifted) - splat(int32_t{0x4B400000});
  const vi half = k >> 1;
  const vi low = (half + splat(int32_t{127})) << 23, high = (k - half + splat(int32_t{127})) << 23;
  const vf y = exp_near_zero(r) * reinterpret_cast<vf>(low) * reinterpret_cast<vf>(high);
  return x < splat(-87.3f) ? splat(0.0f) : y;
#endif
}

// The same for x <= 0, as after the greatest is taken off, in three quarters of the time: without AVX-512 2^n is then
// one factor; with it 2^n 2^f, x / ln2 = n + f, with 1 / ln2 in two parts and a polynomial fitted to 2^f (9e-8). Above
// 0 it serves up to 88, beyond that the result is undefined.
static inline __attribute__((always_inline)) vf vexp_falling(vf x) {
#if REGARD_VW == 16
  const vf n = _mm512_maskz_roundscale_ps(0xFFFF, x * splat(1.44269504f), _MM_FROUND_TO_NEAREST_INT);
  const vf f = _mm512_fmadd_ps(x, splat(1.9259630e-8f), _mm512_fmsub_ps(x, splat(1.44269502f), n));
  vf p = splat(0.001326472954933929f);
  p = p * f + splat(0.009671513453881892f);
  p = p * f + splat(0.05550733745099803f);
  p = p * f + splat(0.2402224207297021f);
  p = p * f + splat(0.6931469775930954f);
  p = p * f + splat(1.0f);
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, splat(-87.3f), _CMP_NLT_UQ), p, n);
#else
  const vf magic = splat(12582912.0f), shifted = x * splat(1.44269504f) + magic, n = shifted - magic;
  vf r = x - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  const vu power = (reinterpret_cast<vu>(shifted) << 23) + (vu{} + (127U << 23));  // wraps where x is below -87.3
  const vf y = exp_near_zero(r) * reinterpret_cast<vf>(power);
  return x < splat(-87.3f) ? splat(0.0f) : y;
#endif
}

// The same to a relative error of 4e-6, where the result is rounded to bfloat16: 2^n 2^f with x / ln2 = n + f and a
// polynomial fitted to 2^f for the least relative error (2.6e-6). Below -100 it is exp(-100) at the most.
static inline vf vexp_short(vf x) {
#if REGARD_VW == 16
  const __mmask16 all = 0xFFFF;
  const vf t = _mm512_maskz_max_ps(all, splat(-100.0f), x) * splat(1.44269504f);  // keeps a NaN
  const vf n = _mm512_maskz_roundscale_ps(all, t, _MM_FROUND_TO_NEAREST_INT);
  const vf f = t - n;
  vf p = splat(0.009570102207362652f);
  p = p * f + splat(0.05591786280274391f);
  p = p * f + splat(0.240247443318367f);
  p = p * f + splat(0.6931217908859253f);
  p = p * f + splat(0.9999992847442627f);
  return _mm512_maskz_scalef_ps(all, p, n);
#else
  return vexp(x);
#endif
}

static inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace REGARD_ISA_ID
}  // namespace regard
