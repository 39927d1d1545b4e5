// From what a caller says of dropout to what a kernel needs.
#pragma once
#include "api/training.h"
#include "cpu/kernels.h"

namespace regard {

// SplitMix64 (Steele, Lea and Flood 2014): spreads (seed, step, site) over the key.
inline uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// p is from 0 to below 1.
inline Dropout dropout_with_key(const regard_dropout& d) {
  const uint64_t key = mix(mix(mix(d.seed) ^ d.step) ^ d.site);
  return {static_cast<uint32_t>(d.p * 4294967296.0),
          static_cast<float>(1.0 / (1.0 - d.p)),
          {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}};
}

}  // namespace regard
