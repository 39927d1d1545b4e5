#include <cstdio>

#include "api/check.h"
#include "api/dropout_key.h"

namespace regard {
namespace {

thread_local char last_error[512] = "";
constexpr int kAbiVersion = 0;

std::string joined(const std::vector<const Kernels*>& sets) {
  std::string names;
  for (const Kernels* set : sets) names += (names.empty() ? "" : " ") + std::string(set->name);
  return names;
}

}  // namespace

regard_status fail(regard_status status, const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", message);
  return status;
}

void invalid(const char* name, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + got);
}

void check_offsets(const int64_t* offsets, int64_t n, const char* name) {
  require(offsets, name);
  if (offsets[0] != 0) invalid(name, "to start with 0", std::to_string(offsets[0]));
  for (int64_t i = 0; i < n; ++i)
    if (offsets[i + 1] < offsets[i])
      invalid(name, "offsets that never fall",
              std::to_string(offsets[i]) + " before " + std::to_string(offsets[i + 1]) + " at " + std::to_string(i));
}

void check_sequences(const int64_t* cu_seqlens, int64_t batch, int64_t n) {
  at_least(batch, 0, "batch");
  check_offsets(cu_seqlens, batch, "cu_seqlens");
  if (cu_seqlens[batch] != n)
    invalid("cu_seqlens", "an end of " + std::to_string(n), std::to_string(cu_seqlens[batch]));
}

void check_ids(const int32_t* ids, int64_t n, int64_t n_ids, const char* name) {
  require(ids, name, n);
  for (int64_t i = 0; i < n; ++i)
    if (ids[i] < 0 || ids[i] >= n_ids)
      invalid(name, "rows from 0 to " + std::to_string(n_ids - 1),
              std::to_string(ids[i]) + " at place " + std::to_string(i));
}

void check_catalogue(const float* h, const float* item_vectors, int64_t n, int64_t n_items, int64_t dim) {
  at_least(n, 0, "n");
  at_least(n_items, 1, "n_items");
  at_least(dim, 1, "dim");
  require(h, "h", n);
  require(item_vectors, "item_vectors");
  if (n_items > INT32_MAX) invalid("n_items", "below 2^31", std::to_string(n_items));
}

Dropout make_dropout(const regard_dropout& d) {
  if (!(d.p >= 0.0 && d.p < 1.0)) invalid("dropout", "a rate from 0 to below 1", std::to_string(d.p));
  return dropout_with_key(d);
}

Activation make_activation(int code) {
  if (code < kIdentity || code > kSigmoid)
    invalid("activation", "0 (none), 1 (relu), 2 (gelu), 3 (silu) or 4 (sigmoid)", std::to_string(code));
  return static_cast<Activation>(code);
}

namespace {

// What `make` gives; null if it fails.
template <class F>
const char* text(F&& make) noexcept {
  const char* made = nullptr;
  guarded([&] { made = make(); });
  return made;
}

}  // namespace
}  // namespace regard

using namespace regard;

extern "C" {

const char* regard_last_error(void) { return last_error; }
const char* regard_version(void) { return REGARD_VERSION; }
const char* regard_compiler(void) { return REGARD_COMPILER; }
int regard_abi_version(void) { return kAbiVersion; }

const char* regard_isa(void) {
  return text([] { return kernels().name; });
}
const char* regard_isa_built(void) {
  return text([] {
    static const std::string names = joined(built_kernels());
    return names.c_str();
  });
}
const char* regard_isa_available(void) {
  return text([] {
    static const std::string names = joined(available_kernels());
    return names.c_str();
  });
}

regard_status regard_set_isa(const char* name) {
  const regard_status status = guarded([&] {
    require(name, "name");
    set_kernels(name);
  });
  return status == REGARD_INVALID_ARGUMENT && name != nullptr ? REGARD_UNAVAILABLE : status;
}

int regard_num_threads(void) { return thread_count(); }
const char* regard_num_threads_reason(void) {
  return text([] {
    thread_local std::string reason;
    reason = thread_count_reason();
    return reason.c_str();
  });
}
regard_status regard_set_num_threads(int n) {
  return guarded([&] { set_thread_count(n); });
}

}  // extern "C"
