// The k best items of each query, found on 8-bit copies of the vectors and proved on the vectors themselves.
//
// With e = scale * x + de as in quantized.h, and a query q = unit * y + dq likewise, Cauchy and Schwarz give
//   e·q = scale * unit * (x·y) + q·de + dq·(scale * x) <= scale * unit * (x·y) + |q| |de| + |dq| |scale * x|,
// so an item whose right side does not exceed the k-th best score so far cannot be among the k best. Every other one
// is a candidate and is scored from its float32 vector, by the operations of `score_list`: the answer is that of
// `topk`, bit for bit, whatever the rounding to 8 bits lost.
#pragma once
#include "cpu/best.h"
#include "cpu/quantized.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace regard {
namespace REGARD_ISA_ID {

// Four products of a byte of x and a byte of y, added to an int32: how many steps it takes, what of four bytes of x a
// step reads, and the step. No sum here saturates.
#if defined(__AVX512VNNI__)
constexpr int64_t STEPS = 1;
static inline vi step_of(vi x, int64_t) { return x; }
static inline vi dot(vi sum, vi x, int32_t y) {
  return reinterpret_cast<vi>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(x),
                                                  reinterpret_cast<__m512i>(splat(y))));
}
#elif defined(__SSE2__)
constexpr int64_t STEPS = 2;  // even bytes, odd bytes
typedef uint16_t vu16 __attribute__((vector_size(4 * REGARD_VW)));
static inline vi step_of(vi x, int64_t step) {
  return step == 0 ? x & splat(int32_t{0x00ff00ff}) : reinterpret_cast<vi>(reinterpret_cast<vu16>(x) >> 8);
}
static inline vi dot(vi sum, vi x, int32_t y) {
#if REGARD_VW == 16
  return sum +
         reinterpret_cast<vi>(_mm512_madd_epi16(reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(splat(y))));
#elif REGARD_VW == 8
  return sum +
         reinterpret_cast<vi>(_mm256_madd_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(splat(y))));
#else
  return sum + reinterpret_cast<vi>(_mm_madd_epi16(reinterpret_cast<__m128i>(x), reinterpret_cast<__m128i>(splat(y))));
#endif
}
#else
constexpr int64_t STEPS = 4;
static inline vi step_of(vi x, int64_t step) { return (x >> static_cast<int32_t>(8 * step)) & splat(int32_t{255}); }
static inline vi dot(vi sum, vi x, int32_t y) { return sum + x * splat(y); }
#endif

// One bit per lane: set where x is negative.
static inline uint32_t negative(vi x) {
#if REGARD_VW == 16
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(x));
#elif REGARD_VW == 8
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(x)));
#else
  uint32_t bits = 0;
  for (int64_t lane = 0; lane < VW; ++lane) bits |= static_cast<uint32_t>(x[lane] < 0) << lane;
  return bits;
#endif
}
constexpr uint32_t kAllNegative = (uint32_t{1} << VW) - 1;

// A tile of sums: queries, and vectors of items per query.
constexpr int64_t QR = VW == 16 ? 12 : VW == 8 ? 4 : 2;
static constexpr int64_t tile_vectors(int64_t queries) {
  return queries == 1 ? 8 : queries <= (VW == 16 ? 3 : 2) ? 4 : 2;
}
constexpr int64_t kPanelVectors = PANEL / VW;

namespace {
// One query on its way through the items. Everything is in units: the bound of a panel is by_error * |de| + by_norm *
// |scale * x|, and an item is no candidate if x·y <= (least - bound) / scale.
struct Search {
  const float* h;
  Best best;
  const int32_t* deny;
  int64_t denied;
  float unit, by_error, by_norm, slack;  // slack: of products that underflow
  float least;                           // no more than the k-th best score
  int32_t offset;                        // 128 * sum of y, for items are stored as x + 128
  int64_t n;                             // candidates waiting to be scored
  int32_t waiting[9 * PANEL];            // up to a panel, and one tile more
};
}  // namespace

