// The one matrix product of the library: C[m][n] (+)= sum_k A[m][k] B[k][n], on register tiles.
//
// A is read one float at a time through two strides, so A and its transpose cost the same. B is read by whole vectors,
// either from rows (`rows_of`) or from packed panels (`panels_of`). A tile of MR rows and NV vectors of C stays in
// registers for a chain of multiply-adds in the order of k. Where chains end depends on k alone, so a value does not
// depend on the tile that it fell into.
#pragma once
#include "cpu/kernels.h"
#include "cpu/vec.h"

namespace regard {
namespace REGARD_ISA_ID {

// Registers: MR * NV accumulators, NV for B, one for A.
#if REGARD_VW == 16
constexpr int64_t MR = 12, NV = 2;
#elif REGARD_VW == 8
constexpr int64_t MR = 6, NV = 2;
#elif defined(__aarch64__)
constexpr int64_t MR = 6, NV = 4;
#else
constexpr int64_t MR = 3, NV = 4;
#endif

// So few rows take 2 NV vectors at a time, else their few sums would wait for each other.
constexpr int64_t kFewRows = NV == 2 ? 2 : 0;

// Packed panels: keys (or items) 16 at a time, transposed, [panel][depth][16]; the same layout on every machine.
constexpr int64_t PANEL = kPanel;

struct Rows {  // B from row-major storage, or A: element (i, j) at data[i * row + j * column]
  const float* data;
  int64_t row, column;
};

struct Vectors {  // where B's vector v of row k lies: data + (v / NV) * group + (v % NV) * vector + k * row
  const float* data;
  int64_t row, vector, group;
};

static inline Vectors rows_of(const float* data, int64_t stride) { return {data, stride, VW, NV * VW}; }

static inline Vectors panels_of(const float* data, int64_t depth) {
  const int64_t panel = depth * PANEL;  // one panel is PANEL / VW vectors wide; a tile takes one panel, or two
  return PANEL == VW ? Vectors{data, PANEL, panel, NV * panel} : Vectors{data, PANEL, VW, panel};
}

// What becomes of C. The products of one element are added up in chains, and the chains one after another, so that
// rounding grows with the root of the depth: 32 + 512 / 32 roundings instead of 512. `kContinue` is for a caller that
// cuts the depth itself and must get the same bits wherever it cuts: one chain, begun at C. `kBegin` is its first cut:
// C is taken for 0.
enum Into { kFresh, kAdd, kContinue, kBegin };
constexpr int64_t kChain = 32;
constexpr int64_t kWhole =
    VW == 4 ? 32 : 64;  // up to here one chain; without fused multiply-add each link rounds twice

template <Into INTO, int64_t ROWS, int64_t VECTORS>
static inline void tile(int64_t depth, const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row,
                        int64_t b_vector, float* c, int64_t c_row) {
  Into into = INTO;
  const int64_t chain = into >= kContinue || depth <= kWhole ? depth : kChain;
  int64_t k = 0;
  do {
    vf sum[ROWS][VECTORS];
    if (into == kContinue) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int64_t v = 0; v < VECTORS; ++v) sum[i][v] = load(c + i * c_row + v * VW);
    } else {
#pragma GCC unroll 16
      for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int64_t v = 0; v < VECTORS; ++v) sum[i][v] = splat(0.0f);
    }
    for (const int64_t end = at_most(depth, k + chain); k < end; ++k) {
      vf right[VECTORS];
#pragma GCC unroll 4
      for (int64_t v = 0; v < VECTORS; ++v) right[v] = load(b + v * b_vector);
#pragma GCC unroll 16
      for (int64_t i = 0; i < ROWS; ++i) {
        const vf left = splat(a[i * a_row]);
#pragma GCC unroll 4
        for (int64_t v = 0; v < VECTORS; ++v) sum[i][v] += left * right[v];
      }
      a += a_column;
      b += b_row;
    }
    if (into == kAdd) {
#pragma GCC unroll 16
      for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int64_t v = 0; v < VECTORS; ++v) sum[i][v] += load(c + i * c_row + v * VW);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int64_t v = 0; v < VECTORS; ++v) store(c + i * c_row + v * VW, sum[i][v]);
    if (into == kFresh) into = kAdd;
  } while (k < depth);
}

