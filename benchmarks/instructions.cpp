// One kernel on small fixed inputs, so many times: `instructions.py` counts what one more call costs.
//
//     instructions KERNEL CALLS
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "training.h"

namespace {

std::vector<float> numbers(size_t n, uint32_t seed, float scale) {
  std::vector<float> x(n);
  for (float& value : x) {
    seed = seed * 1664525u + 1013904223u;
    value = scale * (static_cast<float>(seed >> 8) / 8388608.0f - 1.0f);
  }
  return x;
}

bool ok(regard_status status) {
  if (status != REGARD_OK) std::fprintf(stderr, "%s\n", regard_last_error());
  return status == REGARD_OK;
}

constexpr int64_t DIM = 64;

// Histories of one event to 200, causal, one head. The backward pass starts from the forward pass, which is set-up.
bool attention(bool backward, int calls) {
  const std::vector<int64_t> offsets{0, 200, 257, 265, 266};
  const auto rows = static_cast<size_t>(offsets.back()), size = rows * DIM;
  const auto q = numbers(size, 1, 1), k = numbers(size, 2, 1), v = numbers(size, 3, 1), dout = numbers(size, 4, 1);
  std::vector<float> out(size), dq(size), dk(size), dv(size);
  std::vector<double> lse(rows);
  regard_attention_training args = {};
  args.base.struct_size = sizeof args.base;
  args.base.q = q.data(), args.base.k = k.data(), args.base.v = v.data();
  args.base.cu_seqlens_q = args.base.cu_seqlens_k = offsets.data();
  args.base.batch = static_cast<int64_t>(offsets.size()) - 1, args.base.n_heads = 1, args.base.head_dim = DIM;
  args.base.softmax_scale = 0.125f, args.base.causal = 1;
  args.base.out = out.data(), args.base.lse = lse.data();
  args.dout = dout.data(), args.dq = dq.data(), args.dk = dk.data(), args.dv = dv.data();
  if (backward && !ok(regard_attention_training_forward(&args))) return false;
  for (int call = 0; call < calls; ++call)
    if (!ok(backward ? regard_attention_training_backward(&args) : regard_attention_training_forward(&args)))
      return false;
  return true;
}

bool cross_entropy(int calls) {
  constexpr int64_t n = 150, n_items = 1000;
  const auto h = numbers(n * DIM, 1, 0.3f), items = numbers(n_items * DIM, 2, 0.3f);
  std::vector<float> dh(h.size()), ditems(items.size());
  std::vector<int32_t> targets(n);
  for (size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<int32_t>(i * 6);
  regard_cross_entropy args = {};
  args.h = h.data(), args.item_vectors = items.data(), args.targets = targets.data();
  args.n = n, args.n_items = n_items, args.dim = DIM;
  args.dh = dh.data(), args.ditem_vectors = ditems.data();
  for (int call = 0; call < calls; ++call)
    if (!ok(regard_cross_entropy_value_and_grad(&args))) return false;
  return true;
}

// One query and sixteen: they take different ways.
bool topk(int calls) {
  constexpr int64_t n_items = 5000, k = 10;
  const auto items = numbers(n_items * DIM, 1, 1), h = numbers(16 * DIM, 2, 1);
  std::vector<int32_t> best(16 * k);
  std::vector<float> scores(16 * k);
  regard_topk_args args = {};
  args.struct_size = sizeof args;
  args.h = h.data(), args.item_vectors = items.data();
  args.n_items = n_items, args.dim = DIM, args.k = k;
  args.items = best.data(), args.scores = scores.data();
  for (int call = 0; call < calls; ++call)
    for (const int64_t n : {1, 16}) {
      args.n = n;
      if (!ok(regard_topk(&args))) return false;
    }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const char* kernel = argc == 3 ? argv[1] : "";
  const int calls = argc == 3 ? std::atoi(argv[2]) : 0;
  bool done = false;
  if (!std::strcmp(kernel, "attention_forward")) done = attention(false, calls);
  if (!std::strcmp(kernel, "attention_backward")) done = attention(true, calls);
  if (!std::strcmp(kernel, "cross_entropy_value_and_grad")) done = cross_entropy(calls);
  if (!std::strcmp(kernel, "topk")) done = topk(calls);
  if (!done) std::fprintf(stderr, "%s: not a kernel, or it failed\n", kernel);
  return done ? 0 : 1;
}
