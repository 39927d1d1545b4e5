// SGD and Adam, and the sum of squares for gradient clipping; formulas in cpu/optimizer.h.
#include <math.h>

#include "cpu/kernels.h"
#include "cuda/device.h"

namespace regard {
namespace cuda {
namespace {

// Where in the weight element i of the gradient belongs; rows may be null: all.
__device__ inline int64_t place(const int32_t* rows, int64_t width, int64_t i) {
  return rows != nullptr ? rows[i / width] * width + i % width : i;
}

struct Sgd {
  SgdStep a;
  float* weight;
  const float* grad;
  float* buffer;  // or null: no momentum
  const int32_t* rows;
  int64_t width;
  __device__ void operator()(int64_t i) const {
    const int64_t at = place(rows, width, i);
    float g = grad[i] * a.grad_scale + a.weight_decay * weight[at];
    if (buffer != nullptr) g = buffer[at] = a.momentum * buffer[at] + g;
    weight[at] -= a.learning_rate * g;
  }
};

struct Adam {
  AdamStep a;
  float* weight;
  const float* grad;
  float *m, *v;
  const int32_t* rows;
  int64_t width;
  __device__ void operator()(int64_t i) const {
    const int64_t at = place(rows, width, i);
    const float w = weight[at];
    const float g = grad[i] * a.grad_scale + (a.decoupled ? 0.0f : a.weight_decay) * w;
    const float first = a.beta1 * m[at] + a.keep1 * g;
    const float second = a.beta2 * v[at] + a.keep2 * g * g;
    m[at] = first;
    v[at] = second;
    const float decay = (a.decoupled ? a.weight_decay : 0.0f) * w;
    weight[at] = w - a.learning_rate * (first * a.correction1 / (sqrtf(second * a.correction2) + a.eps) + decay);
  }
};

constexpr int kSquaresThreads = 256;
constexpr int64_t kSquaresBlocks = 128;

__global__ void squares_kernel(const float* x, int64_t n, double* parts) {
  double sum = 0.0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  sum = block_sum(sum, shared<double>());
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

}  // namespace
}  // namespace cuda
}  // namespace regard

using namespace regard::cuda;

extern "C" {

regard_status regard_cuda_sgd(float* weight, const float* grad, float* buffer, int64_t n, const int32_t* rows,
                              int64_t width, double learning_rate, double momentum, double weight_decay,
                              double grad_scale) {
  return guarded([&] {
    const regard::SgdStep a{static_cast<float>(learning_rate), static_cast<float>(momentum),
                            static_cast<float>(weight_decay), static_cast<float>(grad_scale)};
    each(n, Sgd{a, weight, grad, buffer, rows, width});
  });
}

regard_status regard_cuda_adam(float* weight, const float* grad, float* m, float* v, int64_t n, const int32_t* rows,
                               int64_t width, int64_t step, double learning_rate, double beta1, double beta2,
                               double eps, double weight_decay, int decoupled, double grad_scale) {
  return guarded([&] {
    regard::AdamStep a{};
    a.learning_rate = static_cast<float>(learning_rate), a.eps = static_cast<float>(eps);
    a.beta1 = static_cast<float>(beta1), a.beta2 = static_cast<float>(beta2);
    a.keep1 = static_cast<float>(1.0 - beta1), a.keep2 = static_cast<float>(1.0 - beta2);
    a.weight_decay = static_cast<float>(weight_decay), a.decoupled = decoupled != 0;
    a.correction1 = static_cast<float>(1.0 / (1.0 - pow(beta1, static_cast<double>(step))));
    a.correction2 = static_cast<float>(1.0 / (1.0 - pow(beta2, static_cast<double>(step))));
    a.grad_scale = static_cast<float>(grad_scale);
    each(n, Adam{a, weight, grad, m, v, rows, width});
  });
}

regard_status regard_cuda_sum_squares(const float* x, int64_t n, double* sum) {
  return guarded([&] {
    const int64_t n_blocks = std::min<int64_t>(blocks(n, kSquaresThreads), kSquaresBlocks);
    double parts[kSquaresBlocks];
    Scratch scratch;
    double* on_device = scratch.take<double>(n_blocks);
    launch(squares_kernel, static_cast<unsigned>(n_blocks), kSquaresThreads, kSquaresThreads / kWarp * sizeof(double),
           x, n, on_device);
    if (n_blocks > 0)
      check(cudaMemcpy(parts, on_device, static_cast<size_t>(n_blocks) * sizeof(double), cudaMemcpyDefault),
            "cudaMemcpy");
    *sum = 0.0;
    for (int64_t i = 0; i < n_blocks; ++i) *sum += parts[i];
  });
}

}  // extern "C"
