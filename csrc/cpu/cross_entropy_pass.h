// Value and gradients of the cross-entropy over the whole catalogue, with every score computed once.
//
// A block of rows goes through two phases. First each piece of kPieceRows rows meets the whole catalogue, a tile of
// items at a time: scores, p = exp(score - top), dh += p item. Then the items are shared out: ditem += p h.
//
// Scores lie by item, [item][row]: one vector holds the same item for several rows, so that the softmax of a row needs
// no sum across a register, the catalogue is read as it is, and h is what gets packed. `top` is the greatest score of
// the first tile and rises only when a later score exceeds it by kHeadroom: exp has room for that, and what is smaller
// than top by 87 vanishes beside it. The target's place is left out of p and comes back with its exact gradient
// -w (1 - p[target]), in which nothing cancels. What is `beside` joins the sums at the end; see cross_entropy.h.
#pragma once
#include "cpu/bf16.h"
#include "cpu/softmax.h"
#include "cpu/tile.h"

namespace regard {
namespace REGARD_ISA_ID {

constexpr float kHeadroom = 40.0f;
constexpr int64_t kSumItems = 64;            // whose exp are added up in float32; their sums in float64
constexpr int64_t kLanes = kPieceRows / VW;  // vectors that hold one item's scores

static inline int64_t padded_items(int64_t n_items) { return round_up(n_items, kProductStep); }

// ---- how products are formed -------------------------------------------------------------------------------------
//
// A form keeps what it needs of one piece in scratch memory, and offers
//   scores(item, items)       scores of a tile, [items][kPieceRows]
//   keep(item, j, e)          takes exp of items j and j + 1 of the tile
//   add_dh(item, items)       dh += p item for the tile
//   shrink(row, factor)       of dh so far
//   gradient(row, c)
// and for the second phase scale(...) and add_ditems(...).

namespace {  // else the members of a struct are visible to the linker
struct Float32Form {
  typedef float Element;
  static vf exp_of(vf x) { return vexp_falling(x); }
  static int64_t prepared_bytes(int64_t n_items, int64_t dim) {
    return dim % VW == 0 ? 0 : n_items * round_up(dim, VW) * 4;
  }
  static void prepare(const float* items, int64_t, int64_t dim, int64_t item_begin, int64_t item_end, void* out) {
    padded_rows(items + item_begin * dim, dim, item_end - item_begin, dim,
                static_cast<float*>(out) + item_begin * round_up(dim, VW));
  }
  static void scale(const float* h, int64_t dim, const float* factors, void* out) {
    const int64_t wide = round_up(dim, VW);
    for (int64_t i = 0; i < kPieceRows; ++i)
      for (int64_t c = 0; c < wide; ++c)
        static_cast<float*>(out)[i * wide + c] = c < dim ? h[i * dim + c] * factors[i] : 0.0f;
  }
  static void add_ditems(const CrossEntropyBlock& a, int64_t item, int64_t items, const void* const* scaled,
                         float* ditems) {
    for (int64_t piece = 0; piece < a.pieces; ++piece) {
      const float* p = static_cast<const float*>(a.p) + (piece * padded_items(a.n_items) + item) * kPieceRows;
      multiply(items, a.dim, kPieceRows, {p, kPieceRows, 1},
               rows_of(static_cast<const float*>(scaled[piece]), round_up(a.dim, VW)), ditems + item * a.dim, a.dim,
               kAdd);
    }
  }

  const CrossEntropyBlock& a;
  float *panels, *dh, *p;

  Float32Form(const CrossEntropyBlock& block, int64_t piece, const float* h, float* scratch)
      : a(block),
        panels(scratch),
        dh(panels + kPieceRows * round_up(a.dim, VW)),
        p(static_cast<float*>(a.p) + piece * padded_items(a.n_items) * kPieceRows) {
    pack_panels(h, a.dim, kPieceRows, a.dim, panels);
    memset(dh, 0, static_cast<size_t>(kPieceRows * round_up(a.dim, VW)) * sizeof(float));
  }
  float* scores(int64_t item, int64_t items) {
    float* s = p + item * kPieceRows;
    multiply(items, kPieceRows, a.dim, {a.items + item * a.dim, a.dim, 1}, panels_of(panels, a.dim), s, kPieceRows,
             kFresh);
    return s;
  }
  void keep(int64_t, int64_t, const float*) {}  // they are in their place
  void add_dh(int64_t item, int64_t items) {
    const int64_t wide = round_up(a.dim, VW);
    const float* rows = a.prepared ? static_cast<const float*>(a.prepared) : a.items;
    multiply(kPieceRows, wide, items, {p + item * kPieceRows, 1, kPieceRows}, rows_of(rows + item * wide, wide), dh,
             wide, kAdd);
  }
  void shrink(int64_t row, float factor) {
    for (int64_t c = 0; c < a.dim; ++c) dh[row * round_up(a.dim, VW) + c] *= factor;
  }
  float gradient(int64_t row, int64_t c) const { return dh[row * round_up(a.dim, VW) + c]; }
};
}  // namespace

#if defined(__AVX512BF16__) || defined(REGARD_TILES_BY_HAND)

// Probabilities and what they are multiplied with in bfloat16. Scores in float32, in bfloat16 split into two parts
// (x = high + low: three products, the low parts' own is left out), or in plain bfloat16.
enum Scores { kFloat32Scores, kSplitScores, kPlainScores };

namespace {
template <Scores SCORES>
struct Bf16Form {
  typedef bf16 Element;
  static vf exp_of(vf x) { return vexp_short(x); }

