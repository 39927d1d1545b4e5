// Rows of a table by id, weighted sums of rows, and the sum of gradients back into them.
#pragma once
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

static void embedding_forward(const float* table, const int32_t* ids, int64_t dim, float scale, float* y,
                              int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const float* in = table + ids[row] * dim;
    float* out = y + row * dim;
#pragma omp simd
    for (int64_t c = 0; c < dim; ++c) out[c] = in[c] * scale;
  }
}

static void embedding_backward(const float* dy, const int32_t* ids, int64_t n, int64_t dim, float scale,
                               const float* factors, float* dtable, int64_t id_begin, int64_t id_end) {
  for (int64_t row = 0; row < n; ++row) {
    if (ids[row] < id_begin || ids[row] >= id_end) continue;
    const float* in = dy + row * dim;
    float* out = dtable + ids[row] * dim;
    const float factor = factors ? scale * factors[row] : scale;
#pragma omp simd
    for (int64_t c = 0; c < dim; ++c) out[c] += in[c] * factor;
  }
}

// Bag i: the ids and weights from offsets[i] on.
static void embedding_bag_forward(const float* table, const int32_t* ids, const float* weights, const int64_t* offsets,
                                  int64_t dim, float* y, int64_t bag_begin, int64_t bag_end) {
  for (int64_t bag = bag_begin; bag < bag_end; ++bag) {
    float* out = y + bag * dim;
    for (int64_t j = offsets[bag]; j < offsets[bag + 1]; ++j) {
      const float* in = table + ids[j] * dim;
      const float weight = weights[j];
#pragma omp simd
      for (int64_t c = 0; c < dim; ++c) out[c] += in[c] * weight;
    }
  }
}

static void embedding_bag_backward(const float* dy, const int32_t* ids, const float* weights, const int64_t* offsets,
                                   int64_t n_bags, int64_t dim, float* dtable, int64_t id_begin, int64_t id_end) {
  for (int64_t bag = 0; bag < n_bags; ++bag) {
    const float* in = dy + bag * dim;
    for (int64_t j = offsets[bag]; j < offsets[bag + 1]; ++j) {
      if (ids[j] < id_begin || ids[j] >= id_end) continue;
      float* out = dtable + ids[j] * dim;
      const float weight = weights[j];
#pragma omp simd
      for (int64_t c = 0; c < dim; ++c) out[c] += in[c] * weight;
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
