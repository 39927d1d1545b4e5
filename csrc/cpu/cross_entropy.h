// Softmax cross-entropy over the whole catalogue: for each row the logits are h·item of every item.
//
//   s[v] = h·item[v],  lse = log sum_v exp(s[v]),  loss = lse - s[target]
//   ds[v] = w (exp(s[v] - lse) - [v = target]),  dh = sum_v ds[v] item[v],  ditem[v] = sum over rows of ds[v] h
//
// A row of weight 0 is left out, whatever it holds: not even a NaN in it reaches the gradients.
//
// The logits exist for one block of rows at a time: one tile of items wide in `forward` and `backward`, the whole
// catalogue wide in `fused`, which needs three products where the pair needs four.
#pragma once
#include "cpu/attention.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

static void cross_entropy_forward(const CrossEntropy& a, int64_t row_begin, int64_t row_end, float* scratch) {
  float* panels = scratch;
  float* s = panels + kItemTile * a.dim;
  OnlineSoftmax* state = reinterpret_cast<OnlineSoftmax*>(s + kRowBlock * kItemTile);
  for (int64_t i = row_begin; i < row_end; ++i) state[i - row_begin] = {-INFINITY, 0.0};

  for (int64_t item = 0; item < a.n_items; item += kItemTile) {
    const int64_t items = at_most(kItemTile, a.n_items - item), width = round_up(items, VW);
    pack_panels(a.items + item * a.dim, a.dim, items, a.dim, panels);
    for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
      const int64_t rows = at_most(kRowBlock, row_end - row);
      multiply(rows, width, a.dim, {a.h + row * a.dim, a.dim, 1}, panels_of(panels, a.dim), s, kItemTile, kFresh);
      for (int64_t i = 0; i < rows; ++i) {
        float* si = s + i * kItemTile;
        const int64_t target = a.targets[row + i] - item;
        if (target >= 0 && target < items) a.loss[row + i] = -static_cast<double>(si[target]);
        for (int64_t v = items; v < width; ++v) si[v] = -INFINITY;
        state[row - row_begin + i].take(si, items);
      }
    }
  }
  for (int64_t i = row_begin; i < row_end; ++i) {
    a.lse[i] = state[i - row_begin].lse();
    a.loss[i] += a.lse[i];
  }
}

static void cross_entropy_backward(const CrossEntropy& a, int64_t row_begin, int64_t row_end, int64_t item_begin,
                                   int64_t item_end, float* ditems, float* dh, float* scratch) {
  const int64_t dim = a.dim, wide = round_up(dim, VW);
  float* panels = scratch;
  float* item_rows = panels + kItemTile * dim;
  float* s = item_rows + kItemTile * wide;
  float* h_rows = s + kRowBlock * kItemTile;
  for (int64_t item = item_begin; item < item_end; item += kItemTile) {
    const int64_t items = at_most(kItemTile, item_end - item), width = round_up(items, VW);
    pack_panels(a.items + item * dim, dim, items, dim, panels);
    const Vectors e = padded_rows(a.items + item * dim, dim, items, dim, item_rows);
    for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
      const int64_t rows = at_most(kRowBlock, row_end - row);
      multiply(rows, width, dim, {a.h + row * dim, dim, 1}, panels_of(panels, dim), s, kItemTile, kFresh);
      for (int64_t i = 0; i < rows; ++i) {
        float* si = s + i * kItemTile;
        if (a.weights[row + i] == 0.0f) {
          memset(si, 0, static_cast<size_t>(items) * sizeof(float));
          continue;
        }
        probabilities(si, a.lse[row + i], items, si);
        const int64_t target = a.targets[row + i] - item;
        if (target >= 0 && target < items) si[target] -= 1.0f;
        const vf w = splat(a.weights[row + i]);
        for (int64_t v = 0; v < items; v += VW) store(si + v, load(si + v) * w);
      }
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t c = 0; c < wide; ++c)
          h_rows[i * wide + c] = c < dim && a.weights[row + i] != 0.0f ? a.h[(row + i) * dim + c] : 0.0f;
      multiply(rows, dim, items, {s, kItemTile, 1}, e, dh + (row - row_begin) * dim, dim, kAdd);
      multiply(items, dim, rows, {s, 1, kItemTile}, rows_of(h_rows, wide), ditems + item * dim, dim, kAdd);
    }
  }
}

