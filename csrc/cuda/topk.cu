// The best items of each query, and how many score above a target. A block has one query or target, its threads the
// items in turn; scores are used and forgotten.
#include <math.h>

#include "cuda/device.h"

namespace regard {
namespace cuda {
namespace {

constexpr int kTopThreads = 256, kBest = 1024, kPlaces = 2 * kBest;  // the best so far, and candidates

__device__ inline float dot(const float* a, const float* b, int64_t dim) {
  float sum = 0.0f;
  for (int64_t c = 0; c < dim; ++c) sum += a[c] * b[c];
  return sum;
}

__device__ inline void load_query(float* to, const float* from, int64_t dim) {
  for (int64_t c = threadIdx.x; c < dim; c += kTopThreads) to[c] = from[c];
  __syncthreads();
}

// Whether a list that rises holds the item.
__device__ inline bool holds(const int32_t* list, int64_t begin, int64_t end, int64_t item) {
  while (begin < end) {
    const int64_t middle = (begin + end) / 2;
    if (list[middle] == item) return true;
    if (list[middle] < item)
      begin = middle + 1;
    else
      end = middle;
  }
  return false;
}

// Numbers in the order of the answer: higher scores first, then lower items; 0 is none. -0 counts as 0.
__device__ inline uint64_t rank_of(float score, int64_t item) {
  const float x = score == 0.0f ? 0.0f : score;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(item));
}
__device__ inline float score_of(uint64_t rank) {
  uint32_t bits = static_cast<uint32_t>(rank >> 32);
  bits = bits >> 31 != 0 ? bits & 0x7FFFFFFFu : ~bits;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Bitonic, highest first.
__device__ inline void sort(uint64_t* places) {
  for (int size = 2; size <= kPlaces; size *= 2)
    for (int step = size / 2; step > 0; step /= 2) {
      for (int pair = static_cast<int>(threadIdx.x); pair < kPlaces / 2; pair += kTopThreads) {
        const int i = pair / step * 2 * step + pair % step, j = i + step;
        const uint64_t a = places[i], b = places[j];
        if ((a < b) == ((i & size) == 0)) places[i] = b, places[j] = a;
      }
      __syncthreads();
    }
}

struct Best {
  const float *h, *items;
  int64_t n_items, dim, k;
  const int64_t *allow_at, *deny_at;  // or null
  const int32_t *allow, *deny;
  int32_t* out_items;
  float* out_scores;
};

// More than kBest answers are found kBest at a time: in each pass what is below the last of the pass before.
__global__ void topk_kernel(Best a) {
  int* waiting = shared<int>();  // candidates behind the kBest
  uint64_t* places = reinterpret_cast<uint64_t*>(waiting + 2);
  float* query = reinterpret_cast<float*>(places + kPlaces);
  const int64_t row = blockIdx.x;
  load_query(query, a.h + row * a.dim, a.dim);
  const int64_t begin = a.allow_at != nullptr ? a.allow_at[row] : 0;
  const int64_t end = a.allow_at != nullptr ? a.allow_at[row + 1] : a.n_items;
  uint64_t below = ~uint64_t{0};
  for (int64_t first = 0; first < a.k; first += kBest) {
    const int64_t wanted = smaller(kBest, a.k - first);
    uint64_t least = 0;  // of the wanted so far
    for (int i = static_cast<int>(threadIdx.x); i < kPlaces; i += kTopThreads) places[i] = 0;
    if (threadIdx.x == 0) *waiting = 0;
    __syncthreads();
    for (int64_t at = begin; at < end; at += kTopThreads) {
      const int64_t mine = at + threadIdx.x;
      if (mine < end) {
        const int64_t item = a.allow_at != nullptr ? a.allow[mine] : mine;
        const float score = dot(query, a.items + item * a.dim, a.dim);
        const uint64_t rank = rank_of(score, item);
        if (score > -INFINITY && rank > least && rank < below &&
            (a.deny_at == nullptr || !holds(a.deny, a.deny_at[row], a.deny_at[row + 1], item)))
          places[kBest + atomicAdd(waiting, 1)] = rank;
      }
      __syncthreads();
      const bool full = *waiting > kBest - kTopThreads || at + kTopThreads >= end;
      __syncthreads();
      if (!full) continue;
      sort(places);
      least = places[wanted - 1];
      for (int i = static_cast<int>(threadIdx.x); i < kBest; i += kTopThreads) places[kBest + i] = 0;
      if (threadIdx.x == 0) *waiting = 0;
      __syncthreads();
    }
    for (int64_t i = threadIdx.x; i < wanted; i += kTopThreads) {
      const uint64_t rank = places[i];
      a.out_items[row * a.k + first + i] = rank == 0 ? -1 : static_cast<int32_t>(0xFFFFFFFFu - (rank & 0xFFFFFFFFu));
      a.out_scores[row * a.k + first + i] = rank == 0 ? -INFINITY : score_of(rank);
    }
    below = least;  // 0: nothing is left, and the next passes find nothing
  }
}

struct Counts {
  const float *h, *items;
  int64_t n_items, dim;
  const int32_t *targets, *rows;
  const int64_t* deny_at;  // or null
  const int32_t* deny;
  int64_t *above, *equal;
};

__global__ void rank_kernel(Counts a) {
  unsigned long long* sums = shared<unsigned long long>();
  float* query = reinterpret_cast<float*>(sums + 2 * kTopThreads / kWarp);
  const int64_t row = a.rows[blockIdx.x], target = a.targets[blockIdx.x];
  load_query(query, a.h + row * a.dim, a.dim);
  const float its = dot(query, a.items + target * a.dim, a.dim);
  unsigned long long above = 0, equal = 0;
  for (int64_t item = threadIdx.x; item < a.n_items; item += kTopThreads) {
    const float score = dot(query, a.items + item * a.dim, a.dim);
    if (!(score >= its) || item == target) continue;
    if (a.deny_at != nullptr && holds(a.deny, a.deny_at[row], a.deny_at[row + 1], item)) continue;
    if (score > its)
      ++above;
    else
      ++equal;
  }
  above = block_sum(above, sums);
  equal = block_sum(equal, sums + kTopThreads / kWarp);
  if (threadIdx.x != 0) return;
  a.above[blockIdx.x] = static_cast<int64_t>(above);
  a.equal[blockIdx.x] = static_cast<int64_t>(equal);
}

}  // namespace
}  // namespace cuda
}  // namespace regard

