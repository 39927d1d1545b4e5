// All of csrc/cuda as one library that runs on the CPU, and what the tests set.
#include "cuda/attention.cu"
#include "cuda/cross_entropy.cu"
#include "cuda/device.cu"
#include "cuda/layers.cu"
#include "cuda/linear.cu"
#include "cuda/optimizer.cu"
#include "cuda/topk.cu"

extern "C" {

REGARD_API void shim_order(int order) { cuda_on_cpu::thread_order = order; }
REGARD_API void shim_leave_out(const char* barrier) { cuda_on_cpu::left_out = barrier; }
REGARD_API long long shim_launches() { return cuda_on_cpu::launches; }

}  // extern "C"
