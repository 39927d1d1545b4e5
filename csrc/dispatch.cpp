#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace regard {

#define REGARD_ISA(id)        \
  namespace id {              \
  extern const Kernels table; \
  }
#include "isa_list.inc"
#undef REGARD_ISA

namespace {

// One predicate per instruction set: can this machine run it?
bool runs(const std::string& name) {
#if defined(__x86_64__)
  if (name == "x86-64-v2") return __builtin_cpu_supports("x86-64-v2");
  if (name == "x86-64-v3") return __builtin_cpu_supports("x86-64-v3");
  if (name == "x86-64-v4") return __builtin_cpu_supports("x86-64-v4");
#endif
  return name == "generic";
}

std::string list(const std::vector<const Kernels*>& sets) {
  std::string names;
  for (const Kernels* set : sets) names += (names.empty() ? "" : ", ") + std::string(set->name);
  return names;
}

std::atomic<const Kernels*> in_use{nullptr};

}  // namespace

std::vector<const Kernels*> built_kernels() {
  return {
#define REGARD_ISA(id) &id::table,
#include "isa_list.inc"
#undef REGARD_ISA
  };
}

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> sets;
  for (const Kernels* set : built_kernels())
    if (runs(set->name)) sets.push_back(set);
  return sets;
}

void set_kernels(const std::string& name) {
  const auto sets = available_kernels();
  for (const Kernels* set : sets)
    if (name == set->name) return in_use.store(set);
  throw std::invalid_argument("instruction set '" + name + "' cannot be used: this build has " + list(built_kernels()) +
                              "; this machine can run " + (sets.empty() ? "none" : list(sets)));
}

const Kernels& kernels() {
  const Kernels* set = in_use.load(std::memory_order_acquire);
  if (set != nullptr) return *set;
  const char* forced = std::getenv("REGARD_ISA");
  const auto sets = available_kernels();
  if ((forced != nullptr && *forced != '\0') || sets.empty())
    set_kernels(forced != nullptr ? forced : "");
  else
    in_use.store(sets.back());
  return *in_use.load();
}

}  // namespace regard