// Cases of a switch over the rows of a register tile.
#define REGARD_UP_TO_12(CASE) \
  CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

// `rows` <= MR rows of C.
template <Into INTO, int64_t VECTORS>
static inline void tile_rows(int64_t rows, int64_t depth, const float* a, int64_t a_row, int64_t a_column,
                             const float* b, int64_t b_row, int64_t b_vector, float* c, int64_t c_row) {
#define REGARD_TILE(R)                                                                 \
  case R:                                                                              \
    if constexpr (R <= (VECTORS > NV ? kFewRows : MR))                                 \
      tile<INTO, R, VECTORS>(depth, a, a_row, a_column, b, b_row, b_vector, c, c_row); \
    break;
  switch (rows) {
    REGARD_UP_TO_12(REGARD_TILE)
    default:
      break;
  }
#undef REGARD_TILE
}

// C (m, n), row stride c_row, from A (m, depth) and B (depth, n). Only the n floats of each row of C are touched; B
// must be readable to the next whole vector (padded rows, or panels, which are padded with zeros).
template <Into INTO>
static __attribute__((noinline)) void multiply_as(int64_t m, int64_t n, int64_t depth, Rows a, Vectors b, float* c,
                                                  int64_t c_row) {
  const int64_t vectors = n / VW, tail = n % VW;
  for (int64_t i = 0; i < m; i += MR) {
    const int64_t rows = at_most(MR, m - i);
    const float* left = a.data + i * a.row;
    float* out = c + i * c_row;
    int64_t v = 0;
    if (rows <= kFewRows && b.group == NV * b.vector)
      for (; v + 2 * NV <= vectors; v += 2 * NV)
        tile_rows<INTO, 2 * NV>(rows, depth, left, a.row, a.column, b.data + v / NV * b.group, b.row, b.vector,
                                out + v * VW, c_row);
    for (; v + NV <= vectors; v += NV)
      tile_rows<INTO, NV>(rows, depth, left, a.row, a.column, b.data + v / NV * b.group, b.row, b.vector, out + v * VW,
                          c_row);
    for (int64_t rest = vectors % NV; rest > 0; --rest, ++v)
      tile_rows<INTO, 1>(rows, depth, left, a.row, a.column, b.data + v / NV * b.group + v % NV * b.vector, b.row,
                         b.vector, out + v * VW, c_row);
    if (tail == 0) continue;
    float edge[MR * VW] = {0};
    if (INTO == kAdd || INTO == kContinue)
      for (int64_t r = 0; r < rows; ++r) store(edge + r * VW, load_first(out + r * c_row + v * VW, tail));
    tile_rows<INTO, 1>(rows, depth, left, a.row, a.column, b.data + v / NV * b.group + v % NV * b.vector, b.row,
                       b.vector, edge, VW);
    for (int64_t r = 0; r < rows; ++r) store_first(out + r * c_row + v * VW, load(edge + r * VW), tail);
  }
}

static inline void multiply(int64_t m, int64_t n, int64_t depth, Rows a, Vectors b, float* c, int64_t c_row,
                            Into into) {
  if (into == kFresh) return multiply_as<kFresh>(m, n, depth, a, b, c, c_row);
  if (into == kAdd) return multiply_as<kAdd>(m, n, depth, a, b, c, c_row);
  if (into == kBegin) return multiply_as<kBegin>(m, n, depth, a, b, c, c_row);
  multiply_as<kContinue>(m, n, depth, a, b, c, c_row);
}

