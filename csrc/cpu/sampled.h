// Losses of the target against k sampled items that all rows share. An item equal to the row's own target is left out.
//
//   s[j] = h·item[negatives[j]],  t = h·item[target]
//   softmax:  z[j] = s[j] - log_expected[j],  loss = log(exp(t) + sum_j exp(z[j])) - t
//             dz[j] = exp(z[j]) / (exp(t) + sum),  dt = -sum / (exp(t) + sum)
//             with A and T `beside`: exp(A) joins the sum, exp(T) joins exp(t), as in cross_entropy.h
//   binary:   loss = (beta softplus(-t) + sum_j softplus(s[j])) / (1 + kept),  softplus(x) = log(1 + exp(x))
//             ds[j] = sigmoid(s[j]) / (1 + kept),  dt = -beta sigmoid(-t) / (1 + kept)
//
// Importance correction: Bengio and Senécal 2008. gBCE: Petrov and Macdonald 2023, arXiv:2308.07192.
//
// As in cross_entropy_pass.h the scores of one block of rows exist at a time, and the factor of a row's ds, here
// `factor`, goes to dh and to h. The target's ds goes to `dtargets`: its item may belong to another worker.
#pragma once
#include "cpu/activation.h"
#include "cpu/softmax.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

// Negatives whose part of dh is added up in float32; the parts in float64. The negatives of a binary loss all weigh
// about the same, so their sum is far larger than any of them.
constexpr int64_t kSumTile = 128;

// log(1 + x) for 0 <= x <= 1, relative error below 1e-7: 2 atanh(z) with z = x / (2 + x) at most 1/3, and
// atanh(z) = z + z^3 P(z^2) with P fitted for the least relative error (5e-9).
static inline vf log_1_plus(vf x) {
  const vf z = x / (splat(2.0f) + x), s = z * z;
  vf p = splat(0.14006419536376094f);
  p = p * s + splat(0.14000814289005106f);
  p = p * s + splat(0.20010769074984308f);
  p = p * s + splat(0.3333320804941666f);
  return splat(2.0f) * (z + z * s * p);
}

static inline vf softplus(vf x, const Sigmoid& sigmoid_of_x) {
  return vmax(x, splat(0.0f)) + log_1_plus(sigmoid_of_x.tail);
}

// Scores of the negatives from j on, less log_expected: -inf for the target, and after the last (log_expected is +inf).
static inline vf kept_scores(const Sampled& a, vi same, int64_t j, const float* s) {
  return same ? splat(-INFINITY) : load(s + j) - load(a.log_expected + j);
}
static inline vi equal_ids(const int32_t* ids, int32_t id) {
  return *reinterpret_cast<const vi_unaligned*>(ids) == splat(id);
}

// Both leave ds / factor in s (ld floats) and return factor.
static inline float sampled_softmax(const Sampled& a, int64_t row, float logit, int64_t ld, float* s) {
  vf top = splat(logit);
  for (int64_t j = 0; j < ld; j += VW) {
    const vf z = kept_scores(a, equal_ids(a.negatives + j, a.targets[row]), j, s);
    store(s + j, z);
    top = vmax(z, top);
  }
  const float greatest = max_lanes(top);
  double sum = 0.0;
  for (int64_t tile = 0; tile < ld; tile += kItemTile) {
    vf total = splat(0.0f);
    for (int64_t j = tile; j < at_most(ld, tile + kItemTile); j += VW) {
      const vf e = vexp(load(s + j) - splat(greatest));
      store(s + j, e);
      total += e;
    }
    sum += static_cast<double>(sum_lanes(total));
  }
  const RowEnd end = row_end(a.beside, row, static_cast<double>(greatest), sum, static_cast<double>(logit));
  a.loss[row] = end.loss;
  a.dtargets[row] = static_cast<float>(-end.rest * a.row_weight);
  return static_cast<float>(a.row_weight * end.factor);
}