  // The catalogue, tile by tile: transposed [dim][kPieceItems], then row by row the high parts, then the low parts.
  static constexpr int64_t kCopies = SCORES == kSplitScores ? 3 : SCORES == kPlainScores ? 2 : 1;
  static int64_t tile_size(int64_t dim) { return kCopies * kPieceItems * round_up(dim, kProductStep); }
  static int64_t prepared_bytes(int64_t n_items, int64_t dim) {
    return round_up(n_items, kPieceItems) / kPieceItems * tile_size(dim) * static_cast<int64_t>(sizeof(bf16));
  }
  static void prepare(const float* items, int64_t n_items, int64_t dim, int64_t item_begin, int64_t item_end,
                      void* out) {
    const int64_t wide = round_up(dim, kProductStep);
    alignas(64) float panels[kPanel * kPieceItems];
    for (int64_t item = item_begin; item < item_end; item += kPieceItems) {
      bf16* transposed = static_cast<bf16*>(out) + item / kPieceItems * tile_size(dim);
      bf16* high = transposed + kPieceItems * wide;
      bf16* low = high + kPieceItems * wide;
      memset(transposed, 0, static_cast<size_t>(tile_size(dim)) * sizeof(bf16));
      const int64_t n = at_most(kPieceItems, n_items - item);
      for (int64_t c = 0; c < dim; c += kPanel) {  // kPanel columns of all items of the tile
        const int64_t columns = at_most(kPanel, dim - c);
        memset(panels, 0, sizeof panels);
        pack_panels(items + item * dim + c, dim, n, columns, panels);
        for (int64_t v = 0; v < kPieceItems; v += 2 * kPanel)
          for (int64_t x = 0; x < columns; ++x) {
            alignas(64) float both[2 * kPanel];
            memcpy(both, panels + (v * columns + x * kPanel), kPanel * sizeof(float));
            memcpy(both + kPanel, panels + ((v + kPanel) * columns + x * kPanel), kPanel * sizeof(float));
            round_to_bf16(both, transposed + (c + x) * kPieceItems + v);
          }
      }
      if (SCORES == kFloat32Scores) continue;
      for (int64_t v = 0; v < n; ++v) split(items + (item + v) * dim, dim, high + v * wide, low + v * wide);
    }
  }
  // x = high + low, zeros after the last; low only where it is wanted
  static void split(const float* x, int64_t dim, bf16* high, bf16* low) {
    alignas(64) float part[32];
    for (int64_t c = 0; c < round_up(dim, kProductStep); c += 32) {
      for (int64_t i = 0; i < 32; ++i) part[i] = c + i < dim ? x[c + i] : 0.0f;
      round_to_bf16(part, high + c);
      if (SCORES != kSplitScores) continue;
      for (int64_t i = 0; i < 32; ++i) part[i] -= float_of(high[c + i]);
      round_to_bf16(part, low + c);
    }
  }
  // h times factors as the B of a product: pairs of rows.
  static void scale(const float* h, int64_t dim, const float* factors, void* out) {
    const int64_t wide = round_up(dim, kProductStep);
    alignas(64) float rows[2][32];
    for (int64_t i = 0; i < kPieceRows; i += 2)
      for (int64_t c = 0; c < wide; c += 32) {
        for (int64_t r = 0; r < 2; ++r)
          for (int64_t x = 0; x < 32; ++x) rows[r][x] = c + x < dim ? h[(i + r) * dim + c + x] * factors[i + r] : 0.0f;
        store_row_pair(rows[0], rows[1], static_cast<bf16*>(out) + (i / 2 * wide + c) * 2);
      }
  }
  static void store_row_pair(const float* first, const float* second, bf16* out) {
    alignas(64) bf16 one[32], two[32];
    round_to_bf16(first, one);
    round_to_bf16(second, two);
    store_pairs(load_bf16(one), load_bf16(two), out);
  }
  static void add_ditems(const CrossEntropyBlock& a, int64_t item, int64_t items, const void* const* scaled,
                         float* ditems) {
    const Tiles tiles;
    const bf16 *p[kMaxPieces], *b[kMaxPieces];
    for (int64_t piece = 0; piece < a.pieces; ++piece) {
      p[piece] = static_cast<const bf16*>(a.p) + (piece * padded_items(a.n_items) + item) * kPieceRows;
      b[piece] = static_cast<const bf16*>(scaled[piece]);
    }
    product(items, a.dim, kPieceRows, {p, b, a.pieces, kPieceRows, round_up(a.dim, kProductStep)},
            ditems + item * a.dim, a.dim, kAdd);
  }

