// The cross-entropy kernels of the tile level behind one C function, with tiles by hand.
#define REGARD_TILES_BY_HAND
#define REGARD_ISA_ID by_hand
#include "cpu/cross_entropy_pass.h"

#include <vector>

using namespace regard;

template <class Form>
static void run(CrossEntropyBlock block, int64_t n, float* ditems) {
  const int64_t items = block.n_items, wide = (block.dim + 31) / 32 * 32, tiles = (items + kPieceItems - 1) / kPieceItems;
  constexpr int64_t kPieces = 2, kRows = kPieces * kPieceRows;
  std::vector<char> prepared(static_cast<size_t>(Form::prepared_bytes(items, block.dim)));
  std::vector<uint16_t> p(static_cast<size_t>((items + 31) / 32 * 32 * kRows)), scaled(static_cast<size_t>(kRows * wide));
  std::vector<float> top(static_cast<size_t>(tiles * kRows)), factors(kRows), dtarget(kRows);
  std::vector<float> scratch(static_cast<size_t>(pass_scratch(block.dim, kPieces)));
  Form::prepare(block.items, items, block.dim, 0, items, prepared.data());
  block.prepared = prepared.data(), block.p = p.data(), block.scaled = scaled.data(), block.top = top.data();
  block.scaled_bytes = kPieceRows * wide * 2, block.factors = factors.data(), block.dtarget = dtarget.data();
  for (int64_t row = 0; row < n; row += kRows) {
    block.row_begin = row, block.row_end = row + kRows < n ? row + kRows : n;
    block.pieces = (block.row_end - row + kPieceRows - 1) / kPieceRows;
    for (int64_t piece = 0; piece < block.pieces; ++piece)
      by_hand::cross_entropy_rows<Form>(block, piece, scratch.data());
    by_hand::cross_entropy_items<Form>(block, 0, items, ditems, scratch.data());
  }
}

extern "C" void cross_entropy(int split, const float* h, const float* items, const int32_t* targets,
                              const float* weights, int64_t n, int64_t n_items, int64_t dim, double* loss, double* lse,
                              float* dh, float* ditems) {
  CrossEntropyBlock block{};
  block.h = h, block.items = items, block.targets = targets, block.weights = weights;
  block.loss = loss, block.lse = lse, block.dh = dh, block.n_items = n_items, block.dim = dim;
  if (split)
    run<by_hand::Bf16Form<by_hand::kSplitScores>>(block, n, ditems);
  else
    run<by_hand::Bf16Form<by_hand::kPlainScores>>(block, n, ditems);
}
