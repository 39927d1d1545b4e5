// A trained model that answers: its encoder, its catalogue, the ids and the popularity of the items.
#pragma once
#include <string_view>

#include "serve/encoder.h"

namespace regard {

struct Request {
  Histories histories;
  int64_t n, k;
  bool exclude_seen;
  const int64_t *allow_offsets, *deny_offsets;  // (n + 1) or null
  const int32_t *allow, *deny;                  // items
  int32_t* items;                               // (n, k): best first, then -1
  float* scores;                                // (n, k): then -infinity
  uint8_t* flags;                               // (n)
  const float* h = nullptr;                     // (n, dim): the histories encoded, or null
};
constexpr uint8_t kPopular = 1, kShort = 2;

class Model {
 public:
  // Header and tensors as in a model file; `keep` holds the memory of the tensors. std::invalid_argument if they do not
  // fit together.
  Model(const Json& header, const Tensors& tensors, std::shared_ptr<const void> keep);

  const Encoder& encoder() const { return encoder_; }
  bool text_ids() const { return numbers_ == nullptr; }
  int64_t row_of(int64_t id) const;  // or -1
  int64_t row_of(std::string_view id) const;
  int64_t number(int64_t row) const { return numbers_[row]; }
  std::string_view text(int64_t row) const {
    return {bytes_ + offsets_[row], static_cast<size_t>(offsets_[row + 1] - offsets_[row])};
  }

  void recommend(const Request& request) const;

 private:
  void point(const Request& request, const float* h, int64_t row, const int64_t* deny_at, const int32_t* deny,
             const int32_t* allow, int64_t allowed, int64_t most, float* memory) const;
  void popular(const Request& request, int64_t row, const int32_t* deny, int64_t denied, const int32_t* allow,
               int64_t allowed) const;

  std::shared_ptr<const void> keep_;
  Encoder encoder_;
  const int64_t* numbers_ = nullptr;  // ids, sorted, or
  const char* bytes_ = nullptr;       // UTF-8, sorted
  const int64_t* offsets_ = nullptr;
  const int64_t* popularity_;
  const uint8_t* quantized_ = nullptr;
};

}  // namespace regard
