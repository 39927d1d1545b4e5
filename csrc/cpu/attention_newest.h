// Softmax attention of one query over keys and values that are kept: the newest event of a history that grows.
//
//   out = sum_j softmax_j(softmax_scale * q·k[j] + bias[n_keys - 1 - j] + time_bias[bucket(time, times_k[j])]) * v[j]
#pragma once
#include "cpu/softmax.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

// As RowBias of attention.h has it.
static inline int64_t bucket_of(int64_t time, int64_t earlier, int64_t n_buckets) {
  const uint64_t apart = time > earlier ? static_cast<uint64_t>(time) - static_cast<uint64_t>(earlier) : 0;
  const float x = 1.0f + static_cast<float>(static_cast<int32_t>(apart < INT32_MAX ? apart : INT32_MAX));
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return at_most((bits - 0x3F800000) >> 21, n_buckets - 1);
}

static void attention_newest(const NewestAttention& a, float* z) {
  const int64_t d = a.head_dim, all = a.n_heads * d, n = a.n_keys, width = round_up(n, VW);
  const int64_t panel = all * PANEL, near = at_most(n, a.bias_len);
  for (int64_t head = 0; head < a.n_heads; ++head) {
    const float* keys = a.key_panels + head * d * PANEL;
    const Vectors panels = PANEL == VW ? Vectors{keys, PANEL, panel, NV * panel} : Vectors{keys, PANEL, VW, panel};
    multiply(1, width, d, {a.q + head * d, d, 1}, panels, z, width, kFresh);
    const vf scale = splat(a.softmax_scale);
    for (int64_t j = 0; j < width; j += VW) store(z + j, load(z + j) * scale);
    if (a.bias) {
      const float *bias = a.bias + head * a.bias_len, farther = bias[a.bias_len - 1];
#pragma omp simd
      for (int64_t j = 0; j < n - near; ++j) z[j] += farther;
#pragma omp simd
      for (int64_t j = n - near; j < n; ++j) z[j] += bias[n - 1 - j];
    }
    for (int64_t j = 0; j < n && a.time_bias; ++j)
      z[j] += a.time_bias[head * a.n_buckets + bucket_of(a.time, a.times_k[j], a.n_buckets)];
    for (int64_t j = n; j < width; ++j) z[j] = -INFINITY;
    OnlineSoftmax softmax{-INFINITY, 0.0};
    softmax.take(z, width);
    float* out = a.out + head * d;
    multiply(1, d, n, {z, width, 1}, rows_of(a.values + head * d, all), out, d, kFresh);
    const float inverse = static_cast<float>(1.0 / softmax.sum);
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] *= inverse;
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