using namespace regard::cuda;

extern "C" {

regard_status regard_cuda_topk(const regard_topk_args* a) {
  return guarded([&] {
    const Best best{a->h,     a->item_vectors, a->n_items, a->dim,   a->k, a->allow_offsets, a->deny_offsets,
                    a->allow, a->deny,         a->items,   a->scores};
    const size_t bytes = kPlaces * sizeof(uint64_t) + 2 * sizeof(int) + static_cast<size_t>(a->dim) * sizeof(float);
    launch(topk_kernel, static_cast<unsigned>(a->n), kTopThreads, bytes, best);
  });
}

regard_status regard_cuda_rank_counts(const float* h, const float* item_vectors, int64_t n_items, int64_t dim,
                                      const int32_t* targets, const int32_t* rows, int64_t n,
                                      const int64_t* deny_offsets, const int32_t* deny, int64_t* above,
                                      int64_t* equal) {
  return guarded([&] {
    const Counts counts{h, item_vectors, n_items, dim, targets, rows, deny_offsets, deny, above, equal};
    const size_t bytes =
        2 * kTopThreads / kWarp * sizeof(unsigned long long) + static_cast<size_t>(dim) * sizeof(float);
    launch(rank_kernel, static_cast<unsigned>(n), kTopThreads, bytes, counts);
  });
}

}  // extern "C"
