// ReLU and GELU, element by element.
//
//   relu(x) = max(x, 0)                     derivative 1 where x > 0, else 0
//   gelu(x) = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2       derivative Phi(x) + x phi(x)
//
// (Hendrycks and Gimpel 2016, arXiv:1606.08415; the exact form, not the tanh approximation.)
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

static void activation_forward(Activation kind, const float* x, float* y, int64_t begin, int64_t end) {
  if (kind == kIdentity) {
    if (x != y) memcpy(y + begin, x + begin, static_cast<size_t>(end - begin) * sizeof(float));
    return;
  }
  for (int64_t i = begin; i < end; i += VW) {
    const int64_t n = at_most(VW, end - i);
    const vf a = load_first(x + i, n), zero = splat(0.0f);
    store_first(y + i, kind == kRelu ? (a < zero ? zero : a) : a * normal_cdf(a), n);
  }
}

static void activation_backward(Activation kind, const float* dy, const float* x, float* dx, int64_t begin,
                                int64_t end) {
  for (int64_t i = begin; i < end; i += VW) {
    const int64_t n = at_most(VW, end - i);
    const vf a = load_first(x + i, n), d = load_first(dy + i, n), zero = splat(0.0f);
    vf slope = splat(1.0f);
    if (kind == kRelu) slope = a > zero ? splat(1.0f) : (a == a ? zero : a);
    if (kind == kGelu) slope = normal_cdf(a) + a * (vexp(a * a * splat(-0.5f)) * splat(0.39894228f));
    store_first(dx + i, d * slope, n);
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
