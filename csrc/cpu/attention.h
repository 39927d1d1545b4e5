// Softmax attention within each sequence of a ragged batch, and its gradient. A task is one (sequence, head).
//
//   z[i][j] = softmax_scale * q[i]·k[j] + bias[distance(i, j)]          j over the keys that query i sees
//   lse[i]  = log sum_j exp(z[i][j])
//   out[i]  = sum_j exp(z[i][j] - lse[i]) * keep[i][j] * v[j]
//
// Scores exist for one block of rows and one tile of keys at a time. With a causal mask the keys that a row sees are
// the first visible(i) ones. Products with rows that a query must not see are left out, not multiplied by zero, so that
// a NaN or infinity there cannot reach it: first what all rows of a register tile see, then the rest row by row.
#pragma once
#include "cpu/dropout.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

namespace {        // else the members of a struct are visible to the linker
struct Sequence {  // one task
  const Attention& a;
  int64_t index, head, first_q, first_k, n_q, n_k, stride, shift;
  const float* bias;  // by key minus query: bias[j - i + n_q - 1], or null

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
        bias(nullptr) {}

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

// z of rows [row, row + rows) and keys [key, key + keys), whose panels are given, into z[rows][ld]; -inf where a row
// does not see the key, up to the next whole vector.
static inline void score_tile(const Sequence& s, int64_t row, int64_t rows, int64_t key, int64_t keys,
                              const float* panels, float* z, int64_t ld) {
  const vf scale = splat(s.a.softmax_scale), never = splat(-INFINITY);
  for (int64_t t = 0; t < rows; t += MR) {
    const int64_t n = at_most(MR, rows - t);
    const int64_t widest = round_up(at_least(0, at_most(keys, s.visible(row + t + n - 1) - key)), VW);
    multiply(n, widest, s.a.head_dim, {s.query(s.a.q, row + t), s.stride, 1}, panels_of(panels, s.a.head_dim),
             z + t * ld, ld, kFresh);
    for (int64_t i = t; i < t + n; ++i) {
      const int64_t seen = s.visible(row + i) - key;
      float* zi = z + i * ld;
      const float* bias = s.bias ? s.bias + (s.n_q - 1 - row - i) + key : nullptr;
      for (int64_t j = 0; j < widest; j += VW) {
        vf x = load(zi + j) * scale;
        if (bias) x += load(bias + j);
        if (j + VW > seen) x = first_lanes(x, seen - j, never);
        store(zi + j, x);
      }
    }
  }
}

// c[i] += sum_j w[i][j] rows[j] over the keys that each row sees; `width` floats per row of c.
static inline void add_seen_keys(const Sequence& s, int64_t row, int64_t rows, int64_t key, int64_t keys,
                                 const float* w, int64_t ld, Vectors v, int64_t width, float* c, int64_t c_row) {
  for (int64_t t = 0; t < rows; t += MR) {
    const int64_t n = at_most(MR, rows - t);
    const int64_t all = at_least(0, at_most(keys, s.visible(row + t) - key));
    if (all > 0) multiply(n, width, all, {w + t * ld, ld, 1}, v, c + t * c_row, c_row, kContinue);
    Vectors rest = v;
    rest.data += all * v.row;
    for (int64_t i = t; i < t + n; ++i) {
      const int64_t more = at_most(keys, s.visible(row + i) - key) - all;
      if (more > 0) multiply(1, width, more, {w + i * ld + all, ld, 1}, rest, c + i * c_row, c_row, kContinue);
    }
  }
}

// c[j] += sum_i w[i][j] rows[i] over the rows that see each key.
static inline void add_seeing_rows(const Sequence& s, int64_t row, int64_t rows, int64_t key, int64_t keys,
                                   const float* w, int64_t ld, Vectors v, int64_t width, float* c, int64_t c_row) {
  for (int64_t t = 0; t < keys; t += MR) {
    const int64_t n = at_most(MR, keys - t);
    const int64_t all = at_least(0, at_most(rows, s.first_row(key + t + n - 1) - row));  // from here on all keys
    if (all < rows) {
      Vectors seen = v;
      seen.data += all * v.row;
      multiply(n, width, rows - all, {w + all * ld + t, 1, ld}, seen, c + t * c_row, c_row, kContinue);
    }
    for (int64_t j = t; j < t + n; ++j) {
      const int64_t first = at_least(0, s.first_row(key + j) - row);
      if (first >= all) continue;
      Vectors some = v;
      some.data += first * v.row;
      multiply(1, width, all - first, {w + first * ld + j, 1, ld}, some, c + j * c_row, c_row, kContinue);
    }
  }
}

static inline void attention_dropout(const Sequence& s, int64_t i, int64_t key, int64_t n, const float* x, float* y) {
  dropout_columns(*s.a.dropout, key, n, static_cast<uint32_t>(i), static_cast<uint32_t>(s.index),
                  static_cast<uint32_t>(s.head), x, y);
}

// p = exp(z - lse) with lse in two floats: exp(z - high) exp(-low), so that z - lse is rounded once. Writes up to `n`
// rounded up to whole vectors. All 0 where lse is -inf: no score was above -inf.
static inline void probabilities(const float* z, double lse, int64_t n, float* p) {
  const float high = lse == -INFINITY ? 0.0f : static_cast<float>(lse);
  const vf hi = splat(high), factor = splat(expf(static_cast<float>(static_cast<double>(high) - lse)));
  for (int64_t j = 0; j < n; j += VW) store(p + j, vexp(load(z + j) - hi) * factor);
}

namespace {
struct OnlineSoftmax {  // one row: greatest score so far, and the sum of exp(z - greatest)
  float greatest;
  double sum;

