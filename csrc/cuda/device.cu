// Memory, errors, the device.
#include "cuda/device.h"

#include <stdio.h>

#include <vector>

namespace regard {
namespace cuda {
namespace {

thread_local char last_error[512] = "";

// One block that grows, and what did not fit into it in the operation that is under way.
struct Pool {
  char* block = nullptr;
  size_t size = 0, wanted = 0;
  std::vector<void*> extra;
};
Pool& pool() {
  static Pool* kept = new Pool;  // never destroyed: the device may be gone before
  return *kept;
}

void* allocate(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, std::max<size_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // else the next launch reports it again
    throw std::bad_alloc();
  }
  check(error, "cudaMalloc");
  return memory;
}

}  // namespace

void invalid(const char* name, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + got);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

regard_status fail(regard_status status, const char* message) noexcept {
  snprintf(last_error, sizeof last_error, "%s", message);
  return status;
}

std::mutex& in_use() {
  static std::mutex* mutex = new std::mutex;
  return *mutex;
}

void* Scratch::bytes(size_t n) {
  Pool& p = pool();
  n = (n + 255) / 256 * 256;
  used_ += n;
  p.wanted = std::max(p.wanted, used_);
  if (used_ <= p.size) return p.block + (used_ - n);
  p.extra.push_back(allocate(n));
  return p.extra.back();
}

// cudaFree waits until the device has done all that uses the memory.
Scratch::~Scratch() {
  Pool& p = pool();
  if (p.extra.empty()) return;
  for (void* memory : p.extra) cudaFree(memory);
  p.extra.clear();
  cudaFree(p.block);
  p.block = nullptr, p.size = 0;
  if (cudaMalloc(reinterpret_cast<void**>(&p.block), p.wanted) == cudaSuccess)
    p.size = p.wanted;
  else
    cudaGetLastError();
}

}  // namespace cuda
}  // namespace regard

using namespace regard::cuda;

extern "C" {

const char* regard_cuda_last_error(void) { return last_error; }

regard_status regard_cuda_device(char* name, int64_t size) {
  int n = 0, device = 0;
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceCount(&n);
  if (error == cudaSuccess && n == 0) error = cudaErrorNoDevice;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return fail(REGARD_UNAVAILABLE, cudaGetErrorString(error));
  snprintf(name, static_cast<size_t>(size), "%s", properties.name);
  return REGARD_OK;
}

regard_status regard_cuda_allocate(size_t bytes, void** memory) {
  return guarded([&] { *memory = allocate(bytes); });
}
regard_status regard_cuda_free(void* memory) {
  return guarded([&] { check(cudaFree(memory), "cudaFree"); });
}
regard_status regard_cuda_copy(void* to, const void* from, size_t bytes) {
  return guarded([&] {
    if (bytes > 0) check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
  });
}
regard_status regard_cuda_zero(void* memory, size_t bytes) {
  return guarded([&] {
    if (bytes > 0) check(cudaMemsetAsync(memory, 0, bytes), "cudaMemsetAsync");
  });
}

}  // extern "C"
