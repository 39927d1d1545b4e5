#include "serve/encoder.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "api/check.h"

namespace regard {

namespace {

constexpr int64_t kMostSaved = 16;     // of saves that are open
constexpr int64_t kWidestHead = 256;   // of the attention kernel
constexpr int64_t kGapBuckets = 32;    // doublings that 2^31 seconds have
constexpr int64_t kAtWork = 8;         // buffers that a step has in use beside what is saved
constexpr int64_t kLargest = 1 << 20;  // of a width
constexpr int64_t kHistories = 16;     // in a task
constexpr int64_t kFloats = 1 << 15;   // of a buffer, where histories are short: what stays in the caches

Activation activation_of(const Json& step) {
  const Json& name = step.at("activation");
  if (name.is_null()) return kIdentity;
  static constexpr const char* kNames[] = {"relu", "gelu", "silu", "sigmoid"};
  for (int code = 0; code < 4; ++code)
    if (name.text() == kNames[code]) return static_cast<Activation>(code + 1);
  throw std::invalid_argument("activation '" + name.text() + "' is not known");
}

float small_number(const Json& step, const char* key) {
  const double value = step.number(key);
  if (!std::isfinite(value) || std::fabs(value) > 1e30)
    throw std::invalid_argument(std::string(key) + ": expected a finite number");
  return static_cast<float>(value);
}

}  // namespace

// ---- reading the list -----------------------------------------------------------------------------------------------

Encoder::Encoder(const std::vector<Json>& steps, int64_t max_len, const Tensors& tensors) : max_len_(max_len) {
  if (max_len < 1 || max_len > kLargest) invalid("max_len", "1 to 1048576", std::to_string(max_len));
  if (steps.size() < 2 || steps.size() > 10000) throw std::invalid_argument("steps: expected 2 to 10000 of them");
  for (size_t i = 0; i < steps.size(); ++i) {
    try {
      const std::string& kind = steps[i].text("kind");
      if ((i == 0) != (kind == "embed")) throw std::invalid_argument("expected embed first and nowhere else");
      if ((i + 1 == steps.size()) != (kind == "score")) throw std::invalid_argument("expected score at the end alone");
      add_step(steps[i], tensors);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("step " + std::to_string(i) + ": " + error.what());
    }
  }
}

const float* Encoder::pack(const float* rows, int64_t n_out, int64_t n_in) {
  const int64_t floats = (n_out + kPanel - 1) / kPanel * kPanel * n_in;
  auto* panels = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(floats) * sizeof(float)));
  if (panels == nullptr) throw std::bad_alloc();
  packed_.emplace_back(panels);
  kernels().pack_panels(rows, n_in, n_out, n_in, panels);
  return panels;
}

// Where one query is asked for a history, keys and values of its other events are not needed: with k = K x + b and
// v = V x + c, q·k = (K' q)·x + q·b, whose last term no softmax sees, and sum p v = V (sum p x) + c.
void Encoder::add_short_way(Step& step) {
  const int64_t d = step.n_out / step.heads, width = step.n_in;
  if (width > kWidestHead) return;
  std::vector<float> turned(static_cast<size_t>(width * d));
  for (int64_t head = 0; head < step.heads; ++head) {
    const float *key = step.maps[1].weight + head * d * width, *value = step.maps[2].weight + head * d * width;
    for (int64_t r = 0; r < d; ++r)
      for (int64_t c = 0; c < width; ++c) turned[static_cast<size_t>(c * d + r)] = key[r * width + c];
    step.asks.push_back({nullptr, nullptr, pack(turned.data(), width, d), nullptr, nullptr, nullptr});
    step.tells.push_back({value, step.maps[2].bias + head * d, pack(value, d, width), nullptr, nullptr, nullptr});
  }
  head_dim_ = std::max(head_dim_, width);
}

