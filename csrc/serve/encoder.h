// A model's list of steps (python/regard/layers.py), run on histories: every kind forward, without training.
//
// The steps are checked once, when an encoder is made; a run checks nothing and, but for the first of a thread,
// allocates nothing. Neighbours that take one pass are joined, and after the last attention only the newest event of a
// history goes on. A result does not depend on what else is in the batch, nor on the number of threads.
#pragma once
#include <map>
#include <memory>

#include "dispatch.h"
#include "serve/json.h"
#include "serve/tensors.h"

namespace regard {

struct Histories {          // rows of items, -1 for one that is not known and is skipped
  const int32_t* items;     // (offsets[n])
  const int64_t* offsets;   // (n + 1)
  const int64_t* times;     // (offsets[n]) whole seconds; null where the model is not timed
  const int64_t* asked_at;  // (n)
};

struct KeysAndValues {                    // of one attention, of the events of one history; they grow with it
  std::vector<float> key_panels, values;  // as NewestAttention wants them
};

struct Step {
  enum class Kind { embed, position, gap, norm, rms_norm, linear, gated, attention, save, add, gate_add };
  Kind kind;
  int64_t n_in = 0, n_out = 0;
  bool saves = false;  // a norm: x is saved before it
  bool adds = false;   // a linear map: what was saved last is added
  Activation activation = kIdentity;
  float number = 0.0f;                             // scale or eps
  const float *weight = nullptr, *bias = nullptr;  // of embed, position, gap, norms
  LinearMap maps[3] = {};                          // of linear, gated, attention (query, key, value), gate_add
  int64_t n_maps = 0, heads = 0;
  bool newest = false;
  const float *distance_bias = nullptr, *time_bias = nullptr;
  int64_t bias_len = 0, n_buckets = 0;
  // Of the last attention, one for each head: query to what is compared with a row of x itself, sum of rows to value.
  std::vector<LinearMap> asks, tells;
};

struct Gain {  // exp of an item's score gains exp(gain): what the pointer adds for an item of a history
  int32_t item;
  float gain;
};

class Encoder {
 public:
  // steps: the list of the header. The tensors must outlive the encoder. std::invalid_argument if they do not fit.
  Encoder(const std::vector<Json>& steps, int64_t max_len, const Tensors& tensors);

  int64_t n_items() const { return n_items_; }
  int64_t dim() const { return dim_; }
  int64_t max_len() const { return max_len_; }
  bool timed() const { return timed_; }
  const float* item_vectors() const { return item_vectors_; }  // that are scored: (n_items, dim)

  // Of the newest max_len known events of each of n histories, h: (n, dim), 0 where there is none.
  void encode(const Histories& histories, int64_t n, float* h) const;

  // The same of one history of n known events, n up to max_len, whose first `known` have left their keys and values in
  // `kept`, one for each attention; the others leave theirs. times: (n), of a timed model.
  void extend(const int32_t* items, const int64_t* times, int64_t n, int64_t asked_at, int64_t known,
              KeysAndValues* kept, float* h) const;
  int64_t attentions() const;

  // Where the newest max_len known of the events [begin, end) begin.
  int64_t window(const int32_t* items, int64_t begin, int64_t end) const;

  bool points() const { return pointer_.packed != nullptr; }
  // With a pointer: the items among the newest max_len known of n events, each once and sorted, with what they gain;
  // returns their number. gains, by_age: room for min(n, max_len).
  int64_t gains(const float* h, const int32_t* items, int64_t n, Gain* gains, float* by_age) const;

 private:
  struct Block;
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };

  void add_step(const Json& step, const Tensors& tensors);
  const float* pack(const float* rows, int64_t n_out, int64_t n_in);
  void add_short_way(Step& step);
  void add_pointer(const std::string& name, const Tensors& tensors);
  void add_map(Step& step, const std::string& weight, const std::string& bias, const Tensors& tensors);
  int64_t encode_some(const Histories& histories, int64_t begin, int64_t end, float* h) const;
  void reserve(Block& block, int64_t events) const;
  void run(Block& block) const;
  void attend(const Step& step, Block& block) const;
  void attend_newest(const Step& step, Block& block) const;
  void narrow(Block& block) const;

  std::vector<Step> steps_;
  std::vector<std::unique_ptr<float, Free>> packed_;
  std::map<const float*, const float*> packed_maps_;  // of each weight of a linear map
  const float* item_vectors_ = nullptr;
  LinearMap pointer_ = {};  // from h to a score for each age
  int64_t n_items_ = 0, dim_ = 0, max_len_;
  int64_t widest_ = 0, width_ = 0, most_heads_ = 1, head_dim_ = 1;  // head_dim_: the largest
  std::vector<int64_t> saved_, at_newest_;  // widths of what is saved: while the list is read, at the last attention
  int64_t most_saved_ = 0;
  bool timed_ = false, narrowed_ = false;
};

}  // namespace regard
