// Scores that a network gives to every (query, key) pair of a sequence, sums weighted by them, and their gradients. A
// task is one sequence; its scores are a block (n_q, n_k).
//
//   additive:         z[i][j] = sum_c v[c] tanh(q[i][c] + k[j][c])
//   activation unit:  u1 = q_part[i] + k_part[j] + P (q[i] * k[j]),  u2 = W2 act(u1) + b2,  z[i][j] = w3·act(u2) + b3
//   weighted sum:     out[i] = sum_j a[i][j] v[j],  a = softmax of z over j, or z itself
//
// Additive: Bahdanau, Cho and Bengio 2014, arXiv:1409.0473. Activation unit: Zhou et al. 2017, arXiv:1706.06978.
//
// The product of the unit's first layer needs no vector q * k: P (q * k) = (P diag(q)) k, one scaled P per query and
// block of keys. So does its gradient: with M = sum_j g1[j] k[j]^T for one query, dP = M diag(q) and
// dq[c] = sum_h P[h][c] M[h][c].
#pragma once
#include "cpu/activation.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

constexpr int64_t kPairChain = 16;  // keys whose gradients are added up before they join the sum: less rounding

namespace {         // else the members of a struct are visible to the linker
struct PairBlock {  // one task
  int64_t first_q, first_k, n_q, n_k, at;

  PairBlock(const Pairs& a, int64_t task)
      : first_q(a.cu_q[task]),
        first_k(a.cu_k[task]),
        n_q(a.cu_q[task + 1] - first_q),
        n_k(a.cu_k[task + 1] - first_k),
        at(a.at[task]) {}
};

struct Tanh {
  vf at, slope;
};
}  // namespace

static inline void clear(float* x, int64_t n) { memset(x, 0, static_cast<size_t>(n) * sizeof(float)); }

// Rows (n, width) and back, between row stride `width` and `wide`, zeros after each row.
static inline void widen(const float* rows, int64_t n, int64_t width, float* out, int64_t wide) {
  for (int64_t i = 0; i < n; ++i) {
    memcpy(out + i * wide, rows + i * width, static_cast<size_t>(width) * sizeof(float));
    clear(out + i * wide + width, wide - width);
  }
}
static inline void narrow(const float* rows, int64_t n, int64_t width, float* out, int64_t wide) {
  for (int64_t i = 0; i < n; ++i) memcpy(out + i * width, rows + i * wide, static_cast<size_t>(width) * sizeof(float));
}

// tanh(x), relative error below 2e-7. |x| < 0.6: x + x^3 P(x^2), P fitted for the least relative error (3e-9); else by
// e = exp(-2 |x|), which keeps the digits of the slope where tanh is near 1.
static inline Tanh tanh_and_slope(vf x) {
  const vi negative = x < splat(0.0f);
  const vf t = negative ? -x : x, s = x * x;
  vf p = splat(-0.00589515630559642f);
  p = p * s + splat(0.02079597025433973f);
  p = p * s + splat(-0.05378382989463955f);
  p = p * s + splat(0.1333192412261669f);
  p = p * s + splat(-0.33333298001978684f);
  const vf near = x + x * s * p, e = vexp_falling(t * splat(-2.0f)), r = splat(1.0f) / (splat(1.0f) + e);
  const vf far = (splat(1.0f) - e) * r;
  const vi small = t < splat(0.6f);
  return {small ? near : (negative ? -far : far), small ? splat(1.0f) - near * near : splat(4.0f) * e * r * r};
}

