#include "serve/model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "api/check.h"

namespace regard {

Model::Model(const Json& header, const Tensors& tensors, std::shared_ptr<const void> keep)
    : keep_(std::move(keep)), encoder_(header.at("steps").list(), header.at("settings").whole("max_len"), tensors) {
  const int64_t n = encoder_.n_items();
  if (tensors.has("ids.items")) {
    numbers_ = static_cast<const int64_t*>(tensors.get("ids.items", Type::i64, {n}).data);
  } else {
    const Tensor& bytes = tensors.get("ids.items.bytes", Type::u8, {Tensors::kAny});
    bytes_ = static_cast<const char*>(bytes.data);
    offsets_ = static_cast<const int64_t*>(tensors.get("ids.items.offsets", Type::i64, {n + 1}).data);
    bool fits = offsets_[0] == 0 && offsets_[n] == bytes.shape[0];
    for (int64_t i = 0; i < n && fits; ++i) fits = offsets_[i] <= offsets_[i + 1];
    if (!fits) throw std::invalid_argument("ids.items.offsets: expected offsets of the text that never fall");
  }
  for (int64_t i = 1; i < n; ++i)
    if (text_ids() ? text(i - 1) >= text(i) : numbers_[i - 1] >= numbers_[i])
      throw std::invalid_argument("item ids: expected them sorted, without repeats");
  popularity_ = static_cast<const int64_t*>(tensors.get("popularity", Type::i64, {n}).data);
  if (tensors.has("items.quantized")) {
    constexpr int64_t kItems = kQuantizedPanels * kPanel;
    const int64_t dim = encoder_.dim(), blocks = (n + kItems - 1) / kItems;
    if (dim > kQuantizedDim) throw std::invalid_argument("items.quantized: expected none for so wide vectors");
    const Tensor& table = tensors.get("items.quantized", Type::u8, {blocks, quantized_block(dim)});
    quantized_ = static_cast<const uint8_t*>(table.data);
    if (reinterpret_cast<uintptr_t>(quantized_) % alignof(float) != 0)
      throw std::invalid_argument("items.quantized: expected an address that is a multiple of 4");
  }
}

int64_t Model::row_of(int64_t id) const {
  const int64_t *end = numbers_ + encoder_.n_items(), *found = std::lower_bound(numbers_, end, id);
  return found < end && *found == id ? found - numbers_ : -1;
}

int64_t Model::row_of(std::string_view id) const {
  int64_t low = 0;
  for (int64_t high = encoder_.n_items(); low < high;) {
    const int64_t middle = low + (high - low) / 2;
    if (text(middle) < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < encoder_.n_items() && text(low) == id ? low : -1;
}

namespace {

// Rows of items, sorted, of some lists one after another; unknown ones are left out.
struct SortedLists {
  int64_t* at;  // (n + 1)
  int32_t* items;

  void begin() { at[0] = 0; }
  void put(int64_t row, const int32_t* from, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      if (from[i] >= 0) items[at[row + 1]++] = from[i];
  }
  void finish(int64_t row) { std::sort(items + at[row], items + at[row + 1]); }
};

// An item among the k best, of which `found` are there; equal scores in the order of the items. Returns how many are.
int64_t insert(int32_t item, float score, int64_t k, int64_t found, int32_t* items, float* scores) {
  const auto before = [&](int64_t at) { return scores[at] > score || (scores[at] == score && items[at] < item); };
  if (found == k && before(k - 1)) return found;
  int64_t at = found < k ? found++ : found - 1;
  for (; at > 0 && !before(at - 1); --at) items[at] = items[at - 1], scores[at] = scores[at - 1];
  items[at] = item, scores[at] = score;
  return found;
}

float gained(float score, float gain) {  // log(exp(score) + exp(gain))
  const auto a = static_cast<double>(score), b = static_cast<double>(gain), greater = std::max(a, b);
  return b == -INFINITY ? score : static_cast<float>(greater + std::log(std::exp(a - greater) + std::exp(b - greater)));
}

constexpr int64_t kPointed = 6;  // floats for each event of a history

}  // namespace

void Model::recommend(const Request& r) const {
  const int64_t n = r.n, dim = encoder_.dim(), seen = r.histories.offsets[n];
  const bool points = encoder_.points() && !r.exclude_seen, apart = r.exclude_seen || points;  // from the others
  const int64_t denied = (apart ? seen : 0) + (r.deny_offsets != nullptr ? r.deny_offsets[n] : 0);
  const int64_t allowed = r.allow_offsets != nullptr ? r.allow_offsets[n] : 0;
  int64_t most = 0;  // events of a history that the pointer sees
  for (int64_t i = 0; i < n && points; ++i)
    most = std::max(most, std::min(r.histories.offsets[i + 1] - r.histories.offsets[i], encoder_.max_len()));
  const int64_t pointed = n * kPointed * most, lists = denied + allowed;
  const CallScratch memory(4 * (n + 2) + n * dim + lists + pointed + 32);
  SortedLists deny{reinterpret_cast<int64_t*>(memory.data()), nullptr}, allow{deny.at + n + 1, nullptr};
  float* h = memory.data() + 4 * (n + 2);
  deny.items = reinterpret_cast<int32_t*>(h + n * dim), allow.items = deny.items + denied;
  float* of_rows = h + n * dim + lists;

  deny.begin(), allow.begin();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t* at = r.histories.offsets + i;
    deny.at[i + 1] = deny.at[i], allow.at[i + 1] = allow.at[i];
    const int64_t from = points ? encoder_.window(r.histories.items, at[0], at[1]) : at[0];
    if (apart) deny.put(i, r.histories.items + from, at[1] - from);
    if (r.deny_offsets) deny.put(i, r.deny + r.deny_offsets[i], r.deny_offsets[i + 1] - r.deny_offsets[i]);
    if (r.allow_offsets) allow.put(i, r.allow + r.allow_offsets[i], r.allow_offsets[i + 1] - r.allow_offsets[i]);
    deny.finish(i), allow.finish(i);
  }
  if (r.h == nullptr) encoder_.encode(r.histories, n, h);

  const bool all = r.allow_offsets == nullptr;
  TopK args{r.h == nullptr ? h : r.h,
            encoder_.item_vectors(),
            encoder_.n_items(),
            dim,
            r.k,
            all ? nullptr : allow.at,
            deny.at,
            allow.items,
            deny.items,
            r.items,
            r.scores,
            quantized_};
  const Kernels& use = kernels();
  const auto topk = quantized_ != nullptr && all ? use.topk_quantized : use.topk;
  const auto block = [&](int64_t i) {
    topk(args, i * kRowBlock, std::min(n, (i + 1) * kRowBlock), thread_scratch(catalogue_scratch(dim, 0)));
  };
  if (n <= kRowBlock) {
    if (n > 0) block(0);
  } else {
    parallel_for((n + kRowBlock - 1) / kRowBlock, block);
  }
  if (points) {
    deny.begin();
    for (int64_t i = 0; i < n; ++i) {
      deny.at[i + 1] = deny.at[i];
      if (r.deny_offsets) deny.put(i, r.deny + r.deny_offsets[i], r.deny_offsets[i + 1] - r.deny_offsets[i]);
      deny.finish(i);
    }
    const auto row = [&](int64_t i) {
      point(r, args.h + i * dim, i, deny.at + i, deny.items, all ? nullptr : allow.items + allow.at[i],
            allow.at[i + 1] - allow.at[i], most, of_rows + i * kPointed * most);
    };
    if (n <= kRowBlock)
      for (int64_t i = 0; i < n; ++i) row(i);
    else
      parallel_for(n, row);
  }
  for (int64_t i = 0; i < n; ++i) {
    const int32_t* history = r.histories.items;
    const bool known = std::any_of(history + r.histories.offsets[i], history + r.histories.offsets[i + 1],
                                   [](int32_t item) { return item >= 0; });
    if (!known)
      popular(r, i, deny.items + deny.at[i], deny.at[i + 1] - deny.at[i], all ? nullptr : allow.items + allow.at[i],
              allow.at[i + 1] - allow.at[i]);
    r.flags[i] = static_cast<uint8_t>((known ? 0 : kPopular) | (r.items[i * r.k + r.k - 1] < 0 ? kShort : 0));
  }
}

// The items of a history, which the others were ranked without, find their places with what the pointer adds to them.
void Model::point(const Request& r, const float* h, int64_t row, const int64_t* deny_at, const int32_t* deny,
                  const int32_t* allow, int64_t allowed, int64_t most, float* memory) const {
  auto* gains = reinterpret_cast<Gain*>(memory);
  float *by_age = memory + 2 * most, *scores = by_age + most;
  auto *seen = reinterpret_cast<int32_t*>(scores + most), *ranked = seen + most;
  const int64_t* ends = r.histories.offsets + row;
  const int64_t n = encoder_.gains(h, r.histories.items + ends[0], ends[1] - ends[0], gains, by_age);
  int64_t at[] = {0, 0};
  for (int64_t i = 0; i < n; ++i)
    if (allow == nullptr || std::binary_search(allow, allow + allowed, gains[i].item)) seen[at[1]++] = gains[i].item;
  if (at[1] == 0) return;
  const int64_t dim = encoder_.dim();
  kernels().topk(
      {h, encoder_.item_vectors(), encoder_.n_items(), dim, at[1], at, deny_at, seen, deny, ranked, scores, nullptr}, 0,
      1, thread_scratch(catalogue_scratch(dim, 0)));
  int32_t* items = r.items + row * r.k;
  int64_t found = std::find(items, items + r.k, -1) - items;
  for (int64_t i = 0; i < at[1] && ranked[i] >= 0; ++i) {
    const Gain* gain =
        std::lower_bound(gains, gains + n, ranked[i], [](const Gain& a, int32_t item) { return a.item < item; });
    const float score = gained(scores[i], gain->gain);
    if (score == score) found = insert(ranked[i], score, r.k, found, items, r.scores + row * r.k);
  }
}

// The most popular items; equal ones in the order of the items.
void Model::popular(const Request& r, int64_t row, const int32_t* deny, int64_t denied, const int32_t* allow,
                    int64_t allowed) const {
  int32_t* items = r.items + row * r.k;
  float* scores = r.scores + row * r.k;
  int64_t found = 0;
  const auto meet = [&](int32_t item) {
    const auto score = static_cast<float>(popularity_[item]);
    if ((found == r.k && score <= scores[found - 1]) || std::binary_search(deny, deny + denied, item)) return;
    found = insert(item, score, r.k, found, items, scores);
  };
  if (allow == nullptr)
    for (int64_t item = 0; item < encoder_.n_items(); ++item) meet(static_cast<int32_t>(item));
  for (int64_t i = 0; i < allowed; ++i)
    if (i == 0 || allow[i] != allow[i - 1]) meet(allow[i]);
  for (; found < r.k; ++found) items[found] = -1, scores[found] = -std::numeric_limits<float>::infinity();
}

}  // namespace regard
