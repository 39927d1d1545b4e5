// What a pointer adds to the scores of a history's items; see cpu/pointer.h.
#include <algorithm>
#include <cmath>

#include "serve/encoder.h"

namespace regard {

void Encoder::add_pointer(const std::string& name, const Tensors& tensors) {
  const float* weight = tensors.floats(name + ".weight", {max_len_, dim_});
  pointer_ = {weight, tensors.floats(name + ".bias", {max_len_}), pack(weight, max_len_, dim_), nullptr, nullptr,
              nullptr};
}

int64_t Encoder::window(const int32_t* items, int64_t begin, int64_t end) const {
  for (int64_t known = 0; end > begin && known < max_len_; --end) known += items[end - 1] >= 0;
  return end;
}

int64_t Encoder::gains(const float* h, const int32_t* items, int64_t n, Gain* gains, float* by_age) const {
  int64_t events = 0, found = 0;
  for (int64_t i = n, from = window(items, 0, n); i-- > from;)
    if (items[i] >= 0) gains[events++].item = items[i];
  if (events == 0) return 0;
  LinearMap map = pointer_;
  map.y = by_age;
  kernels().linear_forward({h, &map, 1, dim_, events, kIdentity, nullptr, nullptr, nullptr, false}, 0, 1);
  for (int64_t age = 0; age < events; ++age) gains[age].gain = static_cast<float>(age);  // below 2^20: exact
  std::sort(gains, gains + events, [](Gain a, Gain b) { return a.item != b.item ? a.item < b.item : a.gain < b.gain; });
  for (int64_t begin = 0, end; begin < events; begin = end) {
    const int32_t item = gains[begin].item;
    double greatest = -INFINITY, sum = 0.0;
    for (end = begin; end < events && gains[end].item == item; ++end) {
      gains[end].gain = by_age[static_cast<int64_t>(gains[end].gain)];
      greatest = std::max(greatest, static_cast<double>(gains[end].gain));
    }
    const double base = greatest == -INFINITY ? 0.0 : greatest;
    for (int64_t at = begin; at < end; ++at) sum += std::exp(static_cast<double>(gains[at].gain) - base);
    gains[found++] = {item, static_cast<float>(base + std::log(sum))};
  }
  return found;
}

}  // namespace regard
