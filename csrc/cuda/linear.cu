// Linear layers, by one product of matrices in tiles, and the sums of their gradients over rows.
#include "cuda/activation.h"
#include "cuda/philox.h"

namespace regard {
namespace cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kSide = 4, kGemmThreads = kTile / kSide * (kTile / kSide);

struct Matrix {  // element (i, j) at data[i * row + j * column], one of the two 1
  const float* data;
  int64_t row, column;
};

struct Gemm {  // sum over k of a(i, k) b(k, j); with parts over that part of the k that blockIdx.z counts
  Matrix a, b;
  int64_t rows, columns, depth;
};

struct Tiles {
  float a[kDepth][kTile + kSide], b[kDepth][kTile + kSide];  // a turned: what one step of k needs lies in a row
};

// tile[k][i] = m(first + i, depth + k), 0 outside; neighbouring threads read neighbouring memory.
__device__ inline void load_tile(float (&tile)[kDepth][kTile + kSide], const Matrix& m, int64_t first, int64_t n,
                                 int64_t depth, int64_t depth_end) {
  for (int at = static_cast<int>(threadIdx.x); at < kTile * kDepth; at += kGemmThreads) {
    const int i = m.column == 1 ? at / kDepth : at % kTile, k = m.column == 1 ? at % kDepth : at / kTile;
    const bool inside = first + i < n && depth + k < depth_end;
    tile[k][i] = inside ? m.data[(first + i) * m.row + (depth + k) * m.column] : 0.0f;
  }
}

// put(part, i, j, sum) for every element. Each thread has kSide x kSide neighbours.
template <class Put>
__global__ void __launch_bounds__(kGemmThreads, 2) gemm_kernel(Gemm g, Put put) {
  Tiles& tiles = *shared<Tiles>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTile, column = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t size = (g.depth + gridDim.z - 1) / gridDim.z;
  const int64_t begin = blockIdx.z * size, end = smaller(g.depth, begin + size);
  const int i0 = static_cast<int>(threadIdx.x) / (kTile / kSide) * kSide;
  const int j0 = static_cast<int>(threadIdx.x) % (kTile / kSide) * kSide;
  const Matrix b_turned{g.b.data, g.b.column, g.b.row};
  float sums[kSide][kSide] = {};
  for (int64_t depth = begin; depth < end; depth += kDepth) {
    load_tile(tiles.a, g.a, row, g.rows, depth, end);
    load_tile(tiles.b, b_turned, column, g.columns, depth, end);
    __syncthreads();
    for (int k = 0; k < kDepth; ++k) {
      float a[kSide], b[kSide];
      for (int i = 0; i < kSide; ++i) a[i] = tiles.a[k][i0 + i], b[i] = tiles.b[k][j0 + i];
      for (int i = 0; i < kSide; ++i)
        for (int j = 0; j < kSide; ++j) sums[i][j] += a[i] * b[j];
    }
    __syncthreads();
  }
  for (int i = 0; i < kSide; ++i)
    for (int j = 0; j < kSide; ++j)
      if (row + i0 + i < g.rows && column + j0 + j < g.columns) put(row + i0 + i, column + j0 + j, sums[i][j]);
}

template <class Put>
void gemm(const Gemm& g, int64_t n_parts, const Put& put) {
  const dim3 grid(blocks(g.rows, kTile), blocks(g.columns, kTile), static_cast<unsigned>(n_parts));
  launch(gemm_kernel<Put>, grid, kGemmThreads, sizeof(Tiles), g, put);
}

struct PutLayer {  // y = dropout(activation(sum + bias)) + residual
  const float *bias, *residual;
  Activation activation;
  Drop drop;
  float *saved, *y;
  int64_t width;
  __device__ void operator()(int64_t i, int64_t j, float sum) const {
    const int64_t at = i * width + j;
    const float before = bias != nullptr ? sum + bias[j] : sum;
    if (saved != nullptr) saved[at] = before;
    const float factor = drop.of_element(i, j);
    const float value = factor == 0.0f ? 0.0f : __fmul_rn(activated(activation, before), factor);  // as dropout does
    y[at] = residual != nullptr ? value + residual[at] : value;
  }
};

struct PutSum {
  float* y;
  int64_t width;
  bool add;
  __device__ void operator()(int64_t i, int64_t j, float sum) const {
    float& place = y[i * width + j];
    place = add ? place + sum : sum;
  }
};

struct PutPart {
  float* parts;
  int64_t rows, width;
  __device__ void operator()(int64_t i, int64_t j, float sum) const {
    parts[(static_cast<int64_t>(blockIdx.z) * rows + i) * width + j] = sum;
  }
};

struct BeforeActivation {  // the gradient by x W^T + b
  const float *dy, *saved;
  Activation activation;
  Drop drop;
  int64_t width;
  float* gradient;
  __device__ void operator()(int64_t i) const {
    const float factor = drop.of_element(i / width, i % width);
    const float kept = factor == 0.0f ? 0.0f : dy[i] * factor;
    gradient[i] = activation == kIdentity ? kept : kept * slope(activation, saved[i]);
  }
};

struct ColumnOf {
  const float* x;
  int64_t width;
  __device__ float operator()(int64_t row, int64_t c) const { return x[row * width + c]; }
};

void linear_forward(const regard_linear& a) {
  const Activation activation = activation_of(a.activation);
  const Drop drop = drop_of(a.dropout);
  for (int64_t m = 0; m < a.n_maps; ++m) {
    const regard_linear_map& map = a.maps[m];
    const Gemm product{{a.x, a.n_in, 1}, {map.weight, 1, a.n_in}, a.n, a.n_out, a.n_in};
    gemm(product, 1, PutLayer{map.bias, a.residual, activation, drop, map.saved, map.y, a.n_out});
  }
}

void linear_backward(const regard_linear& a) {
  const Activation activation = activation_of(a.activation);
  const Drop drop = drop_of(a.dropout);
  Scratch scratch;
  for (int64_t m = 0; m < a.n_maps; ++m) {
    const regard_linear_map& map = a.maps[m];
    const float* dy = map.dy;
    if (drop.any || activation != kIdentity) {
      float* gradient = scratch.take<float>(a.n * a.n_out);
      each(a.n * a.n_out, BeforeActivation{dy, map.saved, activation, drop, a.n_out, gradient});
      dy = gradient;
    }
    if (a.dx != nullptr)
      gemm({{dy, a.n_out, 1}, {map.weight, a.n_in, 1}, a.n, a.n_in, a.n_out}, 1,
           PutSum{a.dx, a.n_in, m > 0 || a.add_to_dx != 0});
    if (map.dweight != nullptr && a.n > 0) {
      const int64_t n_parts = parts_of(a.n), size = a.n_out * a.n_in;
      float* parts = scratch.take<float>(n_parts * size);
      gemm({{dy, 1, a.n_out}, {a.x, a.n_in, 1}, a.n_out, a.n_in, a.n}, n_parts, PutPart{parts, a.n_out, a.n_in});
      each(size, AddParts<float>{parts, n_parts, size, map.dweight});
    }
    if (map.dbias != nullptr) add_column_sums(a.n, a.n_out, ColumnOf{dy, a.n_out}, map.dbias, scratch);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace regard

extern "C" {

regard_status regard_cuda_linear_forward(const regard_linear* a) {
  return regard::cuda::guarded([&] { regard::cuda::linear_forward(*a); });
}
regard_status regard_cuda_linear_backward(const regard_linear* a) {
  return regard::cuda::guarded([&] { regard::cuda::linear_backward(*a); });
}

}  // extern "C"