  const CrossEntropyBlock& a;
  const int64_t wide;
  float *s, *dh, *panels;
  bf16 *pairs, *h_high, *h_low;  // p of a tile, and the rows, as pairs
  bf16* p;
  Tiles tiles;

  Bf16Form(const CrossEntropyBlock& block, int64_t piece, const float* h, float* scratch)
      : a(block),
        wide(round_up(a.dim, kProductStep)),
        s(scratch),
        dh(s + kPieceItems * kPieceRows),
        panels(dh + kPieceRows * wide),
        pairs(reinterpret_cast<bf16*>(panels + kPieceRows * wide)),
        h_high(pairs + kPieceItems * kPieceRows),
        h_low(h_high + kPieceRows * wide),
        p(static_cast<bf16*>(a.p) + piece * padded_items(a.n_items) * kPieceRows),
        tiles() {
    memset(dh, 0, static_cast<size_t>(kPieceRows * wide) * sizeof(float));
    pack_panels(h, a.dim, kPieceRows, a.dim, panels);
    if (SCORES == kFloat32Scores) return;
    for (int64_t i = 0; i < kPieceRows; ++i) {  // neighbours in a row are a pair already: only pairs are transposed
      bf16* row[2] = {h_low + kPieceRows * wide, h_low + kPieceRows * wide + wide};
      split(h + i * a.dim, a.dim, row[0], row[1]);
      for (int64_t c = 0; c < wide; c += 2) {
        memcpy(h_high + (c / 2 * kPieceRows + i) * 2, row[0] + c, 2 * sizeof(bf16));
        if (SCORES == kSplitScores) memcpy(h_low + (c / 2 * kPieceRows + i) * 2, row[1] + c, 2 * sizeof(bf16));
      }
    }
  }
  const bf16* tile(int64_t item) const {
    return static_cast<const bf16*>(a.prepared) + item / kPieceItems * tile_size(a.dim);
  }
  float* scores(int64_t item, int64_t items) {
    if (SCORES == kFloat32Scores) {
      multiply(items, kPieceRows, a.dim, {a.items + item * a.dim, a.dim, 1}, panels_of(panels, a.dim), s, kPieceRows,
               kFresh);
    } else {
      const bf16 *high = tile(item) + kPieceItems * wide, *low = high + kPieceItems * wide;
      const bf16 *left[3] = {high, low, high}, *right[3] = {h_high, h_high, h_low};
      product(items, kPieceRows, wide, {left, right, SCORES == kSplitScores ? 3 : 1, wide, kPieceRows}, s, kPieceRows,
              kFresh);
    }
    return s;
  }
  // exp of items j and j + 1 of a tile
  void keep(int64_t item, int64_t j, const float* e) {
    bf16* row = p + (item + j) * kPieceRows;
    // A large catalogue's block does not stay in the cache: ask for the lines before they are written.
    for (int64_t i = 0; i < 2 * kPieceRows; i += 32) __builtin_prefetch(row + 32 * kPieceRows + i, 1);
    for (int64_t i = 0; i < 2 * kPieceRows; i += 32) round_to_bf16(e + i, row + i);
    for (int64_t i = 0; i < kPieceRows; i += 32)
      store_pairs(load_bf16(row + i), load_bf16(row + kPieceRows + i), pairs + j * kPieceRows + 2 * i);
  }
  void add_dh(int64_t item, int64_t items) {  // transposed: [dim][kPieceRows]
    const int64_t kept = round_up(items, 2) * kPieceRows, all = round_up(items, kProductStep) * kPieceRows;
    memset(pairs + kept, 0, static_cast<size_t>(all - kept) * sizeof(bf16));
    const bf16 *left[1] = {tile(item)}, *right[1] = {pairs};
    product(a.dim, kPieceRows, round_up(items, kProductStep), {left, right, 1, kPieceItems, kPieceRows}, dh, kPieceRows,
            kAdd);
  }
  void shrink(int64_t row, float factor) {
    for (int64_t c = 0; c < a.dim; ++c) dh[c * kPieceRows + row] *= factor;
  }
  float gradient(int64_t row, int64_t c) const { return dh[c * kPieceRows + row]; }
};
}  // namespace

#endif

// ---- the two phases -----------------------------------------------------------------------------------------------

static inline bool is_live(const CrossEntropyBlock& a, int64_t row) {
  return row < a.row_end && a.weights[row] != 0.0f;
}

// The rows of a piece; those of weight 0, and those after the last, are 0.
static inline void live_rows(const CrossEntropyBlock& a, int64_t piece, float* h) {
  for (int64_t i = 0; i < kPieceRows; ++i) {
    const int64_t row = a.row_begin + piece * kPieceRows + i;
    if (is_live(a, row))
      memcpy(h + i * a.dim, a.h + row * a.dim, static_cast<size_t>(a.dim) * sizeof(float));
    else
      memset(h + i * a.dim, 0, static_cast<size_t>(a.dim) * sizeof(float));
  }
}

// Scores of a tile become -inf where a row leaves them out: an event's, in its own row and those after it.
static inline void leave_out_seen(const CrossEntropyBlock& a, int64_t first, int64_t rows, int64_t item, int64_t items,
                                  float* s) {
  if (a.seen == nullptr) return;
  const int64_t last = first + rows;
  for (int64_t row = first, end; row < last; row = end) {  // the rows of one sequence
    for (end = row + 1; end < last && a.begins[end] == a.begins[row];) ++end;
    const int64_t own = a.ends[row] - 1;  // the first row's event
    for (int64_t event = a.begins[row]; event < a.ends[end - 1]; ++event) {
      const int64_t v = a.seen[event] - item;
      if (v < 0 || v >= items) continue;
      for (int64_t i = event > own ? row + event - own : row; i < end; ++i)
        if (a.targets[i] != a.seen[event]) s[v * kPieceRows + i - first] = -INFINITY;
    }
  }
}

template <class Form>
static void cross_entropy_rows(const CrossEntropyBlock& a, int64_t piece, float* scratch) {
  const int64_t dim = a.dim, first = a.row_begin + piece * kPieceRows, rows = at_most(kPieceRows, a.row_end - first);
  float* h = scratch;
  alignas(64) float top[kPieceRows], kept[kPieceRows];
  alignas(64) int32_t live[kPieceRows];
  double others[kPieceRows], logit[kPieceRows];
  live_rows(a, piece, h);
  for (int64_t i = 0; i < kPieceRows; ++i) {
    live[i] = is_live(a, first + i) ? -1 : 0;
    top[i] = -INFINITY;
    others[i] = 0.0, logit[i] = 0.0;
  }
  Form form(a, piece, h, h + kPieceRows * round_up(dim, kProductStep));

  for (int64_t item = 0; item < a.n_items; item += kPieceItems) {
    const int64_t items = at_most(kPieceItems, a.n_items - item);
    float* s = form.scores(item, items);
    leave_out_seen(a, first, rows, item, items, s);
    vf greatest[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) greatest[l] = splat(-INFINITY);
    for (int64_t j = 0; j < items; ++j)
      for (int64_t l = 0; l < kLanes; ++l) greatest[l] = vmax(load(s + j * kPieceRows + l * VW), greatest[l]);
    for (int64_t l = 0; l < kLanes; ++l) store(kept + l * VW, greatest[l]);
    for (int64_t i = 0; i < kPieceRows; ++i) {
      if (!(kept[i] > top[i] + kHeadroom)) continue;
      const float shrink = top[i] == -INFINITY ? 0.0f : expf(top[i] - kept[i]);
      others[i] *= static_cast<double>(shrink);
      form.shrink(i, shrink);
      top[i] = kept[i];
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t target = a.targets[first + i] - item;
      if (target < 0 || target >= items) continue;
      logit[i] = static_cast<double>(s[target * kPieceRows + i]);
      s[target * kPieceRows + i] = -INFINITY;
    }
    memcpy(a.top + (item / kPieceItems * a.pieces + piece) * kPieceRows, top, sizeof top);

    // All scores so far -inf: keep exp finite, every term is then exp(-inf) = 0, as it is for a row of weight 0.
    vf base[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
      const vf t = load(top + l * VW);
      const vi some = *reinterpret_cast<const vi_unaligned*>(live + l * VW);
      base[l] = some ? (t == splat(-INFINITY) ? splat(0.0f) : t) : splat(INFINITY);
    }
    if (items % 2 != 0)
      for (int64_t i = 0; i < kPieceRows; ++i) s[items * kPieceRows + i] = -INFINITY;
    for (int64_t begin = 0; begin < items; begin += kSumItems) {
      vf sum[kLanes];
      for (int64_t l = 0; l < kLanes; ++l) sum[l] = splat(0.0f);
      for (int64_t j = begin; j < at_most(items, begin + kSumItems); j += 2) {
        for (int64_t l = 0; l < 2 * kLanes; ++l) {
          const vf x = Form::exp_of(load(s + j * kPieceRows + l * VW) - base[l % kLanes]);
          store(s + j * kPieceRows + l * VW, x);
          sum[l % kLanes] += x;
        }
        form.keep(item, j, s + j * kPieceRows);
      }
      for (int64_t l = 0; l < kLanes; ++l) store(kept + l * VW, sum[l]);
#pragma omp simd
      for (int64_t i = 0; i < kPieceRows; ++i) others[i] += static_cast<double>(kept[i]);
    }
    form.add_dh(item, items);
  }

  float factors[kPieceRows] = {0};
  for (int64_t i = 0; i < rows; ++i) {
    const double base = top[i] == -INFINITY ? 0.0 : static_cast<double>(top[i]);
    const RowEnd end = row_end(a.beside, first + i, base, others[i], logit[i]);
    a.lse[first + i] = end.lse, a.loss[first + i] = end.loss;
    if (!live[i]) continue;
    const double w = static_cast<double>(a.weights[first + i]);
    factors[i] = static_cast<float>(w * end.factor);
    const float dtarget = static_cast<float>(-w * end.rest);
    a.dtarget[piece * kPieceRows + i] = dtarget;
    const float* target = a.items + a.targets[first + i] * dim;
    for (int64_t c = 0; c < dim; ++c)
      a.dh[(first + i) * dim + c] += form.gradient(i, c) * factors[i] + dtarget * target[c];
  }
  Form::scale(h, dim, factors, static_cast<char*>(a.scaled) + piece * a.scaled_bytes);
  memcpy(a.factors + piece * kPieceRows, factors, sizeof factors);
}

// Items [item_begin, item_end), the first of a tile; their rows of ditems belong to the caller.
template <class Form>
static void cross_entropy_items(const CrossEntropyBlock& a, int64_t item_begin, int64_t item_end, float* ditems,
                                float* scratch) {
  const int64_t dim = a.dim, last_tile = (a.n_items - 1) / kPieceItems;
  float* h = scratch;
  char* rescaled = reinterpret_cast<char*>(h + kPieceRows * dim);
  rescaled += (64 - reinterpret_cast<uintptr_t>(rescaled) % 64) % 64;
  const void* scaled[kMaxPieces];
  for (int64_t item = item_begin; item < item_end; item += kPieceItems) {
    for (int64_t piece = 0; piece < a.pieces; ++piece) {
      const float* final_top = a.top + (last_tile * a.pieces + piece) * kPieceRows;
      const float* top = a.top + (item / kPieceItems * a.pieces + piece) * kPieceRows;
      scaled[piece] = static_cast<char*>(a.scaled) + piece * a.scaled_bytes;
      if (memcmp(top, final_top, kPieceRows * sizeof(float)) == 0) continue;
      float factors[kPieceRows];
      for (int64_t i = 0; i < kPieceRows; ++i) {
        const float factor = a.factors[piece * kPieceRows + i];
        factors[i] = top[i] == final_top[i] ? factor : factor * expf(top[i] - final_top[i]);
      }
      live_rows(a, piece, h);
      Form::scale(h, dim, factors, rescaled + piece * a.scaled_bytes);
      scaled[piece] = rescaled + piece * a.scaled_bytes;
    }
    Form::add_ditems(a, item, at_most(kPieceItems, item_end - item), scaled, ditems);
  }
  for (int64_t row = a.row_begin; row < a.row_end; ++row) {
    const int64_t target = a.targets[row];
    if (target < item_begin || target >= item_end || !is_live(a, row)) continue;
    const float factor = a.dtarget[row - a.row_begin];
    for (int64_t c = 0; c < dim; ++c) ditems[target * dim + c] += factor * a.h[row * dim + c];
  }
}

template <class Form>
static constexpr CrossEntropyPass cross_entropy_pass() {
  return {sizeof(typename Form::Element), Form::prepared_bytes, Form::prepare, cross_entropy_rows<Form>,
          cross_entropy_items<Form>};
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