// y to words[group][step][QR].
static inline void prepare(Search& s, int64_t dim, int32_t* words) {
  const double norm = length(s.h, dim);
  const float most = largest(s.h, dim);
  const bool zero = norm == 0.0, usable = norm <= kLargest && static_cast<double>(most) >= kSmallest;
  s.unit = usable ? most / 127.0f : 1.0f;
  double sum = 0.0, left = 0.0;
  int32_t total = 0;
  for (int64_t k = 0; k < round_up(dim, 4); k += kQuantizedSlice) {
    int8_t y[kQuantizedSlice] = {0};
    const int64_t width = at_most(kQuantizedSlice, dim - k);
    if (usable) quantize(s.h + k, width, s.unit, y, &sum, &left);
    for (int64_t j = 0; j < round_up(width, 4); j += 4, words += STEPS * QR) {
      uint32_t word[STEPS] = {0};
      for (int64_t b = 0; b < 4; ++b) {
        constexpr int64_t kBits = 8 * STEPS;
        const uint32_t mask = STEPS == 4 ? ~uint32_t{0} : (uint32_t{1} << (kBits % 32)) - 1;
        word[b % STEPS] |= (static_cast<uint32_t>(static_cast<int32_t>(y[j + b])) & mask) << (b / STEPS * kBits);
        total += y[j + b];
      }
      for (int64_t step = 0; step < STEPS; ++step) words[step * QR] = static_cast<int32_t>(word[step]);
    }
  }
  // Rounding of the float32 score and of all that follows here: at most (dim + 16) * 2^-23 of |q| |e|. A product that
  // underflows is lost whole.
  const double rounding = static_cast<double>(dim + 16) * 0x1p-22, unit = static_cast<double>(s.unit);
  s.by_error = usable || zero ? static_cast<float>(norm * (1 + rounding) / unit) : NAN;
  s.by_norm = static_cast<float>((sqrt(left) * (1 + rounding) + norm * rounding) / unit);
  s.slack = zero ? 0.0f : static_cast<float>(static_cast<double>(dim + 16) * 0x1p-125 * (1 + 1 / unit));
  s.offset = 128 * total;
  s.least = -INFINITY;
  s.n = 0;
}

static inline vf bounds(const Search& s, const float* inverse) {
  return load(inverse + kQuantizedPanels) * splat(s.by_error) + load(inverse + 2 * kQuantizedPanels) * splat(s.by_norm);
}

// Where the sums of the items of VW panels begin, so that a candidate's ends at 0 or above.
static inline vi starts(const Search& s, const float* inverse) {
  const vf limit = splat(0x1p30f);
  vf t = (splat(s.least) - bounds(s, inverse)) * load(inverse);
  t = t >= -limit ? (t > limit ? limit : t) : -limit;  // NaN: everything is a candidate
  vi whole = __builtin_convertvector(t, vi);
  whole += __builtin_convertvector(whole, vf) > t;  // towards zero, then down
  return splat(-1 - s.offset) - whole;
}

struct Sums {  // [queries][vectors of items]
  int32_t sum[QR * 8 * VW];
  uint32_t negative[QR * 8];  // bits of lanes
};

// Sums of R queries over vectors of items, begun at start[query][panel]. If all are negative they are not written,
// unless `every` is set, and the result is false.
typedef bool (*QuantizedTile)(int64_t groups, const int32_t* y, const uint8_t* x, int64_t panel, const int32_t* start,
                              bool every, Sums& out);

template <int64_t R>
static bool quantized_tile(int64_t groups, const int32_t* y, const uint8_t* x, int64_t panel, const int32_t* start,
                           bool every, Sums& out) {
  constexpr int64_t N = tile_vectors(R);
  vi sum[R][N];
  const uint8_t* at[N];
#pragma GCC unroll 8
  for (int64_t v = 0; v < N; ++v) at[v] = x + v / kPanelVectors * panel + v % kPanelVectors * 4 * VW;
#pragma GCC unroll 16
  for (int64_t i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int64_t v = 0; v < N; ++v) sum[i][v] = splat(start[i * kQuantizedPanels + v / kPanelVectors]);
  if constexpr (R == 1) {  // in the order of memory, which runs out before the arithmetic does
#pragma GCC unroll 8
    for (int64_t v = 0; v < N; ++v) {
      constexpr int64_t kParts = 4;
      vi part[kParts] = {sum[0][v]};
      int64_t g = 0;
      const auto add = [&](int64_t u) {
#pragma GCC unroll 4
        for (int64_t step = 0; step < STEPS; ++step)
          part[u] = dot(part[u], step_of(*reinterpret_cast<const vi_unaligned*>(at[v] + (g + u) * 4 * PANEL), step),
                        y[((g + u) * STEPS + step) * QR]);
      };
      for (; g + kParts <= groups; g += kParts)
#pragma GCC unroll 4
        for (int64_t u = 0; u < kParts; ++u) add(u);
      for (; g < groups; ++g) add(0);
      sum[0][v] = (part[0] + part[1]) + (part[2] + part[3]);
    }
  } else {
    for (int64_t g = 0; g < groups; ++g)
#pragma GCC unroll 4
      for (int64_t step = 0; step < STEPS; ++step, y += QR) {
        vi right[N];
#pragma GCC unroll 8
        for (int64_t v = 0; v < N; ++v) {
          const uint8_t* from = at[v] + g * 4 * PANEL;
          right[v] = step_of(*reinterpret_cast<const vi_unaligned*>(from), step);
          if (step == 0 && v % kPanelVectors == 0) __builtin_prefetch(from + kQuantizedPanels * panel);
        }
#pragma GCC unroll 16
        for (int64_t i = 0; i < R; ++i)
#pragma GCC unroll 8
          for (int64_t v = 0; v < N; ++v) sum[i][v] = dot(sum[i][v], right[v], y[i]);
      }
  }
  vi all = sum[0][0];
#pragma GCC unroll 16
  for (int64_t i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int64_t v = 0; v < N; ++v) all &= sum[i][v];
  if (!every && negative(all) == kAllNegative) return false;
#pragma GCC unroll 16
  for (int64_t i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int64_t v = 0; v < N; ++v) {
      *reinterpret_cast<vi_unaligned*>(out.sum + (i * N + v) * VW) = sum[i][v];
      out.negative[i * N + v] = negative(sum[i][v]);
    }
  return true;
}

