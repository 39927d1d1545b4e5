#include "api/check.h"

using namespace regard;

namespace {

constexpr int64_t kMaxRanges = 64;      // parts of the sequences, shared among the threads
constexpr int64_t kMaxSumRanges = 16;   // fewer where each part keeps its own sums of parameter gradients
constexpr int64_t kRangePairs = 1024;   // pairs worth a part
constexpr int64_t kMaxWidth = 1 << 14;  // of vectors and layers: scratch memory grows with it

int64_t to_panel(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

void check_width(int64_t n, const char* name) {
  if (n < 1 || n > kMaxWidth) invalid(name, "1 to " + std::to_string(kMaxWidth), std::to_string(n));
}

struct PairsCall {
  std::vector<int64_t> at;
  int64_t batch, total_q, total_k, total = 0;

  explicit PairsCall(const regard_pairs& p) : batch(p.batch) {
    regard::at_least(batch, 0, "batch");
    check_offsets(p.cu_seqlens_q, batch, "cu_seqlens_q");
    check_offsets(p.cu_seqlens_k, batch, "cu_seqlens_k");
    total_q = p.cu_seqlens_q[batch], total_k = p.cu_seqlens_k[batch];
    for (int64_t s = 0; s < batch; ++s) {
      at.push_back(total);
      total += (p.cu_seqlens_q[s + 1] - p.cu_seqlens_q[s]) * (p.cu_seqlens_k[s + 1] - p.cu_seqlens_k[s]);
    }
  }
  void into(const regard_pairs& p, Pairs& args) const {
    args.cu_q = p.cu_seqlens_q, args.cu_k = p.cu_seqlens_k, args.at = at.data();
  }
  Parts parts(int64_t most) const { return Parts(batch, most, kRangePairs * batch / std::max<int64_t>(total, 1)); }
};

struct AdditiveCall : PairsCall {
  AdditiveScores args{};

  explicit AdditiveCall(const regard_additive_scores& a) : PairsCall(a.pairs) {
    into(a.pairs, args);
    check_width(a.dim, "dim");
    require(a.q, "q", total_q);
    require(a.k, "k", total_k);
    require(a.v, "v");
    args.q = a.q, args.k = a.k, args.v = a.v, args.dim = a.dim;
    args.z = a.z, args.dz = a.dz, args.dq = a.dq, args.dk = a.dk;
  }
};

// The parameters as the kernels read them lie in `memory`.
struct UnitCall : PairsCall {
  ActivationUnit args{};
  int64_t wide, wide1, wide2;

  explicit UnitCall(const regard_activation_unit& a) : PairsCall(a.pairs) {
    into(a.pairs, args);
    check_width(a.dim, "dim");
    check_width(a.hidden1, "hidden1");
    check_width(a.hidden2, "hidden2");
    require(a.q, "q", total_q);
    require(a.k, "k", total_k);
    require(a.q_part, "q_part", total_q);
    require(a.k_part, "k_part", total_k);
    require(a.product, "product");
    require(a.weight2, "weight2");
    require(a.bias2, "bias2");
    require(a.weight3, "weight3");
    args.q = a.q, args.k = a.k, args.q_part = a.q_part, args.k_part = a.k_part;
    args.dim = a.dim, args.hidden1 = a.hidden1, args.hidden2 = a.hidden2;
    args.activation = make_activation(a.activation);
    args.bias3 = a.bias3, args.z = a.z, args.dz = a.dz;
    args.dq = a.dq, args.dk = a.dk, args.dq_part = a.dq_part, args.dk_part = a.dk_part;
    wide = to_panel(a.dim), wide1 = to_panel(a.hidden1), wide2 = to_panel(a.hidden2);
  }

  int64_t memory() const {
    return wide1 * args.dim + wide2 * args.hidden1 + 2 * wide2 + args.hidden1 * wide + args.hidden2 * wide1;
  }
  void prepare(const regard_activation_unit& a, float* to, bool backward) {
    const auto rows = [&](const float* from, int64_t n, int64_t width, int64_t padded) {
      const float* start = to;
      for (int64_t i = 0; i < n; ++i, to += padded) {
        std::copy_n(from + i * width, width, to);
        std::fill_n(to + width, padded - width, 0.0f);
      }
      return start;
    };
    const auto panels = [&](const float* from, int64_t n, int64_t depth) {
      const float* start = to;
      kernels().pack_panels(from, depth, n, depth, to);
      to += to_panel(n) * depth;
      return start;
    };
    args.product_panels = panels(a.product, a.hidden1, a.dim);
    args.weight2_panels = panels(a.weight2, a.hidden2, a.hidden1);
    args.bias2 = rows(a.bias2, 1, a.hidden2, wide2);
    args.weight3 = rows(a.weight3, 1, a.hidden2, wide2);
    if (!backward) return;
    args.product_rows = rows(a.product, a.hidden1, a.dim, wide);
    args.weight2_rows = rows(a.weight2, a.hidden2, a.hidden1, wide1);
  }
  int64_t scratch() const { return activation_unit_scratch(args.dim, args.hidden1, args.hidden2); }
};

struct SumCall : PairsCall {
  WeightedSum args{};

  explicit SumCall(const regard_weighted_sum& a) : PairsCall(a.pairs) {
    into(a.pairs, args);
    check_width(a.dim, "dim");
    require(a.z, "z", total);
    require(a.v, "v", total_k);
    args.z = a.z, args.v = a.v, args.dim = a.dim, args.softmax = a.softmax != 0;
    args.out = a.out, args.dout = a.dout, args.dz = a.dz, args.dv = a.dv;
  }
};

// gradient (n, width) += the sums of all parts in their order, each (n, padded) at `from` of a part's `all` floats.
void add_up(const float* sums, int64_t parts, int64_t all, int64_t from, int64_t n, int64_t width, int64_t padded,
            float* gradient) {
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < width; ++c) gradient[i * width + c] += sums[part * all + from + i * padded + c];
}

}  // namespace

