// Softmax cross-entropy over the whole catalogue: for each row the logits are h·item of every item.
//
//   s[v] = h·item[v],  lse = log sum_v exp(s[v]),  loss = lse - s[target]
//   ds[v] = w (exp(s[v] - lse) - [v = target]),  dh = sum_v ds[v] item[v],  ditem[v] = sum over rows of ds[v] h
//
// With A and T `beside`, exp(A) joins the sum of all items and exp(T) the target's part of it:
//
//   whole = log(exp(lse) + exp(A)),  whole_target = log(exp(s[target]) + exp(T)),  loss = whole - whole_target
//   ds[v] = w (exp(s[v] - whole) - [v = target] exp(s[v] - whole_target))
//
// What a row leaves out of its softmax has the score -inf.
//
// A row of weight 0 is left out, whatever it holds: not even a NaN in it reaches the gradients.
//
// The logits exist for one block of rows and one tile of items at a time, so `backward` computes them anew: four
// products in all. cross_entropy_pass.h keeps the probabilities of a block and needs three.
#pragma once
#include "cpu/softmax.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

// Scores of a row against items from `item` on become -inf where its softmax leaves them out.
static inline void leave_out_seen(const CrossEntropy& a, int64_t row, int64_t item, int64_t items, float* s) {
  if (a.seen == nullptr) return;
  for (int64_t event = a.begins[row]; event < a.ends[row]; ++event) {
    const int64_t v = a.seen[event] - item;
    if (v >= 0 && v < items && a.seen[event] != a.targets[row]) s[v] = -INFINITY;
  }
}

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
        leave_out_seen(a, row + i, item, items, si);
        const int64_t target = a.targets[row + i] - item;
        if (target >= 0 && target < items) a.loss[row + i] = -static_cast<double>(si[target]);
        for (int64_t v = items; v < width; ++v) si[v] = -INFINITY;
        state[row - row_begin + i].take(si, items);
      }
    }
  }
  for (int64_t i = row_begin; i < row_end; ++i) {
    double target = -a.loss[i];
    a.lse[i] = state[i - row_begin].lse();
    if (a.beside != nullptr) {
      a.lse[i] = a.beside->whole[i] = log_of_both(a.lse[i], a.beside->all[i]);
      target = a.beside->whole_target[i] = log_of_both(target, a.beside->target[i]);
    }
    a.loss[i] = a.lse[i] - target;
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
        leave_out_seen(a, row + i, item, items, si);
        const int64_t target = a.targets[row + i] - item;
        const bool here = target >= 0 && target < items;
        const double logit = here ? static_cast<double>(si[target]) : 0.0;
        probabilities(si, a.lse[row + i], items, si);
        if (here) si[target] -= a.beside ? static_cast<float>(exp(logit - a.beside->whole_target[row + i])) : 1.0f;
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

}  // namespace REGARD_ISA_ID
}  // namespace regard
