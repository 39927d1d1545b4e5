// Softmax cross-entropy over the whole catalogue.
#include <iterator>
#include <numeric>

#include "api/losses.h"

using namespace regard;

namespace {

constexpr int64_t kRowPart = 1024;                     // rows that share one packed item tile
constexpr int64_t kRowChunk = 4096;                    // rows whose dh is kept once per item part in the backward pass
constexpr int64_t kBlockBytes = int64_t{1} << 23;      // of probabilities kept at a time, if two pieces fit;
constexpr int64_t kMostBlockBytes = int64_t{1} << 25;  // where two need more than this, the pair below takes over
constexpr int64_t kLeastPieces = 2;

struct Loss {
  CrossEntropy args{};
  std::vector<float> weights;
  std::vector<double> loss, lse;
  std::vector<int64_t> begins, ends;

  Loss(const regard_cross_entropy& a, bool keep_lse) {
    check_catalogue(a.h, a.item_vectors, a.n, a.n_items, a.dim);
    check_ids(a.targets, a.n, a.n_items, "targets");
    if (keep_lse) require(a.lse, "lse", a.n);
    double total = 0.0;
    for (int64_t i = 0; i < a.n; ++i) total += a.row_weights ? static_cast<double>(a.row_weights[i]) : 1.0;
    weights.resize(static_cast<size_t>(a.n));
    for (int64_t i = 0; i < a.n; ++i)
      weights[static_cast<size_t>(i)] =
          total == 0.0 ? 0.0f
                       : static_cast<float>((a.row_weights ? static_cast<double>(a.row_weights[i]) : 1.0) / total);
    loss.resize(static_cast<size_t>(a.n));
    if (!keep_lse) lse.resize(static_cast<size_t>(a.n));
    args.h = a.h, args.items = a.item_vectors, args.targets = a.targets, args.weights = weights.data();
    args.loss = loss.data(), args.lse = keep_lse ? a.lse : lse.data(), args.dh = a.dh;
    args.n_items = a.n_items, args.dim = a.dim;
  }

  void leave_out_seen(const regard_cross_entropy& a) {
    check_sequences(a.cu_seqlens, a.batch, a.n);
    check_offsets(a.seen_offsets, a.batch, "seen offsets");
    check_ids(a.seen, a.seen_offsets[a.batch], a.n_items, "seen");
    for (int64_t s = 0; s < a.batch; ++s) {
      const int64_t rows = a.cu_seqlens[s + 1] - a.cu_seqlens[s], end = a.seen_offsets[s + 1];
      if (const int64_t events = end - a.seen_offsets[s]; events < rows)
        invalid("seen", "at least the " + std::to_string(rows) + " events of sequence " + std::to_string(s),
                std::to_string(events));
      begins.insert(begins.end(), static_cast<size_t>(rows), a.seen_offsets[s]);
      for (int64_t i = rows; i-- > 0;) ends.push_back(end - i);
    }
    args.seen = a.seen, args.begins = begins.data(), args.ends = ends.data();
  }

  double mean(const regard_cross_entropy& a) const {  // in the order of the rows
    double sum = 0.0, total = 0.0;
    for (int64_t i = 0; i < a.n; ++i) {
      const double w = a.row_weights ? static_cast<double>(a.row_weights[i]) : 1.0;
      if (w == 0.0) continue;
      sum += w * loss[static_cast<size_t>(i)];
      total += w;
    }
    return total == 0.0 ? 0.0 : sum / total;
  }
};

void forward(const CrossEntropy& args, int64_t n) {
  const Kernels& use = kernels();
  Parts(n, (n + kRowPart - 1) / kRowPart + 1, kRowPart / 4).each([&](int64_t, int64_t begin, int64_t end) {
    use.cross_entropy_forward(args, begin, end, thread_scratch(catalogue_scratch(args.dim, end - begin)));
  });
}

// Items are cut into parts with rows of ditems of their own; each part has its own dh for a chunk of rows, added in
// the order of the parts.
void backward(const CrossEntropy& args, int64_t n, float* dh, float* ditems) {
  const Kernels& use = kernels();
  const Parts parts(args.n_items, 16, 2 * kItemTile);
  const int64_t chunk = std::min(n, kRowChunk);
  std::vector<float> partial(static_cast<size_t>(parts.count * chunk * args.dim));
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t end = std::min(n, begin + chunk), width = (end - begin) * args.dim;
    std::fill(partial.begin(), partial.end(), 0.0f);
    parts.each([&](int64_t part, int64_t item_begin, int64_t item_end) {
      use.cross_entropy_backward(args, begin, end, item_begin, item_end, ditems, partial.data() + part * width,
                                 thread_scratch(catalogue_scratch(args.dim, 0)));
    });
    add_in_order(partial, parts.count, width, dh + begin * args.dim);
  }
}