static void cross_entropy_fused(const CrossEntropy& a, int64_t row_begin, int64_t row_end, float* ditems,
                                float* scratch) {
  const int64_t dim = a.dim, wide = round_up(dim, VW), ld = round_up(a.n_items, kItemTile);
  float* p = scratch;                     // (kRowBlock, ld): logits, then exp(s - greatest)
  float* dh = p + kRowBlock * ld;         // (kRowBlock, wide)
  float* scaled = dh + kRowBlock * wide;  // h times weight / sum
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row);
    vf top[kRowBlock];
    for (int64_t i = 0; i < rows; ++i) top[i] = splat(-INFINITY);
    for (int64_t item = 0; item < a.n_items; item += kItemTile) {
      const int64_t items = at_most(kItemTile, a.n_items - item), width = round_up(items, VW);
      multiply(rows, width, dim, {a.h + row * dim, dim, 1}, panels_of(a.packed + item * dim, dim), p + item, ld,
               kFresh);
      for (int64_t i = 0; i < rows; ++i) {
        float* pi = p + i * ld + item;
        for (int64_t v = items; v < width; ++v) pi[v] = -INFINITY;
        for (int64_t v = 0; v < width; v += VW) top[i] = vmax(load(pi + v), top[i]);
      }
    }
    float factor[kRowBlock];
    for (int64_t i = 0; i < rows; ++i) {
      float* pi = p + i * ld;
      const float greatest = max_lanes(top[i]);
      const int32_t target = a.targets[row + i];
      const double logit = static_cast<double>(pi[target]);
      double sum = 0.0;
      for (int64_t item = 0; item < a.n_items; item += kItemTile) {
        const int64_t items = at_most(kItemTile, a.n_items - item);
        vf total = splat(0.0f);
        for (int64_t v = 0; v < items; v += VW) {
          const vf e = vexp(load(pi + item + v) - splat(greatest));
          store(pi + item + v, e);
          total += e;
        }
        sum += static_cast<double>(sum_lanes(total));
      }
      a.lse[row + i] = static_cast<double>(greatest) + log(sum);
      a.loss[row + i] = a.lse[row + i] - logit;
      if (a.weights[row + i] == 0.0f) {
        factor[i] = 0.0f;
        memset(pi, 0, static_cast<size_t>(a.n_items) * sizeof(float));
        memset(scaled + i * wide, 0, static_cast<size_t>(wide) * sizeof(float));
        continue;
      }
      // ds = w (e / sum - onehot) = (e - sum * onehot) * (w / sum): the factor goes to dh and to h.
      pi[target] = static_cast<float>(static_cast<double>(pi[target]) - sum);
      factor[i] = static_cast<float>(static_cast<double>(a.weights[row + i]) / sum);
      for (int64_t c = 0; c < wide; ++c) scaled[i * wide + c] = c < dim ? a.h[(row + i) * dim + c] * factor[i] : 0.0f;
    }
    memset(dh, 0, static_cast<size_t>(rows * wide) * sizeof(float));
    for (int64_t item = 0; item < a.n_items; item += kItemTile) {
      const int64_t items = at_most(kItemTile, a.n_items - item), padded = round_up(dim, PANEL);
      multiply(rows, wide, items, {p + item, ld, 1}, rows_of(a.rows_padded + item * padded, padded), dh, wide, kAdd);
      multiply(items, dim, rows, {p + item, 1, ld}, rows_of(scaled, wide), ditems + item * dim, dim, kAdd);
    }
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < dim; ++c) a.dh[(row + i) * dim + c] += dh[i * wide + c] * factor[i];
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
