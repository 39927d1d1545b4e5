// The one stream: a block has 32 rows of its own, tiles of 32 other rows pass, and each tile of scores is used and
// forgotten. A warp has four of the own rows; of a tile of scores a lane has one column.
#pragma once
#include <math.h>

#include "cuda/device.h"

namespace regard {
namespace cuda {

constexpr int kRows = 32, kWarpRows = 4, kStreamThreads = kRows / kWarpRows * kWarp;
constexpr int64_t kWidest = 256;  // rows; what a thread sums up must fit its registers

// Rows in shared memory: an odd stride, so that the lanes read the same place of 32 rows without waiting.
__device__ inline int64_t odd(int64_t dim) { return dim | 1; }
inline size_t stream_bytes(int64_t dim, int64_t arrays) {  // and a tile of weights
  return static_cast<size_t>(arrays * kRows * (dim | 1) + kRows * (kRows + 1)) * sizeof(float);
}

// The first n of 32 rows; what is behind them is not read.
__device__ inline void load_rows(float* to, const float* from, int64_t stride, int64_t n, int64_t dim) {
  for (int64_t i = warp(); i < n; i += kStreamThreads / kWarp)
    for (int64_t c = lane(); c < dim; c += kWarp) to[i * odd(dim) + c] = from[i * stride + c];
}

// Products of the warp's rows with the lane's row.
__device__ inline void dot_products(const float* own, const float* others, int64_t dim, float (&sums)[kWarpRows]) {
  const float* other = others + lane() * odd(dim);
  for (int r = 0; r < kWarpRows; ++r) sums[r] = 0.0f;
  for (int64_t c = 0; c < dim; ++c) {
    const float x = other[c];
    for (int r = 0; r < kWarpRows; ++r) sums[r] += own[r * odd(dim) + c] * x;
  }
}

template <int C>
struct RowSums {  // of the warp's rows: a lane has every 32nd element, of at most 32 C
  float of[kWarpRows][C];

  __device__ RowSums() {
    for (int r = 0; r < kWarpRows; ++r)
      for (int c = 0; c < C; ++c) of[r][c] = 0.0f;
  }
  // += sum of weights[r][j] others[j], j from begin[r] to end[r].
  __device__ void add(const float* weights, const float* others, int64_t dim, const int (&begin)[kWarpRows],
                      const int (&end)[kWarpRows]) {
    int first = kRows, last = 0;
    for (int r = 0; r < kWarpRows; ++r) {
      if (begin[r] >= end[r]) continue;
      first = begin[r] < first ? begin[r] : first;
      last = end[r] > last ? end[r] : last;
    }
    // Summed up by tile, so that the rounding of many rows does not pile up in one chain.
    for (int c = 0; c < C; ++c) {
      if (lane() + c * kWarp >= dim) continue;
      float part[kWarpRows] = {};
      for (int j = first; j < last; ++j) {
        const float x = others[j * odd(dim) + lane() + c * kWarp];
        for (int r = 0; r < kWarpRows; ++r)
          if (j >= begin[r] && j < end[r]) part[r] += weights[r * (kRows + 1) + j] * x;
      }
      for (int r = 0; r < kWarpRows; ++r) of[r][c] += part[r];
    }
  }
  template <class Put>
  __device__ void put(int r, int64_t dim, const Put& put_one) const {  // put_one(column, sum)
    for (int c = 0; c < C; ++c)
      if (lane() + c * kWarp < dim) put_one(lane() + c * kWarp, of[r][c]);
  }
};

struct Softmax {  // of a row whose scores come a tile at a time: each lane sums its own columns
  float top, sum;

  __device__ Softmax() : top(-INFINITY), sum(0.0f) {}
  // Takes the lane's score, -inf if it does not count; gives exp(score - top) and the factor on earlier sums.
  __device__ float add(float score, float* shrink) {
    const float raised = fmaxf(top, warp_max(score)), base = raised == -INFINITY ? 0.0f : raised;
    *shrink = top == -INFINITY ? 0.0f : expf(top - base);
    const float p = score == -INFINITY ? 0.0f : expf(score - base);
    sum = sum * *shrink + p;
    top = raised;
    return p;
  }
};

struct LogSum {  // log-sum-exp in two floats, so that score - lse is rounded once
  float high, factor;
  __device__ explicit LogSum(double lse) {
    high = lse == -INFINITY ? 0.0f : static_cast<float>(lse);
    factor = lse == -INFINITY ? 0.0f : expf(static_cast<float>(static_cast<double>(high) - lse));
  }
  __device__ float probability(float score) const { return expf(score - high) * factor; }
};

// kernel<C> for rows of this width.
#define REGARD_BY_WIDTH(dim, FUNCTION, ...) \
  if ((dim) <= 32)                          \
    FUNCTION<1>(__VA_ARGS__);               \
  else if ((dim) <= 64)                     \
    FUNCTION<2>(__VA_ARGS__);               \
  else if ((dim) <= 128)                    \
    FUNCTION<4>(__VA_ARGS__);               \
  else                                      \
    FUNCTION<8>(__VA_ARGS__);

}  // namespace cuda
}  // namespace regard
