// The k best items of one query, and the scores of a list of items.
//
// Order: higher score first, then lower item. Items are met in rising order, so an equal score never replaces.
#pragma once
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

namespace {
struct Best {  // a binary heap in the row's output, the worst kept item on top
  int32_t* items;
  float* scores;
  int64_t n, k;

  // No branch: which of two is worse is up to chance.
  static bool worse(float score, int32_t item, float than, int32_t than_item) {
    return (score < than) | ((score == than) & (item > than_item));
  }
  void put(int64_t at, int32_t item, float score) { items[at] = item, scores[at] = score; }
  void sink(int64_t i, int64_t end, int32_t item, float score) {  // from the gap i to its place
    for (int64_t child = 2 * i + 1; child < end; i = child, child = 2 * i + 1) {
      if (child + 1 < end) child += worse(scores[child + 1], items[child + 1], scores[child], items[child]);
      if (!worse(scores[child], items[child], score, item)) break;
      put(i, items[child], scores[child]);
    }
    put(i, item, score);
  }
  float least() const { return n < k ? -INFINITY : scores[0]; }
  void push(int32_t item, float score) {
    if (n < k) {
      int64_t i = n++;
      for (int64_t up = (i - 1) / 2; i > 0 && worse(score, item, scores[up], items[up]); i = up, up = (i - 1) / 2)
        put(i, items[up], scores[up]);
      put(i, item, score);
    } else if (score > scores[0]) {
      sink(0, n, item, score);
    }
  }
  void finish() {  // best first; -1 and -inf where fewer than k were found
    for (int64_t end = n - 1; end > 0; --end) {
      const int32_t item = items[end];
      const float score = scores[end];
      put(end, items[0], scores[0]);
      sink(0, end, item, score);
    }
    for (; n < k; ++n) items[n] = -1, scores[n] = -INFINITY;
  }
};
}  // namespace

// How many of a sorted list are below an item.
static inline int64_t below(const int32_t* sorted, int64_t n, int64_t item) {
  int64_t low = 0;
  for (int64_t high = n; low < high;) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < item)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static inline bool contains(const int32_t* sorted, int64_t n, int32_t item) {
  const int64_t at = below(sorted, n, item);
  return at < n && sorted[at] == item;
}

// Scores of one query against a list of items, 16 at a time.
static inline void score_list(const float* h, const float* items, int64_t dim, const int32_t* list, int64_t n,
                              float* rows, float* panel, float* out) {
  for (int64_t r = 0; r < n; ++r)
    memcpy(rows + r * dim, items + list[r] * dim, static_cast<size_t>(dim) * sizeof(float));
  pack_panels(rows, dim, n, dim, panel);
  multiply(1, PANEL, dim, {h, dim, 1}, panels_of(panel, dim), out, PANEL, kFresh);
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
