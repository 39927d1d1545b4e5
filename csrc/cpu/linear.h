// y = dropout(activation(x W^T + b)) + residual and its gradient, on row ranges, for one or several W of the same x.
//
// Rows go through all of it a block at a time, so that x, y and dy are read and written once.
#pragma once
#include "cpu/activation.h"
#include "cpu/dropout.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

static void linear_forward(const Linear& a, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row), size = rows * a.n_out;
    for (const LinearMap* map = a.maps; map < a.maps + a.n_maps; ++map) {
      float* y = map->y + row * a.n_out;
      for (int64_t i = 0; i < rows && map->bias; ++i)
        memcpy(y + i * a.n_out, map->bias, static_cast<size_t>(a.n_out) * sizeof(float));
      multiply(rows, a.n_out, a.n_in, {a.x + row * a.n_in, a.n_in, 1}, panels_of(map->packed, a.n_in), y, a.n_out,
               map->bias != nullptr ? kAdd : kFresh);
      if (map->saved) memcpy(map->saved + row * a.n_out, y, static_cast<size_t>(size) * sizeof(float));
      activation_forward(a.activation, y, y, 0, size);
      if (a.dropout) dropout(*a.dropout, map->y, a.n_out, map->y, row, row + rows);
      if (a.residual == nullptr) continue;
      const float* add = a.residual + row * a.n_out;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) y[i] += add[i];
    }
  }
}

// With g = dropout(dy) * activation'(saved):
//   forward:  y[i] = sum_k x[k] W[i][k] + b[i]
//   so:       dx[k] (+)= sum_i g[i] W[i][k],  dW[i][k] += sum_rows g[i] x[k],  db[i] += sum_rows g[i]
// `sums`, or null: n_out * (n_in + 1) floats for each map, dW and then db.
static void linear_backward(const Linear& a, int64_t row_begin, int64_t row_end, float* sums, float* scratch) {
  const int64_t wide = round_up(a.n_in, VW), width = a.n_out * (a.n_in + 1);
  float* weights = scratch;  // padded, where vectors do not fit
  float* x_rows = weights + (a.n_in == wide ? 0 : a.n_maps * a.n_out * wide);
  float* g = x_rows + kRowBlock * wide;
  for (int64_t m = 0; m < a.n_maps && a.dx; ++m)
    padded_rows(a.maps[m].weight, a.n_in, a.n_out, a.n_in, weights + m * a.n_out * wide);
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row), at = row * a.n_out;
    const Vectors x = sums ? padded_rows(a.x + row * a.n_in, a.n_in, rows, a.n_in, x_rows) : Vectors{};
    for (int64_t m = 0; m < a.n_maps; ++m) {
      const LinearMap& map = a.maps[m];
      const float* dy = map.dy + at;
      if (a.dropout) {
        for (int64_t i = 0; i < rows; ++i) dropout_row(*a.dropout, row + i, a.n_out, dy + i * a.n_out, g + i * a.n_out);
        dy = g;
      }
      if (a.activation != kIdentity) {
        activation_backward(a.activation, dy, map.saved + at, g, 0, rows * a.n_out);
        dy = g;
      }
      if (a.dx) {
        const Vectors w = a.n_in == wide ? rows_of(map.weight, wide) : rows_of(weights + m * a.n_out * wide, wide);
        multiply(rows, a.n_in, a.n_out, {dy, a.n_out, 1}, w, a.dx + row * a.n_in, a.n_in,
                 m > 0 || a.add_to_dx ? kAdd : kFresh);
      }
      if (sums == nullptr) continue;
      float *dweight = sums + m * width, *dbias = dweight + a.n_out * a.n_in;
      multiply(a.n_out, a.n_in, rows, {dy, 1, a.n_out}, x, dweight, a.n_in, kAdd);
      for (int64_t i = 0; i < rows; ++i)
#pragma omp simd
        for (int64_t c = 0; c < a.n_out; ++c) dbias[c] += dy[i * a.n_out + c];
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
