// The thread pool for training and batch work.
//
// The caller takes part; a nested call, or one made while another thread has the pool, runs in the caller alone. After
// a fork the child starts with a fresh pool. Which worker takes which task is up to chance, so a task may write only
// what no other task touches.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace regard {

// Runs task(0) ... task(n - 1). The first exception is thrown in the caller once all workers have stopped.
void parallel_for(int64_t n, const std::function<void(int64_t)>& task);

// At least `floats` floats, 64-byte aligned, kept by the calling thread until its next call. Throws std::bad_alloc.
float* thread_scratch(int64_t floats);

// The same for what a call shares with its workers, whose own scratch this must not be: at most one at a time in a
// thread. The memory serves the thread's next call, unless it is large.
class CallScratch {
 public:
  explicit CallScratch(int64_t floats);
  ~CallScratch();
  CallScratch(const CallScratch&) = delete;
  CallScratch& operator=(const CallScratch&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
};

int thread_count();
std::string thread_count_reason();
void set_thread_count(int n);  // throws std::invalid_argument below 1

}  // namespace regard
