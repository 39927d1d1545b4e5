// One step of an optimiser on n weights, and the sum of squares for gradient clipping.
//
//   g = grad_scale * grad (+ weight_decay * w, all but AdamW)
//
//   SGD:      b = momentum b + g,  w -= learning_rate * b                      (without momentum b is g, and not kept)
//   Adagrad:  s = s + g^2,  w -= learning_rate * g / (sqrt(s) + eps)
//   Adam:     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//             w -= learning_rate * (m correction1 / (sqrt(v correction2) + eps) + weight_decay * w [AdamW])
//
// Adagrad: Duchi, Hazan and Singer 2011; Adam: Kingma and Ba 2014, arXiv:1412.6980; AdamW: Loshchilov and Hutter 2017,
// arXiv:1711.05101.
#pragma once
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

static void sgd(const SgdStep& a, float* weight, const float* grad, float* buffer, int64_t n) {
  if (buffer == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i)
      weight[i] -= a.learning_rate * (grad[i] * a.grad_scale + a.weight_decay * weight[i]);
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * a.grad_scale + a.weight_decay * weight[i];
    buffer[i] = a.momentum * buffer[i] + g;
    weight[i] -= a.learning_rate * buffer[i];
  }
}

static void adagrad(const AdagradStep& a, float* weight, const float* grad, float* squares, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float g = grad[i] * a.grad_scale + a.weight_decay * weight[i];
    squares[i] += g * g;
    weight[i] -= a.learning_rate * (g / (sqrtf(squares[i]) + a.eps));
  }
}

static void adam(const AdamStep& a, float* weight, const float* grad, float* m, float* v, int64_t n) {
  const float coupled = a.decoupled ? 0.0f : a.weight_decay, decoupled = a.decoupled ? a.weight_decay : 0.0f;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float w = weight[i];
    const float g = grad[i] * a.grad_scale + coupled * w;
    const float first = a.beta1 * m[i] + a.keep1 * g;
    const float second = a.beta2 * v[i] + a.keep2 * g * g;
    m[i] = first;
    v[i] = second;
    weight[i] = w - a.learning_rate * (first * a.correction1 / (sqrtf(second * a.correction2) + a.eps) + decoupled * w);
  }
}

static double sum_squares(const float* x, int64_t begin, int64_t end) {
  double total = 0.0;
  for (int64_t block = begin; block < end; block += 1024) {  // float32 within a block, float64 across
    vf sum = splat(0.0f);
    const int64_t stop = at_most(block + 1024, end);
    for (int64_t i = block; i < stop; i += VW) {
      const vf value = load_first(x + i, at_most(VW, stop - i));
      sum += value * value;
    }
    total += static_cast<double>(sum_lanes(sum));
  }
  return total;
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
