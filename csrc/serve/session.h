// The history of a user who is here: keys and values are kept, so that an event costs what is new in it.
#pragma once
#include <mutex>

#include "serve/model.h"

namespace regard {

class Session {
 public:
  // std::invalid_argument for a model with a time bias: when the next event comes is known when it comes, and changes
  // what the event before it was.
  explicit Session(std::shared_ptr<const Model> model);

  const Model& model() const { return *model_; }

  // Events one after another, -1 for one that is not known and is skipped. Before an event that finds max_len events
  // the oldest quarter of them is forgotten, and all that is left is encoded anew.
  void append(const int32_t* items, int64_t n);
  void recommend(Request request) const;  // without histories: those of the session
  std::vector<int32_t> window() const;    // the events that it knows, oldest first; what a session can be made of again
  int64_t bytes() const;

 private:
  const std::shared_ptr<const Model> model_;
  mutable std::mutex mutex_;
  std::vector<int32_t> items_;
  std::vector<float> h_;
  std::vector<KeysAndValues> kept_;  // of each attention
};

}  // namespace regard
