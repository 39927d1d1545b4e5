// y = activation(x W^T + b) and its gradient, on row ranges.
#pragma once
#include "cpu/activation.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

static void linear_forward(const Linear& a, int64_t row_begin, int64_t row_end, float*) {
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row);
    float* y = a.y + row * a.n_out;
    for (int64_t i = 0; i < rows && a.bias; ++i)
      memcpy(y + i * a.n_out, a.bias, static_cast<size_t>(a.n_out) * sizeof(float));
    multiply(rows, a.n_out, a.n_in, {a.x + row * a.n_in, a.n_in, 1}, panels_of(a.packed, a.n_in), y, a.n_out,
             a.bias != nullptr ? kAdd : kFresh);
    if (a.pre) memcpy(a.pre + row * a.n_out, y, static_cast<size_t>(rows * a.n_out) * sizeof(float));
    activation_forward(a.activation, y, y, 0, rows * a.n_out);
  }
}

// forward:  y[i] = sum_k x[k] W[i][k],  so:  dx[k] += sum_i dy[i] W[i][k]
static void linear_backward_input(const float* dy, const float* weight, int64_t n_in, int64_t n_out, float* dx,
                                  int64_t row_begin, int64_t row_end, float* scratch) {
  const Vectors w = padded_rows(weight, n_in, n_out, n_in, scratch);
  for (int64_t row = row_begin; row < row_end; row += kRowBlock)
    multiply(at_most(kRowBlock, row_end - row), n_in, n_out, {dy + row * n_out, n_out, 1}, w, dx + row * n_in, n_in,
             kAdd);
}

// so:  dW[i][k] += sum_rows dy[i] x[k],  db[i] += sum_rows dy[i]
static void linear_backward_weight(const float* dy, const float* x, int64_t n_in, int64_t n_out, float* dweight,
                                   float* dbias, int64_t row_begin, int64_t row_end, float* scratch) {
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row);
    const float* dy_rows = dy + row * n_out;
    multiply(n_out, n_in, rows, {dy_rows, 1, n_out}, padded_rows(x + row * n_in, n_in, rows, n_in, scratch), dweight,
             n_in, kAdd);
    if (dbias == nullptr) continue;
    for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
      for (int64_t c = 0; c < n_out; ++c) dbias[c] += dy_rows[i * n_out + c];
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
