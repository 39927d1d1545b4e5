// What kernels and the functions that launch them stand on. A source here is compiled by nvcc, or by a C++ compiler
// with tests/cuda_shim in place of CUDA, so it keeps to a few rules: blocks have one dimension, launches go through
// launch(), shared memory comes from shared() alone, and a kernel calls nothing but what stands here and <math.h>.
#pragma once
#include <stdint.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>

#include "cuda/regard_cuda.h"
#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "cuda_on_cpu.h"
#endif

namespace regard {
namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// ---- on the host ----

[[noreturn]] void invalid(const char* name, const std::string& expected, const std::string& got);
void check(cudaError_t error, const char* what);  // throws
regard_status fail(regard_status status, const char* message) noexcept;
std::mutex& in_use();  // held while an operation is put into the stream, since scratch memory is shared

// Memory until the end of the operation: what is asked for by name is there until then.
class Scratch {
 public:
  template <class T>
  T* take(int64_t n) {
    return static_cast<T*>(bytes(static_cast<size_t>(n) * sizeof(T)));
  }
  ~Scratch();

 private:
  void* bytes(size_t n);
  size_t used_ = 0;
};

template <class F>
regard_status guarded(F&& body) noexcept {
  try {
    const std::lock_guard<std::mutex> lock(in_use());
    body();
    return REGARD_OK;
  } catch (const std::invalid_argument& error) {
    return fail(REGARD_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(REGARD_OUT_OF_MEMORY, "out of memory on the CUDA device");
  } catch (const std::exception& error) {
    return fail(REGARD_INTERNAL, error.what());
  }
}

inline unsigned blocks(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

// kernel<<<grid, threads, shared>>>(arguments...), if there is anything to do.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0) return;
#ifdef __CUDACC__
  if (shared > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "shared memory");
  kernel<<<grid, static_cast<unsigned>(threads), shared>>>(static_cast<Parameters>(arguments)...);
  check(cudaGetLastError(), "launch");
#else
  cuda_on_cpu::launch(grid, threads, shared, [&] { kernel(static_cast<Parameters>(arguments)...); });
#endif
}

// ---- on the device ----

template <class T>
__device__ inline T* shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#else
  return reinterpret_cast<T*>(cuda_on_cpu::shared_memory);
#endif
}

__device__ inline int lane() { return static_cast<int>(threadIdx.x % kWarp); }
__device__ inline int warp() { return static_cast<int>(threadIdx.x / kWarp); }
__device__ inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
__device__ inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T>
__device__ inline T warp_sum(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// The sum over the block, in every thread. place: shared memory for one T of each warp.
template <class T>
__device__ inline T block_sum(T x, T* place) {
  x = warp_sum(x);
  if (lane() == 0) place[warp()] = x;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) total += place[w];
  return total;
}

constexpr int kEachThreads = 256;

// body(i) for every i of n.
template <class F>
__global__ void each_kernel(int64_t n, F body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) body(i);
}
template <class F>
void each(int64_t n, const F& body) {
  launch(each_kernel<F>, std::min(blocks(n, kEachThreads), 65536u), kEachThreads, 0, n, body);
}

// ---- sums over the rows of a matrix, in an order that depends on its shape alone ----

constexpr int kSumLanes = 8;  // threads that share a column
constexpr int64_t kMostParts = 64, kPartRows = 128;

inline int64_t parts_of(int64_t n) { return std::clamp<int64_t>(n / kPartRows, 1, kMostParts); }

// parts[part][c] = sum of element(row, c) over the rows of a part.
template <class F>
__global__ void column_parts_kernel(int64_t n, int64_t width, F element, double* parts) {
  double* sums = shared<double>();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane(), size = (n + gridDim.y - 1) / gridDim.y;
  const int64_t begin = blockIdx.y * size, end = smaller(n, begin + size);
  double sum = 0.0;
  if (column < width)
    for (int64_t row = begin + warp(); row < end; row += kSumLanes) sum += static_cast<double>(element(row, column));
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp() != 0 || column >= width) return;
  for (int w = 1; w < kSumLanes; ++w) sum += sums[w * kWarp + lane()];
  parts[blockIdx.y * width + column] = sum;
}

template <class T>
struct AddParts {  // sums[i] += parts[0][i] + parts[1][i] + ...
  const T* parts;
  int64_t n_parts, width;
  float* sums;
  __device__ void operator()(int64_t i) const {
    double sum = 0.0;
    for (int64_t part = 0; part < n_parts; ++part) sum += static_cast<double>(parts[part * width + i]);
    sums[i] += static_cast<float>(sum);
  }
};

// sums[c] += sum over rows of element(row, c)
template <class F>
void add_column_sums(int64_t n, int64_t width, const F& element, float* sums, Scratch& scratch) {
  if (n == 0) return;
  const int64_t n_parts = parts_of(n);
  double* parts = scratch.take<double>(n_parts * width);
  const dim3 grid(blocks(width, kWarp), static_cast<unsigned>(n_parts));
  launch(column_parts_kernel<F>, grid, kSumLanes * kWarp, kSumLanes * kWarp * sizeof(double), n, width, element, parts);
  each(width, AddParts<double>{parts, n_parts, width, sums});
}

}  // namespace cuda
}  // namespace regard
