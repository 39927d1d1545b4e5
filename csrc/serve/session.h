// The history of a user who is here: keys and values are kept, so that an event costs what is new in it.
#pragma once
#include <mutex>

#include "serve/model.h"

namespace regard {

class Session {
 public:
  explicit Session(std::shared_ptr<const Model> model);

  const Model& model() const { return *model_; }

  // Events one after another, -1 for one that is not known and is skipped. Before an event that finds max_len events
  // the oldest quarter of them is forgotten, and all that is left is encoded anew.
  // times: (n) whole seconds, of a timed model.
  void append(const int32_t* items, const int64_t* times, int64_t n);
  void recommend(Request request, int64_t asked_at);  // without histories: those of the session
  // The events that it knows, oldest first, and their times if it has them: what a session can be made of again.
  std::vector<int32_t> window(std::vector<int64_t>* times) const;
  int64_t bytes() const;

 private:
  const std::shared_ptr<const Model> model_;
  mutable std::mutex mutex_;
  std::vector<int32_t> items_;
  std::vector<int64_t> times_;
  // Events in the cache. Of a timed model the newest is not among them: the time of the next event, which it sees, is
  // not known yet.
  size_t settled_ = 0;
  std::vector<float> h_;
  std::vector<KeysAndValues> kept_;  // of each attention
};

}  // namespace regard
