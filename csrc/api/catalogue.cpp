// What streams items past query rows: losses against sampled items, top-k, rank counts.
#include <cmath>
#include <limits>

#include "api/check.h"

using namespace regard;

namespace {

constexpr int64_t kMaxNegatives = 16384;
constexpr int64_t kPartialFloats = int64_t{1} << 23;  // 32 MB of partial item gradients at the most

// The negatives of a sampled loss, gathered once for all rows and padded to whole panels.
struct Negatives {
  int64_t padded_dim;
  std::vector<int32_t> ids;
  std::vector<float> log_expected, rows, packed;

  explicit Negatives(const regard_sampled_loss& a) {
    const int64_t panels = (a.n_negatives + kPanel - 1) / kPanel, n = panels * kPanel;
    padded_dim = (a.dim + kPanel - 1) / kPanel * kPanel;
    ids.assign(static_cast<size_t>(n), -1);
    std::copy_n(a.negatives, a.n_negatives, ids.data());
    log_expected.assign(static_cast<size_t>(n), std::numeric_limits<float>::infinity());
    if (a.log_expected != nullptr)
      std::copy_n(a.log_expected, a.n_negatives, log_expected.data());
    else
      std::fill_n(log_expected.data(), a.n_negatives, 0.0f);
    rows.resize(static_cast<size_t>(n * padded_dim));
    packed.resize(static_cast<size_t>(n * a.dim));
    const Kernels& use = kernels();
    Parts(panels, 64, 16).each([&](int64_t, int64_t begin, int64_t end) {
      const int64_t first = begin * kPanel, last = std::min(a.n_negatives, end * kPanel);
      for (int64_t j = first; j < last; ++j)
        std::copy_n(a.item_vectors + a.negatives[j] * a.dim, a.dim, rows.data() + j * padded_dim);
      use.pack_panels(rows.data() + first * padded_dim, padded_dim, last - first, a.dim, packed.data() + first * a.dim);
    });
  }
};

// Rows are cut into parts, each with a gradient of the negatives of its own, added in the order of the parts. Then
// every part of the items takes what belongs to it.
void sampled(const regard_sampled_loss& a, double* loss) {
  const Negatives negatives(a);
  const int64_t width = a.n_negatives * a.dim;
  std::vector<float> dtargets(static_cast<size_t>(a.n)), dnegatives(static_cast<size_t>(width));
  const Sampled args{a.h,
                     a.item_vectors,
                     a.targets,
                     negatives.ids.data(),
                     negatives.log_expected.data(),
                     negatives.packed.data(),
                     negatives.rows.data(),
                     loss,
                     dtargets.data(),
                     a.dh,
                     a.n_negatives,
                     a.dim,
                     1.0 / static_cast<double>(a.n),
                     a.binary == 0,
                     static_cast<float>(a.beta)};
  const Kernels& use = kernels();
  const Parts parts(a.n, std::clamp<int64_t>(kPartialFloats / width, 1, 16), 256);
  std::vector<float> partial(static_cast<size_t>(parts.count * width));
  parts.each([&](int64_t part, int64_t begin, int64_t end) {
    use.sampled_loss(args, begin, end, partial.data() + part * width,
                     thread_scratch(sampled_scratch(a.dim, a.n_negatives)));
  });
  add_in_order(partial, parts.count, width, dnegatives.data());
  Parts(a.n_items, 8, 256).each([&](int64_t, int64_t begin, int64_t end) {
    use.embedding_backward(dnegatives.data(), a.negatives, a.n_negatives, a.dim, 1.0f, nullptr, a.ditem_vectors, begin,
                           end);
    use.embedding_backward(a.h, a.targets, a.n, a.dim, 1.0f, dtargets.data(), a.ditem_vectors, begin, end);
  });
}

// Lists with every row sorted, as the kernels want them.
std::vector<int32_t> sorted_rows(const int64_t* offsets, const int32_t* ids, int64_t n) {
  std::vector<int32_t> sorted(ids, ids + offsets[n]);
  for (int64_t i = 0; i < n; ++i) {
    const auto begin = sorted.begin() + offsets[i], end = sorted.begin() + offsets[i + 1];
    if (!std::is_sorted(begin, end)) std::sort(begin, end);
  }
  return sorted;
}

void check_catalogue(const float* h, const float* items, int64_t n, int64_t n_items, int64_t dim) {
  regard::at_least(n, 0, "n");
  regard::at_least(n_items, 1, "n_items");
  regard::at_least(dim, 1, "dim");
  require(h, "h", n);
  require(items, "item_vectors");
  if (n_items > INT32_MAX) invalid("n_items", "below 2^31", std::to_string(n_items));
}

}  // namespace

