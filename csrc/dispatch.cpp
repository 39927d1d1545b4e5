#include "dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace regard {

#define REGARD_KERNELS(id)    \
  namespace id {              \
  extern const Kernels table; \
  }
#define REGARD_LEVEL(id) \
  namespace id {         \
  void extend(Kernels&); \
  }
#include "isa_list.inc"
#undef REGARD_KERNELS
#undef REGARD_LEVEL

namespace {

#if defined(__x86_64__)
// Matrix tiles: what the processor says, and whether the system keeps their registers for this process.
bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTileBf16 = 1U << 22, kTile = 1U << 24;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTileBf16) == 0 || (d & kTile) == 0) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

// One predicate per instruction set: can this machine run it?
bool runs(const std::string& name) {
#if defined(__x86_64__)
  if (name == "x86-64-v2") return __builtin_cpu_supports("x86-64-v2");
  if (name == "x86-64-v3") return __builtin_cpu_supports("x86-64-v3");
  if (name == "x86-64-v4") return __builtin_cpu_supports("x86-64-v4");
  if (name == "icelake") return runs("x86-64-v4") && __builtin_cpu_supports("avx512vnni");
  // Intel's processors take two cycles for a bfloat16 dot product where these take one: no gain over float32.
  if (name == "zen4") return runs("icelake") && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd");
  if (name == "sapphirerapids") return runs("icelake") && __builtin_cpu_supports("avx512bf16") && has_tiles();
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
  static const std::vector<Kernels> built = [] {
    std::vector<Kernels> sets;
#define REGARD_KERNELS(id) sets.push_back(id::table);
#define REGARD_LEVEL(id)       \
  sets.push_back(sets.back()); \
  id::extend(sets.back());
#include "isa_list.inc"
#undef REGARD_KERNELS
#undef REGARD_LEVEL
    return sets;
  }();
  std::vector<const Kernels*> sets;
  for (const Kernels& set : built) sets.push_back(&set);
  return sets;
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
