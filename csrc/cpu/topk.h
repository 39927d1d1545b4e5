// The k best items of each query, and the number of items above a target: the catalogue streams past a block of
// queries.
//
// A NaN score is never chosen and never counted; a target with a NaN score has all items above it.
#pragma once
#include "cpu/best.h"
#include "cpu/softmax.h"

namespace regard {
namespace REGARD_ISA_ID {

static void topk(const TopK& a, int64_t row_begin, int64_t row_end, float* scratch) {
  float* panels = scratch;
  float* gathered = panels + kItemTile * a.dim;
  float* s = gathered + kItemTile * a.dim;
  Best best[kRowBlock];
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row);
    for (int64_t i = 0; i < rows; ++i)
      best[i] = {a.out_items + (row + i) * a.k, a.out_scores + (row + i) * a.k, 0, a.k};

    if (a.allow_at != nullptr) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t end = a.allow_at[row + i + 1], deny = a.deny_at ? a.deny_at[row + i] : 0;
        const int64_t denied = a.deny_at ? a.deny_at[row + i + 1] - deny : 0;
        for (int64_t at = a.allow_at[row + i]; at < end; at += PANEL) {
          const int64_t n = at_most(PANEL, end - at);
          score_list(a.h + (row + i) * a.dim, a.items, a.dim, a.allow + at, n, gathered, panels, s);
          for (int64_t r = 0; r < n; ++r) {
            const int32_t item = a.allow[at + r];
            if (at + r > a.allow_at[row + i] && item == a.allow[at + r - 1]) continue;  // named twice
            if (s[r] > -INFINITY && s[r] >= best[i].least() && !contains(a.deny + deny, denied, item))
              best[i].push(item, s[r]);
          }
        }
        best[i].finish();
      }
      continue;
    }

    for (int64_t item = 0; item < a.n_items; item += kItemTile) {
      const int64_t items = at_most(kItemTile, a.n_items - item), width = round_up(items, VW);
      pack_panels(a.items + item * a.dim, a.dim, items, a.dim, panels);
      multiply(rows, width, a.dim, {a.h + row * a.dim, a.dim, 1}, panels_of(panels, a.dim), s, kItemTile, kFresh);
      for (int64_t i = 0; i < rows; ++i) {
        const float* si = s + i * kItemTile;
        const int64_t deny = a.deny_at ? a.deny_at[row + i] : 0, denied = a.deny_at ? a.deny_at[row + i + 1] - deny : 0;
        for (int64_t v = 0; v < items; v += VW) {
          const vi above = load(si + v) > splat(best[i].least());
          int32_t any = 0;
          for (int64_t lane = 0; lane < VW; ++lane) any |= above[lane];
          if (any == 0) continue;
          const int64_t end = at_most(VW, items - v);
          for (int64_t lane = 0; lane < end; ++lane) {
            const int32_t id = static_cast<int32_t>(item + v + lane);
            if (si[v + lane] > best[i].least() && !contains(a.deny + deny, denied, id)) best[i].push(id, si[v + lane]);
          }
        }
      }
    }
    for (int64_t i = 0; i < rows; ++i) best[i].finish();
  }
}

static inline float with_gain(float score, float gain) {
  return static_cast<float>(log_of_both(static_cast<double>(score), static_cast<double>(gain)));
}

static void rank_counts(const RankCounts& a, int64_t row_begin, int64_t row_end, float* scratch) {
  float* panels = scratch;
  float* gathered = panels + kItemTile * a.dim;
  float* s = gathered + kItemTile * a.dim;
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row);
    for (int64_t t = a.targets_at[row]; t < a.targets_at[row + rows]; ++t) a.above[t] = a.equal[t] = 0;
    for (int64_t item = 0; item < a.n_items; item += kItemTile) {
      const int64_t items = at_most(kItemTile, a.n_items - item), width = round_up(items, VW);
      pack_panels(a.items + item * a.dim, a.dim, items, a.dim, panels);
      multiply(rows, width, a.dim, {a.h + row * a.dim, a.dim, 1}, panels_of(panels, a.dim), s, kItemTile, kFresh);
      for (int64_t i = 0; i < rows; ++i) {
        float* si = s + i * kItemTile;
        for (int64_t v = items; v < width; ++v) si[v] = NAN;
        if (a.deny_at)
          for (int64_t x = a.deny_at[row + i]; x < a.deny_at[row + i + 1]; ++x) {
            const int64_t at = a.deny[x] - item;
            if (at >= 0 && at < items) si[at] = NAN;
          }
        const int64_t more = a.gains_at ? a.gains_at[row + i] : 0;
        const int64_t gain = a.gains_at ? a.gains_at[row + i + 1] - more : 0;
        for (int64_t x = more; x < more + gain; ++x) {
          const int64_t at = a.gaining[x] - item;
          if (at >= 0 && at < items) si[at] = with_gain(si[at], a.gains[x]);
        }
        for (int64_t t = a.targets_at[row + i]; t < a.targets_at[row + i + 1]; ++t) {
          float own[PANEL];  // the target's own score: the same chain of operations, so the same bits
          score_list(a.h + (row + i) * a.dim, a.items, a.dim, a.targets + t, 1, gathered, gathered + a.dim, own);
          for (int64_t x = more; x < more + gain; ++x)
            if (a.gaining[x] == a.targets[t]) own[0] = with_gain(own[0], a.gains[x]);
          const vf score = splat(own[0]);
          vi above = splat(int32_t{0}), equal = splat(int32_t{0});
          for (int64_t v = 0; v < width; v += VW) {
            const vf x = load(si + v);
            above -= x > score;
            equal -= x == score;
          }
          for (int64_t lane = 0; lane < VW; ++lane) a.above[t] += above[lane], a.equal[t] += equal[lane];
          if (own[0] != own[0]) a.above[t] = a.n_items;  // a NaN target ranks last
          const int64_t at = a.targets[t] - item;
          if (at >= 0 && at < items && si[at] == own[0]) --a.equal[t];
        }
      }
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