extern "C" {

regard_status regard_sampled_loss_value_and_grad(regard_sampled_loss* a) {
  return guarded([&] {
    require(a, "args");
    check_catalogue(a->h, a->item_vectors, a->n, a->n_items, a->dim);
    check_ids(a->targets, a->n, a->n_items, "targets");
    if (a->n_negatives < 1 || a->n_negatives > kMaxNegatives)
      invalid("negatives", "1 to " + std::to_string(kMaxNegatives) + " items", std::to_string(a->n_negatives));
    check_ids(a->negatives, a->n_negatives, a->n_items, "negatives");
    if (a->binary != 0 && a->log_expected != nullptr) invalid("log_expected", "none with the loss bce", "an array");
    for (int64_t j = 0; j < a->n_negatives && a->log_expected != nullptr; ++j)
      if (!std::isfinite(a->log_expected[j]))
        invalid("log_expected", "finite numbers",
                std::to_string(a->log_expected[j]) + " at place " + std::to_string(j));
    if (a->binary == 0 && a->beta != 1.0) invalid("beta", "1 with the loss softmax", std::to_string(a->beta));
    if (!(a->beta >= 0.0 && std::isfinite(a->beta))) invalid("beta", "at least 0", std::to_string(a->beta));
    require(a->dh, "dh", a->n);
    require(a->ditem_vectors, "ditem_vectors");
    a->loss = 0.0;
    if (a->n == 0) return;
    std::vector<double> loss(static_cast<size_t>(a->n));
    sampled(*a, loss.data());
    for (const double value : loss) a->loss += value;
    a->loss /= static_cast<double>(a->n);
  });
}

regard_status regard_topk(const regard_topk_args* a) {
  return guarded([&] {
    require(a, "args");
    regard::at_least(static_cast<int64_t>(a->struct_size), static_cast<int64_t>(sizeof *a), "struct_size");
    check_catalogue(a->h, a->item_vectors, a->n, a->n_items, a->dim);
    regard::at_least(a->k, 1, "k");
    require(a->items, "items", a->n);
    require(a->scores, "scores", a->n);
    TopK args{a->h, a->item_vectors, a->n_items, a->dim, a->k, nullptr, nullptr, nullptr, nullptr, a->items, a->scores};
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
    const Kernels& use = kernels();
    Parts(a->n, 1024, kRowBlock).each([&](int64_t, int64_t begin, int64_t end) {
      use.topk(args, begin, end, thread_scratch(catalogue_scratch(a->dim, 0)));
    });
  });
}

regard_status regard_rank_counts(const float* h, const float* item_vectors, int64_t n, int64_t n_items, int64_t dim,
                                 const int64_t* target_offsets, const int32_t* targets, const int64_t* deny_offsets,
                                 const int32_t* deny, int64_t* above, int64_t* equal) {
  return guarded([&] {
    check_catalogue(h, item_vectors, n, n_items, dim);
    check_offsets(target_offsets, n, "target_offsets");
    check_ids(targets, target_offsets[n], n_items, "targets");
    require(above, "above", target_offsets[n]);
    require(equal, "equal", target_offsets[n]);
    RankCounts args{h, item_vectors, n_items, dim, target_offsets, nullptr, targets, nullptr, above, equal};
    std::vector<int32_t> sorted;
    if (deny_offsets != nullptr) {
      check_offsets(deny_offsets, n, "deny_offsets");
      check_ids(deny, deny_offsets[n], n_items, "deny");
      sorted = sorted_rows(deny_offsets, deny, n);
      args.deny_at = deny_offsets, args.deny = sorted.data();
    }
    const Kernels& use = kernels();
    Parts(n, 1024, kRowBlock).each([&](int64_t, int64_t begin, int64_t end) {
      use.rank_counts(args, begin, end, thread_scratch(catalogue_scratch(dim, 0)));
    });
  });
}

}  // extern "C"