static inline QuantizedTile tile_for(int64_t queries) {
#define REGARD_TILE(R) \
  case R:              \
    return quantized_tile<(R <= QR ? R : QR)>;
  switch (queries) {
    REGARD_UP_TO_12(REGARD_TILE)
    default:
      return quantized_tile<QR>;
  }
#undef REGARD_TILE
}

static inline void raise(Search& s, float least) {
  least = least - fabsf(least) * 0x1p-20f - s.slack;
  if (least > s.least) s.least = least;
}

// A number that at least k of the 256 reach, and hardly more.
static inline float reached(const float* x, int64_t k) {
  vf high = load(x), low = high;
  for (int64_t i = VW; i < kQuantizedItems; i += VW) high = vmax(high, load(x + i)), low = -vmax(-low, -load(x + i));
  float most = max_lanes(high), least = -max_lanes(-low);
  for (int64_t round = 0; round < 10; ++round) {
    const float middle = least + (most - least) * 0.5f;
    vi count = splat(int32_t{0});
    for (int64_t i = 0; i < kQuantizedItems; i += VW) count -= load(x + i) >= splat(middle);
    int64_t n = 0;
    for (int64_t lane = 0; lane < VW; ++lane) n += count[lane];
    (n >= k ? least : most) = middle;
  }
  return least;
}

// A first look at some blocks: of the items in one place of their blocks, the largest lower bound of a score. These
// are scores of different items, so what k of the 256 places reach, k items reach. A denied item may be among them:
// with d of them in these blocks, what k + d places reach.
static void look_ahead(const TopK& a, int64_t blocks, Search* searches, int64_t queries, const int32_t* y,
                       float* floors) {
  const int64_t vectors = tile_vectors(queries), panel = quantized_panel(a.dim);
  const QuantizedTile tile = tile_for(queries);
  Sums sums;
  int32_t start[QR * kQuantizedPanels];
  float scale[kQuantizedPanels], bound[QR * kQuantizedPanels];
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t p = 0; p < kQuantizedPanels; ++p) start[i * kQuantizedPanels + p] = -searches[i].offset;
  for (int64_t i = 0; i < queries * kQuantizedItems; ++i) floors[i] = -INFINITY;
  for (int64_t block = 0; block < blocks; ++block) {
    const float* header = quantized_header(a.quantized, a.dim, block);
    for (int64_t p = 0; p < kQuantizedPanels; p += VW) {
      store(scale + p, splat(1.0f) / load(header + p));
      for (int64_t i = 0; i < queries; ++i) store(bound + i * kQuantizedPanels + p, bounds(searches[i], header + p));
    }
    for (int64_t p = 0; p < kQuantizedPanels; p += vectors / kPanelVectors) {
      tile(round_up(a.dim, 4) / 4, y, quantized_panels(header) + p * panel, panel, start, true, sums);
      for (int64_t i = 0; i < queries; ++i)
        for (int64_t v = 0; v < vectors; ++v) {
          const int64_t at = p + v / kPanelVectors;
          float* floor = floors + i * kQuantizedItems + p * PANEL + v * VW;
          const vi sum = *reinterpret_cast<const vi_unaligned*>(sums.sum + (i * vectors + v) * VW);
          const vf low = __builtin_convertvector(sum, vf) * splat(scale[at]) - splat(bound[i * kQuantizedPanels + at]);
          store(floor, low > load(floor) ? low : load(floor));
        }
    }
  }
  for (int64_t i = 0; i < queries; ++i) {
    Search& s = searches[i];
    const int64_t k = a.k + below(s.deny, s.denied, blocks * kQuantizedItems);
    if (k <= kQuantizedItems && s.slack > 0.0f) raise(s, reached(floors + i * kQuantizedItems, k));
  }
}

