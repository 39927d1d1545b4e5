// Rows of a table by id, and the sum of gradients back into them.
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

}  // namespace REGARD_ISA_ID
}  // namespace regard
