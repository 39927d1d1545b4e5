// The best items of each query, the 8-bit table that finds them sooner, and rank counts.
#include <cstddef>

#include "api/check.h"

using namespace regard;

namespace {

// Lists with every row sorted, as the kernels want them.
std::vector<int32_t> sorted_rows(const int64_t* offsets, const int32_t* ids, int64_t n) {
  std::vector<int32_t> sorted(ids, ids + offsets[n]);
  for (int64_t i = 0; i < n; ++i) {
    const auto begin = sorted.begin() + offsets[i], end = sorted.begin() + offsets[i + 1];
    if (!std::is_sorted(begin, end)) std::sort(begin, end);
  }
  return sorted;
}

constexpr size_t kTopKBefore = offsetof(regard_topk_args, quantized);  // size of the struct without the last field

void check_quantized(const void* quantized, int64_t n_items, int64_t dim) {
  if (reinterpret_cast<uintptr_t>(quantized) % alignof(float) != 0)
    invalid("quantized", "an address that is a multiple of 4", "another");
  regard::at_least(n_items, 1, "n_items");
  if (n_items > INT32_MAX) invalid("n_items", "below 2^31", std::to_string(n_items));
  if (dim < 1 || dim > kQuantizedDim) invalid("dim", "1 to " + std::to_string(kQuantizedDim), std::to_string(dim));
}

int64_t quantized_blocks(int64_t n_items) {
  constexpr int64_t kItems = kQuantizedPanels * kPanel;
  return (n_items + kItems - 1) / kItems;
}

// Rows in blocks that one pass over the items serves, of about equal size and whole register tiles.
template <class F>
void each_row_block(int64_t n, F&& body) {  // body(begin, end)
  constexpr int64_t kTile = 12;
  const int64_t blocks = (n + kRowBlock - 1) / kRowBlock;
  if (blocks == 0) return;
  const int64_t size = ((n + blocks - 1) / blocks + kTile - 1) / kTile * kTile;
  parallel_for((n + size - 1) / size, [&](int64_t block) { body(block * size, std::min(n, (block + 1) * size)); });
}

}  // namespace

extern "C" {

regard_status regard_topk(const regard_topk_args* a) {
  return guarded([&] {
    require(a, "args");
    regard::at_least(static_cast<int64_t>(a->struct_size), static_cast<int64_t>(kTopKBefore), "struct_size");
    check_catalogue(a->h, a->item_vectors, a->n, a->n_items, a->dim);
    regard::at_least(a->k, 1, "k");
    require(a->items, "items", a->n);
    require(a->scores, "scores", a->n);
    TopK args{a->h,    a->item_vectors, a->n_items, a->dim,   a->k,      nullptr,
              nullptr, nullptr,         nullptr,    a->items, a->scores, nullptr};
    std::vector<int32_t> allow, deny;
    if (a->allow_offsets != nullptr) {
      check_offsets(a->allow_offsets, a->n, "allow_offsets");
      check_ids(a->allow, a->allow_offsets[a->n], a->n_items, "allow");
      allow = sorted_rows(a->allow_offsets, a->allow, a->n);
      args.allow_at = a->allow_offsets, args.allow = allow.data();
    }
    if (a->deny_offsets != nullptr) {
      check_offsets(a->deny_offsets, a->n, "deny_offsets");
      check_ids(a->deny, a->deny_offsets[a->n], a->n_items, "deny");
      deny = sorted_rows(a->deny_offsets, a->deny, a->n);
      args.deny_at = a->deny_offsets, args.deny = deny.data();
    }
    if (a->struct_size >= sizeof *a && a->quantized != nullptr) {
      check_quantized(a->quantized, a->n_items, a->dim);
      args.quantized = static_cast<const uint8_t*>(a->quantized);
    }
    const Kernels& use = kernels();
    const auto topk = args.quantized != nullptr && args.allow_at == nullptr ? use.topk_quantized : use.topk;
    each_row_block(a->n, [&](int64_t begin, int64_t end) {
      topk(args, begin, end, thread_scratch(catalogue_scratch(a->dim, 0)));
    });
  });
}

regard_status regard_quantized_size(int64_t n_items, int64_t dim, size_t* bytes) {
  return guarded([&] {
    require(bytes, "bytes");
    check_quantized(nullptr, n_items, dim);
    *bytes = static_cast<size_t>(quantized_blocks(n_items) * quantized_block(dim));
  });
}

regard_status regard_quantize_items(const float* item_vectors, int64_t n_items, int64_t dim, void* quantized) {
  return guarded([&] {
    require(item_vectors, "item_vectors");
    check_quantized(quantized, n_items, dim);
    require(quantized, "quantized");
    const Kernels& use = kernels();
    Parts(quantized_blocks(n_items), 1024, 8).each([&](int64_t, int64_t begin, int64_t end) {
      use.quantize_items(item_vectors, n_items, dim, static_cast<uint8_t*>(quantized), begin, end);
    });
  });
}

regard_status regard_rank_counts(const float* h, const float* item_vectors, int64_t n, int64_t n_items, int64_t dim,
                                 const int64_t* target_offsets, const int32_t* targets, const int64_t* deny_offsets,
                                 const int32_t* deny, const int64_t* gain_offsets, const int32_t* gaining,
                                 const float* gains, int64_t* above, int64_t* equal) {
  return guarded([&] {
    check_catalogue(h, item_vectors, n, n_items, dim);
    check_offsets(target_offsets, n, "target_offsets");
    check_ids(targets, target_offsets[n], n_items, "targets");
    require(above, "above", target_offsets[n]);
    require(equal, "equal", target_offsets[n]);
    RankCounts args{h,       item_vectors, n_items, dim,     target_offsets, nullptr, targets,
                    nullptr, above,        equal,   nullptr, nullptr,        nullptr};
    std::vector<int32_t> sorted;
    if (deny_offsets != nullptr) {
      check_offsets(deny_offsets, n, "deny_offsets");
      check_ids(deny, deny_offsets[n], n_items, "deny");
      sorted = sorted_rows(deny_offsets, deny, n);
      args.deny_at = deny_offsets, args.deny = sorted.data();
    }
    if (gain_offsets != nullptr) {
      check_offsets(gain_offsets, n, "gain_offsets");
      check_ids(gaining, gain_offsets[n], n_items, "gaining");
      require(gains, "gains", gain_offsets[n]);
      args.gains_at = gain_offsets, args.gaining = gaining, args.gains = gains;
    }
    const Kernels& use = kernels();
    each_row_block(n, [&](int64_t begin, int64_t end) {
      use.rank_counts(args, begin, end, thread_scratch(catalogue_scratch(dim, 0)));
    });
  });
}

}  // extern "C"
