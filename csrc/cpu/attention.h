// Softmax attention within each sequence of a ragged batch, and its gradient. A task is one (sequence, head).
//
//   z[i][j] = softmax_scale * q[i]·k[j] + bias[distance(i, j)] + time_bias[bucket(i, j)]   j over the keys that i sees
//   lse[i]  = log sum_j exp(z[i][j])
//   out[i]  = sum_j exp(z[i][j] - lse[i]) * keep[i][j] * v[j]
//
// Scores exist for one block of rows and one tile of keys at a time. With a causal mask the keys that a row sees are
// the first visible(i) ones. Products with rows that a query must not see are left out, not multiplied by zero, so that
// a NaN or infinity there cannot reach it: first what all rows of a register tile see, then the rest row by row.
#pragma once
#include "cpu/dropout.h"
#include "cpu/softmax.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

namespace {        // else the members of a struct are visible to the linker
struct Sequence {  // one task
  const Attention& a;
  int64_t index, head, first_q, first_k, n_q, n_k, stride, shift;
  const float* bias;                 // by key minus query: bias[j - i + n_q - 1], or null
  const int32_t *times_q, *times_k;  // whole seconds since the first of the sequence, or null

  Sequence(const Attention& args, int64_t task)
      : a(args),
        index(task / args.n_heads),
        head(task % args.n_heads),
        first_q(args.cu_q[index]),
        first_k(args.cu_k[index]),
        n_q(args.cu_q[index + 1] - first_q),
        n_k(args.cu_k[index + 1] - first_k),
        stride(args.n_heads * args.head_dim),
        shift(args.align_start ? 0 : n_k - n_q),
        bias(nullptr),
        times_q(nullptr),
        times_k(nullptr) {}

  const float* query(const float* base, int64_t i) const { return base + (first_q + i) * stride + head * a.head_dim; }
  const float* key(const float* base, int64_t j) const { return base + (first_k + j) * stride + head * a.head_dim; }
  double* lse(int64_t i) const { return a.lse + (first_q + i) * a.n_heads + head; }
  // Query i sees the keys below visible(i); key j is seen by the queries from first_row(j) on.
  int64_t visible(int64_t i) const { return a.causal ? at_least(0, at_most(n_k, i + shift + 1)) : n_k; }
  int64_t first_row(int64_t j) const { return a.causal ? at_least(0, at_most(n_q, j - shift)) : 0; }
  int64_t distance_entry(int64_t x) const {  // of bias[x]: distance = i + shift - j, beyond the table its last entry
    return at_least(0, at_most(a.bias_len - 1, n_q - 1 - x + shift + a.bias_zero));
  }
};
}  // namespace

static inline void expand_bias(Sequence& s, float* buffer) {
  if (s.a.bias == nullptr) return;
  const float* table = s.a.bias + s.head * s.a.bias_len;
  for (int64_t x = 0; x < s.n_q + s.n_k; ++x) buffer[x] = table[s.distance_entry(x)];
  memset(buffer + s.n_q + s.n_k, 0, 16 * sizeof(float));
  s.bias = buffer;
}

// Times as 32-bit numbers, whose differences are exact: from the earliest of the sequence on, 68 years at the most.
static inline void expand_times(Sequence& s, float* buffer) {
  if (s.a.time_bias == nullptr) return;
  const int64_t *q = s.a.times_q + s.first_q, *k = s.a.times_k + s.first_k;
  int64_t first = INT64_MAX;
  for (int64_t i = 0; i < s.n_q; ++i) first = at_most(first, q[i]);
  for (int64_t j = 0; j < s.n_k; ++j) first = at_most(first, k[j]);
  const auto since = [first](int64_t time) {
    const uint64_t seconds = static_cast<uint64_t>(time) - static_cast<uint64_t>(first);
    return static_cast<int32_t>(seconds < INT32_MAX ? seconds : INT32_MAX);
  };
  int32_t* times = reinterpret_cast<int32_t*>(buffer);
  for (int64_t i = 0; i < s.n_q; ++i) times[i] = since(q[i]);
  s.times_q = times, times += s.n_q;
  for (int64_t j = 0; j < s.n_k; ++j) times[j] = since(k[j]);
  for (int64_t j = s.n_k; j < s.n_k + 16; ++j) times[j] = 0;
  s.times_k = times;
}