void Encoder::add_map(Step& step, const std::string& weight, const std::string& bias, const Tensors& tensors) {
  const float* rows = tensors.floats(weight, {Tensors::kAny, width_});
  const int64_t n_out = tensors.get(weight, Type::f32, {Tensors::kAny, width_}).shape[0];
  if (n_out > kLargest) throw std::invalid_argument("tensor '" + weight + "' is too wide");
  if (step.n_maps > 0 && n_out != step.n_out)
    throw std::invalid_argument("tensor '" + weight + "': expected " + std::to_string(step.n_out) + " rows, got " +
                                std::to_string(n_out));
  step.n_in = width_, step.n_out = n_out;
  const float*& packed = packed_maps_[rows];  // once, however many steps have it
  if (packed == nullptr) packed = pack(rows, n_out, width_);
  step.maps[step.n_maps++] = {rows, tensors.floats(bias, {n_out}), packed, nullptr, nullptr, nullptr};
}

void Encoder::add_step(const Json& json, const Tensors& tensors) {
  const std::string& kind = json.text("kind");
  Step step{};
  Step* last = steps_.empty() ? nullptr : &steps_.back();
  const auto map = [&](const char* part) {
    const std::string& name = json.text(part);
    add_map(step, name + ".weight", name + ".bias", tensors);
  };
  const auto take_saved = [&](int64_t width) {
    if (saved_.empty()) throw std::invalid_argument("expected a save before it that is not taken yet");
    if (saved_.back() != width) throw std::invalid_argument("what was saved has another width");
    saved_.pop_back();
  };
  if (kind == "dropout") return;
  if (kind == "embed") {
    step.kind = Step::Kind::embed;
    const Tensor& table = tensors.get(json.text("table"), Type::f32, {Tensors::kAny, Tensors::kAny});
    if (table.shape[0] > INT32_MAX || table.shape[1] > kLargest) throw std::invalid_argument("the table is too large");
    n_items_ = table.shape[0], width_ = table.shape[1];
    step.weight = static_cast<const float*>(table.data), step.number = small_number(json, "scale");
  } else if (kind == "position") {
    step.kind = Step::Kind::position;
    const Tensor& table = tensors.get(json.text("weight"), Type::f32, {Tensors::kAny, width_});
    if (table.shape[0] < max_len_) throw std::invalid_argument("expected a row for each of max_len places");
    if (narrowed_) throw std::invalid_argument("expected no position after the last attention");
    step.weight = static_cast<const float*>(table.data);
  } else if (kind == "gap") {
    step.kind = Step::Kind::gap;
    const Tensor& table = tensors.get(json.text("weight"), Type::f32, {Tensors::kAny, width_});
    if (table.shape[0] < 1 || table.shape[0] > kGapBuckets)
      throw std::invalid_argument("gap: expected 1 to 32 buckets");
    if (narrowed_) throw std::invalid_argument("expected no gap after the last attention");
    step.weight = static_cast<const float*>(table.data), step.n_buckets = table.shape[0];
    timed_ = true;
  } else if (kind == "norm" || kind == "rms_norm") {
    step.kind = kind == "norm" ? Step::Kind::norm : Step::Kind::rms_norm;
    step.weight = tensors.floats(json.text("weight"), {width_});
    if (kind == "norm") step.bias = tensors.floats(json.text("bias"), {width_});
    step.number = small_number(json, "eps");
    if (step.number < 0) throw std::invalid_argument("eps: expected at least 0");
    if (last != nullptr && last->kind == Step::Kind::save) steps_.pop_back(), step.saves = true;
  } else if (kind == "linear") {
    step.kind = Step::Kind::linear;
    step.activation = activation_of(json);
    add_map(step, json.text("weight"), json.text("bias"), tensors);
  } else if (kind == "gated") {
    step.kind = Step::Kind::gated;
    step.activation = activation_of(json);
    map("gate"), map("value");
  } else if (kind == "attention") {
    step.kind = Step::Kind::attention;
    if (narrowed_) throw std::invalid_argument("expected newest in the last attention alone");
    map("query"), map("key"), map("value");
    step.heads = json.whole("heads"), step.newest = narrowed_ = json.flag("newest");
    if (step.heads < 1 || step.n_out % step.heads != 0 || step.n_out / step.heads > kWidestHead)
      throw std::invalid_argument("heads: expected a divisor of the width, heads at most 256 wide");
    if (json.find("distance_bias") != nullptr) {
      const Tensor& table = tensors.get(json.text("distance_bias"), Type::f32, {step.heads, Tensors::kAny});
      step.distance_bias = static_cast<const float*>(table.data), step.bias_len = table.shape[1];
    }
    if (json.find("time_bias") != nullptr) {
      const Tensor& table = tensors.get(json.text("time_bias"), Type::f32, {step.heads, Tensors::kAny});
      if (table.shape[1] > kTimeBuckets) throw std::invalid_argument("time_bias: expected at most 128 buckets");
      step.time_bias = static_cast<const float*>(table.data), step.n_buckets = table.shape[1];
      timed_ = true;
    }
    head_dim_ = std::max(head_dim_, step.n_out / step.heads), most_heads_ = std::max(most_heads_, step.heads);
    if (step.newest) at_newest_ = saved_, add_short_way(step);
  } else if (kind == "save") {
    step.kind = Step::Kind::save;
    saved_.push_back(width_);
    if (saved_.size() > kMostSaved) throw std::invalid_argument("expected fewer saves that are not taken yet");
    most_saved_ = std::max(most_saved_, static_cast<int64_t>(saved_.size()));
  } else if (kind == "add") {
    take_saved(width_);
    if (last != nullptr && last->kind == Step::Kind::linear && !last->adds && last->activation == kIdentity) {
      last->adds = true;
      return;
    }
    step.kind = Step::Kind::add;
  } else if (kind == "gate_add") {
    step.kind = Step::Kind::gate_add;
    take_saved(width_);
    add_map(step, json.text("weight"), json.text("bias"), tensors);
    if (step.n_out != width_) throw std::invalid_argument("expected a square matrix");
  } else if (kind == "score") {
    if (!narrowed_) throw std::invalid_argument("expected an attention with newest before it");
    dim_ = width_;
    item_vectors_ = tensors.floats(json.text("table"), {n_items_, dim_});
    if (json.find("pointer") != nullptr) add_pointer(json.text("pointer"), tensors);
    return;
  } else {
    throw std::invalid_argument("kind '" + kind + "' is not known");
  }
  if (step.n_in == 0) step.n_in = step.n_out = width_;
  width_ = step.n_out;
  widest_ = std::max(widest_, width_);
  steps_.push_back(step);
}

