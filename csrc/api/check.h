// How every C function is written: `return guarded([&] { ...checks that throw...; parallel_for(...); });`
#pragma once
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "api/training.h"
#include "dispatch.h"
#include "pool.h"

namespace regard {

regard_status fail(regard_status status, const char* message) noexcept;  // keeps the message for regard_last_error()

template <class F>
regard_status guarded(F&& body) noexcept {
  try {
    body();
    return REGARD_OK;
  } catch (const std::invalid_argument& error) {
    return fail(REGARD_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(REGARD_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(REGARD_INTERNAL, error.what());
  } catch (...) {
    return fail(REGARD_INTERNAL, "unknown error");
  }
}

[[noreturn]] void invalid(const char* name, const std::string& expected, const std::string& got);

inline void require(const void* pointer, const char* name, int64_t size = 1) {
  if (pointer == nullptr && size > 0) invalid(name, "an array", "NULL");
}
inline void at_least(int64_t value, int64_t least, const char* name) {
  if (value < least) invalid(name, "at least " + std::to_string(least), std::to_string(value));
}
void check_offsets(const int64_t* offsets, int64_t n, const char* name);
void check_sequences(const int64_t* cu_seqlens, int64_t batch, int64_t n);  // of n rows
void check_ids(const int32_t* ids, int64_t n, int64_t n_ids, const char* name);
void check_catalogue(const float* h, const float* item_vectors, int64_t n, int64_t n_items, int64_t dim);
Dropout make_dropout(const regard_dropout& d);
Activation make_activation(int code);

// Work on n rows cut into parts of equal size. The cut depends on n alone, never on the number of threads.
struct Parts {
  int64_t n, size, count;
  Parts(int64_t rows, int64_t at_most_parts, int64_t least_rows) : n(rows) {
    const int64_t wanted = std::clamp<int64_t>(rows / std::max<int64_t>(least_rows, 1), 1, at_most_parts);
    size = (rows + wanted - 1) / wanted;
    count = size > 0 ? (rows + size - 1) / size : 0;
  }
  int64_t begin(int64_t part) const { return part * size; }
  int64_t end(int64_t part) const { return std::min(n, (part + 1) * size); }
  template <class F>
  void each(F&& body) const {  // body(part, begin, end)
    parallel_for(count, [&](int64_t part) { body(part, begin(part), end(part)); });
  }
};

// sums[c] += partial[0][c] + partial[1][c] + ... in this order.
template <class T>
void add_in_order(const std::vector<T>& partial, int64_t parts, int64_t width, float* sums) {
  Parts(width, 64, 4096).each([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = 0; p < parts; ++p) {
      const T* from = partial.data() + p * width;
      for (int64_t c = begin; c < end; ++c) sums[c] += static_cast<float>(from[c]);
    }
  });
}

}  // namespace regard