namespace {
struct RowBias {  // what is added to the scores of a row with the keys from `key` on: data, or nothing if null
  const float* data;
  alignas(64) float sums[kKeyTile];  // filled where there are times
  alignas(64) int32_t buckets[kKeyTile];

  RowBias(const Sequence& s, int64_t row, int64_t key, int64_t width)
      : data(s.bias ? s.bias + (s.n_q - 1 - row) + key : nullptr) {
    if (s.times_k == nullptr) return;
    // x = 1 + seconds, at least 1: the exponent and two bits of its mantissa count quarters of a doubling.
    const vi one = splat(int32_t{0x3F800000}), last = splat(static_cast<int32_t>(s.a.n_buckets - 1));
    for (int64_t j = 0; j < width; j += VW) {
      const vi seconds = splat(s.times_q[row]) - *reinterpret_cast<const vi_unaligned*>(s.times_k + key + j);
      const vf x = __builtin_convertvector(seconds > 0 ? seconds : vi{}, vf) + splat(1.0f);
      const vi quarters = (reinterpret_cast<vi>(x) - one) >> 21;
      *reinterpret_cast<vi*>(buckets + j) = quarters < last ? quarters : last;
    }
    const float* table = s.a.time_bias + s.head * s.a.n_buckets;
    for (int64_t j = 0; j < width; ++j) sums[j] = table[buckets[j]];
    for (int64_t j = 0; j < width && data != nullptr; j += VW) store(sums + j, load(sums + j) + load(data + j));
    data = sums;
  }
};

struct TimeSums {  // of gradients by bucket: four of each, so that neighbours in one bucket need not wait for each
                   // other
  double by_bucket[4][kTimeBuckets];

  void add(const int32_t* buckets, const float* slopes) {  // of VW keys
    for (int64_t r = 0; r < VW; ++r) by_bucket[r % 4][buckets[r]] += static_cast<double>(slopes[r]);
  }
  void put(int64_t n, double* sums) const {
    for (int64_t b = 0; b < n; ++b)
      sums[b] += (by_bucket[0][b] + by_bucket[1][b]) + (by_bucket[2][b] + by_bucket[3][b]);
  }
};
}  // namespace

// How far the keys [key, key + keys) are looked at for `n` rows from `row` on: as far as one of them sees, in whole
// vectors.
static inline int64_t seen_width(const Sequence& s, int64_t row, int64_t n, int64_t key, int64_t keys) {
  return round_up(at_least(0, at_most(keys, s.visible(row + n - 1) - key)), VW);
}

// The same for row i of a block: as far as its register tile.
static inline int64_t block_width(const Sequence& s, int64_t row, int64_t rows, int64_t i, int64_t key, int64_t keys) {
  const int64_t tile = i / MR * MR;
  return seen_width(s, row + tile, at_most(MR, rows - tile), key, keys);
}

// Rows of the next block when `left` are left: a few more than kRowBlock rather than a block of a few.
constexpr int64_t kMostRows = kRowBlock + kRowBlock / 4;
static inline int64_t block_rows(int64_t left) { return left <= kMostRows ? left : kRowBlock; }

// c[i][j] = x[row + i]·(row j of the panels), x = q or dout.
static inline void dot_products(const Sequence& s, const float* x, int64_t row, int64_t rows, int64_t key, int64_t keys,
                                const float* panels, float* c, int64_t ld) {
  for (int64_t t = 0; t < rows; t += MR) {
    const int64_t n = at_most(MR, rows - t);
    multiply(n, seen_width(s, row + t, n, key, keys), s.a.head_dim, {s.query(x, row + t), s.stride, 1},
             panels_of(panels, s.a.head_dim), c + t * ld, ld, kFresh);
  }
}

