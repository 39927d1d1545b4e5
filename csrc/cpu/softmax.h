// Softmax of rows of scores that come a tile at a time, and its probabilities made again from the log-sum-exp.
#pragma once
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

namespace {
struct Probabilities {  // exp(z - lse), lse in two floats so that z - lse is rounded once: exp(z - high) exp(-low)
  vf high, factor;

  explicit Probabilities(double lse) {
    const float rounded = lse == -INFINITY ? 0.0f : static_cast<float>(lse);   // -inf: all z are, and all results 0
    const float low = static_cast<float>(static_cast<double>(rounded) - lse);  // 2^-24 |lse| at the most
    high = splat(rounded), factor = splat(fabsf(low) < 1e-3f ? 1.0f + low * (1.0f + 0.5f * low) : expf(low));
  }
  vf of(vf z) const { return vexp_falling(z - high) * factor; }
};
}  // namespace

static inline void probabilities(const float* z, double lse, int64_t n, float* p) {
  const Probabilities row(lse);
  for (int64_t j = 0; j < n; j += VW) store(p + j, row.of(load(z + j)));
}

// log(exp(a) + exp(b)); one of them may be -inf
static inline double log_of_both(double a, double b) {
  const double greater = a > b ? a : b;
  return b == -INFINITY ? a : greater + log(exp(a - greater) + exp(b - greater));
}

namespace {
struct RowEnd {
  double lse, loss;     // of the whole sum; what it is above the target's part
  double factor, rest;  // of exp(score - base) to the probability; of the target, what its probability lacks
};
}  // namespace

// The end of a row of a loss: `others` is the sum of exp(score - base) without the target, whose score is `logit`.
// What is `beside`, or null, joins both; see cpu/cross_entropy.h.
static __attribute__((noinline)) RowEnd row_end(const Beside* beside, int64_t row, double base, double others,
                                                double logit) {
  double kept = 1.0, target = logit, elsewhere = 0.0;  // elsewhere: the share of the target's part that is beside
  if (beside != nullptr) {
    const double all = beside->all[row], more = beside->target[row];
    if (all > base) kept = exp(base - all), base = all;
    others = others * kept + exp(all - base);
    target = log_of_both(logit, more), elsewhere = 1.0 / (1.0 + exp(logit - more));
  }
  const double sum = others + exp(logit - base), lse = base + log(sum);
  if (beside != nullptr) beside->whole[row] = lse, beside->whole_target[row] = target;
  return {lse, lse - target, kept / sum, others / sum - elsewhere};
}

// log of positive doubles, absolute error below 1e-12: x = 2^n m with m from sqrt(1/2) to sqrt(2), and the series of
// log m in s = (m - 1) / (m + 1).
static inline vd vlog(vd x) {
  const vq sqrt_half = vq{} + 0x3FE6A09E667F3BCDu, one = vq{} + 0x3FF0000000000000u;
  const vq bits = reinterpret_cast<vq>(x), n = (bits - sqrt_half + one) >> 52;  // n + 1023
  const vd m = reinterpret_cast<vd>(bits - (n << 52) + one);
  // In the low bits of 2^52 an integer is a double.
  const vd whole = reinterpret_cast<vd>(n | (vq{} + 0x4330000000000000u)) - (4503599627370496.0 + 1023.0);
  const vd s = (m - 1.0) / (m + 1.0), s2 = s * s;
  vd p = s2 * (2.0 / 17.0) + 2.0 / 15.0;
  p = p * s2 + 2.0 / 13.0;
  p = p * s2 + 2.0 / 11.0;
  p = p * s2 + 2.0 / 9.0;
  p = p * s2 + 2.0 / 7.0;
  p = p * s2 + 2.0 / 5.0;
  p = p * s2 + 2.0 / 3.0;
  return whole * 0.6931471805599453 + (p * s2 * s + 2.0 * s);
}

// exp(z - base) in the place of n scores, up to the next whole vector; returns their sum.
static inline float exp_row(float* z, int64_t n, float base) {
  vf total = splat(0.0f);
  for (int64_t j = 0; j < n; j += VW) {
    const vf p = vexp_falling(load(z + j) - splat(base));
    store(z + j, p);
    total += p;
  }
  return sum_lanes(total);
}

namespace {
struct BlockSoftmax {  // of the rows of a block together, a tile of scores at a time
  static constexpr int64_t kSlots = 64;
  alignas(64) float greatest[kSlots], base[kSlots], shrink[kSlots];
  alignas(64) float tile[kSlots];  // from the caller: the greatest score of each row, then the sum of its exp
  alignas(64) double sum[kSlots];

  explicit BlockSoftmax(int64_t rows) {
    for (int64_t i = 0; i < rows; i += VW) store(greatest + i, splat(-INFINITY)), store(tile + i, splat(-INFINITY));
    for (int64_t i = 0; i < round_up(rows, VW); ++i) sum[i] = 0.0;
  }
  // base: what exp is taken from. shrink: of earlier terms, if a greater score came.
  void raise(int64_t rows) {
    const vf none = splat(-INFINITY), zero = splat(0.0f);
    for (int64_t i = 0; i < rows; i += VW) {
      const vf before = load(greatest + i), now = vmax(load(tile + i), before);
      store(greatest + i, now);
      store(base + i, now == none ? zero : now);  // all scores -inf: every term is exp(-inf - 0) = 0
      store(shrink + i, before == none ? zero : vexp_falling(before - now));
    }
  }
  void add(int64_t rows) {
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i) sum[i] = sum[i] * static_cast<double>(shrink[i]) + static_cast<double>(tile[i]);
  }
  // sum becomes the log-sum-exp, tile 1 / sum; -inf and 0 where there was nothing.
  void finish(int64_t rows) {
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i) tile[i] = sum[i] == 0.0 ? 0.0f : static_cast<float>(1.0 / sum[i]);
    const vd zero = {};
    for (int64_t i = 0; i < rows; i += VW / 2) {
      alignas(64) double top[VW / 2];
      for (int64_t r = 0; r < VW / 2; ++r) top[r] = static_cast<double>(greatest[i + r]);
      const vd x = *reinterpret_cast<const vd*>(sum + i), lse = *reinterpret_cast<const vd*>(top) + vlog(x);
      // vlog is for positive numbers; a NaN stays.
      *reinterpret_cast<vd*>(sum + i) = x > zero ? lse : x == zero ? zero - INFINITY : x;
    }
  }
};

struct OnlineSoftmax {  // one row: greatest score so far, and the sum of exp(z - greatest)
  float greatest;
  double sum;

  // Takes n scores, -inf up to the next whole vector, and leaves their exp.
  void take(float* z, int64_t n) {
    vf top = splat(-INFINITY);
    for (int64_t j = 0; j < n; j += VW) top = vmax(load(z + j), top);
    const float before = greatest, tile = max_lanes(top);
    greatest = tile > before ? tile : before;
    // All scores -inf: keep exp finite, every term is then exp(-inf) = 0.
    const float total = exp_row(z, n, greatest == -INFINITY ? 0.0f : greatest);
    const float shrink = before == -INFINITY ? 0.0f : expf(before - greatest);
    sum = sum * static_cast<double>(shrink) + static_cast<double>(total);
  }
  double lse() const { return sum == 0.0 ? -INFINITY : static_cast<double>(greatest) + log(sum); }
};
}  // namespace

}  // namespace REGARD_ISA_ID
}  // namespace regard