// ---- running it -----------------------------------------------------------------------------------------------------

// Some histories on their way through the steps, in a thread's scratch memory.
struct Encoder::Block {
  const Kernels& use = kernels();
  int64_t n = 0, rows = 0;  // histories; events, or after the last attention histories
  int64_t cu[kHistories + 1], each[kHistories + 1];
  int32_t* items = nullptr;
  int64_t *times = nullptr, *next_times = nullptr;
  float* x = nullptr;
  float* saved[kMostSaved];
  int64_t n_saved = 0;
  float* unused[kMostSaved + kAtWork];
  int64_t n_unused = 0;
  double* lse = nullptr;
  float* scratch = nullptr;
  KeysAndValues* kept = nullptr;  // of the next attention, for one history whose events before `first` are there
  int64_t first = 0;
  const int64_t* all_times = nullptr;  // of that history

  float* take() { return unused[--n_unused]; }
  void give(float* buffer) { unused[n_unused++] = buffer; }
  // Keys and values of the rows from `first` on. Memory grows to twice what it was; all of it is finite.
  void keep(const Step& step, const float* keys, const float* values) const {
    const int64_t width = step.n_out, events = first + cu[1];
    const auto floats = static_cast<size_t>((events + kPanel - 1) / kPanel * kPanel * width);
    if (kept->key_panels.size() < floats) kept->key_panels.resize(floats), kept->values.resize(floats + kPanel);
    for (int64_t i = 0; i < cu[1]; ++i) {
      const int64_t place = first + i;
      float* panel = kept->key_panels.data() + place / kPanel * kPanel * width + place % kPanel;
      for (int64_t c = 0; c < width; ++c) panel[c * kPanel] = keys[i * width + c];
    }
    std::copy_n(values, cu[1] * width, kept->values.data() + first * width);
  }
  void newest(const float* from, int64_t width, float* to) const {  // to: may be from
    for (int64_t s = 0; s < n; ++s) std::copy_n(from + (cu[s + 1] - 1) * width, width, to + s * width);
  }
  void replace(float* y) {  // x by y
    give(x);
    x = y;
  }
  void linear(const Step& step, int64_t from_map, int64_t count, const float* from, int64_t from_rows, float* const* to,
              const float* residual) const {
    LinearMap maps[3];
    std::copy_n(step.maps + from_map, count, maps);
    for (int64_t m = 0; m < count; ++m) maps[m].y = to[m];
    const Activation activation = step.kind == Step::Kind::linear ? step.activation : kIdentity;
    use.linear_forward({from, maps, count, step.n_in, step.n_out, activation, nullptr, residual, nullptr, false}, 0,
                       from_rows);
  }
};