namespace {
struct Scores {  // of one row: z from the products. Both passes must round z alike, so that exp(z - lse) is right
  const float *products, *bias;
  vf scale;
  int64_t seen;

  Scores(const Sequence& s, int64_t row, int64_t key, const float* dots, const RowBias& row_bias)
      : products(dots), bias(row_bias.data), scale(splat(s.a.softmax_scale)), seen(s.visible(row) - key) {}

  bool whole(int64_t j) const { return j + VW <= seen; }  // the row sees all keys of the vector at j
  vf at(int64_t j) const {                                // -inf where it does not see the key
    const vf z = load(products + j) * scale + (bias ? load(bias + j) : splat(0.0f));
    return whole(j) ? z : first_lanes(z, seen - j, splat(-INFINITY));
  }
  vf cut(int64_t j, vf x) const { return whole(j) ? x : first_lanes(x, seen - j, splat(0.0f)); }
};
}  // namespace

namespace {
struct ResultRows {  // rows of a result: in their own place if whole vectors fit, else in `buffer`
  float* data;
  int64_t row;

  ResultRows(const Sequence& s, float* place, float* buffer)
      : data(s.a.head_dim % VW == 0 ? place : buffer),
        row(s.a.head_dim % VW == 0 ? s.stride : round_up(s.a.head_dim, VW)) {}
  void put(float* place, int64_t stride, int64_t n, int64_t width) const {
    for (int64_t i = 0; i < n && data != place; ++i)
      memcpy(place + i * stride, data + i * row, static_cast<size_t>(width) * sizeof(float));
  }
};
}  // namespace

// Zeros in n rows of c.
static inline void clear(float* c, int64_t c_row, int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t x = 0; x < width; x += VW) store(c + i * c_row + x, splat(0.0f));
}

// c[i] += sum_j w[i][j] rows[j] over the keys that each row sees; `width` floats per row of c; `into` kContinue, or
// kBegin: c is taken for 0. w is 0 elsewhere: where all rows are finite they are multiplied by that 0, else left out.
static inline void add_seen_keys(const Sequence& s, int64_t row, int64_t rows, int64_t key, int64_t keys, bool finite,
                                 const float* w, int64_t ld, Vectors v, int64_t width, float* c, int64_t c_row,
                                 Into into) {
  for (int64_t t = 0; t < rows; t += MR) {
    const int64_t n = at_most(MR, rows - t);
    const int64_t all = at_least(0, at_most(keys, s.visible(row + (finite ? t + n - 1 : t)) - key));
    if (all > 0)
      multiply(n, width, all, {w + t * ld, ld, 1}, v, c + t * c_row, c_row, into);
    else if (into == kBegin)
      clear(c + t * c_row, c_row, n, width);
    if (finite) continue;
    Vectors rest = v;
    rest.data += all * v.row;
    for (int64_t i = t; i < t + n; ++i) {
      const int64_t more = at_most(keys, s.visible(row + i) - key) - all;
      if (more > 0) multiply(1, width, more, {w + i * ld + all, ld, 1}, rest, c + i * c_row, c_row, kContinue);
    }
  }
}