  // Takes n scores, leaves their exp; returns the factor by which earlier terms shrink.
  float take(float* z, int64_t n) {
    vf top = splat(-INFINITY);
    for (int64_t j = 0; j < n; j += VW) top = vmax(load(z + j), top);
    const float before = greatest, tile = max_lanes(top);
    greatest = tile > before ? tile : before;
    // All scores -inf: keep exp finite, every term is then exp(-inf) = 0.
    const vf base = splat(greatest == -INFINITY ? 0.0f : greatest);
    vf total = splat(0.0f);
    for (int64_t j = 0; j < n; j += VW) {
      const vf p = vexp(load(z + j) - base);
      store(z + j, p);
      total += p;
    }
    const float shrink = before == -INFINITY ? 0.0f : expf(before - greatest);
    sum = sum * static_cast<double>(shrink) + static_cast<double>(sum_lanes(total));
    return shrink;
  }
  double lse() const { return sum == 0.0 ? -INFINITY : static_cast<double>(greatest) + log(sum); }
};
}  // namespace

static void attention_forward(const Attention& a, int64_t task_begin, int64_t task_end, float* scratch) {
  const int64_t d = a.head_dim, wide = round_up(d, VW), ld = kKeyTile;
  float* panels = scratch;
  float* padded = panels + kPackedKeys * d;
  float* z = padded + kPackedKeys * wide;
  float* sums = z + kRowBlock * ld;
  float* bias = sums + kRowBlock * wide;
  OnlineSoftmax state[kRowBlock];

  for (int64_t task = task_begin; task < task_end; ++task) {
    Sequence s(a, task);
    expand_bias(s, bias);
    const bool packed_once = s.n_k <= kPackedKeys;
    if (packed_once) pack_panels(s.key(a.k, 0), s.stride, s.n_k, d, panels);
    Vectors values = padded_rows(s.key(a.v, 0), s.stride, packed_once ? s.n_k : 0, d, padded);

    for (int64_t row = 0; row < s.n_q; row += kRowBlock) {
      const int64_t rows = at_most(kRowBlock, s.n_q - row), seen = s.visible(row + rows - 1);
      for (int64_t i = 0; i < rows; ++i) state[i] = {-INFINITY, 0.0};
      memset(sums, 0, static_cast<size_t>(rows * wide) * sizeof(float));
      for (int64_t key = 0; key < seen; key += kKeyTile) {
        const int64_t keys = at_most(kKeyTile, seen - key);
        const float* tile_panels = panels + key * d;
        Vectors tile_values = values;
        if (packed_once) {
          tile_values.data += key * values.row;
        } else {
          pack_panels(s.key(a.k, key), s.stride, keys, d, panels);
          tile_panels = panels;
          tile_values = padded_rows(s.key(a.v, key), s.stride, keys, d, padded);
        }
        score_tile(s, row, rows, key, keys, tile_panels, z, ld);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t n = at_most(keys, s.visible(row + i) - key);
          if (n <= 0) continue;
          const float shrink = state[i].take(z + i * ld, n);
          if (key > 0) {
            const vf factor = splat(shrink);
            for (int64_t c = 0; c < wide; c += VW) store(sums + i * wide + c, load(sums + i * wide + c) * factor);
          }
          if (a.dropout) attention_dropout(s, row + i, key, n, z + i * ld, z + i * ld);
        }
        add_seen_keys(s, row, rows, key, keys, z, ld, tile_values, wide, sums, wide);
      }
      for (int64_t i = 0; i < rows; ++i) {
        float* out = a.out + (s.query(a.q, row + i) - a.q);
        const vf factor = splat(state[i].sum == 0.0 ? 0.0f : static_cast<float>(1.0 / state[i].sum));
        for (int64_t c = 0; c < d; c += VW)
          store_first(out + c, load(sums + i * wide + c) * factor, at_most(VW, d - c));
        *s.lse(row + i) = state[i].lse();
      }
      if (a.weights == nullptr) continue;
      for (int64_t key = 0; key < s.n_k; key += kKeyTile) {  // once more, now that lse is known
        const int64_t keys = at_most(kKeyTile, s.n_k - key);
        if (!packed_once) pack_panels(s.key(a.k, key), s.stride, keys, d, panels);
        score_tile(s, row, rows, key, keys, packed_once ? panels + key * d : panels, z, ld);
        for (int64_t i = 0; i < rows; ++i) {
          float* w = a.weights + a.weights_at[task] + (row + i) * s.n_k + key;
          const int64_t n = at_least(0, at_most(keys, s.visible(row + i) - key));
          const bool some = *s.lse(row + i) != -INFINITY;
          if (some) probabilities(z + i * ld, *s.lse(row + i), n, z + i * ld);
          for (int64_t j = 0; j < keys; ++j) w[j] = some && j < n ? z[i * ld + j] : 0.0f;
        }
      }
    }
  }
}

// With p = exp(z - lse), f = keep / (1 - dropout) and the forward line out[i] = sum_j p[i][j] f[i][j] v[j]:
//   dv[j] += sum_i p f dout[i]
//   dz[i][j] = p (f dout[i]·v[j] - delta[i]),  delta[i] = dout[i]·out[i]
//   dq[i] += scale sum_j dz k[j],  dk[j] += scale sum_i dz q[i],  dbias[distance] += dz
static void attention_backward(const Attention& a, int64_t task_begin, int64_t task_end, double* dbias,
                               float* scratch) {
  const int64_t d = a.head_dim, wide = round_up(d, VW), ld = kKeyBlock;
  float* key_panels = scratch;
  float* value_panels = key_panels + kKeyBlock * d;
  float* key_rows = value_panels + kKeyBlock * d;
  float* dk = key_rows + kKeyBlock * wide;
  float* dv = dk + kKeyBlock * wide;
  float* q_rows = dv + kKeyBlock * wide;
  float* dout_rows = q_rows + kRowBlock * wide;
  float* dq = dout_rows + kRowBlock * wide;
  float* z = dq + kRowBlock * wide;  // then p, then p f
  float* dz = z + kRowBlock * ld;
  float* bias = dz + kRowBlock * ld;

  for (int64_t task = task_begin; task < task_end; ++task) {
    Sequence s(a, task);
    expand_bias(s, bias);
    float* dbias_by_place = bias + s.n_q + s.n_k + 16;
    if (dbias) memset(dbias_by_place, 0, static_cast<size_t>(s.n_q + s.n_k + 16) * sizeof(float));

    for (int64_t key = 0; key < s.n_k; key += kKeyBlock) {
      const int64_t keys = at_most(kKeyBlock, s.n_k - key);
      pack_panels(s.key(a.k, key), s.stride, keys, d, key_panels);
      pack_panels(s.key(a.v, key), s.stride, keys, d, value_panels);
      const Vectors k = padded_rows(s.key(a.k, key), s.stride, keys, d, key_rows);
      memset(dk, 0, static_cast<size_t>(2 * kKeyBlock * wide) * sizeof(float));  // and dv
      for (int64_t row = s.first_row(key); row < s.n_q; row += kRowBlock) {
        const int64_t rows = at_most(kRowBlock, s.n_q - row);
        const Vectors q = padded_rows(s.query(a.q, row), s.stride, rows, d, q_rows);
        const Vectors dout = padded_rows(s.query(a.dout, row), s.stride, rows, d, dout_rows);
        score_tile(s, row, rows, key, keys, key_panels, z, ld);
        for (int64_t t = 0; t < rows; t += MR) {
          const int64_t n = at_most(MR, rows - t);
          const int64_t widest = round_up(at_least(0, at_most(keys, s.visible(row + t + n - 1) - key)), VW);
          multiply(n, widest, d, {s.query(a.dout, row + t), s.stride, 1}, panels_of(value_panels, d), dz + t * ld, ld,
                   kFresh);
        }
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t n = at_most(keys, s.visible(row + i) - key);
          if (n <= 0) continue;
          float *zi = z + i * ld, *dzi = dz + i * ld;
          const float *dout_i = s.query(a.dout, row + i), *out_i = s.query(a.out, row + i);
          vf dot = splat(0.0f);
          for (int64_t c = 0; c < d; c += VW)
            dot += load_first(dout_i + c, at_most(VW, d - c)) * load_first(out_i + c, at_most(VW, d - c));
          const vf delta = splat(sum_lanes(dot)), scale = splat(a.softmax_scale);
          probabilities(zi, *s.lse(row + i), n, zi);
          if (a.dropout) attention_dropout(s, row + i, key, n, dzi, dzi);
          for (int64_t j = 0; j < n; j += VW) store(dzi + j, load(zi + j) * (load(dzi + j) - delta));
          if (dbias) {
            float* place = dbias_by_place + (s.n_q - 1 - row - i) + key;
            for (int64_t j = 0; j < n; ++j) place[j] += dzi[j];
          }
          for (int64_t j = 0; j < n; j += VW) store(dzi + j, load(dzi + j) * scale);
          if (a.dropout) attention_dropout(s, row + i, key, n, zi, zi);
        }
        add_seeing_rows(s, row, rows, key, keys, z, ld, dout, wide, dv, wide);
        add_seeing_rows(s, row, rows, key, keys, dz, ld, q, wide, dk, wide);
        // One sum per block of keys, so that the rounding of a long history does not pile up in one chain.
        memset(dq, 0, static_cast<size_t>(rows * wide) * sizeof(float));
        add_seen_keys(s, row, rows, key, keys, dz, ld, k, wide, dq, wide);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t c = 0; c < d; c += VW) {
            const int64_t n = at_most(VW, d - c);
            float* sum = a.dq + (s.query(a.q, row + i) - a.q) + c;
            store_first(sum, load_first(sum, n) + load(dq + i * wide + c), n);
          }
      }
      for (int64_t j = 0; j < keys; ++j)
        for (int64_t c = 0; c < d; c += VW) {
          const int64_t n = at_most(VW, d - c), at = s.key(a.k, key + j) - a.k + c;
          store_first(a.dk + at, load_first(a.dk + at, n) + load(dk + j * wide + c), n);
          store_first(a.dv + at, load_first(a.dv + at, n) + load(dv + j * wide + c), n);
        }
    }
    if (dbias)
      for (int64_t x = 0; x < s.n_q + s.n_k; ++x)
        dbias[s.head * a.bias_len + s.distance_entry(x)] += static_cast<double>(dbias_by_place[x]);
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