// One pass over the scores, a block of rows after another; false where the block would be too large. The cut into
// pieces and blocks depends on the shapes alone, and every sum runs in the order of the rows or of the items.
bool one_pass(const CrossEntropy& args, int64_t n, Precision precision, float* ditems) {
  const CrossEntropyPass& use = kernels().cross_entropy[precision];
  const int64_t items = (args.n_items + 31) / 32 * 32, wide = (args.dim + 31) / 32 * 32;
  const int64_t tiles = (args.n_items + kPieceItems - 1) / kPieceItems;
  const int64_t piece_bytes = items * kPieceRows * use.p_bytes;
  if (kLeastPieces * piece_bytes > kMostBlockBytes) return false;
  if (n == 0) return true;
  const int64_t fit = std::clamp(kBlockBytes / piece_bytes / kLeastPieces * kLeastPieces, kLeastPieces, kMaxPieces);
  const int64_t pieces = std::min(fit, (n + kPieceRows - 1) / kPieceRows);

  CrossEntropyBlock block{};
  static_cast<CrossEntropy&>(block) = args;
  block.scaled_bytes = kPieceRows * wide * use.p_bytes;
  const int64_t prepared_bytes = use.prepared_bytes(args.n_items, args.dim);
  const int64_t rows = pieces * kPieceRows, floats[] = {prepared_bytes / 4,
                                                        pieces * piece_bytes / 4,
                                                        pieces * block.scaled_bytes / 4,
                                                        tiles * rows,
                                                        rows,
                                                        rows};
  const CallScratch scratch_of_call(std::accumulate(std::begin(floats), std::end(floats), int64_t{0}));
  float *memory = scratch_of_call.data(), *at[6];
  for (int i = 0; i < 6; memory += floats[i++]) at[i] = memory;
  void* prepared = at[0];
  block.p = at[1], block.scaled = at[2], block.top = at[3], block.factors = at[4], block.dtarget = at[5];
  const Parts item_parts(tiles, 64, 1);
  if (prepared_bytes > 0) {
    item_parts.each([&](int64_t, int64_t begin, int64_t end) {
      use.prepare(args.items, args.n_items, args.dim, begin * kPieceItems, std::min(args.n_items, end * kPieceItems),
                  prepared);
    });
    block.prepared = prepared;
  }
  const int64_t scratch = pass_scratch(args.dim, pieces);
  for (int64_t row = 0; row < n; row += rows) {
    block.row_begin = row, block.row_end = std::min(n, row + rows);
    block.pieces = (block.row_end - row + kPieceRows - 1) / kPieceRows;
    parallel_for(block.pieces, [&](int64_t piece) { use.rows(block, piece, thread_scratch(scratch)); });
    item_parts.each([&](int64_t, int64_t begin, int64_t end) {
      use.items(block, begin * kPieceItems, std::min(args.n_items, end * kPieceItems), ditems, thread_scratch(scratch));
    });
  }
  return true;
}

}  // namespace

void regard::cross_entropy_value_and_grad(regard_cross_entropy* a, const Beside* beside) {
  require(a, "args");
  Loss loss(*a, false);
  loss.args.beside = beside;
  if (a->seen != nullptr) loss.leave_out_seen(*a);
  require(a->dh, "dh", a->n);
  require(a->ditem_vectors, "ditem_vectors");
  if (a->precision < kHighest || a->precision > kMedium)
    invalid("precision", "0 (highest), 1 (high) or 2 (medium)", std::to_string(a->precision));
  if (!one_pass(loss.args, a->n, static_cast<Precision>(a->precision), a->ditem_vectors)) {
    forward(loss.args, a->n);
    backward(loss.args, a->n, a->dh, a->ditem_vectors);
  }
  a->loss = loss.mean(*a);
}

extern "C" {

regard_status regard_cross_entropy_forward(regard_cross_entropy* a) {
  return guarded([&] {
    require(a, "args");
    const Loss loss(*a, true);
    forward(loss.args, a->n);
    a->loss = loss.mean(*a);
  });
}

regard_status regard_cross_entropy_backward(regard_cross_entropy* a) {
  return guarded([&] {
    require(a, "args");
    Loss loss(*a, true);
    require(a->dh, "dh", a->n);
    require(a->ditem_vectors, "ditem_vectors");
    for (float& w : loss.weights) w *= static_cast<float>(a->dloss);
    backward(loss.args, a->n, a->dh, a->ditem_vectors);
  });
}

regard_status regard_cross_entropy_value_and_grad(regard_cross_entropy* a) {
  return guarded([&] { cross_entropy_value_and_grad(a, nullptr); });
}

}  // extern "C"
