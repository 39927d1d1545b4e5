// Matrix tiles in plain C++, so that kernels which use them can be tested on any machine: eight registers of 16 rows of
// 64 bytes, holding NaN until they are loaded and after they are released. What is used against the rules aborts.
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace tiles {

constexpr int kRows = 16, kBytes = 64;
struct Tile {
  unsigned char bytes[kRows * kBytes];
};
static Tile registers[8];
static bool configured = false;

static inline void must(bool right) {
  if (!right) abort();
}
static inline void poison() { memset(registers, 0xFF, sizeof registers); }

static inline void load_config(const void* config) {
  const unsigned char* c = static_cast<const unsigned char*>(config);
  must(!configured && c[0] == 1 && c[1] == 0);
  for (int i = 2; i < 16; ++i) must(c[i] == 0);
  for (int i = 0; i < 8; ++i) must(c[16 + 2 * i] == kBytes && c[17 + 2 * i] == 0 && c[48 + i] == kRows);
  configured = true;
  poison();
}
static inline void release() {
  configured = false;
  poison();
}
static inline void zero(int t) {
  must(configured);
  memset(&registers[t], 0, sizeof(Tile));
}
static inline void load(int t, const void* base, size_t stride) {
  must(configured);
  for (int r = 0; r < kRows; ++r)
    memcpy(registers[t].bytes + r * kBytes, static_cast<const char*>(base) + static_cast<size_t>(r) * stride, kBytes);
}
static inline void store(int t, void* base, size_t stride) {
  must(configured);
  for (int r = 0; r < kRows; ++r)
    memcpy(static_cast<char*>(base) + static_cast<size_t>(r) * stride, registers[t].bytes + r * kBytes, kBytes);
}
static inline float value(const Tile& t, int row, int column) {
  uint16_t half;
  memcpy(&half, t.bytes + row * kBytes + column * 2, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline void multiply(int to, int left, int right) {
  must(configured && to != left && to != right && left != right);
  const Tile &a = registers[left], &b = registers[right];
  for (int m = 0; m < kRows; ++m)
    for (int n = 0; n < 16; ++n) {
      float sum;
      unsigned char* at = registers[to].bytes + m * kBytes + n * 4;
      memcpy(&sum, at, sizeof sum);
      for (int k = 0; k < 16; ++k) {
        sum += value(a, m, 2 * k) * value(b, k, 2 * n);
        sum += value(a, m, 2 * k + 1) * value(b, k, 2 * n + 1);
      }
      memcpy(at, &sum, sizeof sum);
    }
}

}  // namespace tiles

#define _tile_loadconfig(config) tiles::load_config(config)
#define _tile_release() tiles::release()
#define _tile_zero(t) tiles::zero(t)
#define _tile_loadd(t, base, stride) tiles::load(t, base, stride)
#define _tile_stored(t, base, stride) tiles::store(t, base, stride)
#define _tile_dpbf16ps(to, left, right) tiles::multiply(to, left, right)
