#include "serve/session.h"

#include <algorithm>
#include <stdexcept>

namespace regard {

Session::Session(std::shared_ptr<const Model> model)
    : model_(std::move(model)),
      h_(static_cast<size_t>(model_->encoder().dim())),
      kept_(static_cast<size_t>(model_->encoder().attentions())) {
  if (model_->encoder().timed())
    throw std::invalid_argument("model: expected one without time bias, whose sessions cannot be kept");
}

void Session::append(const int32_t* items, int64_t n) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto most = static_cast<size_t>(model_->encoder().max_len());
  const size_t forget = std::max<size_t>(1, most / 4);
  auto window = items_;
  size_t kept = window.size();  // of the window, in the cache
  auto known = static_cast<size_t>(std::count_if(items, items + n, [](int32_t item) { return item >= 0; }));
  if (known >= most) window.clear(), kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (items[i] < 0 || known-- > most) continue;
    if (window.size() == most) window.erase(window.begin(), window.begin() + static_cast<int64_t>(forget)), kept = 0;
    window.push_back(items[i]);
  }
  if (window.size() == kept) return;
  if (window.size() > kept + 4) kept = 0;  // at once is sooner than one by one
  items_.clear();                          // if there is no memory, the session is empty and whole
  model_->encoder().extend(window.data(), static_cast<int64_t>(window.size()), static_cast<int64_t>(kept), kept_.data(),
                           h_.data());
  items_ = std::move(window);
}

void Session::recommend(Request request) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int64_t ends[] = {0, static_cast<int64_t>(items_.size())};
  request.histories = {items_.data(), ends, nullptr, nullptr};
  request.n = 1, request.h = h_.data();
  model_->recommend(request);
}

std::vector<int32_t> Session::window() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return items_;
}

int64_t Session::bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t bytes = sizeof *this + items_.capacity() * sizeof(int32_t) + h_.capacity() * sizeof(float);
  for (const KeysAndValues& of : kept_)
    bytes += sizeof of + (of.key_panels.capacity() + of.values.capacity()) * sizeof(float);
  return static_cast<int64_t>(bytes);
}

}  // namespace regard
