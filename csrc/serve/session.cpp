#include "serve/session.h"

#include <algorithm>

namespace regard {

Session::Session(std::shared_ptr<const Model> model)
    : model_(std::move(model)),
      h_(static_cast<size_t>(model_->encoder().dim())),
      kept_(static_cast<size_t>(model_->encoder().attentions())) {}

void Session::append(const int32_t* items, const int64_t* times, int64_t n) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool timed = model_->encoder().timed();
  const auto most = static_cast<size_t>(model_->encoder().max_len());
  const auto forget = static_cast<std::ptrdiff_t>(std::max<size_t>(1, most / 4));
  auto known = static_cast<size_t>(std::count_if(items, items + n, [](int32_t item) { return item >= 0; }));
  if (known == 0) return;
  auto window = items_;
  auto moments = times_;
  size_t settled = settled_;
  if (known >= most) window.clear(), moments.clear(), settled = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (items[i] < 0 || known-- > most) continue;
    if (window.size() == most) {
      window.erase(window.begin(), window.begin() + forget), settled = 0;
      if (timed) moments.erase(moments.begin(), moments.begin() + forget);
    }
    window.push_back(items[i]);
    if (timed) moments.push_back(times[i]);
  }
  const size_t settle = window.size() - static_cast<size_t>(timed);
  if (settle > settled + 4) settled = 0;         // at once is sooner than one by one
  items_.clear(), times_.clear(), settled_ = 0;  // if there is no memory, the session is empty and whole
  model_->encoder().extend(window.data(), moments.data(), static_cast<int64_t>(settle), timed ? moments.back() : 0,
                           static_cast<int64_t>(settled), kept_.data(), h_.data());
  items_ = std::move(window), times_ = std::move(moments), settled_ = settle;
}

void Session::recommend(Request request, int64_t asked_at) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto n = static_cast<int64_t>(items_.size());
  // What the newest event leaves in the cache is of this moment, and is written over by the next.
  model_->encoder().extend(items_.data(), times_.data(), n, asked_at, static_cast<int64_t>(settled_), kept_.data(),
                           h_.data());
  const int64_t ends[] = {0, n};
  request.histories = {items_.data(), ends, nullptr, nullptr};
  request.n = 1, request.h = h_.data();
  model_->recommend(request);
}

std::vector<int32_t> Session::window(std::vector<int64_t>* times) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (times != nullptr) *times = times_;
  return items_;
}

int64_t Session::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t bytes = sizeof *this + items_.capacity() * sizeof(int32_t) + times_.capacity() * sizeof(int64_t) +
                 h_.capacity() * sizeof(float);
  for (const KeysAndValues& of : kept_)
    bytes += sizeof of + (of.key_panels.capacity() + of.values.capacity()) * sizeof(float);
  return static_cast<int64_t>(bytes);
}

}  // namespace regard