// c[j] += sum_i w[i][j] rows[i] over the rows that see each key, likewise.
static inline void add_seeing_rows(const Sequence& s, int64_t row, int64_t rows, int64_t key, int64_t keys, bool finite,
                                   const float* w, int64_t ld, Vectors v, int64_t width, float* c, int64_t c_row,
                                   Into into) {
  for (int64_t t = 0; t < keys; t += MR) {
    const int64_t n = at_most(MR, keys - t);
    const int64_t all = at_least(0, at_most(rows, s.first_row(key + (finite ? t : t + n - 1)) - row));
    const bool cleared = into == kBegin && (!finite || all == rows);
    if (cleared) clear(c + t * c_row, c_row, n, width);
    for (int64_t j = t; j < t + n && !finite; ++j) {
      const int64_t first = at_least(0, s.first_row(key + j) - row);
      if (first >= all) continue;
      Vectors some = v;
      some.data += first * v.row;
      multiply(1, width, all - first, {w + first * ld + j, 1, ld}, some, c + j * c_row, c_row, kContinue);
    }
    if (all == rows) continue;
    Vectors seen = v;  // from here on all keys are seen
    seen.data += all * v.row;
    multiply(n, width, rows - all, {w + all * ld + t, 1, ld}, seen, c + t * c_row, c_row, cleared ? kContinue : into);
  }
}

// body(j, keep) for whole vectors of keys up to `width`.
template <class F>
static inline void each_kept(const Sequence& s, int64_t row, int64_t key, int64_t width, F&& body) {
  if (s.a.dropout == nullptr) {
    for (int64_t j = 0; j < width; j += VW) body(j, splat(int32_t{-1}));
    return;
  }
  each_keep(*s.a.dropout, key, width, static_cast<uint32_t>(row), static_cast<uint32_t>(s.index),
            static_cast<uint32_t>(s.head), body);
}

namespace {
struct Forward {  // of one task, in scratch memory
  const Sequence& s;
  const bool packed_once;
  const int64_t ld;  // an odd number of panels: rows an even number apart would share few sets of the cache
  float *panels, *padded, *z, *sums;

  Forward(const Sequence& task, float* scratch)
      : s(task), packed_once(s.n_k <= kPackedKeys), ld(at_most(kKeyTile, round_up(s.n_k, kPanel)) | kPanel) {
    const int64_t d = s.a.head_dim, wide = round_up(d, VW);
    panels = scratch, padded = panels + kPackedKeys * d, z = padded + kPackedKeys * wide;
    sums = z + kMostRows * (kKeyTile + kPanel);
  }
};
}  // namespace

// Rows [row, row + rows); false if a result is not finite. `finite`: no value that a row must not see can do harm.
static bool forward_rows(const Forward& f, Vectors values, int64_t row, int64_t rows, bool finite) {
  const Sequence& s = f.s;
  const Attention& a = s.a;
  const int64_t d = a.head_dim, wide = round_up(d, VW), ld = f.ld, seen = s.visible(row + rows - 1);
  BlockSoftmax softmax(rows);
  float* out = a.out + (s.query(a.q, row) - a.q);
  const ResultRows sums(s, out, f.sums);
  if (seen <= 0) clear(sums.data, sums.row, rows, wide);
  for (int64_t key = 0; key < seen; key += kKeyTile) {
    const int64_t keys = at_most(kKeyTile, seen - key);
    const float* panels = f.panels + key * d;
    Vectors tile_values = values;
    if (f.packed_once) {
      tile_values.data += key * values.row;
    } else {
      pack_panels(s.key(a.k, key), s.stride, keys, d, f.panels);
      panels = f.panels;
      tile_values = padded_rows(s.key(a.v, key), s.stride, keys, d, f.padded);
    }
    dot_products(s, a.q, row, rows, key, keys, panels, f.z, ld);
    // Row by row, but no row waits for the sum or the greatest of another: what a step takes is there before it begins.
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t width = block_width(s, row, rows, i, key, keys);
      float* z = f.z + i * ld;
      const RowBias bias(s, row + i, key, width);
      const Scores scores(s, row + i, key, z, bias);
      vf top = splat(-INFINITY);
      for (int64_t j = 0; j < width; j += VW) {
        const vf x = scores.at(j);
        store(z + j, x);
        top = vmax(x, top);
      }
      softmax.tile[i] = max_lanes(top);
    }
    softmax.raise(rows);
    for (int64_t i = 0; i < rows; ++i)
      softmax.tile[i] = exp_row(f.z + i * ld, block_width(s, row, rows, i, key, keys), softmax.base[i]);
    softmax.add(rows);
    for (int64_t i = 0; i < rows && key > 0; ++i)
      for (int64_t c = 0; c < wide; c += VW)
        store(sums.data + i * sums.row + c, load(sums.data + i * sums.row + c) * splat(softmax.shrink[i]));
    for (int64_t i = 0; i < rows && a.dropout != nullptr; ++i) {
      float* z = f.z + i * ld;
      const vf scale = splat(a.dropout->scale);
      each_kept(s, row + i, key, block_width(s, row, rows, i, key, keys),
                [&](int64_t j, vi keep) { store(z + j, keep ? load(z + j) * scale : splat(0.0f)); });
    }
    add_seen_keys(s, row, rows, key, keys, finite, f.z, ld, tile_values, wide, sums.data, sums.row,
                  key > 0 ? kContinue : kBegin);
  }
  softmax.finish(rows);
  vf zero_or_nan = splat(0.0f);
  for (int64_t i = 0; i < rows; ++i) {
    const vf factor = splat(softmax.tile[i]);
    for (int64_t c = 0; c < wide; c += VW) {
      const vf x = load(sums.data + i * sums.row + c) * factor;
      store(sums.data + i * sums.row + c, x);
      zero_or_nan += x * splat(0.0f);
    }
    *s.lse(row + i) = softmax.sum[i];
  }
  sums.put(out, s.stride, rows, d);
  return sum_lanes(zero_or_nan) == 0.0f;
}

