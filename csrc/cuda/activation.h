// Activations and their slopes; formulas and sources in cpu/activation.h.
#pragma once
#include <math.h>

#include "cpu/kernels.h"
#include "cuda/device.h"

namespace regard {
namespace cuda {

__device__ inline float sigmoid(float x) {  // by exp(-|x|), which never overflows
  const float e = expf(-fabsf(x)), larger = 1.0f / (1.0f + e);
  return x < 0.0f ? e * larger : larger;
}

__device__ inline float normal_cdf(float x) { return (1.0f + erff(x * 0.70710678f)) * 0.5f; }

__device__ inline float activated(Activation kind, float x) {
  switch (kind) {
    case kRelu:
      return x < 0.0f ? 0.0f : x;
    case kGelu:
      return x * normal_cdf(x);
    case kSilu:
      return x * sigmoid(x);
    case kSigmoid:
      return sigmoid(x);
    default:
      return x;
  }
}

__device__ inline float slope(Activation kind, float x) {
  switch (kind) {
    case kRelu:
      return x > 0.0f ? 1.0f : (x == x ? 0.0f : x);
    case kGelu:
      return normal_cdf(x) + x * (expf(x * x * -0.5f) * 0.39894228f);
    case kSilu:
      return sigmoid(x) * (1.0f + x * sigmoid(-x));
    case kSigmoid:
      return sigmoid(x) * sigmoid(-x);
    default:
      return 1.0f;
  }
}

inline Activation activation_of(int code) {
  if (code < kIdentity || code > kSigmoid)
    invalid("activation", "0 (none), 1 (relu), 2 (gelu), 3 (silu) or 4 (sigmoid)", std::to_string(code));
  return static_cast<Activation>(code);
}

}  // namespace cuda
}  // namespace regard
