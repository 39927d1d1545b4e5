// The losses over items where the items of the history have a second way to be the answer.
#include "api/losses.h"

using namespace regard;

namespace {

constexpr int64_t kParts = 64;      // of the sequences
constexpr int64_t kPartRows = 256;  // worth a part

}  // namespace

extern "C" {

regard_status regard_pointer_loss_value_and_grad(const regard_pointer* a, regard_cross_entropy* full,
                                                 regard_sampled_loss* sampled) {
  return guarded([&] {
    require(a, "args");
    if ((full == nullptr) == (sampled == nullptr)) invalid("full, sampled", "one of them", full ? "both" : "none");
    const float *h = full ? full->h : sampled->h, *items = full ? full->item_vectors : sampled->item_vectors;
    const int32_t* targets = full ? full->targets : sampled->targets;
    const int64_t n = full ? full->n : sampled->n, n_items = full ? full->n_items : sampled->n_items;
    const int64_t dim = full ? full->dim : sampled->dim;
    float *dh = full ? full->dh : sampled->dh, *ditems = full ? full->ditem_vectors : sampled->ditem_vectors;
    check_catalogue(h, items, n, n_items, dim);
    check_ids(targets, n, n_items, "targets");
    check_ids(a->items, n, n_items, "items");
    if (full && full->row_weights) invalid("row_weights", "none", "an array");
    if (full && full->seen) invalid("seen", "none", "an array");
    if (sampled && sampled->binary) invalid("loss", "softmax", "bce");
    check_sequences(a->cu_seqlens, a->batch, n);
    int64_t longest = 0;
    for (int64_t s = 0; s < a->batch; ++s) longest = std::max(longest, a->cu_seqlens[s + 1] - a->cu_seqlens[s]);
    regard::at_least(a->n_ages, std::max<int64_t>(longest, 1), "n_ages");
    require(a->by_age, "by_age", n);
    require(a->dby_age, "dby_age", n);
    require(dh, "dh", n);
    require(ditems, "ditem_vectors");

    std::vector<double> logs(static_cast<size_t>(4 * n));
    double *all = logs.data(), *target = all + n, *whole = target + n, *whole_target = whole + n;
    const float weight = n > 0 ? static_cast<float>(1.0 / static_cast<double>(n)) : 0.0f;
    Pointer args{a->items, targets, a->cu_seqlens, a->by_age, a->n_ages, all, target, weight, a->dby_age};
    const Kernels& use = kernels();
    const Parts parts(a->batch, kParts, kPartRows * a->batch / std::max<int64_t>(n, 1));
    const int64_t scratch = pointer_scratch(longest);
    parts.each(
        [&](int64_t, int64_t begin, int64_t end) { use.pointer_forward(args, begin, end, thread_scratch(scratch)); });
    const Beside beside{all, target, whole, whole_target};
    if (full)
      cross_entropy_value_and_grad(full, &beside);
    else
      sampled_loss_value_and_grad(sampled, &beside);
    args.all = whole, args.target = whole_target;
    parts.each(
        [&](int64_t, int64_t begin, int64_t end) { use.pointer_backward(args, begin, end, thread_scratch(scratch)); });
  });
}

}  // extern "C"