static void additive_scores_forward(const AdditiveScores& a, int64_t task_begin, int64_t task_end, float* scratch) {
  const int64_t d = a.dim;
  for (int64_t task = task_begin; task < task_end; ++task) {
    const PairBlock s(a, task);
    for (int64_t key = 0; key < s.n_k; key += kKeyTile) {
      const int64_t keys = at_most(kKeyTile, s.n_k - key);
      pack_panels(a.k + (s.first_k + key) * d, d, keys, d, scratch);
      for (int64_t i = 0; i < s.n_q; ++i) {
        const float* q = a.q + (s.first_q + i) * d;
        float* z = a.z + s.at + i * s.n_k + key;
        for (int64_t j = 0; j < keys; j += VW) {
          const float* k = scratch + j / PANEL * PANEL * d + j % PANEL;
          vf sum = splat(0.0f);
          for (int64_t begin = 0; begin < d; begin += kChain) {
            vf part = splat(0.0f);
            for (int64_t c = begin; c < at_most(d, begin + kChain); ++c)
              part += splat(a.v[c]) * tanh_and_slope(splat(q[c]) + load(k + c * PANEL)).at;
            sum += part;
          }
          store_first(z + j, sum, at_most(VW, keys - j));
        }
      }
    }
  }
}

// With g = dz[i][j] v (1 - tanh^2): dq[i] = sum_j g,  dk[j] = sum_i g,  dv = sum_ij dz[i][j] tanh. `sums`: dv, added
// to.
static void additive_scores_backward(const AdditiveScores& a, int64_t task_begin, int64_t task_end, float* sums,
                                     float* scratch) {
  const int64_t d = a.dim, wide = round_up(d, VW);
  float* k = scratch;
  float* dk = k + kKeyBlock * wide;
  float* v = dk + kKeyBlock * wide;
  float* q = v + wide;
  float* dq = q + wide;
  float* dv = dq + wide;
  widen(a.v, 1, d, v, wide);
  for (int64_t task = task_begin; task < task_end; ++task) {
    const PairBlock s(a, task);
    clear(a.dq + s.first_q * d, s.n_q * d);
    clear(dv, wide);
    for (int64_t key = 0; key < s.n_k; key += kKeyBlock) {
      const int64_t keys = at_most(kKeyBlock, s.n_k - key);
      widen(a.k + (s.first_k + key) * d, keys, d, k, wide);
      clear(dk, keys * wide);
      for (int64_t i = 0; i < s.n_q; ++i) {
        const float* dz = a.dz + s.at + i * s.n_k + key;
        float* sum = a.dq + (s.first_q + i) * d;
        widen(a.q + (s.first_q + i) * d, 1, d, q, wide);
        for (int64_t c = 0; c < wide; c += VW) {
          const vf qc = load(q + c), vc = load(v + c);
          vf dqc = splat(0.0f), dvc = splat(0.0f);
          for (int64_t begin = 0; begin < keys; begin += kPairChain) {
            vf some_dq = splat(0.0f), some_dv = splat(0.0f);
            for (int64_t j = begin; j < at_most(keys, begin + kPairChain); ++j) {
              const Tanh t = tanh_and_slope(qc + load(k + j * wide + c));
              const vf slope = splat(dz[j]), g = slope * vc * t.slope;
              some_dv += slope * t.at;
              some_dq += g;
              store(dk + j * wide + c, load(dk + j * wide + c) + g);
            }
            dqc += some_dq;
            dvc += some_dv;
          }
          store(dq + c, dqc);
          store(dv + c, load(dv + c) + dvc);
        }
#pragma omp simd
        for (int64_t c = 0; c < d; ++c) sum[c] += dq[c];
      }
      narrow(dk, keys, d, a.dk + (s.first_k + key) * d, wide);
    }
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) sums[c] += dv[c];
  }
}

template <Activation KIND>
static void activate_and_slope(float* x, float* slopes, int64_t n) {  // n: whole vectors
  for (int64_t i = 0; i < n; i += VW) {
    const vf u = load(x + i);
    store(slopes + i, slope<KIND>(u));
    store(x + i, activated<KIND>(u));
  }
}

// x becomes activation(x), `slopes` the derivative at x.
static void activation_and_slope(Activation kind, float* x, float* slopes, int64_t n) {
  REGARD_BY_ACTIVATION(kind, activate_and_slope, x, slopes, n)
}

