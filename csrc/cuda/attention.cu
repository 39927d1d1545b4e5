// Softmax attention within each sequence of a ragged batch, and its gradient; formulas in cpu/attention.h.
//
// A block has 32 rows of one sequence and head. Forward and for dq these are queries, and keys pass; for dk and dv they
// are keys, and queries pass: scores are computed twice, so that every result has one block that sums it up, in order.
#include "cuda/philox.h"
#include "cuda/stream.h"

namespace regard {
namespace cuda {
namespace {

struct Call {
  const float *q, *k, *v, *bias;
  const int64_t *cu_q, *cu_k;
  int64_t batch, n_heads, dim, bias_len, bias_zero;
  float scale;
  bool causal, align_start;
  Drop drop;
  float* out;
  double* lse;
  // backward
  const float* dout;
  const float* delta;  // (total_q, n_heads): dout·out
  float *dq, *dk, *dv;
  float* dbias;  // (tiles of queries, n_heads, bias_len), or null
};

struct Task {  // 32 rows of a sequence
  int64_t sequence, head, first_q, first_k, n_q, n_k, row, shift;

  // Sequence s has the tiles from cu[s] / 32 + s on, which are as many as it needs, or one more: false for that.
  __device__ bool find(const Call& a, const int64_t* cu) {
    const int64_t tile = blockIdx.x;
    int64_t low = 0, high = a.batch;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (cu[middle] / kRows + middle <= tile)
        low = middle;
      else
        high = middle;
    }
    sequence = low, head = blockIdx.y;
    first_q = a.cu_q[low], n_q = a.cu_q[low + 1] - first_q;
    first_k = a.cu_k[low], n_k = a.cu_k[low + 1] - first_k;
    row = (tile - cu[low] / kRows - low) * kRows;
    shift = a.align_start ? 0 : n_k - n_q;
    return row < cu[low + 1] - cu[low];
  }
  // Query i sees the keys below visible(i); key j is seen by the queries from first_row(j) on.
  __device__ int64_t visible(const Call& a, int64_t i) const {
    return a.causal ? larger(0, smaller(n_k, i + shift + 1)) : n_k;
  }
  __device__ int64_t first_row(const Call& a, int64_t j) const {
    return a.causal ? larger(0, smaller(n_q, j - shift)) : 0;
  }
  __device__ int64_t bias_entry(const Call& a, int64_t i_minus_j) const {
    return larger(0, smaller(a.bias_len - 1, i_minus_j + shift + a.bias_zero));
  }
  __device__ float score(const Call& a, float product, int64_t i, int64_t j) const {
    const float z = product * a.scale;
    return a.bias != nullptr ? z + a.bias[head * a.bias_len + bias_entry(a, i - j)] : z;
  }
  __device__ float keep(const Call& a, int64_t i, int64_t j) const {
    return a.drop.factor(j, static_cast<uint32_t>(i), static_cast<uint32_t>(sequence), static_cast<uint32_t>(head));
  }
  __device__ int64_t query(const Call& a, int64_t i) const { return ((first_q + i) * a.n_heads + head) * a.dim; }
  __device__ int64_t key(const Call& a, int64_t j) const { return ((first_k + j) * a.n_heads + head) * a.dim; }
};

template <int C>
__global__ void __launch_bounds__(kStreamThreads, 2) attention_forward_kernel(Call a) {
  Task t;
  if (!t.find(a, a.cu_q)) return;
  const int64_t dim = a.dim, size = kRows * odd(dim), stride = a.n_heads * dim;
  float *queries = shared<float>(), *keys = queries + size, *values = keys + size, *weights = values + size;
  const int64_t own = warp() * kWarpRows;  // of the warp
  float *my_weights = weights + own * (kRows + 1), *my_queries = queries + own * odd(dim);
  load_rows(queries, a.q + t.query(a, t.row), stride, smaller(kRows, t.n_q - t.row), dim);

  RowSums<C> sums;
  Softmax softmax[kWarpRows];
  int64_t seen[kWarpRows];
  for (int r = 0; r < kWarpRows; ++r) seen[r] = t.row + own + r < t.n_q ? t.visible(a, t.row + own + r) : 0;
  const int64_t end = t.visible(a, smaller(t.n_q, t.row + kRows) - 1);
  for (int64_t key = 0; key < end; key += kRows) {
    const int64_t n = smaller(kRows, end - key), j = key + lane();
    load_rows(keys, a.k + t.key(a, key), stride, n, dim);
    load_rows(values, a.v + t.key(a, key), stride, n, dim);
    __syncthreads();
    float products[kWarpRows];
    int none[kWarpRows] = {}, upto[kWarpRows];
    dot_products(my_queries, keys, dim, products);
    for (int r = 0; r < kWarpRows; ++r) {
      const int64_t i = t.row + own + r;
      float shrink;
      const float p = softmax[r].add(j < seen[r] ? t.score(a, products[r], i, j) : -INFINITY, &shrink);
      for (int c = 0; c < C; ++c) sums.of[r][c] *= shrink;
      const float factor = p == 0.0f ? 0.0f : t.keep(a, i, j);
      my_weights[r * (kRows + 1) + lane()] = factor == 0.0f ? 0.0f : p * factor;
      upto[r] = static_cast<int>(larger(0, smaller(n, seen[r] - key)));
    }
    __syncwarp();
    sums.add(my_weights, values, dim, none, upto);
    __syncthreads();
  }
  for (int r = 0; r < kWarpRows; ++r) {
    const int64_t i = t.row + own + r;
    const float total = warp_sum(softmax[r].sum);
    if (i >= t.n_q) continue;
    float* out = a.out + t.query(a, i);
    sums.put(r, dim, [&](int64_t c, float sum) { out[c] = total == 0.0f ? 0.0f : sum / total; });
    if (lane() == 0)
      a.lse[(t.first_q + i) * a.n_heads + t.head] =
          total == 0.0f ? -INFINITY : static_cast<double>(softmax[r].top) + log(static_cast<double>(total));
  }
}

struct Delta {  // dout·out of each query and head
  const float *dout, *out;
  int64_t dim;
  float* delta;
  __device__ void operator()(int64_t i) const {
    float sum = 0.0f;
    for (int64_t c = 0; c < dim; ++c) sum += dout[i * dim + c] * out[i * dim + c];
    delta[i] = sum;
  }
};

// The slopes of a tile by distance, added to what the block has for each entry of the table. Thread x has the
// difference x - 31 of key and query; beyond the table several share an entry, and the first of them adds for all.
__device__ inline void add_slopes(const Call& a, const Task& t, const float* slopes, float* diagonals, int64_t key,
                                  float* sums) {
  const int x = static_cast<int>(threadIdx.x);
  const auto entry = [&](int place) { return t.bias_entry(a, t.row + (kRows - 1) - key - place); };
  if (x < 2 * kRows - 1) {
    float sum = 0.0f;
    for (int i = 0; i < kRows; ++i) {
      const int j = x - (kRows - 1) + i;
      if (j >= 0 && j < kRows) sum += slopes[i * (kRows + 1) + j];
    }
    diagonals[x] = sum;
  }
  __syncthreads();
  if (x < 2 * kRows - 1 && (x == 0 || entry(x - 1) != entry(x))) {
    float sum = diagonals[x];
    for (int y = x + 1; y < 2 * kRows - 1 && entry(y) == entry(x); ++y) sum += diagonals[y];
    sums[entry(x)] += sum;
  }
}

template <bool KEYS, int C>
__global__ void __launch_bounds__(kStreamThreads, 2) attention_backward_kernel(Call a) {
  Task t;
  if (!t.find(a, KEYS ? a.cu_k : a.cu_q)) return;
  const int64_t dim = a.dim, size = kRows * odd(dim), stride = a.n_heads * dim, n_own = KEYS ? t.n_k : t.n_q;
  float *own1 = shared<float>(), *own2 = own1 + size, *other1 = own2 + size, *other2 = other1 + size;
  float *slopes = other2 + size, *shares = slopes + kRows * (kRows + 1);  // and for queries the diagonals
  const int64_t own = warp() * kWarpRows, n_rows = smaller(kRows, n_own - t.row);
  float *my_slopes = slopes + own * (kRows + 1), *my_shares = shares + own * (kRows + 1);
  load_rows(own1, KEYS ? a.k + t.key(a, t.row) : a.q + t.query(a, t.row), stride, n_rows, dim);
  load_rows(own2, KEYS ? a.v + t.key(a, t.row) : a.dout + t.query(a, t.row), stride, n_rows, dim);
  float* dbias = KEYS || a.dbias == nullptr ? nullptr : a.dbias + (blockIdx.x * a.n_heads + t.head) * a.bias_len;

  RowSums<C> sums1, sums2;
  int64_t first[kWarpRows], last[kWarpRows];  // of the other rows: with which an own row meets
  for (int r = 0; r < kWarpRows; ++r) {
    const int64_t row = t.row + own + r;
    first[r] = KEYS ? t.first_row(a, row) : 0;
    last[r] = row >= n_own ? 0 : KEYS ? t.n_q : t.visible(a, row);
  }
  const int64_t begin = KEYS ? t.first_row(a, t.row) : 0;
  const int64_t end = KEYS ? t.n_q : t.visible(a, t.row + n_rows - 1);
  for (int64_t other = begin; other < end; other += kRows) {
    const int64_t n = smaller(kRows, end - other), mine = other + lane();
    load_rows(other1, KEYS ? a.q + t.query(a, other) : a.k + t.key(a, other), stride, n, dim);
    load_rows(other2, KEYS ? a.dout + t.query(a, other) : a.v + t.key(a, other), stride, n, dim);
    __syncthreads();
    float scores[kWarpRows], gradients[kWarpRows];
    int from[kWarpRows], upto[kWarpRows];
    dot_products(own1 + own * odd(dim), other1, dim, scores);
    dot_products(own2 + own * odd(dim), other2, dim, gradients);
    for (int r = 0; r < kWarpRows; ++r) {
      const int64_t row = t.row + own + r, i = KEYS ? mine : row, j = KEYS ? row : mine;
      float slope = 0.0f, share = 0.0f;
      if (mine >= first[r] && mine < last[r]) {
        const int64_t at = (t.first_q + i) * a.n_heads + t.head;
        const float p = LogSum(a.lse[at]).probability(t.score(a, scores[r], i, j)), factor = t.keep(a, i, j);
        share = factor == 0.0f ? 0.0f : p * factor;
        slope = p * ((factor == 0.0f ? 0.0f : gradients[r] * factor) - a.delta[at]);
      }
      my_slopes[r * (kRows + 1) + lane()] = slope;
      if (KEYS) my_shares[r * (kRows + 1) + lane()] = share;
      from[r] = static_cast<int>(larger(0, first[r] - other));
      upto[r] = static_cast<int>(larger(0, smaller(n, last[r] - other)));
    }
    if (dbias != nullptr) {
      __syncthreads();
      add_slopes(a, t, slopes, shares, other, dbias);
    }
    __syncwarp();
    sums1.add(my_slopes, other1, dim, from, upto);
    if (KEYS) sums2.add(my_shares, other2, dim, from, upto);
    __syncthreads();
  }
  for (int r = 0; r < kWarpRows && t.row + own + r < n_own; ++r) {
    const int64_t at = KEYS ? t.key(a, t.row + own + r) : t.query(a, t.row + own + r);
    float *d1 = (KEYS ? a.dk : a.dq) + at, *d2 = a.dv + at;
    sums1.put(r, dim, [&](int64_t c, float sum) { d1[c] = sum * a.scale; });
    if (KEYS) sums2.put(r, dim, [&](int64_t c, float sum) { d2[c] = sum; });
  }
}

struct PartOfBias {
  const float* parts;
  int64_t width;
  __device__ float operator()(int64_t row, int64_t c) const { return parts[row * width + c]; }
};

int64_t tiles(int64_t total, int64_t batch) { return batch > 0 ? total / kRows + batch : 0; }

Call call_of(const regard_attention_training& args) {
  const regard_attention& a = args.base;
  if (a.head_dim < 1 || a.head_dim > kWidest) invalid("head_dim", "1 to 256", std::to_string(a.head_dim));
  if (args.weights != nullptr) invalid("weights", "NULL on a CUDA device", "an array");
  if (args.time_bias != nullptr) invalid("time_bias", "NULL on a CUDA device", "an array");
  Call c{};
  c.q = a.q, c.k = a.k, c.v = a.v, c.bias = a.bias, c.cu_q = a.cu_seqlens_q, c.cu_k = a.cu_seqlens_k;
  c.batch = a.batch, c.n_heads = a.n_heads, c.dim = a.head_dim;
  c.bias_len = a.bias_len, c.bias_zero = a.causal ? 0 : a.bias_len / 2;
  c.scale = a.softmax_scale, c.causal = a.causal != 0, c.align_start = a.causal_align_start != 0;
  c.drop = drop_of(args.dropout);
  c.out = a.out, c.lse = a.lse;
  c.dout = args.dout, c.dq = args.dq, c.dk = args.dk, c.dv = args.dv;
  return c;
}

dim3 grid_of(const Call& c, int64_t total) {
  return dim3(static_cast<unsigned>(tiles(total, c.batch)), static_cast<unsigned>(c.n_heads));
}

template <int C>
void launch_attention_forward(const Call& c, int64_t total_q) {
  launch(attention_forward_kernel<C>, grid_of(c, total_q), kStreamThreads, stream_bytes(c.dim, 3), c);
}

template <int C>
void launch_attention_backward(const Call& c, int64_t total_q, int64_t total_k) {
  const size_t bytes = stream_bytes(c.dim, 4) + kRows * (kRows + 1) * sizeof(float);
  launch(attention_backward_kernel<false, C>, grid_of(c, total_q), kStreamThreads, bytes, c);
  launch(attention_backward_kernel<true, C>, grid_of(c, total_k), kStreamThreads, bytes, c);
}

void attention_forward(const regard_attention_training& args, int64_t total_q) {
  const Call c = call_of(args);
  REGARD_BY_WIDTH(c.dim, launch_attention_forward, c, total_q)
}

void attention_backward(const regard_attention_training& args, int64_t total_q, int64_t total_k) {
  Call c = call_of(args);
  Scratch scratch;
  float* delta = scratch.take<float>(total_q * c.n_heads);
  each(total_q * c.n_heads, Delta{c.dout, c.out, c.dim, delta});
  c.delta = delta;
  const int64_t n_tiles = tiles(total_q, c.batch), width = c.n_heads * c.bias_len;
  if (args.dbias != nullptr && n_tiles > 0) {
    c.dbias = scratch.take<float>(n_tiles * width);
    check(cudaMemsetAsync(c.dbias, 0, static_cast<size_t>(n_tiles * width) * sizeof(float)), "cudaMemsetAsync");
  }
  REGARD_BY_WIDTH(c.dim, launch_attention_backward, c, total_q, total_k)
  if (c.dbias != nullptr) add_column_sums(n_tiles, width, PartOfBias{c.dbias, width}, args.dbias, scratch);
}

}  // namespace
}  // namespace cuda
}  // namespace regard

extern "C" {

regard_status regard_cuda_attention_forward(const regard_attention_training* a, int64_t total_q) {
  return regard::cuda::guarded([&] { regard::cuda::attention_forward(*a, total_q); });
}
regard_status regard_cuda_attention_backward(const regard_attention_training* a, int64_t total_q, int64_t total_k) {
  return regard::cuda::guarded([&] { regard::cuda::attention_backward(*a, total_q, total_k); });
}

}  // extern "C"
