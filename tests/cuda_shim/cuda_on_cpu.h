// CUDA on the CPU, as far as csrc/cuda uses it, so that its kernels and what launches them can be tested on any
// machine. Blocks run one after another; the threads of a block are fibres that run until they meet others at a barrier
// or a shuffle. Shared memory and new device memory hold NaN. Device memory can be touched by kernels and by the copies
// alone. Threads and blocks run in one of three orders, and any one barrier can be left out: a test then must fail.
//
// What it cannot see: two warps that race within one instruction, bank conflicts, alignment, speed.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

constexpr size_t kSharedBytes = 163 * 1024, kSlack = 1 << 20, kStackBytes = 256 * 1024, kDeviceBytes = size_t{1} << 30;
inline unsigned char* const shared_memory = static_cast<unsigned char*>(aligned_alloc(64, kSharedBytes + kSlack));

inline int thread_order = 0;  // 0 forward, 1 backward, 2 shuffled
inline std::string left_out;  // the barrier that is left out: "file:line"
inline long long launches = 0;

// ---- fibres ----

enum class State { kReady, kAtBarrier, kAtWarpBarrier, kDone };

struct Fibre {
  ucontext_t context;
  jmp_buf place;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  bool started = false;
  State state = State::kDone;
  const char* site = "";
  int line = 0, shuffles = 0;
};

inline std::vector<Fibre*> fibres;
inline Fibre* current = nullptr;
inline jmp_buf scheduler;
inline const std::function<void()>* body = nullptr;
inline uint64_t exchanged[32][2][32];  // what the lanes of each warp hand each other, in turn in two places