// P diag(q) in panels, and u1 of one query and `keys` keys into `u` (keys, wide1).
static inline void unit_first_layer(const ActivationUnit& a, const float* q, const float* k, const float* q_part,
                                    const float* k_part, int64_t keys, int64_t wide1, float* scaled, float* u) {
  for (int64_t p = 0; p < wide1; p += PANEL)
    for (int64_t c = 0; c < a.dim; ++c) {
      const int64_t at = p * a.dim + c * PANEL;
      for (int64_t lane = 0; lane < PANEL; lane += VW)
        store(scaled + at + lane, load(a.product_panels + at + lane) * splat(q[c]));
    }
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t h = 0; h < wide1; h += VW) store(u + j * wide1 + h, load(q_part + h) + load(k_part + j * wide1 + h));
  multiply(keys, wide1, a.dim, {k, a.dim, 1}, panels_of(scaled, a.dim), u, wide1, kAdd);
}

static inline void unit_second_layer(const ActivationUnit& a, const float* hidden, int64_t keys, int64_t wide1,
                                     int64_t wide2, float* u) {
  for (int64_t j = 0; j < keys; ++j) memcpy(u + j * wide2, a.bias2, static_cast<size_t>(wide2) * sizeof(float));
  multiply(keys, wide2, a.hidden1, {hidden, wide1, 1}, panels_of(a.weight2_panels, a.hidden1), u, wide2, kAdd);
}

static void activation_unit_forward(const ActivationUnit& a, int64_t task_begin, int64_t task_end, float* scratch) {
  const int64_t d = a.dim, wide1 = round_up(a.hidden1, PANEL), wide2 = round_up(a.hidden2, PANEL);
  float* scaled = scratch;
  float* q_part = scaled + wide1 * d;
  float* k_part = q_part + wide1;
  float* u1 = k_part + kPairKeys * wide1;
  float* u2 = u1 + kPairKeys * wide1;
  for (int64_t task = task_begin; task < task_end; ++task) {
    const PairBlock s(a, task);
    for (int64_t key = 0; key < s.n_k; key += kPairKeys) {
      const int64_t keys = at_most(kPairKeys, s.n_k - key);
      const float* k = a.k + (s.first_k + key) * d;
      widen(a.k_part + (s.first_k + key) * a.hidden1, keys, a.hidden1, k_part, wide1);
      for (int64_t i = s.first_q; i < s.first_q + s.n_q; ++i) {
        float* z = a.z + s.at + (i - s.first_q) * s.n_k + key;
        widen(a.q_part + i * a.hidden1, 1, a.hidden1, q_part, wide1);
        unit_first_layer(a, a.q + i * d, k, q_part, k_part, keys, wide1, scaled, u1);
        activation_forward(a.activation, u1, u1, 0, keys * wide1);
        unit_second_layer(a, u1, keys, wide1, wide2, u2);
        activation_forward(a.activation, u2, u2, 0, keys * wide2);
        for (int64_t j = 0; j < keys; ++j) {
          vf sum = splat(0.0f);
          for (int64_t h = 0; h < a.hidden2; h += VW)  // what stands after the last may be NaN beside an infinity
            sum += first_lanes(load(u2 + j * wide2 + h), a.hidden2 - h, splat(0.0f)) * load(a.weight3 + h);
          z[j] = sum_lanes(sum) + a.bias3;
        }
      }
    }
  }
}