// Scores what waits.
static __attribute__((noinline)) void settle(Search& s, const TopK& a, float* gathered, float* panels) {
  float score[PANEL];
  for (int64_t at = 0; at < s.n; at += PANEL) {
    const int64_t n = at_most(PANEL, s.n - at);
    score_list(s.h, a.items, a.dim, s.waiting + at, n, gathered, panels, score);
    for (int64_t r = 0; r < n; ++r)
      if (score[r] > s.best.least() && !contains(s.deny, s.denied, s.waiting[at + r]))
        s.best.push(s.waiting[at + r], score[r]);
  }
  s.n = 0;
  raise(s, s.best.least() / s.unit);
}

static void look_at(const TopK& a, int64_t block, Search* searches, int64_t queries, const int32_t* y, float* scratch) {
  const int64_t vectors = tile_vectors(queries), panel = quantized_panel(a.dim);
  const QuantizedTile tile = tile_for(queries);
  const float* header = quantized_header(a.quantized, a.dim, block);
  Sums sums;
  int32_t start[QR * kQuantizedPanels];
  const auto begin = [&](int64_t i) {
    for (int64_t p = 0; p < kQuantizedPanels; p += VW)
      *reinterpret_cast<vi_unaligned*>(start + i * kQuantizedPanels + p) = starts(searches[i], header + p);
  };
  for (int64_t i = 0; i < queries; ++i) begin(i);
  const int64_t panels = at_most(kQuantizedPanels, (a.n_items + PANEL - 1) / PANEL - block * kQuantizedPanels);
  for (int64_t p = 0; p < panels; p += vectors / kPanelVectors) {
    const uint8_t* x = quantized_panels(header) + p * panel;
    if (!tile(round_up(a.dim, 4) / 4, y, x, panel, start + p, false, sums)) continue;
    for (int64_t i = 0; i < queries; ++i) {
      Search& s = searches[i];
      for (int64_t v = 0; v < vectors; ++v)
        for (uint32_t bits = ~sums.negative[i * vectors + v] & kAllNegative; bits != 0; bits &= bits - 1) {
          const int64_t item = block * kQuantizedItems + p * PANEL + v * VW + __builtin_ctz(bits);
          if (item >= a.n_items) break;
          s.waiting[s.n++] = static_cast<int32_t>(item);
          for (int64_t k = 0; k < a.dim; k += 16) __builtin_prefetch(a.items + item * a.dim + k);
        }
      if (s.n < PANEL) continue;
      settle(s, a, scratch, scratch + PANEL * a.dim);
      begin(i);
    }
  }
}

static void topk_quantized(const TopK& a, int64_t row_begin, int64_t row_end, float* scratch) {
  const int64_t words = round_up(a.dim, 4) / 4 * STEPS * QR;
  const int64_t blocks = (a.n_items + kQuantizedItems - 1) / kQuantizedItems;
  const int64_t ahead = at_most(a.n_items / kQuantizedItems, 1 + a.k / 2);  // measured: where both passes cost the same
  Search searches[kRowBlock];
  float *floors = scratch, *gathered = scratch;
  int32_t* y = reinterpret_cast<int32_t*>(scratch + at_least(2 * PANEL * round_up(a.dim, PANEL), QR * kQuantizedItems));
  for (int64_t row = row_begin; row < row_end; row += kRowBlock) {
    const int64_t rows = at_most(kRowBlock, row_end - row), tiles = (rows + QR - 1) / QR;
    const int64_t size = (rows + tiles - 1) / tiles;  // queries in a tile
    for (int64_t i = 0; i < rows; ++i) {
      Search& s = searches[i];
      const int64_t deny = a.deny_at ? a.deny_at[row + i] : 0;
      s.h = a.h + (row + i) * a.dim;
      s.best = {a.out_items + (row + i) * a.k, a.out_scores + (row + i) * a.k, 0, a.k};
      s.deny = a.deny + deny, s.denied = a.deny_at ? a.deny_at[row + i + 1] - deny : 0;
      prepare(s, a.dim, y + i / size * words + i % size);
    }
    for (int64_t i = 0; i < rows && ahead > 0; i += size)
      look_ahead(a, ahead, searches + i, at_most(size, rows - i), y + i / size * words, floors);
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t i = 0; i < rows; i += size)
        look_at(a, block, searches + i, at_most(size, rows - i), y + i / size * words, gathered);
    for (int64_t i = 0; i < rows; ++i) {
      settle(searches[i], a, gathered, gathered + PANEL * a.dim);
      searches[i].best.finish();
    }
  }
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
