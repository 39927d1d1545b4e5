// Activations, element by element, alone or as one side of a gated product.
//
//   relu(x) = max(x, 0)                     derivative 1 where x > 0, else 0
//   gelu(x) = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2       derivative Phi(x) + x phi(x)
//   sigmoid(x) = 1 / (1 + exp(-x))          derivative sigmoid(x) sigmoid(-x)
//   silu(x) = x sigmoid(x)                  derivative sigmoid(x) (1 + x sigmoid(-x))
//   y = activation(gate) value              dgate = dy value activation'(gate),  dvalue = dy activation(gate)
//
// GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415; the exact form, not the tanh approximation. SiLU: Elfwing, Uchibe
// and Doya 2017, arXiv:1702.03118. Gated products: Shazeer 2020, arXiv:2002.05202.
#pragma once
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

// erf(x), absolute error below 1.2e-7. |x| < 1: x times a polynomial in x^2; else 1 - exp of a polynomial that
// was fitted to log erfc on [0.9, 4.2]. Beyond 4.2 the result is 1 in float32.
static inline vf verf(vf x) {
  const vf t = x < splat(0.0f) ? -x : x, s = x * x;
  vf near = splat(7.853859998244496e-05f);
  near = near * s + splat(-0.0008010193215323442f);
  near = near * s + splat(0.0051883276391281215f);
  near = near * s + splat(-0.026853811910788592f);
  near = near * s + splat(0.11283585148028463f);
  near = near * s + splat(-0.37612625824181417f);
  near = near * s + splat(1.128379165726702f);
  near = near * x;
  const vf u = t > splat(4.2f) ? splat(4.2f) : t;
  vf far = splat(-2.082855298186523e-05f);
  far = far * u + splat(0.000431392855837157f);
  far = far * u + splat(-0.004156251694963872f);
  far = far * u + splat(0.02508060856539425f);
  far = far * u + splat(-0.10822037260118494f);
  far = far * u + splat(-0.6334008605566521f);
  far = far * u + splat(-1.1294884019567162f);
  far = far * u + splat(0.0001692042596473048f);
  far = splat(1.0f) - vexp(far);
  far = x < splat(0.0f) ? -far : far;
  return t > splat(1.0f) ? far : near;
}

static inline vf normal_cdf(vf x) { return (splat(1.0f) + verf(x * splat(0.70710678f))) * splat(0.5f); }

// sigmoid(x) and sigmoid(-x) by exp(-|x|), which never overflows. The second keeps the digits that 1 - sigmoid(x)
// loses.
struct Sigmoid {
  vf at, opposite, tail;  // tail: exp(-|x|)
};

static inline Sigmoid sigmoid(vf x) {
  const vf e = vexp(x < splat(0.0f) ? x : -x), larger = splat(1.0f) / (splat(1.0f) + e), smaller = e * larger;
  const vi negative = x < splat(0.0f);
  return {negative ? smaller : larger, negative ? larger : smaller, e};
}

template <Activation KIND>
static inline vf activated(vf x) {
  if (KIND == kRelu) return x < splat(0.0f) ? splat(0.0f) : x;
  if (KIND == kGelu) return x * normal_cdf(x);
  if (KIND == kSilu) return x * sigmoid(x).at;
  if (KIND == kSigmoid) return sigmoid(x).at;
  return x;
}

template <Activation KIND>
static inline vf slope(vf x) {
  if (KIND == kRelu) return x > splat(0.0f) ? splat(1.0f) : (x == x ? splat(0.0f) : x);
  if (KIND == kGelu) return normal_cdf(x) + x * (vexp(x * x * splat(-0.5f)) * splat(0.39894228f));
  if (KIND == kSilu || KIND == kSigmoid) {
    const Sigmoid s = sigmoid(x);
    return KIND == kSilu ? s.at * (splat(1.0f) + x * s.opposite) : s.at * s.opposite;
  }
  return splat(1.0f);
}

// One loop per activation: FUNCTION<KIND>(arguments).
#define REGARD_BY_ACTIVATION(KIND, FUNCTION, ...) \
  switch (KIND) {                                 \
    case kIdentity:                               \
      return FUNCTION<kIdentity>(__VA_ARGS__);    \
    case kRelu:                                   \
      return FUNCTION<kRelu>(__VA_ARGS__);        \
    case kGelu:                                   \
      return FUNCTION<kGelu>(__VA_ARGS__);        \
    case kSilu:                                   \
      return FUNCTION<kSilu>(__VA_ARGS__);        \
    case kSigmoid:                                \
      return FUNCTION<kSigmoid>(__VA_ARGS__);     \
  }

template <Activation KIND>
static void activate(const float* x, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += VW) {
    const int64_t n = at_most(VW, end - i);
    store_first(y + i, activated<KIND>(load_first(x + i, n)), n);
  }
}

template <Activation KIND>
static void activate_backward(const float* dy, const float* x, float* dx, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += VW) {
    const int64_t n = at_most(VW, end - i);
    store_first(dx + i, load_first(dy + i, n) * slope<KIND>(load_first(x + i, n)), n);
  }
}

template <Activation KIND>
static void gated(const float* gate, const float* value, float* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += VW) {
    const int64_t n = at_most(VW, end - i);
    store_first(y + i, activated<KIND>(load_first(gate + i, n)) * load_first(value + i, n), n);
  }
}

template <Activation KIND>
static void gated_backward(const float* dy, const float* gate, const float* value, float* dgate, float* dvalue,
                           int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += VW) {
    const int64_t n = at_most(VW, end - i);
    const vf d = load_first(dy + i, n), g = load_first(gate + i, n);
    store_first(dgate + i, d * load_first(value + i, n) * slope<KIND>(g), n);
    store_first(dvalue + i, d * activated<KIND>(g), n);
  }
}

static void activation_forward(Activation kind, const float* x, float* y, int64_t begin, int64_t end) {
  if (kind == kIdentity && x == y) return;
  REGARD_BY_ACTIVATION(kind, activate, x, y, begin, end)
}

static void activation_backward(Activation kind, const float* dy, const float* x, float* dx, int64_t begin,
                                int64_t end) {
  REGARD_BY_ACTIVATION(kind, activate_backward, dy, x, dx, begin, end)
}

static void gate_forward(Activation kind, const float* gate, const float* value, float* y, int64_t begin, int64_t end) {
  REGARD_BY_ACTIVATION(kind, gated, gate, value, y, begin, end)
}

static void gate_backward(Activation kind, const float* dy, const float* gate, const float* value, float* dgate,
                          float* dvalue, int64_t begin, int64_t end) {
  REGARD_BY_ACTIVATION(kind, gated_backward, dy, gate, value, dgate, dvalue, begin, end)
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