namespace {
int64_t whole_lines(int64_t floats) { return (floats + 15) / 16 * 16; }

// Of the seconds from one time to a later one: whole doublings of 1 + seconds.
int64_t bucket(int64_t from, int64_t to, int64_t n_buckets) {
  const uint64_t apart = to > from ? static_cast<uint64_t>(to) - static_cast<uint64_t>(from) : 0;
  const float x = static_cast<float>(std::min<uint64_t>(apart, INT32_MAX)) + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return std::min<int64_t>((bits - 0x3F800000) >> 23, n_buckets - 1);
}
}  // namespace

void Encoder::encode(const Histories& histories, int64_t n, float* h) const {
  const int64_t tasks = (n + kHistories - 1) / kHistories;
  const auto task = [&](int64_t i) {
    const int64_t end = std::min(n, (i + 1) * kHistories);
    for (int64_t begin = i * kHistories; begin < end;) begin = encode_some(histories, begin, end, h);
  };
  if (tasks == 1) return task(0);  // without the pool, and without allocating
  parallel_for(tasks, task);
}

// Memory for so many events, of the thread's own.
void Encoder::reserve(Block& block, int64_t events) const {
  // Of an event: the buffers, times as two floats each, lse as two a head, the item.
  const int64_t buffers = most_saved_ + kAtWork, lines = whole_lines(events);
  const int64_t event = buffers * widest_ + 2 * most_heads_ + 5, most = std::max(lines, kFloats / dim_);
  float* memory = thread_scratch(most * event + attention_scratch(head_dim_, 2 * max_len_) + 64);
  const auto piece = [&](int64_t floats) { return std::exchange(memory, memory + lines * floats); };
  for (int64_t b = 0; b < buffers; ++b) block.give(piece(widest_));
  block.lse = reinterpret_cast<double*>(piece(2 * most_heads_));
  block.times = reinterpret_cast<int64_t*>(piece(2));
  block.next_times = reinterpret_cast<int64_t*>(piece(2));
  block.items = reinterpret_cast<int32_t*>(piece(1));
  block.scratch = memory;
  block.rows = events;
}

// Histories from `begin` on, as many as the caches hold and at least one; returns the first that is left.
int64_t Encoder::encode_some(const Histories& all, int64_t begin, int64_t end, float* h) const {
  Block block;
  int64_t lengths[kHistories], total = 0, last = begin;
  for (; last < end; ++last) {
    int64_t length = 0;
    for (int64_t e = all.offsets[last + 1]; e > all.offsets[last] && length < max_len_;) length += all.items[--e] >= 0;
    if (last > begin && total + length > kFloats / dim_) break;
    lengths[last - begin] = length, total += length;
  }
  reserve(block, total);
  block.cu[0] = 0;
  for (int64_t i = begin; i < last; ++i) {
    int64_t length = lengths[i - begin];
    if (length == 0) {
      std::fill_n(h + i * dim_, dim_, 0.0f);
      continue;
    }
    int64_t to = block.cu[block.n] + length, next = timed_ ? all.asked_at[i] : 0;
    block.each[block.n] = block.n;
    block.cu[++block.n] = to;
    for (int64_t e = all.offsets[i + 1]; length > 0;) {
      if (all.items[--e] < 0) continue;
      block.items[--to] = all.items[e], --length;
      if (timed_) block.times[to] = all.times[e], block.next_times[to] = next, next = all.times[e];
    }
  }
  block.each[block.n] = block.n;
  if (block.n == 0) return last;
  run(block);
  const float* row = block.x;
  for (int64_t i = begin; i < last; ++i)
    if (lengths[i - begin] > 0) std::copy_n(row, dim_, h + i * dim_), row += dim_;
  return last;
}

