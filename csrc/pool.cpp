#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

namespace regard {
namespace {

// A thread that waits looks for so long before it sleeps: to wake it takes about as long. In training one job follows
// the other within this time.
constexpr std::chrono::microseconds kLookout{50};

constexpr size_t kStackBytes = size_t{1} << 20;  // kernels keep register tiles on the stack; musl's default is small

struct Job {
  const std::function<void(int64_t)>* task;
  int64_t n;
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    try {
      for (int64_t i; (i = next.fetch_add(1)) < n;) (*task)(i);
    } catch (...) {
      next.store(n);
      const std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }
};

class Pool {
 public:
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    start_.notify_all();
    for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
  }

  void run(int helpers, Job& job) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (static_cast<int>(threads_.size()) < helpers && add_thread()) {
    }
    job_ = &job;
    wanted_ = std::min(helpers, static_cast<int>(threads_.size()));
    const bool some_sleep = sleeping_ > 0;
    ++jobs_;
    lock.unlock();
    if (some_sleep) start_.notify_all();
    job.work();
    lock.lock();
    job_ = nullptr;  // who comes late finds nothing to do
    lock.unlock();
    look_out([this] { return active_ == 0; });
    lock.lock();
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  template <class F>
  static void look_out(F&& happened) {
    const auto end = std::chrono::steady_clock::now() + kLookout;
    while (!happened() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  }

  bool add_thread() {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    pthread_t thread;
    const bool made = pthread_create(&thread, &attributes, &Pool::entry, this) == 0;
    pthread_attr_destroy(&attributes);
    if (made) threads_.push_back(thread);
    return made;
  }
  static void* entry(void* self) {
    static_cast<Pool*>(self)->loop();
    return nullptr;
  }
  void loop();

  std::mutex mutex_;
  std::condition_variable start_, done_;
  std::vector<pthread_t> threads_;
  Job* job_ = nullptr;
  int wanted_ = 0;  // helpers that may still join the job
  int sleeping_ = 0;
  std::atomic<int> active_{0};
  std::atomic<int64_t> jobs_{0};  // begun so far
  bool stopping_ = false;
};

thread_local bool inside = false;  // of a parallel region

void Pool::loop() {
  inside = true;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    const auto called = [this] { return stopping_ || (job_ != nullptr && wanted_ > 0); };
    ++sleeping_;
    start_.wait(lock, called);
    --sleeping_;
    if (stopping_) return;
    Job* job = job_;
    --wanted_;
    ++active_;
    lock.unlock();
    const int64_t jobs = jobs_;
    job->work();
    lock.lock();
    if (--active_ == 0) done_.notify_all();
    lock.unlock();
    look_out([this, jobs] { return jobs_ != jobs; });
    lock.lock();
  }
}

// Only the pid that made the pool may use or destroy it: a forked child has the object but not the threads.
struct Owner {
  std::mutex busy;
  Pool pool;
};
std::atomic<Owner*> owner{nullptr};
std::once_flag fork_handler;

Owner& get_owner() {
  std::call_once(fork_handler, [] { pthread_atfork(nullptr, nullptr, [] { owner.store(nullptr); }); });
  Owner* current = owner.load();
  if (current != nullptr) return *current;
  auto* fresh = new Owner;
  if (owner.compare_exchange_strong(current, fresh)) return *fresh;
  delete fresh;
  return *current;
}

int from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);  // OMP_NUM_THREADS may be a list, of which the first counts
  return end != text && n > 0 && n < 4096 ? static_cast<int>(n) : 0;
}

int cpus_of_affinity() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

int cpus_of_quota() {  // cgroup v2, then v1; 0: no limit
  double quota = 0, period = 0;
  std::string first, line;
  std::ifstream self("/proc/self/cgroup");
  std::vector<std::string> places = {"/sys/fs/cgroup"};
  while (std::getline(self, line))
    if (line.rfind("0::", 0) == 0 && line.size() > 4) places.insert(places.begin(), "/sys/fs/cgroup" + line.substr(3));
  for (const std::string& place : places) {
    std::ifstream file(place + "/cpu.max");
    if (!(file >> first >> period)) continue;
    if (first == "max") continue;
    quota = std::atof(first.c_str());
    break;
  }
  if (quota <= 0) {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  if (quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>(quota / period + 0.5));
}

struct Count {
  int n;
  const char* reason;
};

Count default_count() {
  Count least = {cpus_of_affinity(), "CPU affinity"};
  const auto limit = [&](int n, const char* reason) {
    if (n > 0 && n < least.n) least = {n, reason};
  };
  limit(cpus_of_quota(), "cgroup quota");
  limit(from_environment("OMP_NUM_THREADS"), "OMP_NUM_THREADS");
  limit(from_environment("REGARD_NUM_THREADS"), "REGARD_NUM_THREADS");
  return least;
}

std::atomic<int> chosen{0};

}  // namespace

int thread_count() {
  const int n = chosen.load();
  if (n > 0) return n;
  static const Count count = default_count();
  return count.n;
}

std::string thread_count_reason() { return chosen.load() > 0 ? "set_num_threads" : default_count().reason; }

void set_thread_count(int n) {
  if (n < 1) throw std::invalid_argument("num_threads: expected at least 1, got " + std::to_string(n));
  chosen.store(n);
}

void parallel_for(int64_t n, const std::function<void(int64_t)>& task) {
  if (n <= 0) return;
  const int helpers = static_cast<int>(std::min<int64_t>(thread_count(), n)) - 1;
  if (helpers > 0 && !inside) {
    Owner& mine = get_owner();
    const std::unique_lock<std::mutex> busy(mine.busy, std::try_to_lock);
    if (busy.owns_lock()) {
      Job job;
      job.task = &task;
      job.n = n;
      inside = true;
      mine.pool.run(helpers, job);
      inside = false;
      if (job.error) std::rethrow_exception(job.error);
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) task(i);
}

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kKept = int64_t{4} << 20;  // floats of CallScratch that a thread keeps

struct Buffer {
  float* data = nullptr;
  int64_t size = 0;

  ~Buffer() { std::free(data); }
  float* at_least(int64_t floats) {
    if (floats <= size) return data;
    std::free(data);
    data = nullptr;
    size = 0;
    // What is large asks for huge pages: fewer faults now, fewer misses of the address cache later.
    const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
    const size_t unit = bytes >= kHugePage / 4 ? kHugePage : 64, whole = (bytes + unit - 1) / unit * unit;
    data = static_cast<float*>(std::aligned_alloc(unit, whole));
    if (data == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (unit == kHugePage) madvise(data, whole, MADV_HUGEPAGE);
#endif
    size = static_cast<int64_t>(whole / sizeof(float));
    return data;
  }
};

thread_local Buffer mine, shared;

}  // namespace

float* thread_scratch(int64_t floats) { return mine.at_least(floats); }

CallScratch::CallScratch(int64_t floats) : data_(shared.at_least(floats)) {}
CallScratch::~CallScratch() {
  if (shared.size <= kKept) return;
  std::free(shared.data);
  shared.data = nullptr;
  shared.size = 0;
}

}  // namespace regard