// Panels of `keys` rows (n, depth), row stride `stride`: out[panel][depth][PANEL], zeros after row n.
static __attribute__((noinline)) void pack_panels(const float* keys, int64_t stride, int64_t n, int64_t depth,
                                                  float* out) {
  for (int64_t first = 0; first < n; first += PANEL, out += depth * PANEL) {
    const int64_t rows = at_most(PANEL, n - first);
    const float* in = keys + first * stride;
    int64_t k = 0;
#if REGARD_VW == 16
    for (; k + 4 <= depth; k += 4) {  // 4 x 4 transposes, four to a register: of rows 0 to 3, 4 to 7, ...
      vf x[4];
#pragma GCC unroll 4
      for (int64_t i = 0; i < 4; ++i) {
        const auto quarter = [&](int64_t r) {
          return r < rows ? *reinterpret_cast<const vf4_unaligned*>(in + r * stride + k) : vf4{};
        };
        const vf8 low = __builtin_shufflevector(quarter(i), quarter(4 + i), 0, 1, 2, 3, 4, 5, 6, 7);
        const vf8 high = __builtin_shufflevector(quarter(8 + i), quarter(12 + i), 0, 1, 2, 3, 4, 5, 6, 7);
        x[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      }
#define REGARD_FIRST 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define REGARD_LAST 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define REGARD_FIRST_PAIRS 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define REGARD_LAST_PAIRS 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
      const vf a = __builtin_shufflevector(x[0], x[1], REGARD_FIRST);
      const vf b = __builtin_shufflevector(x[2], x[3], REGARD_FIRST);
      const vf c = __builtin_shufflevector(x[0], x[1], REGARD_LAST);
      const vf d = __builtin_shufflevector(x[2], x[3], REGARD_LAST);
      float* columns = out + k * PANEL;
      store(columns, __builtin_shufflevector(a, b, REGARD_FIRST_PAIRS));
      store(columns + PANEL, __builtin_shufflevector(a, b, REGARD_LAST_PAIRS));
      store(columns + 2 * PANEL, __builtin_shufflevector(c, d, REGARD_FIRST_PAIRS));
      store(columns + 3 * PANEL, __builtin_shufflevector(c, d, REGARD_LAST_PAIRS));
#undef REGARD_FIRST
#undef REGARD_LAST
#undef REGARD_FIRST_PAIRS
#undef REGARD_LAST_PAIRS
    }
#else
    for (; k + 4 <= depth; k += 4)  // 4 x 4 transposes in registers
      for (int64_t r = 0; r < PANEL; r += 4) {
        vf4 x[4];
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; ++i)
          x[i] = r + i < rows ? *reinterpret_cast<const vf4_unaligned*>(in + (r + i) * stride + k) : vf4{};
        const vf4 a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5),
                  b = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
        const vf4 c = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7),
                  d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
        float* q = out + k * PANEL + r;
        *reinterpret_cast<vf4_unaligned*>(q) = __builtin_shufflevector(a, b, 0, 1, 4, 5);
        *reinterpret_cast<vf4_unaligned*>(q + PANEL) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
        *reinterpret_cast<vf4_unaligned*>(q + 2 * PANEL) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
        *reinterpret_cast<vf4_unaligned*>(q + 3 * PANEL) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
      }
#endif
    for (; k < depth; ++k)
      for (int64_t r = 0; r < PANEL; ++r) out[k * PANEL + r] = r < rows ? in[r * stride + k] : 0.0f;
  }
}

// Rows (n, width) as B for `multiply`: themselves when whole vectors fit, else copied to `buffer` with zeros after
// them.
static inline Vectors padded_rows(const float* rows, int64_t stride, int64_t n, int64_t width, float* buffer) {
  if (width % VW == 0) return rows_of(rows, stride);
  const int64_t padded = round_up(width, VW);
  for (int64_t i = 0; i < n; ++i) {
    memcpy(buffer + i * padded, rows + i * stride, static_cast<size_t>(width) * sizeof(float));
    memset(buffer + i * padded + width, 0, static_cast<size_t>(padded - width) * sizeof(float));
  }
  return rows_of(buffer, padded);
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