void Encoder::run(Block& block) const {
  const Kernels& use = block.use;
  block.x = block.take();
  for (const Step& step : steps_) {
    const int64_t rows = block.rows, size = rows * step.n_in;
    switch (step.kind) {
      case Step::Kind::embed:
        use.embedding_forward(step.weight, block.items, step.n_out, step.number, block.x, 0, rows);
        break;
      case Step::Kind::position:
        for (int64_t s = 0; s < block.n; ++s) {
          float* x = block.x + block.cu[s] * step.n_in;
          const float* places = step.weight + block.first * step.n_in;
          for (int64_t i = 0; i < (block.cu[s + 1] - block.cu[s]) * step.n_in; ++i) x[i] += places[i];
        }
        break;
      case Step::Kind::gap:
        for (int64_t i = 0; i < rows; ++i) {
          const float* y = step.weight + bucket(block.times[i], block.next_times[i], step.n_buckets) * step.n_in;
          for (int64_t c = 0; c < step.n_in; ++c) block.x[i * step.n_in + c] += y[c];
        }
        break;
      case Step::Kind::norm:
      case Step::Kind::rms_norm: {
        float *y = block.take(), *mean = block.take(), *rstd = block.take();
        const auto forward = step.kind == Step::Kind::norm ? use.layer_norm_forward : use.rms_norm_forward;
        forward(block.x, step.weight, step.bias, step.number, step.n_in, y, mean, rstd, 0, rows);
        block.give(mean), block.give(rstd);
        if (step.saves)
          block.saved[block.n_saved++] = block.x, block.x = y;
        else
          block.replace(y);
        break;
      }
      case Step::Kind::linear: {
        float* y = block.take();
        float* residual = step.adds ? block.saved[--block.n_saved] : nullptr;
        block.linear(step, 0, 1, block.x, rows, &y, residual);
        if (residual != nullptr) block.give(residual);
        block.replace(y);
        break;
      }
      case Step::Kind::gated: {
        float* both[] = {block.take(), block.take()};
        block.linear(step, 0, 2, block.x, rows, both, nullptr);
        use.gate_forward(step.activation, both[0], both[1], both[0], 0, rows * step.n_out);
        block.give(both[1]);
        block.replace(both[0]);
        break;
      }
      case Step::Kind::attention:
        attend(step, block);
        break;
      case Step::Kind::save:
        block.saved[block.n_saved] = block.take();
        std::copy_n(block.x, size, block.saved[block.n_saved++]);
        break;
      case Step::Kind::add: {
        float* saved = block.saved[--block.n_saved];
        for (int64_t i = 0; i < size; ++i) block.x[i] += saved[i];
        block.give(saved);
        break;
      }
      case Step::Kind::gate_add: {
        float *saved = block.saved[--block.n_saved], *gate = block.take();
        block.linear(step, 0, 1, saved, rows, &gate, nullptr);
        use.gate_forward(kSigmoid, gate, block.x, gate, 0, size);
        for (int64_t i = 0; i < size; ++i) gate[i] += saved[i];
        block.give(saved);
        block.replace(gate);
        break;
      }
    }
  }
}

// Only the newest events of what was saved are needed from now on.
void Encoder::narrow(Block& block) const {
  for (int64_t i = 0; i < block.n_saved; ++i)
    block.newest(block.saved[i], at_newest_[static_cast<size_t>(i)], block.saved[i]);
  for (int64_t s = 0; s < block.n && timed_; ++s) block.next_times[s] = block.next_times[block.cu[s + 1] - 1];
  block.rows = block.n;
}