static inline float sampled_binary(const Sampled& a, int64_t row, float logit, int64_t ld, float* s) {
  vi same_lanes = splat(int32_t{0});  // -1 for every negative that is the target
  double sum = 0.0;
  for (int64_t tile = 0; tile < ld; tile += kItemTile) {
    vf total = splat(0.0f);
    for (int64_t j = tile; j < at_most(ld, tile + kItemTile); j += VW) {
      const vi same = equal_ids(a.negatives + j, a.targets[row]);
      const vf z = kept_scores(a, same, j, s);
      const Sigmoid sig = sigmoid(z);
      store(s + j, sig.at);
      total += softplus(z, sig);
      same_lanes += same;
    }
    sum += static_cast<double>(sum_lanes(total));
  }
  int64_t kept = a.n_negatives;
  for (int64_t lane = 0; lane < VW; ++lane) kept += same_lanes[lane];
  const Sigmoid target = sigmoid(splat(-logit));
  const double positive = static_cast<double>(softplus(splat(-logit), target)[0]);
  const double inverse = 1.0 / static_cast<double>(1 + kept);
  a.loss[row] = (static_cast<double>(a.beta) * positive + sum) * inverse;
  a.dtargets[row] =
      static_cast<float>(-static_cast<double>(a.beta) * static_cast<double>(target.at[0]) * inverse * a.row_weight);
  return static_cast<float>(inverse * a.row_weight);
}

static void sampled_loss(const Sampled& a, int64_t row_begin, int64_t row_end, float* dnegatives, float* scratch) {
  const int64_t dim = a.dim, wide = round_up(dim, VW), padded = round_up(dim, PANEL);
  const int64_t k = a.n_negatives, ld = round_up(k, PANEL);
  float* s = scratch;                                               // (kRowBlock, ld): scores, then ds / factor
  float* scaled = s + kRowBlock * ld;                               // (kRowBlock, wide): h times factor
  float* part = scaled + kRowBlock * wide;                          // (kRowBlock, wide): dh / factor of some negatives
  double* dh = reinterpret_cast<double*>(part + kRowBlock * wide);  // and of all
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row);
    const float* h = a.h + row * dim;
    for (int64_t j = 0; j < ld; j += kItemTile)
      multiply(rows, at_most(kItemTile, ld - j), dim, {h, dim, 1}, panels_of(a.packed + j * dim, dim), s + j, ld,
               kFresh);
    float factor[kRowBlock];
    for (int64_t i = 0; i < rows; ++i) {
      const float *hi = h + i * dim, *item = a.items + a.targets[row + i] * dim;
      vf products = splat(0.0f);
      for (int64_t c = 0; c < dim; c += VW)
        products += load_first(hi + c, at_most(VW, dim - c)) * load_first(item + c, at_most(VW, dim - c));
      const float logit = sum_lanes(products);
      factor[i] = a.softmax ? sampled_softmax(a, row + i, logit, ld, s + i * ld)
                            : sampled_binary(a, row + i, logit, ld, s + i * ld);
      for (int64_t c = 0; c < wide; ++c) scaled[i * wide + c] = c < dim ? hi[c] * factor[i] : 0.0f;
    }
    for (int64_t x = 0; x < rows * wide; ++x) dh[x] = 0.0;
    for (int64_t j = 0; j < k; j += kSumTile) {
      const int64_t items = at_most(kSumTile, k - j);
      multiply(rows, wide, items, {s + j, ld, 1}, rows_of(a.rows + j * padded, padded), part, wide, kFresh);
#pragma omp simd
      for (int64_t x = 0; x < rows * wide; ++x) dh[x] += static_cast<double>(part[x]);
      multiply(items, dim, rows, {s + j, 1, ld}, rows_of(scaled, wide), dnegatives + j * dim, dim, kAdd);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const float* item = a.items + a.targets[row + i] * dim;
      for (int64_t c = 0; c < dim; ++c)
        a.dh[(row + i) * dim + c] += static_cast<float>(dh[i * wide + c]) * factor[i] + a.dtargets[row + i] * item[c];
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