// With g2 = dz w3 act'(u2) and g1 = (g2 W2) act'(u1):
//   dq_part[i] = sum_j g1,  dk_part[j] = sum_i g1,  dk[j] = sum_i (P diag(q[i]))^T g1,  dq and dP: see above
//   dW2 = sum g2 act(u1)^T,  db2 = sum g2,  dw3 = sum dz act(u2)
// `sums`, added to: dP (hidden1, wide d), dW2 (hidden2, wide1), db2 (wide2), dw3 (wide2), each wide to a whole panel.
static void activation_unit_backward(const ActivationUnit& a, int64_t task_begin, int64_t task_end, float* sums,
                                     float* scratch) {
  const int64_t d = a.dim, wide = round_up(d, PANEL), h1 = a.hidden1, h2 = a.hidden2;
  const int64_t wide1 = round_up(h1, PANEL), wide2 = round_up(h2, PANEL);
  float *dproduct = sums, *dweight2 = dproduct + h1 * wide, *dbias2 = dweight2 + h2 * wide1, *dweight3 = dbias2 + wide2;
  float* scaled = scratch;
  float* scaled_rows = scaled + wide1 * d;
  float* outer = scaled_rows + h1 * wide;  // M
  float* q = outer + h1 * wide;
  float* dq = q + wide;
  float* q_part = dq + wide;
  float* k_rows = q_part + wide1;
  float* dk = k_rows + kPairKeys * wide;
  float* k_part = dk + kPairKeys * wide;
  float* dk_part = k_part + kPairKeys * wide1;
  float* u1 = dk_part + kPairKeys * wide1;  // then act(u1)
  float* slope1 = u1 + kPairKeys * wide1;
  float* g1 = slope1 + kPairKeys * wide1;
  float* u2 = g1 + kPairKeys * wide1;   // then act(u2)
  float* g2 = u2 + kPairKeys * wide2;   // first act'(u2)
  float* db2 = g2 + kPairKeys * wide2;  // of one sequence
  float* dw3 = db2 + wide2;
  const vf zero = splat(0.0f);

  for (int64_t task = task_begin; task < task_end; ++task) {
    const PairBlock s(a, task);
    clear(a.dq + s.first_q * d, s.n_q * d);
    clear(a.dq_part + s.first_q * h1, s.n_q * h1);
    clear(db2, 2 * wide2);
    for (int64_t key = 0; key < s.n_k; key += kPairKeys) {
      const int64_t keys = at_most(kPairKeys, s.n_k - key);
      const float* k = a.k + (s.first_k + key) * d;
      widen(k, keys, d, k_rows, wide);
      widen(a.k_part + (s.first_k + key) * h1, keys, h1, k_part, wide1);
      clear(dk, keys * wide);
      clear(dk_part, keys * wide1);
      for (int64_t i = s.first_q; i < s.first_q + s.n_q; ++i) {
        const float* dz = a.dz + s.at + (i - s.first_q) * s.n_k + key;
        widen(a.q + i * d, 1, d, q, wide);
        widen(a.q_part + i * h1, 1, h1, q_part, wide1);
        unit_first_layer(a, q, k, q_part, k_part, keys, wide1, scaled, u1);
        activation_and_slope(a.activation, u1, slope1, keys * wide1);
        unit_second_layer(a, u1, keys, wide1, wide2, u2);
        activation_and_slope(a.activation, u2, g2, keys * wide2);
        for (int64_t h = 0; h < h2; h += VW) {
          const vf w3 = load(a.weight3 + h);
          vf sum_db2 = zero, sum_dw3 = zero;
          for (int64_t begin = 0; begin < keys; begin += kPairChain) {
            vf some_db2 = zero, some_dw3 = zero;
            for (int64_t j = begin; j < at_most(keys, begin + kPairChain); ++j) {
              const vf slope = splat(dz[j]), g = slope * w3 * load(g2 + j * wide2 + h);
              store(g2 + j * wide2 + h, g);
              some_db2 += g;
              some_dw3 += slope * load(u2 + j * wide2 + h);
            }
            sum_db2 += some_db2;
            sum_dw3 += some_dw3;
          }
          store(db2 + h, load(db2 + h) + sum_db2);
          store(dw3 + h, load(dw3 + h) + sum_dw3);
        }
        multiply(h2, wide1, keys, {g2, 1, wide2}, rows_of(u1, wide1), dweight2, wide1, kAdd);
        multiply(keys, wide1, h2, {g2, wide2, 1}, rows_of(a.weight2_rows, wide1), g1, wide1, kFresh);
        for (int64_t h = 0; h < h1; h += VW) {
          vf sum = zero;
          for (int64_t begin = 0; begin < keys; begin += kPairChain) {
            vf some = zero;
            for (int64_t j = begin; j < at_most(keys, begin + kPairChain); ++j) {
              const int64_t at = j * wide1 + h;
              const vf g = load(g1 + at) * load(slope1 + at);
              store(g1 + at, g);
              store(dk_part + at, load(dk_part + at) + g);
              some += g;
            }
            sum += some;
          }
          const int64_t n = at_most(VW, h1 - h);
          float* part = a.dq_part + i * h1 + h;
          store_first(part, load_first(part, n) + sum, n);
        }
        multiply(h1, wide, keys, {g1, 1, wide1}, rows_of(k_rows, wide), outer, wide, kFresh);
        clear(dq, wide);
        for (int64_t h = 0; h < h1; ++h)
          for (int64_t c = 0; c < wide; c += VW) {
            const int64_t at = h * wide + c;
            const vf m = load(outer + at), p = load(a.product_rows + at), qc = load(q + c);
            store(dproduct + at, load(dproduct + at) + m * qc);
            store(dq + c, load(dq + c) + p * m);
            store(scaled_rows + at, p * qc);
          }
        multiply(keys, wide, h1, {g1, wide1, 1}, rows_of(scaled_rows, wide), dk, wide, kAdd);
        float* sum = a.dq + i * d;
#pragma omp simd
        for (int64_t c = 0; c < d; ++c) sum[c] += dq[c];
      }
      narrow(dk, keys, d, a.dk + (s.first_k + key) * d, wide);
      narrow(dk_part, keys, h1, a.dk_part + (s.first_k + key) * h1, wide1);
    }
    for (int64_t h = 0; h < wide2; h += VW) {
      store(dbias2 + h, load(dbias2 + h) + load(db2 + h));
      store(dweight3 + h, load(dweight3 + h) + load(dw3 + h));
    }
  }
}

