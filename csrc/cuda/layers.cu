// What works on elements or rows: activations, gates, dropout, sums, norms, embeddings.
#include "cuda/activation.h"
#include "cuda/philox.h"

namespace regard {
namespace cuda {
namespace {

struct Activate {
  Activation kind;
  const float* x;
  float* y;
  __device__ void operator()(int64_t i) const { y[i] = activated(kind, x[i]); }
};

struct ActivateBackward {
  Activation kind;
  const float *dy, *x;
  float* dx;
  __device__ void operator()(int64_t i) const { dx[i] = dy[i] * slope(kind, x[i]); }
};

struct Gate {
  Activation kind;
  const float *gate, *value;
  float* y;
  __device__ void operator()(int64_t i) const { y[i] = activated(kind, gate[i]) * value[i]; }
};

struct GateBackward {
  Activation kind;
  const float *dy, *gate, *value;
  float *dgate, *dvalue;
  __device__ void operator()(int64_t i) const {
    const float d = dy[i], g = gate[i], v = value[i];
    dgate[i] = d * v * slope(kind, g);
    dvalue[i] = d * activated(kind, g);
  }
};

struct DropElement {
  Drop drop;
  const float* x;
  int64_t width;
  float* y;
  __device__ void operator()(int64_t i) const {
    const float factor = drop.of_element(i / width, i % width);
    y[i] = factor == 0.0f ? 0.0f : x[i] * factor;
  }
};

struct Add {
  const float *x, *y;
  float* sum;
  __device__ void operator()(int64_t i) const { sum[i] = x[i] + y[i]; }
};

struct TakeRows {
  const float* table;
  const int32_t* ids;
  int64_t dim;
  float scale;
  float* y;
  __device__ void operator()(int64_t i) const { y[i] = table[ids[i / dim] * dim + i % dim] * scale; }
};

struct AddRows {  // each element of a row of the table belongs to one thread, which adds in order
  const float* dy;
  const int32_t* ids;
  const int64_t *starts, *order;
  int64_t dim;
  float scale;
  float* dtable;
  __device__ void operator()(int64_t i) const {
    const int64_t place = i / dim, c = i % dim;
    float* sum = dtable + ids[place] * dim + c;
    float total = *sum;
    for (int64_t j = starts[place]; j < starts[place + 1]; ++j) total += dy[order[j] * dim + c] * scale;
    *sum = total;
  }
};

// ---- norms: formulas in cpu/norm.h; a warp has a row ----

constexpr int kNormThreads = 128;

struct Norm {
  const float *x, *weight, *bias;  // bias: null for the RMS norm
  float eps;
  int64_t n, dim;
  float *y, *mean, *rstd;
};

__global__ void norm_kernel(Norm a) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kNormThreads / kWarp) + warp();
  if (row >= a.n) return;
  const float* x = a.x + row * a.dim;
  const double inverse = 1.0 / static_cast<double>(a.dim);
  float middle = 0.0f;
  if (a.bias != nullptr) {
    float sum = 0.0f;
    for (int64_t c = lane(); c < a.dim; c += kWarp) sum += x[c];
    middle = static_cast<float>(static_cast<double>(warp_sum(sum)) * inverse);
  }
  float squares = 0.0f;
  for (int64_t c = lane(); c < a.dim; c += kWarp) squares += (x[c] - middle) * (x[c] - middle);
  const double variance = static_cast<double>(warp_sum(squares)) * inverse;
  const float rstd = static_cast<float>(1.0 / sqrt(variance + static_cast<double>(a.eps)));
  for (int64_t c = lane(); c < a.dim; c += kWarp) {
    const float value = (x[c] - middle) * rstd * a.weight[c];
    a.y[row * a.dim + c] = a.bias != nullptr ? value + a.bias[c] : value;
  }
  if (lane() != 0) return;
  a.rstd[row] = rstd;
  if (a.bias != nullptr) a.mean[row] = middle;
}

struct NormGradient {  // mean: null for the RMS norm
  const float *dy, *x, *weight, *mean, *rstd;
  int64_t n, dim;
  float* dx;
  __device__ float normal(int64_t row, int64_t c) const {
    return (x[row * dim + c] - (mean != nullptr ? mean[row] : 0.0f)) * rstd[row];
  }
};

__global__ void norm_backward_kernel(NormGradient a) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kNormThreads / kWarp) + warp();
  if (row >= a.n) return;
  const float* dy = a.dy + row * a.dim;
  const double inverse = 1.0 / static_cast<double>(a.dim);
  float sum_g = 0.0f, sum_gn = 0.0f;
  for (int64_t c = lane(); c < a.dim; c += kWarp) {
    const float g = dy[c] * a.weight[c];
    sum_g += g;
    sum_gn += g * a.normal(row, c);
  }
  const float mean_g = a.mean != nullptr ? static_cast<float>(static_cast<double>(warp_sum(sum_g)) * inverse) : 0.0f;
  const float mean_gn = static_cast<float>(static_cast<double>(warp_sum(sum_gn)) * inverse);
  for (int64_t c = lane(); c < a.dim; c += kWarp)
    a.dx[row * a.dim + c] += a.rstd[row] * (dy[c] * a.weight[c] - mean_g - a.normal(row, c) * mean_gn);
}