// The weights of these rows, once lse is known.
static void weights_of_rows(const Forward& f, int64_t task, int64_t row, int64_t rows) {
  const Sequence& s = f.s;
  const Attention& a = s.a;
  const int64_t d = a.head_dim;
  for (int64_t key = 0; key < s.n_k; key += kKeyTile) {
    const int64_t keys = at_most(kKeyTile, s.n_k - key);
    if (!f.packed_once) pack_panels(s.key(a.k, key), s.stride, keys, d, f.panels);
    dot_products(s, a.q, row, rows, key, keys, f.packed_once ? f.panels + key * d : f.panels, f.z, f.ld);
    for (int64_t i = 0; i < rows; ++i) {
      float* w = a.weights + a.weights_at[task] + (row + i) * s.n_k + key;
      const RowBias bias(s, row + i, key, block_width(s, row, rows, i, key, keys));
      const Scores scores(s, row + i, key, f.z + i * f.ld, bias);
      const Probabilities p(*s.lse(row + i));
      for (int64_t j = 0; j < keys; j += VW)
        store_first(w + j, j < scores.seen ? scores.cut(j, p.of(scores.at(j))) : splat(0.0f), at_most(VW, keys - j));
    }
  }
}

static void attention_forward(const Attention& a, int64_t task_begin, int64_t task_end, float* scratch) {
  const int64_t d = a.head_dim;
  for (int64_t task = task_begin; task < task_end; ++task) {
    Sequence s(a, task);
    const Forward f(s, scratch);
    float* rest = f.sums + kMostRows * round_up(d, VW);
    expand_bias(s, rest);
    expand_times(s, rest + s.n_q + s.n_k + 16);
    if (f.packed_once) pack_panels(s.key(a.k, 0), s.stride, s.n_k, d, f.panels);
    const Vectors values = padded_rows(s.key(a.v, 0), s.stride, f.packed_once ? s.n_k : 0, d, f.padded);
    for (int64_t row = 0, rows; row < s.n_q; row += rows) {
      rows = block_rows(s.n_q - row);
      // All is taken for finite until a result is not: to look at every value first takes a tenth of a short history.
      if (!forward_rows(f, values, row, rows, true) && a.causal) forward_rows(f, values, row, rows, false);
      if (a.weights != nullptr) weights_of_rows(f, task, row, rows);
    }
  }
}