extern "C" {

regard_status regard_additive_scores_forward(const regard_additive_scores* a) {
  return guarded([&] {
    require(a, "args");
    const AdditiveCall call(*a);
    require(a->z, "z", call.total);
    const Kernels& use = kernels();
    call.parts(kMaxRanges).each([&](int64_t, int64_t begin, int64_t end) {
      use.additive_scores_forward(call.args, begin, end, thread_scratch(additive_scratch(a->dim)));
    });
  });
}

regard_status regard_additive_scores_backward(const regard_additive_scores* a) {
  return guarded([&] {
    require(a, "args");
    const AdditiveCall call(*a);
    require(a->dz, "dz", call.total);
    require(a->dq, "dq", call.total_q);
    require(a->dk, "dk", call.total_k);
    require(a->dv, "dv");
    const Parts parts = call.parts(kMaxSumRanges);
    const CallScratch sums(parts.count * a->dim);
    const Kernels& use = kernels();
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      float* mine = sums.data() + part * a->dim;
      std::fill_n(mine, a->dim, 0.0f);
      use.additive_scores_backward(call.args, begin, end, mine, thread_scratch(additive_scratch(a->dim)));
    });
    add_up(sums.data(), parts.count, a->dim, 0, 1, a->dim, a->dim, a->dv);
  });
}

regard_status regard_activation_unit_forward(const regard_activation_unit* a) {
  return guarded([&] {
    require(a, "args");
    UnitCall call(*a);
    require(a->z, "z", call.total);
    const CallScratch memory(call.memory());
    call.prepare(*a, memory.data(), false);
    const Kernels& use = kernels();
    call.parts(kMaxRanges).each([&](int64_t, int64_t begin, int64_t end) {
      use.activation_unit_forward(call.args, begin, end, thread_scratch(call.scratch()));
    });
  });
}

regard_status regard_activation_unit_backward(const regard_activation_unit* a) {
  return guarded([&] {
    require(a, "args");
    UnitCall call(*a);
    require(a->dz, "dz", call.total);
    require(a->dq, "dq", call.total_q);
    require(a->dk, "dk", call.total_k);
    require(a->dq_part, "dq_part", call.total_q);
    require(a->dk_part, "dk_part", call.total_k);
    require(a->dproduct, "dproduct");
    require(a->dweight2, "dweight2");
    require(a->dbias2, "dbias2");
    require(a->dweight3, "dweight3");
    const int64_t at2 = a->hidden1 * call.wide, at_bias = at2 + a->hidden2 * call.wide1, at3 = at_bias + call.wide2;
    const int64_t all = at3 + call.wide2;
    const Parts parts = call.parts(kMaxSumRanges);
    const CallScratch memory(call.memory() + parts.count * all);
    call.prepare(*a, memory.data(), true);
    float* sums = memory.data() + call.memory();
    const Kernels& use = kernels();
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      std::fill_n(sums + part * all, all, 0.0f);
      use.activation_unit_backward(call.args, begin, end, sums + part * all, thread_scratch(call.scratch()));
    });
    add_up(sums, parts.count, all, 0, a->hidden1, a->dim, call.wide, a->dproduct);
    add_up(sums, parts.count, all, at2, a->hidden2, a->hidden1, call.wide1, a->dweight2);
    add_up(sums, parts.count, all, at_bias, 1, a->hidden2, call.wide2, a->dbias2);
    add_up(sums, parts.count, all, at3, 1, a->hidden2, call.wide2, a->dweight3);
  });
}

regard_status regard_weighted_sum_forward(const regard_weighted_sum* a) {
  return guarded([&] {
    require(a, "args");
    const SumCall call(*a);
    require(a->out, "out", call.total_q);
    const Kernels& use = kernels();
    call.parts(kMaxRanges).each([&](int64_t, int64_t begin, int64_t end) {
      use.weighted_sum_forward(call.args, begin, end, thread_scratch(weighted_sum_scratch(a->dim)));
    });
  });
}

regard_status regard_weighted_sum_backward(const regard_weighted_sum* a) {
  return guarded([&] {
    require(a, "args");
    const SumCall call(*a);
    require(a->dout, "dout", call.total_q);
    require(a->dz, "dz", call.total);
    require(a->dv, "dv", call.total_k);
    const Kernels& use = kernels();
    call.parts(kMaxRanges).each([&](int64_t, int64_t begin, int64_t end) {
      use.weighted_sum_backward(call.args, begin, end, thread_scratch(weighted_sum_scratch(a->dim)));
    });
  });
}

}  // extern "C"