struct WeightGradient {
  NormGradient of;
  __device__ float operator()(int64_t row, int64_t c) const { return of.dy[row * of.dim + c] * of.normal(row, c); }
};

struct Element {
  const float* x;
  int64_t width;
  __device__ float operator()(int64_t row, int64_t c) const { return x[row * width + c]; }
};

}  // namespace
}  // namespace cuda
}  // namespace regard

using namespace regard::cuda;

extern "C" {

regard_status regard_cuda_activation_forward(int activation, const float* x, int64_t n, float* y) {
  return guarded([&] { each(n, Activate{activation_of(activation), x, y}); });
}
regard_status regard_cuda_activation_backward(int activation, const float* dy, const float* x, int64_t n, float* dx) {
  return guarded([&] { each(n, ActivateBackward{activation_of(activation), dy, x, dx}); });
}
regard_status regard_cuda_gate_forward(int activation, const float* gate, const float* value, int64_t n, float* y) {
  return guarded([&] { each(n, Gate{activation_of(activation), gate, value, y}); });
}
regard_status regard_cuda_gate_backward(int activation, const float* dy, const float* gate, const float* value,
                                        int64_t n, float* dgate, float* dvalue) {
  return guarded([&] { each(n, GateBackward{activation_of(activation), dy, gate, value, dgate, dvalue}); });
}
regard_status regard_cuda_dropout(const regard_dropout* d, const float* x, int64_t n, int64_t width, float* y) {
  return guarded([&] { each(n * width, DropElement{drop_of(d), x, width, y}); });
}
regard_status regard_cuda_add(const float* x, const float* y, int64_t n, float* sum) {
  return guarded([&] { each(n, Add{x, y, sum}); });
}

regard_status regard_cuda_norm_forward(const float* x, const float* weight, const float* bias, double eps, int64_t n,
                                       int64_t dim, float* y, float* mean, float* rstd) {
  return guarded([&] {
    const Norm norm{x, weight, bias, static_cast<float>(eps), n, dim, y, mean, rstd};
    launch(norm_kernel, blocks(n, kNormThreads / kWarp), kNormThreads, 0, norm);
  });
}
regard_status regard_cuda_norm_backward(const float* dy, const float* x, const float* weight, const float* mean,
                                        const float* rstd, int64_t n, int64_t dim, float* dx, float* dweight,
                                        float* dbias) {
  return guarded([&] {
    const NormGradient gradient{dy, x, weight, mean, rstd, n, dim, dx};
    Scratch scratch;
    add_column_sums(n, dim, WeightGradient{gradient}, dweight, scratch);
    if (dbias != nullptr) add_column_sums(n, dim, Element{dy, dim}, dbias, scratch);
    launch(norm_backward_kernel, blocks(n, kNormThreads / kWarp), kNormThreads, 0, gradient);
  });
}

regard_status regard_cuda_embedding_forward(const float* table, const int32_t* ids, int64_t n, int64_t dim,
                                            double scale, float* y) {
  return guarded([&] { each(n * dim, TakeRows{table, ids, dim, static_cast<float>(scale), y}); });
}
regard_status regard_cuda_embedding_backward(const float* dy, const int32_t* ids, const int64_t* starts,
                                             const int64_t* order, int64_t n_ids, int64_t dim, double scale,
                                             float* dtable) {
  return guarded([&] { each(n_ids * dim, AddRows{dy, ids, starts, order, dim, static_cast<float>(scale), dtable}); });
}

}  // extern "C"