// Where the gradient by bias[x] gathers: behind what a task of the backward pass needs else.
static inline float* dbias_places(const Sequence& s, float* scratch) {
  const int64_t wide = round_up(s.a.head_dim, VW);
  return scratch + 5 * kKeyBlock * wide + kMostRows * (3 * wide + 2 * (kKeyBlock + kPanel));
}

// With p = exp(z - lse), f = keep / (1 - dropout) and the forward line out[i] = sum_j p[i][j] f[i][j] v[j]:
//   dv[j] = sum_i p f dout[i]
//   dz[i][j] = p (f dout[i]·v[j] - delta[i]),  delta[i] = dout[i]·out[i]
//   dq[i] = scale sum_j dz k[j],  dk[j] = scale sum_i dz q[i],  dbias[distance] += dz,  dtime_bias[bucket] += dz
//
// Of one sequence and head.
static void backward_task(const Sequence& s, double* dbias, double* dtime_bias, float* scratch) {
  const Attention& a = s.a;
  const int64_t d = a.head_dim, wide = round_up(d, VW), ld = at_most(kKeyBlock, round_up(s.n_k, kPanel)) | kPanel;
  float* key_panels = scratch;
  float* value_panels = key_panels + kKeyBlock * d;
  float* key_rows = value_panels + kKeyBlock * d;
  float* dk_rows = key_rows + kKeyBlock * wide;
  float* dv_rows = dk_rows + kKeyBlock * wide;
  float* q_rows = dv_rows + kKeyBlock * wide;
  float* dout_rows = q_rows + kMostRows * wide;
  float* dq_rows = dout_rows + kMostRows * wide;
  float* z = dq_rows + kMostRows * wide;  // then p f
  float* dz = z + kMostRows * ld;
  float* dbias_by_place = dbias_places(s, scratch);
  const vf scale = splat(a.softmax_scale), kept = splat(a.dropout ? a.dropout->scale : 1.0f), zero = splat(0.0f);

  TimeSums time_sums;
  if (dtime_bias) memset(&time_sums, 0, sizeof time_sums);
  if (dbias) memset(dbias_by_place, 0, static_cast<size_t>(s.n_q + s.n_k + 16) * sizeof(float));
  for (int64_t i = 0; i < (s.n_k > 0 ? s.first_row(0) : s.n_q); ++i)  // these rows see nothing
    memset(a.dq + (s.query(a.q, i) - a.q), 0, static_cast<size_t>(d) * sizeof(float));

  for (int64_t key = 0; key < s.n_k; key += kKeyBlock) {
    const int64_t keys = at_most(kKeyBlock, s.n_k - key);
    pack_panels(s.key(a.k, key), s.stride, keys, d, key_panels);
    pack_panels(s.key(a.v, key), s.stride, keys, d, value_panels);
    const Vectors k = padded_rows(s.key(a.k, key), s.stride, keys, d, key_rows);
    const int64_t keys_at = s.key(a.k, key) - a.k;
    const ResultRows dk(s, a.dk + keys_at, dk_rows), dv(s, a.dv + keys_at, dv_rows);
    const int64_t first_row = s.first_row(key);
    if (first_row >= s.n_q) clear(dk.data, dk.row, keys, wide), clear(dv.data, dv.row, keys, wide);
    for (int64_t row = first_row, rows; row < s.n_q; row += rows) {
      const Into into = row > first_row ? kContinue : kBegin;
      rows = block_rows(s.n_q - row);
      const Vectors q = padded_rows(s.query(a.q, row), s.stride, rows, d, q_rows);
      const Vectors dout = padded_rows(s.query(a.dout, row), s.stride, rows, d, dout_rows);
      dot_products(s, a.q, row, rows, key, keys, key_panels, z, ld);
      dot_products(s, a.dout, row, rows, key, keys, value_panels, dz, ld);
      float delta[kMostRows];
      for (int64_t i = 0; i < rows; ++i) {
        const float *dout_i = s.query(a.dout, row + i), *out_i = s.query(a.out, row + i);
        vf dot = zero;
        for (int64_t c = 0; c < d; c += VW)
          dot += load_first(dout_i + c, at_most(VW, d - c)) * load_first(out_i + c, at_most(VW, d - c));
        delta[i] = sum_lanes(dot);
      }
      vf zero_or_nan = zero;  // what is not finite in q, k or dout shows in these products
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t width = block_width(s, row, rows, i, key, keys);
        float *zi = z + i * ld, *dzi = dz + i * ld;
        const RowBias bias(s, row + i, key, width);
        const Scores scores(s, row + i, key, zi, bias);
        const Probabilities exact(*s.lse(row + i));
        float* place = dbias ? dbias_by_place + (s.n_q - 1 - row - i) + key : nullptr;
        each_kept(s, row + i, key, width, [&](int64_t j, vi keep) {
          zero_or_nan += (load(zi + j) + load(dzi + j)) * zero;
          const vf p = scores.cut(j, exact.of(scores.at(j)));
          const vf slope = scores.cut(j, p * ((keep ? load(dzi + j) * kept : zero) - splat(delta[i])));
          if (place) store(place + j, load(place + j) + slope);
          if (dtime_bias) {
            store(dzi + j, slope);
            time_sums.add(bias.buckets + j, dzi + j);
          }
          store(dzi + j, slope * scale);
          store(zi + j, keep ? p * kept : zero);
        });
        // A register tile of keys may reach beyond what this register tile of rows has seen.
        for (int64_t j = width; j < at_most(ld, width + MR); j += VW) store(zi + j, zero), store(dzi + j, zero);
      }
      const bool finite = !a.causal || sum_lanes(zero_or_nan) == 0.0f;
      add_seeing_rows(s, row, rows, key, keys, finite, z, ld, dout, wide, dv.data, dv.row, into);
      add_seeing_rows(s, row, rows, key, keys, finite, dz, ld, q, wide, dk.data, dk.row, into);
      // One sum per block of keys, so that the rounding of a long history does not pile up in one chain.
      float* dq_place = a.dq + (s.query(a.q, row) - a.q);
      ResultRows dq(s, dq_place, dq_rows);
      if (key > 0) dq.data = dq_rows, dq.row = wide;
      add_seen_keys(s, row, rows, key, keys, finite, dz, ld, k, wide, dq.data, dq.row, kBegin);
      if (key == 0) dq.put(dq_place, s.stride, rows, d);
      for (int64_t i = 0; i < rows && key > 0; ++i)
        for (int64_t c = 0; c < d; c += VW) {
          float* sum = dq_place + i * s.stride + c;
          const int64_t n = at_most(VW, d - c);
          store_first(sum, load_first(sum, n) + load(dq_rows + i * wide + c), n);
        }
    }
    dk.put(a.dk + keys_at, s.stride, keys, d);
    dv.put(a.dv + keys_at, s.stride, keys, d);
  }
  if (dtime_bias) time_sums.put(a.n_buckets, dtime_bias);
}

static void attention_backward(const Attention& a, int64_t task_begin, int64_t task_end, double* dbias,
                               double* dtime_bias, float* scratch) {
  for (int64_t task = task_begin; task < task_end; ++task) {
    Sequence s(a, task);
    const int64_t step = s.n_q + s.n_k + 16;
    expand_bias(s, dbias_places(s, scratch) + step);
    expand_times(s, dbias_places(s, scratch) + 2 * step);
    backward_task(s, dbias, dtime_bias ? dtime_bias + s.head * a.n_buckets : nullptr, scratch);
    const float* places = dbias_places(s, scratch);
    for (int64_t x = 0; x < s.n_q + s.n_k && dbias != nullptr; ++x)
      dbias[s.head * a.bias_len + s.distance_entry(x)] += static_cast<double>(places[x]);
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