namespace {
struct RowSoftmax {  // a[j] = exp(z[j] - greatest) factor; a row of -inf alone gives 0
  vf greatest, factor;

  RowSoftmax(const float* z, int64_t n) {
    vf top = splat(-INFINITY);
    for (int64_t j = 0; j < n; j += VW)
      top = vmax(first_lanes(load_first(z + j, at_most(VW, n - j)), n - j, splat(-INFINITY)), top);
    const float largest = max_lanes(top);
    greatest = splat(largest == -INFINITY ? 0.0f : largest);
    factor = splat(1.0f);
    double sum = 0.0;
    for (int64_t j = 0; j < n; j += VW) {
      const int64_t lanes_left = at_most(VW, n - j);
      const vf e = first_lanes(at(z + j, lanes_left), lanes_left, splat(0.0f));
      sum += static_cast<double>(sum_lanes(e));
    }
    factor = splat(sum == 0.0 ? 0.0f : static_cast<float>(1.0 / sum));
  }
  vf at(const float* z, int64_t n) const { return vexp_falling(load_first(z, n) - greatest) * factor; }
};
}  // namespace

static void weighted_sum_forward(const WeightedSum& a, int64_t task_begin, int64_t task_end, float* scratch) {
  const int64_t d = a.dim;
  float* weights = scratch;
  float* values = weights + kRowBlock * kKeyTile;
  for (int64_t task = task_begin; task < task_end; ++task) {
    const PairBlock s(a, task);
    clear(a.out + s.first_q * d, s.n_q * d);
    for (int64_t row = 0; row < s.n_q; row += kRowBlock) {
      const int64_t rows = at_most(kRowBlock, s.n_q - row);
      const float* z = a.z + s.at + row * s.n_k;
      vf greatest[kRowBlock], factor[kRowBlock];
      for (int64_t i = 0; i < rows && a.softmax; ++i) {
        const RowSoftmax p(z + i * s.n_k, s.n_k);
        greatest[i] = p.greatest, factor[i] = p.factor;
      }
      for (int64_t key = 0; key < s.n_k; key += kKeyTile) {
        const int64_t keys = at_most(kKeyTile, s.n_k - key);
        for (int64_t i = 0; i < rows && a.softmax; ++i)
          for (int64_t j = 0; j < keys; j += VW)
            store(weights + i * kKeyTile + j,
                  vexp_falling(load_first(z + i * s.n_k + key + j, at_most(VW, keys - j)) - greatest[i]) * factor[i]);
        const Rows left = a.softmax ? Rows{weights, kKeyTile, 1} : Rows{z + key, s.n_k, 1};
        multiply(rows, d, keys, left, padded_rows(a.v + (s.first_k + key) * d, d, keys, d, values),
                 a.out + (s.first_q + row) * d, d, kAdd);
      }
    }
  }
}