void Encoder::attend_newest(const Step& step, Block& block) const {
  const int64_t n = block.n, d = step.n_out / step.heads, width = step.n_in;
  float *newest = block.take(), *q = block.take(), *part = block.take(), *asked = block.take(), *told = block.take();
  float* out = block.take();
  block.newest(block.x, width, newest);
  narrow(block);
  block.linear(step, 0, 1, newest, n, &q, nullptr);
  const auto map = [&](LinearMap linear, const float* x, int64_t n_in, int64_t n_out, float* y) {
    linear.y = y;
    block.use.linear_forward({x, &linear, 1, n_in, n_out, kIdentity, nullptr, nullptr, nullptr, false}, 0, n);
  };
  for (int64_t head = 0; head < step.heads; ++head) {
    for (int64_t i = 0; i < n; ++i) std::copy_n(q + i * step.n_out + head * d, d, part + i * d);
    map(step.asks[static_cast<size_t>(head)], part, d, width, asked);
    Attention a{};
    a.q = asked, a.k = a.v = block.x, a.out = told, a.lse = block.lse;
    a.cu_q = block.each, a.cu_k = block.cu, a.n_heads = 1, a.head_dim = width, a.causal = true;
    a.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
    if (step.distance_bias != nullptr) a.bias = step.distance_bias + head * step.bias_len, a.bias_len = step.bias_len;
    if (step.time_bias != nullptr) {
      a.time_bias = step.time_bias + head * step.n_buckets, a.n_buckets = step.n_buckets;
      a.times_q = block.next_times, a.times_k = block.times;
    }
    block.use.attention_forward(a, 0, n, block.scratch);
    map(step.tells[static_cast<size_t>(head)], told, width, d, part);
    for (int64_t i = 0; i < n; ++i) std::copy_n(part + i * d, d, out + i * step.n_out + head * d);
  }
  for (float* buffer : {newest, q, part, asked, told}) block.give(buffer);
  block.replace(out);
}

void Encoder::attend(const Step& step, Block& block) const {
  if (step.newest && block.kept == nullptr && !step.asks.empty()) return attend_newest(step, block);
  float* maps[] = {block.take(), block.take(), block.take()};
  if (step.newest) {
    block.linear(step, 1, 2, block.x, block.rows, maps + 1, nullptr);
    block.newest(block.x, step.n_in, block.x);
    narrow(block);
    block.linear(step, 0, 1, block.x, block.rows, maps, nullptr);
  } else {
    block.linear(step, 0, 3, block.x, block.rows, maps, nullptr);
  }
  float* out = block.take();
  const int64_t head_dim = step.n_out / step.heads;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  if (block.kept != nullptr) block.keep(step, maps[1], maps[2]);
  if (block.first > 0) {
    const KeysAndValues& kept = *block.kept;
    block.use.attention_newest(
        {maps[0], kept.key_panels.data(), kept.values.data(), out, block.first + 1, step.heads, head_dim, scale,
         step.distance_bias, step.bias_len, step.time_bias, block.all_times, step.n_buckets, block.next_times[0]},
        block.scratch);
  } else {
    Attention a{};
    a.q = maps[0], a.k = maps[1], a.v = maps[2], a.out = out, a.lse = block.lse;
    a.cu_q = step.newest ? block.each : block.cu, a.cu_k = block.cu;
    a.n_heads = step.heads, a.head_dim = head_dim, a.softmax_scale = scale, a.causal = true;
    a.bias = step.distance_bias, a.bias_len = step.bias_len;
    a.time_bias = step.time_bias, a.n_buckets = step.n_buckets;
    if (step.time_bias != nullptr) a.times_q = block.next_times, a.times_k = block.times;
    block.use.attention_forward(a, 0, block.n * step.heads, block.scratch);
  }
  if (block.kept != nullptr) ++block.kept;
  for (float* map : maps) block.give(map);
  block.replace(out);
}

// ---- a history that grows -------------------------------------------------------------------------------------------

int64_t Encoder::attentions() const {
  return std::count_if(steps_.begin(), steps_.end(),
                       [](const Step& step) { return step.kind == Step::Kind::attention; });
}

void Encoder::extend(const int32_t* items, const int64_t* times, int64_t n, int64_t asked_at, int64_t known,
                     KeysAndValues* kept, float* h) const {
  while (known < n) {
    Block block;
    reserve(block, known > 0 ? 1 : n);
    block.kept = kept, block.first = known;
    block.n = 1, block.cu[0] = block.each[0] = 0, block.cu[1] = block.rows, block.each[1] = 1;
    block.all_times = times;
    std::copy_n(items + known, block.rows, block.items);
    for (int64_t i = 0; i < block.rows && timed_; ++i) {
      block.times[i] = times[known + i];
      block.next_times[i] = known + i + 1 < n ? times[known + i + 1] : asked_at;
    }
    known += block.rows;
    run(block);
    if (known == n) std::copy_n(block.x, dim_, h);
  }
}

}  // namespace regard
