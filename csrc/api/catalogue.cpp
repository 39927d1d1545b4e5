// Losses against sampled items.
#include <cmath>
#include <limits>

#include "api/losses.h"

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
void sampled(const regard_sampled_loss& a, const Beside* beside, double* loss) {
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
                     static_cast<float>(a.beta),
                     beside};
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

}  // namespace

void regard::sampled_loss_value_and_grad(regard_sampled_loss* a, const Beside* beside) {
  require(a, "args");
  check_catalogue(a->h, a->item_vectors, a->n, a->n_items, a->dim);
  check_ids(a->targets, a->n, a->n_items, "targets");
  if (a->n_negatives < 1 || a->n_negatives > kMaxNegatives)
    invalid("negatives", "1 to " + std::to_string(kMaxNegatives) + " items", std::to_string(a->n_negatives));
  check_ids(a->negatives, a->n_negatives, a->n_items, "negatives");
  if (a->binary != 0 && a->log_expected != nullptr) invalid("log_expected", "none with the loss bce", "an array");
  for (int64_t j = 0; j < a->n_negatives && a->log_expected != nullptr; ++j)
    if (!std::isfinite(a->log_expected[j]))
      invalid("log_expected", "finite numbers", std::to_string(a->log_expected[j]) + " at place " + std::to_string(j));
  if (a->binary == 0 && a->beta != 1.0) invalid("beta", "1 with the loss softmax", std::to_string(a->beta));
  if (!(a->beta >= 0.0 && std::isfinite(a->beta))) invalid("beta", "at least 0", std::to_string(a->beta));
  require(a->dh, "dh", a->n);
  require(a->ditem_vectors, "ditem_vectors");
  a->loss = 0.0;
  if (a->n == 0) return;
  std::vector<double> loss(static_cast<size_t>(a->n));
  sampled(*a, beside, loss.data());
  for (const double value : loss) a->loss += value;
  a->loss /= static_cast<double>(a->n);
}

extern "C" {

regard_status regard_sampled_loss_value_and_grad(regard_sampled_loss* a) {
  return guarded([&] { sampled_loss_value_and_grad(a, nullptr); });
}

}  // extern "C"
