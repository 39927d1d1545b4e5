// Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450) and RMS normalisation (Zhang and Sennrich 2019,
// arXiv:1910.07467) over the last axis. The second is the first with mean 0 and without bias:
//
//   layer:  mean = sum x / dim,  rstd = 1 / sqrt(sum (x - mean)^2 / dim + eps),  y = (x - mean) rstd weight + bias
//   RMS:                         rstd = 1 / sqrt(sum x^2 / dim + eps),           y = x rstd weight
#pragma once
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

template <bool CENTRED>
static void norm_forward(const float* x, const float* weight, const float* bias, float eps, int64_t dim, float* y,
                         float* mean, float* rstd, int64_t row_begin, int64_t row_end) {
  const double inverse = 1.0 / static_cast<double>(dim);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* in = x + row * dim;
    float* out = y + row * dim;
    vf middle = splat(0.0f);
    if (CENTRED) {
      vf total = splat(0.0f);
      for (int64_t c = 0; c < dim; c += VW) total += load_first(in + c, at_most(VW, dim - c));
      mean[row] = static_cast<float>(static_cast<double>(sum_lanes(total)) * inverse);
      middle = splat(mean[row]);
    }
    vf squares = splat(0.0f);
    for (int64_t c = 0; c < dim; c += VW) {
      const int64_t n = at_most(VW, dim - c);
      const vf centred = first_lanes(load_first(in + c, n) - middle, n, splat(0.0f));
      squares += centred * centred;
    }
    const double variance = static_cast<double>(sum_lanes(squares)) * inverse;
    rstd[row] = static_cast<float>(1.0 / sqrt(variance + static_cast<double>(eps)));
    const vf scale = splat(rstd[row]);
    for (int64_t c = 0; c < dim; c += VW) {
      const int64_t n = at_most(VW, dim - c);
      vf value = (load_first(in + c, n) - middle) * scale * load_first(weight + c, n);
      if (CENTRED) value += load_first(bias + c, n);
      store_first(out + c, value, n);
    }
  }
}

// With n = (x - mean) rstd and g = dy weight:
//   dx += rstd (g - mean(g) [layer] - n mean(g n)),  dweight += dy n,  dbias += dy [layer]
template <bool CENTRED>
static void norm_backward(const float* dy, const float* x, const float* weight, const float* mean, const float* rstd,
                          int64_t dim, float* dx, double* dweight, double* dbias, int64_t row_begin, int64_t row_end) {
  const double inverse = 1.0 / static_cast<double>(dim);
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float *d = dy + row * dim, *in = x + row * dim;
    float* out = dx + row * dim;
    const float middle = CENTRED ? mean[row] : 0.0f, scale = rstd[row];
    vf sum_g = splat(0.0f), sum_gn = splat(0.0f);
    for (int64_t c = 0; c < dim; c += VW) {
      const int64_t n = at_most(VW, dim - c);
      const vf g = load_first(d + c, n) * load_first(weight + c, n);
      if (CENTRED) sum_g += g;
      sum_gn += g * ((load_first(in + c, n) - splat(middle)) * splat(scale));
    }
    const vf mean_g = splat(static_cast<float>(static_cast<double>(sum_lanes(sum_g)) * inverse));
    const vf mean_gn = splat(static_cast<float>(static_cast<double>(sum_lanes(sum_gn)) * inverse));
    for (int64_t c = 0; c < dim; c += VW) {
      const int64_t n = at_most(VW, dim - c);
      const vf normal = (load_first(in + c, n) - splat(middle)) * splat(scale);
      const vf g = load_first(d + c, n) * load_first(weight + c, n);
      store_first(out + c, load_first(out + c, n) + splat(scale) * (g - mean_g - normal * mean_gn), n);
    }
#pragma omp simd
    for (int64_t c = 0; c < dim; ++c) {
      dweight[c] += static_cast<double>(d[c] * ((in[c] - middle) * scale));
      if (CENTRED) dbias[c] += static_cast<double>(d[c]);
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