inline void to_scheduler() {
  if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

inline void run_fibre() {
  for (;;) {
    (*body)();
    current->state = State::kDone;
    to_scheduler();
  }
}

inline void resume(unsigned thread) {
  current = fibres[thread];
  threadIdx.x = thread;
  if (_setjmp(scheduler) != 0) return;
  if (current->started) _longjmp(current->place, 1);
  current->started = true;
  getcontext(&current->context);
  current->context.uc_stack.ss_sp = current->stack.data();
  current->context.uc_stack.ss_size = current->stack.size();
  current->context.uc_link = nullptr;
  makecontext(&current->context, run_fibre, 0);
  setcontext(&current->context);
}

inline void wait(State state, const char* site, int line) {
  const unsigned thread = threadIdx.x;
  current->state = state, current->site = site, current->line = line;
  to_scheduler();
  threadIdx.x = thread;
}

inline void barrier(State state, const char* file, int line) {
  const char* name = strrchr(file, '/');
  name = name == nullptr ? file : name + 1;
  if (!left_out.empty() && left_out == std::string(name) + ":" + std::to_string(line)) return;
  wait(state, name, line);
}

// Threads [begin, end) go on if all of them have arrived at one barrier. Who has left can never arrive.
inline bool release(unsigned begin, unsigned end, State state) {
  const Fibre& first = *fibres[begin];
  for (unsigned t = begin; t < end; ++t)
    if (fibres[t]->state != state || fibres[t]->line != first.line || strcmp(fibres[t]->site, first.site) != 0)
      return false;
  for (unsigned t = begin; t < end; ++t) fibres[t]->state = State::kReady;
  return true;
}

// Each warp in turn runs as far as it comes, to a barrier of the block: what no barrier orders may be far apart.
inline void run_block(const std::vector<unsigned>& order) {
  const unsigned n = static_cast<unsigned>(order.size());
  for (Fibre* fibre : fibres) fibre->state = State::kDone;
  for (const unsigned t : order) fibres[t]->state = State::kReady, fibres[t]->shuffles = 0;
  for (;;) {
    for (unsigned w = 0; w < n; w += 32) {
      const unsigned first = order[w] / 32 * 32;
      do {
        for (unsigned lane = w; lane < w + 32; ++lane)
          if (fibres[order[lane]]->state == State::kReady) resume(order[lane]);
      } while (release(first, first + 32, State::kAtWarpBarrier));
    }
    if (std::all_of(order.begin(), order.end(), [](unsigned t) { return fibres[t]->state == State::kDone; })) return;
    if (release(0, n, State::kAtBarrier)) continue;
    std::string where;
    for (unsigned t = 0; t < n; ++t)
      if (fibres[t]->state != State::kDone) {
        where = std::string(fibres[t]->site) + ":" + std::to_string(fibres[t]->line) + ", thread " + std::to_string(t);
        break;
      }
    for (Fibre* fibre : fibres) fibre->started = false;
    throw std::runtime_error("threads wait for others that never come: " + where);
  }
}

template <class T>
T shuffle_xor(T value, int mask, const char* file, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a number");
  const unsigned thread = threadIdx.x, warp = thread / 32;
  const int turn = current->shuffles++ % 2;
  exchanged[warp][turn][thread % 32] = 0;
  memcpy(&exchanged[warp][turn][thread % 32], &value, sizeof(T));
  const char* name = strrchr(file, '/');
  wait(State::kAtWarpBarrier, name == nullptr ? file : name + 1, line);
  memcpy(&value, &exchanged[warp][turn][(thread % 32) ^ static_cast<unsigned>(mask)], sizeof(T));
  return value;
}

// ---- device memory ----

class Memory {
 public:
  Memory()
      : base_(static_cast<char*>(
            mmap(nullptr, kDeviceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}
  void* allocate(size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    size_t at = 0;
    for (const auto& [begin, size] : taken_) {  // the first gap that is large enough, with room behind each piece
      if (begin - at >= bytes + 256) break;
      at = begin + size + 256;
    }
    if (at + bytes > kDeviceBytes) return nullptr;
    taken_[at] = bytes;
    end_ = std::max(end_, at + bytes);
    open();
    memset(base_ + at, 0xFF, bytes);
    close();
    return base_ + at;
  }
  bool free(void* memory) {
    return memory == nullptr || taken_.erase(static_cast<size_t>(static_cast<char*>(memory) - base_)) == 1;
  }
  void open() { protect(PROT_READ | PROT_WRITE); }
  void close() { protect(PROT_NONE); }

 private:
  void protect(int how) {
    if (end_ > 0) mprotect(base_, (end_ + 4095) / 4096 * 4096, how);
  }
  char* base_;
  size_t end_ = 0;
  std::map<size_t, size_t> taken_;  // begin, size
};

inline Memory& memory() {
  static Memory* kept = new Memory;
  return *kept;
}

struct Opened {
  Opened() { memory().open(); }
  ~Opened() { memory().close(); }
};

inline std::vector<unsigned> ordered(unsigned begin, unsigned n, std::minstd_rand& random) {
  std::vector<unsigned> order(n);
  for (unsigned i = 0; i < n; ++i) order[i] = begin + (thread_order == 1 ? n - 1 - i : i);
  if (thread_order == 2) std::shuffle(order.begin(), order.end(), random);
  return order;
}

inline std::vector<unsigned> ordered_threads(unsigned n, std::minstd_rand& random) {  // the lanes of each warp together
  std::vector<unsigned> order;
  for (const unsigned warp : ordered(0, n / 32, random))
    for (const unsigned thread : ordered(warp * 32, 32, random)) order.push_back(thread);
  return order;
}

inline void launch(dim3 grid, int threads, size_t shared, const std::function<void()>& kernel) {
  if (shared > kSharedBytes) throw std::runtime_error("more shared memory than a block can have");
  if (threads < 1 || threads > 1024 || threads % 32 != 0) throw std::runtime_error("not a block of whole warps");
  const Opened opened;
  std::minstd_rand random(7);
  while (fibres.size() < static_cast<size_t>(threads)) fibres.push_back(new Fibre);
  body = &kernel, gridDim = grid, blockDim = dim3(static_cast<unsigned>(threads));
  ++launches;
  for (const unsigned block : ordered(0, grid.x * grid.y * grid.z, random)) {
    blockIdx = dim3(block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y);
    memset(shared_memory, 0xFF, shared + 4096);
    run_block(ordered_threads(static_cast<unsigned>(threads), random));
  }
}

}  // namespace cuda_on_cpu

#define __syncthreads() cuda_on_cpu::barrier(cuda_on_cpu::State::kAtBarrier, __FILE__, __LINE__)
#define __syncwarp() cuda_on_cpu::barrier(cuda_on_cpu::State::kAtWarpBarrier, __FILE__, __LINE__)
#define __shfl_xor_sync(lanes, value, mask) cuda_on_cpu::shuffle_xor(value, mask, __FILE__, __LINE__)

inline float __fmul_rn(float x, float y) { return x * y; }
inline int atomicAdd(int* place, int value) {
  const int before = *place;
  *place += value;
  return before;
}

// ---- the functions of the host ----

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorNoDevice, cudaErrorInvalidValue };
enum { cudaMemcpyDefault };
struct cudaDeviceProp {
  char name[256];
};

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an error";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* n) {
  *n = getenv("REGARD_SHIM_WITHOUT_DEVICE") == nullptr ? 1 : 0;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  strcpy(properties->name, "CUDA on the CPU");
  return cudaSuccess;
}
inline cudaError_t cudaMalloc(void** place, size_t bytes) {
  *place = cuda_on_cpu::memory().allocate(bytes);
  return *place == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* place) {
  return cuda_on_cpu::memory().free(place) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, int) {
  const cuda_on_cpu::Opened opened;
  memmove(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* place, int value, size_t bytes) {
  const cuda_on_cpu::Opened opened;
  memset(place, value, bytes);
  return cudaSuccess;
}
