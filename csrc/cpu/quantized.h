// 8-bit copies of the item vectors, with bounds of their error. `topk_quantized` reads them.
//
// The sixteen items of a panel share a scale: e = scale * x + de with whole numbers x from -127 to 127. A block is
// kQuantizedPanels panels: 1 / scale, the largest |de| and the largest |scale * x| of each, the latter two rounded up,
// then the panels, [dim / 4][16 items][4] bytes of x + 128. A panel with an infinite or NaN item, or a huge one, has
// |de| = infinity.
#pragma once
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

constexpr int64_t kQuantizedItems = kQuantizedPanels * PANEL;  // in a block

// Outside these a norm or a scale may overflow or vanish: such items and queries are not quantised.
constexpr double kLargest = 1152921504606846976.0, kSmallest = 1 / kLargest;  // 2^60, 2^-60

static inline int64_t quantized_panel(int64_t dim) { return round_up(dim, 4) * PANEL; }  // bytes

static inline const float* quantized_header(const uint8_t* table, int64_t dim, int64_t block) {
  return reinterpret_cast<const float*>(table + block * quantized_block(dim));
}
static inline const uint8_t* quantized_panels(const float* header) {
  return reinterpret_cast<const uint8_t*>(header + 3 * kQuantizedPanels);
}

static inline double length(const float* x, int64_t dim) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < dim; ++k) sum += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  return sqrt(sum);
}

// Whole numbers y with x = unit * y + rest; the squares of unit * y and of the rest are added to the sums.
static inline void quantize(const float* x, int64_t dim, float unit, int8_t* y, double* squares, double* rests) {
  const float inverse = 1.0f / unit;
  double sum = 0.0, left = 0.0;
#pragma omp simd reduction(+ : sum, left)
  for (int64_t k = 0; k < dim; ++k) {
    const float wanted = x[k] * inverse;
    int32_t whole = static_cast<int32_t>(wanted + (wanted < 0.0f ? -0.5f : 0.5f));
    whole = whole > 127 ? 127 : whole < -127 ? -127 : whole;
    y[k] = static_cast<int8_t>(whole);
    const double close = static_cast<double>(unit) * whole, difference = static_cast<double>(x[k]) - close;
    sum += close * close;
    left += difference * difference;
  }
  *squares += sum, *rests += left;
}

static inline float largest(const float* x, int64_t dim) {
  float most = 0.0f;
#pragma omp simd reduction(max : most)
  for (int64_t k = 0; k < dim; ++k) most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
  return most;
}

static inline float rounded_up(double x) { return static_cast<float>(x * (1 + 0x1p-20)); }

static inline void quantize_items(const float* items, int64_t n_items, int64_t dim, uint8_t* table, int64_t block_begin,
                                  int64_t block_end) {
  const int64_t panel = quantized_panel(dim);
  for (int64_t block = block_begin; block < block_end; ++block) {
    uint8_t* out = table + block * quantized_block(dim);
    float* inverse = reinterpret_cast<float*>(out);
    float *error = inverse + kQuantizedPanels, *norm = error + kQuantizedPanels;
    out += 3 * kQuantizedPanels * sizeof(float);
    for (int64_t p = 0; p < kQuantizedPanels; ++p, out += panel) {
      const int64_t first = (block * kQuantizedPanels + p) * PANEL, rows = at_most(PANEL, n_items - first);
      memset(out, 128, static_cast<size_t>(panel));
      inverse[p] = 1.0f, error[p] = norm[p] = 0.0f;
      float most = 0.0f;
      double longest = 0.0;
      bool usable = true;
      for (int64_t r = 0; r < rows; ++r) {
        const float* x = items + (first + r) * dim;
        const double own = length(x, dim);
        usable = usable && own <= kLargest;  // false for NaN
        longest = own > longest ? own : longest;
        const float m = largest(x, dim);
        most = m > most ? m : most;
      }
      if (!usable || static_cast<double>(most) < kSmallest) {  // zeros, off by the whole item
        error[p] = usable ? rounded_up(longest) : INFINITY;
        continue;
      }
      const float scale = most / 127.0f;
      double furthest = 0.0, widest = 0.0;
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0.0, left = 0.0;
        for (int64_t k = 0; k < dim; k += kQuantizedSlice) {
          int8_t y[kQuantizedSlice] = {0};
          const int64_t width = at_most(kQuantizedSlice, dim - k);
          quantize(items + (first + r) * dim + k, width, scale, y, &sum, &left);
          for (int64_t j = 0; j < width; j += 4) {
            uint32_t four;
            memcpy(&four, y + j, sizeof four);
            four ^= 0x80808080u;  // + 128 in each byte
            memcpy(out + (k + j) * PANEL + 4 * r, &four, sizeof four);
          }
        }
        furthest = left > furthest ? left : furthest;
        widest = sum > widest ? sum : widest;
      }
      inverse[p] = 1.0f / scale, error[p] = rounded_up(sqrt(furthest)), norm[p] = rounded_up(sqrt(widest));
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