// dv[j] = sum_i a[i][j] dout[i].  da[i][j] = dout[i]·v[j];  dz = da, or with softmax dz = a (da - sum_j a da).
static void weighted_sum_backward(const WeightedSum& a, int64_t task_begin, int64_t task_end, float* scratch) {
  const int64_t d = a.dim, wide = round_up(d, VW);
  float* weights = scratch;
  float* panels = weights + kRowBlock * kKeyTile;
  float* dout_rows = panels + kKeyTile * wide;
  for (int64_t task = task_begin; task < task_end; ++task) {
    const PairBlock s(a, task);
    const float* dout = a.dout + s.first_q * d;
    for (int64_t key = 0; key < s.n_k; key += kKeyTile) {
      const int64_t keys = at_most(kKeyTile, s.n_k - key);
      pack_panels(a.v + (s.first_k + key) * d, d, keys, d, panels);
      multiply(s.n_q, keys, d, {dout, d, 1}, panels_of(panels, d), a.dz + s.at + key, s.n_k, kFresh);
    }
    clear(a.dv + s.first_k * d, s.n_k * d);
    for (int64_t row = 0; row < s.n_q; row += kRowBlock) {
      const int64_t rows = at_most(kRowBlock, s.n_q - row);
      const Vectors right = padded_rows(dout + row * d, d, rows, d, dout_rows);
      const float* z = a.z + s.at + row * s.n_k;
      float* dz = a.dz + s.at + row * s.n_k;
      if (!a.softmax) {
        multiply(s.n_k, d, rows, {z, 1, s.n_k}, right, a.dv + s.first_k * d, d, kAdd);
        continue;
      }
      vf greatest[kRowBlock], factor[kRowBlock], delta[kRowBlock];
      for (int64_t i = 0; i < rows; ++i) {
        const float *zi = z + i * s.n_k, *dzi = dz + i * s.n_k;
        const RowSoftmax p(zi, s.n_k);
        greatest[i] = p.greatest, factor[i] = p.factor;
        double sum = 0.0;
        for (int64_t j = 0; j < s.n_k; j += VW) {
          const int64_t n = at_most(VW, s.n_k - j);
          sum += static_cast<double>(sum_lanes(first_lanes(p.at(zi + j, n) * load_first(dzi + j, n), n, splat(0.0f))));
        }
        delta[i] = splat(static_cast<float>(sum));
      }
      for (int64_t key = 0; key < s.n_k; key += kKeyTile) {
        const int64_t keys = at_most(kKeyTile, s.n_k - key);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < keys; j += VW) {
            const int64_t n = at_most(VW, keys - j), at = i * s.n_k + key + j;
            const vf p = vexp_falling(load_first(z + at, n) - greatest[i]) * factor[i];
            store(weights + i * kKeyTile + j, p);
            store_first(dz + at, p * (load_first(dz + at, n) - delta[i]), n);
          }
        multiply(keys, d, rows, {weights, 1, kKeyTile}, right, a.dv + (s.first_k + key) * d, d, kAdd);
      }
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
