// Softmax cross-entropy over the catalogue, and its gradients; formulas in cpu/cross_entropy.h. Scores exist a tile at
// a time: rows stay and items pass for the loss and dh, items stay and rows pass for the gradient by the items.
#include "cuda/stream.h"

namespace regard {
namespace cuda {
namespace {

struct Entropy {
  const float *h, *items;
  const int32_t* targets;
  const float* weights;  // (n), or null: all 1
  int64_t n, n_items, dim;
  double* lse;          // (n)
  double* row_loss;     // (n), times the weight
  const double* total;  // of the weights
  float dloss;
  float *dh, *ditems;

  __device__ double weight(int64_t row) const { return weights != nullptr ? static_cast<double>(weights[row]) : 1.0; }
};

__global__ void __launch_bounds__(kStreamThreads, 2) entropy_forward_kernel(Entropy a) {
  const int64_t dim = a.dim, row = static_cast<int64_t>(blockIdx.x) * kRows, own = warp() * kWarpRows;
  float *rows = shared<float>(), *items = rows + kRows * odd(dim);
  load_rows(rows, a.h + row * dim, dim, smaller(kRows, a.n - row), dim);
  Softmax softmax[kWarpRows];
  float of_target[kWarpRows] = {};
  for (int64_t item = 0; item < a.n_items; item += kRows) {
    const int64_t n = smaller(kRows, a.n_items - item);
    load_rows(items, a.items + item * dim, dim, n, dim);
    __syncthreads();
    float scores[kWarpRows];
    dot_products(rows + own * odd(dim), items, dim, scores);
    for (int r = 0; r < kWarpRows; ++r) {
      float shrink;
      const bool counts = lane() < n && row + own + r < a.n;
      softmax[r].add(counts ? scores[r] : -INFINITY, &shrink);
      if (counts && item + lane() == a.targets[row + own + r]) of_target[r] = scores[r];
    }
    __syncthreads();
  }
  for (int r = 0; r < kWarpRows; ++r) {
    const float total = warp_sum(softmax[r].sum), score = warp_sum(of_target[r]);
    const int64_t i = row + own + r;
    if (i >= a.n || lane() != 0) continue;
    const double lse = static_cast<double>(softmax[r].top) + log(static_cast<double>(total));
    a.lse[i] = lse;
    a.row_loss[i] = a.weight(i) * (lse - static_cast<double>(score));
  }
}

// Sums of n numbers in one block.
constexpr int kSumThreads = 256;
__global__ void sum_kernel(const double* x, const float* weights, int64_t n, double* sum) {
  double mine = 0.0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads)
    mine += x != nullptr ? x[i] : weights != nullptr ? static_cast<double>(weights[i]) : 1.0;
  mine = block_sum(mine, shared<double>());
  if (threadIdx.x == 0) *sum = mine;
}

void add_up(const double* x, const float* weights, int64_t n, double* sum) {
  launch(sum_kernel, 1, kSumThreads, kSumThreads / kWarp * sizeof(double), x, weights, n, sum);
}

// ds[i][v] = (exp(score - lse) - [v is the target]) weight / total,  dh = ds items,  ditems = ds' h
template <bool ITEMS, int C>
__global__ void __launch_bounds__(kStreamThreads, 2) entropy_backward_kernel(Entropy a) {
  const int64_t dim = a.dim, first = static_cast<int64_t>(blockIdx.x) * kRows, own = warp() * kWarpRows;
  const int64_t n_own = ITEMS ? a.n_items : a.n, n_others = ITEMS ? a.n : a.n_items;
  float *owns = shared<float>(), *others = owns + kRows * odd(dim), *slopes = others + kRows * odd(dim);
  float* my_slopes = slopes + own * (kRows + 1);
  load_rows(owns, (ITEMS ? a.items : a.h) + first * dim, dim, smaller(kRows, n_own - first), dim);
  RowSums<C> sums;
  const double total = *a.total;
  for (int64_t other = 0; other < n_others; other += kRows) {
    const int64_t n = smaller(kRows, n_others - other), mine = other + lane();
    load_rows(others, (ITEMS ? a.h : a.items) + other * dim, dim, n, dim);
    __syncthreads();
    float scores[kWarpRows];
    const int none[kWarpRows] = {};
    int upto[kWarpRows];
    dot_products(owns + own * odd(dim), others, dim, scores);
    for (int r = 0; r < kWarpRows; ++r) {
      const int64_t row = ITEMS ? mine : first + own + r, item = ITEMS ? first + own + r : mine;
      float slope = 0.0f;
      if (row < a.n && item < a.n_items && total != 0.0) {
        const float p = LogSum(a.lse[row]).probability(scores[r]);
        const float weight = static_cast<float>(a.weight(row) / total) * a.dloss;
        slope = (item == a.targets[row] ? p - 1.0f : p) * weight;
      }
      my_slopes[r * (kRows + 1) + lane()] = slope;
      upto[r] = static_cast<int>(n);
    }
    __syncwarp();
    sums.add(my_slopes, others, dim, none, upto);
    __syncthreads();
  }
  for (int r = 0; r < kWarpRows && first + own + r < n_own; ++r) {
    float* to = (ITEMS ? a.ditems : a.dh) + (first + own + r) * dim;
    sums.put(r, dim, [&](int64_t c, float sum) { to[c] += sum; });
  }
}

template <int C>
void launch_entropy_backward(const Entropy& e) {
  launch(entropy_backward_kernel<false, C>, blocks(e.n, kRows), kStreamThreads, stream_bytes(e.dim, 2), e);
  launch(entropy_backward_kernel<true, C>, blocks(e.n_items, kRows), kStreamThreads, stream_bytes(e.dim, 2), e);
}

Entropy entropy_of(const regard_cross_entropy& a) {
  if (a.dim < 1 || a.dim > kWidest) invalid("dim", "1 to 256 on a CUDA device", std::to_string(a.dim));
  Entropy e{};
  e.h = a.h, e.items = a.item_vectors, e.targets = a.targets, e.weights = a.row_weights;
  e.n = a.n, e.n_items = a.n_items, e.dim = a.dim, e.lse = a.lse;
  e.dloss = static_cast<float>(a.dloss), e.dh = a.dh, e.ditems = a.ditem_vectors;
  return e;
}

void entropy_forward(regard_cross_entropy& a) {
  Entropy e = entropy_of(a);
  Scratch scratch;
  double* sums = scratch.take<double>(2);
  e.row_loss = scratch.take<double>(e.n);
  launch(entropy_forward_kernel, blocks(e.n, kRows), kStreamThreads, stream_bytes(e.dim, 2), e);
  add_up(e.row_loss, nullptr, e.n, sums);
  add_up(nullptr, e.weights, e.n, sums + 1);
  double found[2];
  check(cudaMemcpy(found, sums, sizeof found, cudaMemcpyDefault), "cudaMemcpy");
  a.loss = found[1] == 0.0 ? 0.0 : found[0] / found[1];
}

void entropy_backward(const regard_cross_entropy& a) {
  Entropy e = entropy_of(a);
  Scratch scratch;
  double* total = scratch.take<double>(1);
  add_up(nullptr, e.weights, e.n, total);
  e.total = total;
  REGARD_BY_WIDTH(e.dim, launch_entropy_backward, e)
}

}  // namespace
}  // namespace cuda
}  // namespace regard

extern "C" {

regard_status regard_cuda_cross_entropy_forward(regard_cross_entropy* a) {
  return regard::cuda::guarded([&] { regard::cuda::entropy_forward(*a); });
}
regard_status regard_cuda_cross_entropy_backward(const regard_cross_entropy* a) {
  return regard::cuda::guarded([&] { regard::cuda::entropy_backward(*a); });
}

}  // extern "C"
