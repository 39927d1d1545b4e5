// Dropout, to the bits as cpu/dropout.h: column c takes word (c / 16) % 4 of counter (c / 64) * 16 + c % 16.
#pragma once
#include "api/dropout_key.h"
#include "cuda/device.h"

namespace regard {
namespace cuda {

struct Drop {  // 0 or 1 / (1 - p) for an element; without dropout 1
  Dropout d;
  bool any;

  __device__ float factor(int64_t column, uint32_t c1, uint32_t c2, uint32_t c3) const {
    if (!any) return 1.0f;
    uint32_t x0 = static_cast<uint32_t>(column / 64 * 16 + column % 16), x1 = c1, x2 = c2, x3 = c3;
    uint32_t k0 = d.key[0], k1 = d.key[1];
    for (int round = 0; round < 10; ++round) {
      const uint64_t left = static_cast<uint64_t>(x0) * 0xD2511F53u, right = static_cast<uint64_t>(x2) * 0xCD9E8D57u;
      x0 = static_cast<uint32_t>(right >> 32) ^ x1 ^ k0, x1 = static_cast<uint32_t>(right);
      x2 = static_cast<uint32_t>(left >> 32) ^ x3 ^ k1, x3 = static_cast<uint32_t>(left);
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const int word = static_cast<int>(column / 16 % 4);
    const uint32_t number = word == 0 ? x0 : word == 1 ? x1 : word == 2 ? x2 : x3;
    return number >= d.threshold ? d.scale : 0.0f;
  }
  __device__ float of_element(int64_t row, int64_t column) const {
    return factor(column, static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), 0);
  }
};

inline Drop drop_of(const regard_dropout* d) {
  if (d == nullptr || d->p == 0.0) return {};
  if (!(d->p > 0.0 && d->p < 1.0)) invalid("dropout", "a rate from 0 to below 1", std::to_string(d->p));
  return {dropout_with_key(*d), true};
}

}  // namespace cuda
}  // namespace regard
